/* One generating request: its life, and the turns in which its jobs' events become an answer. A turn reads what waits
 * and returns; it never waits for the model. When the client leaves, the jobs are cancelled at once and closed by the
 * reaper, since closing may take until the step in progress ends. */
#include "app.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"
#include "../base/status.h"
#include "../text/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_WAIT_NS 1000000000 /* a stream that waits longer for a slot gets its headers and a comment */

void task_on_ready(void *task_) {
    task *t = task_;
    pthread_mutex_lock(&t->lock);
    if (t->x) http_wake(t->x);
    pthread_mutex_unlock(&t->lock);
}

/* x-request-timeout-ms: the client's own limit for the whole request. */
static int64_t deadline(const task *t) {
    const char *given = http_header(t->x, "x-request-timeout-ms");
    char *end = NULL;
    long long ms = given ? strtoll(given, &end, 10) : 0;
    return given && end != given && *end == 0 && ms > 0 && ms < 1000000000 ? t->t_begin_ns + ms * 1000000 : 0;
}

task *task_new(server *s, http_exchange *x, api kind) {
    task *t = td_calloc(1, sizeof *t);
    if (!t) return NULL;
    t->arena = td_arena_create(REQUEST_BYTES);
    if (!t->arena) {
        free(t);
        return NULL;
    }
    t->s = s;
    t->x = x;
    t->api = kind;
    t->dialect = api_dialect(kind);
    t->t_begin_ns = t->t_ping_ns = td_clock_ns();
    t->t_deadline_ns = deadline(t);
    pthread_mutex_init(&t->lock, NULL);
    atomic_fetch_add(&s->n_tasks, 1);
    return t;
}

void task_free(task *t) {
    for (int i = 0; t->choices && i < t->n_choices; i++) {
        choice *c = &t->choices[i];
        td_job_close(c->job);
        td_chat_parser_destroy(c->parser);
        if (c->began) msg_writer_free(&c->writer);
        td_buf_free(&c->text);
        json_decref(c->probs);
        free(c->tokens);
    }
    for (int i = 0; t->prompts && i < t->n_prompts; i++) td_tokens_free(&t->prompts[i]);
    free(t->prompts);
    td_tokens_free(&t->closing);
    td_grammar_unref(t->f.grammar);
    td_chat_prompt_free(&t->prompt);
    free(t->choices);
    td_arena_destroy(t->arena);
    pthread_mutex_destroy(&t->lock);
    atomic_fetch_sub(&t->s->n_tasks, 1);
    free(t);
}

static void cancel(task *t) {
    for (int i = 0; t->choices && i < t->n_choices; i++)
        if (t->choices[i].job) td_job_cancel(t->choices[i].job);
}

void task_end(task *t) {
    task_unlist(t);
    pthread_mutex_lock(&t->lock);
    t->x = NULL;
    pthread_mutex_unlock(&t->lock);
    cancel(t);
    server *s = t->s;
    pthread_mutex_lock(&s->reap_lock);
    t->next = s->garbage;
    s->garbage = t;
    pthread_cond_signal(&s->reap);
    pthread_mutex_unlock(&s->reap_lock);
}

bool task_is_chat(const task *t) {
    return t->api != API_COMPLETION && t->api != API_OAI_COMPLETION;
}

/* ---- tasks that run, for /control ---- */

void task_list(task *t) {
    server *s = t->s;
    pthread_mutex_lock(&s->tasks_lock);
    t->next_running = s->tasks;
    if (s->tasks) s->tasks->prev_running = t;
    s->tasks = t;
    t->listed = true;
    pthread_mutex_unlock(&s->tasks_lock);
}

void task_unlist(task *t) {
    server *s = t->s;
    pthread_mutex_lock(&s->tasks_lock);
    if (t->listed) {
        if (t->next_running) t->next_running->prev_running = t->prev_running;
        *(t->prev_running ? &t->prev_running->next_running : &s->tasks) = t->next_running;
        t->listed = false;
    }
    pthread_mutex_unlock(&s->tasks_lock);
}

http_turn serve_control(server *s, http_exchange *x) {
    own_body b;
    if (!own_body_read(&b, x, MSG_CHAT)) return b.turn;
    const td_json *id = td_json_get(b.json, "id"), *action = td_json_get(b.json, "action");
    http_turn turn = HTTP_ANSWER;
    bool found = false, refused = false;
    if (!td_json_is(id, TD_JSON_STRING) || id->text.n_bytes == 0) {
        turn = answer_error(x, MSG_CHAT, 400, "id", NULL, "missing completion id");
    } else if (!td_json_is_string(action, "reasoning_end")) {
        turn = answer_error(x, MSG_CHAT, 400, "action", NULL, "unknown control action");
    } else {
        pthread_mutex_lock(&s->tasks_lock);
        for (task *t = s->tasks; t && !found; t = t->next_running) {
            if (!td_json_is_string(id, t->head.id) || t->owner != owner_of(s, x)) continue;
            found = true;
            refused = !t->f.reasoning_control;
            for (int i = 0; i < t->n_choices && !refused; i++) td_job_end_reasoning(t->choices[i].job);
        }
        pthread_mutex_unlock(&s->tasks_lock);
        turn = !found ? answer_error(x, MSG_CHAT, 404, "id", NULL, "no completion of this id is running")
               : refused
                   ? answer_error(x, MSG_CHAT, 400, "id", NULL, "the completion was not started with reasoning_control")
                   : answer_json(x, 200, json_pack("{s:b}", "success", 1));
    }
    td_arena_destroy(b.arena);
    return turn;
}

/* ---- turns ---- */

msg_usage task_usage(const task *t) {
    msg_usage u = {0};
    for (int i = 0; i < t->n_prompts; i++) u.n_prompt += (int64_t)t->prompts[i].n;
    for (int i = 0; i < t->n_choices; i++) {
        const choice *c = &t->choices[i];
        if (i % t->f.n == 0) u.n_cached += c->n_cached;
        u.n_generated += c->timings.predicted_n;
        u.n_reasoning += c->timings.reasoning_n;
        u.n_draft_accepted += c->timings.draft_n_accepted;
        u.n_draft_rejected += c->timings.draft_n - c->timings.draft_n_accepted;
    }
    return u;
}

void send_event(task *t, const char *event, json_t *data) {
    char *text = json_dumps(data, JSON_FLAGS);
    json_decref(data);
    td_buf *out = http_out(t->x);
    if (event) (void)td_buf_printf(out, "event: %s\n", event);
    if (text) {
        (void)td_buf_add_str(out, "data: ");
        (void)td_buf_add_str(out, text);
        (void)td_buf_add_str(out, "\n\n");
    }
    free(text);
}

static void begin_headers(task *t) {
    if (t->headers) return;
    t->headers = true;
    http_stream_begin(t->x, 200, "text/event-stream");
}

static void begin_stream(task *t) {
    if (t->streaming) return;
    begin_headers(t);
    t->streaming = true;
    if (task_is_chat(t))
        chat_begin(t);
    else
        completion_begin(t);
}

static bool keep_tokens(choice *c, const td_event *ev) {
    if (c->n_tokens + (size_t)ev->n_tokens > c->cap_tokens) {
        size_t cap = (c->n_tokens + (size_t)ev->n_tokens) * 2 + 64;
        uint32_t *p = td_reallocarray(c->tokens, cap, sizeof *p);
        if (!p) return false;
        c->tokens = p;
        c->cap_tokens = cap;
    }
    if (ev->n_tokens) memcpy(c->tokens + c->n_tokens, ev->tokens, (size_t)ev->n_tokens * sizeof *ev->tokens);
    c->n_tokens += (size_t)ev->n_tokens;
    return true;
}

static void measure(task *t, const td_event *ev) {
    server *s = t->s;
    latency_add(&s->ttft, ev->timings.ttft_ms * 1e-3);
    latency_add(&s->queue, ev->timings.queue_ms * 1e-3);
    latency_add(&s->total, (double)(td_clock_ns() - t->t_begin_ns) * 1e-9);
    if (ev->timings.predicted_n > 1)
        latency_add(&s->token, ev->timings.predicted_ms * 1e-3 / (ev->timings.predicted_n - 1));
    size_add(&s->prompt_size, ev->prompt_total);
    size_add(&s->answer_size, ev->timings.predicted_n);
}

static void count_finish(task *t, const choice *c) {
    finish_class f = c->finish == TD_FINISH_CANCELLED ? FINISH_CANCELLED
                     : c->finish == TD_FINISH_ERROR   ? FINISH_ERROR
                     : c->finish == TD_FINISH_END || c->finish == TD_FINISH_STOP
                         ? c->writer.reply.n_calls > 0 ? FINISH_TOOL_CALLS : FINISH_STOP
                         : FINISH_LENGTH;
    atomic_fetch_add(&t->s->finishes[f], 1);
    atomic_fetch_add(&t->s->n_calls, c->writer.reply.n_calls);
    if (c->parser) atomic_fetch_add(&t->s->n_call_failures, td_chat_parser_n_failures(c->parser));
}

static void end_choice(task *t, choice *c, const td_event *ev) {
    c->done = true;
    c->finish = ev->finish;
    c->timings = ev->timings;
    c->truncated = ev->truncated;
    c->has_new_line = ev->has_new_line;
    c->slot = ev->slot;
    if (ev->stop_string) snprintf(c->stop_word, sizeof c->stop_word, "%s", ev->stop_string);
    measure(t, ev);
    if (task_is_chat(t))
        chat_end(t, c);
    else
        completion_end(t, c);
    count_finish(t, c);
    td_log(TD_LOG_INFO, "%s %s: task %d, prompt %d, cached %d%s%s, generated %d, queue %.1f ms, first token %.1f ms",
           http_request_id(t->x), http_path(t->x), td_job_id(c->job), ev->prompt_total, ev->prompt_cached,
           ev->cache_note[0] ? " because " : "", ev->cache_note, ev->timings.predicted_n, ev->timings.queue_ms,
           ev->timings.ttft_ms);
}

/* The request is over: as a whole answer where nothing was sent yet, else as the dialect's last event. */
static http_turn fail(task *t, int status, const char *text) {
    t->finished = true;
    cancel(t);
    if (!t->headers) return answer_error(t->x, t->dialect, status, NULL, NULL, "%s", text);
    if (task_is_chat(t)) {
        (void)msg_writer_fail(&t->choices[0].writer, status, text, http_request_id(t->x));
    } else {
        td_buf *out = http_out(t->x);
        (void)td_buf_add_str(out, "data: ");
        (void)msg_write_error(out, MSG_CHAT, status, text, NULL, NULL, http_request_id(t->x));
        (void)td_buf_add_str(out, "\n\n");
    }
    return HTTP_END;
}

static http_turn fail_job(task *t, choice *c, const td_event *ev) {
    static const td_error unknown = {TD_ERR_INTERNAL, TD_NO_OFFSET, "generation failed"};
    static const td_error stopping = {TD_ERR_BUSY, TD_NO_OFFSET, "the server is shutting down"};
    const td_error *err = ev->error ? ev->error : ev->finish == TD_FINISH_CANCELLED ? &stopping : &unknown;
    c->finish = ev->finish;
    count_finish(t, c);
    return fail(t, td_status_http(err->code), err->text);
}

static void show_progress(task *t, choice *c, const td_event *ev) {
    if (ev->kind != TD_EVENT_PROGRESS || !t->f.return_progress || !t->streaming) return;
    if (task_is_chat(t))
        chat_progress(t, c, ev);
    else
        completion_progress(t, c, ev);
}

static void read_event(task *t, choice *c, const td_event *ev) {
    c->slot = ev->slot;
    c->n_cached = ev->prompt_cached;
    if (ev->slot >= 0) t->started = true;
    if (ev->slot >= 0 && !c->noted) slot_note_start(t, c);
    if (t->f.stream) begin_stream(t);
    show_progress(t, c, ev);
    if (ev->kind == TD_EVENT_TOKENS) {
        c->timings = ev->timings;
        (void)keep_tokens(c, ev);
        slot_note_text(t, c, ev);
        if (task_is_chat(t))
            chat_tokens(t, c, ev);
        else
            completion_event(t, c, ev);
    }
    if (ev->kind == TD_EVENT_DONE) end_choice(t, c, ev);
}

/* Everything that waits for one choice; *failed is set when the request is over with an error. */
static http_turn read_events(task *t, choice *c, bool *failed) {
    td_event ev;
    while (!c->done && td_job_read(c->job, &ev, 0) == TD_OK) {
        if (ev.kind == TD_EVENT_DONE &&
            (ev.finish == TD_FINISH_ERROR || (ev.finish == TD_FINISH_CANCELLED && t->s->state == SERVER_STOPPING))) {
            *failed = true;
            return fail_job(t, c, &ev);
        }
        read_event(t, c, &ev);
    }
    return HTTP_WAIT;
}

static void ping(task *t) {
    int64_t now = td_clock_ns();
    if (http_out(t->x)->n_bytes > 0) {
        t->t_ping_ns = now;
        return;
    }
    if (t->f.ping_s <= 0 || now - t->t_ping_ns < (int64_t)t->f.ping_s * 1000000000) return;
    t->t_ping_ns = now;
    (void)td_buf_add_str(http_out(t->x),
                         t->api == API_ANTHROPIC ? "event: ping\ndata: {\"type\":\"ping\"}\n\n" : ":\n\n");
}

/* Limits of time; HTTP_WAIT: none is reached. */
static http_turn check_time(task *t) {
    int64_t now = td_clock_ns(), queue_s = t->s->o->queue_timeout_s;
    if (t->t_deadline_ns > 0 && now > t->t_deadline_ns)
        return fail(t, 408, "the time given by x-request-timeout-ms is over");
    if (!t->started && queue_s > 0 && now - t->t_begin_ns > queue_s * 1000000000)
        return fail(t, 503, "no slot became free in time");
    if (!t->started && t->f.stream && !t->headers && now - t->t_begin_ns > QUIET_WAIT_NS) {
        begin_headers(t);
        (void)td_buf_add_str(http_out(t->x), ": waiting for a slot\n\n");
    }
    return HTTP_WAIT;
}

http_turn task_turn(http_exchange *x, task *t) {
    bool had_headers = t->headers, failed = false, all = true;
    if (t->finished) return HTTP_END;
    if (http_client_gone(x)) {
        cancel(t);
        t->finished = true;
        atomic_fetch_add(&t->s->finishes[FINISH_CANCELLED], 1);
        if (!t->headers) return answer_error(x, t->dialect, 499, NULL, NULL, "the client closed the connection");
        return HTTP_END;
    }
    if (t->s->cancelling) cancel(t);
    for (int i = 0; i < t->n_choices; i++) {
        http_turn turn = read_events(t, &t->choices[i], &failed);
        if (failed) return turn;
        all &= t->choices[i].done;
    }
    if (all) {
        t->finished = true;
        task_unlist(t);
        return t->headers ? HTTP_END : task_is_chat(t) ? chat_answer(t) : completion_answer(t);
    }
    http_turn turn = check_time(t);
    if (turn != HTTP_WAIT) return turn;
    if (t->headers) ping(t);
    if (t->headers && (!had_headers || http_out(x)->n_bytes > 0)) return HTTP_STREAM;
    return HTTP_WAIT;
}
