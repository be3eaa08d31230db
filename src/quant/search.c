/* Scale searches, one value after another in the order that fixes the bytes.
 *
 * The products and sums below are written in the order of the reference encoders, (w * x) * l and left to right: a
 * different order gives other bytes in about one block in a thousand. */
#include "search.h"

#include <math.h>
#include <string.h>

static int clamp_int(int v, int lo, int hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

static float weight_of(const float *w, const float *x, int i) {
    return w ? w[i] : x[i] * x[i];
}

float td_signed_max(const float *x, int n) {
    float amax = 0, smax = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > amax) {
            amax = fabsf(x[i]);
            smax = x[i];
        }
    }
    return smax;
}

float td_search_qx(const float *x, int n, int nmax, const float *w, uint8_t *code) {
    float smax = td_signed_max(x, n);
    if (!(fabsf(smax) >= TD_SEARCH_EPSILON)) {
        memset(code, 0, (size_t)n);
        return 0;
    }
    float scale = 0, best = 0;
    for (int t = 0; t < 19; t++) {
        /* the plain scale first, then -9..9 without 0 */
        int k = t == 0 ? 0 : t <= 9 ? t - 10 : t - 9;
        float s = t == 0 ? (float)-nmax / smax : -((float)nmax + 0.1f * (float)k) / smax;
        float a = 0, b = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)clamp_int(td_round_even(s * x[i]), -nmax, nmax - 1), wi = weight_of(w, x, i);
            a += wi * x[i] * l;
            b += wi * l * l;
        }
        if (t == 0 || (b > 0 && a * a > best * b)) {
            for (int i = 0; i < n; i++) {
                code[i] = (uint8_t)(clamp_int(td_round_even(s * x[i]), -nmax, nmax - 1) + nmax);
            }
            scale = b > 0 ? a / b : 0;
            best = scale * a;
        }
    }
    return scale;
}

float td_search_q3(const float *x, int n, int nmax, uint8_t *code) {
    float smax = td_signed_max(x, n);
    if (!(fabsf(smax) >= TD_SEARCH_EPSILON)) {
        memset(code, 0, (size_t)n);
        return 0;
    }
    int l[32];
    float s = (float)-nmax / smax, a_all = 0, b_all = 0;
    for (int i = 0; i < n; i++) {
        float w = x[i] * x[i];
        l[i] = clamp_int(td_round_even(s * x[i]), -nmax, nmax - 1);
        a_all += w * x[i] * (float)l[i];
        b_all += w * (float)l[i] * (float)l[i];
    }
    for (int sweep = 0; sweep < 5; sweep++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            float w = x[i] * x[i], a = a_all - w * x[i] * (float)l[i], b = b_all - w * (float)l[i] * (float)l[i];
            if (!(a > 0)) continue;
            int v = clamp_int(td_round_even(x[i] * b / a), -nmax, nmax - 1);
            if (v == l[i]) continue;
            a += w * x[i] * (float)v;
            b += w * (float)v * (float)v;
            if (b > 0 && a * a * b_all > a_all * a_all * b) {
                l[i] = v;
                a_all = a;
                b_all = b;
                changed++;
            }
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; i++) code[i] = (uint8_t)(l[i] + nmax);
    return b_all > 0 ? a_all / b_all : 0;
}

static float qkx_error(const float *x, int n, const float *w, float scale, float min, const uint8_t *code,
                       bool use_abs) {
    float err = 0;
    for (int i = 0; i < n; i++) {
        float e = scale * (float)code[i] + min - x[i];
        err += w[i] * (use_abs ? fabsf(e) : e * e);
    }
    return err;
}

float td_search_qkx(const float *x, int n, int nmax, const float *w, float rmin, float rdelta, int n_step, bool use_abs,
                    float *minus_min, uint8_t *code) {
    float min = x[0], max = x[0], sw = w[0], sx = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < min) min = x[i];
        if (x[i] > max) max = x[i];
        sw += w[i];
        sx += w[i] * x[i];
    }
    if (min > 0) min = 0;
    if (!(max > min)) {
        memset(code, 0, (size_t)n);
        *minus_min = -min;
        return 0;
    }
    float s = (float)nmax / (max - min), scale = 1 / s;
    for (int i = 0; i < n; i++) code[i] = (uint8_t)clamp_int(td_round_even(s * (x[i] - min)), 0, nmax);
    float best = qkx_error(x, n, w, scale, min, code, use_abs);
    for (int k = 0; k <= n_step; k++) {
        uint8_t trial[32];
        float sl = 0, sll = 0, sxl = 0;
        s = (rmin + rdelta * (float)k + (float)nmax) / (max - min);
        for (int i = 0; i < n; i++) {
            int c = clamp_int(td_round_even(s * (x[i] - min)), 0, nmax);
            float l = (float)c;
            trial[i] = (uint8_t)c;
            sl += w[i] * l;
            sll += w[i] * l * l;
            sxl += w[i] * l * x[i];
        }
        float det = sw * sll - sl * sl;
        if (!(det > 0)) continue;
        float t_scale = (sw * sxl - sx * sl) / det, t_min = (sll * sx - sl * sxl) / det;
        if (t_min > 0) {
            t_min = 0;
            t_scale = sxl / sll;
        }
        float err = qkx_error(x, n, w, t_scale, t_min, trial, use_abs);
        if (err < best) {
            memcpy(code, trial, (size_t)n);
            best = err;
            scale = t_scale;
            min = t_min; /* the following trials use it: the bytes depend on this */
        }
    }
    *minus_min = -min;
    return scale;
}

/* Coordinate descent on codes 0..nmax from a good start; returns the scale. */
static float qp_refine(const float *x, int n, int nmax, const float *w, uint8_t *code, float a_all, float b_all) {
    for (int sweep = 0; sweep < 5; sweep++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)code[i], a = a_all - w[i] * x[i] * l, b = b_all - w[i] * l * l;
            if (!(a > 0 && b > 0)) continue;
            int v = td_round_even(x[i] * b / a);
            if (v > nmax) v = nmax;
            if (v == code[i] || v < 0) continue;
            a += w[i] * x[i] * (float)v;
            b += w[i] * (float)v * (float)v;
            if (a * a * b_all > a_all * a_all * b) {
                code[i] = (uint8_t)v;
                a_all = a;
                b_all = b;
                changed++;
            }
        }
        if (!changed) break;
    }
    return b_all > 0 ? a_all / b_all : 0;
}

float td_search_qp(const float *x, int n, int nmax, const float *w, uint8_t *code) {
    float max = 0;
    for (int i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++) code[i] = 0;
    if (!(max >= TD_SEARCH_EPSILON)) return 0;
    float s = (float)nmax / max, best = 0;
    for (int i = 0; i < n; i++) {
        float d = x[i] - 1 / s * (float)td_round_even(s * x[i]);
        best += w[i] * d * d;
    }
    for (int k = -4; k <= 4; k++) {
        if (k == 0) continue;
        float t = (0.1f * (float)k + (float)nmax) / max, inv = 1 / t, err = 0;
        for (int i = 0; i < n; i++) {
            int l = td_round_even(t * x[i]);
            float d = x[i] - inv * (float)(l < nmax ? l : nmax);
            err += w[i] * d * d;
        }
        if (err < best) {
            best = err;
            s = t;
        }
    }
    float a = 0, b = 0;
    for (int i = 0; i < n; i++) {
        int l = clamp_int(td_round_even(s * x[i]), 0, nmax);
        code[i] = (uint8_t)l;
        a += w[i] * x[i] * (float)l;
        b += w[i] * (float)l * (float)l;
    }
    return qp_refine(x, n, nmax, w, code, a, b);
}
