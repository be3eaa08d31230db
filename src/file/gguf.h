/* Reading GGUF files (version 3; 2 has the same layout): single or split, mapped read-only.
 *
 * Everything in the file is checked when it is opened: counts and lengths against the file's size before anything is
 * allocated, keys and names (printable ASCII, unique), value types, tensor types, shapes, offsets in exact sequence,
 * and the agreement of the parts of a split file. After td_gguf_open succeeds, every tensor's bytes lie inside a
 * mapping and every array has the length it claims; what a key means is the caller's business.
 * tests/file/test_gguf_abuse.c has one file per known attack, fuzz/fuzz_gguf.c the rest.
 *
 * Keys that start with a dot stand for "<general.architecture><key>": ".block_count" is "gemma4.block_count". */
#ifndef TD_FILE_GGUF_H
#define TD_FILE_GGUF_H

#include "../base/cursor.h"
#include "../base/status.h"
#include "../quant/types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct td_gguf td_gguf;

typedef enum td_gguf_kind { /* value types, by their codes in the file */
                            TD_GGUF_U8 = 0,
                            TD_GGUF_I8 = 1,
                            TD_GGUF_U16 = 2,
                            TD_GGUF_I16 = 3,
                            TD_GGUF_U32 = 4,
                            TD_GGUF_I32 = 5,
                            TD_GGUF_F32 = 6,
                            TD_GGUF_BOOL = 7,
                            TD_GGUF_STRING = 8,
                            TD_GGUF_ARRAY = 9,
                            TD_GGUF_U64 = 10,
                            TD_GGUF_I64 = 11,
                            TD_GGUF_F64 = 12,
                            TD_GGUF_KINDS = 13
} td_gguf_kind;

typedef struct td_gguf_array {
    td_gguf_kind element; /* not ARRAY */
    uint64_t n;
    td_slice bytes; /* the elements as in the file, unaligned */
} td_gguf_array;

typedef struct td_gguf_value {
    const char *key; /* printable ASCII, terminated */
    td_gguf_kind kind;
    union {
        uint64_t u; /* U8 U16 U32 U64 BOOL */
        int64_t i;  /* I8 I16 I32 I64 */
        double f;   /* F32 F64 */
        td_slice str;
        td_gguf_array array;
    } as;
} td_gguf_value;

enum { TD_GGUF_NAME = 64, TD_GGUF_DIMS = 4 }; /* longest tensor name with its terminator; dimensions */

typedef struct td_gguf_tensor {
    const char *name; /* printable ASCII, terminated */
    const td_type_info *type;
    int n_dims;
    uint64_t ne[TD_GGUF_DIMS]; /* ne[0] is the row length; dimensions beyond n_dims are 1 */
    const void *data;          /* aligned as the file is: assume nothing */
    size_t n_bytes;
    int file;        /* part of a split file it is in */
    uint64_t offset; /* of data in that file */
} td_gguf_tensor;

/* `path` is the file, or the first part of a split one ("…-00001-of-00003.gguf"). */
td_status td_gguf_open(td_gguf **out, const char *path, td_error *err);
/* A whole single file in memory, which must outlive the result; for tests and fuzzing. */
td_status td_gguf_open_memory(td_gguf **out, const void *data, size_t n_bytes, td_error *err);
void td_gguf_close(td_gguf *g);

const char *td_gguf_path(const td_gguf *g); /* of the first part; "memory" without a file */
const char *td_gguf_arch(const td_gguf *g); /* general.architecture; "" when it is absent */
int td_gguf_version(const td_gguf *g);
int td_gguf_n_files(const td_gguf *g);
const char *td_gguf_file_path(const td_gguf *g, int i); /* of part i */
uint64_t td_gguf_file_bytes(const td_gguf *g);          /* of all parts */

/* Metadata in the order of the file; lookups take logarithmic time. */
size_t td_gguf_n_keys(const td_gguf *g);
const td_gguf_value *td_gguf_key_at(const td_gguf *g, size_t i);
const td_gguf_value *td_gguf_find(const td_gguf *g, const char *key); /* NULL when absent */

/* Typed getters: an absent key gives the default and TD_OK; a value of another type, out of the type's range, or not
 * finite is TD_ERR_FORMAT with a text that names the key. Integer getters take any integer type whose value fits. */
td_status td_gguf_get_u32(const td_gguf *g, const char *key, uint32_t def, uint32_t *out, td_error *err);
td_status td_gguf_get_i64(const td_gguf *g, const char *key, int64_t def, int64_t *out, td_error *err);
td_status td_gguf_get_f32(const td_gguf *g, const char *key, float def, float *out, td_error *err);
td_status td_gguf_get_bool(const td_gguf *g, const char *key, bool def, bool *out, td_error *err);
/* Borrowed bytes that may hold anything, NUL included; {NULL, 0} when absent. */
td_status td_gguf_get_str(const td_gguf *g, const char *key, td_slice *out, td_error *err);
/* An array of any element type; n = 0 when absent. */
td_status td_gguf_get_array(const td_gguf *g, const char *key, td_gguf_array *out, td_error *err);
/* For values that are given once for all layers or as an array: out[n]. A scalar (or `def` when absent) is repeated; an
 * array must have at least n entries. Booleans count as 0 and 1. */
td_status td_gguf_get_u32_each(const td_gguf *g, const char *key, uint32_t def, uint32_t *out, size_t n, td_error *err);
/* TD_ERR_FORMAT "key … is missing" unless it is there. */
td_status td_gguf_require(const td_gguf *g, const char *key, td_error *err);

/* Elements. `i` < n is checked; false also when the element does not convert (a string as a number, out of range). */
bool td_gguf_array_i64(const td_gguf_array *a, uint64_t i, int64_t *out); /* integers and booleans */
bool td_gguf_array_f64(const td_gguf_array *a, uint64_t i, double *out);  /* floats and integers */
/* Strings in order: td_gguf_array_strings gives a cursor, each td_gguf_next_string one string; false at the end. */
td_cursor td_gguf_array_strings(const td_gguf_array *a);
bool td_gguf_next_string(td_cursor *c, td_slice *out);

/* Tensors in the order of the file(s). */
size_t td_gguf_n_tensors(const td_gguf *g);
const td_gguf_tensor *td_gguf_tensor_at(const td_gguf *g, size_t i);
const td_gguf_tensor *td_gguf_tensor_find(const td_gguf *g, const char *name); /* NULL when absent */
/* Gives the tensor's pages back to the system (they were packed elsewhere), or asks for them ahead of use. */
void td_gguf_release(const td_gguf *g, const td_gguf_tensor *t);
void td_gguf_prefetch(const td_gguf *g, const td_gguf_tensor *t);

const char *td_gguf_kind_name(td_gguf_kind kind); /* "u32" */

#endif
