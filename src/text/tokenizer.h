/* Text to token ids and back. Thread-safe: a vocabulary is immutable and each call brings its own memory. */
#ifndef TD_TEXT_TOKENIZER_H
#define TD_TEXT_TOKENIZER_H

#include "buf.h"
#include "utf8.h"
#include "vocab.h"

typedef enum td_special_mode {
    TD_SPECIAL_NONE = 0, /* nothing in the text becomes a control token: for text from outside */
    TD_SPECIAL_USER = 1, /* llama.cpp's parse_special = false: user-defined ones are still matched */
    TD_SPECIAL_ALL = 2   /* parse_special = true */
} td_special_mode;

typedef struct td_tokens { /* zero-initialise; td_tokens_free at the end */
    uint32_t *ids;
    size_t n, cap;
} td_tokens;

bool td_tokens_add(td_tokens *t, uint32_t id);
bool td_tokens_reserve(td_tokens *t, size_t n_more);
void td_tokens_free(td_tokens *t);

/* Appends the ids of `text` to `out`. add_bos: begin with the vocabulary's BOS (and end with EOS where the file asks
 * for it). Any bytes are legal, ill-formed UTF-8 counts as U+FFFD per byte (spec A.8). Time n log n, memory 32 bytes
 * per character of the longest piece without a cut. TD_ERR_LIMIT above 1 GiB, TD_ERR_MEMORY; `out` is then as before.
 */
td_status td_vocab_tokenize(const td_vocab *v, const char *text, size_t n_bytes, td_special_mode special, bool add_bos,
                            td_tokens *out, td_error *err);

/* Appends the raw bytes of the tokens (spec A.7, no clean-up). TD_ERR_ARGUMENT for an id outside the vocabulary. */
td_status td_vocab_detokenize(const td_vocab *v, const uint32_t *ids, size_t n, bool special, td_buf *out,
                              td_error *err);

/* One generation's output: complete characters only, whatever the tokens cut in half. */
typedef struct td_detok {
    const td_vocab *vocab;
    td_utf8_stream utf8;
    bool special;
} td_detok;

void td_detok_init(td_detok *d, const td_vocab *v, bool special);
/* Most bytes that one td_detok_push can append. With that much reserved in `out` it allocates nothing. */
size_t td_detok_max(const td_vocab *v);
/* False only without memory; an id outside the vocabulary adds nothing. */
bool td_detok_push(td_detok *d, uint32_t id, td_buf *out);
bool td_detok_finish(td_detok *d, td_buf *out);

#endif
