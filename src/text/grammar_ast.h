/* Grammar trees: what the GBNF parser and the schema compiler make, and what grammar_build.c turns into a program.
 * All memory is in one arena of bounded size; a failed allocation or limit sticks in `failed`, so that makers may check
 * once at the end. */
#ifndef TD_TEXT_GRAMMAR_AST_H
#define TD_TEXT_GRAMMAR_AST_H

#include "../base/arena.h"
#include "../base/cursor.h"

#define G_INF       UINT32_MAX
#define G_MAX_RULES 65536
#define G_MAX_NODES (1u << 20)
#define G_MAX_DEPTH 256     /* nesting of groups, of schemas, of trees */
#define G_MAX_COUNT 1000000 /* {m,n} */

typedef enum g_kind {
    G_EMPTY,
    G_LITERAL,   /* bytes: well-formed UTF-8 */
    G_CLASS,     /* one code point of ranges */
    G_SEQ,       /* kids in order */
    G_ALT,       /* one of kids */
    G_REPEAT,    /* kids[0], min..max times (G_INF: no end) */
    G_RULE,      /* rule `index` */
    G_TOKEN,     /* the token `index` */
    G_NOT_TOKEN, /* any one token but `index` and `max`, and no control or end token */
    G_SET        /* kids[0..n_kids-2] each at most once, in any order, kids `min` (a bit mask in `bits`) at least once,
                    separated by `separator`; the last kid any number of times if it is not NULL */
} g_kind;

typedef struct g_range {
    uint32_t lo, hi; /* code points, inclusive */
} g_range;

typedef struct g_node {
    g_kind kind;
    uint32_t n, min, max, index; /* n: kids, ranges or bytes */
    uint64_t bits;               /* G_SET: required kids */
    union {
        const char *bytes;
        const g_range *ranges; /* sorted, disjoint, without surrogates */
        struct g_node **kids;
    } as;
    struct g_node *separator;
} g_node;

typedef struct g_rule {
    char *name;
    g_node *node; /* NULL: referred to, not defined (yet) */
    uint32_t next_hash;
    uint64_t offset; /* of the first reference, for messages */
} g_rule;

typedef struct g_tree {
    td_arena *arena;
    g_rule *rules;
    uint32_t n_rules, cap_rules, n_nodes;
    uint32_t *buckets; /* [1024] rule index + 1 */
    bool failed;
} g_tree;

typedef struct g_list { /* kids being collected */
    g_node **items;
    uint32_t n, cap;
} g_list;

bool g_tree_init(g_tree *t);
void g_tree_free(g_tree *t);
void g_list_add(g_tree *t, g_list *l, g_node *n);

/* Every maker returns NULL after a failure and takes NULL kids as one. */
g_node *g_empty(g_tree *t);
g_node *g_literal(g_tree *t, const char *bytes, size_t n_bytes);
g_node *g_text(g_tree *t, const char *text); /* 0-terminated */
/* Sorts and joins a copy of the ranges; negated: everything else. Surrogates are left out. */
g_node *g_class(g_tree *t, const g_range *ranges, uint32_t n, bool negated);
g_node *g_seq(g_tree *t, const g_list *l);
g_node *g_alt(g_tree *t, const g_list *l);
g_node *g_seq_of(g_tree *t, int n, ...); /* g_node* each */
g_node *g_alt_of(g_tree *t, int n, ...);
g_node *g_repeat(g_tree *t, g_node *kid, uint32_t min, uint32_t max);
g_node *g_rule_ref(g_tree *t, uint32_t index);
g_node *g_token(g_tree *t, uint32_t id, bool negated);
g_node *g_set(g_tree *t, const g_list *items, g_node *extra, uint64_t required, g_node *separator);
/* Index of the rule of this name, made undefined if it is new; UINT32_MAX after a failure. */
uint32_t g_rule_named(g_tree *t, const char *name, size_t n_bytes, uint64_t offset);

#endif
