/* Choices of the chat dialects: the engine's text goes through the parser into the dialect's writer. */
#include "app.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <stdlib.h>
#include <string.h>

td_status chat_choices(task *t, td_error *err) {
    for (int i = 0; i < t->n_choices; i++) {
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

void chat_begin(task *t) {
    msg_usage u = task_usage(t);
    for (int i = 0; i < t->n_choices; i++) (void)msg_writer_begin(&t->choices[i].writer, &u);
}

static char *json_string_of(json_t *o) {
    char *text = json_dumps(o, JSON_FLAGS);
    json_decref(o);
    return text;
}

static void add_logprobs(task *t, choice *c, const td_event *ev) {
    if (!t->msg.logprobs || !ev->probs || t->api != API_CHAT) return;
    for (int i = 0; i < ev->n_tokens; i++) {
        json_t *p = probs_json(t->s, ev, i, false);
        if (t->msg.top_logprobs == 0) json_array_clear(json_object_get(p, "top_logprobs"));
        char *text = json_string_of(p);
        if (text) (void)msg_writer_logprob(&c->writer, text, strlen(text));
        free(text);
    }
}

/* What the web page paints: each token with a mark on accepted drafts, in a chunk of its own. */
static void send_picture(task *t, const td_event *ev) {
    json_t *list = json_array();
    for (int i = 0; i < ev->n_tokens; i++) {
        size_t n = 0;
        const char *text = td_token_text(t->s->engine, ev->tokens[i], false, &n);
        json_t *piece = json_stringn(text, n);
        json_array_append_new(list, json_pack("{s:o,s:b}", "t", piece ? piece : json_string(""), "d", ev->drafted[i]));
    }
    send_event(t, NULL,
               json_pack("{s:o,s:o,s:[],s:s,s:s,s:I,s:s}", "tandem", list, "timings", timings_json(&ev->timings),
                         "choices", "object", "chat.completion.chunk", "id", t->head.id, "created",
                         (json_int_t)t->head.created, "model", t->model));
}

void chat_tokens(task *t, choice *c, const td_event *ev) {
    add_logprobs(t, c, ev);
    char *timings = t->f.timings_per_token ? json_string_of(timings_json(&ev->timings)) : NULL;
    c->writer.timings = timings;
    (void)td_chat_parser_text(c->parser, ev->text, ev->n_text);
    c->writer.timings = NULL;
    free(timings);
    if (t->f.tandem && t->streaming && t->api == API_CHAT) send_picture(t, ev);
}

void chat_progress(task *t, choice *c, const td_event *ev) {
    if (t->api != API_CHAT) return;
    char *progress = json_string_of(progress_json(ev));
    c->writer.progress = progress;
    (void)msg_writer_progress(&c->writer);
    c->writer.progress = NULL;
    free(progress);
}

static msg_stop stop_of(td_finish f) {
    return f == TD_FINISH_STOP                            ? MSG_STOP_WORD
           : f == TD_FINISH_CONTEXT                       ? MSG_STOP_CONTEXT
           : f == TD_FINISH_LENGTH || f == TD_FINISH_TIME ? MSG_STOP_LENGTH
                                                          : MSG_STOP_MODEL;
}

/* ---- exact replay (X11) ---- */

static bool replay_text(task *t, const choice *c, td_tokens *ids, td_buf *text) {
    td_error err = {0};
    size_t begin = t->prompt.start.begin, n = t->prompt.text.n_bytes - begin;
    const char *head = t->prompt.text.data + begin;
    if (!td_buf_add(text, head, n)) return false;
    if (n > 0 && td_vocab_tokenize(t->s->vocab, head, n, TD_SPECIAL_ALL, false, ids, &err)) return false;
    for (size_t i = 0; i < c->n_tokens && !td_vocab_is_end(t->s->vocab, c->tokens[i]); i++) {
        td_slice piece = td_vocab_piece(t->s->vocab, c->tokens[i], true);
        if (!td_tokens_add(ids, c->tokens[i]) || !td_buf_add(text, piece.data, piece.n_bytes)) return false;
    }
    return true;
}

static void remember_answer(task *t, choice *c) {
    size_t n_calls = c->writer.reply.n_calls;
    if (!t->s->replay || n_calls == 0 || t->prompt.start.begin > t->prompt.text.n_bytes) return;
    td_buf text = {0};
    td_tokens ids = {0};
    td_error err = {0};
    td_slice *call_ids = td_calloc(n_calls, sizeof *call_ids);
    for (size_t i = 0; call_ids && i < n_calls && i < c->writer.cap_call_ids; i++)
        call_ids[i] = (td_slice){c->writer.call_ids[i], strlen(c->writer.call_ids[i])};
    if (call_ids && replay_text(t, c, &ids, &text))
        (void)td_chat_replay_put(t->s->replay, &c->writer.reply, call_ids, ids.ids, ids.n, text.data, text.n_bytes,
                                 &err);
    free(call_ids);
    td_tokens_free(&ids);
    td_buf_free(&text);
}

/* ---- the end ---- */

/* A finished response is kept for previous_response_id and GET, unless the request says store: false. */
static void keep_response(task *t) {
    const msg_writer *w = &t->choices[0].writer;
    td_error err = {0};
    if (t->api != API_RESPONSES || t->msg.no_store || w->object.n_bytes == 0) return;
    (void)store_put(t->s->responses, t->owner, t->head.id, &t->msg, w, &err);
}

static bool all_done(const task *t) {
    bool done = true;
    for (int i = 0; i < t->n_choices; i++) done &= t->choices[i].done;
    return done;
}

void chat_end(task *t, choice *c) {
    bool whole = c->finish == TD_FINISH_END || c->finish == TD_FINISH_STOP;
    (void)td_chat_parser_finish(c->parser, whole ? TD_CHAT_END_MODEL : TD_CHAT_END_CUT);
    if (whole) remember_answer(t, c);
    if (!t->streaming) return;
    char *timings = json_string_of(timings_json(&c->timings));
    msg_usage u = task_usage(t);
    c->writer.timings = timings;
    (void)msg_writer_end(&c->writer, stop_of(c->finish), c->stop_word[0] ? c->stop_word : NULL, &u);
    if (all_done(t)) (void)msg_write_end(&c->writer, &u);
    c->writer.timings = NULL;
    free(timings);
    keep_response(t);
}

http_turn chat_answer(task *t) {
    msg_writer *writers[64];
    msg_stop why[64];
    const char *words[64];
    int n = t->n_choices < 64 ? t->n_choices : 64;
    for (int i = 0; i < n; i++) {
        writers[i] = &t->choices[i].writer;
        why[i] = stop_of(t->choices[i].finish);
        words[i] = t->choices[i].stop_word[0] ? t->choices[i].stop_word : NULL;
    }
    char *timings = json_string_of(timings_json(&t->choices[0].timings));
    t->choices[0].writer.timings = timings;
    td_buf out = {0};
    msg_usage u = task_usage(t);
    bool ok = msg_write_answer(&out, writers, why, words, n, &u);
    if (ok) keep_response(t);
    http_turn turn = ok ? answer_text(t->x, 200, JSON_TYPE, out.data, out.n_bytes)
                        : answer_error(t->x, t->dialect, 500, NULL, NULL, "no memory for the answer");
    td_buf_free(&out);
    free(timings);
    return turn;
}
