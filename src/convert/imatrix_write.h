/* Writing an importance matrix, in the two file forms that td_imatrix_open and llama-quantize read. */
#ifndef TD_CONVERT_IMATRIX_WRITE_H
#define TD_CONVERT_IMATRIX_WRITE_H

#include "../../include/tandem-types.h"
#include "../base/status.h"

#include <stddef.h>

typedef struct td_imatrix_info {
    const char *dataset;          /* name of the text */
    uint32_t n_chunk, chunk_size; /* windows that were computed, tokens of each */
    bool legacy;                  /* the older .dat instead of GGUF */
} td_imatrix_info;

/* Entries are put in order of their names. Whole or absent. */
td_status td_imatrix_write(const char *path, td_importance *entries, size_t n, const td_imatrix_info *info,
                           td_error *err);

#endif
