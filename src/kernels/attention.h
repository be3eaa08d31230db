/* Attention over cached keys and values, and the layout of the cache pages it reads.
 *
 * A page holds 64 positions of one layer in the order the kernels read them: keys with the positions side by side (so
 * that a score needs no horizontal sum), values with the dimensions side by side. Every type but f32 becomes 16-bit
 * integers with one scale per position on its way into registers, and the sums are exact integers: vpdpwssd does two
 * multiply-adds where a float lane does one, and no order of summation can change a result.
 *
 * Order of evaluation (the same for 1 row or 1,000, for any tile, thread count and instruction set): the visible range
 * of a row is cut at multiples of 256 positions (chunks); each chunk has its own maximum, exponentials and weighted
 * sum; chunks are folded in ascending order within 16 chunks (a span), spans in ascending order.
 *
 * Use, once per step: td_attn_plan_set for each kind of layer (n_head, n_kv, ranges). Per layer: every thread takes
 * units [0, td_attn_units) with td_attn_unit, barrier, merges [0, td_attn_merges) with td_attn_merge (often 0: skip the
 * barrier), barrier. Nothing allocates after td_attn_plan_create. */
#ifndef TD_KERNELS_ATTENTION_H
#define TD_KERNELS_ATTENTION_H

#include "../base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TD_ATTN_PAGE  64  /* positions of a page */
#define TD_ATTN_CHUNK 256 /* positions with a common maximum: four pages */
#define TD_ATTN_SPAN  16  /* chunks folded together */
#define TD_ATTN_D_MAX 512 /* largest head */

/* Cache types. F16 and BF16 both select 16-bit integers with one f32 scale per head and position, whose error is at or
 * below that of IEEE half precision, without its range limits. The others are named after what they cost. */
typedef enum td_kv_type {
    TD_KV_F32,
    TD_KV_F16,
    TD_KV_BF16,
    TD_KV_Q8_0,
    TD_KV_Q4_0,
    TD_KV_TURBO4,
    TD_KV_TURBO3,
    TD_KV_TURBO2,
    TD_KV_TYPE_COUNT
} td_kv_type;

const char *td_kv_type_name(td_kv_type type);
bool td_kv_type_parse(const char *name, td_kv_type *out); /* the names of -ctk: "f16", "q8_0", "turbo3", … */

/* Layout of one layer's pages. A page is [n_kv] head blocks; a head block is its keys, then its values. */
typedef struct td_attn_shape {
    td_kv_type type_k, type_v;
    uint32_t n_kv, d_head;
    uint32_t d_key;         /* key values stored on their own: d_head, or the rotated ones only where K = V */
    const float *fold;      /* K = V layers: [d_head] k_norm weight where not rotated, 0 where rotated; else NULL */
    const uint16_t *key_at; /* K = V layers: [d_key] index in the head of each stored key value; else NULL */
    size_t k_bytes, v_bytes, head_bytes, page_bytes; /* head_bytes = k + v; page_bytes = n_kv * head_bytes */
    uint32_t n_strip; /* K = V layers: groups of 32 values of V that take part in scores */
    uint8_t strip[TD_ATTN_D_MAX / 32];
} td_attn_shape;

/* Fills the sizes. `fold` and `key_at` are borrowed. ERR_ARGUMENT unless d_head is a multiple of 32 up to 512 and the
 * types are known. With `fold`, type_k must equal type_v. */
td_status td_attn_shape_init(td_attn_shape *s, td_kv_type type_k, td_kv_type type_v, uint32_t n_kv, uint32_t d_head,
                             uint32_t d_key, const float *fold, const uint16_t *key_at, td_error *err);

/* Encodes one position: k, v [n_kv][d_head] f32 (normed; k rotated) into place `at` (0..63) of `page`. Different places
 * of one page may be written by different threads at the same time. Values that are not finite are stored as 0. */
void td_attn_store(const td_attn_shape *s, void *page, uint32_t at, const float *k, const float *v);
/* The reverse, to [n_kv][d_head] f32, with every transform undone. */
void td_attn_load(const td_attn_shape *s, const void *page, uint32_t at, float *k, float *v);
/* Moves one position between pages: values byte for byte; keys too when cos_sin is NULL, else decoded, turned by
 * cos_sin [d_head/2][2] (pair i with i + d_head/2), and encoded again. Source and destination may be the same place. */
void td_attn_move(const td_attn_shape *s, void *to, uint32_t to_at, const void *from, uint32_t from_at,
                  const float *cos_sin);

/* Where the pages of one sequence are: position p of a layer is at place p % 64 of page number page[p / 64 - first],
 * at layer_base + number * page_bytes. */
typedef struct td_attn_seq {
    const uint32_t *page;
    uint32_t first;
} td_attn_seq;

/* One query token: sees positions [lo, hi) of sequence `seq`. Rows of one sequence should stand together, ascending. */
typedef struct td_attn_row {
    uint32_t seq;
    uint32_t lo, hi; /* lo >= hi: sees nothing, its output is 0 */
} td_attn_row;

/* What an attention reads and writes in one layer. */
typedef struct td_attn_call {
    const td_attn_shape *shape;
    const uint8_t *base;    /* first page of the layer */
    const td_attn_seq *seq; /* [number of sequences] */
    const float *q;         /* [n_row][n_head][d_head] f32, normed and rotated; row stride ldq floats; scale is 1 */
    float *out;             /* [n_row][n_head][d_head] f32; row stride ldo floats */
    size_t ldq, ldo;
} td_attn_call;

/* Work units of a step for one kind of layer. Filled by one thread, read by all. */
typedef struct td_attn_plan td_attn_plan;

/* Most rows of a step, heads of a row, head size, threads. Holds the scratch memory of every thread. */
td_status td_attn_plan_create(td_attn_plan **out, uint32_t max_rows, uint32_t max_heads, uint32_t max_d_head,
                              uint32_t n_threads, td_error *err);
void td_attn_plan_destroy(td_attn_plan *p);
size_t td_attn_plan_bytes(const td_attn_plan *p);

/* The rows are copied. n_head must be a multiple of n_kv; head h reads KV head h / (n_head / n_kv). */
td_status td_attn_plan_set(td_attn_plan *p, uint32_t n_head, uint32_t n_kv, const td_attn_row *rows, uint32_t n_rows,
                           td_error *err);
/* From here on for the first n_rows of them only, at most as many as were set. */
void td_attn_plan_first(td_attn_plan *p, uint32_t n_rows);
uint32_t td_attn_units(const td_attn_plan *p);
uint32_t td_attn_merges(const td_attn_plan *p);
void td_attn_unit(td_attn_plan *p, const td_attn_call *c, uint32_t i, int ith);
void td_attn_merge(td_attn_plan *p, const td_attn_call *c, uint32_t i, int ith);

#endif
