/* The vocabulary as the metadata of a GGUF file (spec A.4): what td_vocab_from_gguf reads back to the same object. */
#include "../base/checked.h"
#include "../base/status.h"
#include "../file/gguf_write.h"
#include "vocab_file.h"
#include "vocab_impl.h"

#include <stdlib.h>

#define KEY(name) "tokenizer.ggml." name

static int32_t type_of(const td_vocab *v, uint32_t id) {
    uint32_t f = v->flags[id];
    return f & TD_TOKEN_BYTE           ? TD_TOKEN_TYPE_BYTE
           : f & TD_TOKEN_USER_DEFINED ? TD_TOKEN_TYPE_USER_DEFINED
           : f & TD_TOKEN_CONTROL      ? TD_TOKEN_TYPE_CONTROL
           : f & TD_TOKEN_UNKNOWN      ? TD_TOKEN_TYPE_UNKNOWN
           : f & TD_TOKEN_NORMAL       ? TD_TOKEN_TYPE_NORMAL
                                       : TD_TOKEN_TYPE_UNUSED;
}

static td_status put_tokens(td_gguf_writer *w, const td_vocab *v, td_error *err) {
    uint32_t n = v->n_tokens;
    td_slice *texts = td_calloc(n, sizeof *texts);
    int32_t *types = td_calloc(n, sizeof *types);
    float *scores = td_calloc(n, sizeof *scores);
    td_status st = TD_OK;
    if (!texts || !types || !scores) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
    for (uint32_t id = 0; id < n && !st; id++) {
        texts[id] = td_vocab_text(v, id);
        types[id] = type_of(v, id);
        scores[id] = -1000.0f; /* without meaning; published files carry this value */
    }
    if (!st) st = td_gguf_put_strings(w, KEY("tokens"), texts, n, err);
    if (!st) st = td_gguf_put_array(w, KEY("scores"), TD_GGUF_F32, scores, n, err);
    if (!st) st = td_gguf_put_array(w, KEY("token_type"), TD_GGUF_I32, types, n, err);
    free(texts);
    free(types);
    free(scores);
    return st;
}

static int by_rank(const void *a, const void *b) {
    uint32_t x = ((const vocab_pair *)a)->rank, y = ((const vocab_pair *)b)->rank;
    return (x > y) - (x < y);
}

static td_status put_merges(td_gguf_writer *w, const td_vocab *v, td_error *err) {
    size_t n = 0, n_bytes = 0, at = 0;
    vocab_pair *pairs = td_calloc((size_t)v->n_merges + 1, sizeof *pairs);
    td_slice *lines = td_calloc((size_t)v->n_merges + 1, sizeof *lines);
    for (uint32_t i = 0; pairs && i <= v->pair_mask; i++) {
        if (v->pairs[i].rank == UINT32_MAX) continue;
        pairs[n++] = v->pairs[i];
        n_bytes += td_vocab_text(v, v->pairs[i].result).n_bytes + 1;
    }
    char *bytes = td_calloc(n_bytes + 1, 1);
    td_status st = TD_OK;
    if (!pairs || !lines || !bytes) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the merges");
    if (!st) qsort(pairs, n, sizeof *pairs, by_rank);
    for (size_t i = 0; i < n && !st; i++) {
        td_slice l = td_vocab_text(v, pairs[i].left), r = td_vocab_text(v, pairs[i].right);
        lines[i] = (td_slice){bytes + at, l.n_bytes + 1 + r.n_bytes};
        memcpy(bytes + at, l.data, l.n_bytes);
        bytes[at + l.n_bytes] = ' ';
        memcpy(bytes + at + l.n_bytes + 1, r.data, r.n_bytes);
        at += lines[i].n_bytes;
    }
    if (!st) st = td_gguf_put_strings(w, KEY("merges"), lines, n, err);
    free(pairs);
    free(lines);
    free(bytes);
    return st;
}

td_status td_vocab_put_gguf(struct td_gguf_writer *w, const td_vocab *v, td_error *err) {
    const struct {
        const char *key;
        uint32_t id;
    } ids[] = {{KEY("bos_token_id"), v->bos},
               {KEY("eos_token_id"), v->eos},
               {KEY("unknown_token_id"), td_vocab_special(v, "<unk>")},
               {KEY("padding_token_id"), td_vocab_special(v, "<pad>")},
               {KEY("mask_token_id"), td_vocab_special(v, "<mask>")}};
    td_status st = td_gguf_put_str(w, KEY("model"), "gemma4", err);
    if (!st) st = put_tokens(w, v, err);
    if (!st) st = put_merges(w, v, err);
    for (size_t i = 0; i < sizeof ids / sizeof *ids && !st; i++)
        if (ids[i].id != TD_TOKEN_NONE) st = td_gguf_put_u32(w, ids[i].key, ids[i].id, err);
    if (!st && v->n_suppressed)
        st = td_gguf_put_array(w, KEY("suppress_tokens"), TD_GGUF_I32, v->suppressed, v->n_suppressed, err);
    if (!st) st = td_gguf_put_bool(w, KEY("add_space_prefix"), false, err);
    if (!st) st = td_gguf_put_bool(w, KEY("add_bos_token"), true, err);
    if (!st && v->add_eos) st = td_gguf_put_bool(w, KEY("add_eos_token"), true, err);
    return st;
}
