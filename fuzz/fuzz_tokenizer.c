/* Tokenizer: any bytes tokenise; the ids decode to the text (ill-formed bytes as U+FFFD); in the inert mode nothing is
 * a special token; the stream emits complete characters only and the same text. */
#include "text/tokenizer.h"
#include "tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok) {
    if (!ok) __builtin_trap();
}

/* What decoding must give: ill-formed bytes one U+FFFD each, U+2581 as a space. */
static void expected(const char *text, size_t n, td_buf *out) {
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int length = td_utf8_next(text + i, n - i, &cp);
        if (length <= 0)
            check(td_buf_add(out, "\xEF\xBF\xBD", 3));
        else if (cp == 0x2581)
            check(td_buf_add_char(out, ' '));
        else
            check(td_buf_add(out, text + i, (size_t)length));
        i += length > 0 ? (size_t)length : 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const td_vocab *v = tiny_vocab();
    td_buf want = {0};
    expected((const char *)data, n, &want);
    for (int mode = 0; mode < 3; mode++) {
        td_tokens t = {0};
        td_buf got = {0}, stream = {0};
        td_detok d;
        td_detok_init(&d, v, true);
        check(td_vocab_tokenize(v, (const char *)data, n, (td_special_mode)mode, false, &t, NULL) == TD_OK);
        check(td_vocab_detokenize(v, t.ids, t.n, true, &got, NULL) == TD_OK);
        check(got.n_bytes == want.n_bytes && (!got.n_bytes || memcmp(got.data, want.data, got.n_bytes) == 0));
        for (size_t i = 0; i < t.n; i++) {
            if (mode == 0) check(!(td_vocab_flags(v, t.ids[i]) & (TD_TOKEN_CONTROL | TD_TOKEN_USER_DEFINED)));
            check(td_detok_push(&d, t.ids[i], &stream) && td_utf8_valid(stream.data, stream.n_bytes));
        }
        check(td_detok_finish(&d, &stream) && stream.n_bytes == got.n_bytes);
        td_tokens_free(&t);
        td_buf_free(&got);
        td_buf_free(&stream);
    }
    /* The bytes as a stream of their own: cut anywhere, always well-formed. */
    td_utf8_stream s = {0};
    char out[3 * 17];
    for (size_t i = 0; i < n; i += 16) {
        size_t part = n - i < 16 ? n - i : 16, made = td_utf8_stream_push(&s, (const char *)data + i, part, out);
        check(made <= sizeof out && td_utf8_valid(out, made) && s.n_pending <= 3);
    }
    td_buf_free(&want);
    return 0;
}
