/* One generating request: its jobs, and the turns in which their events become an answer. A turn reads what waits and
 * returns; it never waits for the model. When the client leaves, the jobs are cancelled at once and closed by the
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
#include <time.h>

static void on_ready(void *user) {
    task *t = user;
    pthread_mutex_lock(&t->lock);
    if (t->x) http_wake(t->x);
    pthread_mutex_unlock(&t->lock);
}

static task *task_new(server *s, http_exchange *x, api kind) {
    task *t = td_calloc(1, sizeof *t);
    if (!t) return NULL;
    t->arena = td_arena_create((size_t)512 << 20);
    if (!t->arena) {
        free(t);
        return NULL;
    }
    t->s = s;
    t->x = x;
    t->api = kind;
    t->dialect = kind == API_ANTHROPIC ? MSG_ANTHROPIC : kind == API_RESPONSES ? MSG_RESPONSES : MSG_CHAT;
    t->t_begin_ns = t->t_ping_ns = td_clock_ns();
    pthread_mutex_init(&t->lock, NULL);
    atomic_fetch_add(&s->n_tasks, 1);
    return t;
}

void task_free(task *t) {
    for (int i = 0; t->choices && i < t->f.n; i++) {
        choice *c = &t->choices[i];
        td_job_close(c->job);
        td_chat_parser_destroy(c->parser);
        if (c->began) msg_writer_free(&c->writer);
        td_buf_free(&c->text);
        json_decref(c->ids);
        json_decref(c->probs);
        free(c->tokens);
    }
    td_grammar_unref(t->f.grammar);
    td_chat_prompt_free(&t->prompt);
    td_tokens_free(&t->ids);
    free(t->choices);
    td_arena_destroy(t->arena);
    pthread_mutex_destroy(&t->lock);
    atomic_fetch_sub(&t->s->n_tasks, 1);
    free(t);
}

void task_end(task *t) {
    pthread_mutex_lock(&t->lock);
    t->x = NULL;
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; t->choices && i < t->f.n; i++)
        if (t->choices[i].job) td_job_cancel(t->choices[i].job);
    server *s = t->s;
    pthread_mutex_lock(&s->reap_lock);
    t->next = s->garbage;
    s->garbage = t;
    pthread_cond_signal(&s->reap);
    pthread_mutex_unlock(&s->reap_lock);
}

/* ---- beginning ---- */

static void model_name(task *t) {
    const td_json *m = td_json_get(t->body, "model");
    if (td_json_is(m, TD_JSON_STRING) && m->text.n_bytes > 0 && m->text.n_bytes < sizeof t->model)
        snprintf(t->model, sizeof t->model, "%.*s", (int)m->text.n_bytes, m->text.data);
    else
        snprintf(t->model, sizeof t->model, "%s", t->s->model_id);
}

static bool known_model(const task *t) {
    return !t->s->o->strict_model || strcmp(t->model, t->s->model_id) == 0;
}

static td_status start_jobs(task *t, td_error *err) {
    server *s = t->s;
    t->choices = td_calloc((size_t)t->f.n, sizeof *t->choices);
    if (!t->choices) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    td_job_params *p = &t->f.job;
    p->prompt = t->ids.ids;
    p->n_prompt = (int)t->ids.n;
    p->cache_key = key_of(s, t->x);
    p->on_ready = on_ready;
    p->user = t;
    uint64_t seed = p->sampling.seed;
    td_status status = TD_OK;
    for (int i = 0; i < t->f.n && !status; i++) {
        choice *c = &t->choices[i];
        c->task = t;
        c->index = i;
        p->sampling.seed = seed == UINT64_MAX ? seed : seed + (uint64_t)i;
        p->grammar = t->f.grammar ? td_grammar_ref(t->f.grammar) : NULL;
        status = td_job_submit(s->engine, p, &c->job, err);
    }
    return status;
}

static http_turn refuse(http_exchange *x, task *t, const td_error *err, const char *param) {
    http_turn turn;
    char name[64] = "";
    /* The engine's own checks say it in the text only. */
    if (!param && sscanf(err->text, "Field '%63[^']'", name) == 1) param = name;
    if (err->code == TD_ERR_CONTEXT && t->ids.n > 0)
        turn = answer_context(x, t->dialect, (int)t->ids.n, t->s->info.n_ctx);
    else if (param && *param)
        turn = answer_error(x, t->dialect, 400, param, NULL, "%s", err->text);
    else
        turn = answer_td_error(x, t->dialect, err);
    return turn;
}

static http_turn launch(server *s, http_exchange *x, task *t) {
    td_error err = {0};
    td_counters now;
    td_counters_get(s->engine, &now);
    if (s->o->queue_max > 0 && now.n_deferred >= s->o->queue_max)
        return answer_error(x, t->dialect, 429, NULL, NULL, "%d requests already wait", now.n_deferred);
    if (t->f.n > s->info.n_slots)
        return answer_error(x, t->dialect, 400, "n", NULL,
                            "Field 'n': Value must be between 1 <= value <= %d, but got %d", s->info.n_slots, t->f.n);
    if (start_jobs(t, &err)) return refuse(x, t, &err, NULL);
    return HTTP_WAIT;
}

/* ---- native completion ---- */

/* A string, an array of ids, or an array that mixes both. */
static td_status prompt_tokens(server *s, const td_json *v, td_tokens *out, td_error *err) {
    if (td_json_is(v, TD_JSON_OBJECT)) v = td_json_get(v, "prompt_string");
    if (td_json_is(v, TD_JSON_STRING))
        return td_vocab_tokenize(s->vocab, v->text.data, v->text.n_bytes, TD_SPECIAL_ALL, true, out, err);
    if (!td_json_is(v, TD_JSON_ARRAY))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\" must be a string or an array of tokens");
    td_status status = TD_OK;
    bool first = true;
    for (const td_json *e = v->first; e && !status; e = e->next, first = false) {
        int64_t id = 0;
        if (e->kind == TD_JSON_STRING)
            status = td_vocab_tokenize(s->vocab, e->text.data, e->text.n_bytes, TD_SPECIAL_ALL, first, out, err);
        else if (!td_json_int(e, &id) || id < 0 || id >= s->info.n_vocab)
            status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                             "\"prompt\": every entry must be a string or a token of 0 to %d", s->info.n_vocab - 1);
        else if (!td_tokens_add(out, (uint32_t)id))
            status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    }
    return status;
}

http_turn task_begin_completion(server *s, http_exchange *x, api kind) {
    task *t = task_new(s, x, kind);
    if (!t) return answer_error(x, MSG_CHAT, 500, NULL, NULL, "no memory");
    http_set_task(x, t);
    http_turn turn = HTTP_WAIT;
    char param[64] = "";
    td_error err = {0};
    if (!(t->body = read_body(x, t->arena, t->dialect, &turn))) return turn;
    model_name(t);
    if (!known_model(t))
        return answer_error(x, t->dialect, 404, "model", NULL, "the model '%s' does not exist", t->model);
    fields_init(s, &t->f);
    const td_json *prompt = td_json_get(t->body, "prompt");
    if (!td_json_present(prompt)) return answer_error(x, t->dialect, 400, "prompt", NULL, "\"prompt\" is required");
    int64_t best = 1;
    if (kind == API_OAI_COMPLETION) {
        if (td_json_present(td_json_get(t->body, "suffix")))
            return answer_error(x, t->dialect, 400, "suffix", NULL, "Unsupported param: suffix");
        if (td_json_int(td_json_get(t->body, "best_of"), &best) && best != 1)
            return answer_error(x, t->dialect, 400, "best_of", NULL, "Unsupported param: best_of");
    }
    td_status status = fields_read(s, t->body, t->arena, &t->f, param, &err);
    if (!status) status = prompt_tokens(s, prompt, &t->ids, &err);
    if (!status && t->ids.n == 0) status = td_fail(&err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\" holds no token");
    if (status) return refuse(x, t, &err, param);
    msg_new_id(t->head.id, "cmpl-", 32);
    return launch(s, x, t);
}

/* ---- chat ---- */

td_status chat_read(server *s, api kind, const td_json *body, td_arena *a, msg_request *out, td_error *err) {
    msg_defaults d = {.reasoning = s->o->reasoning, .reasoning_budget = s->o->reasoning_budget};
    td_status status = kind == API_ANTHROPIC   ? msg_read_anthropic(out, body, &d, a, err)
                       : kind == API_RESPONSES ? msg_read_responses(out, body, &d, a, err)
                                               : msg_read_chat(out, body, &d, a, err);
    const td_json *list = td_json_get(body, "messages");
    if (status || kind == API_RESPONSES || !list || list->n > 0) return status;
    snprintf(out->param, sizeof out->param, "messages");
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'messages' must hold at least one message");
}

td_status chat_prompt(server *s, const msg_request *r, td_arena *a, td_chat_prompt *prompt, td_tokens *ids,
                      td_error *err) {
    td_chat_options options = msg_render_options(r, s->profile, s->replay);
    bool tools = r->tool_choice != MSG_TOOLS_NONE;
    td_status status = td_chat_render(prompt, r->messages, r->n_messages, tools ? r->tools : NULL,
                                      tools ? r->n_tools : 0, &options, a, err);
    return status ? status : td_chat_prompt_tokenize(prompt, &s->chat_vocab, false, ids, NULL, err);
}

/* A value's text: as it came, or written out where the reader made it (declarations are cleaned). */
static td_slice json_text(const td_json *v, td_arena *a) {
    if (!v || v->raw.n_bytes > 0) return v ? v->raw : (td_slice){NULL, 0};
    td_buf b = {0};
    char *copy = td_json_write(&b, v) ? td_arena_strndup(a, b.data, b.n_bytes) : NULL;
    td_slice text = {copy, copy ? b.n_bytes : 0};
    td_buf_free(&b);
    return text;
}

/* Tools that must be called, or an answer in JSON: a grammar over the answer, thoughts aside. */
static td_status chat_grammar(task *t, td_error *err) {
    const msg_request *r = &t->msg;
    const td_chat_start *start = &t->prompt.start;
    td_thought thought = start->in_thought ? TD_THOUGHT_OPEN : r->thinking ? TD_THOUGHT_OPTIONAL : TD_THOUGHT_NONE;
    if (t->f.grammar) return TD_OK;
    if (r->format != MSG_FORMAT_TEXT) {
        static const char any[] = "{\"type\":\"object\"}";
        td_schema_options o = {.strict = r->schema_strict, .thought = thought};
        td_slice schema = r->schema ? json_text(r->schema, t->arena) : (td_slice){any, sizeof any - 1};
        return td_grammar_compile_schema(&t->f.grammar, t->s->vocab, schema.data, schema.n_bytes, &o, err);
    }
    if (r->tool_choice != MSG_TOOLS_REQUIRED || r->n_tools == 0) return TD_OK;
    td_grammar_tool *tools = td_arena_alloc(t->arena, r->n_tools, sizeof *tools);
    if (!tools) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    size_t n = 0;
    for (size_t i = 0; i < r->n_tools; i++)
        if (!r->allowed || r->allowed[i])
            tools[n++] = (td_grammar_tool){r->tools[i].name, json_text(r->tools[i].parameters, t->arena)};
    td_tools_options o = {.choice = TD_TOOLS_REQUIRED, .parallel = r->parallel_calls, .thought = thought};
    return td_grammar_compile_tools(&t->f.grammar, t->s->vocab, tools, n, &o, err);
}

static td_status chat_fields(task *t, char param[64], td_error *err) {
    request_fields *f = &t->f;
    td_status status = fields_read(t->s, t->body, t->arena, f, param, err);
    if (status) return status;
    const msg_request *r = &t->msg;
    f->stream = r->stream;
    f->include_usage = r->include_usage;
    if (r->max_tokens >= 0) f->job.n_predict = r->max_tokens > INT32_MAX ? INT32_MAX : (int)r->max_tokens;
    if (t->api == API_ANTHROPIC && r->max_tokens < 0) f->job.n_predict = 4096;
    if (r->logprobs) f->job.n_probs = r->top_logprobs > 0 ? r->top_logprobs : 1;
    if (t->api != API_CHAT) f->n = 1;
    f->job.special_text = true; /* the parser needs the markers */
    if (r->n_stop > 0) {
        f->stop = td_arena_alloc(t->arena, r->n_stop, sizeof *f->stop);
        if (!f->stop) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
        for (size_t i = 0; i < r->n_stop; i++)
            f->stop[i] = td_arena_strndup(t->arena, r->stop[i].data, r->stop[i].n_bytes);
        f->job.stop = f->stop;
        f->job.n_stop = (int)r->n_stop;
    }
    return TD_OK;
}

static td_status chat_choices(task *t, td_error *err) {
    for (int i = 0; i < t->f.n; i++) {
        choice *c = &t->choices[i];
        msg_writer_init(&c->writer, &t->msg, &t->head, i, http_out(t->x));
        c->began = true;
        td_chat_parse_options o = {.tools = t->msg.tools,
                                   .n_tools = t->msg.tool_choice == MSG_TOOLS_NONE ? 0 : t->msg.n_tools,
                                   .reasoning = t->msg.reasoning_format,
                                   .start = &t->prompt.start,
                                   .sink = msg_writer_event,
                                   .context = &c->writer};
        td_status status = td_chat_parser_create(&c->parser, &o, err);
        if (status) return status;
    }
    return TD_OK;
}

http_turn task_begin_chat(server *s, http_exchange *x, api kind) {
    task *t = task_new(s, x, kind);
    if (!t) return answer_error(x, MSG_CHAT, 500, NULL, NULL, "no memory");
    http_set_task(x, t);
    http_turn turn = HTTP_WAIT;
    char param[64] = "";
    td_error err = {0};
    if (!(t->body = read_body(x, t->arena, t->dialect, &turn))) return turn;
    model_name(t);
    if (!known_model(t))
        return answer_error(x, t->dialect, 404, "model", NULL, "the model '%s' does not exist", t->model);
    if (!s->has_chat)
        return answer_error(x, t->dialect, 400, NULL, NULL,
                            "this model's vocabulary has no chat tokens: use /completion");
    fields_init(s, &t->f);
    td_status status = chat_read(s, kind, t->body, t->arena, &t->msg, &err);
    if (status) snprintf(param, sizeof param, "%s", t->msg.param);
    if (!status) status = chat_fields(t, param, &err);
    if (!status) status = chat_prompt(s, &t->msg, t->arena, &t->prompt, &t->ids, &err);
    if (!status) status = chat_grammar(t, &err);
    if (status) return refuse(x, t, &err, param);
    msg_new_id(t->head.id, kind == API_ANTHROPIC ? "msg_" : kind == API_RESPONSES ? "resp_" : "chatcmpl-", 24);
    t->head.model = t->model;
    t->head.fingerprint = "tandem-" TD_VERSION;
    t->head.created = (int64_t)time(NULL);
    if (kind == API_ANTHROPIC) http_add_header(x, "request-id", http_request_id(x));
    turn = launch(s, x, t);
    if (turn == HTTP_WAIT && chat_choices(t, &err)) return answer_td_error(x, t->dialect, &err);
    return turn;
}

/* ---- turns ---- */

static msg_usage usage_of(const task *t) {
    msg_usage u = {.n_prompt = (int64_t)t->ids.n};
    for (int i = 0; i < t->f.n; i++) {
        const choice *c = &t->choices[i];
        u.n_cached = c->timings.cache_n > u.n_cached ? c->timings.cache_n : u.n_cached;
        u.n_generated += c->timings.predicted_n;
        u.n_draft_accepted += c->timings.draft_n_accepted;
        u.n_draft_rejected += c->timings.draft_n - c->timings.draft_n_accepted;
    }
    return u;
}

static bool is_chat(const task *t) {
    return t->api != API_COMPLETION && t->api != API_OAI_COMPLETION;
}

static void begin_stream(task *t) {
    if (t->streaming) return;
    t->streaming = true;
    http_stream_begin(t->x, 200, "text/event-stream");
    msg_usage u = usage_of(t);
    for (int i = 0; i < t->f.n && is_chat(t); i++) (void)msg_writer_begin(&t->choices[i].writer, &u);
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

static void chat_tokens(task *t, choice *c, const td_event *ev) {
    if (t->msg.logprobs && ev->probs && t->api == API_CHAT)
        for (int i = 0; i < ev->n_tokens; i++) {
            json_t *p = probs_json(t->s, ev, i, false);
            char *text = json_dumps(p, JSON_FLAGS);
            if (text) (void)msg_writer_logprob(&c->writer, text, strlen(text));
            free(text);
            json_decref(p);
        }
    char *timings = NULL;
    if (t->f.timings_per_token) {
        json_t *o = timings_json(&ev->timings);
        timings = json_dumps(o, JSON_FLAGS);
        json_decref(o);
    }
    c->writer.timings = timings;
    (void)td_chat_parser_text(c->parser, ev->text, ev->n_text);
    c->writer.timings = NULL;
    free(timings);
    if (t->f.tandem && t->streaming && t->api == API_CHAT) { /* what the page paints */
        json_t *o = json_object(), *list = json_array();
        for (int i = 0; i < ev->n_tokens; i++) {
            size_t n = 0;
            const char *text = td_token_text(t->s->engine, ev->tokens[i], false, &n);
            json_t *piece = json_stringn(text, n);
            json_array_append_new(list,
                                  json_pack("{s:o,s:b}", "t", piece ? piece : json_string(""), "d", ev->drafted[i]));
        }
        json_object_set_new(o, "tandem", list);
        json_object_set_new(o, "timings", timings_json(&ev->timings));
        json_object_set_new(o, "choices", json_array());
        json_object_set_new(o, "object", json_string("chat.completion.chunk"));
        json_object_set_new(o, "id", json_string(t->head.id));
        json_object_set_new(o, "created", json_integer(t->head.created));
        json_object_set_new(o, "model", json_string(t->model));
        send_event(t, NULL, o);
    }
}

static msg_stop stop_of(td_finish f) {
    return f == TD_FINISH_STOP                            ? MSG_STOP_WORD
           : f == TD_FINISH_CONTEXT                       ? MSG_STOP_CONTEXT
           : f == TD_FINISH_LENGTH || f == TD_FINISH_TIME ? MSG_STOP_LENGTH
                                                          : MSG_STOP_MODEL;
}

static void remember_answer(task *t, choice *c) {
    if (!t->s->replay || c->writer.reply.n_calls == 0 || t->prompt.start.begin > t->prompt.text.n_bytes) return;
    td_buf text = {0};
    td_tokens ids = {0};
    td_error err = {0};
    size_t begin = t->prompt.start.begin;
    bool ok = td_buf_add(&text, t->prompt.text.data + begin, t->prompt.text.n_bytes - begin);
    if (ok && t->prompt.text.n_bytes > begin)
        ok = td_vocab_tokenize(t->s->vocab, t->prompt.text.data + begin, t->prompt.text.n_bytes - begin, TD_SPECIAL_ALL,
                               false, &ids, &err) == TD_OK;
    for (size_t i = 0; i < c->n_tokens && ok; i++) {
        if (td_vocab_is_end(t->s->vocab, c->tokens[i])) break;
        td_slice piece = td_vocab_piece(t->s->vocab, c->tokens[i], true);
        ok = td_tokens_add(&ids, c->tokens[i]) && td_buf_add(&text, piece.data, piece.n_bytes);
    }
    td_slice *call_ids = td_calloc(c->writer.reply.n_calls, sizeof *call_ids);
    for (size_t i = 0; call_ids && i < c->writer.reply.n_calls && i < c->writer.cap_call_ids; i++)
        call_ids[i] = (td_slice){c->writer.call_ids[i], strlen(c->writer.call_ids[i])};
    if (ok && call_ids)
        (void)td_chat_replay_put(t->s->replay, &c->writer.reply, call_ids, ids.ids, ids.n, text.data, text.n_bytes,
                                 &err);
    free(call_ids);
    td_tokens_free(&ids);
    td_buf_free(&text);
}

static void end_choice(task *t, choice *c, const td_event *ev) {
    c->done = true;
    c->finish = ev->finish;
    c->timings = ev->timings;
    c->truncated = ev->truncated;
    c->slot = ev->slot;
    c->n_prompt = ev->prompt_total;
    if (ev->stop_string) snprintf(c->stop_word, sizeof c->stop_word, "%s", ev->stop_string);
    latency_add(&t->s->ttft, ev->timings.ttft_ms * 1e-3);
    latency_add(&t->s->queue, ev->timings.queue_ms * 1e-3);
    latency_add(&t->s->total, (double)(td_clock_ns() - t->t_begin_ns) * 1e-9);
    if (ev->timings.predicted_n > 1)
        latency_add(&t->s->token, ev->timings.predicted_ms * 1e-3 / (ev->timings.predicted_n - 1));
    if (!is_chat(t)) {
        completion_end(t, c);
        return;
    }
    bool whole = ev->finish == TD_FINISH_END || ev->finish == TD_FINISH_STOP;
    (void)td_chat_parser_finish(c->parser, whole ? TD_CHAT_END_MODEL : TD_CHAT_END_CUT);
    if (whole) remember_answer(t, c);
    if (!t->streaming) return;
    json_t *o = timings_json(&c->timings);
    char *timings = json_dumps(o, JSON_FLAGS);
    json_decref(o);
    msg_usage u = usage_of(t);
    c->writer.timings = timings;
    (void)msg_writer_end(&c->writer, stop_of(c->finish), c->stop_word[0] ? c->stop_word : NULL, &u);
    bool last = true;
    for (int i = 0; i < t->f.n; i++) last &= t->choices[i].done;
    if (last) (void)msg_write_end(&c->writer, &u);
    c->writer.timings = NULL;
    free(timings);
}

static http_turn fail(task *t, const td_event *ev) {
    static const td_error unknown = {TD_ERR_INTERNAL, TD_NO_OFFSET, "generation failed"};
    const td_error *err = ev->error ? ev->error : &unknown;
    t->finished = true;
    int status = err->code == TD_ERR_ARGUMENT || err->code == TD_ERR_LIMIT ? 400 : err->code == TD_ERR_BUSY ? 503 : 500;
    if (!t->streaming) return answer_error(t->x, t->dialect, status, NULL, NULL, "%s", err->text);
    if (is_chat(t))
        (void)msg_writer_fail(&t->choices[0].writer, status, err->text, http_request_id(t->x));
    else
        send_event(
            t, NULL,
            json_pack("{s:{s:i,s:s,s:s}}", "error", "code", status, "message", err->text, "type", "server_error"));
    return HTTP_END;
}

/* Everything that waits for one choice; *failed is set when the request is over with an error. */
static http_turn read_events(task *t, choice *c, bool *failed) {
    td_event ev;
    while (!c->done && td_job_read(c->job, &ev, 0) == TD_OK) {
        c->slot = ev.slot;
        c->n_cached = ev.prompt_cached;
        if (ev.kind == TD_EVENT_DONE &&
            (ev.finish == TD_FINISH_ERROR || (ev.finish == TD_FINISH_CANCELLED && t->s->state == SERVER_STOPPING))) {
            *failed = true;
            return fail(t, &ev);
        }
        if (t->f.stream) begin_stream(t);
        if (ev.kind == TD_EVENT_PROGRESS && t->f.return_progress && t->streaming && t->api == API_COMPLETION)
            send_event(t, NULL,
                       json_pack("{s:i,s:s,s:b,s:{s:i,s:i,s:i}}", "index", c->index, "content", "", "stop", 0,
                                 "prompt_progress", "total", ev.prompt_total, "cache", ev.prompt_cached, "processed",
                                 ev.prompt_done));
        if (ev.kind == TD_EVENT_TOKENS) {
            c->timings = ev.timings;
            (void)keep_tokens(c, &ev);
            if (is_chat(t))
                chat_tokens(t, c, &ev);
            else
                completion_event(t, c, &ev);
        }
        if (ev.kind == TD_EVENT_DONE) end_choice(t, c, &ev);
    }
    return HTTP_WAIT;
}

static http_turn whole_answer(task *t) {
    if (!is_chat(t)) return completion_answer(t);
    msg_writer *writers[64];
    msg_stop why[64];
    const char *words[64];
    for (int i = 0; i < t->f.n && i < 64; i++) {
        writers[i] = &t->choices[i].writer;
        why[i] = stop_of(t->choices[i].finish);
        words[i] = t->choices[i].stop_word[0] ? t->choices[i].stop_word : NULL;
    }
    json_t *o = timings_json(&t->choices[0].timings);
    char *timings = json_dumps(o, JSON_FLAGS);
    json_decref(o);
    t->choices[0].writer.timings = timings;
    td_buf out = {0};
    msg_usage u = usage_of(t);
    bool ok = msg_write_answer(&out, writers, why, words, t->f.n, &u);
    http_turn turn = ok ? answer_text(t->x, 200, JSON_TYPE, out.data, out.n_bytes)
                        : answer_error(t->x, t->dialect, 500, NULL, NULL, "no memory for the answer");
    td_buf_free(&out);
    free(timings);
    return turn;
}

static void ping(task *t) {
    int64_t now = td_clock_ns();
    if (http_out(t->x)->n_bytes > 0) {
        t->t_ping_ns = now;
        return;
    }
    if (t->s->o->sse_ping_s <= 0 || now - t->t_ping_ns < (int64_t)t->s->o->sse_ping_s * 1000000000) return;
    t->t_ping_ns = now;
    (void)td_buf_add_str(http_out(t->x),
                         t->api == API_ANTHROPIC ? "event: ping\ndata: {\"type\":\"ping\"}\n\n" : ":\n\n");
}

http_turn task_turn(http_exchange *x, task *t) {
    (void)x;
    bool was_streaming = t->streaming, failed = false, all = true;
    if (t->finished) return HTTP_END;
    if (http_client_gone(x)) {
        for (int i = 0; i < t->f.n; i++) td_job_cancel(t->choices[i].job);
        t->finished = true;
        if (!t->streaming) return answer_error(x, t->dialect, 499, NULL, NULL, "the client closed the connection");
        return HTTP_END;
    }
    for (int i = 0; i < t->f.n && t->s->cancelling; i++) td_job_cancel(t->choices[i].job);
    for (int i = 0; i < t->f.n; i++) {
        http_turn turn = read_events(t, &t->choices[i], &failed);
        if (failed) return turn;
        all &= t->choices[i].done;
    }
    if (all) {
        t->finished = true;
        return t->streaming ? HTTP_END : whole_answer(t);
    }
    if (t->streaming) ping(t);
    if (t->streaming && (!was_streaming || http_out(x)->n_bytes > 0)) return HTTP_STREAM;
    return HTTP_WAIT;
}
