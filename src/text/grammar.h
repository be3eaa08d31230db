/* Constrained output: GBNF and JSON schemas compiled to a pushdown automaton over UTF-8, and token masks from it.
 *
 * A td_grammar is immutable, reference-counted and shared; a td_grammar_state belongs to one generation. Compilation
 * and every step run under budgets (rules, elements, stacks, depth), so that no grammar from a request can hang or
 * exhaust the server: what does not fit is an error, and an error never means free text. */
#ifndef TD_TEXT_GRAMMAR_H
#define TD_TEXT_GRAMMAR_H

#include "buf.h"
#include "vocab.h"

typedef struct td_grammar td_grammar;
typedef struct td_grammar_state td_grammar_state;

/* GBNF, start rule "root" (or `root`). Characters of the text match normal and byte tokens only; control and
 * user-defined tokens come only where a reference <[id]> or <text> names them. !<...> is any one token but that one,
 * control and end tokens excluded. The vocabulary must outlive the grammar. Errors say line and column; codes
 * TD_ERR_ARGUMENT, TD_ERR_LIMIT, TD_ERR_MEMORY. */
td_status td_grammar_compile(td_grammar **out, const td_vocab *v, const char *gbnf, size_t n_bytes, const char *root,
                             td_error *err);

typedef enum td_thought { /* what of a thought (<|channel>thought ... <channel|>) the answer may begin with */
                          TD_THOUGHT_NONE = 0,
                          TD_THOUGHT_OPTIONAL,
                          TD_THOUGHT_OPEN /* the prompt has begun one: the answer starts inside */
} td_thought;

typedef struct td_schema_options {
    bool strict;        /* an unsupported keyword that would constrain is an error; without it those are dropped that
                           llama.cpp drops too (a remote $ref or a false schema is always an error) */
    bool fixed_order;   /* properties in the schema's order; false: any order (up to 64 of them) */
    td_thought thought; /* before the JSON text */
} td_schema_options;

/* JSON text of a schema to the grammar of its JSON texts. NULL options: all false. */
td_status td_grammar_compile_schema(td_grammar **out, const td_vocab *v, const char *schema, size_t n_bytes,
                                    const td_schema_options *options, td_error *err);

typedef struct td_grammar_tool {
    td_slice name;
    td_slice schema; /* JSON text of its parameters; empty: any arguments (only the syntax is held to) */
} td_grammar_tool;

typedef enum td_tool_choice {
    TD_TOOLS_NONE,    /* no call */
    TD_TOOLS_AUTO,    /* text, and calls where <|tool_call> begins one */
    TD_TOOLS_REQUIRED /* at least one call, and no text */
} td_tool_choice;

typedef struct td_tools_options {
    td_tool_choice choice;
    bool parallel; /* more than one call */
    td_thought thought;
    td_schema_options schema; /* its thought is ignored */
} td_tools_options;

/* Answers with tool calls in Gemma 4's form: <|tool_call>call:NAME{key:value,...}<tool_call|>, arguments by each tool's
 * schema, strings between <|"|> tokens. A thought is not constrained. TD_ERR_UNSUPPORTED when the vocabulary lacks one
 * of the tokens. For one named tool give only that one. */
td_status td_grammar_compile_tools(td_grammar **out, const td_vocab *v, const td_grammar_tool *tools, size_t n_tools,
                                   const td_tools_options *options, td_error *err);
td_grammar *td_grammar_ref(td_grammar *g);
void td_grammar_unref(td_grammar *g); /* NULL is fine */

td_status td_grammar_state_create(td_grammar_state **out, td_grammar *g, td_error *err);
td_status td_grammar_state_clone(td_grammar_state **out, const td_grammar_state *s, td_error *err);
/* dst becomes src without allocation beyond dst's growth: the cheap snapshot of a speculative round. */
td_status td_grammar_state_copy(td_grammar_state *dst, const td_grammar_state *src, td_error *err);
void td_grammar_state_destroy(td_grammar_state *s);

/* The functions below lock the grammar: states of one grammar may be used from several threads, one state not. */

/* May the token come next? End tokens are allowed exactly when the grammar is complete. */
bool td_grammar_allows(const td_grammar_state *s, uint32_t token);
/* bits[(n_vocab + 63) / 64]: bit set = allowed. TD_ERR_LIMIT when the step budget is used up (then nothing is set). */
td_status td_grammar_mask(const td_grammar_state *s, uint64_t *bits, td_error *err);
/* Advances over a token. TD_ERR_ARGUMENT when it is not allowed: the state is then unchanged. */
td_status td_grammar_accept(td_grammar_state *s, uint32_t token, td_error *err);
/* Tokens that must come next because the text has only one continuation: at most `cap` ids, 0 when there is a choice.
 * They are the tokenisation of the forced text, all but its last token where a longer one could still win. */
size_t td_grammar_forced(const td_grammar_state *s, uint32_t *out, size_t cap);
bool td_grammar_complete(const td_grammar_state *s); /* the text so far is a whole sentence */
bool td_grammar_finished(const td_grammar_state *s); /* complete, and nothing but an end may follow */

#endif
