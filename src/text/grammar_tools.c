/* Grammars of whole answers: thoughts, text and tool calls in Gemma 4's form, built from token references, so that only
 * the real tokens count as structure. Text is any token but the one that begins a call: while a model writes freely a
 * state has one loop, and asking costs one look-up. */
#include "grammar_schema.h"

#include "../base/status.h"

#include <string.h>

td_status td_grammar_root(g_tree *tree, g_node *node, uint32_t *root, td_error *err) {
    static const char name[] = " answer";
    *root = node ? g_rule_named(tree, name, sizeof name - 1, 0) : UINT32_MAX;
    if (*root != UINT32_MAX) {
        tree->rules[*root].node = node;
        return TD_OK;
    }
    if (err && err->code) return err->code;
    return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too large");
}

static uint32_t need(const td_vocab *v, const char *text, td_error *err) {
    uint32_t id = td_vocab_special(v, text);
    if (id == TD_TOKEN_NONE)
        td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "the vocabulary has no token %s, which the answer needs", text);
    return id;
}

/* Any run of tokens without these two. */
static g_node *run_without(g_tree *t, uint32_t a, uint32_t b) {
    g_node *one = g_token(t, a, true);
    if (one) one->max = b;
    return g_repeat(t, one, 0, G_INF);
}

g_node *g_with_thought(g_tree *t, const td_vocab *v, td_thought thought, g_node *answer, td_error *err) {
    if (thought == TD_THOUGHT_NONE) return answer;
    uint32_t open = need(v, "<|channel>", err), close = need(v, "<channel|>", err);
    uint32_t call = td_vocab_special(v, "<|tool_call>"); /* would end the thought for a parser: not inside */
    if (open == TD_TOKEN_NONE || close == TD_TOKEN_NONE) return NULL;
    g_node *inside = g_seq_of(t, 2, run_without(t, close, call), g_token(t, close, false));
    g_node *breaks = g_repeat(t, g_text(t, "\n"), 0, 2);
    g_node *whole = g_seq_of(t, 3, g_token(t, open, false), g_text(t, "thought\n"), inside);
    if (thought == TD_THOUGHT_OPEN) return g_seq_of(t, 3, inside, breaks, answer);
    return g_seq_of(t, 2, g_repeat(t, g_seq_of(t, 2, whole, breaks), 0, 1), answer);
}

/* call:NAME{...} of one of the tools. */
static g_node *any_call(g_tree *t, const td_grammar_tool *tools, size_t n_tools, const td_tools_options *o,
                        uint32_t quote, td_error *err) {
    static const char any[] = "{\"type\":\"object\"}";
    g_list calls = {0};
    for (size_t i = 0; i < n_tools; i++) {
        td_slice s = tools[i].schema.n_bytes ? tools[i].schema : (td_slice){any, sizeof any - 1};
        uint32_t root = 0;
        if (g_schema_build(t, s.data, s.n_bytes, &o->schema, quote, &root, err)) {
            td_error_prefix(err, "tool %.*s", (int)(tools[i].name.n_bytes & 0x3F), tools[i].name.data);
            return NULL;
        }
        g_node *name = g_literal(t, tools[i].name.data, tools[i].name.n_bytes);
        g_list_add(t, &calls, g_seq_of(t, 2, name, g_rule_ref(t, root)));
    }
    if (!calls.n) {
        td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "there is no tool to call");
        return NULL;
    }
    return g_seq_of(t, 2, g_text(t, "call:"), g_alt(t, &calls));
}

static g_node *answer_of(g_tree *t, const td_vocab *v, const td_grammar_tool *tools, size_t n_tools,
                         const td_tools_options *o, td_error *err) {
    uint32_t open = need(v, "<|tool_call>", err);
    if (open == TD_TOKEN_NONE) return NULL;
    g_node *text = g_token(t, open, true);
    if (o->choice == TD_TOOLS_NONE) return g_repeat(t, text, 0, G_INF);
    uint32_t close = need(v, "<tool_call|>", err), quote = need(v, "<|\"|>", err);
    if (close == TD_TOKEN_NONE || quote == TD_TOKEN_NONE) return NULL;
    g_node *inside = any_call(t, tools, n_tools, o, quote, err);
    g_node *call = inside ? g_seq_of(t, 3, g_token(t, open, false), inside, g_token(t, close, false)) : NULL;
    if (!call) return NULL;
    if (o->choice == TD_TOOLS_REQUIRED) {
        g_node *all = g_repeat(t, call, 1, o->parallel ? G_INF : 1);
        return g_with_thought(t, v, o->thought, all, err);
    }
    if (o->parallel) return g_repeat(t, g_alt_of(t, 2, text, call), 0, G_INF);
    return g_seq_of(t, 2, g_repeat(t, text, 0, G_INF), g_repeat(t, call, 0, 1));
}

td_status td_grammar_compile_tools(td_grammar **out, const td_vocab *v, const td_grammar_tool *tools, size_t n_tools,
                                   const td_tools_options *options, td_error *err) {
    g_tree tree;
    uint32_t root = 0;
    td_error own = {0};
    *out = NULL;
    td_status st = TD_OK;
    if (!g_tree_init(&tree)) st = td_fail(&own, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    if (!st) st = td_grammar_root(&tree, answer_of(&tree, v, tools, n_tools, options, &own), &root, &own);
    if (!st) st = td_grammar_from_tree(out, v, &tree, root, &own);
    g_tree_free(&tree);
    return st ? td_fail(err, st, own.offset, "%s", own.text) : TD_OK;
}
