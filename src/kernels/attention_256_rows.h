/* Attention with 256-bit vectors, what works on rows of floats: the soft maximum and the queries. attention_256.h has
 * the products and the tiles. */
#ifndef TD_KERNELS_ATTENTION_256_ROWS_H
#define TD_KERNELS_ATTENTION_256_ROWS_H

#include "attention_fit.h"
#include "attention_ref.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i pair(const int16_t *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

INLINE __m256i load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE void store(void *p, __m256i x) {
    _mm256_storeu_si256((__m256i *)p, x);
}

/* --- soft maximum: the 16 lanes of the order of summation are two vectors ------------------------------------------
 */

INLINE __m256 exp_ps(__m256 x) {
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 in = _mm256_cmp_ps(x, _mm256_set1_ps(ATTN_EXP_MIN), _CMP_GE_OQ);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(ATTN_LOG2E), magic), n = _mm256_sub_ps(t, magic);
    __m256 f = _mm256_fmadd_ps(n, _mm256_set1_ps(-ATTN_LN2_HI), x);
    f = _mm256_fmadd_ps(n, _mm256_set1_ps(-ATTN_LN2_LO), f);
    __m256 p = _mm256_set1_ps(ATTN_EXP_C0);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(ATTN_EXP_C1));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(ATTN_EXP_C2));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(ATTN_EXP_C3));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(ATTN_EXP_C4));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(ATTN_EXP_C5));
    __m256 y = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(f, f), f), _mm256_set1_ps(1.0f));
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    return _mm256_and_ps(in, _mm256_castsi256_ps(bits));
}

INLINE float tree(__m256 lo, __m256 hi) {
    __m256 a = _mm256_add_ps(lo, hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

INLINE float largest(__m256 a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

INLINE __m256 inside(uint32_t v, uint32_t b, uint32_t e) { /* lanes of vector v of 8 within [b, e) */
    __m256i at = _mm256_add_epi32(_mm256_set1_epi32((int)(8 * v)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i from = _mm256_cmpgt_epi32(at, _mm256_set1_epi32((int)b - 1));
    return _mm256_castsi256_ps(_mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)e), at)));
}

static attn_soft soft_f32(const float *s, uint32_t b, uint32_t e, float *w) {
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 top = none, sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t v = b / 8; v < (e + 7) / 8; v++)
        top = _mm256_max_ps(_mm256_blendv_ps(none, _mm256_loadu_ps(s + 8 * v), inside(v, b, e)), top);
    float m = largest(top);
    __m256 max = _mm256_set1_ps(m);
    for (uint32_t v = 0; v < TD_ATTN_CHUNK / 8; v++) {
        __m256 x = _mm256_setzero_ps();
        if (8 * v < e && 8 * v + 8 > b)
            x = _mm256_and_ps(inside(v, b, e), exp_ps(_mm256_sub_ps(_mm256_loadu_ps(s + 8 * v), max)));
        sum[v % 2] = _mm256_add_ps(sum[v % 2], x);
        _mm256_storeu_ps(w + 8 * v, x);
    }
    return (attn_soft){.m = m, .l = tree(sum[0], sum[1]), .w_scale = 1.0f};
}

static attn_soft soft(const float *s, uint32_t b, uint32_t e, const float *v_scale, int16_t *w) {
    float p[TD_ATTN_CHUNK] __attribute__((aligned(32)));
    attn_soft r = soft_f32(s, b, e, p);
    __m256 top = _mm256_setzero_ps();
    float most = 0.0f;
    for (uint32_t page = 0; page < 4; page++) {
        if (b >= (page + 1) * TD_ATTN_PAGE || e <= page * TD_ATTN_PAGE) continue;
        __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (uint32_t v = page * 8; v < (page + 1) * 8; v++) {
            __m256 x = _mm256_load_ps(p + 8 * v), some = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ);
            x = _mm256_mul_ps(x, _mm256_and_ps(some, _mm256_loadu_ps(v_scale + 8 * v)));
            top = _mm256_max_ps(x, top);
            sum[v % 2] = _mm256_add_ps(sum[v % 2], x);
            _mm256_store_ps(p + 8 * v, x);
        }
        float t = tree(sum[0], sum[1]);
        most = t > most ? t : most;
    }
    r.w_scale = attn_weight_scale(largest(top), most, w);
    if (r.w_scale == 0.0f) return r;
    __m256 inv = _mm256_set1_ps(1.0f / r.w_scale);
    for (uint32_t v = 0; v < TD_ATTN_CHUNK; v += 16) {
        __m256i x = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(p + v), inv));
        __m256i y = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(p + v + 8), inv));
        store(w + v, _mm256_permute4x64_epi64(_mm256_packs_epi32(x, y), 0xd8));
    }
    return r;
}

/* --- queries -------------------------------------------------------------------------------------------------------
 */

INLINE __m256 magnitude(__m256 v) { /* NaN where not finite, for comparison */
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

INLINE __m256 only_finite(const float *x) {
    __m256 v = _mm256_loadu_ps(x);
    return _mm256_and_ps(_mm256_cmp_ps(magnitude(v), _mm256_set1_ps(3.0e38f), _CMP_LE_OQ), v);
}

static float quantise(const float *x, uint32_t n, float most, int16_t *q) {
    __m256 top = _mm256_setzero_ps(), sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t i = 0; i < n; i += 8) top = _mm256_max_ps(magnitude(only_finite(x + i)), top);
    float t = largest(top);
    if (!(t > 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        return 0.0f;
    }
    __m256 inv_top = _mm256_set1_ps(1.0f / t);
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 y = _mm256_mul_ps(only_finite(x + i), inv_top);
        sum[i / 8 % 2] = _mm256_fmadd_ps(y, y, sum[i / 8 % 2]);
    }
    float scale = attn_query_scale(t, tree(sum[0], sum[1]), most);
    __m256 inv = _mm256_set1_ps(1.0f / scale);
    for (uint32_t i = 0; i < n; i += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(only_finite(x + i), inv));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(only_finite(x + i + 8), inv));
        store(q + i, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
    }
    return scale;
}

static void fold(float *o, const float *x, uint32_t n, float alpha, float beta) {
    __m256 a = _mm256_set1_ps(alpha), b = _mm256_set1_ps(beta);
    for (uint32_t i = 0; i < n; i += 8)
        _mm256_storeu_ps(o + i, _mm256_fmadd_ps(_mm256_loadu_ps(x + i), b, _mm256_mul_ps(_mm256_loadu_ps(o + i), a)));
}

static void scale(float *y, const float *x, uint32_t n, float a) {
    __m256 f = _mm256_set1_ps(a);
    for (uint32_t i = 0; i < n; i += 8) _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), f));
}

#endif
