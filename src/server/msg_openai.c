/* OpenAI chat completions: the request of specification 3.9, and its answers and chunks. */
#include "msg_impl.h"

#include <stdio.h>

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* `functions` of the old interface; their choice is a string or {name}. */
static td_status read_tools(msg_reader *m) {
    msg_request *r = m->r;
    const td_json *tools = td_json_get(r->body, "tools"), *old = td_json_get(r->body, "functions");
    const td_json *choice = td_json_get(r->body, "tool_choice");
    bool functions = !td_json_present(tools) && td_json_present(old);
    td_status s = td_chat_tools_read(functions ? old : tools, m->a, &r->tools, &r->n_tools, &r->n_dropped, m->err);
    if (s != TD_OK && !r->param[0]) snprintf(r->param, sizeof r->param, "%s", functions ? "functions" : "tools");
    if (s == TD_OK) s = msg_clean_tools(m);
    if (!td_json_present(choice) && functions) choice = td_json_get(r->body, "function_call");
    if (s == TD_OK) s = msg_read_tool_choice(m, choice);
    if (s == TD_OK) s = msg_get_bool(m, r->body, "parallel_tool_calls", &r->parallel_calls);
    if (s == TD_OK && r->n_tools && td_json_present(td_json_get(r->body, "grammar")))
        s = msg_bad(m, "grammar", "Cannot use custom grammar constraints with tools.");
    return s;
}

static td_status read_logprobs(msg_reader *m) {
    msg_request *r = m->r;
    int64_t n = -1;
    td_status s = msg_get_bool(m, r->body, "logprobs", &r->logprobs);
    if (s == TD_OK) s = msg_get_int(m, r->body, "top_logprobs", 0, 20, &n);
    if (s == TD_OK && n > 0 && !r->logprobs)
        s = msg_bad(m, "top_logprobs", "top_logprobs requires logprobs to be set to true");
    r->top_logprobs = n >= 0 ? (int)n : 20; /* not given: as many as there can be */
    return s;
}

static td_status read_ending(msg_reader *m) {
    msg_request *r = m->r;
    bool add = true, go_on = false;
    bool go_on_given = td_json_present(td_json_get(r->body, "continue_final_message"));
    td_status s = msg_get_bool(m, r->body, "add_generation_prompt", &add);
    if (s == TD_OK) s = msg_get_bool(m, r->body, "continue_final_message", &go_on);
    if (s != TD_OK) return s;
    if (go_on && add && td_json_present(td_json_get(r->body, "add_generation_prompt")))
        return msg_bad(m, "continue_final_message",
                       "Cannot set both add_generation_prompt and continue_final_message to true.");
    r->no_generation_prompt = !add;
    r->continue_final = go_on_given ? go_on : add && !m->d->no_prefill;
    return TD_OK;
}

td_status msg_read_chat(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err) {
    *out = (msg_request){.dialect = MSG_CHAT, .body = body};
    msg_reader reader = {out, d, a, err}, *m = &reader;
    td_status s = msg_read_common(m);
    if (s == TD_OK) {
        s = td_chat_messages_read(td_json_get(body, "messages"), a, &out->messages, &out->n_messages, err);
        if (s != TD_OK && !out->param[0]) snprintf(out->param, sizeof out->param, "messages");
    }
    if (s == TD_OK) s = read_tools(m);
    if (s == TD_OK) s = msg_read_thinking(m, -1, "", NULL);
    if (s == TD_OK) s = msg_read_format(m, td_json_get(body, "response_format"), "response_format");
    if (s == TD_OK) s = read_logprobs(m);
    if (s == TD_OK) s = read_ending(m);
    if (s == TD_OK) s = msg_get_stop(m, "stop");
    if (s == TD_OK) s = msg_get_int(m, body, "n_predict", -1, INT32_MAX, &out->max_tokens);
    if (s == TD_OK) s = msg_get_int(m, body, "max_tokens", -1, INT32_MAX, &out->max_tokens);
    if (s == TD_OK) s = msg_get_int(m, body, "max_completion_tokens", -1, INT32_MAX, &out->max_tokens);
    if (s == TD_OK) s = msg_check_messages(m);
    return s;
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static bool put_head(msg_writer *w, const char *object) {
    const msg_head *h = w->head;
    msg_put(w, "\"created\":%lld,\"id\":\"%s\",\"model\":", (long long)h->created, h->id);
    msg_put_string(w, h->model, strlen(h->model));
    msg_put(w, ",\"system_fingerprint\":");
    msg_put_string(w, h->fingerprint, strlen(h->fingerprint));
    return msg_put(w, ",\"object\":\"%s\"", object);
}

static const char *finish_word(const msg_writer *w, msg_stop why) {
    if (msg_ended_with_calls(w, why)) return "tool_calls";
    return why == MSG_STOP_LENGTH || why == MSG_STOP_CONTEXT ? "length" : "stop";
}

/* Everything of a chunk up to its delta, whose members the caller writes. */
static bool open_chunk(msg_writer *w, const char *finish) {
    msg_put(w, "data: {\"choices\":[{\"finish_reason\":");
    msg_put(w, finish ? "\"%s\"" : "null", finish);
    return msg_put(w, ",\"index\":%d,\"delta\":{", w->index);
}

static bool close_chunk(msg_writer *w, bool timings) {
    msg_put(w, "}");
    if (w->logprobs.n_bytes) {
        msg_put(w, ",\"logprobs\":{\"content\":[");
        msg_put_raw(w, w->logprobs.data, w->logprobs.n_bytes);
        msg_put(w, "]}");
        td_buf_clear(&w->logprobs);
    }
    msg_put(w, "}],");
    put_head(w, "chat.completion.chunk");
    if (timings && w->timings) msg_put(w, ",\"timings\":%s", w->timings);
    if (w->progress) msg_put(w, ",\"prompt_progress\":%s", w->progress);
    w->progress = NULL;
    return msg_put(w, "}\n\n");
}

static bool timings_in_all(const msg_writer *w) {
    return td_json_is(td_json_get(w->request->body, "timings_per_token"), TD_JSON_TRUE);
}

bool msg_chat_begin(msg_writer *w, const msg_usage *u) {
    (void)u;
    open_chunk(w, NULL);
    msg_put(w, "\"role\":\"assistant\",\"content\":null");
    w->block = 1;
    return close_chunk(w, false);
}

bool msg_writer_progress(msg_writer *w) {
    return w->request->stream && w->request->dialect == MSG_CHAT ? msg_chat_begin(w, NULL) : !w->failed;
}

bool msg_chat_event(msg_writer *w, const td_chat_event *e) {
    if (e->kind == TD_CHAT_CALL_END) return true;
    if (msg_hidden(w) && (e->kind == TD_CHAT_REASONING || e->kind == TD_CHAT_REASONING_BREAK)) return true;
    open_chunk(w, NULL);
    switch (e->kind) {
    case TD_CHAT_REASONING:
    case TD_CHAT_REASONING_BREAK:
        msg_put(w, "\"reasoning_content\":");
        msg_put_string(w, e->text.data, e->text.n_bytes);
        break;
    case TD_CHAT_CONTENT:
        msg_put(w, "\"content\":");
        msg_put_string(w, e->text.data, e->text.n_bytes);
        break;
    case TD_CHAT_CALL_BEGIN:
        msg_put(w, "\"tool_calls\":[{\"index\":%u,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", e->call,
                msg_call_id(w, e->call));
        msg_put_string(w, e->text.data, e->text.n_bytes);
        msg_put(w, ",\"arguments\":\"\"}}]");
        break;
    default:
        msg_put(w, "\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", e->call);
        msg_put_string(w, e->text.data, e->text.n_bytes);
        msg_put(w, "}}]");
        break;
    }
    return close_chunk(w, timings_in_all(w));
}

bool msg_chat_end(msg_writer *w, msg_stop why) {
    open_chunk(w, finish_word(w, why));
    return close_chunk(w, !w->request->include_usage || timings_in_all(w));
}

static bool put_usage(msg_writer *w, const msg_usage *u) {
    return msg_put(
        w,
        "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%lld},\"completion_tokens_details\":{"
        "\"reasoning_tokens\":%lld,\"accepted_prediction_tokens\":%lld,\"rejected_prediction_tokens\":%lld}}",
        (long long)u->n_prompt, (long long)u->n_generated, (long long)u->n_prompt + u->n_generated,
        (long long)u->n_cached, (long long)u->n_reasoning, (long long)u->n_draft_accepted,
        (long long)u->n_draft_rejected);
}

bool msg_write_end(msg_writer *w, const msg_usage *u) {
    if (w->request->dialect != MSG_CHAT || !w->request->stream) return !w->failed;
    if (w->request->include_usage) {
        msg_put(w, "data: {\"choices\":[],");
        put_head(w, "chat.completion.chunk");
        msg_put(w, ",");
        put_usage(w, u);
        if (w->timings) msg_put(w, ",\"timings\":%s", w->timings);
        msg_put(w, "}\n\n");
    }
    return msg_put(w, "data: [DONE]\n\n");
}

/* ---- the whole answer -------------------------------------------------------------------------------------------- */

static bool put_calls(msg_writer *w) {
    size_t n = 0;
    msg_put(w, ",\"tool_calls\":[");
    for (size_t i = 0; i < w->reply.n_blocks; i++) {
        const td_chat_block *b = &w->reply.blocks[i];
        if (b->kind != TD_CHAT_BLOCK_CALL) continue;
        msg_put(w, "%s{\"type\":\"function\",\"id\":\"%s\",\"function\":{\"name\":", n ? "," : "", msg_call_id(w, n));
        msg_put_string(w, b->name.data, b->name.n_bytes);
        msg_put(w, ",\"arguments\":");
        msg_put_string(w, b->text.data, b->text.n_bytes);
        msg_put(w, "}}");
        n++;
    }
    return msg_put(w, "]");
}

static bool put_choice(msg_writer *w, msg_stop why) {
    td_buf text = {0};
    msg_put(w, "{\"index\":%d,\"finish_reason\":\"%s\",\"message\":{\"role\":\"assistant\",\"content\":", w->index,
            finish_word(w, why));
    if (!td_chat_reply_content(&w->reply, &text)) w->failed = true;
    msg_put_string(w, text.data, text.n_bytes);
    td_buf_clear(&text);
    if (!td_chat_reply_reasoning(&w->reply, &text)) w->failed = true;
    if (text.n_bytes && !msg_hidden(w)) {
        msg_put(w, ",\"reasoning_content\":");
        msg_put_string(w, text.data, text.n_bytes);
    }
    td_buf_free(&text);
    if (w->reply.n_calls) put_calls(w);
    msg_put(w, "}");
    if (w->request->logprobs) {
        msg_put(w, ",\"logprobs\":{\"content\":[");
        msg_put_raw(w, w->logprobs.data, w->logprobs.n_bytes);
        msg_put(w, "]}");
    }
    return msg_put(w, "}");
}

bool msg_chat_answer(td_buf *out, msg_writer *const *w, const msg_stop *why, int n, const msg_usage *u) {
    bool ok = true;
    msg_writer *first = w[0];
    for (int i = 0; i < n; i++) w[i]->out = out;
    msg_put(first, "{\"choices\":[");
    for (int i = 0; i < n; i++) {
        if (i) msg_put(w[i], ",");
        put_choice(w[i], why[i]);
        ok = ok && !w[i]->failed;
    }
    msg_put(first, "],");
    put_head(first, "chat.completion");
    msg_put(first, ",");
    put_usage(first, u);
    if (first->timings) msg_put(first, ",\"timings\":%s", first->timings);
    return msg_put(first, "}") && ok;
}
