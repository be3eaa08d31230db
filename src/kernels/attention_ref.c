/* Attention operations in plain C: the definition that the instruction sets are compared with, and what runs without
 * them. Sums of integers wrap like the machine's; float sums run over 16 lanes folded as a tree. */
#include "attention_ref.h"
#include "attention_fit.h"

float td_attn_ref_exp(float x) {
    if (!(x >= ATTN_EXP_MIN)) return 0.0f;
    float t = fmaf(x, ATTN_LOG2E, 12582912.0f), n = t - 12582912.0f;
    float f = fmaf(n, -ATTN_LN2_HI, x);
    f = fmaf(n, -ATTN_LN2_LO, f);
    float p = ATTN_EXP_C0;
    p = fmaf(p, f, ATTN_EXP_C1);
    p = fmaf(p, f, ATTN_EXP_C2);
    p = fmaf(p, f, ATTN_EXP_C3);
    p = fmaf(p, f, ATTN_EXP_C4);
    p = fmaf(p, f, ATTN_EXP_C5);
    float y = fmaf(p, f * f, f) + 1.0f;
    int32_t bits, shift;
    memcpy(&bits, &y, sizeof bits);
    memcpy(&shift, &t, sizeof shift);
    bits += (int32_t)((uint32_t)shift << 23);
    memcpy(&y, &bits, sizeof y);
    return y;
}

static float tree(float *a) { /* [16] */
    for (int n = 8; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) a[i] = a[i] + a[i + n];
    }
    return a[0];
}

static float quantise(const float *x, uint32_t n, float most, int16_t *q) {
    float top = 0.0f, lane[16] = {0};
    for (uint32_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (a <= 3.0e38f && a > top) top = a;
    }
    if (!(top > 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        return 0.0f;
    }
    float inv_top = 1.0f / top;
    for (uint32_t i = 0; i < n; i++) {
        float a = fabsf(x[i]) <= 3.0e38f ? x[i] * inv_top : 0.0f;
        lane[i % 16] = fmaf(a, a, lane[i % 16]);
    }
    float scale = attn_query_scale(top, tree(lane), most), inv = 1.0f / scale;
    for (uint32_t i = 0; i < n; i++) q[i] = (int16_t)attn_round(fabsf(x[i]) <= 3.0e38f ? x[i] * inv : 0.0f);
    return scale;
}

/* First 128 signs of a fixed random sequence: bit i set = element i is negated. */
const uint8_t td_attn_signs[16] = {0x59, 0x03, 0x6a, 0xe4, 0x49, 0x59, 0xf8, 0x42,
                                   0xbb, 0x3b, 0xc6, 0xa4, 0xa9, 0x50, 0xf2, 0x49};

static void flip(float *x, uint32_t g) {
    for (uint32_t i = 0; i < g; i++) x[i] = td_attn_signs[i / 8] >> (i % 8) & 1 ? -x[i] : x[i];
}

void td_attn_ref_rotate(float *x, uint32_t n, uint32_t g, bool inverse) {
    float factor = 1.0f / sqrtf((float)g);
    for (uint32_t at = 0; at < n; at += g) {
        float *y = x + at;
        if (!inverse) flip(y, g);
        for (uint32_t h = 1; h < g; h *= 2) {
            for (uint32_t i = 0; i < g; i += 2 * h) {
                for (uint32_t j = i; j < i + h; j++) {
                    float a = y[j], b = y[j + h];
                    y[j] = a + b;
                    y[j + h] = a - b;
                }
            }
        }
        for (uint32_t i = 0; i < g; i++) y[i] = y[i] * factor;
        if (inverse) flip(y, g);
    }
}

static int32_t word_code(const attn_format *f, const uint16_t *w, size_t triple, uint32_t number) {
    if (f->bits != 3) return *w >> (number * f->bits) & ((1 << f->bits) - 1);
    if (number < 15) return w[number / 5 * triple] >> (number % 5 * 3) & 7;
    return w[0] >> 15 | w[triple] >> 15 << 1 | w[2 * triple] >> 15 << 2;
}

void td_attn_ref_keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    uint32_t steps = b->n / 2;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor);
    if (f->bits == 16) {
        memcpy(tile, block + (size_t)half * steps * LANES * 2, (size_t)steps * LANES * 2);
        return;
    }
    uint32_t per_word = f->bits == 3 ? 16 : 16u / f->bits, words = f->bits == 3 ? 3 : 1;
    size_t rows = (steps + per_word - 1) / per_word;
    const int8_t *c8 = (const int8_t *)block + (size_t)half * steps * LANES;
    const uint16_t *cw = (const uint16_t *)(const void *)block + half * rows * words * LANES;
    for (uint32_t step = 0; step < steps; step++) {
        for (uint32_t lane = 0; lane < LANES; lane++) {
            int32_t r = factor[(size_t)(2 * step / b->group) * TD_ATTN_PAGE + half * HALF + lane / 2], v;
            if (f->bits == 8)
                v = c8[(size_t)step * LANES + attn_byte_of(lane)] * 256;
            else
                v = f->table[word_code(f, cw + (size_t)step / per_word * words * LANES + lane, LANES, step % per_word)];
            tile[(size_t)step * LANES + lane] = attn_mulhrs(v, r);
        }
    }
}

void td_attn_ref_values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                        int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor);
    if (f->bits == 16) {
        memcpy(tile, block + (size_t)strip0 * PAIRS * LANES * 2, (size_t)(strip1 - strip0) * PAIRS * LANES * 2);
        return;
    }
    uint32_t per_word = f->bits == 3 ? 16 : 16u / f->bits, words = f->bits == 3 ? 3 : 1;
    for (uint32_t strip = strip0; strip < strip1; strip++) {
        for (uint32_t pair = 0; pair < PAIRS; pair++) {
            for (uint32_t lane = 0; lane < LANES; lane++) {
                int32_t r = factor[(size_t)(strip * HALF / b->group) * TD_ATTN_PAGE + 2 * pair + lane % 2], v;
                if (f->bits == 8) {
                    v = ((const int8_t *)block)[((size_t)strip * PAIRS + pair) * LANES + attn_byte_of(lane)] * 256;
                } else {
                    uint32_t run = 2 * strip + lane / 32;
                    const uint16_t *w = (const uint16_t *)(const void *)block +
                                        ((size_t)(run / per_word) * PAIRS + pair) * words * 32 + lane % 32;
                    v = f->table[word_code(f, w, 32, run % per_word)];
                }
                tile[((size_t)(strip - strip0) * PAIRS + pair) * LANES + lane] = attn_mulhrs(v, r);
            }
        }
    }
}

void td_attn_ref_turn(const int16_t *strip, uint32_t half, int16_t *tile) {
    for (uint32_t pos = 0; pos < HALF; pos++) {
        const int16_t *row = strip + (size_t)(half * HALF + pos) / 2 * LANES;
        for (uint32_t i = 0; i < HALF; i++) tile[(size_t)(i / 2) * LANES + 2 * pos + i % 2] = row[2 * i + pos % 2];
    }
}

/* acc[lane] += sum over steps of the two products of a 32-bit lane: a form that compilers vectorise. */
static void dot(uint32_t *restrict acc, const int16_t *restrict a, const int16_t *restrict b, uint32_t n_step) {
    for (uint32_t i = 0; i < n_step; i++, a += 2, b += LANES) {
        int32_t x = a[0], y = a[1];
        for (uint32_t p = 0; p < HALF; p++) acc[p] += (uint32_t)(x * b[2 * p]) + (uint32_t)(y * b[2 * p + 1]);
    }
}

static void score(const attn_score_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        uint32_t sum[HALF] = {0};
        dot(sum, (const int16_t *)a->q + (size_t)r * Q_STRIDE, a->tile, a->n_dim / 2);
        for (uint32_t p = 0; p < HALF; p++) {
            float s = (float)(int32_t)sum[p] * a->q_scale[r] * a->scale[p], *to = a->s + (size_t)r * W_STRIDE + p;
            *to = a->add ? *to + s : s;
        }
    }
}

static void score_f32(const attn_score_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        const float *q = (const float *)a->q + (size_t)r * Q_STRIDE, *t = a->tile;
        float s[HALF] = {0}, *to = a->s + (size_t)r * W_STRIDE;
        for (uint32_t i = 0; i < a->n_dim; i++) {
            for (uint32_t p = 0; p < HALF; p++) s[p] = fmaf(q[i], t[(size_t)i * HALF + p], s[p]);
        }
        for (uint32_t p = 0; p < HALF; p++) to[p] = a->add ? to[p] + s[p] : s[p];
    }
}

static attn_soft soft_f32(const float *s, uint32_t b, uint32_t e, float *w) {
    float m = -INFINITY, lane[16] = {0};
    for (uint32_t i = b; i < e; i++) m = s[i] > m ? s[i] : m;
    for (uint32_t i = 0; i < TD_ATTN_CHUNK; i++) {
        w[i] = i >= b && i < e ? td_attn_ref_exp(s[i] - m) : 0.0f;
        lane[i % 16] = lane[i % 16] + w[i];
    }
    return (attn_soft){.m = m, .l = tree(lane), .w_scale = 1.0f};
}

static attn_soft soft(const float *s, uint32_t b, uint32_t e, const float *v_scale, int16_t *w) {
    float p[TD_ATTN_CHUNK], top = 0.0f, sum = 0.0f;
    attn_soft r = soft_f32(s, b, e, p);
    for (uint32_t page = 0; page < TD_ATTN_CHUNK; page += TD_ATTN_PAGE) {
        float lane[16] = {0};
        for (uint32_t i = page; i < page + TD_ATTN_PAGE; i++) {
            p[i] = p[i] > 0.0f ? p[i] * v_scale[i] : 0.0f;
            top = p[i] > top ? p[i] : top;
            lane[i % 16] = lane[i % 16] + p[i];
        }
        float t = tree(lane);
        sum = t > sum ? t : sum;
    }
    r.w_scale = attn_weight_scale(top, sum, w);
    if (r.w_scale == 0.0f) return r;
    float inv = 1.0f / r.w_scale;
    for (uint32_t i = 0; i < TD_ATTN_CHUNK; i++) w[i] = (int16_t)attn_round(p[i] * inv);
    return r;
}

static void mix(const attn_mix_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        if (a->beta[r] == 0.0f) continue;
        const int16_t *w = (const int16_t *)a->w + (size_t)r * W_STRIDE;
        float *o = a->o + (size_t)r * a->ldo;
        float x[HALF] = {0};
        for (uint32_t page = a->page0; page < a->page1; page++) {
            uint32_t sum[HALF] = {0};
            dot(sum, w + (size_t)page * TD_ATTN_PAGE, a->strip[page], PAIRS);
            for (uint32_t i = 0; i < HALF; i++)
                x[i] = page == a->page0 ? (float)(int32_t)sum[i] : x[i] + (float)(int32_t)sum[i];
        }
        for (uint32_t i = 0; i < HALF; i++) o[i] = fmaf(x[i] * a->w_scale[r], a->beta[r], o[i] * a->alpha[r]);
    }
}

static void mix_f32(const attn_mix_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        if (a->beta[r] == 0.0f) continue;
        const float *w = (const float *)a->w + (size_t)r * W_STRIDE;
        float *o = a->o + (size_t)r * a->ldo, sum[HALF] = {0};
        for (uint32_t j = a->begin; j < a->end; j++) {
            const float *v = (const float *)a->strip[j / TD_ATTN_PAGE] + (size_t)(j % TD_ATTN_PAGE) * HALF;
            for (uint32_t i = 0; i < HALF; i++) sum[i] = fmaf(w[j], v[i], sum[i]);
        }
        for (uint32_t i = 0; i < HALF; i++) o[i] = fmaf(sum[i], a->beta[r], o[i] * a->alpha[r]);
    }
}

static void fold(float *o, const float *x, uint32_t n, float alpha, float beta) {
    for (uint32_t i = 0; i < n; i++) o[i] = fmaf(x[i], beta, o[i] * alpha);
}

static void scale(float *y, const float *x, uint32_t n, float a) {
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] * a;
}

const attn_ops td_attn_ops_ref = {
    .name = "ref",
    .quantise = quantise,
    .rotate = td_attn_ref_rotate,
    .match = fit_match,
    .codes = fit_codes,
    .error_8 = fit_error_8,
    .codes_8 = fit_codes_8,
    .keys = td_attn_ref_keys,
    .values = td_attn_ref_values,
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
