/* Weight matrices as the kernels read them, and activation rows as they multiply them.
 *
 * A matrix computes y = W x, W of n_rows rows (output features) of k values. Packing puts 16 rows side by side: four
 * consecutive values of each of 16 rows are one 64-byte line, so that one vpdpbusd (or two ymm, or four sdot) advances
 * 16 results by four products and no sum ever crosses a register. Packing only moves bytes: packed size = file size
 * (rows rounded up to 16), and a row can be taken out again. The same layout serves every instruction set.
 *
 * Numerics, the same on every machine, tile, thread count and instruction set (tests/kernel holds all to that):
 *  - x is quantised per row and 32 values: d = max|x| / 127, q = nearest-even(x * (127 / max|x|)), exact integer sums.
 *  - quantised W: one f32 accumulator per result; sub-blocks in index order; in each
 *    acc = fma(float(integer dot), dw * dx, acc), then, for types with a minimum, acc = fma(min, dx * sum(q), acc).
 *  - F32, F16, BF16 W: acc = fma(w[i], x[i], acc) for i in order, x in f32.
 *
 * A token's life: src/model binds and packs at load; in a step, rows become td_acts, matmul reads them. */
#ifndef TD_KERNELS_MATRIX_H
#define TD_KERNELS_MATRIX_H

#include "../base/status.h"
#include "../quant/types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TD_GROUP 16 /* rows of W side by side */
#define TD_PANEL 8  /* activation rows side by side */

/* What a matrix needs of its activations: the parts of td_acts, a bit set. */
enum {
    TD_ACTS_I8 = 1,  /* int8 codes, scale, sum */
    TD_ACTS_I8X = 2, /* with I8: sums of halves and scaled sums (types with minima or scales per 16 values) */
    TD_ACTS_F32 = 4, /* the values themselves */
    TD_ACTS_WHT = 8  /* int8 codes of the row after the transform of the TQ types */
};

typedef struct td_form td_form; /* one per type: src/kernels/forms.h */

typedef struct td_matrix {
    const td_type_info *type;
    const td_form *form;
    int64_t n_rows, k; /* of each expert */
    int32_t n_expert;  /* stacked matrices; 1 for a plain one */
    bool packed;
    int64_t n_groups;    /* per expert: ceil(n_rows / TD_GROUP) */
    size_t row_bytes;    /* of a row in the file */
    size_t group_bytes;  /* of a packed group */
    size_t expert_bytes; /* between experts in `data` */
    const uint8_t *data; /* packed: [n_expert][n_groups] groups; else the file's rows [n_expert][n_rows] */
    /* Packed row p holds row row_ids[p] of the source; row r is at row_pos[r]. Both NULL: the same. Borrowed. */
    const int32_t *row_ids, *row_pos;
} td_matrix;

/* ---- weights ---- */

/* Shape and sizes; `data` is NULL until one of the binds. Fails (TD_ERR_FORMAT) on a type without decode function, on a
 * k that is no whole number of blocks, and on sizes that do not fit. */
td_status td_matrix_init(td_matrix *m, uint32_t type, int64_t n_rows, int64_t k, int32_t n_expert, td_error *err);
/* Bytes of the packed form of all experts; the memory should be 64-byte aligned (td_alloc_aligned). */
size_t td_matrix_packed_bytes(const td_matrix *m);
/* Bytes of the file's form of all experts. */
size_t td_matrix_file_bytes(const td_matrix *m);

/* Packs rows [row0, row0 + n) of one expert into `dst` (the packed memory of the whole matrix). `src` holds those n
 * rows in the file's form; row0 must be a multiple of TD_GROUP, and so must n unless the rows end the matrix (padding
 * rows are zeroed). Calls on disjoint rows may run on different threads. Several tensors of one type can be packed
 * below each other (q, k, v) when all but the last have a multiple of TD_GROUP rows. */
void td_matrix_pack(const td_matrix *m, void *dst, int32_t expert, int64_t row0, int64_t n, const void *src);
/* The same with rows taken in the order of m->row_ids; `src` is the whole tensor of that expert. */
void td_matrix_pack_ordered(const td_matrix *m, void *dst, int32_t expert, int64_t row0, int64_t n, const void *src);

void td_matrix_bind_packed(td_matrix *m, const void *packed);
/* The file's own rows: each use packs a group into scratch first (slower; results are the same). */
void td_matrix_bind_plain(td_matrix *m, const void *rows);

uint32_t td_matrix_acts(const td_matrix *m);  /* parts of td_acts it needs */
size_t td_matrix_scratch(const td_matrix *m); /* bytes, 64-byte aligned, a thread needs in calls with this matrix */
uint32_t td_matrix_layout_version(void);      /* changes when packed bytes mean something else (pack cache) */

/* Row `row` (its id in the file, whatever the packed order) as f32 out[k]. Works in both forms. */
void td_matrix_row(const td_matrix *m, int32_t expert, int64_t row, float *out, void *scratch);
/* n_values of row `row` from `begin`, a multiple of 256 (per-layer embedding slices). */
void td_matrix_row_slice(const td_matrix *m, int32_t expert, int64_t row, int64_t begin, int64_t n_values, float *out,
                         void *scratch);
/* Scratch for the two above. */
size_t td_matrix_row_scratch(const td_matrix *m);

/* ---- activations ---- */

/* n_tok rows of k values, in panels of TD_PANEL rows. Values beyond k in the last block of 32 are zero. */
typedef struct td_acts {
    int32_t n_tok;
    uint32_t parts;
    int64_t k, n_blocks; /* ceil(k / 32) */
    uint8_t *i8;         /* [panel][block]{ int8 q[8][32]; f32 d[8]; i32 sum8[8] = -8 * sum q } 320 bytes */
    uint8_t *i8x;        /* [panel][block]{ i32 half8[2][8]; f32 dsum[8] = d * sum q; f32 dhalf[2][8] } 160 bytes */
    uint8_t *wht, *whtx; /* the same two of the transformed row */
    float *f32;          /* [panel][block][8][32] */
} td_acts;

size_t td_acts_bytes(int32_t n_tok, int64_t k, uint32_t parts);
/* Lays the parts out in `mem` (64-byte aligned, td_acts_bytes). Nothing is cleared: rows must be set before use. */
void td_acts_init(td_acts *a, void *mem, int32_t n_tok, int64_t k, uint32_t parts);

/* ---- products; `t0`, `n_tok`: rows [t0, t0 + n_tok) of the activations; scratch: td_matrix_scratch bytes ---- */

/* Groups [g0, g1) of one expert: y[i * ldy + p] for activation row t0 + i and packed rows p in [16 g0, min(16 g1,
 * n_rows)). Any n_tok. */
void td_matmul(const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, const td_acts *a, int32_t t0, int32_t n_tok,
               float *y, int64_t ldy, void *scratch);

/* gelu(gate x) * (up x), quantised at once into rows u0 ... of `out` (k of `out` = n_rows of both): blocks [b0, b1) of
 * 32 results. No f32 intermediate reaches memory. gate and up have the same shape; types may differ. */
void td_matmul_glu(const td_matrix *gate, const td_matrix *up, int32_t expert, int64_t b0, int64_t b1, const td_acts *a,
                   int32_t t0, int32_t n_tok, const td_acts *out, int32_t u0, void *scratch);

typedef struct td_best {
    float value;
    int32_t id;  /* row id; -1: nothing seen yet */
    float floor; /* products below it need no look */
} td_best;
#define TD_BEST_NONE ((td_best){-INFINITY, -1, -INFINITY})

/* Arg-max over packed rows [p0, p1) without storing them: best[i] is updated for activation row t0 + i (TD_BEST_NONE
 * before the first call). cap != 0: value = cap * tanh(y / cap), as td_kernels.softcap gives it.
 * `suppress`: ascending ids never chosen. Ties: lowest id. */
void td_matmul_argmax(const td_matrix *m, int64_t p0, int64_t p1, const td_acts *a, int32_t t0, int32_t n_tok,
                      float cap, const int32_t *suppress, int32_t n_suppress, td_best *best, void *scratch);
/* Keeps the better of two (lower id on a tie); order of merging does not matter. */
void td_best_merge(td_best *into, td_best other);

/* One activation row against n packed rows given by position: y[j] = W[pos[j]] x. Runs of positions in one group cost
 * one group. For the ordered head, pack with row_ids = token_ordering: a cluster is then a run of whole groups. */
void td_matmul_rows(const td_matrix *m, const int32_t *pos, int64_t n, const td_acts *a, int32_t t, float *y,
                    void *scratch);

#endif
