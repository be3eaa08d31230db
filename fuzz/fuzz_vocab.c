/* tokenizer.json: a vocabulary or an error; what was accepted tokenises and decodes. */
#include "text/tokenizer.h"
#include "text/vocab_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char text[] = "the <turn|> ab\n\n\xC3\xA9\xFF<|tool_call>";
    td_vocab_json *j = NULL;
    td_vocab *v = NULL;
    td_error err = {0};
    td_tokens t = {0};
    td_buf back = {0};
    td_status st = td_vocab_json_parse(&j, (const char *)data, n, &err);
    if (!st) st = td_vocab_create(&v, td_vocab_json_source(j), &err);
    if (!st) {
        for (int mode = 0; mode < 3; mode++) {
            if (td_vocab_tokenize(v, text, sizeof text - 1, (td_special_mode)mode, true, &t, NULL)) __builtin_trap();
            if (td_vocab_detokenize(v, t.ids, t.n, mode == 1, &back, NULL)) __builtin_trap();
        }
    } else if (!err.text[0]) {
        __builtin_trap();
    }
    td_tokens_free(&t);
    td_buf_free(&back);
    td_vocab_destroy(v);
    td_vocab_json_free(j);
    return 0;
}
