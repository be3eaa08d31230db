/* The scale searches of search.h for 16 sub-blocks at once, one per vector lane.
 *
 * A search adds up weighted products one after another, and that order fixes the bytes; so the values of one sub-block
 * cannot share a vector. Sixteen sub-blocks can: each lane does what the scalar search does, in the same order.
 * tests/quant/test_lanes.c holds the two equal. Arrays are transposed: value i of lane j is at [i * 16 + j]. */
#ifndef TD_QUANT_SEARCH_LANES_H
#define TD_QUANT_SEARCH_LANES_H

#include <stdbool.h>
#include <stdint.h>

enum { TD_LANES = 16 };

typedef struct td_lane_fns {
    /* As td_search_qx, td_search_q3 and td_search_qkx; scale, minus_min [16]; code [n][16]. `w` NULL means x^2. */
    void (*qx)(const float *x, const float *w, int n, int nmax, float *scale, uint8_t *code);
    void (*q3)(const float *x, int n, int nmax, float *scale, uint8_t *code);
    void (*qkx)(const float *x, const float *w, int n, int nmax, float rmin, float rdelta, int n_step, bool use_abs,
                float *scale, float *minus_min, uint8_t *code);
    /* code = clamp(rne((x + m) / d), lo, hi) - lo; lanes with d = 0 keep their codes. */
    void (*recode)(const float *x, int n, const float *d, const float *m, int lo, int hi, uint8_t *code);
    /* IQ4: the scale over the 16-entry table, and the nearest entries of x * inv. */
    void (*iq4_fit)(const float *x, const float *w, float *scale);
    void (*iq4_codes)(const float *x, const float *inv, uint8_t *code);
} td_lane_fns;

/* For the widest instructions of the machine, as td_cpu_has tells at the first call. */
const td_lane_fns *td_lanes(void);
/* All that are compiled in, narrowest first, NULL after the last; for tests, which ask td_cpu_has themselves. */
const td_lane_fns *td_lanes_of(int i);

#endif
