/* Between grammar.c and the makers of trees: a finished tree becomes a grammar; a JSON schema becomes a tree. */
#ifndef TD_TEXT_GRAMMAR_SCHEMA_H
#define TD_TEXT_GRAMMAR_SCHEMA_H

#include "grammar.h"
#include "grammar_ast.h"

/* Every rule of the tree is defined; `root` is the index of the start rule. */
td_status td_grammar_from_tree(td_grammar **out, const td_vocab *v, const g_tree *tree, uint32_t root, td_error *err);

/* Makes `node` the start rule; NULL is the failure of what made it. */
td_status td_grammar_root(g_tree *tree, g_node *node, uint32_t *root, td_error *err);
/* A thought before `answer`; NULL after a failure (err is filled when the vocabulary lacks the tokens). */
g_node *g_with_thought(g_tree *tree, const td_vocab *v, td_thought thought, g_node *answer, td_error *err);

/* Adds the rules of the schema to the tree; *root is the one to start from. `quote`: TD_TOKEN_NONE for JSON texts, or
 * the token that quotes strings in the arguments of Gemma 4's tool calls. */
td_status g_schema_build(g_tree *tree, const char *schema, size_t n_bytes, const td_schema_options *options,
                         uint32_t quote, uint32_t *root, td_error *err);

#endif
