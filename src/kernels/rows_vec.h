/* Sixteen floats as one value, over the vector types of an instruction set (vec_*.h): arithmetic, sums in one order for
 * every set, and e^x, tanh, gelu. rows.h builds the row operations from them. */
#ifndef TD_KERNELS_ROWS_VEC_H
#define TD_KERNELS_ROWS_VEC_H

#include "forms.h"

#include <math.h>
#include <string.h>

enum { N_VEC = 16 / TD_R }; /* vectors to a run of 16 lanes */

typedef struct v16 {
    vf v[N_VEC];
} v16;

#define TD_ROW   static inline __attribute__((always_inline))
#define TD_LANES _Pragma("GCC unroll 16") for (int l = 0; l < N_VEC; l++)

TD_ROW v16 v16_set1(float x) {
    v16 r;
    TD_LANES r.v[l] = vf_set1(x);
    return r;
}
TD_ROW v16 v16_load(const float *p) {
    v16 r;
    TD_LANES r.v[l] = vf_load(p + TD_R * l);
    return r;
}
TD_ROW v16 v16_load_n(const float *p, int64_t n) { /* the first n of 16, zeros after */
    float tmp[16] = {0};
    if (n >= 16) return v16_load(p);
    memcpy(tmp, p, (size_t)n * sizeof *p);
    return v16_load(tmp);
}
TD_ROW void v16_store(float *p, v16 x) {
    TD_LANES vf_store(p + TD_R * l, x.v[l]);
}
TD_ROW void v16_store_n(float *p, v16 x, int64_t n) {
    float tmp[16];
    if (n >= 16) {
        v16_store(p, x);
        return;
    }
    v16_store(tmp, x);
    memcpy(p, tmp, (size_t)n * sizeof *p);
}

#define V16_BINARY(name)                                                                                               \
    TD_ROW v16 v16_##name(v16 a, v16 b) {                                                                              \
        v16 r;                                                                                                         \
        TD_LANES r.v[l] = vf_##name(a.v[l], b.v[l]);                                                                   \
        return r;                                                                                                      \
    }
V16_BINARY(add)
V16_BINARY(sub)
V16_BINARY(mul)
V16_BINARY(div)
V16_BINARY(max)
TD_ROW v16 v16_fma(v16 a, v16 b, v16 c) {
    v16 r;
    TD_LANES r.v[l] = vf_fma(a.v[l], b.v[l], c.v[l]);
    return r;
}
TD_ROW v16 v16_abs(v16 a) {
    v16 r;
    TD_LANES r.v[l] = vf_abs(a.v[l]);
    return r;
}
TD_ROW v16 v16_less(v16 a, v16 b, v16 yes, v16 no) { /* a < b ? yes : no */
    v16 r;
    TD_LANES r.v[l] = vf_less(a.v[l], b.v[l], yes.v[l], no.v[l]);
    return r;
}

/* The tree: lane i + lane i + 8, then + 4, + 2, + 1. */
TD_ROW float v16_sum(v16 a) {
    for (int w = N_VEC / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) a.v[i] = vf_add(a.v[i], a.v[i + w]);
    return vf_tree_sum(a.v[0]);
}
TD_ROW float v16_largest(v16 a) {
    for (int w = N_VEC / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) a.v[i] = vf_max(a.v[i], a.v[i + w]);
    return vf_largest(a.v[0]);
}

/* e^x: x = n ln 2 + r, a polynomial of r (fitted on Chebyshev nodes, error 8e-9), times 2^n in two factors, so that
 * both ends of the range come out right. Below -87.33: 0; above 88.73: infinity. */
TD_ROW v16 v16_exp(v16 x) {
    v16 y;
    TD_LANES {
        vf c = vf_min(vf_max(x.v[l], vf_set1(-88.0f)), vf_set1(89.0f));
        vi n = vi_nearest(vf_mul(c, vf_set1(1.44269504f))), half = vi_half(n);
        vf k = vf_from_vi(n), r = vf_fma(k, vf_set1(2.12194440e-4f), vf_fma(k, vf_set1(-0.693359375f), c));
        vf p = vf_fma(vf_set1(0.0013933652f), r, vf_set1(0.008363182f));
        p = vf_fma(p, r, vf_set1(0.041666467f));
        p = vf_fma(p, r, vf_set1(0.16666576f));
        p = vf_fma(p, r, vf_set1(0.5f));
        p = vf_add(vf_fma(vf_mul(p, r), r, r), vf_set1(1.0f));
        p = vf_mul(vf_mul(p, vf_pow2(half)), vf_pow2(vi_sub(n, half)));
        y.v[l] = vf_less(x.v[l], vf_set1(-87.33f), vf_zero(), p);
    }
    return y;
}

/* gelu, tanh form: 0.5 (1 + tanh u) = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
TD_ROW v16 v16_gelu(v16 x) {
    v16 u = v16_fma(v16_mul(x, x), v16_set1(-0.0713548163f), v16_set1(-1.5957691216f));
    return v16_div(x, v16_add(v16_exp(v16_mul(u, x)), v16_set1(1.0f)));
}

/* tanh: below 0.625 x + x^3 P(x^2), above 1 - 2 / (e^2|x| + 1) with the sign put back. */
TD_ROW v16 v16_tanh(v16 x) {
    v16 a = v16_abs(x), z = v16_mul(x, x), one = v16_set1(1.0f), p = v16_set1(0.0022958412f);
    p = v16_fma(p, z, v16_set1(-0.00834698f));
    p = v16_fma(p, z, v16_set1(0.021769961f));
    p = v16_fma(p, z, v16_set1(-0.053959407f));
    p = v16_fma(p, z, v16_set1(0.13333304f));
    p = v16_fma(p, z, v16_set1(-0.33333334f));
    p = v16_fma(v16_mul(p, z), x, x);
    v16 big = v16_sub(one, v16_div(v16_set1(2.0f), v16_add(v16_exp(v16_add(a, a)), one)));
    big = v16_less(x, v16_set1(0.0f), v16_sub(v16_set1(0.0f), big), big);
    return v16_less(a, v16_set1(0.625f), p, big);
}

#endif
