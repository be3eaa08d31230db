/* The parser of answers is total: any bytes, in one piece and in pieces, give the same message, and the arguments of a
 * complete call are a JSON object. The first byte chooses options, the second one the sizes of the pieces. */
#include "text/chat_json.h"
#include "text/chat_parse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char tools_json[] =
    "[{\"function\":{\"name\":\"find\",\"parameters\":{\"type\":\"object\",\"properties\":{\"q\":{\"type\":\"string\"},"
    "\"limit\":{\"type\":\"integer\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}}},"
    "{\"function\":{\"name\":\"stop\"}}]";

static void check(bool ok) {
    if (!ok) abort();
}

static td_chat_reply parse(const td_chat_tool *tools, size_t n_tools, const uint8_t *data, size_t n, uint8_t how,
                           size_t piece) {
    td_chat_reply r = {0};
    td_chat_start start = {.in_thought = how & 1, .after_thought = how >> 1 & 1};
    td_chat_parse_options o = {.tools = tools,
                               .n_tools = how & 4 ? 0 : n_tools,
                               .reasoning = (td_chat_reasoning_format)((how >> 3 & 3) % 3),
                               .start = &start,
                               .sink = td_chat_reply_sink,
                               .context = &r};
    td_chat_parser *p = NULL;
    check(td_chat_parser_create(&p, &o, NULL) == TD_OK);
    for (size_t at = 0; at < n; at += piece)
        check(td_chat_parser_text(p, (const char *)data + at, n - at < piece ? n - at : piece));
    check(td_chat_parser_finish(p, how & 32 ? TD_CHAT_END_CUT : TD_CHAT_END_MODEL));
    td_chat_parser_destroy(p);
    return r;
}

static void same_text(bool (*get)(const td_chat_reply *, td_buf *), const td_chat_reply *a, const td_chat_reply *b) {
    td_buf x = {0}, y = {0};
    check(get(a, &x) && get(b, &y) && x.n_bytes == y.n_bytes);
    check(!x.n_bytes || memcmp(x.data, y.data, x.n_bytes) == 0);
    td_buf_free(&x);
    td_buf_free(&y);
}

static const td_chat_block *call_at(const td_chat_reply *r, size_t at) {
    for (size_t i = 0; i < r->n_blocks; i++)
        if (r->blocks[i].kind == TD_CHAT_BLOCK_CALL && at-- == 0) return &r->blocks[i];
    return NULL;
}

static bool same_buf(const td_buf *x, const td_buf *y) {
    return x->n_bytes == y->n_bytes && (!x->n_bytes || memcmp(x->data, y->data, x->n_bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    static td_arena *kept;
    static td_chat_tool *tools;
    static size_t n_tools;
    const td_json *v = NULL;
    if (!kept) {
        size_t n_dropped = 0;
        kept = td_arena_create(0);
        check(kept && td_json_parse(&v, kept, tools_json, sizeof tools_json - 1, TD_JSON_REJECT, NULL) == TD_OK);
        check(td_chat_tools_read(v, kept, &tools, &n_tools, &n_dropped, NULL) == TD_OK);
    }
    td_arena *a = td_arena_create(0);
    check(a != NULL);
    td_chat_reply whole = parse(tools, n_tools, data + 2, n - 2, data[0], n);
    td_chat_reply cut = parse(tools, n_tools, data + 2, n - 2, data[0], 1 + data[1] % 16);
    same_text(td_chat_reply_content, &whole, &cut);
    same_text(td_chat_reply_reasoning, &whole, &cut);
    check(whole.n_calls == cut.n_calls);
    for (size_t i = 0; i < whole.n_calls; i++) {
        const td_chat_block *x = call_at(&whole, i), *y = call_at(&cut, i);
        check(x && y && x->complete == y->complete && same_buf(&x->name, &y->name) && same_buf(&x->text, &y->text));
        if (!x->complete) continue;
        td_status status = td_json_parse(&v, a, x->text.data, x->text.n_bytes, TD_JSON_LAST_WINS, NULL);
        check(status == TD_ERR_LIMIT || (status == TD_OK && v->kind == TD_JSON_OBJECT));
    }
    td_chat_reply_free(&whole);
    td_chat_reply_free(&cut);
    td_arena_destroy(a);
    return 0;
}
