/* Encoders of IQ4_NL and IQ4_XS: a scale over the 16-entry table, found by search (spec quant-formats.md 1.7). */
#include "codec.h"
#include "search.h"

#include "../base/half.h"

#include <math.h>

static const int8_t *const table = td_iq4_values;

/* Nearest entry; between two neighbours the lower one only if strictly nearer. */
static int nearest(float x) {
    if (!(x > (float)table[0])) return 0;
    if (x >= (float)table[15]) return 15;
    int lo = 0, hi = 15;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (x < (float)table[mid]) {
            hi = mid;
        } else {
            lo = mid;
        }
    }
    return x - (float)table[lo] < (float)table[hi] - x ? lo : hi;
}

static void fit_sums(const float *x, const float *w, float inv, float *vx, float *vv, uint8_t *code) {
    *vx = 0;
    *vv = 0;
    for (int i = 0; i < 32; i++) {
        int l = nearest(inv * x[i]);
        float v = (float)table[l];
        if (code) code[i] = (uint8_t)l;
        *vx += w[i] * v * x[i];
        *vv += w[i] * v * v;
    }
}

/* The scale of 32 values; codes of the last accepted trial are not kept, they follow from the scale. */
static float fit(const float *x, const float *w) {
    float smax = 0;
    for (int i = 0; i < 32; i++) smax = fabsf(x[i]) > fabsf(smax) ? x[i] : smax;
    if (!(fabsf(smax) >= TD_SEARCH_EPSILON)) return 0;
    float vx, vv, d = smax / (float)-table[0];
    fit_sums(x, w, 1 / d, &vx, &vv, NULL);
    if (!(vv > 0)) return 0;
    d = vx / vv;
    float best = d * vx;
    for (int k = -7; k <= 7; k++) {
        fit_sums(x, w, ((float)k + (float)table[0]) / smax, &vx, &vv, NULL);
        if (vv > 0 && vx * vx > best * vv) {
            d = vx / vv;
            best = d * vx;
        }
    }
    return d;
}

static void block_weights(const float *x, const float *imatrix, float sigma2, float *w) {
    for (int i = 0; i < 32; i++) w[i] = imatrix ? imatrix[i] * sqrtf(sigma2 + x[i] * x[i]) : x[i] * x[i];
}

static float sum_squares(const float *x, int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[i] * x[i];
    return s;
}

static void pack(const uint8_t *code, uint8_t *b) {
    for (int j = 0; j < 16; j++) b[j] = (uint8_t)(code[j] | code[j + 16] << 4);
}

static void code_values(const float *x, float d, uint8_t *code) {
    float inv = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++) code[i] = (uint8_t)nearest(x[i] * inv);
}

void td_encode_iq4_nl(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 32, b += 18) {
            float w[32];
            uint8_t code[32];
            block_weights(src + i, imatrix ? imatrix + i : NULL, 2.0f / 32.0f * sum_squares(src + i, 32), w);
            float d = fit(src + i, w);
            td_store_u16(b, td_f32_to_f16(d));
            code_values(src + i, d, code);
            pack(code, b + 2);
        }
    }
}

void td_encode_iq4_nl_fast(const float *src, void *dst, int64_t n) {
    uint8_t *b = dst;
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        const float *x = src + i;
        float smax = 0, w[32], vx, vv;
        for (int j = 0; j < 32; j++) smax = fabsf(x[j]) > fabsf(smax) ? x[j] : smax;
        if (!(fabsf(smax) >= TD_SEARCH_EPSILON)) {
            memset(b, 0, 18);
            continue;
        }
        uint8_t code[32];
        block_weights(x, NULL, 0, w);
        fit_sums(x, w, 1.0f / (smax / (float)table[0]), &vx, &vv, code);
        td_store_u16(b, td_f32_to_f16(vv > 0 ? vx / vv : 0));
        pack(code, b + 2);
    }
}

static void encode_block_iq4_xs(const float *x, uint8_t *b, const float *imatrix) {
    float scales[8], s_max = 0, sigma2 = 2.0f / 256.0f * sum_squares(x, 256);
    for (int j = 0; j < 8; j++) {
        float w[32];
        block_weights(x + 32 * j, imatrix ? imatrix + 32 * j : NULL, sigma2, w);
        scales[j] = fit(x + 32 * j, w);
        if (fabsf(scales[j]) > fabsf(s_max)) s_max = scales[j];
    }
    float d = -s_max / 32.0f, id = d != 0 ? 1 / d : 0;
    uint32_t high = 0;
    memset(b, 0, 136);
    td_store_u16(b, td_f32_to_f16(d));
    for (int j = 0; j < 8; j++) {
        int l = td_round_even(id * scales[j]);
        l = l < -32 ? -32 : l > 31 ? 31 : l;
        uint8_t code[32];
        code_values(x + 32 * j, d * (float)l, code);
        pack(code, b + 8 + 16 * j);
        b[4 + j / 2] = (uint8_t)(b[4 + j / 2] | ((l + 32) & 15) << (4 * (j & 1)));
        high |= (uint32_t)((l + 32) >> 4) << (2 * j);
    }
    td_store_u16(b + 2, (uint16_t)high);
}

void td_encode_iq4_xs(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 256, b += 136) encode_block_iq4_xs(src + i, b, imatrix ? imatrix + i : NULL);
    }
}
