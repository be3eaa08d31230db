/* Whole answers and errors in each dialect's shape. */
#include "app.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

http_turn answer_text(http_exchange *x, int status, const char *type, const char *text, size_t n) {
    http_answer(x, status, type, text, n);
    return HTTP_ANSWER;
}

http_turn answer_json(http_exchange *x, int status, json_t *body) {
    char *text = json_dumps(body, JSON_FLAGS | JSON_ENCODE_ANY);
    json_decref(body);
    if (!text)
        return answer_text(x, 500, JSON_TYPE,
                           "{\"error\":{\"code\":500,\"message\":\"no memory\",\"type\":\"server_error\"}}", 67);
    http_turn t = answer_text(x, status, JSON_TYPE, text, strlen(text));
    free(text);
    return t;
}

http_turn answer_error(http_exchange *x, msg_dialect d, int status, const char *param, const char *extra,
                       const char *format, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    td_buf out = {0};
    if (status == 429) http_add_header(x, "Retry-After", "1");
    (void)msg_write_error(&out, d, status, text, param && *param ? param : NULL, extra, http_request_id(x));
    http_turn t = answer_text(x, status, JSON_TYPE, out.data ? out.data : "", out.n_bytes);
    td_buf_free(&out);
    return t;
}

http_turn answer_td_error(http_exchange *x, msg_dialect d, const td_error *err) {
    return answer_error(x, d, td_status_http(err->code), NULL, NULL, "%s", err->text);
}

http_turn answer_field_error(http_exchange *x, const char *field, const td_error *err) {
    char name[64] = "";
    if (sscanf(err->text, "Field '%63[^']'", name) == 1) field = name;
    return answer_error(x, MSG_CHAT, 400, field, NULL, "%s", err->text);
}

http_turn answer_context(http_exchange *x, msg_dialect d, int n_prompt, int n_ctx) {
    char extra[96];
    snprintf(extra, sizeof extra, ",\"n_prompt_tokens\":%d,\"n_ctx\":%d", n_prompt, n_ctx);
    if (d == MSG_ANTHROPIC)
        return answer_error(x, d, 400, NULL, NULL, "prompt is too long: %d tokens > %d maximum", n_prompt, n_ctx);
    return answer_error(x, d, 400, NULL, extra,
                        "request (%d tokens) exceeds the available context size (%d tokens), try increasing it",
                        n_prompt, n_ctx);
}

const td_json *read_body(http_exchange *x, td_arena *a, msg_dialect d, http_turn *turn) {
    size_t n = 0;
    const char *text = http_body(x, &n);
    const td_json *body = NULL;
    td_error err = {0};
    if (td_json_parse(&body, a, text, n, TD_JSON_LAST_WINS, &err)) {
        *turn = answer_error(x, d, 400, NULL, NULL, "the request body is not JSON: %s", err.text);
        return NULL;
    }
    if (!td_json_is(body, TD_JSON_OBJECT)) {
        *turn = answer_error(x, d, 400, NULL, NULL, "the request body must be a JSON object");
        return NULL;
    }
    return body;
}

bool own_body_read(own_body *b, http_exchange *x, msg_dialect d) {
    *b = (own_body){.arena = td_arena_create(REQUEST_BYTES), .turn = HTTP_ANSWER};
    if (b->arena)
        b->json = read_body(x, b->arena, d, &b->turn);
    else
        b->turn = answer_error(x, d, 500, NULL, NULL, "no memory");
    if (!b->json) td_arena_destroy(b->arena);
    return b->json != NULL;
}
