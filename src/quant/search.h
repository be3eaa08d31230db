/* The scale searches that make the bytes of quantised files reproducible (spec quant-formats.md 1.5). */
#ifndef TD_QUANT_SEARCH_H
#define TD_QUANT_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#define TD_SEARCH_EPSILON 1e-15f

/* Nearest integer, ties to even, for |v| < 2^22. Out of that range and for NaN: 0, which only a broken weight gives. */
static inline int td_round_even(float v) {
    if (!(v > -4194304.0f && v < 4194304.0f)) return 0;
    float t = v + 12582912.0f; /* 1.5 * 2^23: the sum's last place is 1 */
    return (int)(t - 12582912.0f);
}

/* The value of largest magnitude with its sign, the first on a tie; 0 of nothing. */
float td_signed_max(const float *x, int n);
/* Symmetric search: codes 0..2 nmax - 1 (signed code + nmax); `w` NULL means x^2. Returns the scale. */
float td_search_qx(const float *x, int n, int nmax, const float *w, uint8_t *code);
/* Q3_K without importance: signed codes + nmax in `code`. */
float td_search_q3(const float *x, int n, int nmax, uint8_t *code);
/* Scale and minimum: codes 0..nmax; *minus_min >= 0. */
float td_search_qkx(const float *x, int n, int nmax, const float *w, float rmin, float rdelta, int n_step, bool use_abs,
                    float *minus_min, uint8_t *code);
/* Non-negative values: scales and minima of K-quants with importance. */
float td_search_qp(const float *x, int n, int nmax, const float *w, uint8_t *code);

#endif
