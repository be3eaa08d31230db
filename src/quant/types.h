/* The one table of tensor types: id, name, block, and the functions that decode and encode rows.
 *
 * Everything that reads or writes tensor data asks this table, so that a type is added in one place. Ids are those of
 * ggml's GGUF files. Decode functions are exact, and encode functions give the same bytes as the reference encoders of
 * the ggml family (spec quant-formats.md 1; tests/quant/test_vectors.c holds both to that). */
#ifndef TD_QUANT_TYPES_H
#define TD_QUANT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum td_type {
    TD_TYPE_F32 = 0,
    TD_TYPE_F16 = 1,
    TD_TYPE_Q4_0 = 2,
    TD_TYPE_Q4_1 = 3,
    TD_TYPE_Q5_0 = 6,
    TD_TYPE_Q5_1 = 7,
    TD_TYPE_Q8_0 = 8,
    TD_TYPE_Q8_1 = 9, /* activations only */
    TD_TYPE_Q2_K = 10,
    TD_TYPE_Q3_K = 11,
    TD_TYPE_Q4_K = 12,
    TD_TYPE_Q5_K = 13,
    TD_TYPE_Q6_K = 14,
    TD_TYPE_Q8_K = 15, /* activations only */
    TD_TYPE_IQ2_XXS = 16,
    TD_TYPE_IQ2_XS = 17,
    TD_TYPE_IQ3_XXS = 18,
    TD_TYPE_IQ1_S = 19,
    TD_TYPE_IQ4_NL = 20,
    TD_TYPE_IQ3_S = 21,
    TD_TYPE_IQ2_S = 22,
    TD_TYPE_IQ4_XS = 23,
    TD_TYPE_I8 = 24,
    TD_TYPE_I16 = 25,
    TD_TYPE_I32 = 26,
    TD_TYPE_I64 = 27,
    TD_TYPE_F64 = 28,
    TD_TYPE_IQ1_M = 29,
    TD_TYPE_BF16 = 30,
    TD_TYPE_TQ1_0 = 34,
    TD_TYPE_TQ2_0 = 35,
    TD_TYPE_MXFP4 = 39,
    TD_TYPE_NVFP4 = 40,
    TD_TYPE_Q1_0 = 41,
    TD_TYPE_Q2_0 = 42,
    TD_TYPE_TQ3_1S = 45,
    TD_TYPE_TQ4_1S = 46,
    /* Cache types never occur in model files; these numbers are outside the space of file ids. */
    TD_TYPE_TURBO2 = 0x10000,
    TD_TYPE_TURBO3 = 0x10001,
    TD_TYPE_TURBO4 = 0x10002
} td_type;

/* `src` holds n values in whole blocks; `dst` f32 [n]. */
typedef void (*td_decode_fn)(const void *src, float *dst, int64_t n);
/* `src` f32 [n_rows][n_per_row]; `dst` n_rows rows of blocks; `imatrix` f32 [n_per_row] importance or NULL. */
typedef void (*td_encode_fn)(const float *src, void *dst, int64_t n_per_row, int64_t n_rows, const float *imatrix);

typedef struct td_type_info {
    td_type id;
    const char *name;    /* as on command lines and in logs: "q4_K" */
    uint32_t block;      /* values per block */
    uint32_t bytes;      /* bytes per block */
    td_decode_fn decode; /* NULL: the type is known by size only (foreign types, integers) */
    td_encode_fn encode; /* NULL: cannot be written */
    bool uses_imatrix;   /* encode looks at the importance row */
    bool is_integer;     /* I8..I64: never quantised */
    bool is_quantised;   /* codes with a scale: not F32, F16, BF16, F64 or an integer */
} td_type_info;

/* The type of a tensor in a file; NULL when the id is unknown, was removed, or names a cache type. */
const td_type_info *td_type_get(uint32_t id);
/* By name, case-insensitive, cache types included ("turbo3"); NULL when unknown. */
const td_type_info *td_type_by_name(const char *name);
/* Cache types (TURBO*) and file types alike. */
const td_type_info *td_type_of(td_type id);

/* Bytes of a row of `k` values; false unless k is a whole number of blocks and the size fits. */
bool td_type_row_bytes(const td_type_info *type, uint64_t k, uint64_t *out);

/* Files of April 2026 number TQ3_1S 44 and TQ4_1S 45. `room` is the distance to the next tensor's offset (or the end
 * of the data), `align` the file's alignment: the id whose size fits, or `id` itself (spec quant-formats.md 1.2). */
uint32_t td_type_resolve(uint32_t id, uint64_t n_values, uint64_t room, uint64_t align);

#endif
