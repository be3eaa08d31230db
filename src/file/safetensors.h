/* Reading safetensors: one file, or shards named by model.safetensors.index.json, mapped read-only.
 *
 * Everything is checked at open: header length, strict JSON (jansson, duplicates refused), shapes and byte ranges in
 * exact sequence without gaps, and that index and shards name the same tensors. Facts: spec tokenizer.md part C. */
#ifndef TD_FILE_SAFETENSORS_H
#define TD_FILE_SAFETENSORS_H

#include "../base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef enum td_st_dtype {
    TD_ST_UNKNOWN = 0, /* a name this reader does not know: an error only for who needs the tensor */
    TD_ST_BOOL,
    TD_ST_U8,
    TD_ST_I8,
    TD_ST_F8_E5M2,
    TD_ST_F8_E4M3,
    TD_ST_I16,
    TD_ST_U16,
    TD_ST_F16,
    TD_ST_BF16,
    TD_ST_I32,
    TD_ST_U32,
    TD_ST_F32,
    TD_ST_I64,
    TD_ST_U64,
    TD_ST_F64
} td_st_dtype;

enum { TD_ST_DIMS = 8 };

typedef struct td_st_tensor {
    const char *name; /* UTF-8, terminated */
    td_st_dtype dtype;
    char dtype_name[16];
    int n_dims;                 /* 0: a scalar */
    uint64_t shape[TD_ST_DIMS]; /* row-major: the last is the row length */
    const void *data;           /* unaligned, little-endian */
    size_t n_bytes;
    int file;
    uint64_t offset; /* of data in that file */
} td_st_tensor;

typedef struct td_safetensors td_safetensors;

/* `path`: a .safetensors file, an index.json, or a directory that holds model.safetensors(.index.json). */
td_status td_safetensors_open(td_safetensors **out, const char *path, td_error *err);
td_status td_safetensors_open_memory(td_safetensors **out, const void *data, size_t n_bytes, td_error *err);
void td_safetensors_close(td_safetensors *s);

size_t td_safetensors_count(const td_safetensors *s);
const td_st_tensor *td_safetensors_at(const td_safetensors *s, size_t i); /* by file and offset */
const td_st_tensor *td_safetensors_find(const td_safetensors *s, const char *name);
void td_safetensors_release(const td_safetensors *s, const td_st_tensor *t);
/* Path of file i; NULL after the last, and for one in memory. */
const char *td_safetensors_path(const td_safetensors *s, int i);
uint64_t td_safetensors_bytes(const td_safetensors *s); /* of all tensors */

size_t td_st_dtype_bytes(td_st_dtype d); /* 0 for TD_ST_UNKNOWN */

#endif
