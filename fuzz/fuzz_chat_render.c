/* A request's messages and tools, as JSON: whatever is in them, every generation renders them strictly and corrected,
 * the spans cover the text, and the format's markers stand only in spans of their own kind. */
#include "text/chat_json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok) {
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    td_arena *a = td_arena_create(64 << 20);
    const td_json *v = NULL;
    td_chat_message *messages = NULL;
    td_chat_tool *tools = NULL;
    size_t n_messages = 0, n_tools = 0, n_dropped = 0;
    check(a != NULL);
    if (td_json_parse(&v, a, (const char *)data, n, TD_JSON_LAST_WINS, NULL) == TD_OK &&
        td_chat_messages_read(td_json_get(v, "messages"), a, &messages, &n_messages, NULL) == TD_OK &&
        td_chat_tools_read(td_json_get(v, "tools"), a, &tools, &n_tools, &n_dropped, NULL) == TD_OK) {
        for (int k = 0; k < 20; k++) {
            td_chat_prompt p = {0};
            td_chat_options o = {.profile = {(td_chat_generation)(k % 5), k & 1},
                                 .strict = k < 10,
                                 .enable_thinking = k & 2,
                                 .preserve_thinking = k & 4,
                                 .continue_final = k & 1};
            check(td_chat_render(&p, messages, n_messages, tools, n_tools, &o, a, NULL) == TD_OK);
            size_t at = 0;
            for (size_t i = 0; i < p.n_spans; at = p.spans[i++].end) check(p.spans[i].begin == at);
            check(at == p.text.n_bytes && p.start.begin <= at);
            td_chat_prompt_free(&p);
        }
    }
    td_arena_destroy(a);
    return 0;
}
