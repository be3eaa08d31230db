/* GBNF text to a grammar tree; used by grammar.c. */
#ifndef TD_TEXT_GRAMMAR_PARSE_H
#define TD_TEXT_GRAMMAR_PARSE_H

#include "buf.h"
#include "grammar_ast.h"
#include "vocab.h"

td_status td_gbnf_parse(g_tree *tree, const td_vocab *v, const char *text, size_t n_bytes, td_error *err);

#endif
