/* Encoders of the K-quants: 256 values, scales of sub-blocks themselves coded (spec quant-formats.md 1.6).
 *
 * Each finds a scale per sub-block by search, codes the scales, and takes the codes again with the scales as stored. */
#include "codec.h"
#include "search.h"

#include "../base/half.h"

#include <math.h>

static int clamp_int(int v, int lo, int hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

static float sum_squares(const float *x, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[i] * x[i];
    return s;
}

static void importance_weights(const float *imatrix, const float *x, float sigma2, int n, float *w) {
    for (int i = 0; i < n; i++) w[i] = imatrix[i] * sqrtf(sigma2 + x[i] * x[i]);
}

static float sum(const float *w, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += w[i];
    return s;
}

static float positive_max(const float *x, int n) {
    float m = 0;
    for (int i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Coded scales of non-negative values: code = min(nmax, rne(nmax / max * x)), the common factor is max / nmax. */
static float code_scales(const float *x, int n, int nmax, uint8_t *code) {
    float max = positive_max(x, n), inv = max > 0 ? (float)nmax / max : 0;
    for (int i = 0; i < n; i++) code[i] = (uint8_t)clamp_int(td_round_even(inv * x[i]), 0, nmax);
    return max > 0 ? max / (float)nmax : 0;
}

/* The last pass of the types with minima: codes from the scales as stored. */
static void recode_min(const float *x, int n, int nmax, float d, float m, uint8_t *code) {
    if (d == 0) return;
    for (int i = 0; i < n; i++) code[i] = (uint8_t)clamp_int(td_round_even((x[i] + m) / d), 0, nmax);
}

/* ---- Q4_K and Q5_K ---- */

typedef struct k45 { /* a block before packing */
    uint8_t code[256], scale[8], min[8];
    uint16_t d, dmin;
} k45;

static void search_k45(const float *x, int nmax, const float *imatrix, k45 *o) {
    float scales[8], mins[8], sub_w[8], w[32], sigma2 = imatrix ? 2 * sum_squares(x, 256) / 256.0f : 0;
    for (int j = 0; j < 8; j++) {
        const float *xs = x + 32 * j;
        if (imatrix) {
            importance_weights(imatrix + 32 * j, xs, sigma2, 32, w);
            sub_w[j] = sum(w, 32);
            scales[j] = td_search_qkx(xs, 32, nmax, w, -0.9f, 0.05f, 36, false, &mins[j], o->code + 32 * j);
        } else {
            float rms = sqrtf(sum_squares(xs, 32) / 32.0f);
            for (int i = 0; i < 32; i++) w[i] = rms + fabsf(xs[i]);
            bool four = nmax == 15;
            scales[j] = td_search_qkx(xs, 32, nmax, w, four ? -1.0f : -0.5f, 0.1f, four ? 20 : 15, false, &mins[j],
                                      o->code + 32 * j);
        }
    }
    float d, dmin;
    if (imatrix) {
        d = td_search_qp(scales, 8, 63, sub_w, o->scale);
        dmin = td_search_qp(mins, 8, 63, sub_w, o->min);
    } else {
        d = code_scales(scales, 8, 63, o->scale);
        dmin = code_scales(mins, 8, 63, o->min);
    }
    o->d = td_f32_to_f16(d);
    o->dmin = td_f32_to_f16(dmin);
    for (int j = 0; j < 8; j++) {
        recode_min(x + 32 * j, 32, nmax, td_f16_to_f32(o->d) * (float)o->scale[j],
                   td_f16_to_f32(o->dmin) * (float)o->min[j], o->code + 32 * j);
    }
}

static void pack_k45_scales(const k45 *o, uint8_t *b) {
    for (int j = 0; j < 4; j++) {
        b[j] = (uint8_t)(o->scale[j] | (o->scale[j + 4] >> 4) << 6);
        b[j + 4] = (uint8_t)(o->min[j] | (o->min[j + 4] >> 4) << 6);
        b[j + 8] = (uint8_t)((o->scale[j + 4] & 15) | (o->min[j + 4] & 15) << 4);
    }
}

static void pack_k45_nibbles(const k45 *o, uint8_t *b) {
    for (int j = 0; j < 4; j++) {
        for (int l = 0; l < 32; l++) {
            b[32 * j + l] = (uint8_t)((o->code[64 * j + l] & 15) | (o->code[64 * j + 32 + l] & 15) << 4);
        }
    }
}

void td_encode_q4_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 144) {
            k45 o;
            search_k45(src + i, 15, imatrix ? imatrix + i : NULL, &o);
            td_store_u16(b, o.d);
            td_store_u16(b + 2, o.dmin);
            pack_k45_scales(&o, b + 4);
            pack_k45_nibbles(&o, b + 16);
        }
    }
}

void td_encode_q5_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 176) {
            k45 o;
            search_k45(src + i, 31, imatrix ? imatrix + i : NULL, &o);
            td_store_u16(b, o.d);
            td_store_u16(b + 2, o.dmin);
            pack_k45_scales(&o, b + 4);
            for (int l = 0; l < 32; l++) {
                int h = 0;
                for (int j = 0; j < 8; j++) h |= (o.code[32 * j + l] >> 4) << j;
                b[16 + l] = (uint8_t)h;
            }
            pack_k45_nibbles(&o, b + 48);
        }
    }
}

/* ---- Q2_K and Q3_K: two-bit planes ---- */

static void pack_two_bits(const uint8_t *code, uint8_t *b) {
    for (int h = 0; h < 2; h++) {
        for (int l = 0; l < 32; l++) {
            const uint8_t *c = code + 128 * h + l;
            b[32 * h + l] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
    }
}

static void encode_block_q2_k(const float *x, uint8_t *b, const float *imatrix) {
    uint8_t code[256], scale[16], min[16];
    float scales[16], mins[16], sub_w[16], w[16], sigma2 = imatrix ? sum_squares(x, 256) / 256.0f : 0;
    for (int j = 0; j < 16; j++) {
        const float *xs = x + 16 * j;
        if (imatrix) {
            importance_weights(imatrix + 16 * j, xs, sigma2, 16, w);
            sub_w[j] = sum(w, 16);
            scales[j] = td_search_qkx(xs, 16, 3, w, -0.9f, 0.05f, 36, false, &mins[j], code + 16 * j);
        } else {
            for (int i = 0; i < 16; i++) w[i] = fabsf(xs[i]);
            scales[j] = td_search_qkx(xs, 16, 3, w, -0.5f, 0.1f, 15, true, &mins[j], code + 16 * j);
        }
    }
    float d = imatrix ? td_search_qp(scales, 16, 15, sub_w, scale) : code_scales(scales, 16, 15, scale);
    float dmin = imatrix ? td_search_qp(mins, 16, 15, sub_w, min) : code_scales(mins, 16, 15, min);
    td_store_u16(b + 80, td_f32_to_f16(d));
    td_store_u16(b + 82, td_f32_to_f16(dmin));
    d = td_f16_to_f32(td_load_u16(b + 80));
    dmin = td_f16_to_f32(td_load_u16(b + 82));
    for (int j = 0; j < 16; j++) {
        b[j] = (uint8_t)(scale[j] | min[j] << 4);
        recode_min(x + 16 * j, 16, 3, d * (float)scale[j], dmin * (float)min[j], code + 16 * j);
    }
    pack_two_bits(code, b + 16);
}

void td_encode_q2_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 84) encode_block_q2_k(src + i, b, imatrix ? imatrix + i : NULL);
    }
}

/* The value of largest magnitude with its sign. */
static float extreme(const float *x, int n) {
    float m = 0;
    for (int i = 0; i < n; i++) m = fabsf(x[i]) > fabsf(m) ? x[i] : m;
    return m;
}

static void pack_q3_scales(const uint8_t *scale, uint8_t *b) {
    for (int j = 0; j < 8; j++) b[j] = (uint8_t)((scale[j] & 15) | (scale[j + 8] & 15) << 4);
    for (int j = 0; j < 4; j++) {
        b[8 + j] =
            (uint8_t)(scale[j] >> 4 | (scale[j + 4] >> 4) << 2 | (scale[j + 8] >> 4) << 4 | (scale[j + 12] >> 4) << 6);
    }
}

static void encode_block_q3_k(const float *x, uint8_t *b, const float *imatrix) {
    uint8_t code[256], scale[16];
    float scales[16], sub_w[16], w[16], d, sigma2 = imatrix ? 2 * sum_squares(x, 256) / 256.0f : 0;
    for (int j = 0; j < 16; j++) {
        if (imatrix) {
            importance_weights(imatrix + 16 * j, x + 16 * j, sigma2, 16, w);
            sub_w[j] = sum(w, 16);
            scales[j] = td_search_qx(x + 16 * j, 16, 4, w, code + 16 * j);
        } else {
            scales[j] = td_search_q3(x + 16 * j, 16, 4, code + 16 * j);
        }
    }
    memset(b, 0, 110);
    if (imatrix) {
        d = td_search_qx(scales, 16, 32, sub_w, scale);
    } else {
        float s_max = extreme(scales, 16), s = s_max != 0 ? -32.0f / s_max : 0;
        for (int j = 0; j < 16; j++) {
            scale[j] = s != 0 ? (uint8_t)(clamp_int(td_round_even(s * scales[j]), -32, 31) + 32) : 0;
        }
        d = s != 0 ? 1 / s : 0;
    }
    td_store_u16(b + 108, td_f32_to_f16(d));
    d = td_f16_to_f32(td_load_u16(b + 108));
    pack_q3_scales(scale, b + 96);
    for (int j = 0; j < 16; j++) {
        float ds = d * (float)(scale[j] - 32);
        if (ds == 0) continue;
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            code[i] = (uint8_t)(clamp_int(td_round_even(x[i] / ds), -4, 3) + 4);
        }
    }
    for (int v = 0; v < 256; v++) b[v & 31] = (uint8_t)(b[v & 31] | (code[v] >> 2) << (v >> 5));
    pack_two_bits(code, b + 32);
}

void td_encode_q3_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 110) encode_block_q3_k(src + i, b, imatrix ? imatrix + i : NULL);
    }
}

/* ---- Q6_K ---- */

static void encode_block_q6_k(const float *x, uint8_t *b, const float *imatrix) {
    uint8_t code[256];
    float scales[16];
    for (int j = 0; j < 16; j++) {
        scales[j] = td_search_qx(x + 16 * j, 16, 32, imatrix ? imatrix + 16 * j : NULL, code + 16 * j);
    }
    memset(b, 0, 210);
    float s_max = extreme(scales, 16);
    if (!(fabsf(s_max) >= TD_SEARCH_EPSILON)) return;
    float s = -128.0f / s_max;
    td_store_u16(b + 208, td_f32_to_f16(1 / s));
    float d = td_f16_to_f32(td_load_u16(b + 208));
    for (int j = 0; j < 16; j++) {
        int sc = td_round_even(s * scales[j]);
        sc = sc < 127 ? sc : 127;
        b[192 + j] = (uint8_t)sc;
        float ds = d * (float)sc;
        if (ds == 0) continue;
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            code[i] = (uint8_t)(clamp_int(td_round_even(x[i] / ds), -32, 31) + 32);
        }
    }
    for (int v = 0; v < 256; v++) {
        int half = v >> 7, r = v & 127;
        uint8_t *lo = &b[64 * half + (r & 63)], *hi = &b[128 + 32 * half + (r & 31)];
        *lo = (uint8_t)(*lo | (code[v] & 15) << (4 * (r >> 6)));
        *hi = (uint8_t)(*hi | (code[v] >> 4) << (2 * (r >> 5)));
    }
}

void td_encode_q6_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 210) encode_block_q6_k(src + i, b, imatrix ? imatrix + i : NULL);
    }
}
