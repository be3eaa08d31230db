/* The tree of token texts: tokens sorted by their bytes, nodes made from what neighbours have in common. */
#include "token_trie.h"

#include "../base/checked.h"
#include "vocab_impl.h"

#include <stdlib.h>

typedef struct entry {
    const char *text;
    uint32_t n_bytes, id;
} entry;

static int by_bytes(const void *pa, const void *pb) {
    const entry *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes);
    if (c) return c;
    if (a->n_bytes != b->n_bytes) return a->n_bytes < b->n_bytes ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static uint32_t common(const entry *a, const entry *b) {
    uint32_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes, i = 0;
    while (i < n && a->text[i] == b->text[i]) i++;
    return i;
}

/* Nodes in preorder; open[d] is the last node of depth d. */
static bool add_nodes(td_token_trie *t, const entry *entries, uint32_t n, uint32_t *open) {
    uint32_t depth = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t shared = i ? common(&entries[i - 1], &entries[i]) : 0;
        for (; depth > shared; depth--) t->nodes[open[depth]].skip = t->n_nodes;
        for (; depth < entries[i].n_bytes; t->n_nodes++) {
            uint8_t byte = (uint8_t)entries[i].text[depth++];
            open[depth] = t->n_nodes;
            t->nodes[t->n_nodes] = (td_trie_node){0, i, (uint16_t)depth, byte};
        }
        t->tokens[i] = entries[i].id;
    }
    for (; depth > 0; depth--) t->nodes[open[depth]].skip = t->n_nodes;
    t->nodes[t->n_nodes] = (td_trie_node){t->n_nodes, n, 0, 0};
    t->n_tokens = n;
    return true;
}

static td_token_trie *make(const td_vocab *v) {
    td_token_trie *t = td_calloc(1, sizeof *t);
    entry *entries = td_calloc((size_t)v->n_tokens + 1, sizeof *entries);
    uint32_t *open = td_calloc((size_t)v->max_piece + 2, sizeof *open), n = 0;
    size_t n_nodes = 0;
    for (uint32_t id = 0; entries && id < v->n_tokens; id++) {
        td_slice p = td_vocab_piece(v, id, true);
        if (p.n_bytes && (v->flags[id] & (TD_TOKEN_NORMAL | TD_TOKEN_BYTE)))
            entries[n++] = (entry){p.data, (uint32_t)p.n_bytes, id};
    }
    if (n) qsort(entries, n, sizeof *entries, by_bytes);
    for (uint32_t i = 0; i < n; i++) n_nodes += entries[i].n_bytes - (i ? common(&entries[i - 1], &entries[i]) : 0);
    if (t) t->nodes = n_nodes < UINT32_MAX ? td_calloc(n_nodes + 1, sizeof *t->nodes) : NULL;
    if (t) t->tokens = td_calloc((size_t)n + 1, sizeof *t->tokens);
    bool ok = t && entries && open && t->nodes && t->tokens && add_nodes(t, entries, n, open);
    if (ok) t->max_depth = v->max_piece;
    free(entries);
    free(open);
    if (ok) return t;
    td_token_trie_free(t);
    return NULL;
}

void td_token_trie_free(td_token_trie *t) {
    if (!t) return;
    free(t->nodes);
    free(t->tokens);
    free(t);
}

const td_token_trie *td_vocab_trie(const td_vocab *v) {
    /* The vocabulary is shared and otherwise immutable: the tree is a note made once, whoever comes first. */
    struct td_token_trie *_Atomic *place = (struct td_token_trie * _Atomic *)&v->trie;
    td_token_trie *known = atomic_load_explicit(place, memory_order_acquire), *none = NULL;
    if (known) return known;
    td_token_trie *mine = make(v);
    if (mine && !atomic_compare_exchange_strong(place, &none, mine)) {
        td_token_trie_free(mine);
        return none;
    }
    return mine;
}
