/* Anthropic messages: answers and events (specification 3.10). A block is closed before the next one begins, and blocks
 * come in the order in which the model wrote them. */
#include "msg_impl.h"

static int block_of(const td_chat_event *e) {
    switch (e->kind) {
    case TD_CHAT_REASONING:
    case TD_CHAT_REASONING_BREAK:
        return 1 + TD_CHAT_BLOCK_REASONING;
    case TD_CHAT_CONTENT:
        return 1 + TD_CHAT_BLOCK_CONTENT;
    default:
        return 1 + TD_CHAT_BLOCK_CALL;
    }
}

static bool put_usage(msg_writer *w, const msg_usage *u, bool whole) {
    msg_put(w, "\"usage\":{\"input_tokens\":%lld,\"cache_read_input_tokens\":%lld,",
            (long long)(u->n_prompt - u->n_cached), (long long)u->n_cached);
    if (whole) msg_put(w, "\"cache_creation_input_tokens\":0,");
    return msg_put(w, "\"output_tokens\":%lld}", (long long)u->n_generated);
}

static bool open_message(msg_writer *w) {
    msg_put(w, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", w->head->id);
    return msg_put_string(w, w->head->model, strlen(w->head->model));
}

bool msg_anthropic_begin(msg_writer *w, const msg_usage *u) {
    msg_put(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":");
    open_message(w);
    msg_put(w, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    put_usage(w, u, true);
    return msg_put(w, "}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n");
}

static void close_block(msg_writer *w) {
    if (!w->block) return;
    if (w->block == 1 + TD_CHAT_BLOCK_REASONING)
        msg_put(w,
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":"
                "\"signature_delta\",\"signature\":\"\"}}\n\n",
                w->n_blocks - 1);
    msg_put(w, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":%d}\n\n", w->n_blocks - 1);
    w->block = 0;
}

static void open_block(msg_writer *w, int block, const td_chat_event *e) {
    close_block(w);
    w->block = block;
    msg_put(w, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{",
            w->n_blocks++);
    if (block == 1 + TD_CHAT_BLOCK_REASONING) {
        msg_put(w, "\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"");
    } else if (block == 1 + TD_CHAT_BLOCK_CONTENT) {
        msg_put(w, "\"type\":\"text\",\"text\":\"\"");
    } else {
        msg_put(w, "\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", msg_call_id(w, e->call));
        msg_put_string(w, e->text.data, e->text.n_bytes);
        msg_put(w, ",\"input\":{}");
    }
    msg_put(w, "}}\n\n");
}

bool msg_anthropic_event(msg_writer *w, const td_chat_event *e) {
    static const char *const deltas[][2] = {
        {"thinking_delta", "thinking"}, {"text_delta", "text"}, {"input_json_delta", "partial_json"}};
    int block = block_of(e);
    if (e->kind == TD_CHAT_REASONING_BREAK || e->kind == TD_CHAT_CALL_END) {
        close_block(w);
        return !w->failed;
    }
    if (w->block != block || e->kind == TD_CHAT_CALL_BEGIN) open_block(w, block, e);
    if (e->kind == TD_CHAT_CALL_BEGIN || (e->kind == TD_CHAT_REASONING && msg_hidden(w))) return !w->failed;
    msg_put(w,
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":"
            "\"%s\",\"%s\":",
            w->n_blocks - 1, deltas[block - 1][0], deltas[block - 1][1]);
    msg_put_string(w, e->text.data, e->text.n_bytes);
    return msg_put(w, "}}\n\n");
}

static bool put_reason(msg_writer *w, msg_stop why, const char *stop_word) {
    const char *reason = msg_ended_with_calls(w, why) ? "tool_use"
                         : why == MSG_STOP_LENGTH     ? "max_tokens"
                         : why == MSG_STOP_CONTEXT    ? "model_context_window_exceeded"
                         : why == MSG_STOP_WORD       ? "stop_sequence"
                                                      : "end_turn";
    msg_put(w, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (why == MSG_STOP_WORD && stop_word) return msg_put_string(w, stop_word, strlen(stop_word));
    return msg_put(w, "null");
}

bool msg_anthropic_end(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *u) {
    if (!w->n_blocks) open_block(w, 1 + TD_CHAT_BLOCK_CONTENT, NULL);
    close_block(w);
    msg_put(w, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{");
    put_reason(w, why, stop_word);
    msg_put(w, "},");
    put_usage(w, u, false);
    return msg_put(w, "}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

/* The input of a call as an object; what was cut off in the middle cannot be one. */
static void put_input(msg_writer *w, const td_chat_block *b) {
    if (b->complete && b->text.n_bytes) {
        msg_put_raw(w, b->text.data, b->text.n_bytes);
    } else {
        msg_put(w, "{}");
    }
}

bool msg_anthropic_answer(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *u) {
    size_t n_calls = 0;
    open_message(w);
    msg_put(w, ",\"content\":[");
    for (size_t i = 0; i < w->reply.n_blocks; i++) {
        const td_chat_block *b = &w->reply.blocks[i];
        if (i) msg_put(w, ",");
        if (b->kind == TD_CHAT_BLOCK_REASONING) {
            msg_put(w, "{\"type\":\"thinking\",\"thinking\":");
            msg_put_string(w, b->text.data, msg_hidden(w) ? 0 : b->text.n_bytes);
            msg_put(w, ",\"signature\":\"\"}");
        } else if (b->kind == TD_CHAT_BLOCK_CONTENT) {
            msg_put(w, "{\"type\":\"text\",\"text\":");
            msg_put_string(w, b->text.data, b->text.n_bytes);
            msg_put(w, "}");
        } else {
            msg_put(w, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", msg_call_id(w, n_calls++));
            msg_put_string(w, b->name.data, b->name.n_bytes);
            msg_put(w, ",\"input\":");
            put_input(w, b);
            msg_put(w, "}");
        }
    }
    if (!w->reply.n_blocks) msg_put(w, "{\"type\":\"text\",\"text\":\"\"}");
    msg_put(w, "],");
    put_reason(w, why, stop_word);
    msg_put(w, ",");
    put_usage(w, u, true);
    return msg_put(w, "}");
}
