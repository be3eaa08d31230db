/* Importance matrices: how much each input channel of a weight matters, as other programs collected it. Both file
 * forms are read, GGUF and the older .dat (spec quant-formats.md 3.4). */
#ifndef TD_CONVERT_IMATRIX_H
#define TD_CONVERT_IMATRIX_H

#include "../base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct td_imatrix td_imatrix;

typedef struct td_imatrix_row {
    const float *values; /* [n] mean of squared activations; one row after another for stacked experts */
    uint64_t n;
} td_imatrix_row;

td_status td_imatrix_open(td_imatrix **out, const char *path, td_error *err);
void td_imatrix_close(td_imatrix *m);

/* values = NULL when the file says nothing of this tensor. */
td_imatrix_row td_imatrix_find(const td_imatrix *m, const char *tensor);
size_t td_imatrix_count(const td_imatrix *m);
uint32_t td_imatrix_chunks(const td_imatrix *m);
const char *td_imatrix_dataset(const td_imatrix *m); /* "" when unknown */

#endif
