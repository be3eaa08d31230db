/* Attention on AArch64. Products of 16-bit integers are summed in pairs: a load that takes even and odd lanes apart
 * gives the two factors of each sum, so that no horizontal addition is needed. 2 rows by 32 lanes at a time: 16
 * accumulators, 2 vectors of the tile, 4 factors of 32 registers. Floats run lane by lane in the order of
 * attention_ref.c. Codes of fewer than 8 bits are expanded by its loops. */
#include "../attention_fit.h"
#include "../attention_ref.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { VECS = HALF / 4 }; /* vectors of a row of results */

/* ---- sums of integers ---- */

/* acc[VECS * r + c] += sum over steps of a[r][step] * b[step][lanes of c]. */
INLINE void dot(uint32_t n_row, const int16_t *a, size_t stride, const int16_t *b, uint32_t n_step, int32x4_t *acc) {
    for (uint32_t i = 0; i < n_step; i++, a += 2, b += LANES) {
        UNROLL for (uint32_t c = 0; c < 4; c++) {
            int16x8x2_t y = vld2q_s16(b + 16 * c);
            UNROLL for (uint32_t r = 0; r < n_row; r++) {
                const int16_t *x = a + r * stride;
                int32x4_t *to = acc + VECS * r + 2 * c;
                to[0] = vmlal_n_s16(to[0], vget_low_s16(y.val[0]), x[0]);
                to[0] = vmlal_n_s16(to[0], vget_low_s16(y.val[1]), x[1]);
                to[1] = vmlal_high_n_s16(to[1], y.val[0], x[0]);
                to[1] = vmlal_high_n_s16(to[1], y.val[1], x[1]);
            }
        }
    }
}

INLINE void score_n(uint32_t n_row, const attn_score_args *a, uint32_t r0) {
    int32x4_t acc[2 * VECS];
    UNROLL for (uint32_t i = 0; i < 2 * VECS; i++) acc[i] = vdupq_n_s32(0);
    dot(n_row, (const int16_t *)a->q + (size_t)r0 * Q_STRIDE, Q_STRIDE, a->tile, a->n_dim / 2, acc);
    for (uint32_t r = 0; r < n_row; r++) UNROLL for (uint32_t c = 0; c < VECS; c++) {
            float *s = a->s + (size_t)(r0 + r) * W_STRIDE + 4 * c;
            float32x4_t x = vmulq_n_f32(vcvtq_f32_s32(acc[VECS * r + c]), a->q_scale[r0 + r]);
            x = vmulq_f32(x, vld1q_f32(a->scale + 4 * c));
            vst1q_f32(s, a->add ? vaddq_f32(vld1q_f32(s), x) : x);
        }
}

static void score(const attn_score_args *a) {
    uint32_t r = 0;
    for (; r + 2 <= a->n_row; r += 2) score_n(2, a, r);
    if (r < a->n_row) score_n(1, a, r);
}

/* o = o * alpha + x * beta, 32 values of row r. */
INLINE void into_row(const attn_mix_args *a, uint32_t r, const float32x4_t x[VECS]) {
    float *o = a->o + (size_t)r * a->ldo;
    const float32x4_t beta = vdupq_n_f32(a->beta[r]);
    UNROLL for (uint32_t c = 0; c < VECS; c++)
        vst1q_f32(o + 4 * c, vfmaq_f32(vmulq_n_f32(vld1q_f32(o + 4 * c), a->alpha[r]), x[c], beta));
}

INLINE void mix_n(uint32_t n_row, const attn_mix_args *a, uint32_t r0) {
    float32x4_t sum[2 * VECS];
    const int16_t *w = (const int16_t *)a->w + (size_t)r0 * W_STRIDE;
    UNROLL for (uint32_t i = 0; i < 2 * VECS; i++) sum[i] = vdupq_n_f32(0.0f);
    for (uint32_t page = a->page0; page < a->page1; page++) {
        int32x4_t acc[2 * VECS];
        UNROLL for (uint32_t i = 0; i < 2 * VECS; i++) acc[i] = vdupq_n_s32(0);
        dot(n_row, w + (size_t)page * TD_ATTN_PAGE, W_STRIDE, a->strip[page], PAIRS, acc);
        UNROLL for (uint32_t i = 0; i < 2 * VECS; i++) sum[i] = vaddq_f32(sum[i], vcvtq_f32_s32(acc[i]));
    }
    for (uint32_t r = 0; r < n_row; r++) {
        if (a->beta[r0 + r] == 0.0f) continue;
        UNROLL for (uint32_t c = 0; c < VECS; c++) sum[VECS * r + c] =
            vmulq_n_f32(sum[VECS * r + c], a->w_scale[r0 + r]);
        into_row(a, r0 + r, sum + VECS * r);
    }
}

static void mix(const attn_mix_args *a) {
    uint32_t r = 0;
    for (; r + 2 <= a->n_row; r += 2) mix_n(2, a, r);
    if (r < a->n_row) mix_n(1, a, r);
}

/* ---- the same in floats ---- */

static void score_f32(const attn_score_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        const float *q = (const float *)a->q + (size_t)r * Q_STRIDE, *t = a->tile;
        float *to = a->s + (size_t)r * W_STRIDE;
        float32x4_t s[VECS];
        UNROLL for (uint32_t c = 0; c < VECS; c++) s[c] = vdupq_n_f32(0.0f);
        for (uint32_t i = 0; i < a->n_dim; i++, t += HALF)
            UNROLL for (uint32_t c = 0; c < VECS; c++) s[c] = vfmaq_n_f32(s[c], vld1q_f32(t + 4 * c), q[i]);
        UNROLL for (uint32_t c = 0; c < VECS; c++)
            vst1q_f32(to + 4 * c, a->add ? vaddq_f32(vld1q_f32(to + 4 * c), s[c]) : s[c]);
    }
}

static void mix_f32(const attn_mix_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        if (a->beta[r] == 0.0f) continue;
        const float *w = (const float *)a->w + (size_t)r * W_STRIDE;
        float32x4_t s[VECS];
        UNROLL for (uint32_t c = 0; c < VECS; c++) s[c] = vdupq_n_f32(0.0f);
        for (uint32_t j = a->begin; j < a->end; j++) {
            const float *v = (const float *)a->strip[j / TD_ATTN_PAGE] + (size_t)(j % TD_ATTN_PAGE) * HALF;
            UNROLL for (uint32_t c = 0; c < VECS; c++) s[c] = vfmaq_n_f32(s[c], vld1q_f32(v + 4 * c), w[j]);
        }
        into_row(a, r, s);
    }
}

/* ---- soft maximum and queries: the 16 lanes of the order of summation are four vectors ---- */

INLINE float32x4_t exp4(float32x4_t x) {
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    float32x4_t t = vfmaq_n_f32(magic, x, ATTN_LOG2E), n = vsubq_f32(t, magic);
    float32x4_t f = vfmaq_n_f32(vfmaq_n_f32(x, n, -ATTN_LN2_HI), n, -ATTN_LN2_LO);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(ATTN_EXP_C1), vdupq_n_f32(ATTN_EXP_C0), f);
    p = vfmaq_f32(vdupq_n_f32(ATTN_EXP_C2), p, f);
    p = vfmaq_f32(vdupq_n_f32(ATTN_EXP_C3), p, f);
    p = vfmaq_f32(vdupq_n_f32(ATTN_EXP_C4), p, f);
    p = vfmaq_f32(vdupq_n_f32(ATTN_EXP_C5), p, f);
    float32x4_t y = vaddq_f32(vfmaq_f32(f, p, vmulq_f32(f, f)), vdupq_n_f32(1.0f));
    uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(y), vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
    return vreinterpretq_f32_u32(vandq_u32(bits, vcgeq_f32(x, vdupq_n_f32(ATTN_EXP_MIN))));
}

INLINE float tree(const float32x4_t a[4]) {
    float32x4_t b = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

INLINE uint32x4_t inside(uint32_t v, uint32_t b, uint32_t e) { /* lanes of vector v of 4 within [b, e) */
    static const uint32_t lane[4] = {0, 1, 2, 3};
    uint32x4_t at = vaddq_u32(vdupq_n_u32(4 * v), vld1q_u32(lane));
    return vandq_u32(vcgeq_u32(at, vdupq_n_u32(b)), vcltq_u32(at, vdupq_n_u32(e)));
}

static attn_soft soft_f32(const float *s, uint32_t b, uint32_t e, float *w) {
    const float32x4_t none = vdupq_n_f32(-INFINITY);
    float32x4_t top = none, sum[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (uint32_t v = b / 4; v < (e + 3) / 4; v++)
        top = vmaxq_f32(top, vbslq_f32(inside(v, b, e), vld1q_f32(s + 4 * v), none));
    float m = vmaxvq_f32(top);
    for (uint32_t v = 0; v < TD_ATTN_CHUNK / 4; v++) {
        float32x4_t x = vdupq_n_f32(0.0f);
        if (4 * v < e && 4 * v + 4 > b)
            x = vbslq_f32(inside(v, b, e), exp4(vsubq_f32(vld1q_f32(s + 4 * v), vdupq_n_f32(m))), x);
        sum[v % 4] = vaddq_f32(sum[v % 4], x);
        vst1q_f32(w + 4 * v, x);
    }
    return (attn_soft){.m = m, .l = tree(sum), .w_scale = 1.0f};
}

static attn_soft soft(const float *s, uint32_t b, uint32_t e, const float *v_scale, int16_t *w) {
    float p[TD_ATTN_CHUNK], sum = 0.0f;
    attn_soft r = soft_f32(s, b, e, p);
    float32x4_t top = vdupq_n_f32(0.0f);
    for (uint32_t page = 0; page < TD_ATTN_CHUNK; page += TD_ATTN_PAGE) {
        float32x4_t lane[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
        for (uint32_t i = page; i < page + TD_ATTN_PAGE; i += 4) {
            float32x4_t x = vld1q_f32(p + i), y = vmulq_f32(x, vld1q_f32(v_scale + i));
            /* Places without a weight may hold anything as their scale. */
            y = vbslq_f32(vcgtq_f32(x, vdupq_n_f32(0.0f)), y, vdupq_n_f32(0.0f));
            top = vmaxq_f32(top, y);
            lane[i / 4 % 4] = vaddq_f32(lane[i / 4 % 4], y);
            vst1q_f32(p + i, y);
        }
        float t = tree(lane);
        sum = t > sum ? t : sum;
    }
    r.w_scale = attn_weight_scale(vmaxvq_f32(top), sum, w);
    if (r.w_scale == 0.0f) return r;
    float inv = 1.0f / r.w_scale;
    for (uint32_t i = 0; i < TD_ATTN_CHUNK; i += 4)
        vst1_s16(w + i, vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(p + i), inv))));
    return r;
}

INLINE float32x4_t only_finite(const float *x) { /* others: 0 */
    float32x4_t v = vld1q_f32(x);
    uint32x4_t in = vcleq_f32(vabsq_f32(v), vdupq_n_f32(3.0e38f));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), in));
}

static float quantise(const float *x, uint32_t n, float most, int16_t *q) {
    float32x4_t top = vdupq_n_f32(0.0f), sum[4] = {top, top, top, top};
    for (uint32_t i = 0; i < n; i += 4) top = vmaxq_f32(top, vabsq_f32(only_finite(x + i)));
    float t = vmaxvq_f32(top);
    if (!(t > 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        return 0.0f;
    }
    for (uint32_t i = 0; i < n; i += 4) {
        float32x4_t y = vmulq_n_f32(only_finite(x + i), 1.0f / t);
        sum[i / 4 % 4] = vfmaq_f32(sum[i / 4 % 4], y, y);
    }
    float scale = attn_query_scale(t, tree(sum), most), inv = 1.0f / scale;
    for (uint32_t i = 0; i < n; i += 4)
        vst1_s16(q + i, vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(only_finite(x + i), inv))));
    return scale;
}

static void fold(float *o, const float *x, uint32_t n, float alpha, float beta) {
    for (uint32_t i = 0; i < n; i += 4)
        vst1q_f32(o + i, vfmaq_n_f32(vmulq_n_f32(vld1q_f32(o + i), alpha), vld1q_f32(x + i), beta));
}

static void scale(float *y, const float *x, uint32_t n, float a) {
    for (uint32_t i = 0; i < n; i += 4) vst1q_f32(y + i, vmulq_n_f32(vld1q_f32(x + i), a));
}

/* ---- tiles ---- */

/* 8 codes as the high bytes of their lanes, times their factors: vqrdmulh is attn_mulhrs where no result overflows. */
INLINE void times(int16_t *to, int8x8_t code, int16x8_t factor) {
    vst1q_s16(to, vqrdmulhq_s16(vshlq_n_s16(vmovl_s8(code), 8), factor));
}

INLINE int16x8_t twice(const int16_t *factor) { /* 4 factors, each for two lanes */
    int16x4_t x = vld1_s16(factor);
    return vcombine_s16(vzip1_s16(x, x), vzip2_s16(x, x));
}

static void keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile) {
    if (td_attn_format(type)->bits != 8) {
        td_attn_ref_keys(type, b, block, half, tile);
        return;
    }
    uint32_t steps = b->n / 2;
    const int16_t *factor = (const int16_t *)(const void *)(block + b->factor) + half * HALF;
    const int8_t *codes = (const int8_t *)block + (size_t)half * steps * LANES;
    for (uint32_t step = 0; step < steps; step++, tile += LANES, codes += LANES) {
        const int16_t *f = factor + (size_t)(2 * step / b->group) * TD_ATTN_PAGE;
        for (uint32_t c = 0; c < 4; c++) {
            int8x16_t x = vld1q_s8(codes + 16 * c);
            times(tile + 8 * c, vget_low_s8(x), twice(f + 4 * c));
            times(tile + 32 + 8 * c, vget_high_s8(x), twice(f + 16 + 4 * c));
        }
    }
}

static void values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                   int16_t *tile) {
    if (td_attn_format(type)->bits != 8) {
        td_attn_ref_values(type, b, block, strip0, strip1, tile);
        return;
    }
    for (uint32_t strip = strip0; strip < strip1; strip++) {
        const int16_t *factor =
            (const int16_t *)(const void *)(block + b->factor) + (size_t)(strip * HALF / b->group) * TD_ATTN_PAGE;
        for (uint32_t p = 0; p < PAIRS; p++, tile += LANES) {
            const int8_t *codes = (const int8_t *)block + ((size_t)strip * PAIRS + p) * LANES;
            int32_t two;
            memcpy(&two, factor + 2 * p, sizeof two);
            const int16x8_t f = vreinterpretq_s16_s32(vdupq_n_s32(two));
            for (uint32_t c = 0; c < 4; c++) {
                int8x16_t x = vld1q_s8(codes + 16 * c);
                times(tile + 8 * c, vget_low_s8(x), f);
                times(tile + 32 + 8 * c, vget_high_s8(x), f);
            }
        }
    }
}

const attn_ops td_attn_ops_neon = {
    .name = "neon",
    .quantise = quantise,
    .rotate = td_attn_ref_rotate,
    .match = fit_match,
    .codes = fit_codes,
    .error_8 = fit_error_8,
    .codes_8 = fit_codes_8,
    .keys = keys,
    .values = values,
    .turn = td_attn_ref_turn,
    .score = score,
    .score_f32 = score_f32,
    .soft = soft,
    .soft_f32 = soft_f32,
    .mix = mix,
    .mix_f32 = mix_f32,
    .fold = fold,
    .scale = scale,
    .exp = td_attn_ref_exp,
};
