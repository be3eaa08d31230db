/* Encoders of the K-quants: 256 values, scales of sub-blocks themselves coded (spec quant-formats.md 1.6).
 *
 * Each finds a scale per sub-block by search, codes the scales, and takes the codes again with the scales as stored. */
#include "codec.h"
#include "search.h"
#include "search_lanes.h"

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

/* x [16][n] to t [n][16] and back for codes: the searches work on sixteen sub-blocks at once. */
static void transpose(const float *x, int n, float *t) {
    for (int j = 0; j < TD_LANES; j++)
        for (int i = 0; i < n; i++) t[i * TD_LANES + j] = x[j * n + i];
}

static void transpose_codes(const uint8_t *t, int n, uint8_t *code) {
    for (int j = 0; j < TD_LANES; j++)
        for (int i = 0; i < n; i++) code[j * n + i] = t[i * TD_LANES + j];
}

/* ---- Q4_K and Q5_K ---- */

typedef struct k45 { /* a block before packing */
    uint8_t code[256], scale[8], min[8];
    uint16_t d, dmin;
} k45;

/* Weights of 16 sub-blocks of 32 values, transposed like the values; sub_w: their sums. */
static void weigh_k45(const float *x, const float *imatrix, float *w, float *sub_w) {
    float row[32], sigma2 = 0;
    for (int j = 0; j < TD_LANES; j++) {
        const float *xs = x + 32 * j;
        if (imatrix) {
            if ((j & 7) == 0) sigma2 = 2 * sum_squares(xs, 256) / 256.0f;
            importance_weights(imatrix + 32 * j, xs, sigma2, 32, row);
            sub_w[j] = sum(row, 32);
        } else {
            float rms = sqrtf(sum_squares(xs, 32) / 32.0f);
            for (int i = 0; i < 32; i++) row[i] = rms + fabsf(xs[i]);
        }
        for (int i = 0; i < 32; i++) w[i * TD_LANES + j] = row[i];
    }
}

/* Two blocks of 256 values, o[2]. */
static void search_k45(const float *x, int nmax, const float *imatrix, k45 *o) {
    const td_lane_fns *lanes = td_lanes();
    float xt[512], w[512], scales[16], mins[16], sub_w[16], d[16], m[16];
    uint8_t ct[512];
    bool four = nmax == 15;
    transpose(x, 32, xt);
    weigh_k45(x, imatrix, w, sub_w);
    if (imatrix) {
        lanes->qkx(xt, w, 32, nmax, -0.9f, 0.05f, 36, false, scales, mins, ct);
    } else {
        lanes->qkx(xt, w, 32, nmax, four ? -1.0f : -0.5f, 0.1f, four ? 20 : 15, false, scales, mins, ct);
    }
    for (int k = 0; k < 2; k++) {
        float *s = scales + 8 * k, *n = mins + 8 * k;
        o[k].d = td_f32_to_f16(imatrix ? td_search_qp(s, 8, 63, sub_w + 8 * k, o[k].scale)
                                       : code_scales(s, 8, 63, o[k].scale));
        o[k].dmin =
            td_f32_to_f16(imatrix ? td_search_qp(n, 8, 63, sub_w + 8 * k, o[k].min) : code_scales(n, 8, 63, o[k].min));
        for (int j = 0; j < 8; j++) {
            d[8 * k + j] = td_f16_to_f32(o[k].d) * (float)o[k].scale[j];
            m[8 * k + j] = td_f16_to_f32(o[k].dmin) * (float)o[k].min[j];
        }
    }
    lanes->recode(xt, 32, d, m, 0, nmax, ct);
    uint8_t code[512];
    transpose_codes(ct, 32, code);
    memcpy(o[0].code, code, 256);
    memcpy(o[1].code, code + 256, 256);
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

static void pack_q4_k(const k45 *o, uint8_t *b) {
    td_store_u16(b, o->d);
    td_store_u16(b + 2, o->dmin);
    pack_k45_scales(o, b + 4);
    pack_k45_nibbles(o, b + 16);
}

static void pack_q5_k(const k45 *o, uint8_t *b) {
    td_store_u16(b, o->d);
    td_store_u16(b + 2, o->dmin);
    pack_k45_scales(o, b + 4);
    for (int l = 0; l < 32; l++) {
        int h = 0;
        for (int j = 0; j < 8; j++) h |= (o->code[32 * j + l] >> 4) << j;
        b[16 + l] = (uint8_t)h;
    }
    pack_k45_nibbles(o, b + 48);
}

/* Blocks go through the search in pairs; the last one of an odd row is searched beside itself. */
static void encode_k45_row(const float *x, uint8_t *b, int64_t k, int nmax, const float *imatrix) {
    size_t n_bytes = nmax == 15 ? 144 : 176;
    for (int64_t i = 0; i < k; i += 512) {
        k45 o[2];
        float pair[512], weights[512];
        const float *src = x + i, *imp = imatrix ? imatrix + i : NULL;
        bool last = k - i < 512;
        if (last) {
            memcpy(pair, src, sizeof pair / 2);
            memcpy(pair + 256, src, sizeof pair / 2);
            if (imp) {
                memcpy(weights, imp, sizeof weights / 2);
                memcpy(weights + 256, imp, sizeof weights / 2);
                imp = weights;
            }
            src = pair;
        }
        search_k45(src, nmax, imp, o);
        for (int j = 0; j < (last ? 1 : 2); j++, b += n_bytes) (nmax == 15 ? pack_q4_k : pack_q5_k)(&o[j], b);
    }
}

void td_encode_q4_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++) encode_k45_row(src + r * k, b + r * (k / 256 * 144), k, 15, imatrix);
}

void td_encode_q5_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++) encode_k45_row(src + r * k, b + r * (k / 256 * 176), k, 31, imatrix);
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

/* Importance weights of 16 sub-blocks of 16 values, transposed; sub_w: their sums. */
static void weigh_16(const float *x, const float *imatrix, float sigma2, float *w, float *sub_w) {
    for (int j = 0; j < TD_LANES; j++) {
        float row[16];
        importance_weights(imatrix + 16 * j, x + 16 * j, sigma2, 16, row);
        sub_w[j] = sum(row, 16);
        for (int i = 0; i < 16; i++) w[i * TD_LANES + j] = row[i];
    }
}

static void encode_block_q2_k(const float *x, uint8_t *b, const float *imatrix) {
    const td_lane_fns *lanes = td_lanes();
    uint8_t code[256], ct[256], scale[16], min[16];
    float xt[256], w[256], scales[16], mins[16], sub_w[16], ds[16], ms[16];
    transpose(x, 16, xt);
    if (imatrix) {
        weigh_16(x, imatrix, sum_squares(x, 256) / 256.0f, w, sub_w);
        lanes->qkx(xt, w, 16, 3, -0.9f, 0.05f, 36, false, scales, mins, ct);
    } else {
        for (int i = 0; i < 256; i++) w[i] = fabsf(xt[i]);
        lanes->qkx(xt, w, 16, 3, -0.5f, 0.1f, 15, true, scales, mins, ct);
    }
    float d = imatrix ? td_search_qp(scales, 16, 15, sub_w, scale) : code_scales(scales, 16, 15, scale);
    float dmin = imatrix ? td_search_qp(mins, 16, 15, sub_w, min) : code_scales(mins, 16, 15, min);
    td_store_u16(b + 80, td_f32_to_f16(d));
    td_store_u16(b + 82, td_f32_to_f16(dmin));
    d = td_f16_to_f32(td_load_u16(b + 80));
    dmin = td_f16_to_f32(td_load_u16(b + 82));
    for (int j = 0; j < 16; j++) {
        b[j] = (uint8_t)(scale[j] | min[j] << 4);
        ds[j] = d * (float)scale[j];
        ms[j] = dmin * (float)min[j];
    }
    lanes->recode(xt, 16, ds, ms, 0, 3, ct);
    transpose_codes(ct, 16, code);
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
    const td_lane_fns *lanes = td_lanes();
    uint8_t code[256], ct[256], scale[16];
    float xt[256], w[256], scales[16], sub_w[16], ds[16], d;
    transpose(x, 16, xt);
    memset(b, 0, 110);
    if (imatrix) {
        weigh_16(x, imatrix, 2 * sum_squares(x, 256) / 256.0f, w, sub_w);
        lanes->qx(xt, w, 16, 4, scales, ct);
        d = td_search_qx(scales, 16, 32, sub_w, scale);
    } else {
        lanes->q3(xt, 16, 4, scales, ct);
        float s_max = extreme(scales, 16), s = s_max != 0 ? -32.0f / s_max : 0;
        for (int j = 0; j < 16; j++) {
            scale[j] = s != 0 ? (uint8_t)(clamp_int(td_round_even(s * scales[j]), -32, 31) + 32) : 0;
        }
        d = s != 0 ? 1 / s : 0;
    }
    td_store_u16(b + 108, td_f32_to_f16(d));
    d = td_f16_to_f32(td_load_u16(b + 108));
    pack_q3_scales(scale, b + 96);
    for (int j = 0; j < 16; j++) ds[j] = d * (float)(scale[j] - 32);
    lanes->recode(xt, 16, ds, NULL, -4, 3, ct);
    transpose_codes(ct, 16, code);
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
    const td_lane_fns *lanes = td_lanes();
    uint8_t code[256], ct[256];
    float xt[256], w[256], scales[16], ds[16];
    transpose(x, 16, xt);
    if (imatrix) transpose(imatrix, 16, w);
    lanes->qx(xt, imatrix ? w : NULL, 16, 32, scales, ct);
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
        ds[j] = d * (float)sc;
    }
    lanes->recode(xt, 16, ds, NULL, -32, 31, ct);
    transpose_codes(ct, 16, code);
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
