/* What the three files of the GGUF reader share: gguf.c opens files and finds tensors, gguf_parse.c reads the header of
 * one file, gguf_keys.c answers questions about metadata. */
#ifndef TD_FILE_GGUF_INTERNAL_H
#define TD_FILE_GGUF_INTERNAL_H

#include "../base/arena.h"
#include "../base/map.h"
#include "gguf.h"

enum {
    GGUF_MIN_KEY = 14,    /* smallest key/value: length 8, one byte of name, type 4, one byte of value */
    GGUF_MIN_TENSOR = 25, /* smallest tensor info: length 8, one byte, n_dims 4, type 4, offset 8 */
    GGUF_MAX_KEYS = 1 << 16,
    GGUF_MAX_TENSORS = 1 << 20,
    GGUF_MAX_KEY_BYTES = 65535,
    GGUF_MAX_STRING = 16 << 20,
    GGUF_MAX_ARRAY = 1 << 30,
    GGUF_ALIGNMENT = 32,
    GGUF_MAX_ALIGNMENT = 1 << 16,
    GGUF_MAX_PARTS = 99999, /* five digits in the names */
    GGUF_MAX_ARCH = 63
};

typedef struct gguf_name { /* names sorted for lookup */
    const char *name;
    size_t index;
} gguf_name;

typedef struct gguf_keys {
    td_gguf_value *values; /* in the order of the file */
    gguf_name *sorted;
    size_t n;
} gguf_keys;

typedef struct gguf_part { /* one file */
    td_map map;            /* empty for a file in memory */
    const uint8_t *data;
    size_t n_bytes;
    int version;
    gguf_keys keys;
    td_gguf_tensor *tensors; /* [n_tensors], in the order of the file */
    size_t n_tensors;
} gguf_part;

struct td_gguf {
    td_arena *arena; /* names, values, tensors */
    gguf_part *parts;
    int n_parts;
    td_gguf_tensor *tensors; /* of all parts, in order */
    gguf_name *sorted;
    size_t n_tensors;
    char arch[GGUF_MAX_ARCH + 1];
};

/* Reads header, metadata and tensor infos of part->data, checks all of it. */
td_status gguf_parse(td_arena *arena, gguf_part *part, int file, td_error *err);

/* Sorts names and refuses duplicates; `what` is "key" or "tensor". */
td_status gguf_sort_names(gguf_name *names, size_t n, const char *what, td_error *err);
/* Index of `name`, or SIZE_MAX. */
size_t gguf_find_name(const gguf_name *names, size_t n, const char *name);
const td_gguf_value *gguf_find_key(const gguf_keys *keys, const char *key);

/* Any integer or boolean value as i64; false when it is another kind or does not fit. */
bool gguf_value_i64(const td_gguf_value *v, int64_t *out);
size_t gguf_kind_bytes(td_gguf_kind kind); /* of a scalar; 0 for strings and arrays */

#endif
