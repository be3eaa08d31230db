/* OpenAI responses: answers and events (specification 3.11). Every event carries the next sequence_number, and those of
 * an item also its id and place, because the SDKs' accumulators index by them. The items that are complete are kept as
 * JSON for the last event, which repeats them all. */
#include "msg_impl.h"

#include <time.h>

enum {
    NO_ITEM = 0,
    REASONING = 1 + TD_CHAT_BLOCK_REASONING,
    CONTENT = 1 + TD_CHAT_BLOCK_CONTENT,
    CALL = 1 + TD_CHAT_BLOCK_CALL
};

/* ---- the response object ----------------------------------------------------------------------------------------- */

/* A setting of the request as it came, or its default. */
static void echo(msg_writer *w, const char *name, const char *otherwise) {
    const td_json *v = td_json_get(w->request->body, name);
    msg_put(w, ",\"%s\":", name);
    if (!td_json_present(v)) {
        msg_put(w, "%s", otherwise);
    } else if (!td_json_write(w->out, v)) {
        w->failed = true;
    }
}

/* `status`: in_progress, completed, incomplete or failed; usage only with the last one. */
static bool put_response(msg_writer *w, const char *status, const char *reason, const char *error, const msg_usage *u) {
    bool done = strcmp(status, "in_progress") != 0;
    msg_put(w, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"completed_at\":", w->head->id,
            (long long)w->head->created);
    if (strcmp(status, "completed") == 0) {
        msg_put(w, "%lld", (long long)time(NULL));
    } else {
        msg_put(w, "null");
    }
    msg_put(w, ",\"status\":\"%s\",\"error\":", status);
    if (error) {
        msg_put(w, "{\"code\":\"server_error\",\"message\":");
        msg_put_string(w, error, strlen(error));
        msg_put(w, "}");
    } else {
        msg_put(w, "null");
    }
    msg_put(w, reason ? ",\"incomplete_details\":{\"reason\":\"%s\"}" : ",\"incomplete_details\":null", reason);
    msg_put(w, ",\"model\":");
    msg_put_string(w, w->head->model, strlen(w->head->model));
    msg_put(w, ",\"output\":[");
    if (done) msg_put_raw(w, w->items.data, w->items.n_bytes);
    msg_put(w, "]");
    echo(w, "instructions", "null");
    echo(w, "max_output_tokens", "null");
    echo(w, "metadata", "{}");
    echo(w, "parallel_tool_calls", "true");
    echo(w, "previous_response_id", "null");
    msg_put(w, ",\"store\":%s", w->request->no_store ? "false" : "true");
    echo(w, "reasoning", "{\"effort\":null,\"summary\":null}");
    echo(w, "temperature", "1.0");
    echo(w, "text", "{\"format\":{\"type\":\"text\"}}");
    echo(w, "tool_choice", "\"auto\"");
    echo(w, "tools", "[]");
    echo(w, "top_p", "1.0");
    echo(w, "truncation", "\"disabled\"");
    if (!u) return msg_put(w, ",\"usage\":null}");
    return msg_put(
        w,
        ",\"usage\":{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":0},"
        "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},\"total_tokens\":%lld}}",
        (long long)u->n_prompt, (long long)u->n_cached, (long long)u->n_generated, (long long)u->n_reasoning,
        (long long)u->n_prompt + u->n_generated);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static bool open_event(msg_writer *w, const char *name) {
    return msg_put(w, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%lld", name, name,
                   (long long)w->sequence++);
}

static bool close_event(msg_writer *w) {
    return msg_put(w, "}\n\n");
}

static void item_event(msg_writer *w, const char *name, bool part) {
    open_event(w, name);
    msg_put(w, ",\"item_id\":\"%s\",\"output_index\":%d", w->item_id, w->n_blocks - 1);
    if (part) msg_put(w, ",\"content_index\":0");
}

bool msg_responses_begin(msg_writer *w, const msg_usage *u) {
    static const char *const names[] = {"response.created", "response.in_progress"};
    (void)u;
    for (int i = 0; i < 2; i++) {
        open_event(w, names[i]);
        msg_put(w, ",\"response\":");
        put_response(w, "in_progress", NULL, NULL, NULL);
        close_event(w);
    }
    return !w->failed;
}

/* ---- items ------------------------------------------------------------------------------------------------------- */

/* The one part of an open thought or message, with the first bytes of its text. */
static void put_part(msg_writer *w, size_t n_bytes) {
    msg_put(w, "{\"type\":\"%s\",\"text\":", w->block == CONTENT ? "output_text" : "reasoning_text");
    msg_put_string(w, w->text.data, n_bytes);
    msg_put(w, w->block == CONTENT ? ",\"annotations\":[],\"logprobs\":[]}" : "}");
}

/* The call that the open item is about: the last one there is. */
static const td_chat_block *open_call(const msg_writer *w) {
    size_t i = w->reply.n_blocks;
    while (i > 1 && w->reply.blocks[i - 1].kind != TD_CHAT_BLOCK_CALL) i--;
    return &w->reply.blocks[i - 1];
}

/* Whether the client declared this tool as one of free text. */
static bool is_custom(const msg_writer *w, td_slice name) {
    const msg_request *r = w->request;
    for (size_t i = 0; r->custom && i < r->n_tools; i++)
        if (r->tools[i].name.n_bytes == name.n_bytes && memcmp(r->tools[i].name.data, name.data, name.n_bytes) == 0)
            return r->custom[i];
    return false;
}

/* The free text of such a call out of its arguments {"input": text}; what is no such object stands as it is. */
static void put_input(msg_writer *w) {
    td_arena *a = td_arena_create((size_t)64 << 20);
    td_error err = {0};
    const td_json *v = NULL;
    bool ok = a && td_json_parse(&v, a, w->text.n_bytes ? w->text.data : "", w->text.n_bytes, TD_JSON_LAST_WINS,
                                 &err) == TD_OK;
    const td_json *input = ok ? td_json_get(v, "input") : NULL;
    if (td_json_is(input, TD_JSON_STRING))
        msg_put_string(w, input->text.data, input->text.n_bytes);
    else
        msg_put_string(w, w->text.data, w->text.n_bytes);
    td_arena_destroy(a);
}

static void put_call_item(msg_writer *w, const char *status, bool done) {
    const td_chat_block *b = open_call(w);
    msg_put(w, "{\"id\":\"%s\",\"type\":\"%s\",\"call_id\":\"%s\",\"name\":", w->item_id,
            w->custom ? "custom_tool_call" : "function_call", msg_call_id(w, w->reply.n_calls - 1));
    msg_put_string(w, b->name.data, b->name.n_bytes);
    msg_put(w, w->custom ? ",\"input\":" : ",\"arguments\":");
    if (!done)
        msg_put(w, "\"\"");
    else if (w->custom)
        put_input(w);
    else
        msg_put_string(w, w->text.data, w->text.n_bytes);
    msg_put(w, ",\"status\":\"%s\"}", status);
}

/* The open item as JSON, with the text that it has so far when it is `done`. */
static void put_item(msg_writer *w, const char *status, bool done) {
    size_t n = done ? w->text.n_bytes : 0;
    if (w->block == REASONING) {
        msg_put(w, "{\"id\":\"%s\",\"type\":\"reasoning\",\"summary\":[],\"content\":[", w->item_id);
        if (done) put_part(w, n);
        msg_put(w, "],\"encrypted_content\":null,\"status\":\"%s\"}", status);
    } else if (w->block == CONTENT) {
        msg_put(w, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[",
                w->item_id, status);
        if (done) put_part(w, n);
        msg_put(w, "]}");
    } else {
        put_call_item(w, status, done);
    }
}

static void put_part_event(msg_writer *w, const char *name, size_t n_bytes) {
    item_event(w, name, true);
    msg_put(w, ",\"part\":");
    put_part(w, n_bytes);
    close_event(w);
}

/* A new item's kind, id and place. */
static void name_item(msg_writer *w, int kind) {
    static const char *const prefixes[] = {"", "rs_", "msg_", "fc_"};
    w->block = kind;
    td_buf_clear(&w->text);
    w->custom = kind == CALL && is_custom(w, (td_slice){open_call(w)->name.data, open_call(w)->name.n_bytes});
    msg_new_id(w->item_id, w->custom ? "ctc_" : prefixes[kind], 24);
}

static void open_item(msg_writer *w, int kind) {
    name_item(w, kind);
    w->n_blocks++;
    open_event(w, "response.output_item.added");
    msg_put(w, ",\"output_index\":%d,\"item\":", w->n_blocks - 1);
    put_item(w, "in_progress", false);
    close_event(w);
    if (kind != CALL) put_part_event(w, "response.content_part.added", 0);
}

/* A call of free text is sent whole: its text stands in an object that is known at its end. */
static void put_custom_done(msg_writer *w) {
    item_event(w, "response.custom_tool_call_input.delta", false);
    msg_put(w, ",\"delta\":");
    put_input(w);
    close_event(w);
    item_event(w, "response.custom_tool_call_input.done", false);
    msg_put(w, ",\"input\":");
    put_input(w);
    close_event(w);
}

static void put_text_done(msg_writer *w) {
    static const char *const names[] = {"", "response.reasoning_text.done", "response.output_text.done",
                                        "response.function_call_arguments.done"};
    if (w->custom) {
        put_custom_done(w);
        return;
    }
    item_event(w, names[w->block], w->block != CALL);
    msg_put(w, w->block == CALL ? ",\"arguments\":" : ",\"text\":");
    msg_put_string(w, w->text.data, w->text.n_bytes);
    if (w->block == CALL) {
        msg_put(w, ",\"name\":");
        msg_put_string(w, open_call(w)->name.data, open_call(w)->name.n_bytes);
    }
    if (w->block == CONTENT) msg_put(w, ",\"logprobs\":[]");
    close_event(w);
    if (w->block != CALL) put_part_event(w, "response.content_part.done", w->text.n_bytes);
}

/* `quiet`: no events, only the list of items. */
static void close_item(msg_writer *w, const char *status, bool quiet) {
    td_buf *out = w->out;
    if (w->block == NO_ITEM) return;
    if (!quiet) {
        put_text_done(w);
        open_event(w, "response.output_item.done");
        msg_put(w, ",\"output_index\":%d,\"item\":", w->n_blocks - 1);
        put_item(w, status, true);
        close_event(w);
    }
    w->out = &w->items;
    if (w->items.n_bytes) msg_put(w, ",");
    put_item(w, status, true);
    w->out = out;
    w->block = NO_ITEM;
    w->custom = false;
}

static int kind_of(const td_chat_event *e) {
    if (e->kind == TD_CHAT_REASONING || e->kind == TD_CHAT_REASONING_BREAK) return REASONING;
    return e->kind == TD_CHAT_CONTENT ? CONTENT : CALL;
}

bool msg_responses_event(msg_writer *w, const td_chat_event *e) {
    static const char *const names[] = {"", "response.reasoning_text.delta", "response.output_text.delta",
                                        "response.function_call_arguments.delta"};
    int kind = kind_of(e);
    if (kind == REASONING && msg_hidden(w)) return true;
    if (e->kind == TD_CHAT_REASONING_BREAK || e->kind == TD_CHAT_CALL_END) {
        close_item(w, "completed", false);
        return !w->failed;
    }
    if (w->block != kind || e->kind == TD_CHAT_CALL_BEGIN) {
        close_item(w, "completed", false);
        open_item(w, kind);
    }
    if (e->kind == TD_CHAT_CALL_BEGIN) return !w->failed;
    if (!td_buf_add(&w->text, e->text.data, e->text.n_bytes)) w->failed = true;
    if (w->custom) return !w->failed;
    item_event(w, names[kind], kind != CALL);
    msg_put(w, ",\"delta\":");
    msg_put_string(w, e->text.data, e->text.n_bytes);
    if (kind == CONTENT) msg_put(w, ",\"logprobs\":[]");
    return close_event(w);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* The finished response, kept in w->object and written to the answer. */
static bool finish_response(msg_writer *w, const char *reason, const msg_usage *u) {
    td_buf *out = w->out;
    w->out = &w->object;
    put_response(w, reason ? "incomplete" : "completed", reason, NULL, u);
    w->out = out;
    return msg_put_raw(w, w->object.data, w->object.n_bytes);
}

static const char *cut_reason(msg_stop why) {
    return why == MSG_STOP_LENGTH || why == MSG_STOP_CONTEXT ? "max_output_tokens" : NULL;
}

bool msg_responses_end(msg_writer *w, msg_stop why, const msg_usage *u) {
    const char *reason = cut_reason(why);
    close_item(w, reason ? "incomplete" : "completed", false);
    open_event(w, reason ? "response.incomplete" : "response.completed");
    msg_put(w, ",\"response\":");
    finish_response(w, reason, u);
    return close_event(w);
}

bool msg_responses_fail(msg_writer *w, int http_status, const char *text) {
    open_event(w, "error");
    msg_put(w, ",\"code\":\"%s\",\"message\":", msg_error_type(MSG_RESPONSES, http_status));
    msg_put_string(w, text, strlen(text));
    msg_put(w, ",\"param\":null");
    close_event(w);
    close_item(w, "incomplete", true);
    open_event(w, "response.failed");
    msg_put(w, ",\"response\":");
    put_response(w, "failed", NULL, text, NULL);
    return close_event(w);
}

bool msg_responses_answer(msg_writer *w, msg_stop why, const msg_usage *u) {
    const char *reason = cut_reason(why);
    td_buf *out = w->out;
    size_t n_blocks = w->reply.n_blocks, n_calls = 0;
    for (size_t i = 0; i < n_blocks && !w->failed; i++) {
        const td_chat_block *b = &w->reply.blocks[i];
        bool last = i + 1 == n_blocks;
        if (b->kind == TD_CHAT_BLOCK_CALL) n_calls++;
        if (b->kind == TD_CHAT_BLOCK_REASONING && msg_hidden(w)) continue;
        size_t all = w->reply.n_blocks, calls = w->reply.n_calls;
        w->reply.n_blocks = i + 1; /* the item is the last one of what is seen */
        w->reply.n_calls = n_calls;
        name_item(w, 1 + (int)b->kind);
        if (!td_buf_add(&w->text, b->text.data, b->text.n_bytes)) w->failed = true;
        close_item(w, reason && last ? "incomplete" : "completed", true);
        w->reply.n_blocks = all;
        w->reply.n_calls = calls;
    }
    w->out = out;
    return finish_response(w, reason, u);
}
