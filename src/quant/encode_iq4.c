/* Encoders of IQ4_NL and IQ4_XS: a scale over the 16-entry table, found by search (spec quant-formats.md 1.7). */
#include "codec.h"
#include "search.h"
#include "search_lanes.h"

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

/* Sixteen runs of 32 values: their scales and then the codes for the scales d that follow from them. */
typedef struct group {
    float xt[512], scale[16], d[16];
    uint8_t code[16][32];
} group;

static void fit_group(const float *x, const float *imatrix, const float *sigma2, group *g) {
    float wt[512], w[32];
    for (int j = 0; j < TD_LANES; j++) {
        block_weights(x + 32 * j, imatrix ? imatrix + 32 * j : NULL, sigma2[j], w);
        for (int i = 0; i < 32; i++) {
            g->xt[i * TD_LANES + j] = x[32 * j + i];
            wt[i * TD_LANES + j] = w[i];
        }
    }
    td_lanes()->iq4_fit(g->xt, wt, g->scale);
}

static void code_group(group *g) {
    float inv[16];
    uint8_t ct[512];
    for (int j = 0; j < TD_LANES; j++) inv[j] = g->d[j] != 0 ? 1 / g->d[j] : 0;
    td_lanes()->iq4_codes(g->xt, inv, ct);
    for (int j = 0; j < TD_LANES; j++)
        for (int i = 0; i < 32; i++) g->code[j][i] = ct[i * TD_LANES + j];
}

/* 512 values from position i of a row of k; what lies beyond the row is filled with zeros. */
static const float *take_512(const float *row, int64_t i, int64_t k, float *store) {
    if (!row || k - i >= 512) return row ? row + i : NULL;
    memset(store, 0, 512 * sizeof *store);
    memcpy(store, row + i, (size_t)(k - i) * sizeof *store);
    return store;
}

void td_encode_iq4_nl(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 512) {
            group g;
            float xs[512], is[512], sigma2[16];
            const float *x = take_512(src, i, k, xs), *imp = take_512(imatrix, i, k, is);
            for (int j = 0; j < TD_LANES; j++) sigma2[j] = 2.0f / 32.0f * sum_squares(x + 32 * j, 32);
            fit_group(x, imp, sigma2, &g);
            memcpy(g.d, g.scale, sizeof g.d);
            code_group(&g);
            for (int j = 0; j < TD_LANES && i + 32 * j < k; j++, b += 18) {
                td_store_u16(b, td_f32_to_f16(g.d[j]));
                pack(g.code[j], b + 2);
            }
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

/* The common scale of a block's eight sub-blocks, and their six-bit factors. */
static float settle_iq4_xs(const float *scale, int *factor, float *d_sub) {
    float s_max = 0;
    for (int j = 0; j < 8; j++) s_max = fabsf(scale[j]) > fabsf(s_max) ? scale[j] : s_max;
    float d = -s_max / 32.0f, id = d != 0 ? 1 / d : 0;
    for (int j = 0; j < 8; j++) {
        int l = td_round_even(id * scale[j]);
        factor[j] = l < -32 ? -32 : l > 31 ? 31 : l;
        d_sub[j] = d * (float)factor[j];
    }
    return d;
}

static void pack_iq4_xs(float d, const int *factor, uint8_t (*code)[32], uint8_t *b) {
    uint32_t high = 0;
    memset(b, 0, 8);
    td_store_u16(b, td_f32_to_f16(d));
    for (int j = 0; j < 8; j++) {
        int l = factor[j] + 32;
        pack(code[j], b + 8 + 16 * j);
        b[4 + j / 2] = (uint8_t)(b[4 + j / 2] | (l & 15) << (4 * (j & 1)));
        high |= (uint32_t)(l >> 4) << (2 * j);
    }
    td_store_u16(b + 2, (uint16_t)high);
}

void td_encode_iq4_xs(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    uint8_t *b = dst;
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        for (int64_t i = 0; i < k; i += 512) {
            group g;
            float xs[512], is[512], sigma2[16], d[2];
            int factor[16];
            const float *x = take_512(src, i, k, xs), *imp = take_512(imatrix, i, k, is);
            for (int j = 0; j < TD_LANES; j++) {
                sigma2[j] = (j & 7) == 0 ? 2.0f / 256.0f * sum_squares(x + 32 * j, 256) : sigma2[j - 1];
            }
            fit_group(x, imp, sigma2, &g);
            for (int s = 0; s < 2; s++) d[s] = settle_iq4_xs(g.scale + 8 * s, factor + 8 * s, g.d + 8 * s);
            code_group(&g);
            for (int s = 0; s < 2 && i + 256 * s < k; s++, b += 136)
                pack_iq4_xs(d[s], factor + 8 * s, g.code + 8 * s, b);
        }
    }
}
