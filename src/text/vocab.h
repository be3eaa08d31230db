/* The vocabulary: token texts, flags and ranked merges, checked once and then immutable and shared by all threads.
 *
 * It is built from plain arrays (td_vocab_source), so that a GGUF file, a tokenizer.json and a test make the same
 * object. Nothing in the source is trusted: texts must be distinct and well-formed, merges must resolve, ids must be
 * inside. Any size is legal as long as the 256 byte tokens are there, so every text has a tokenisation. */
#ifndef TD_TEXT_VOCAB_H
#define TD_TEXT_VOCAB_H

#include "../../include/tandem-types.h"
#include "../base/cursor.h"

typedef struct td_vocab td_vocab;

enum td_token_type { /* values of tokenizer.ggml.token_type */
                     TD_TOKEN_TYPE_UNDEFINED = 0,
                     TD_TOKEN_TYPE_NORMAL = 1,
                     TD_TOKEN_TYPE_UNKNOWN = 2,
                     TD_TOKEN_TYPE_CONTROL = 3,
                     TD_TOKEN_TYPE_USER_DEFINED = 4,
                     TD_TOKEN_TYPE_UNUSED = 5,
                     TD_TOKEN_TYPE_BYTE = 6
};

enum { /* td_vocab_flags: effective flags, after the overrides of spec A.5 */
       TD_TOKEN_NORMAL = 1,
       TD_TOKEN_UNKNOWN = 2,
       TD_TOKEN_CONTROL = 4, /* invisible unless `special` */
       TD_TOKEN_USER_DEFINED = 8,
       TD_TOKEN_BYTE = 16,
       TD_TOKEN_END = 32 /* generation ends here */
};

#define TD_VOCAB_MAX_TOKENS (1u << 24)
#define TD_VOCAB_MAX_MERGES (1u << 26)
#define TD_VOCAB_MAX_TEXT   4096 /* bytes of one token */

/* Borrowed while td_vocab_create runs. td_vocab_source_init first: no arrays, all ids TD_TOKEN_NONE. */
typedef struct td_vocab_source {
    uint32_t n_tokens;
    const td_slice *texts; /* [n_tokens], index = id */
    const int32_t *types;  /* [n_tokens] td_token_type, or NULL: told from Gemma 4's texts (spec A.3) */
    uint64_t n_merges;
    const td_slice *merges; /* [n_merges] "left right", best first; or NULL: */
    const td_slice *pairs;  /* [n_merges][2] left, right */
    bool derive_merges;     /* neither given: made from the order of the vocabulary by the rule of spec A.2 */
    uint32_t bos, eos, eot, eom, unk, pad, mask;
    bool add_eos;
    const int32_t *suppress; /* [n_suppress] ids never sampled; those outside the vocabulary are dropped */
    uint32_t n_suppress;
} td_vocab_source;

void td_vocab_source_init(td_vocab_source *s);
/* Codes: TD_ERR_FORMAT (what is wrong with which token or merge), TD_ERR_LIMIT, TD_ERR_MEMORY. Copies what it keeps. */
td_status td_vocab_create(td_vocab **out, const td_vocab_source *s, td_error *err);
void td_vocab_destroy(td_vocab *v);

/* ---- questions; ids outside the vocabulary are answered with "nothing" ------------------------------------------- */

uint32_t td_vocab_size(const td_vocab *v);
uint64_t td_vocab_n_merges(const td_vocab *v);
uint32_t td_vocab_max_text(const td_vocab *v);           /* bytes of the longest text */
td_slice td_vocab_text(const td_vocab *v, uint32_t id);  /* as stored, U+2581 for a space */
uint32_t td_vocab_flags(const td_vocab *v, uint32_t id); /* TD_TOKEN_* set */
/* What a token adds to the output: the text with U+2581 as a space, the one byte of a byte token, nothing for a control
 * token unless `special`. May be part of a character (byte tokens). Borrowed from the vocabulary. */
td_slice td_vocab_piece(const td_vocab *v, uint32_t id, bool special);
/* The id of exactly this stored text ("<|turn>", "<0x0A>"); TD_TOKEN_NONE when there is none. */
uint32_t td_vocab_find(const td_vocab *v, const char *text, size_t n_bytes);
uint32_t td_vocab_find_str(const td_vocab *v, const char *text);
/* As td_vocab_find_str, and only for a token that carries TD_TOKEN_CONTROL or TD_TOKEN_USER_DEFINED. */
uint32_t td_vocab_special(const td_vocab *v, const char *text);
uint32_t td_vocab_byte(const td_vocab *v, uint8_t byte); /* the token of a byte */
bool td_vocab_is_end(const td_vocab *v, uint32_t id);
const uint32_t *td_vocab_ends(const td_vocab *v, uint32_t *n);     /* ascending */
const uint32_t *td_vocab_specials(const td_vocab *v, uint32_t *n); /* matchable in text, ascending */
const uint32_t *td_vocab_suppressed(const td_vocab *v, uint32_t *n);
uint32_t td_vocab_bos(const td_vocab *v); /* TD_TOKEN_NONE when the file names none */
uint32_t td_vocab_eos(const td_vocab *v);

#endif
