/* The server's life: listen, load in another thread while /health tells so, serve, and stop when asked: the first
 * signal lets running answers finish, the second cancels them. */
#include "app.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"
#include "../base/map.h"
#include "../base/status.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void on_signal(int number) {
    (void)number;
    signals = signals + 1;
}

/* ---- reaper ---- */

static void *reap(void *arg) {
    server *s = arg;
    pthread_mutex_lock(&s->reap_lock);
    for (;;) {
        while (!s->garbage && !s->reap_stop) pthread_cond_wait(&s->reap, &s->reap_lock);
        task *t = s->garbage;
        if (!t) break;
        s->garbage = t->next;
        pthread_mutex_unlock(&s->reap_lock);
        task_free(t);
        pthread_mutex_lock(&s->reap_lock);
    }
    pthread_mutex_unlock(&s->reap_lock);
    return NULL;
}

/* ---- loading ---- */

static void name_model(server *s) {
    const char *path = s->o->engine.model_path, *slash = strrchr(path, '/');
    const char *alias = s->o->alias;
    size_t n = alias ? strcspn(alias, ",") : 0;
    if (n > 0)
        snprintf(s->model_id, sizeof s->model_id, "%.*s", (int)n, alias);
    else
        snprintf(s->model_id, sizeof s->model_id, "%.127s", slash ? slash + 1 : path);
}

static td_status prepare_chat(server *s, td_error *err) {
    const char *warning = NULL;
    size_t n = 0;
    const char *text = td_engine_metadata(s->engine, "tokenizer.chat_template", &n);
    (void)td_chat_profile_detect(text, n, s->info.per_layer_inputs, &s->profile, &warning);
    if (warning) td_log(TD_LOG_WARN, "%s", warning);
    if (s->o->chat_profile && !td_chat_profile_parse(s->o->chat_profile, &s->profile))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--chat-profile: '%s' is unknown; there are %s",
                       s->o->chat_profile, td_chat_generations_text());
    td_error why = {0};
    s->has_chat = td_chat_vocab_init(&s->chat_vocab, s->vocab, &warning, &why) == TD_OK;
    if (!s->has_chat)
        td_log(TD_LOG_WARN, "chat endpoints are off: %s", why.text);
    else if (warning)
        td_log(TD_LOG_WARN, "%s", warning);
    return td_chat_replay_create(&s->replay, (size_t)64 << 20, err);
}

static void *load(void *arg) {
    server *s = arg;
    td_error err = {0};
    td_status status = td_engine_open(&s->engine, &s->o->engine, &err);
    if (!status) {
        s->vocab = td_engine_vocab(s->engine);
        td_engine_get_info(s->engine, &s->info);
        status = prepare_chat(s, &err);
    }
    if (status) {
        s->load_error = err;
        s->state = SERVER_FAILED;
        return NULL;
    }
    const td_engine_info *i = &s->info;
    s->notes = td_calloc((size_t)i->n_slots, sizeof *s->notes);
    if (!s->notes) {
        (void)td_fail(&s->load_error, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %d slots", i->n_slots);
        s->state = SERVER_FAILED;
        return NULL;
    }
    td_log(TD_LOG_INFO, "memory: weights %.1f MiB, cache %.1f MiB reserved, prompt cache up to %.1f MiB, work %.1f MiB",
           (double)i->weight_bytes / 1048576, (double)i->kv_bytes / 1048576, (double)i->park_bytes / 1048576,
           (double)i->work_bytes / 1048576);
    td_log(TD_LOG_INFO, "model %s, %d slots of %d tokens, %d threads%s%s", s->model_id, i->n_slots, i->n_ctx,
           i->n_threads, i->draft_path ? ", assistant with head: " : "", i->draft_head);
    s->t_alive_ns = td_clock_ns(); /* loading may have taken longer than an engine may hang (/health) */
    s->state = SERVER_READY;
    return NULL;
}

/* ---- start ---- */

static bool is_loopback(const char *host) {
    size_t n = strlen(host);
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 || strncmp(host, "127.", 4) == 0 ||
           (n > 5 && strcmp(host + n - 5, ".sock") == 0);
}

static td_status read_pem(const char *path, char **out, td_error *err) {
    td_map m = {0};
    td_status status = td_map_open(&m, path, err);
    if (status) return status;
    *out = m.n_bytes < 1u << 20 ? strndup((const char *)m.data, m.n_bytes) : NULL;
    td_map_close(&m);
    return *out ? TD_OK : td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s is no PEM file", path);
}

static http_turn begin(http_exchange *x, void *user) {
    return route(x, user);
}
/* Both kinds of work begin with their kind. */
static http_turn turn(http_exchange *x, void *work) {
    if (!work) return HTTP_END;
    return *(const work_kind *)work == WORK_SLOT_ACTION ? slot_action_turn(x, work) : task_turn(x, work);
}
static void end(http_exchange *x, void *work, void *user) {
    server *s = user;
    int status = http_status(x);
    if (status >= 200 && status < 600) atomic_fetch_add(&s->requests[status / 100 - 1], 1);
    td_log(TD_LOG_TRACE, "request id=%s method=%s path=%s status=%d ms=%.1f", http_request_id(x), http_method(x),
           http_path(x), status, (double)(td_clock_ns() - http_started_ns(x)) * 1e-6);
    if (!work) return;
    if (*(const work_kind *)work == WORK_SLOT_ACTION)
        slot_action_end(work);
    else
        task_end(work);
}

static td_status start_http(server *s, td_error *err) {
    const server_options *o = s->o;
    char *key = NULL, *cert = NULL;
    if (!is_loopback(o->host) && o->n_api_keys == 0 && !o->allow_open)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "--host %s is reachable from other machines: give a key (--api-key) or say --allow-open",
                       o->host);
    if (!o->key_file != !o->cert_file)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "TLS needs both --ssl-key-file and --ssl-cert-file");
    td_status status = o->key_file ? read_pem(o->key_file, &key, err) : TD_OK;
    if (!status && o->cert_file) status = read_pem(o->cert_file, &cert, err);
    http_options h = {.host = o->host,
                      .port = o->port,
                      .reuse_port = o->reuse_port,
                      .key_pem = key,
                      .cert_pem = cert,
                      .limits = {.max_body = (size_t)o->max_body,
                                 .max_connections = o->max_connections,
                                 .idle_timeout_s = o->timeout_s,
                                 .n_threads = o->threads_http > 0 ? o->threads_http : 2},
                      .handler = {begin, route_too_large, turn, end, s},
                      .server_header = o->server_header};
    if (!status) status = http_start(&s->http, &h, err);
    free(key);
    free(cert);
    return status;
}

static void nap(int ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* About once a second: figures for /metrics, and whether the engine goes on while it has work (/health). */
static void watch(server *s, uint64_t *steps) {
    td_counters c;
    td_counters_get(s->engine, &c);
    if (c.n_processing == 0 || c.steps != *steps) s->t_alive_ns = td_clock_ns();
    *steps = c.steps;
    rates_note(s);
}

static void say_ready(const server *s) {
    if (http_port(s->http))
        fprintf(stderr, "tandem serve: ready on %s port %d\n", s->o->host, http_port(s->http));
    else
        fprintf(stderr, "tandem serve: ready on %s\n", s->o->host);
}

/* The first signal: running answers may finish; the second: they are cancelled. */
static void wait_for_end(server *s) {
    bool said = false;
    uint64_t steps = 0;
    for (int i = 0; signals == 0 && s->state != SERVER_FAILED; i++) {
        nap(50);
        if (i % 20 == 0) http_wake_all(s->http);
        if (i % 20 == 0 && s->state == SERVER_READY) watch(s, &steps);
        if (said || s->state != SERVER_READY) continue;
        said = true;
        say_ready(s);
    }
    if (s->state == SERVER_FAILED) return;
    http_quiesce(s->http);
    bool ready = s->state == SERVER_READY;
    if (ready) s->state = SERVER_STOPPING;
    for (int i = 1; signals == 1 && ready && atomic_load(&s->n_tasks) > 0; i++) {
        nap(20);
        if (i % 50 == 0) http_wake_all(s->http);
    }
    s->cancelling = true; /* each task's next turn cancels it, and says so to the client */
    for (int i = 0; i < 100 && atomic_load(&s->n_tasks) > 0; i++) {
        http_wake_all(s->http);
        nap(20);
    }
}

/* ---- the whole ---- */

static void handle_signals(void) {
    struct sigaction a = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static server *make_server(const server_options *o, td_error *err) {
    server *s = td_calloc(1, sizeof *s);
    if (!s) return NULL;
    const char *debug = getenv("LLAMA_SERVER_SLOTS_DEBUG");
    s->o = o;
    s->state = SERVER_LOADING;
    s->started_s = (int64_t)time(NULL);
    s->t_alive_ns = td_clock_ns();
    s->show_prompts = debug && *debug && strcmp(debug, "0") != 0;
    pthread_mutex_init(&s->reap_lock, NULL);
    pthread_mutex_init(&s->tasks_lock, NULL);
    pthread_cond_init(&s->reap, NULL);
    pthread_cond_init(&s->acting, NULL);
    name_model(s);
    (void)(rates_create(s, err) || store_create(&s->responses, err)); /* the error says so */
    return s;
}

static void free_server(server *s) {
    td_engine_close(s->engine);
    td_chat_replay_destroy(s->replay);
    store_destroy(s->responses);
    for (int i = 0; s->notes && i < s->info.n_slots; i++) {
        free(s->notes[i].params);
        td_buf_free(&s->notes[i].prompt);
        td_buf_free(&s->notes[i].generated);
    }
    free(s->notes);
    rates_destroy(s);
    pthread_mutex_destroy(&s->reap_lock);
    pthread_mutex_destroy(&s->tasks_lock);
    pthread_cond_destroy(&s->reap);
    pthread_cond_destroy(&s->acting);
    free(s);
}

static void stop_reaper(server *s) {
    pthread_mutex_lock(&s->reap_lock);
    s->reap_stop = true;
    pthread_cond_signal(&s->reap);
    pthread_mutex_unlock(&s->reap_lock);
    pthread_join(s->reaper, NULL);
}

static void stop_clerk(server *s) {
    pthread_mutex_lock(&s->tasks_lock);
    s->clerk_stop = true;
    pthread_cond_signal(&s->acting);
    pthread_mutex_unlock(&s->tasks_lock);
    pthread_join(s->clerk, NULL);
}

/* Three threads serve beside those of HTTP; each that was started is joined, whatever else fails. */
static td_status serve(server *s, td_error *err) {
    pthread_t loader;
    bool reaping = pthread_create(&s->reaper, NULL, reap, s) == 0;
    bool clerking = pthread_create(&s->clerk, NULL, slot_clerk, s) == 0;
    bool loading = reaping && clerking && pthread_create(&loader, NULL, load, s) == 0;
    td_status status = TD_OK;
    if (loading) {
        fprintf(stderr, "tandem serve: listening on %s port %d, loading %s\n", s->o->host, http_port(s->http),
                s->o->engine.model_path);
        wait_for_end(s);
        pthread_join(loader, NULL);
        *err = s->load_error;
        status = err->code;
    } else {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no thread can be started");
    }
    http_stop(s->http);
    if (clerking) stop_clerk(s);
    if (reaping) stop_reaper(s);
    return status;
}

int server_run(const server_options *o) {
    td_error err = {0};
    server *s = make_server(o, &err);
    if (!s) return 1;
    handle_signals();
    td_status status = err.code;
    if (!status) status = start_http(s, &err);
    if (!status) status = serve(s, &err);
    if (status) fprintf(stderr, "tandem serve: %s\n", err.text);
    free_server(s);
    return status ? 1 : 0;
}
