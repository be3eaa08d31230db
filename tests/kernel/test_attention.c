/* Attention against a double-precision oracle, for every cache type, shape and cut, on every instruction set; and the
 * house rule: a row gives the same bits alone, in any batch, with any number of threads' worth of cuts. */
#include "kernels/attention_ops.h"

#include "../share.h"
#include "attn_world.h"

#include "base/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const int levels[] = {TD_CPU_REF, TD_CPU_AVX2, TD_CPU_AVXVNNI, TD_CPU_AVX512, TD_CPU_NEON};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static float *make_queries(uint32_t n_rows, uint32_t n_head, uint32_t d, double size) {
    size_t n = (size_t)n_rows * n_head * d;
    float *q = malloc(n * sizeof *q);
    for (size_t i = 0; i < n; i++) q[i] = (float)(world_normal() * size);
    return q;
}

typedef struct shape_case {
    td_kv_type k, v;
    uint32_t n_head, n_kv, d, n_pos, rotated;
} shape_case;

static const shape_case cases[] = {
    {TD_KV_F32, TD_KV_F32, 4, 2, 32, 100, 0},         {TD_KV_F32, TD_KV_F32, 8, 1, 64, 333, 0},
    {TD_KV_F16, TD_KV_F16, 8, 1, 256, 700, 0},        {TD_KV_F16, TD_KV_F16, 8, 1, 512, 1100, 0},
    {TD_KV_BF16, TD_KV_BF16, 6, 2, 96, 65, 0},        {TD_KV_F16, TD_KV_F16, 16, 1, 512, 513, 64},
    {TD_KV_F32, TD_KV_F32, 16, 1, 512, 300, 64},      {TD_KV_Q8_0, TD_KV_Q8_0, 8, 1, 256, 700, 0},
    {TD_KV_Q8_0, TD_KV_Q8_0, 4, 2, 32, 130, 0},       {TD_KV_Q8_0, TD_KV_Q8_0, 8, 1, 512, 400, 64},
    {TD_KV_Q4_0, TD_KV_Q4_0, 8, 1, 256, 500, 0},      {TD_KV_TURBO4, TD_KV_TURBO4, 8, 1, 512, 700, 0},
    {TD_KV_TURBO4, TD_KV_TURBO4, 8, 1, 512, 500, 64}, {TD_KV_TURBO3, TD_KV_TURBO3, 8, 2, 256, 500, 0},
    {TD_KV_TURBO2, TD_KV_TURBO2, 8, 2, 128, 500, 0},  {TD_KV_TURBO3, TD_KV_TURBO2, 4, 1, 96, 200, 0},
    {TD_KV_Q8_0, TD_KV_TURBO3, 8, 1, 256, 300, 0},    {TD_KV_TURBO3, TD_KV_F16, 3, 3, 64, 300, 0},
    {TD_KV_F32, TD_KV_TURBO4, 2, 1, 64, 300, 0},      {TD_KV_TURBO2, TD_KV_F32, 2, 1, 64, 300, 0},
    {TD_KV_F16, TD_KV_F16, 130, 1, 32, 300, 0},       {TD_KV_F16, TD_KV_F16, 1, 1, 128, 5000, 0},
    {TD_KV_TURBO3, TD_KV_TURBO3, 8, 1, 512, 300, 64}, {TD_KV_TURBO2, TD_KV_TURBO2, 8, 1, 512, 300, 64},
    {TD_KV_Q4_0, TD_KV_Q4_0, 8, 1, 512, 300, 64},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* Ranges of all kinds: a decode row, a verify batch, windows that start anywhere, one key, nothing. */
static uint32_t make_rows(td_attn_row *rows, uint32_t n_pos) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < 5; i++) rows[n++] = (td_attn_row){0, 0, n_pos - 4 + i};
    for (uint32_t i = 0; i < 12 && i < n_pos; i++) rows[n++] = (td_attn_row){0, i > 3 ? i - 3 : 0, i + 1};
    uint32_t edges[] = {31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512};
    for (uint32_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        if (edges[i] < n_pos) rows[n++] = (td_attn_row){0, edges[i], n_pos};
        if (edges[i] < n_pos) rows[n++] = (td_attn_row){0, 0, edges[i]};
    }
    rows[n++] = (td_attn_row){0, n_pos - 1, n_pos};
    rows[n++] = (td_attn_row){0, 5, 5};
    rows[n++] = (td_attn_row){0, 7, 3};
    return n;
}

static double check_case(const shape_case *c, const world *w, const float *q, const float *out, const td_attn_row *rows,
                         uint32_t n_rows) {
    double worst = 0, o[TD_ATTN_D_MAX];
    for (uint32_t r = 0; r < n_rows; r++) {
        for (uint32_t h = 0; h < c->n_head; h++) {
            size_t at = ((size_t)r * c->n_head + h) * c->d;
            world_oracle(w, w->kd, w->vd, q + at, h / (c->n_head / c->n_kv), rows[r].lo, rows[r].hi, o);
            double norm = 1e-3, error = 0;
            for (uint32_t i = 0; i < c->d; i++) {
                norm += o[i] * o[i];
                error += (o[i] - (double)out[at + i]) * (o[i] - (double)out[at + i]);
            }
            double e = sqrt(error / norm);
            if (!(e <= worst)) worst = e;
        }
    }
    return worst;
}

static void test_oracle(void **state) {
    (void)state;
    int every = 100 / test_share(100, 10);
    for (int l = 0; l < N_LEVELS; l++) {
        const attn_ops *ops = td_attn_ops_for(levels[l]);
        if (!ops || (l > 0 && ops == td_attn_ops_for(levels[l - 1]))) continue;
        td_attn_ops_override(ops);
        for (int i = l % 3; i < N_CASES;
             i += every * (ops == &td_attn_ops_ref ? 1 : 3)) { /* test_identity has them all */
            const shape_case *c = &cases[i];
            world w;
            world_make(&w, c->k, c->v, c->n_kv, c->d, c->n_pos, c->rotated);
            td_attn_row rows[64];
            uint32_t n_rows = make_rows(rows, c->n_pos);
            float *q = make_queries(n_rows, c->n_head, c->d, 4.0 / sqrt((double)c->d));
            float *out = malloc((size_t)n_rows * c->n_head * c->d * sizeof *out);
            td_attn_plan *plan = NULL;
            assert_int_equal(td_attn_plan_create(&plan, 64, c->n_head, c->d, 1, NULL), TD_OK);
            world_attend(plan, &w, c->n_head, rows, n_rows, q, out, false);
            double worst = check_case(c, &w, q, out, rows, n_rows);
            bool floats = c->k == TD_KV_F32 && c->v == TD_KV_F32;
            if (worst > (floats ? 5e-6 : 5e-4))
                fail_msg("%s, %s/%s d %u: error %g", ops->name, td_kv_type_name(c->k), td_kv_type_name(c->v), c->d,
                         worst);
            td_attn_plan_destroy(plan);
            free(q);
            free(out);
            world_free(&w);
        }
    }
    td_attn_ops_override(NULL);
}

/* Every set gives the bits of ref; every cut and every batch gives the bits of a row alone. */
static void test_identity(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i += 100 / test_share(100, 10)) {
        const shape_case *c = &cases[i];
        td_attn_ops_override(&td_attn_ops_ref);
        world w;
        world_make(&w, c->k, c->v, c->n_kv, c->d, c->n_pos, c->rotated);
        td_attn_row rows[64];
        uint32_t n_rows = make_rows(rows, c->n_pos);
        size_t ld = (size_t)c->n_head * c->d, n = n_rows * ld;
        float *q = make_queries(n_rows, c->n_head, c->d, 4.0 / sqrt((double)c->d));
        float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
        td_attn_plan *plan[3] = {0};
        uint32_t threads[3] = {1, 3, 64};
        for (int t = 0; t < 3; t++)
            assert_int_equal(td_attn_plan_create(&plan[t], 64, c->n_head, c->d, threads[t], NULL), TD_OK);
        for (uint32_t r = 0; r < n_rows; r++)
            world_attend(plan[0], &w, c->n_head, rows + r, 1, q + r * ld, want + r * ld, false);
        for (int l = 0; l < N_LEVELS; l++) {
            const attn_ops *ops = td_attn_ops_for(levels[l]);
            if (!ops) continue;
            td_attn_ops_override(ops);
            for (int t = 0; t < 3; t++) {
                memset(got, 0xff, n * sizeof *got);
                world_attend(plan[t], &w, c->n_head, rows, n_rows, q, got, t == 2);
                if (memcmp(want, got, n * sizeof *got) != 0) fail_msg("%s, case %d, cut %d", ops->name, i, t);
            }
            for (uint32_t r = 0; r < n_rows; r += 7) { /* alone, cut finely */
                world_attend(plan[2], &w, c->n_head, rows + r, 1, q + r * ld, got, false);
                if (memcmp(want + r * ld, got, ld * sizeof *got) != 0) fail_msg("%s, case %d, row %u", ops->name, i, r);
            }
        }
        td_attn_ops_override(NULL);
        for (int t = 0; t < 3; t++) td_attn_plan_destroy(plan[t]);
        free(q);
        free(want);
        free(got);
        world_free(&w);
    }
}

/* Every set codes a position to the same bytes. */
static void test_store(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const shape_case *c = &cases[i];
        uint32_t n_pos = c->n_pos < 150 ? c->n_pos : 150;
        uint8_t *want = NULL;
        for (int l = 0; l < N_LEVELS; l++) {
            const attn_ops *ops = td_attn_ops_for(levels[l]);
            if (!ops) continue;
            td_attn_ops_override(ops);
            world w;
            world_seed = 12345;
            world_make(&w, c->k, c->v, c->n_kv, c->d, n_pos, c->rotated);
            size_t bytes = (n_pos + 63) / 64 * w.shape.page_bytes;
            if (!want) {
                want = malloc(bytes);
                memcpy(want, w.pages, bytes);
            } else if (memcmp(want, w.pages, bytes) != 0) {
                fail_msg("%s, case %d", ops->name, i);
            }
            world_free(&w);
        }
        free(want);
    }
    td_attn_ops_override(NULL);
}

/* e^x over the whole range: at most 1 unit in the last place, 1 at 0, 0 below the range. */
static void test_exp(void **state) {
    (void)state;
    double worst = 0;
    uint32_t step = 61u * (100u / (uint32_t)test_share(100, 1));
    for (uint32_t bits = 0x80000000u; bits <= 0xc2ae0000u; bits += step) { /* -0 to -87 */
        float x;
        memcpy(&x, &bits, sizeof x);
        double want = exp((double)x), got = (double)td_attn_ops_ref.exp(x);
        double unit = ldexp(1.0, ilogb(want) - 23), e = fabs(got - want) / unit;
        worst = e > worst ? e : worst;
    }
    print_message("exp: at most %.3f units in the last place\n", worst);
    assert_true(worst <= 1.0);
    assert_true(td_attn_ops_ref.exp(0.0f) == 1.0f && td_attn_ops_ref.exp(-INFINITY) == 0.0f);
    assert_true(td_attn_ops_ref.exp(-87.1f) == 0.0f && td_attn_ops_ref.exp(NAN) == 0.0f);
}

/* Vectors that break things: zeros, huge, tiny, one outlier, not finite. Nothing that is not finite comes back, and one
 * bad position does not reach rows that do not see it. */
static void test_hard_values(void **state) {
    (void)state;
    enum { D = 256, N = 130 };
    for (int t = 0; t < TD_KV_TYPE_COUNT; t++) {
        world w;
        world_make(&w, (td_kv_type)t, (td_kv_type)t, 1, D, N, 0);
        float k[D], v[D], q[2 * D], out[2 * D], alone[D];
        for (uint32_t kind = 0; kind < 6; kind++) {
            for (uint32_t i = 0; i < D; i++) {
                k[i] = kind == 0 ? 0.0f : kind == 1 ? 3e37f : kind == 2 ? 1e-42f : kind == 3 && i ? 0.0f : 1.0f;
                if (kind == 4) k[i] = i % 2 ? NAN : 1.0f;
                if (kind == 5) k[i] = i % 3 ? -INFINITY : INFINITY;
                v[i] = k[i];
            }
            uint8_t *page = w.pages + w.table[2] * w.shape.page_bytes;
            td_attn_store(&w.shape, page, 1, k, v);
            td_attn_load(&w.shape, page, 1, k, v);
            for (uint32_t i = 0; i < D; i++) {
                assert_true(isfinite(k[i]) && isfinite(v[i]));
                if (kind == 0) assert_true(k[i] == 0.0f && v[i] == 0.0f);
                if (kind == 3 && i == 0) assert_true(fabsf(v[0] - 1.0f) < 0.7f);
            }
            float *x = make_queries(2, 1, D, 0.01);
            memcpy(q, x, sizeof q);
            free(x);
            td_attn_row rows[2] = {{0, 0, 129}, {0, 0, 130}};
            td_attn_plan *plan = NULL;
            assert_int_equal(td_attn_plan_create(&plan, 8, 1, D, 1, NULL), TD_OK);
            world_attend(plan, &w, 1, rows, 2, q, out, false);
            world_attend(plan, &w, 1, rows, 1, q, alone, false);
            td_attn_plan_destroy(plan);
            assert_memory_equal(out, alone, sizeof alone);
            for (uint32_t i = 0; i < D; i++) assert_true(isfinite(out[i]));
        }
        world_free(&w);
    }
}

/* --- what the types lose, against the formats they replace -----------------------------------------------------------
 */

static float half_round(float x) { /* to IEEE half and back, normal range */
    int e = 0;
    float m = frexpf(x, &e);
    return ldexpf(rintf(ldexpf(m, 11)), e - 11);
}

static double old_half(const float *x, uint32_t n) {
    double error = 0;
    for (uint32_t i = 0; i < n; i++) error += pow((double)x[i] - (double)half_round(x[i]), 2);
    return error;
}

static double old_q8_0(const float *x, uint32_t n) {
    double error = 0;
    for (uint32_t b = 0; b < n; b += 32) {
        float top = 0;
        for (uint32_t i = b; i < b + 32; i++) top = fmaxf(top, fabsf(x[i]));
        float d = top / 127.0f, dh = half_round(d);
        for (uint32_t i = b; i < b + 32; i++) error += pow((double)x[i] - (double)(roundf(x[i] / d) * dh), 2);
    }
    return error;
}

static double old_q4_0(const float *x, uint32_t n) {
    double error = 0;
    for (uint32_t b = 0; b < n; b += 32) {
        float top = 0;
        for (uint32_t i = b; i < b + 32; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
        float d = top / -8.0f, dh = half_round(d);
        for (uint32_t i = b; i < b + 32; i++) {
            float q = fminf(15.0f, floorf(x[i] / d + 8.5f));
            error += pow((double)x[i] - (double)((q - 8.0f) * dh), 2);
        }
    }
    return error;
}

/* The fork's turbo types on normal vectors (the transform changes nothing there): its tables and its norm rule. */
static double old_turbo(const float *x, uint32_t n, int bits) {
    static const double c2[] = {0.039994, 0.133462}, c3[] = {0.021460, 0.065717, 0.117832, 0.190685};
    static const double c4[] = {0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926};
    const double *c = bits == 2 ? c2 : bits == 3 ? c3 : c4;
    double error = 0;
    for (uint32_t b = 0; b < n; b += 128) {
        double norm = 0, r = 0, y[128];
        for (int i = 0; i < 128; i++) norm += pow((double)x[b + (uint32_t)i], 2);
        norm = sqrt(norm);
        for (int i = 0; i < 128; i++) {
            double v = fabs((double)x[b + (uint32_t)i]) / norm, best = INFINITY;
            for (int k = 0; k < 1 << (bits - 1); k++) {
                if (fabs(v - c[k]) < fabs(v - best)) best = c[k];
            }
            y[i] = x[b + (uint32_t)i] < 0 ? -best : best;
            r += best * best;
        }
        double scale = (double)half_round((float)(norm / sqrt(r)));
        for (int i = 0; i < 128; i++) error += pow((double)x[b + (uint32_t)i] - y[i] * scale, 2);
    }
    return error;
}

static double old_error(td_kv_type type, const float *x, uint32_t n) {
    switch (type) {
    case TD_KV_F16:
        return old_half(x, n);
    case TD_KV_Q8_0:
        return old_q8_0(x, n);
    case TD_KV_Q4_0:
        return old_q4_0(x, n);
    case TD_KV_TURBO4:
        return old_turbo(x, n, 4);
    case TD_KV_TURBO3:
        return old_turbo(x, n, 3);
    case TD_KV_TURBO2:
        return old_turbo(x, n, 2);
    default:
        return 0;
    }
}

/* Squared error on normal vectors at or below that of the format of the same name elsewhere, and the bytes. */
static void test_coding_error(void **state) {
    (void)state;
    const struct {
        td_kv_type type;
        double bytes;
    } t[] = {{TD_KV_F32, 2},       {TD_KV_F16, 1.01},    {TD_KV_Q8_0, 0.54},  {TD_KV_Q4_0, 0.29},
             {TD_KV_TURBO4, 0.27}, {TD_KV_TURBO3, 0.22}, {TD_KV_TURBO2, 0.16}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        for (uint32_t d = 256; d <= 512; d *= 2) {
            world w;
            world_make(&w, t[i].type, t[i].type, 1, d, 400, 0);
            double ek = 0, ev = 0, sk = 0, sv = 0;
            uint32_t n = 400 * d;
            for (size_t j = 0; j < n; j++) {
                ek += pow((double)w.k[j] - (double)w.kd[j], 2);
                ev += pow((double)w.v[j] - (double)w.vd[j], 2);
                sk += pow((double)w.k[j], 2);
                sv += pow((double)w.v[j], 2);
            }
            double bytes = (double)w.shape.page_bytes / 64 / (4.0 * d), ok = old_error(t[i].type, w.k, n),
                   ov = old_error(t[i].type, w.v, n);
            print_message("%-7s d %u: error k %.4g v %.4g, elsewhere %.4g %.4g; %.4f of f16's bytes\n",
                          td_kv_type_name(t[i].type), d, ek / sk, ev / sv, ok / sk, ov / sv, bytes);
            if (ek > ok || ev > ov || bytes > t[i].bytes) fail_msg("%s", td_kv_type_name(t[i].type));
            world_free(&w);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),          cmocka_unit_test(test_hard_values), cmocka_unit_test(test_store),
        cmocka_unit_test(test_coding_error), cmocka_unit_test(test_oracle),      cmocka_unit_test(test_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
