/* The kernels' table: every operation of a forward pass except attention (src/kernels/attention.h).
 *
 * td_kernels_get chooses once by td_cpu_current: `ref` fills all, wider instruction sets override. Kernels never see
 * threads: callers split rows, groups or blocks. A row's result depends on that row only, and all instruction sets give
 * the same bits: 16 interleaved lanes of partial sums reduced as a tree, fused multiply-add, and polynomials evaluated
 * in one order everywhere (src/kernels/simd.h).
 *
 * Pointers may be unaligned unless said; n need not be a multiple of anything. x and y may be the same unless said. */
#ifndef TD_KERNELS_KERNELS_H
#define TD_KERNELS_KERNELS_H

#include "matrix.h"

struct td_tile_args;
typedef void (*td_tile_fn)(const struct td_tile_args *args);
/* Blocks [0, n) of a form of a packed group into half `g` (0, 1) of `to`; products with what was expanded. */
struct td_expanded;
struct td_rect_args;
typedef void (*td_expand_fn)(struct td_expanded *to, int g, const uint8_t *group, int64_t n);
typedef void (*td_rect_fn)(const struct td_rect_args *args);
enum { TD_TILES = 9 }; /* token counts of tiles: index 1..8 */

typedef struct td_kernels {
    const char *name; /* "avx512" */

    /* y = w * x / sqrt(mean(x^2) + eps); w NULL: 1. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int64_t n, float eps);
    /* h = (h + rmsnorm(x)) * scale: a branch joins the residual stream (scale: layer_output_scale, else 1). */
    void (*rmsnorm_add)(float *h, const float *x, const float *w, int64_t n, float eps, float scale);
    /* 1 / sqrt(mean(x^2) + eps). */
    float (*rms_scale)(const float *x, int64_t n, float eps);
    /* n_head heads of d values, `stride` values apart: rmsnorm over d (w NULL: no weight), then RoPE of pairs
     * (i, i + d/2) for i < n_pairs with cos/sin [n_pairs]; n_pairs 0: no rotation. */
    void (*head_norm_rope)(float *x, int64_t n_head, int64_t d, int64_t stride, const float *w, float eps,
                           const float *cos, const float *sin, int64_t n_pairs);

    void (*add)(float *y, const float *x, int64_t n);                      /* y += x */
    void (*scale)(float *y, const float *x, float a, int64_t n);           /* y = a * x */
    void (*axpy)(float *y, const float *x, float a, int64_t n);            /* y = fma(a, x, y) */
    void (*mul)(float *y, const float *x, const float *w, int64_t n);      /* y = x * w */
    void (*add_scale)(float *y, const float *x, float a, int64_t n);       /* y = (y + x) * a */
    void (*gelu_mul)(float *y, const float *g, const float *u, int64_t n); /* y = gelu(g) * u, tanh form */
    void (*softcap)(float *y, const float *x, float cap, int64_t n);       /* y = cap * tanh(x / cap) */
    void (*exp)(float *y, const float *x, int64_t n); /* e^x, 2 ulp; 0 below -87.3, inf above 88.7 */
    void (*softmax)(float *y, const float *x, int64_t n);

    /* Rows into activations: row t of `a`, blocks [b0, b1) of 32 (0, a->n_blocks for all), every part `a` has.
     * quantise: x itself; with inv != 1 or w: x * inv * w, that is a norm whose rms_scale the caller has.
     * Blocks of different rows may be set by different threads. x f32 [a->k]. */
    void (*acts_set)(const td_acts *a, int32_t t, const float *x, const float *w, float inv, int64_t b0, int64_t b1);
    /* gelu(g) * u into row t; here g and u begin with the first value of block b0. */
    void (*acts_glu)(const td_acts *a, int32_t t, const float *g, const float *u, int64_t b0, int64_t b1);

    /* The inner loops of the products, by form and tile (src/kernels/forms.h); callers use td_matmul and its kin. */
    td_tile_fn tile[24][TD_TILES];
    td_tile_fn pair[24][TD_TILES]; /* two groups at once; NULL: none */
    td_tile_fn wide[24];           /* 16 tokens, two panels; NULL: none */
    td_expand_fn expand[24];       /* for many tokens; NULL: none, tiles serve them */
    td_rect_fn rect[24];
    int32_t rect_from[24]; /* tokens from which they are faster */
} td_kernels;

const td_kernels *td_kernels_get(void);
/* A table for one CPU level, for tests; NULL where this build or processor lacks it. */
const td_kernels *td_kernels_for(int cpu_level);
/* What td_matmul and its kin use from now on; tests only. NULL: back to td_kernels_get's choice. */
void td_kernels_override(const td_kernels *k);

/* rmsnorm + quantise of a whole row: rms_scale, then acts_set. */
void td_acts_norm(const td_acts *a, int32_t t, const float *x, const float *w, float eps);
/* Copies row `from` of src to row `to` of dst (same k; dst's parts must be in src): grouping rows by expert. */
void td_acts_copy(const td_acts *dst, int32_t to, const td_acts *src, int32_t from);

/* Angles: cos/sin [n_pairs] of pos * freq[i], reduced in double. freq[i] = base^(-2i/d) / factor[i]. */
void td_rope_freqs(double *freq, int64_t n_pairs, int64_t d, double base, const float *factors);
void td_rope_table(float *cos, float *sin, const double *freq, int64_t n_pairs, int64_t pos);

/* The k largest of x[n], largest first, ties: lowest index first. idx [k], val [k] may be NULL. k <= n. */
void td_topk(const float *x, int64_t n, int64_t k, int32_t *idx, float *val);

#endif
