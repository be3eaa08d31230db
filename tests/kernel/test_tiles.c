/* Products: every instruction set against the reference bit for bit, and the reference against double precision.
 *
 * Weights, activations and results end at a page that faults, so that a read or write past the end is seen. Shapes have
 * odd numbers of rows, blocks and activation rows; results must not depend on tiles, on how groups or rows are split
 * between calls, or on packing. */
#define _GNU_SOURCE
#include "base/cpu.h"
#include "kernels/kernels.h"

#include "../share.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static const uint32_t types[] = {TD_TYPE_F32,    TD_TYPE_F16,    TD_TYPE_BF16,  TD_TYPE_Q4_0,   TD_TYPE_Q4_1,
                                 TD_TYPE_Q5_0,   TD_TYPE_Q5_1,   TD_TYPE_Q8_0,  TD_TYPE_IQ4_NL, TD_TYPE_Q2_K,
                                 TD_TYPE_Q3_K,   TD_TYPE_Q4_K,   TD_TYPE_Q5_K,  TD_TYPE_Q6_K,   TD_TYPE_IQ4_XS,
                                 TD_TYPE_TQ3_1S, TD_TYPE_TQ4_1S, TD_TYPE_MXFP4, TD_TYPE_NVFP4};
enum { N_TYPES = sizeof types / sizeof *types, MAX_TOK = 53 };

/* ---- memory that ends at a guard page ---- */

typedef struct guarded {
    uint8_t *map, *at;
    size_t map_bytes;
} guarded;

static guarded guard_alloc(size_t bytes, size_t align) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + align + page - 1) / page * page;
    guarded g = {.map_bytes = room + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g.map, MAP_FAILED);
    assert_int_equal(mprotect(g.map + room, page, PROT_NONE), 0);
    g.at = g.map + ((room - bytes) & ~(align - 1));
    return g;
}

static void guard_free(guarded *g) {
    munmap(g->map, g->map_bytes);
}

static uint64_t state = 1;
static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
static float random_unit(void) {
    return (float)(int32_t)(random_bits() & 0xffff) / 32768.0f - 1.0f;
}

/* ---- one matrix and one set of activations ---- */

typedef struct fixture {
    td_matrix m, plain;
    guarded rows, packed, acts, y, scratch;
    td_acts a;
    float *w, *x; /* decoded weights [n_rows][k]; values [n_tok][k] that quantise without error */
    int n_tok;
} fixture;

static void make_weights(fixture *f, int64_t n_rows, int64_t k) {
    const td_type_info *type = f->m.type;
    float *src = malloc((size_t)(n_rows * k) * sizeof *src);
    for (int64_t i = 0; i < n_rows * k; i++) src[i] = random_unit() * (i % 37 == 0 ? 3.0f : 1.0f);
    if (n_rows > 2) memset(src + k, 0, (size_t)k * sizeof *src); /* a row of zeros */
    f->rows = guard_alloc(td_matrix_file_bytes(&f->m), 2);
    type->encode(src, f->rows.at, k, n_rows, NULL);
    f->w = malloc((size_t)(n_rows * k) * sizeof *f->w);
    for (int64_t r = 0; r < n_rows; r++) type->decode(f->rows.at + (size_t)r * f->m.row_bytes, f->w + r * k, k);
    free(src);
}

/* Whole numbers with 127 in each block, times a power of two: quantised exactly. */
static void make_acts(fixture *f, int64_t k) {
    f->x = malloc((size_t)(MAX_TOK * k) * sizeof *f->x);
    for (int t = 0; t < MAX_TOK; t++)
        for (int64_t i = 0; i < k; i++) {
            float scale = ldexpf(1.0f, (int)((t + i / 32) % 7) - 8);
            f->x[t * k + i] = scale * (i % 32 == 5 || i % 32 == k - 1 ? 127.0f : (float)(random_bits() % 255) - 127.0f);
            if (t == 3 && i / 32 == 1) f->x[t * k + i] = 0.0f;
        }
    f->acts = guard_alloc(td_acts_bytes(MAX_TOK, k, td_matrix_acts(&f->m)), 64);
    td_acts_init(&f->a, f->acts.at, MAX_TOK, k, td_matrix_acts(&f->m));
    for (int t = 0; t < MAX_TOK; t++)
        td_kernels_for(TD_CPU_REF)->acts_set(&f->a, t, f->x + t * k, NULL, 1.0f, 0, f->a.n_blocks);
}

static void setup_fixture(fixture *f, uint32_t type, int64_t n_rows, int64_t k) {
    *f = (fixture){0};
    td_error err = {0};
    assert_int_equal(td_matrix_init(&f->m, type, n_rows, k, 1, &err), TD_OK);
    make_weights(f, n_rows, k);
    make_acts(f, k);
    f->packed = guard_alloc(td_matrix_packed_bytes(&f->m), 64);
    td_matrix_pack(&f->m, f->packed.at, 0, 0, n_rows, f->rows.at);
    f->plain = f->m;
    td_matrix_bind_packed(&f->m, f->packed.at);
    td_matrix_bind_plain(&f->plain, f->rows.at);
    f->scratch = guard_alloc(td_matrix_scratch(&f->plain) + td_matrix_scratch(&f->m) + f->m.row_bytes, 64);
}

static void teardown_fixture(fixture *f) {
    guard_free(&f->rows);
    guard_free(&f->packed);
    guard_free(&f->acts);
    guard_free(&f->scratch);
    free(f->w);
    free(f->x);
}

static void product(const fixture *f, const td_matrix *m, int t0, int n_tok, float *y, int64_t ldy) {
    td_matmul(m, 0, 0, m->n_groups, &f->a, t0, n_tok, y, ldy, f->scratch.at);
}

/* ---- reference against double ---- */

static void check_double(const fixture *f, const float *y) {
    const td_matrix *m = &f->m;
    bool transformed = td_matrix_acts(m) & TD_ACTS_WHT; /* codes of the transformed row are rounded: a looser bound */
    for (int t = 0; t < MAX_TOK; t++)
        for (int64_t r = 0; r < m->n_rows; r++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < m->k; i++) {
                double p = (double)f->w[r * m->k + i] * (double)f->x[t * m->k + i];
                sum += p;
                size += p * p;
            }
            double bound = (transformed ? 0.04 : 2e-6 * sqrt((double)m->k)) * sqrt(size) * (transformed ? 1 : 3) + 1e-9;
            double got = (double)y[t * m->n_rows + r];
            if (!(fabs(got - sum) <= bound))
                fail_msg("%s row %d token %d: %g, expected %g", m->type->name, (int)r, t, got, sum);
        }
}

static const struct {
    int64_t n_rows, k;
} shapes[] = {{16, 256}, {37, 512},  {1, 256}, {50, 1792}, {33, 704}, {19, 32},
              {48, 96},  {17, 2080}, {5, 33},  {16, 1},    {64, 2304}};

static bool shape_fits(uint32_t type, int64_t k) {
    const td_type_info *info = td_type_get(type);
    return info && info->encode && k % info->block == 0;
}

/* As many rows as any threshold asks for: the fixture's, again and again, from row t0 of them on. */
static void check_many(const fixture *f, const td_kernels *k, const float *want, int t0) {
    enum { MANY = 197 };
    int64_t n_rows = f->m.n_rows;
    uint32_t parts = TD_ACTS_I8 | TD_ACTS_I8X | TD_ACTS_F32 | TD_ACTS_WHT;
    guarded mem = guard_alloc(td_acts_bytes(MANY + t0, f->m.k, parts), 64);
    float *y = malloc((size_t)(MANY * n_rows) * sizeof *y);
    td_acts a;
    td_acts_init(&a, mem.at, MANY + t0, f->m.k, parts);
    for (int t = 0; t < MANY + t0; t++) k->acts_set(&a, t, f->x + t % MAX_TOK * f->m.k, NULL, 1.0f, 0, a.n_blocks);
    td_matmul(&f->m, 0, 0, f->m.n_groups, &a, t0, MANY, y, n_rows, f->scratch.at);
    for (int t = 0; t < MANY; t++)
        if (memcmp(y + t * n_rows, want + (t0 + t) % MAX_TOK * n_rows, (size_t)n_rows * sizeof *y) != 0)
            fail_msg("%s %s %dx%d: token %d of %d differs", k->name, f->m.type->name, (int)n_rows, (int)f->m.k, t,
                     MANY);
    free(y);
    guard_free(&mem);
}

static void check_levels(fixture *f, const float *want) {
    int64_t n_rows = f->m.n_rows;
    guarded out = guard_alloc((size_t)(MAX_TOK * n_rows) * sizeof(float), 4);
    float *y = (float *)(void *)out.at;
    for (int level = 0; level <= TD_CPU_I8MM; level++) {
        const td_kernels *k = td_kernels_for(level);
        if (!k) continue;
        td_kernels_override(k);
        memset(y, 0xff, (size_t)(MAX_TOK * n_rows) * sizeof *y);
        product(f, &f->m, 0, MAX_TOK, y, n_rows);
        if (memcmp(y, want, (size_t)(MAX_TOK * n_rows) * sizeof *y) != 0)
            fail_msg("%s %s %dx%d differs from ref", k->name, f->m.type->name, (int)n_rows, (int)f->m.k);
        for (int n = 1; n <= 50; n += n < 19 ? 1 : 31) { /* any tile, from any row; rectangles */
            int t0 = n * 7 % (MAX_TOK - n + 1);
            product(f, &f->m, t0, n, y, n_rows);
            if (memcmp(y, want + t0 * n_rows, (size_t)(n * n_rows) * sizeof *y) != 0)
                fail_msg("%s %s %dx%d: tokens %d+%d differ", k->name, f->m.type->name, (int)n_rows, (int)f->m.k, t0, n);
        }
        if (level != TD_CPU_REF) check_many(f, k, want, f->m.n_rows % 2 ? 0 : 5);
        for (int64_t g = 0; g < f->m.n_groups; g++) /* group by group */
            td_matmul(&f->m, 0, g, g + 1, &f->a, 0, MAX_TOK, y, n_rows, f->scratch.at);
        assert_memory_equal(y, want, (size_t)(MAX_TOK * n_rows) * sizeof *y);
        memset(y, 0xff, (size_t)(MAX_TOK * n_rows) * sizeof *y);
        product(f, &f->plain, 0, MAX_TOK, y, n_rows);
        assert_memory_equal(y, want, (size_t)(MAX_TOK * n_rows) * sizeof *y);
    }
    td_kernels_override(NULL);
    guard_free(&out);
}

static void test_products(void **st) {
    (void)st;
    int n_taken = test_share(100, 25), at = 0; /* a slow build takes every fourth pair, so each type */
    for (int i = 0; i < N_TYPES; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            if (!shape_fits(types[i], shapes[s].k)) continue;
            at += n_taken;
            if (at < 100) continue;
            at -= 100;
            fixture f;
            setup_fixture(&f, types[i], shapes[s].n_rows, shapes[s].k);
            float *want = malloc((size_t)(MAX_TOK * f.m.n_rows) * sizeof *want);
            td_kernels_override(td_kernels_for(TD_CPU_REF));
            for (int t = 0; t < MAX_TOK; t++) product(&f, &f.m, t, 1, want + t * f.m.n_rows, f.m.n_rows);
            check_double(&f, want);
            check_levels(&f, want);
            free(want);
            teardown_fixture(&f);
        }
}

static void test_rows_come_back(void **st) {
    (void)st;
    for (int i = 0; i < N_TYPES; i++) {
        if (!shape_fits(types[i], 512)) continue;
        fixture f;
        setup_fixture(&f, types[i], 37, 512);
        float row[512];
        for (int r = 0; r < 37; r++)
            for (int p = 0; p < 2; p++) {
                td_matrix_row(p ? &f.plain : &f.m, 0, r, row, f.scratch.at);
                assert_memory_equal(row, f.w + r * 512, sizeof row);
                td_matrix_row_slice(p ? &f.plain : &f.m, 0, r, 256, 256, row, f.scratch.at);
                assert_memory_equal(row, f.w + r * 512 + 256, 256 * sizeof *row);
            }
        teardown_fixture(&f);
    }
}

/* The arg-max and single rows against stored products, with an order of rows, suppressed ids and a tie. */
static void test_argmax(void **st) {
    (void)st;
    enum { N = 75, K = 256 };
    int32_t ids[N], pos[N];
    for (int i = 0; i < N; i++) ids[i] = (i * 32 + 11) % N;
    for (int i = 0; i < N; i++) pos[ids[i]] = i;
    for (int i = 0; i < N_TYPES; i++) {
        fixture f;
        setup_fixture(&f, types[i], N, K);
        size_t row = f.m.row_bytes;
        memcpy(f.rows.at + 60 * row, f.rows.at + 7 * row, row); /* rows 7 and 60 tie */
        td_matrix o = f.m;
        o.row_ids = ids;
        o.row_pos = pos;
        td_matrix_pack_ordered(&o, f.packed.at, 0, 0, N, f.rows.at);
        float y[8][N];
        product(&f, &f.plain, 2, 8, y[0], N);
        for (int cap = 0; cap <= 1; cap++) {
            int32_t suppress[2] = {0, 0};
            td_best best[8];
            for (int t = 0; t < 8; t++) best[t] = TD_BEST_NONE;
            if (cap) td_kernels_get()->softcap(y[0], y[0], 1.5f, 8 * N);
            for (int r = 0; r < N; r++)
                if (y[0][r] > y[0][suppress[1]]) suppress[1] = r;
            if (suppress[1] == 0) suppress[1] = 1;
            td_matmul_argmax(&o, 21, N, &f.a, 2, 8, cap ? 1.5f : 0.0f, suppress, 2, best, f.scratch.at);
            td_matmul_argmax(&o, 0, 21, &f.a, 2, 8, cap ? 1.5f : 0.0f, suppress, 2, best, f.scratch.at);
            for (int t = 0; t < 8; t++) {
                int at = -1;
                for (int r = 0; r < N; r++)
                    if (r != suppress[0] && r != suppress[1] && (at < 0 || y[t][r] > y[t][at])) at = r;
                assert_int_equal(best[t].id, at);
                assert_true(best[t].value == y[t][at]);
            }
        }
        int32_t list[] = {3, 4, 5, 40, 41, 74, 0, 16};
        float z[8];
        product(&f, &f.plain, 2, 8, y[0], N);
        td_matmul_rows(&o, list, 8, &f.a, 4, z, f.scratch.at);
        for (int j = 0; j < 8; j++) assert_true(z[j] == y[2][ids[list[j]]]);
        float back[K], direct[K];
        td_matrix_row(&o, 0, 33, back, f.scratch.at);
        td_matrix_row(&f.plain, 0, 33, direct, f.scratch.at);
        assert_memory_equal(back, direct, sizeof back);
        teardown_fixture(&f);
    }
}

/* Experts lie one behind the other in both forms; the fused product equals its parts. */
static void test_experts_and_glu(void **st) {
    (void)st;
    enum { E = 3, N = 80, K = 96, T = 205 };
    static const uint32_t list[] = {TD_TYPE_Q4_0, TD_TYPE_Q8_0, TD_TYPE_F16, TD_TYPE_Q5_1};
    for (int i = 0; i < 4; i++)
        for (int level = 0; level <= TD_CPU_I8MM; level++) {
            if (!td_kernels_for(level)) continue;
            td_kernels_override(td_kernels_for(level));
            fixture g, u;
            setup_fixture(&g, list[i], E * N, K);
            setup_fixture(&u, list[3 - i], E * N, K);
            td_matrix mg, mu;
            td_error err = {0};
            assert_int_equal(td_matrix_init(&mg, list[i], N, K, E, &err), TD_OK);
            assert_int_equal(td_matrix_init(&mu, list[3 - i], N, K, E, &err), TD_OK);
            td_matrix_bind_packed(&mg, g.packed.at); /* 80 rows are 5 whole groups */
            td_matrix_bind_plain(&mu, u.rows.at);
            uint32_t parts = TD_ACTS_I8 | TD_ACTS_I8X | TD_ACTS_F32 | TD_ACTS_WHT;
            guarded in = guard_alloc(td_acts_bytes(T, K, parts), 64), out = guard_alloc(td_acts_bytes(T, N, parts), 64);
            guarded want = guard_alloc(td_acts_bytes(T, N, parts), 64);
            td_acts a, o, w;
            td_acts_init(&a, in.at, T, K, parts);
            td_acts_init(&o, out.at, T, N, parts);
            td_acts_init(&w, want.at, T, N, parts);
            memset(out.at, 0, td_acts_bytes(T, N, parts));
            memset(want.at, 0, td_acts_bytes(T, N, parts));
            for (int t = 0; t < T; t++)
                td_kernels_get()->acts_set(&a, t, g.x + t % MAX_TOK * K, NULL, 1.0f, 0, a.n_blocks);
            td_matmul_glu(&mg, &mu, 1, 0, 2, &a, 0, T, &o, 0, u.scratch.at);
            td_matmul_glu(&mg, &mu, 1, 2, 3, &a, 0, 5, &o, 0, u.scratch.at);
            td_matmul_glu(&mg, &mu, 1, 2, 3, &a, 5, T - 5, &o, 5, u.scratch.at);
            for (int t = 0; t < T; t++) {
                float yg[N], yu[N];
                td_matmul(&mg, 1, 0, 5, &a, t, 1, yg, N, NULL);
                td_matmul(&mu, 1, 0, 5, &a, t, 1, yu, N, u.scratch.at);
                td_kernels_get()->acts_glu(&w, t, yg, yu, 0, 3);
                float direct[2 * N];
                td_matmul(&g.m, 0, 5, 10, &a, t, 1, direct, 2 * N, NULL); /* expert 1 is rows 80..159 */
                assert_memory_equal(direct + N, yg, sizeof yg);
            }
            assert_memory_equal(out.at, want.at, td_acts_bytes(T, N, parts));
            td_acts c;
            guarded copy = guard_alloc(td_acts_bytes(T, N, parts), 64);
            memset(copy.at, 0, td_acts_bytes(T, N, parts));
            td_acts_init(&c, copy.at, T, N, parts);
            for (int t = 0; t < T; t++) td_acts_copy(&c, T - 1 - t, &w, t);
            memset(out.at, 0, td_acts_bytes(T, N, parts));
            for (int t = 0; t < T; t++) td_acts_copy(&o, T - 1 - t, &c, t);
            assert_memory_equal(out.at, want.at, td_acts_bytes(T, N, parts));
            guard_free(&copy);
            guard_free(&in);
            guard_free(&out);
            guard_free(&want);
            teardown_fixture(&g);
            teardown_fixture(&u);
        }
    td_kernels_override(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_rows_come_back),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_experts_and_glu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
