/* Row operations, written once over the vector types of an instruction set (vec_*.h).
 *
 * All instruction sets give the same bits: sums run in 16 lanes (lane i takes elements i, i + 16, ...; a tail is padded
 * with zeros) that are reduced as a tree; everything else is lane by lane, with fused operations where they are
 * written. tests/kernel/test_rows.c holds the bits equal and the values to double precision. */
#ifndef TD_KERNELS_ROWS_H
#define TD_KERNELS_ROWS_H

#include "rows_vec.h"

/* ---- rows of floats ---- */

#define ROW_LOOP for (int64_t i = 0; i < n; i += 16)

static float row_rms_scale(const float *x, int64_t n, float eps) {
    v16 s = v16_set1(0.0f);
    ROW_LOOP {
        v16 v = v16_load_n(x + i, n - i);
        s = v16_fma(v, v, s);
    }
    return 1.0f / sqrtf(v16_sum(s) / (float)n + eps);
}

/* x * inv * w; w NULL: 1. */
TD_ROW v16 normed(const float *x, const float *w, int64_t n, float inv) {
    v16 v = v16_mul(v16_load_n(x, n), v16_set1(inv));
    return w ? v16_mul(v, v16_load_n(w, n)) : v;
}

static void row_rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps) {
    float inv = row_rms_scale(x, n, eps);
    ROW_LOOP v16_store_n(y + i, normed(x + i, w ? w + i : NULL, n - i, inv), n - i);
}

static void row_rmsnorm_add(float *h, const float *x, const float *w, int64_t n, float eps, float scale) {
    float inv = row_rms_scale(x, n, eps);
    ROW_LOOP {
        v16 v = v16_add(v16_load_n(h + i, n - i), normed(x + i, w ? w + i : NULL, n - i, inv));
        v16_store_n(h + i, v16_mul(v, v16_set1(scale)), n - i);
    }
}

static void row_rope(float *x, int64_t d, const float *cos, const float *sin, int64_t n) {
    float *hi = x + d / 2;
    ROW_LOOP {
        v16 a = v16_load_n(x + i, n - i), b = v16_load_n(hi + i, n - i);
        v16 c = v16_load_n(cos + i, n - i), s = v16_load_n(sin + i, n - i);
        v16_store_n(x + i, v16_sub(v16_mul(a, c), v16_mul(b, s)), n - i);
        v16_store_n(hi + i, v16_add(v16_mul(b, c), v16_mul(a, s)), n - i);
    }
}

static void row_head_norm_rope(float *x, int64_t n_head, int64_t d, int64_t stride, const float *w, float eps,
                               const float *cos, const float *sin, int64_t n_pairs) {
    for (int64_t h = 0; h < n_head; h++) {
        row_rmsnorm(x + h * stride, x + h * stride, w, d, eps);
        row_rope(x + h * stride, d, cos, sin, n_pairs);
    }
}

static void row_add(float *y, const float *x, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_add(v16_load_n(y + i, n - i), v16_load_n(x + i, n - i)), n - i);
}
static void row_scale(float *y, const float *x, float a, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_mul(v16_load_n(x + i, n - i), v16_set1(a)), n - i);
}
static void row_axpy(float *y, const float *x, float a, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_fma(v16_set1(a), v16_load_n(x + i, n - i), v16_load_n(y + i, n - i)), n - i);
}
static void row_mul(float *y, const float *x, const float *w, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_mul(v16_load_n(x + i, n - i), v16_load_n(w + i, n - i)), n - i);
}
static void row_add_scale(float *y, const float *x, float a, int64_t n) {
    ROW_LOOP {
        v16 v = v16_add(v16_load_n(y + i, n - i), v16_load_n(x + i, n - i));
        v16_store_n(y + i, v16_mul(v, v16_set1(a)), n - i);
    }
}
static void row_gelu_mul(float *y, const float *g, const float *u, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_mul(v16_gelu(v16_load_n(g + i, n - i)), v16_load_n(u + i, n - i)), n - i);
}
static void row_softcap(float *y, const float *x, float cap, int64_t n) {
    v16 c = v16_set1(cap);
    ROW_LOOP v16_store_n(y + i, v16_mul(c, v16_tanh(v16_div(v16_load_n(x + i, n - i), c))), n - i);
}
static void row_exp(float *y, const float *x, int64_t n) {
    ROW_LOOP v16_store_n(y + i, v16_exp(v16_load_n(x + i, n - i)), n - i);
}
static void row_softmax(float *y, const float *x, int64_t n) {
    v16 m = v16_set1(-INFINITY), s = v16_set1(0.0f);
    float pad[16];
    ROW_LOOP {
        for (int j = 0; j < 16; j++) pad[j] = i + j < n ? x[i + j] : -INFINITY;
        m = v16_max(v16_load(n - i < 16 ? pad : x + i), m);
    }
    float max = v16_largest(m);
    ROW_LOOP {
        for (int j = 0; j < 16 && n - i < 16; j++) pad[j] = i + j < n ? x[i + j] : -INFINITY;
        v16 e = v16_exp(v16_sub(v16_load(n - i < 16 ? pad : x + i), v16_set1(max)));
        s = v16_add(s, e);
        v16_store_n(y + i, e, n - i);
    }
    row_scale(y, y, 1.0f / v16_sum(s), n);
}

/* ---- rows into activations ---- */

TD_ROW void put(uint8_t *p, float x) {
    memcpy(p, &x, 4);
}
TD_ROW void put_i(uint8_t *p, int32_t x) {
    memcpy(p, &x, 4);
}

/* One block of 32 values: codes, scale, sums; x: the block's extras, NULL: none (matrix.h, td_acts). */
TD_ROW void quantise(uint8_t *block, uint8_t *x, int lane, v16 lo, v16 hi) {
    float max = v16_largest(v16_max(v16_abs(lo), v16_abs(hi)));
    bool tiny = !(max > 1e-30f); /* no scale that a float holds: the block counts as zero */
    v16 inv = v16_set1(tiny ? 0.0f : 127.0f / max);
    float d = tiny ? 0.0f : max / 127.0f;
    vi first = vi_zero(), both = vi_zero();
    lo = v16_mul(lo, inv);
    hi = v16_mul(hi, inv);
    TD_LANES {
        vi a = vi_nearest(lo.v[l]), b = vi_nearest(hi.v[l]);
        vi_store_i8(block + 32 * lane + TD_R * l, a);
        vi_store_i8(block + 32 * lane + 16 + TD_R * l, b);
        first = vi_add(first, a);
        both = vi_add(both, vi_add(a, b));
    }
    int32_t sum = vi_sum(both);
    put(block + TD_I8_SCALE + 4 * lane, d);
    put_i(block + TD_I8_SCALE + 32 + 4 * lane, -8 * sum);
    if (!x) return;
    int32_t sum0 = vi_sum(first), sum1 = sum - sum0;
    put_i(x + 4 * lane, -8 * sum0);
    put_i(x + 32 + 4 * lane, -8 * sum1);
    put(x + 64 + 4 * lane, d * (float)sum);
    put(x + 96 + 4 * lane, d * (float)sum0);
    put(x + 128 + 4 * lane, d * (float)sum1);
}

/* The transform of the TQ types on 32 values: signs, butterflies, 1 / sqrt(32) (quant-formats.md 1.10). */
static void transform(float z[32]) {
    for (uint32_t i = 0; i < 32; i++)
        if (0x696b4b4au >> i & 1u) z[i] = -z[i];
    for (int h = 1; h < 32; h *= 2)
        for (int i = 0; i < 32; i += 2 * h)
            for (int j = i; j < i + h; j++) {
                float a = z[j], b = z[j + h];
                z[j] = a + b;
                z[j + h] = a - b;
            }
    for (int i = 0; i < 32; i++) z[i] *= 0.17677669529663688f;
}

/* Where row t's block b lies in every part. */
TD_ROW void set_block(const td_acts *a, int32_t t, int64_t b, v16 lo, v16 hi) {
    size_t at = (size_t)(t / TD_PANEL) * (size_t)a->n_blocks + (size_t)b;
    int lane = t % TD_PANEL;
    if (a->i8) quantise(a->i8 + at * TD_I8_BLOCK, a->i8x ? a->i8x + at * TD_I8X_BLOCK : NULL, lane, lo, hi);
    if (a->f32) {
        float *p = a->f32 + at * TD_PANEL * 32 + 32 * lane;
        v16_store(p, lo);
        v16_store(p + 16, hi);
    }
    if (a->wht) {
        float z[32];
        v16_store(z, lo);
        v16_store(z + 16, hi);
        transform(z);
        quantise(a->wht + at * TD_I8_BLOCK, a->whtx + at * TD_I8X_BLOCK, lane, v16_load(z), v16_load(z + 16));
    }
}

static void row_acts_set(const td_acts *a, int32_t t, const float *x, const float *w, float inv, int64_t b0,
                         int64_t b1) {
    for (int64_t b = b0; b < b1; b++) {
        int64_t i = 32 * b, n = a->k - i;
        v16 lo = normed(x + i, w ? w + i : NULL, n, inv), hi = v16_set1(0.0f);
        if (n > 16) hi = normed(x + i + 16, w ? w + i + 16 : NULL, n - 16, inv);
        set_block(a, t, b, lo, hi);
    }
}

static void row_acts_glu(const td_acts *a, int32_t t, const float *g, const float *u, int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; b++, g += 32, u += 32) {
        int64_t n = a->k - 32 * b;
        v16 lo = v16_mul(v16_gelu(v16_load_n(g, n)), v16_load_n(u, n)), hi = v16_set1(0.0f);
        if (n > 16) hi = v16_mul(v16_gelu(v16_load_n(g + 16, n - 16)), v16_load_n(u + 16, n - 16));
        set_block(a, t, b, lo, hi);
    }
}

#define TD_ROWS_INTO(k)                                                                                                \
    do {                                                                                                               \
        (k)->rmsnorm = row_rmsnorm;                                                                                    \
        (k)->rmsnorm_add = row_rmsnorm_add;                                                                            \
        (k)->rms_scale = row_rms_scale;                                                                                \
        (k)->head_norm_rope = row_head_norm_rope;                                                                      \
        (k)->add = row_add;                                                                                            \
        (k)->scale = row_scale;                                                                                        \
        (k)->axpy = row_axpy;                                                                                          \
        (k)->mul = row_mul;                                                                                            \
        (k)->add_scale = row_add_scale;                                                                                \
        (k)->gelu_mul = row_gelu_mul;                                                                                  \
        (k)->softcap = row_softcap;                                                                                    \
        (k)->exp = row_exp;                                                                                            \
        (k)->softmax = row_softmax;                                                                                    \
        (k)->acts_set = row_acts_set;                                                                                  \
        (k)->acts_glu = row_acts_glu;                                                                                  \
    } while (0)

#endif
