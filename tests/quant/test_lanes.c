/* Sixteen searches at once against the scalar search, on every instruction set of this machine: rows of many shapes,
 * among them zeros, ties, single spikes and tiny values. */
#include "quant/codec.h"
#include "quant/search.h"
#include "quant/search_lanes.h"

#include "base/cpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint32_t state_of_rng = 1;

static float uniform(void) {
    state_of_rng = state_of_rng * 1664525u + 1013904223u;
    return (float)(state_of_rng >> 8) / 16777216.0f;
}

static float gauss(void) {
    float s = 0;
    for (int i = 0; i < 12; i++) s += uniform();
    return s - 6;
}

/* One sub-block of n values of kind `kind`. */
static void make(float *x, int n, int kind) {
    float scale = powf(10, (float)(kind % 7) - 3);
    for (int i = 0; i < n; i++) {
        switch (kind % 6) {
        case 0:
            x[i] = gauss();
            break;
        case 1:
            x[i] = gauss() * gauss() * gauss();
            break;
        case 2:
            x[i] = uniform() + 0.5f;
            break; /* a minimum above zero */
        case 3:
            x[i] = (float)(int)(uniform() * 8 - 4) / 4;
            break; /* many ties */
        case 4:
            x[i] = uniform() < 0.9f ? 0 : gauss();
            break; /* sparse */
        default:
            x[i] = kind % 12 == 5 ? 0 : i == n / 2 ? -1.0f : 1e-4f * gauss(); /* zeros; a spike */
        }
        x[i] *= scale;
    }
}

typedef struct lot { /* 16 sub-blocks, plain and transposed */
    float x[16][32], w[16][32], xt[512], wt[512];
} lot;

static void fill(lot *l, int n, int round) {
    for (int j = 0; j < 16; j++) {
        make(l->x[j], n, round * 16 + j);
        for (int i = 0; i < n; i++) {
            l->w[j][i] = uniform() + 0.01f;
            l->xt[i * 16 + j] = l->x[j][i];
            l->wt[i * 16 + j] = l->w[j][i];
        }
    }
}

static void same(float a, float b, const uint8_t *code, const uint8_t *ct, int n, int j, const char *what) {
    if (memcmp(&a, &b, 4) != 0 && !(a == 0 && b == 0))
        fail_msg("%s: lane %d has %.9g, not %.9g", what, j, (double)b, (double)a);
    for (int i = 0; i < n; i++) {
        if (code && code[i] != ct[i * 16 + j])
            fail_msg("%s: lane %d value %d: %d, not %d", what, j, i, ct[i * 16 + j], code[i]);
    }
}

static void check_qx(const td_lane_fns *f, const lot *l, int n, int nmax) {
    float scale[16];
    uint8_t ct[512], code[32];
    for (int weighted = 0; weighted < 2; weighted++) {
        f->qx(l->xt, weighted ? l->wt : NULL, n, nmax, scale, ct);
        for (int j = 0; j < 16; j++) {
            same(td_search_qx(l->x[j], n, nmax, weighted ? l->w[j] : NULL, code), scale[j], code, ct, n, j, "qx");
        }
    }
}

static void check_q3(const td_lane_fns *f, const lot *l) {
    float scale[16];
    uint8_t ct[512], code[32];
    f->q3(l->xt, 16, 4, scale, ct);
    for (int j = 0; j < 16; j++) same(td_search_q3(l->x[j], 16, 4, code), scale[j], code, ct, 16, j, "q3");
}

static void check_qkx(const td_lane_fns *f, const lot *l, int n, int nmax, float rmin, float rdelta, int n_step,
                      bool use_abs) {
    float scale[16], min[16], want_min;
    uint8_t ct[512], code[32];
    f->qkx(l->xt, l->wt, n, nmax, rmin, rdelta, n_step, use_abs, scale, min, ct);
    for (int j = 0; j < 16; j++) {
        float want = td_search_qkx(l->x[j], n, nmax, l->w[j], rmin, rdelta, n_step, use_abs, &want_min, code);
        same(want, scale[j], code, ct, n, j, "qkx");
        same(want_min, min[j], NULL, ct, n, j, "qkx minimum");
    }
}

static void test_searches(void **state) {
    (void)state;
    static const td_cpu_level level[] = {TD_CPU_REF, TD_CPU_AVX2, TD_CPU_AVX512};
    int n_sets = 0;
    for (int set = 0; td_lanes_of(set); set++) {
        if (set > 0 && !td_cpu_has(level[set])) continue;
        const td_lane_fns *f = td_lanes_of(set);
        static lot l;
        for (int round = 0; round < 300; round++) {
            fill(&l, 32, round);
            check_qkx(f, &l, 32, 15, -1.0f, 0.1f, 20, false);
            check_qkx(f, &l, 32, 31, -0.9f, 0.05f, 36, false);
            fill(&l, 16, round + 1);
            check_qkx(f, &l, 16, 3, -0.5f, 0.1f, 15, true);
            check_qx(f, &l, 16, 32);
            check_qx(f, &l, 16, 4);
            check_q3(f, &l);
        }
        n_sets++;
    }
    assert_true(n_sets >= 1);
}

/* The nearest table entry by definition, in double. */
static int nearest(double v) {
    int best = 0;
    for (int i = 1; i < 16; i++) {
        if (fabs(td_iq4_values[i] - v) <= fabs(td_iq4_values[best] - v)) best = i; /* the upper one on a tie */
    }
    return best;
}

static void test_iq4_codes(void **state) {
    (void)state;
    static const td_cpu_level level[] = {TD_CPU_REF, TD_CPU_AVX2, TD_CPU_AVX512};
    for (int set = 0; td_lanes_of(set); set++) {
        if (set > 0 && !td_cpu_has(level[set])) continue;
        float inv[16];
        for (int j = 0; j < 16; j++) inv[j] = 1;
        for (int start = -140 * 64; start < 140 * 64; start += 512) { /* every 64th, and one float to either side */
            for (int side = -1; side <= 1; side++) {
                float x[512];
                uint8_t code[512];
                for (int i = 0; i < 512; i++) {
                    float v = (float)(start + i) / 64;
                    x[i] = side ? nextafterf(v, (float)side * 1000) : v;
                }
                td_lanes_of(set)->iq4_codes(x, inv, code);
                for (int i = 0; i < 512; i++) assert_int_equal(code[i], nearest((double)x[i]));
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_searches), cmocka_unit_test(test_iq4_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
