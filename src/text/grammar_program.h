/* A grammar as a program of a pushdown machine over bytes: what grammar_build.c emits and grammar_run.c walks.
 *
 * Operations that read: BYTE, TOKEN, NOT_TOKEN. All others lead on without reading. Calls, counted repetitions and sets
 * push a frame {operation, payload, parent}; the payload is the count or the mask of items used. */
#ifndef TD_TEXT_GRAMMAR_PROGRAM_H
#define TD_TEXT_GRAMMAR_PROGRAM_H

#include "grammar_ast.h"
#include "vocab.h"

typedef enum g_op_kind {
    OP_RETURN,    /* end of a rule; always the operation 0 */
    OP_BYTE,      /* a byte lo..hi, then a */
    OP_TOKEN,     /* the token b, then a */
    OP_NOT_TOKEN, /* any token but b, c, control and end tokens, then a */
    OP_SPLIT,     /* a or b */
    OP_CALL,      /* rule a, then b */
    OP_REPEAT,    /* repetition a from count 0 */
    OP_REPEAT_END,
    OP_SET, /* set a from an empty mask */
    OP_SET_PICK,
    OP_SET_END,
    OP_FAIL
} g_op_kind;

typedef struct g_op {
    uint8_t kind, lo, hi;
    uint32_t a, b, c;
} g_op;

typedef struct g_repetition {
    uint32_t body, next, min, max;
} g_repetition;

typedef struct g_item_set {
    uint64_t required;
    uint32_t first_item, n_items; /* in `items`: entry operations; those from n_once on may be repeated */
    uint32_t n_once, separator, next;
} g_item_set;

typedef struct g_program {
    g_op *ops;
    uint32_t n_ops, cap_ops;
    uint32_t *rule_entry; /* [n_rules] */
    uint32_t n_rules, root;
    g_repetition *repetitions;
    uint32_t n_repetitions, cap_repetitions;
    g_item_set *sets;
    uint32_t n_sets, cap_sets;
    uint32_t *items;
    uint32_t n_items, cap_items;
} g_program;

#define G_MAX_OPS (1u << 20)

/* `tree` is complete (every rule defined). Left recursion is an error that names the rule. */
td_status g_program_build(g_program *p, const g_tree *tree, uint32_t root, td_error *err);
void g_program_free(g_program *p);

#endif
