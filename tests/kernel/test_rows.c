/* Row operations: every instruction set gives the reference's bits; the reference agrees with double precision.
 *
 * Inputs and outputs end at a page that faults. Lengths include every tail of a run of 16. */
#define _GNU_SOURCE
#include "base/cpu.h"
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX = 2112, N_BUFFERS = 5 };
static uint8_t *maps[N_BUFFERS];
static size_t room;

static float *buffer(int which, int64_t n) { /* n floats, the last one before the fault */
    return (float *)(void *)(maps[which] + room - (size_t)n * sizeof(float));
}

static int open_buffers(void **st) {
    (void)st;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    room = (MAX * sizeof(float) + page - 1) / page * page;
    for (int i = 0; i < N_BUFFERS; i++) {
        maps[i] = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (maps[i] == MAP_FAILED || mprotect(maps[i] + room, page, PROT_NONE) != 0) return 1;
    }
    return 0;
}

static uint64_t state = 7;
static float random_in(float lo, float hi) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return lo + (hi - lo) * (float)(state >> 40) * 0x1p-24f;
}
static void fill(float *x, int64_t n, float lo, float hi) {
    for (int64_t i = 0; i < n; i++) x[i] = random_in(lo, hi);
}

static const int64_t lengths[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 100, 256, 511, 704, 1536, 2112};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };

typedef enum op {
    RMSNORM,
    RMSNORM_0,
    RMSNORM_ADD,
    ADD,
    SCALE,
    AXPY,
    MUL,
    ADD_SCALE,
    GELU,
    SOFTCAP,
    EXP,
    SOFTMAX,
    N_OPS
} op;

static void run(const td_kernels *k, op o, float *y, const float *x, const float *w, int64_t n) {
    switch (o) {
    case RMSNORM:
        k->rmsnorm(y, x, w, n, 1e-6f);
        break;
    case RMSNORM_0:
        k->rmsnorm(y, x, NULL, n, 1e-6f);
        break;
    case RMSNORM_ADD:
        k->rmsnorm_add(y, x, w, n, 1e-6f, 0.75f);
        break;
    case ADD:
        k->add(y, x, n);
        break;
    case SCALE:
        k->scale(y, x, 1.7f, n);
        break;
    case AXPY:
        k->axpy(y, x, 1.7f, n);
        break;
    case MUL:
        k->mul(y, x, w, n);
        break;
    case ADD_SCALE:
        k->add_scale(y, x, 1.7f, n);
        break;
    case GELU:
        k->gelu_mul(y, x, w, n);
        break;
    case SOFTCAP:
        k->softcap(y, x, 30.0f, n);
        break;
    case EXP:
        k->exp(y, x, n);
        break;
    default:
        k->softmax(y, x, n);
        break;
    }
}

static double expected(op o, double y, const float *x, const float *w, int64_t n, int64_t i) {
    double sum = 0, xi = (double)x[i], wi = (double)w[i], max = -1e30;
    for (int64_t j = 0; j < n; j++) {
        sum += (double)x[j] * (double)x[j];
        max = (double)x[j] > max ? (double)x[j] : max;
    }
    double norm = xi / sqrt(sum / (double)n + 1e-6), cubic = sqrt(2 / M_PI) * (xi + 0.044715 * xi * xi * xi);
    switch (o) {
    case RMSNORM:
        return norm * wi;
    case RMSNORM_0:
        return norm;
    case RMSNORM_ADD:
        return (y + norm * wi) * 0.75;
    case ADD:
        return y + xi;
    case SCALE:
        return 1.7 * xi;
    case AXPY:
        return y + 1.7 * xi;
    case MUL:
        return xi * wi;
    case ADD_SCALE:
        return (y + xi) * 1.7;
    case GELU:
        return 0.5 * xi * (1 + tanh(cubic)) * wi;
    case SOFTCAP:
        return 30 * tanh(xi / 30);
    case EXP:
        return exp(xi);
    default:
        break;
    }
    for (int64_t j = 0, first = 1; j < n; j++, first = 0) sum = (first ? 0 : sum) + exp((double)x[j] - max);
    return exp(xi - max) / sum;
}

static void test_operations(void **st) {
    (void)st;
    for (int l = 0; l < N_LENGTHS; l++)
        for (op o = 0; o < N_OPS; o++) {
            int64_t n = lengths[l];
            float *x = buffer(0, n), *w = buffer(1, n), *y0 = buffer(2, n), *y = buffer(3, n), *want = buffer(4, n);
            fill(x, n, o == SOFTCAP ? -90.0f : -9.0f, o == SOFTCAP ? 90.0f : 9.0f);
            fill(w, n, -2.0f, 2.0f);
            fill(y0, n, -3.0f, 3.0f);
            memcpy(want, y0, (size_t)n * sizeof *y);
            run(td_kernels_for(TD_CPU_REF), o, want, x, w, n);
            for (int64_t i = 0; i < n; i++) {
                double e = expected(o, (double)y0[i], x, w, n, i);
                if (!(fabs((double)want[i] - e) <= 1e-6 * fabs(e) + 4e-7 * (o == SOFTCAP ? 30 : o == EXP ? 0 : 3)))
                    fail_msg("op %d n %d at %d: %.9g, expected %.9g (x %g)", o, (int)n, (int)i, (double)want[i], e,
                             (double)x[i]);
            }
            for (int level = 0; level <= TD_CPU_I8MM; level++) {
                const td_kernels *k = td_kernels_for(level);
                if (!k) continue;
                memcpy(y, y0, (size_t)n * sizeof *y);
                run(k, o, y, x, w, n);
                if (memcmp(y, want, (size_t)n * sizeof *y) != 0)
                    fail_msg("%s: op %d n %d differs from ref", k->name, o, (int)n);
            }
        }
}

/* The worst errors over the whole range, in units of the last place where the value is not near zero. */
static void test_functions_over_their_range(void **st) {
    (void)st;
    const td_kernels *k = td_kernels_get();
    double worst = 0;
    for (float x = -87.0f; x < 88.5f; x += 0.000713f) {
        float y;
        k->exp(&y, &x, 1);
        double e = exp((double)x), rel = fabs((double)y - e) / e;
        worst = rel > worst ? rel : worst;
    }
    assert_true(worst < 1.6e-7);
    worst = 0;
    for (float x = -12.0f; x < 12.0f; x += 0.00037f) {
        float y, one = 1.0f;
        k->gelu_mul(&y, &x, &one, 1);
        double u = sqrt(2 / M_PI) * ((double)x + 0.044715 * (double)x * (double)x * (double)x);
        double e = (double)x / (1 + exp(-2 * u)), err = fabs((double)y - e) / (fabs(e) + 1e-9);
        worst = fabs((double)y - e) > 1e-7 && err > worst ? err : worst;
        float cap = 30.0f;
        k->softcap(&y, &x, cap, 1);
        e = 30 * tanh((double)x / 30);
        assert_true(fabs((double)y - e) <= 3e-7 * fabs(e) + 1e-12);
    }
    assert_true(worst < 1e-6);
    const float special[] = {-INFINITY, -1000.0f, -88.0f, 0.0f, -0.0f, 89.0f, 1000.0f, INFINITY};
    float y[8];
    k->exp(y, special, 8);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 0 && y[3] == 1 && y[4] == 1 && isinf(y[5]) && isinf(y[6]) &&
                isinf(y[7]));
    float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    k->gelu_mul(y, special, ones, 8);
    assert_true(y[1] == 0 && y[2] == 0 && y[3] == 0 && y[5] == 89.0f && y[6] == 1000.0f);
    k->softcap(y, special, 30.0f, 8);
    assert_true(y[0] == -30.0f && y[1] == -30.0f && y[3] == 0 && y[6] == 30.0f && y[7] == 30.0f);
}

static void test_heads(void **st) {
    (void)st;
    static const struct {
        int64_t d, n_pairs;
    } cases[] = {{32, 16}, {64, 8}, {256, 128}, {512, 64}, {128, 0}, {96, 48}};
    for (int c = 0; c < 6; c++) {
        int64_t d = cases[c].d, n_pairs = cases[c].n_pairs, stride = d + 3, n = 2 * stride + d;
        double freq[256];
        float cosines[256], sines[256], x0[3 * 512 + 6], w[512];
        td_rope_freqs(freq, n_pairs, d, 10000.0, NULL);
        td_rope_table(cosines, sines, freq, n_pairs, 12345);
        fill(x0, n, -2, 2);
        fill(w, d, -2, 2);
        float *want = buffer(0, n), *y = buffer(1, n);
        memcpy(want, x0, (size_t)n * sizeof *y);
        td_kernels_for(TD_CPU_REF)->head_norm_rope(want, 3, d, stride, w, 1e-6f, cosines, sines, n_pairs);
        for (int h = 0; h < 3; h++) {
            const float *x = x0 + h * stride;
            double sum = 0;
            for (int64_t i = 0; i < d; i++) sum += (double)x[i] * (double)x[i];
            for (int64_t i = 0; i < d / 2; i++) {
                double inv = 1 / sqrt(sum / (double)d + 1e-6), a = (double)x[i] * inv * (double)w[i];
                double b = (double)x[i + d / 2] * inv * (double)w[i + d / 2];
                double angle = i < n_pairs ? 12345.0 * pow(10000.0, -2.0 * (double)i / (double)d) : 0;
                assert_true(fabs((double)want[h * stride + i] - (a * cos(angle) - b * sin(angle))) < 3e-6);
                assert_true(fabs((double)want[h * stride + i + d / 2] - (b * cos(angle) + a * sin(angle))) < 3e-6);
            }
            if (h < 2) assert_memory_equal(want + h * stride + d, x0 + h * stride + d, 3 * sizeof *y);
        }
        for (int level = 0; level <= TD_CPU_I8MM; level++) {
            if (!td_kernels_for(level)) continue;
            memcpy(y, x0, (size_t)n * sizeof *y);
            td_kernels_for(level)->head_norm_rope(y, 3, d, stride, w, 1e-6f, cosines, sines, n_pairs);
            assert_memory_equal(y, want, (size_t)n * sizeof *y);
        }
    }
}

/* Codes, scales and sums against the definition; rows and blocks set in any split; nothing else touched. */
static void test_quantise(void **st) {
    (void)st;
    static const int64_t ks[] = {32, 1, 33, 47, 96, 704, 1536};
    for (int c = 0; c < 7; c++) {
        int64_t k = ks[c];
        uint32_t parts = TD_ACTS_I8 | TD_ACTS_I8X | TD_ACTS_F32 | TD_ACTS_WHT;
        size_t bytes = td_acts_bytes(11, k, parts);
        uint8_t *mem = aligned_alloc(64, bytes), *want = aligned_alloc(64, bytes);
        td_acts a;
        for (int level = 0; level <= TD_CPU_I8MM; level++) {
            const td_kernels *kern = td_kernels_for(level);
            if (!kern) continue;
            td_acts_init(&a, mem, 11, k, parts);
            memset(mem, 0xa5, bytes);
            state = 99;
            for (int t = 0; t < 11; t++) {
                float *x = buffer(0, k), *w = buffer(1, k);
                fill(x, k, -3, 3);
                fill(w, k, -3, 3);
                if (t == 2) memset(x, 0, (size_t)k * sizeof *x);
                if (t == 4)
                    kern->acts_set(&a, t, x, w, kern->rms_scale(x, k, 1e-6f), 0, a.n_blocks);
                else if (t == 5)
                    kern->acts_glu(&a, t, x, w, 0, a.n_blocks);
                else
                    for (int64_t b = 0; b < a.n_blocks; b++) kern->acts_set(&a, t, x, NULL, 1.0f, b, b + 1);
                if (t != 3) continue;
                for (int64_t b = 0; b < a.n_blocks; b++) {
                    float max = 0, d;
                    int32_t sum = 0, sum8;
                    const uint8_t *block = a.i8 + (size_t)b * 320;
                    for (int64_t i = 32 * b; i < 32 * b + 32 && i < k; i++) max = fmaxf(max, fabsf(x[i]));
                    for (int64_t i = 0; i < 32; i++) {
                        float v = 32 * b + i < k ? x[32 * b + i] : 0.0f;
                        int q = (int8_t)block[32 * 3 + i];
                        assert_true(fabsf((float)q - v * 127.0f / max) <= 0.5001f);
                        assert_true(a.f32[b * 256 + 96 + i] == v);
                        sum += q;
                    }
                    memcpy(&d, block + 256 + 12, 4);
                    memcpy(&sum8, block + 288 + 12, 4);
                    assert_true(d == max / 127.0f);
                    assert_int_equal(sum8, -8 * sum);
                }
            }
            if (level == TD_CPU_REF) memcpy(want, mem, bytes);
            if (memcmp(mem, want, bytes) != 0) fail_msg("%s: activations differ from ref, k %d", kern->name, (int)k);
        }
        free(mem);
        free(want);
    }
}

static void test_topk(void **st) {
    (void)st;
    const float x[] = {1, 5, 3, 5, -1, 5, 2, 9};
    int32_t idx[4];
    float val[4];
    td_topk(x, 8, 4, idx, val);
    const int32_t want[] = {7, 1, 3, 5};
    assert_memory_equal(idx, want, sizeof idx);
    assert_true(val[0] == 9 && val[3] == 5);
    td_topk(x, 8, 3, NULL, val);
    assert_true(val[0] == 9 && val[2] == 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations), cmocka_unit_test(test_functions_over_their_range),
        cmocka_unit_test(test_heads),      cmocka_unit_test(test_quantise),
        cmocka_unit_test(test_topk),
    };
    return cmocka_run_group_tests(tests, open_buffers, NULL);
}
