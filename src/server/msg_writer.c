/* The writers' common half: ids, the reply that is collected beside the stream, dispatch by dialect, errors. */
#include "msg_impl.h"

#include "../base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void msg_new_id(char *out, const char *prefix, int n) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t at = strlen(prefix);
    memcpy(out, prefix, at);
    while (n > 0) { /* bytes above the last multiple of 62 are dropped, so that all letters are equally likely */
        unsigned char bytes[32];
        ssize_t got = getrandom(bytes, sizeof bytes, 0);
        for (ssize_t i = 0; i < got && n > 0; i++)
            if (bytes[i] < 248) out[at++] = letters[bytes[i] % 62], n--;
    }
    out[at] = 0;
}

bool msg_put(msg_writer *w, const char *format, ...) {
    char small[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof small) return msg_put_raw(w, small, (size_t)n);
    if (n < 0 || !td_buf_reserve(w->out, (size_t)n)) {
        w->failed = true;
        return false;
    }
    va_start(args, format);
    vsnprintf(w->out->data + w->out->n_bytes, (size_t)n + 1, format, args);
    va_end(args);
    w->out->n_bytes += (size_t)n;
    return !w->failed;
}

bool msg_put_raw(msg_writer *w, const char *text, size_t n_bytes) {
    if (n_bytes && !td_buf_add(w->out, text, n_bytes)) w->failed = true;
    return !w->failed;
}

bool msg_put_string(msg_writer *w, const char *text, size_t n_bytes) {
    if (!td_json_write_string(w->out, text ? text : "", n_bytes)) w->failed = true;
    return !w->failed;
}

bool msg_hidden(const msg_writer *w) {
    return w->request->hide_reasoning;
}

const char *msg_call_id(const msg_writer *w, size_t call) {
    return call < w->cap_call_ids ? w->call_ids[call] : "";
}

bool msg_ended_with_calls(const msg_writer *w, msg_stop why) {
    return why == MSG_STOP_MODEL && w->reply.n_calls > 0;
}

void msg_writer_init(msg_writer *w, const msg_request *r, const msg_head *head, int index, td_buf *out) {
    *w = (msg_writer){.request = r, .head = head, .index = index, .out = out};
}

void msg_writer_free(msg_writer *w) {
    td_chat_reply_free(&w->reply);
    td_buf_free(&w->logprobs);
    td_buf_free(&w->text);
    td_buf_free(&w->items);
    td_buf_free(&w->object);
    free(w->call_ids);
    *w = (msg_writer){.out = NULL};
}

/* A new call's id, in the spelling of the dialect. */
static void add_call_id(msg_writer *w) {
    size_t n = w->reply.n_calls;
    if (n > w->cap_call_ids) {
        size_t cap = n < 8 ? 8 : 2 * n;
        char(*ids)[40] = td_reallocarray(w->call_ids, cap, sizeof *ids);
        if (!ids) {
            w->failed = true;
            return;
        }
        w->call_ids = ids;
        w->cap_call_ids = cap;
    }
    msg_new_id(w->call_ids[n - 1], w->request->dialect == MSG_ANTHROPIC ? "toolu_" : "call_", 24);
}

bool msg_writer_begin(msg_writer *w, const msg_usage *u) {
    if (!w->request->stream) return true;
    switch (w->request->dialect) {
    case MSG_CHAT:
        return w->block ? !w->failed : msg_chat_begin(w, u);
    case MSG_ANTHROPIC:
        return msg_anthropic_begin(w, u);
    case MSG_RESPONSES:
        return msg_responses_begin(w, u);
    }
    return false;
}

bool msg_writer_event(void *writer, const td_chat_event *e) {
    msg_writer *w = writer;
    if (w->failed) return false;
    if (!td_chat_reply_add(&w->reply, e)) w->failed = true;
    if (!w->failed && e->kind == TD_CHAT_CALL_BEGIN) add_call_id(w);
    if (w->failed || !w->request->stream) return !w->failed;
    switch (w->request->dialect) {
    case MSG_CHAT:
        msg_chat_event(w, e);
        break;
    case MSG_ANTHROPIC:
        msg_anthropic_event(w, e);
        break;
    case MSG_RESPONSES:
        msg_responses_event(w, e);
        break;
    }
    return !w->failed;
}

bool msg_writer_logprob(msg_writer *w, const char *json, size_t n_bytes) {
    if ((w->logprobs.n_bytes && !td_buf_add_char(&w->logprobs, ',')) || !td_buf_add(&w->logprobs, json, n_bytes))
        w->failed = true;
    return !w->failed;
}

bool msg_writer_end(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *u) {
    if (!w->request->stream) return !w->failed;
    switch (w->request->dialect) {
    case MSG_CHAT:
        return msg_chat_end(w, why);
    case MSG_ANTHROPIC:
        return msg_anthropic_end(w, why, stop_word, u);
    case MSG_RESPONSES:
        return msg_responses_end(w, why, u);
    }
    return false;
}

bool msg_write_answer(td_buf *out, msg_writer *const *w, const msg_stop *why, const char *const *stop_words, int n,
                      const msg_usage *u) {
    for (int i = 0; i < n; i++)
        if (w[i]->failed) return false;
    w[0]->out = out;
    switch (w[0]->request->dialect) {
    case MSG_CHAT:
        return msg_chat_answer(out, w, why, n, u);
    case MSG_ANTHROPIC:
        return msg_anthropic_answer(w[0], why[0], stop_words ? stop_words[0] : NULL, u);
    case MSG_RESPONSES:
        return msg_responses_answer(w[0], why[0], u);
    }
    return false;
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

const char *msg_error_type(msg_dialect d, int http_status) {
    static const struct {
        int status;
        const char *openai, *anthropic;
    } types[] = {{400, "invalid_request_error", "invalid_request_error"},
                 {401, "authentication_error", "authentication_error"},
                 {403, "permission_error", "permission_error"},
                 {404, "not_found_error", "not_found_error"},
                 {413, "invalid_request_error", "request_too_large"},
                 {415, "invalid_request_error", "invalid_request_error"},
                 {429, "rate_limit_error", "rate_limit_error"},
                 {501, "not_supported_error", "api_error"},
                 {503, "unavailable_error", "overloaded_error"},
                 {529, "unavailable_error", "overloaded_error"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].status == http_status) return d == MSG_ANTHROPIC ? types[i].anthropic : types[i].openai;
    if (http_status >= 400 && http_status < 500) return "invalid_request_error";
    return d == MSG_ANTHROPIC ? "api_error" : "server_error";
}

bool msg_write_error(td_buf *out, msg_dialect d, int http_status, const char *text, const char *param,
                     const char *extra, const char *request_id) {
    const char *type = msg_error_type(d, http_status);
    /* The one error with a type of its own: the clients look for it. */
    if (d != MSG_ANTHROPIC && http_status == 400 && extra && strstr(extra, "\"n_ctx\""))
        type = "exceed_context_size_error";
    if (d == MSG_ANTHROPIC)
        return td_buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type) &&
               td_json_write_string(out, text, strlen(text)) && td_buf_add_str(out, "},\"request_id\":") &&
               td_json_write_string(out, request_id ? request_id : "", request_id ? strlen(request_id) : 0) &&
               td_buf_add_str(out, "}");
    bool ok = td_buf_printf(out, "{\"error\":{\"code\":%d,\"message\":", http_status) &&
              td_json_write_string(out, text, strlen(text)) && td_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    ok = ok && (param && *param ? td_json_write_string(out, param, strlen(param)) : td_buf_add_str(out, "null"));
    return ok && td_buf_add_str(out, extra ? extra : "") && td_buf_add_str(out, "}}");
}

bool msg_writer_fail(msg_writer *w, int http_status, const char *text, const char *request_id) {
    if (w->request->dialect == MSG_RESPONSES) return msg_responses_fail(w, http_status, text);
    msg_put(w, w->request->dialect == MSG_ANTHROPIC ? "event: error\ndata: " : "data: ");
    if (!msg_write_error(w->out, w->request->dialect, http_status, text, NULL, NULL, request_id)) w->failed = true;
    return msg_put(w, "\n\n");
}
