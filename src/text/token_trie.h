/* The texts of a vocabulary as a tree of bytes in preorder, for walking an automaton over all tokens at once. */
#ifndef TD_TEXT_TOKEN_TRIE_H
#define TD_TEXT_TOKEN_TRIE_H

#include "vocab.h"

typedef struct td_trie_node {
    uint32_t skip;        /* index of the first node after this one's subtree */
    uint32_t first_token; /* in `tokens`; those of this node end where the next node's begin */
    uint16_t depth;       /* bytes of its text, from 1 */
    uint8_t byte;
} td_trie_node;

typedef struct td_token_trie {
    td_trie_node *nodes; /* [n_nodes + 1], the last one only ends the tokens */
    uint32_t n_nodes, n_tokens, max_depth;
    uint32_t *tokens; /* normal and byte tokens with a text, in byte order */
} td_token_trie;

/* Made on first use and kept by the vocabulary; NULL without memory. Thread-safe. */
const td_token_trie *td_vocab_trie(const td_vocab *v);
void td_token_trie_free(td_token_trie *t);

#endif
