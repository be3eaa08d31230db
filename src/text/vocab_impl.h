/* Inside of the vocabulary, for the files of this folder that walk it at speed: tokenizer.c, token_trie.c. */
#ifndef TD_TEXT_VOCAB_IMPL_H
#define TD_TEXT_VOCAB_IMPL_H

#include "vocab.h"

#include <stdatomic.h>
#include <string.h>

typedef struct vocab_pair { /* one slot of the merge table; rank UINT32_MAX: free */
    uint32_t left, right, rank, result;
} vocab_pair;

typedef struct vocab_slot { /* one slot of the text table; id UINT32_MAX: free */
    uint32_t hash, id;
} vocab_slot;

enum { SELF_UNKNOWN = 0, SELF_YES = 1, SELF_NO = 2 };

struct td_vocab {
    uint32_t n_tokens, max_text, max_piece;
    uint64_t n_merges;
    uint64_t seed[2]; /* of the hash functions: drawn per vocabulary, so that no file can choose its collisions */
    char *texts, *pieces;
    uint32_t *text_at, *piece_at; /* [n_tokens + 1] offsets into texts, pieces */
    uint8_t *flags;               /* [n_tokens] TD_TOKEN_* */
    vocab_slot *slots;            /* text -> id, linear probing, at most half full */
    uint32_t slot_mask;
    vocab_pair *pairs; /* (left, right) -> rank, result; likewise */
    uint32_t pair_mask;
    /* Code point -> id of the token of this one character: pages of 256, page 0 is empty and shared. */
    uint32_t *char_ids;
    uint16_t char_page[0x1100];
    uint32_t byte_ids[256];
    /* Bit set: some merge result contains these two characters next to each other. Where it is not set no token can
     * span, so the text may be cut there and the parts tokenised alone with the same result. ASCII exactly (U+2581
     * counts as 0x20), the rest by hash: a false hit only means a missed cut. */
    uint8_t ascii_joins[128 * 128 / 8];
    uint64_t *joins;
    uint32_t join_mask; /* number of bits - 1 */
    /* Does the text of this token, alone, tokenise to this token? Found out on first use; the answer never changes, so
     * relaxed access from several threads is enough. */
    _Atomic uint8_t *self;
    uint32_t *specials; /* [n_specials] CONTROL, UNKNOWN or USER_DEFINED, ascending ids */
    uint32_t *by_text;  /* [n_specials] the same in order of their bytes, for the matching scan */
    uint32_t n_specials;
    uint8_t special_first[256]; /* 1: a special text begins with this byte */
    int special_lead;           /* the only such byte, or -1 */
    uint32_t *ends, *suppressed;
    uint32_t n_ends, n_suppressed;
    uint32_t bos, eos;
    bool add_eos;
    struct td_token_trie *_Atomic trie; /* made on first use by a grammar, token_trie.c */
};

static inline uint64_t vocab_mix(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* Keyed 64-bit hash: each 8 bytes are multiplied by a secret and folded. */
static inline uint64_t vocab_hash(const td_vocab *v, const char *s, size_t n_bytes) {
    uint64_t h = v->seed[0] ^ n_bytes, w = 0;
    for (; n_bytes > 8; s += 8, n_bytes -= 8) {
        memcpy(&w, s, 8);
        h = vocab_mix(h ^ w, v->seed[1]);
    }
    w = 0;
    memcpy(&w, s, n_bytes);
    return vocab_mix(vocab_mix(h ^ w, v->seed[1]), v->seed[0] | 1);
}

static inline uint64_t vocab_hash_pair(const td_vocab *v, uint32_t left, uint32_t right) {
    return vocab_mix(((uint64_t)left << 32 | right) ^ v->seed[0], v->seed[1]);
}

static inline const vocab_pair *vocab_find_pair(const td_vocab *v, uint32_t left, uint32_t right) {
    uint32_t i = (uint32_t)vocab_hash_pair(v, left, right) & v->pair_mask;
    for (;; i = (i + 1) & v->pair_mask) {
        const vocab_pair *p = &v->pairs[i];
        if (p->rank == UINT32_MAX) return NULL;
        if (p->left == left && p->right == right) return p;
    }
}

static inline uint32_t vocab_char(const td_vocab *v, uint32_t cp) {
    return v->char_ids[(uint32_t)v->char_page[cp >> 8] << 8 | (cp & 0xFF)];
}

static inline uint32_t vocab_join_bit(const td_vocab *v, uint32_t a, uint32_t b) {
    return (uint32_t)vocab_hash_pair(v, a, b) & v->join_mask;
}

/* May a token span the boundary between these two normalised characters? False hits are harmless. */
static inline bool vocab_joins(const td_vocab *v, uint32_t a, uint32_t b) {
    if (a == 0x2581) a = 0x20;
    if (b == 0x2581) b = 0x20;
    if ((a | b) < 128) return v->ascii_joins[(a << 7 | b) >> 3] >> (b & 7) & 1;
    uint32_t bit = vocab_join_bit(v, a, b);
    return v->joins[bit >> 6] >> (bit & 63) & 1;
}

/* The merges of an official vocabulary from its order alone (vocab_derive.c): [*n][3] left, right, result; malloc'ed.
 */
td_status vocab_derive_merges(const td_vocab *v, uint32_t (**out)[3], uint64_t *n, td_error *err);

#endif
