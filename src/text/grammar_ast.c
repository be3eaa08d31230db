/* Makers of grammar trees, see grammar_ast.h. */
#include "grammar_ast.h"

#include "../base/checked.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define TREE_BYTES (64u << 20)
#define N_BUCKETS  1024

bool g_tree_init(g_tree *t) {
    memset(t, 0, sizeof *t);
    t->arena = td_arena_create(TREE_BYTES);
    t->buckets = t->arena ? td_arena_alloc(t->arena, N_BUCKETS, sizeof *t->buckets) : NULL;
    if (!t->buckets) t->failed = true;
    return !t->failed;
}

void g_tree_free(g_tree *t) {
    td_arena_destroy(t->arena);
    free(t->rules);
    memset(t, 0, sizeof *t);
}

static void *take(g_tree *t, size_t n, size_t size) {
    void *p = t->failed ? NULL : td_arena_alloc(t->arena, n, size);
    if (!p) t->failed = true;
    return p;
}

static g_node *make(g_tree *t, g_kind kind) {
    if (t->n_nodes >= G_MAX_NODES) t->failed = true;
    g_node *n = take(t, 1, sizeof *n);
    if (!n) return NULL;
    t->n_nodes++;
    n->kind = kind;
    return n;
}

void g_list_add(g_tree *t, g_list *l, g_node *n) {
    if (!n) t->failed = true;
    if (t->failed) return;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 8;
        g_node **items = take(t, cap, sizeof(g_node *));
        if (!items) return;
        if (l->n) memcpy(items, l->items, l->n * sizeof(g_node *));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = n;
}

g_node *g_empty(g_tree *t) {
    return make(t, G_EMPTY);
}

g_node *g_literal(g_tree *t, const char *bytes, size_t n_bytes) {
    if (!n_bytes) return g_empty(t);
    if (n_bytes > UINT32_MAX) t->failed = true;
    g_node *n = make(t, G_LITERAL);
    char *copy = take(t, n_bytes, 1);
    if (!n || !copy) return NULL;
    memcpy(copy, bytes, n_bytes);
    n->n = (uint32_t)n_bytes;
    n->as.bytes = copy;
    return n;
}

g_node *g_text(g_tree *t, const char *text) {
    return g_literal(t, text, strlen(text));
}

static int by_lo(const void *pa, const void *pb) {
    const g_range *a = pa, *b = pb;
    return (a->lo > b->lo) - (a->lo < b->lo);
}

/* Adds [lo, hi] without the surrogates. */
static uint32_t add_range(g_range *out, uint32_t n, uint32_t lo, uint32_t hi) {
    if (hi > 0x10FFFF) hi = 0x10FFFF;
    if (lo > hi) return n;
    if (lo < 0xD800) out[n++] = (g_range){lo, hi < 0xD800 ? hi : 0xD7FF};
    if (hi > 0xDFFF) out[n++] = (g_range){lo > 0xDFFF ? lo : 0xE000, hi};
    return n;
}

g_node *g_class(g_tree *t, const g_range *ranges, uint32_t n, bool negated) {
    g_node *node = make(t, G_CLASS);
    g_range *sorted = take(t, (size_t)n + 1, sizeof *sorted);
    g_range *out = take(t, 2 * (size_t)n + 4, sizeof *out);
    if (!node || !sorted || !out) return NULL;
    if (n) memcpy(sorted, ranges, n * sizeof *sorted);
    if (n) qsort(sorted, n, sizeof *sorted, by_lo);
    uint32_t joined = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (sorted[i].lo > sorted[i].hi) continue;
        if (joined && sorted[i].lo <= sorted[joined - 1].hi + 1) {
            if (sorted[i].hi > sorted[joined - 1].hi) sorted[joined - 1].hi = sorted[i].hi;
        } else {
            sorted[joined++] = sorted[i];
        }
    }
    uint32_t n_out = 0, from = 0;
    for (uint32_t i = 0; i < joined; i++) {
        if (!negated) n_out = add_range(out, n_out, sorted[i].lo, sorted[i].hi);
        if (negated && sorted[i].lo > from) n_out = add_range(out, n_out, from, sorted[i].lo - 1);
        from = sorted[i].hi + 1;
    }
    if (negated) n_out = add_range(out, n_out, from, 0x10FFFF);
    node->n = n_out;
    node->as.ranges = out;
    return node;
}

static g_node *with_kids(g_tree *t, g_kind kind, const g_list *l) {
    g_node *n = make(t, kind);
    if (!n) return NULL;
    n->n = l->n;
    n->as.kids = l->items;
    return n;
}

g_node *g_seq(g_tree *t, const g_list *l) {
    if (t->failed) return NULL;
    return l->n == 0 ? g_empty(t) : l->n == 1 ? l->items[0] : with_kids(t, G_SEQ, l);
}

g_node *g_alt(g_tree *t, const g_list *l) {
    if (t->failed) return NULL;
    return l->n == 1 ? l->items[0] : with_kids(t, G_ALT, l);
}

g_node *g_seq_of(g_tree *t, int n, ...) {
    g_list l = {0};
    va_list args;
    va_start(args, n);
    for (int i = 0; i < n; i++) g_list_add(t, &l, va_arg(args, g_node *));
    va_end(args);
    return g_seq(t, &l);
}

g_node *g_alt_of(g_tree *t, int n, ...) {
    g_list l = {0};
    va_list args;
    va_start(args, n);
    for (int i = 0; i < n; i++) g_list_add(t, &l, va_arg(args, g_node *));
    va_end(args);
    return g_alt(t, &l);
}

g_node *g_repeat(g_tree *t, g_node *kid, uint32_t min, uint32_t max) {
    g_list l = {0};
    g_list_add(t, &l, kid);
    g_node *n = t->failed ? NULL : with_kids(t, G_REPEAT, &l);
    if (!n) return NULL;
    n->min = min;
    n->max = max;
    return n;
}

g_node *g_rule_ref(g_tree *t, uint32_t index) {
    g_node *n = make(t, G_RULE);
    if (n) n->index = index;
    return n;
}

g_node *g_token(g_tree *t, uint32_t id, bool negated) {
    g_node *n = make(t, negated ? G_NOT_TOKEN : G_TOKEN);
    if (n) n->index = n->max = id;
    return n;
}

g_node *g_set(g_tree *t, const g_list *items, g_node *extra, uint64_t required, g_node *separator) {
    g_list l = *items;
    if (l.n > 64 || !separator) t->failed = true;
    if (extra) g_list_add(t, &l, extra);
    g_node *n = t->failed ? NULL : with_kids(t, G_SET, &l);
    if (!n) return NULL;
    n->min = items->n; /* the kids from here on may be repeated */
    n->bits = required;
    n->separator = separator;
    return n;
}

uint32_t g_rule_named(g_tree *t, const char *name, size_t n_bytes, uint64_t offset) {
    if (t->failed) return UINT32_MAX;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n_bytes; i++) h = (h ^ (uint8_t)name[i]) * 16777619u;
    uint32_t *bucket = &t->buckets[h % N_BUCKETS];
    for (uint32_t i = *bucket; i; i = t->rules[i - 1].next_hash) {
        const char *known = t->rules[i - 1].name;
        if (strlen(known) == n_bytes && memcmp(known, name, n_bytes) == 0) return i - 1;
    }
    if (t->n_rules == t->cap_rules) {
        uint32_t cap = t->cap_rules ? t->cap_rules * 2 : 64;
        g_rule *rules = t->n_rules < G_MAX_RULES ? td_reallocarray(t->rules, cap, sizeof *rules) : NULL;
        if (!rules) {
            t->failed = true;
            return UINT32_MAX;
        }
        t->rules = rules;
        t->cap_rules = cap;
    }
    char *copy = td_arena_strndup(t->arena, name, n_bytes);
    if (!copy) {
        t->failed = true;
        return UINT32_MAX;
    }
    t->rules[t->n_rules] = (g_rule){copy, NULL, *bucket, offset};
    *bucket = ++t->n_rules;
    return t->n_rules - 1;
}
