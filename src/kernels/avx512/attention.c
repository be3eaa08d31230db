/* Attention with AVX-512 VNNI.
 *
 * Scores and mixing are one inner loop: 8 rows by 32 lanes, 16 accumulators of 16 x 32 bits. A step loads two vectors
 * of the tile and broadcasts 8 pairs of the rows' integers: 10 loads for 16 vpdpwssd, where the core can do 4 loads for
 * 4; 16 independent sums cover the latency. A tile of keys (32 positions, 512 dimensions: 32 KiB) stays in the
 * first-level cache while the rows of the tile go past it. */
#include "attention_common.h"

#include "../attention_fit.h"

/* acc[2 * r + c] += sum over steps of a[r][step] * b[step][lanes of c]. n_row is a constant at each call; n_step is a
 * multiple of 16. Fetches 2 KiB from `next` for every 16 steps, `jump` bytes apart. */
INLINE void dot(uint32_t n_row, const int16_t *a, size_t stride, const int16_t *b, uint32_t n_step, __m512i *acc,
                const char *next, size_t jump) {
    for (uint32_t i = 0; i < n_step; i += 16, next += jump) {
        for (uint32_t k = 0; k < 16; k++, a += 2, b += LANES) {
            _mm_prefetch(next + (size_t)k * 128, _MM_HINT_T0);
            _mm_prefetch(next + (size_t)k * 128 + 64, _MM_HINT_T0);
            __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 32);
#pragma GCC unroll 8
            for (uint32_t r = 0; r < n_row; r++) {
                __m512i x = pair(a + r * stride);
                multiply_add(&acc[2 * r], x, b0);
                multiply_add(&acc[2 * r + 1], x, b1);
            }
        }
    }
}

INLINE void score_n(uint32_t n_row, const attn_score_args *a, uint32_t r0) {
    __m512i acc[2 * GROUP_ROWS];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 2 * n_row; i++) acc[i] = _mm512_setzero_si512();
    dot(n_row, (const int16_t *)a->q + (size_t)r0 * Q_STRIDE, Q_STRIDE, a->tile, a->n_dim / 2, acc, a->next, a->jump);
    put_scores(n_row, a, r0, acc);
}

static void score(const attn_score_args *a) {
    uint32_t r = 0, n = a->n_row;
    if (n == 8) {
        score_n(8, a, 0);
        return;
    }
    if (n & 4) {
        score_n(4, a, r);
        r += 4;
    }
    if (n & 2) {
        score_n(2, a, r);
        r += 2;
    }
    if (n & 1) score_n(1, a, r);
}

INLINE void mix_n(uint32_t n_row, const attn_mix_args *a, uint32_t r0) {
    __m512 sum[2 * GROUP_ROWS];
    const int16_t *w = (const int16_t *)a->w + (size_t)r0 * W_STRIDE;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 2 * n_row; i++) sum[i] = _mm512_setzero_ps();
    for (uint32_t page = a->page0; page < a->page1; page++) {
        __m512i acc[2 * GROUP_ROWS];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 2 * n_row; i++) acc[i] = _mm512_setzero_si512();
        dot(n_row, w + (size_t)page * TD_ATTN_PAGE, W_STRIDE, a->strip[page], PAIRS, acc,
            (const char *)a->strip[page] + AHEAD, AHEAD / 2);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 2 * n_row; i++) sum[i] = _mm512_add_ps(sum[i], _mm512_cvtepi32_ps(acc[i]));
    }
    put_mix(n_row, a, r0, sum);
}

static void mix(const attn_mix_args *a) {
    uint32_t r = 0, n = a->n_row;
    if (n == 8) {
        mix_n(8, a, 0);
        return;
    }
    if (n & 4) {
        mix_n(4, a, r);
        r += 4;
    }
    if (n & 2) {
        mix_n(2, a, r);
        r += 2;
    }
    if (n & 1) mix_n(1, a, r);
}

static void score_f32(const attn_score_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        const float *q = (const float *)a->q + (size_t)r * Q_STRIDE, *t = a->tile;
        float *s = a->s + (size_t)r * W_STRIDE;
        __m512 s0 = _mm512_setzero_ps(), s1 = _mm512_setzero_ps();
        for (uint32_t i = 0; i < a->n_dim; i++) {
            __m512 x = _mm512_set1_ps(q[i]);
            s0 = _mm512_fmadd_ps(x, _mm512_loadu_ps(t + (size_t)i * HALF), s0);
            s1 = _mm512_fmadd_ps(x, _mm512_loadu_ps(t + (size_t)i * HALF + 16), s1);
        }
        if (a->add) {
            s0 = _mm512_add_ps(_mm512_loadu_ps(s), s0);
            s1 = _mm512_add_ps(_mm512_loadu_ps(s + 16), s1);
        }
        _mm512_storeu_ps(s, s0);
        _mm512_storeu_ps(s + 16, s1);
    }
}

static void mix_f32(const attn_mix_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        if (a->beta[r] == 0.0f) continue;
        const float *w = (const float *)a->w + (size_t)r * W_STRIDE;
        __m512 s0 = _mm512_setzero_ps(), s1 = _mm512_setzero_ps();
        for (uint32_t j = a->begin; j < a->end; j++) {
            const float *v = (const float *)a->strip[j / TD_ATTN_PAGE] + (size_t)(j % TD_ATTN_PAGE) * HALF;
            __m512 x = _mm512_set1_ps(w[j]);
            s0 = _mm512_fmadd_ps(x, _mm512_loadu_ps(v), s0);
            s1 = _mm512_fmadd_ps(x, _mm512_loadu_ps(v + 16), s1);
        }
        float *o = a->o + (size_t)r * a->ldo;
        __m512 alpha = _mm512_set1_ps(a->alpha[r]), beta = _mm512_set1_ps(a->beta[r]);
        _mm512_storeu_ps(o, _mm512_fmadd_ps(s0, beta, _mm512_mul_ps(_mm512_loadu_ps(o), alpha)));
        _mm512_storeu_ps(o + 16, _mm512_fmadd_ps(s1, beta, _mm512_mul_ps(_mm512_loadu_ps(o + 16), alpha)));
    }
}

/* --- soft maximum ------------------------------------------------------------------------------------------------- */

INLINE __m512 exp_ps(__m512 x) {
    __mmask16 in = _mm512_cmp_ps_mask(x, _mm512_set1_ps(ATTN_EXP_MIN), _CMP_GE_OQ);
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(ATTN_LOG2E), magic), n = _mm512_sub_ps(t, magic);
    __m512 f = _mm512_fmadd_ps(n, _mm512_set1_ps(-ATTN_LN2_HI), x);
    f = _mm512_fmadd_ps(n, _mm512_set1_ps(-ATTN_LN2_LO), f);
    __m512 p = _mm512_set1_ps(ATTN_EXP_C0);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(ATTN_EXP_C1));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(ATTN_EXP_C2));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(ATTN_EXP_C3));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(ATTN_EXP_C4));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(ATTN_EXP_C5));
    __m512 y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(f, f), f), _mm512_set1_ps(1.0f));
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(y), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
    return _mm512_maskz_mov_ps(in, _mm512_castsi512_ps(bits));
}

INLINE float tree(__m512 x) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Lanes of vector v of a chunk that are inside [b, e). */
INLINE __mmask16 inside(uint32_t v, uint32_t b, uint32_t e) {
    uint32_t lo = b > 16 * v ? b - 16 * v : 0, hi = e > 16 * v ? e - 16 * v : 0;
    if (lo >= 16 || lo >= hi) return 0;
    uint32_t upto = hi >= 16 ? 0xffffu : (1u << hi) - 1u;
    return (__mmask16)(upto & ~((1u << lo) - 1u));
}

enum { VECTORS = TD_ATTN_CHUNK / 16, PAGE_VECTORS = TD_ATTN_PAGE / 16 };

/* Exponentials of [b, e) to p, 0 elsewhere; their maximum and sum. */
INLINE attn_soft exponentials(const float *s, uint32_t b, uint32_t e, float *p) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 top = none, sum = _mm512_setzero_ps();
    for (uint32_t v = b / 16; v < (e + 15) / 16; v++)
        top = _mm512_max_ps(_mm512_mask_loadu_ps(none, inside(v, b, e), s + 16 * v), top);
    float m = _mm512_reduce_max_ps(top);
    __m512 max = _mm512_set1_ps(m);
    for (uint32_t v = 0; v < VECTORS; v++) {
        __mmask16 in = inside(v, b, e);
        __m512 x = _mm512_setzero_ps();
        if (in) {
            x = _mm512_maskz_mov_ps(in, exp_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, s + 16 * v), max)));
            sum = _mm512_add_ps(sum, x);
        }
        _mm512_storeu_ps(p + 16 * v, x);
    }
    return (attn_soft){.m = m, .l = tree(sum), .w_scale = 1.0f};
}

static attn_soft soft_f32(const float *s, uint32_t b, uint32_t e, float *w) {
    return exponentials(s, b, e, w);
}

static attn_soft soft(const float *s, uint32_t b, uint32_t e, const float *v_scale, int16_t *w) {
    float p[TD_ATTN_CHUNK] __attribute__((aligned(64)));
    attn_soft r = exponentials(s, b, e, p);
    __m512 top = _mm512_setzero_ps();
    float most = 0.0f;
    for (uint32_t page = 0; page < 4; page++) {
        if (b >= (page + 1) * TD_ATTN_PAGE || e <= page * TD_ATTN_PAGE) continue;
        __m512 sum = _mm512_setzero_ps();
        for (uint32_t v = page * PAGE_VECTORS; v < (page + 1) * PAGE_VECTORS; v++) {
            __m512 x = _mm512_load_ps(p + 16 * v);
            __mmask16 some = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
            x = _mm512_maskz_mul_ps(some, x, _mm512_maskz_loadu_ps(some, v_scale + 16 * v));
            top = _mm512_max_ps(x, top);
            sum = _mm512_add_ps(sum, x);
            _mm512_store_ps(p + 16 * v, x);
        }
        float t = tree(sum);
        most = t > most ? t : most;
    }
    r.w_scale = attn_weight_scale(_mm512_reduce_max_ps(top), most, w);
    if (r.w_scale == 0.0f) return r;
    __m512 inv = _mm512_set1_ps(1.0f / r.w_scale);
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(p + 16 * v), inv));
        _mm256_storeu_si256((__m256i *)(void *)(w + 16 * v), _mm512_cvtepi32_epi16(x));
    }
    return r;
}

/* --- queries ------------------------------------------------------------------------------------------------------ */

INLINE __m512 only_finite(const float *x, __m512 *size) { /* 0 where not finite */
    __m512 v = _mm512_loadu_ps(x), a = _mm512_abs_ps(v);
    __mmask16 in = _mm512_cmp_ps_mask(a, _mm512_set1_ps(3.0e38f), _CMP_LE_OQ);
    *size = _mm512_maskz_mov_ps(in, a);
    return _mm512_maskz_mov_ps(in, v);
}

static float quantise(const float *x, uint32_t n, float most, int16_t *q) {
    __m512 top = _mm512_setzero_ps(), sum = _mm512_setzero_ps(), a;
    for (uint32_t i = 0; i < n; i += 16) {
        only_finite(x + i, &a);
        top = _mm512_max_ps(a, top);
    }
    float t = _mm512_reduce_max_ps(top);
    if (!(t > 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        return 0.0f;
    }
    __m512 inv_top = _mm512_set1_ps(1.0f / t);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 y = _mm512_mul_ps(only_finite(x + i, &a), inv_top);
        sum = _mm512_fmadd_ps(y, y, sum);
    }
    float scale = attn_query_scale(t, tree(sum), most);
    __m512 inv = _mm512_set1_ps(1.0f / scale);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512i y = _mm512_cvtps_epi32(_mm512_mul_ps(only_finite(x + i, &a), inv));
        _mm256_storeu_si256((__m256i *)(void *)(q + i), _mm512_cvtepi32_epi16(y));
    }
    return scale;
}

INLINE __m512i nearest(__m512 a, const attn_levels *l, int32_t n) { /* number of the level, from magnitudes */
    __m512i k = _mm512_setzero_si512();
    for (int32_t i = 0; i < n; i++) {
        __mmask16 above = _mm512_cmp_ps_mask(a, _mm512_set1_ps(l->threshold[i]), _CMP_GE_OQ);
        k = _mm512_mask_add_epi32(k, above, k, _mm512_set1_epi32(1));
    }
    return k;
}

static void match(const float *x, uint32_t n, float inv, const attn_levels *l, float *xt, float *tt) {
    __m512 level = _mm512_loadu_ps(l->level), scale_ = _mm512_set1_ps(inv), zero = _mm512_setzero_ps(), sx = zero,
           st = zero;
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 y = _mm512_loadu_ps(x + i), v = _mm512_mul_ps(y, scale_);
        __m512 t = _mm512_permutexvar_ps(nearest(_mm512_abs_ps(v), l, l->half - 1), level);
        t = _mm512_mask_sub_ps(t, _mm512_cmp_ps_mask(v, zero, _CMP_LT_OQ), zero, t);
        sx = _mm512_fmadd_ps(y, t, sx);
        st = _mm512_fmadd_ps(t, t, st);
    }
    *xt = tree(sx);
    *tt = tree(st);
}

static void codes(const float *x, uint32_t n, float inv, const attn_levels *l, int16_t *code) {
    __m512i half = _mm512_set1_epi32(l->half), last = _mm512_set1_epi32(l->half - 1);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inv));
        __m512i k = nearest(_mm512_abs_ps(v), l, l->half - 1), up = _mm512_add_epi32(half, k);
        k = _mm512_mask_sub_epi32(up, _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ), last, k);
        _mm256_storeu_si256((__m256i *)(void *)(code + i), _mm512_cvtepi32_epi16(k));
    }
}

INLINE __m512 flip(__m512 x, uint32_t at) { /* signs of elements at .. at + 15 */
    uint16_t bits;
    memcpy(&bits, td_attn_signs + at / 8, sizeof bits);
    __m512i y = _mm512_castps_si512(x);
    return _mm512_castsi512_ps(_mm512_mask_xor_epi32(y, bits, y, _mm512_set1_epi32((int)0x80000000u)));
}

/* Butterflies of stride 1, 2, 4, 8 inside a vector: the lane whose bit is set gets other - self. */
INLINE __m512 butterflies(__m512 x) {
    __m512 y = _mm512_permute_ps(x, 0xb1);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xaaaa, y, x);
    y = _mm512_permute_ps(x, 0x4e);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xcccc, y, x);
    y = _mm512_shuffle_f32x4(x, x, 0xb1);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xf0f0, y, x);
    y = _mm512_shuffle_f32x4(x, x, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xff00, y, x);
}

static void rotate(float *x, uint32_t n, uint32_t g, bool inverse) {
    if (g < 32) {
        td_attn_ref_rotate(x, n, g, inverse);
        return;
    }
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf((float)g));
    uint32_t m = g / 16;
    for (uint32_t at = 0; at < n; at += g) {
        __m512 y[8];
        for (uint32_t i = 0; i < m; i++) {
            y[i] = _mm512_loadu_ps(x + at + 16 * i);
            if (!inverse) y[i] = flip(y[i], 16 * i);
            y[i] = butterflies(y[i]);
        }
        for (uint32_t h = 1; h < m; h *= 2) {
            for (uint32_t i = 0; i < m; i++) {
                if (i & h) continue;
                __m512 a = y[i], b = y[i + h];
                y[i] = _mm512_add_ps(a, b);
                y[i + h] = _mm512_sub_ps(a, b);
            }
        }
        for (uint32_t i = 0; i < m; i++) {
            y[i] = _mm512_mul_ps(y[i], factor);
            if (inverse) y[i] = flip(y[i], 16 * i);
            _mm512_storeu_ps(x + at + 16 * i, y[i]);
        }
    }
}

static void fold(float *o, const float *x, uint32_t n, float alpha, float beta) {
    __m512 a = _mm512_set1_ps(alpha), b = _mm512_set1_ps(beta);
    for (uint32_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(o + i, _mm512_fmadd_ps(_mm512_loadu_ps(x + i), b, _mm512_mul_ps(_mm512_loadu_ps(o + i), a)));
}

static void scale(float *y, const float *x, uint32_t n, float a) {
    __m512 f = _mm512_set1_ps(a);
    for (uint32_t i = 0; i < n; i += 16) _mm512_storeu_ps(y + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), f));
}

const attn_ops td_attn_ops_avx512 = {
    .name = "avx512",
    .quantise = quantise,
    .rotate = rotate,
    .match = match,
    .codes = codes,
    .error_8 = fit_error_8,
    .codes_8 = fit_codes_8,
    .keys = td_attn_avx512_keys,
    .values = td_attn_avx512_values,
    .turn = td_attn_avx512_turn,
    .score = score,
    .score_codes = td_attn_avx512_score_codes,
    .mix_codes = td_attn_avx512_mix_codes,
    .score_f32 = score_f32,
    .soft = soft,
    .soft_f32 = soft_f32,
    .mix = mix,
    .mix_f32 = mix_f32,
    .fold = fold,
    .scale = scale,
    .exp = td_attn_ref_exp,
};
