/* Grammar tree to program. Code is emitted backwards: each node is given the operation that follows it and returns its
 * entry, so sequences need no jumps. Classes become ranges of UTF-8 bytes, equal tails shared. Counted repetitions stay
 * counted (one body, a counter in the frame): {0,100000} costs as much as {0,2}. */
#include "../base/checked.h"
#include "../base/status.h"
#include "grammar_program.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MEMO = 4096, MAX_EMIT_DEPTH = 4096 };

typedef struct builder {
    const g_tree *tree;
    g_program *p;
    uint32_t memo[MEMO]; /* BYTE operations by hash of (lo, hi, next): tails of classes are shared */
    int depth;
    bool failed;
} builder;

/* Makes room for one more element of a growing array. */
static bool grow(builder *b, void **items, uint32_t n, uint32_t *cap, size_t size, uint32_t max) {
    if (b->failed || n >= max) return b->failed = true, false;
    if (n < *cap) return true;
    uint32_t more = *cap ? *cap * 2 : 256;
    void *p = td_reallocarray(*items, more, size);
    if (!p) return b->failed = true, false;
    *items = p;
    *cap = more;
    return true;
}

static uint32_t op(builder *b, g_op_kind kind, uint32_t a, uint32_t c) {
    void *ops = b->p->ops;
    bool ok = grow(b, &ops, b->p->n_ops, &b->p->cap_ops, sizeof(g_op), G_MAX_OPS);
    b->p->ops = ops;
    if (!ok) return 0;
    b->p->ops[b->p->n_ops] = (g_op){(uint8_t)kind, 0, 0, a, c, 0};
    return b->p->n_ops++;
}

static uint32_t byte_op(builder *b, uint8_t lo, uint8_t hi, uint32_t next) {
    uint32_t h = (next * 2654435761u ^ (uint32_t)lo << 8 ^ (uint32_t)hi << 20) >> 7 & (MEMO - 1);
    uint32_t known = b->memo[h];
    if (known) {
        const g_op *o = &b->p->ops[known];
        if (o->lo == lo && o->hi == hi && o->a == next) return known;
    }
    uint32_t at = op(b, OP_BYTE, next, 0);
    if (b->failed) return 0;
    b->p->ops[at].lo = lo;
    b->p->ops[at].hi = hi;
    b->memo[h] = at;
    return at;
}

/* Adds the byte sequences of code points lo..hi to the alternatives in *entry (UINT32_MAX: none yet). The range is cut
 * until all but a prefix of the bytes run over full ranges. */
static void emit_range(builder *b, uint32_t lo, uint32_t hi, uint32_t next, uint32_t *entry) {
    static const uint32_t last_of_length[] = {0x7F, 0x7FF, 0xFFFF};
    if (b->failed || lo > hi) return;
    for (int i = 0; i < 3; i++) {
        if (lo <= last_of_length[i] && hi > last_of_length[i]) {
            emit_range(b, lo, last_of_length[i], next, entry);
            emit_range(b, last_of_length[i] + 1, hi, next, entry);
            return;
        }
    }
    for (int i = 1; i < 4 && lo > 0x7F; i++) {
        uint32_t low_bits = (1u << (6 * i)) - 1;
        if ((lo & ~low_bits) == (hi & ~low_bits)) continue;
        if (lo & low_bits) {
            emit_range(b, lo, lo | low_bits, next, entry);
            emit_range(b, (lo | low_bits) + 1, hi, next, entry);
            return;
        }
        if ((hi & low_bits) != low_bits) {
            emit_range(b, lo, (hi & ~low_bits) - 1, next, entry);
            emit_range(b, hi & ~low_bits, hi, next, entry);
            return;
        }
    }
    char from[4], to[4];
    int n = td_utf8_put(lo, from);
    td_utf8_put(hi, to);
    uint32_t at = next;
    for (int i = n - 1; i >= 0; i--) at = byte_op(b, (uint8_t)from[i], (uint8_t)to[i], at);
    *entry = *entry == UINT32_MAX ? at : op(b, OP_SPLIT, *entry, at);
}

static uint32_t emit(builder *b, const g_node *n, uint32_t next);

static uint32_t emit_class(builder *b, const g_node *n, uint32_t next) {
    uint32_t entry = UINT32_MAX;
    for (uint32_t i = 0; i < n->n; i++) emit_range(b, n->as.ranges[i].lo, n->as.ranges[i].hi, next, &entry);
    return entry == UINT32_MAX ? op(b, OP_FAIL, 0, 0) : entry;
}

static uint32_t emit_repeat(builder *b, const g_node *n, uint32_t next) {
    const g_node *kid = n->as.kids[0];
    if (n->max == 0) return next;
    if (n->min == 1 && n->max == 1) return emit(b, kid, next);
    if (n->max == 1) return op(b, OP_SPLIT, emit(b, kid, next), next);
    if (n->max == G_INF && n->min <= 1) {
        uint32_t loop = op(b, OP_SPLIT, 0, next), body = emit(b, kid, loop);
        if (b->failed) return 0;
        b->p->ops[loop].a = body;
        return n->min ? body : loop;
    }
    void *list = b->p->repetitions;
    bool ok = grow(b, &list, b->p->n_repetitions, &b->p->cap_repetitions, sizeof(g_repetition), G_MAX_OPS);
    b->p->repetitions = list;
    if (!ok) return 0;
    uint32_t index = b->p->n_repetitions++;
    b->p->repetitions[index] = (g_repetition){0, next, n->min, n->max};
    uint32_t body = emit(b, kid, op(b, OP_REPEAT_END, index, 0));
    b->p->repetitions[index].body = body;
    return op(b, OP_REPEAT, index, 0);
}

static uint32_t emit_set(builder *b, const g_node *n, uint32_t next) {
    void *list = b->p->sets;
    bool ok = grow(b, &list, b->p->n_sets, &b->p->cap_sets, sizeof(g_item_set), G_MAX_OPS);
    b->p->sets = list;
    if (!ok) return 0;
    uint32_t index = b->p->n_sets++, end = op(b, OP_SET_END, index, 0), entries[65];
    for (uint32_t i = 0; i < n->n; i++) entries[i] = emit(b, n->as.kids[i], end);
    g_item_set s = {n->bits, b->p->n_items, n->n, n->min, 0, next};
    for (uint32_t i = 0; i < n->n; i++) {
        void *items = b->p->items;
        ok = grow(b, &items, b->p->n_items, &b->p->cap_items, sizeof(uint32_t), G_MAX_OPS);
        b->p->items = items;
        if (!ok) return 0;
        b->p->items[b->p->n_items++] = entries[i];
    }
    s.separator = emit(b, n->separator, op(b, OP_SET_PICK, index, 0));
    b->p->sets[index] = s;
    return op(b, OP_SET, index, 0);
}

static uint32_t emit(builder *b, const g_node *n, uint32_t next) {
    uint32_t at = next;
    if (b->failed || ++b->depth > MAX_EMIT_DEPTH) return b->failed = true, 0u;
    switch (n->kind) {
    case G_EMPTY:
        break;
    case G_LITERAL:
        for (uint32_t i = n->n; i-- > 0;) at = byte_op(b, (uint8_t)n->as.bytes[i], (uint8_t)n->as.bytes[i], at);
        break;
    case G_CLASS:
        at = emit_class(b, n, next);
        break;
    case G_SEQ:
        for (uint32_t i = n->n; i-- > 0;) at = emit(b, n->as.kids[i], at);
        break;
    case G_ALT:
        at = n->n ? emit(b, n->as.kids[n->n - 1], next) : op(b, OP_FAIL, 0, 0);
        for (uint32_t i = n->n ? n->n - 1 : 0; i-- > 0;) {
            uint32_t kid = emit(b, n->as.kids[i], next);
            at = op(b, OP_SPLIT, kid, at);
        }
        break;
    case G_REPEAT:
        at = emit_repeat(b, n, next);
        break;
    case G_RULE:
        at = op(b, OP_CALL, n->index, next);
        break;
    case G_TOKEN:
        at = op(b, OP_TOKEN, next, n->index);
        break;

    case G_NOT_TOKEN:
        at = op(b, OP_NOT_TOKEN, next, n->index);
        if (!b->failed) b->p->ops[at].c = n->max;
        break;
    case G_SET:
        at = emit_set(b, n, next);
        break;
    }
    b->depth--;
    return at;
}

/* ---- left recursion ---------------------------------------------------------------------------------------------- */

typedef struct leftmost { /* what a rule may begin with, as edges rule -> rule */
    const g_tree *tree;
    bool *nullable;            /* [n_rules] */
    uint32_t *edges, *edge_at; /* edges of rule r: [edge_at[r], edge_at[r + 1]) */
    uint32_t n_edges, cap_edges;
    uint64_t work; /* visited nodes, bounded: a hostile order of rules would need quadratic time */
    bool failed;
} leftmost;

#define MAX_WORK (1u << 27)

static bool nullable(leftmost *l, const g_node *n) {
    if (++l->work > MAX_WORK) return l->failed = true;
    switch (n->kind) {
    case G_EMPTY:
        return true;
    case G_RULE:
        return l->nullable[n->index];
    case G_REPEAT:
        return n->min == 0 || nullable(l, n->as.kids[0]);
    case G_SET:
        return n->bits == 0;
    case G_SEQ:
        for (uint32_t i = 0; i < n->n; i++)
            if (!nullable(l, n->as.kids[i])) return false;
        return true;
    case G_ALT:
        for (uint32_t i = 0; i < n->n; i++)
            if (nullable(l, n->as.kids[i])) return true;
        return false;
    default:
        return false;
    }
}

static void add_edges(leftmost *l, const g_node *n) {
    if (l->failed || ++l->work > MAX_WORK) {
        l->failed = true;
        return;
    }
    if (n->kind == G_RULE) {
        if (l->n_edges == l->cap_edges) {
            uint32_t cap = l->cap_edges ? l->cap_edges * 2 : 256;
            uint32_t *edges = td_reallocarray(l->edges, cap, sizeof *edges);
            if (!edges) {
                l->failed = true;
                return;
            }
            l->edges = edges;
            l->cap_edges = cap;
        }
        l->edges[l->n_edges++] = n->index;
    } else if (n->kind == G_SEQ) {
        for (uint32_t i = 0; i < n->n; i++) {
            add_edges(l, n->as.kids[i]);
            if (!nullable(l, n->as.kids[i])) break;
        }
    } else if (n->kind == G_ALT || n->kind == G_REPEAT || n->kind == G_SET) {
        for (uint32_t i = 0; i < n->n; i++) add_edges(l, n->as.kids[i]);
        if (n->kind == G_SET) add_edges(l, n->separator); /* an item may be empty */
    }
}

/* Depth-first over the edges without recursion; a rule met again while it is open is left-recursive. */
static uint32_t find_cycle(const leftmost *l, uint8_t *color, uint32_t *stack, uint32_t *next) {
    uint32_t n_rules = l->tree->n_rules;
    for (uint32_t start = 0; start < n_rules; start++) {
        uint32_t depth = 0;
        if (color[start]) continue;
        stack[depth++] = start;
        color[start] = 1;
        next[start] = l->edge_at[start];
        while (depth) {
            uint32_t r = stack[depth - 1];
            if (next[r] == l->edge_at[r + 1]) {
                color[r] = 2;
                depth--;
                continue;
            }
            uint32_t to = l->edges[next[r]++];
            if (color[to] == 1) return to;
            if (color[to] == 2) continue;
            color[to] = 1;
            next[to] = l->edge_at[to];
            stack[depth++] = to;
        }
    }
    return UINT32_MAX;
}

static td_status check_left_recursion(const g_tree *tree, td_error *err) {
    uint32_t n = tree->n_rules, cycle = UINT32_MAX;
    leftmost l = {.tree = tree, .nullable = td_calloc((size_t)n + 1, 1), .edge_at = td_calloc((size_t)n + 2, 4)};
    uint8_t *color = td_calloc((size_t)n + 1, 1);
    uint32_t *stack = td_calloc((size_t)n + 1, 4), *next = td_calloc((size_t)n + 1, 4);
    l.failed = !l.nullable || !l.edge_at || !color || !stack || !next;
    for (bool changed = true; changed && !l.failed;) {
        changed = false;
        for (uint32_t k = 0; k < 2 * n; k++) { /* forwards, then backwards: chains settle either way at once */
            uint32_t r = k < n ? k : 2 * n - 1 - k;
            if (!l.nullable[r] && nullable(&l, tree->rules[r].node)) changed = l.nullable[r] = true;
        }
    }
    for (uint32_t r = 0; r < n && !l.failed; r++) {
        l.edge_at[r] = l.n_edges;
        add_edges(&l, tree->rules[r].node);
        l.edge_at[r + 1] = l.n_edges;
    }
    if (!l.failed) cycle = find_cycle(&l, color, stack, next);
    free(l.nullable);
    free(l.edges);
    free(l.edge_at);
    free(color);
    free(stack);
    free(next);
    if (l.failed) return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too large to be checked");
    if (cycle == UINT32_MAX) return TD_OK;
    return td_fail(err, TD_ERR_ARGUMENT, tree->rules[cycle].offset, "the rule \"%.80s\" is left-recursive",
                   tree->rules[cycle].name);
}

td_status g_program_build(g_program *p, const g_tree *tree, uint32_t root, td_error *err) {
    memset(p, 0, sizeof *p);
    td_status st = check_left_recursion(tree, err);
    if (st) return st;
    builder *b = td_calloc(1, sizeof *b);
    p->rule_entry = td_calloc((size_t)tree->n_rules + 1, sizeof *p->rule_entry);
    if (b && p->rule_entry) {
        b->tree = tree;
        b->p = p;
        op(b, OP_RETURN, 0, 0);
        for (uint32_t i = 0; i < tree->n_rules && !b->failed; i++) p->rule_entry[i] = emit(b, tree->rules[i].node, 0);
    }
    bool ok = b && p->rule_entry && !b->failed;
    free(b);
    p->n_rules = tree->n_rules;
    p->root = root;
    if (ok) return TD_OK;
    g_program_free(p);
    return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too large (%u operations at most)", G_MAX_OPS);
}

void g_program_free(g_program *p) {
    free(p->ops);
    free(p->rule_entry);
    free(p->repetitions);
    free(p->sets);
    free(p->items);
    memset(p, 0, sizeof *p);
}
