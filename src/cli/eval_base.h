/* The base file of a KL comparison, in llama-perplexity's layout: tokens, then for every scored position the
 * log-probabilities of a reference run in 16 bits. */
#ifndef TD_CLI_EVAL_BASE_H
#define TD_CLI_EVAL_BASE_H

#include "../base/atomic_file.h"
#include "../base/map.h"

#include <stdint.h>

typedef struct eval_base {
    td_map map;
    int n_ctx, n_vocab, n_chunk;
    const uint8_t *tokens, *rows; /* little-endian; rows of row_bytes each */
    size_t row_bytes;
    int rows_per_chunk;
} eval_base;

td_status eval_base_open(eval_base *b, const char *path, td_error *err);
void eval_base_close(eval_base *b);
/* Log-probabilities of row `i` (over all chunks) into out [n_vocab]. */
void eval_base_row(const eval_base *b, size_t i, float *out);

/* Writing: header, then rows in order. */
td_status eval_base_begin(td_atomic_file *f, int n_ctx, int n_vocab, int n_chunk, const uint32_t *tokens,
                          td_error *err);
/* logits [n_vocab] with their log-sum; `buffer` has row_bytes. */
td_status eval_base_add(td_atomic_file *f, const float *logits, int n_vocab, double log_sum, uint16_t *buffer,
                        td_error *err);
size_t eval_base_row_bytes(int n_vocab);

#endif
