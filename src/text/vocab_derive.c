/* The merge list of Gemma's vocabulary, made from the order of its entries (spec A.2). The list is redundant: a pair
 * may merge exactly when its concatenation is an entry; runs of newlines, spaces and tabs rank first, longer left parts
 * first; then the learned entries by id, again longer left parts first. Checked against the official list entry by
 * entry (tests/text/test_vocab.c). */
#include "../base/checked.h"
#include "../base/status.h"
#include "vocab_impl.h"

#include <stdlib.h>

typedef struct cut {
    uint32_t left, right, result;
    uint32_t n_left, n_right; /* characters */
} cut;

typedef struct cut_list {
    cut *items;
    size_t n, cap;
} cut_list;

static bool push_cut(cut_list *l, cut c) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 1024;
        cut *items = td_reallocarray(l->items, cap, sizeof *items);
        if (!items) return false;
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = c;
    return true;
}

static bool starts_char(char c) {
    return ((uint8_t)c & 0xC0) != 0x80;
}

/* All ways to cut token `id` into two entries, the longest left part first. */
static bool cuts_of(const td_vocab *v, uint32_t id, cut_list *out) {
    td_slice t = td_vocab_text(v, id);
    uint32_t n_left = 0, n_chars = 0;
    if (v->flags[id] & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_BYTE)) return true;
    for (size_t i = 0; i < t.n_bytes; i++) n_chars += starts_char(t.data[i]);
    n_left = n_chars;
    for (size_t at = t.n_bytes; at-- > 1;) {
        if (!starts_char(t.data[at])) continue;
        n_left--;
        uint32_t left = td_vocab_find(v, t.data, at);
        if (left == TD_TOKEN_NONE) continue;
        uint32_t right = td_vocab_find(v, t.data + at, t.n_bytes - at);
        if (right == TD_TOKEN_NONE) continue;
        if (!push_cut(out, (cut){left, right, id, n_left, n_chars - n_left})) return false;
    }
    return true;
}

static int by_length(const void *pa, const void *pb) {
    const cut *a = pa, *b = pb;
    if (a->n_left != b->n_left) return a->n_left > b->n_left ? -1 : 1;
    if (a->n_right != b->n_right) return a->n_right > b->n_right ? -1 : 1;
    if (a->result != b->result) return a->result < b->result ? -1 : 1;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

td_status vocab_derive_merges(const td_vocab *v, uint32_t (**out)[3], uint64_t *n, td_error *err) {
    /* The first learned entry has the score 0 too, so it is sorted with the runs. */
    uint32_t first = v->byte_ids[255] + 1, last = td_vocab_find(v, "\t", 1);
    if (last == TD_TOKEN_NONE || last <= first) last = v->n_tokens;
    cut_list learned = {0}, rest = {0};
    uint32_t(*list)[3] = NULL;
    td_status status = TD_OK;
    for (uint32_t id = 0; id < v->n_tokens; id++)
        if (!cuts_of(v, id, id > first && id < last ? &learned : &rest)) goto memory;
    list = td_calloc(learned.n + rest.n + 1, sizeof *list);
    if (!list) goto memory;
    if (rest.n) qsort(rest.items, rest.n, sizeof *rest.items, by_length);
    for (size_t i = 0; i < rest.n + learned.n; i++) {
        const cut *c = i < rest.n ? &rest.items[i] : &learned.items[i - rest.n];
        list[i][0] = c->left;
        list[i][1] = c->right;
        list[i][2] = c->result;
    }
    *out = list;
    *n = rest.n + learned.n;
done:
    free(learned.items);
    free(rest.items);
    return status;
memory:
    status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the merges of the vocabulary");
    goto done;
}
