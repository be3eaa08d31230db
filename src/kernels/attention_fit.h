/* Codes of a group, in a form that compilers vectorise: included by every set that has no version of its own. Sums run
 * over 16 lanes folded as a tree, as everywhere in attention, so that all sets choose the same codes. */
#ifndef TD_KERNELS_ATTENTION_FIT_H
#define TD_KERNELS_ATTENTION_FIT_H

#include "attention_ops.h"

static inline float fit_tree(float *a) { /* [16] */
    for (int n = 8; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) a[i] = a[i] + a[i + n];
    }
    return a[0];
}

/* Number of the nearest magnitude, and the signed level. */
static inline int32_t fit_index(const attn_levels *l, float v) {
    float a = fabsf(v);
    int32_t n = 0;
    for (int k = 0; k < 7; k++) n += a >= l->threshold[k];
    return n;
}

static inline void fit_match(const float *x, uint32_t n, float inv, const attn_levels *l, float *xt, float *tt) {
    float lx[16] = {0}, lt[16] = {0};
    for (uint32_t i = 0; i < n; i += 16) {
        for (uint32_t j = 0; j < 16; j++) {
            float v = x[i + j] * inv, t = l->level[fit_index(l, v)];
            t = v < 0.0f ? -t : t;
            lx[j] = fmaf(x[i + j], t, lx[j]);
            lt[j] = fmaf(t, t, lt[j]);
        }
    }
    *xt = fit_tree(lx);
    *tt = fit_tree(lt);
}

static inline void fit_codes(const float *x, uint32_t n, float inv, const attn_levels *l, int16_t *code) {
    for (uint32_t i = 0; i < n; i++) {
        float v = x[i] * inv;
        int32_t k = fit_index(l, v);
        code[i] = (int16_t)(v < 0.0f ? l->half - 1 - k : l->half + k);
    }
}

/* Squared error of rounding to multiples of `step` = 1 / inv. */
static inline float fit_error_8(const float *x, uint32_t n, float step, float inv) {
    float lane[16] = {0};
    for (uint32_t i = 0; i < n; i += 16) {
        for (uint32_t j = 0; j < 16; j++) {
            float e = fmaf((x[i + j] * inv + 12582912.0f) - 12582912.0f, -step, x[i + j]);
            lane[j] = fmaf(e, e, lane[j]);
        }
    }
    return fit_tree(lane);
}

static inline void fit_codes_8(const float *x, uint32_t n, float inv, int16_t *code) {
    for (uint32_t i = 0; i < n; i++) {
        float v = x[i] * inv;
        v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
        code[i] = (int16_t)attn_round(v);
    }
}

#endif
