/* Speed of the products: GB/s of weights at 1 to 32 rows, GMAC/s at 512, beside the machine's read bandwidth.
 *
 * usage: bench_kernels [-t threads] [-m MB] [-r repeats] [-c level] [type ...] */
#define _GNU_SOURCE
#include "base/checked.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/pool.h"
#include "kernels/kernels.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { K = 1536, PREFILL_ROWS = 6144, PREFILL_TOK = 512 };

typedef struct job {
    td_pool *pool;
    td_matrix m;
    td_acts a;
    float *y;
    int64_t ldy;
    int n_tok;
    uint8_t *scratch; /* [threads][td_matrix_scratch] */
    size_t scratch_bytes;
    const uint8_t *data; /* read test */
    size_t n_bytes;
    uint64_t sink[64];
} job;

static void matmul_job(void *arg, int ith, int nth) {
    job *j = arg;
    int64_t b, e;
    (void)nth;
    while (td_pool_take(j->pool, j->m.n_groups, 16, &b, &e))
        td_matmul(&j->m, 0, b, e, &j->a, 0, j->n_tok, j->y, j->ldy, j->scratch + (size_t)ith * j->scratch_bytes);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) /* the 64-byte vectors become two registers */
#endif
static void
read_job(void *arg, int ith, int nth) {
    job *j = arg;
    int64_t b, e;
    typedef uint64_t line __attribute__((vector_size(64), aligned(64)));
    line s[4] = {{0}};
    td_pool_span((int64_t)j->n_bytes, 4096, ith, nth, &b, &e);
    for (int64_t i = b; i + 256 <= e; i += 256) {
        const line *p = (const void *)(j->data + i);
        for (int l = 0; l < 4; l++) {
            __builtin_prefetch(p + 40 + l);
            s[l] ^= p[l];
        }
    }
    for (int l = 0; l < 8; l++) j->sink[ith & 63] += s[0][l] ^ s[1][l] ^ s[2][l] ^ s[3][l];
}

static double best_of(job *j, td_pool_fn fn, int repeats) {
    double best = 1e30;
    for (int r = 0; r < repeats; r++) {
        int64_t t = td_clock_ns();
        td_pool_run(j->pool, fn, j);
        t = td_clock_ns() - t;
        if ((double)t < best) best = (double)t;
    }
    return best * 1e-9;
}

static void setup(job *j, uint32_t type, int64_t n_rows, uint8_t *packed) {
    td_error err = {0};
    if (td_matrix_init(&j->m, type, n_rows, K, 1, &err) != TD_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    const td_type_info *info = j->m.type;
    uint8_t *row = td_calloc(16, j->m.row_bytes);
    float x[K];
    for (int r = 0; r < 16; r++) {
        for (int i = 0; i < K; i++) x[i] = (float)((i * 37 + r * 11) % 101 - 50) * 0.01f;
        info->encode(x, row + (size_t)r * j->m.row_bytes, K, 1, NULL);
    }
    td_matrix_pack(&j->m, packed, 0, 0, 16, row);
    for (int64_t g = 1; g < j->m.n_groups; g++) memcpy(packed + (size_t)g * j->m.group_bytes, packed, j->m.group_bytes);
    td_matrix_bind_packed(&j->m, packed);
    free(row);
}

static void bench(job *j, const char *name, size_t bytes, int repeats, uint8_t *packed) {
    const td_type_info *info = td_type_by_name(name);
    if (!info || !info->encode) {
        fprintf(stderr, "unknown type %s\n", name);
        exit(1);
    }
    size_t row = K / info->block * info->bytes;
    setup(j, info->id, (int64_t)(bytes / row / 16 * 16), packed);
    uint32_t parts = td_matrix_acts(&j->m);
    j->scratch_bytes = (td_matrix_scratch(&j->m) + 127) & ~(size_t)127;
    j->scratch = td_alloc_aligned(j->scratch_bytes * (size_t)td_pool_size(j->pool), 128);
    size_t acts_bytes = td_acts_bytes(PREFILL_TOK, K, parts);
    void *mem = td_alloc_aligned(acts_bytes, 64);
    td_acts_init(&j->a, mem, PREFILL_TOK, K, parts);
    float x[K];
    for (int t = 0; t < PREFILL_TOK; t++) {
        for (int i = 0; i < K; i++) x[i] = (float)((i * 31 + t * 17) % 103 - 51) * 0.02f;
        td_kernels_get()->acts_set(&j->a, t, x, NULL, 1.0f, 0, j->a.n_blocks);
    }
    j->data = packed;
    j->n_bytes = j->m.group_bytes * (size_t)j->m.n_groups;
    double read = best_of(j, read_job, repeats), one = 0;
    printf("%-7s read %5.1f GB/s |", name, (double)j->n_bytes / read * 1e-9);
    j->ldy = j->m.n_rows;
    static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int n = rows[i];
        j->n_tok = n;
        double s = best_of(j, matmul_job, repeats);
        if (n == 1) {
            one = s;
            printf(" T1 %5.1f GB/s (%3.0f %%) T(k)/T(1):", (double)j->n_bytes / s * 1e-9, 100 * read / s);
        } else {
            printf(" %d:%.2f", n, s / one);
        }
        fflush(stdout);
    }
    setup(j, info->id, PREFILL_ROWS, packed);
    j->ldy = PREFILL_ROWS;
    j->n_tok = PREFILL_TOK;
    double s = best_of(j, matmul_job, repeats);
    printf(" | 512: %4.0f GMAC/s\n", (double)PREFILL_ROWS * K * PREFILL_TOK / s * 1e-9);
    td_free_aligned(mem, acts_bytes);
    td_free_aligned(j->scratch, j->scratch_bytes * (size_t)td_pool_size(j->pool));
}

int main(int argc, char **argv) {
    static const char *const all[] = {"q4_0",   "q8_0", "q4_K", "q5_K",   "q6_K",   "q4_1", "q5_0", "q5_1", "iq4_nl",
                                      "iq4_xs", "q2_K", "q3_K", "tq3_1s", "tq4_1s", "f32",  "f16",  "bf16"};
    int threads = 0, repeats = 5, c;
    size_t bytes = 512u << 20;
    while ((c = getopt(argc, argv, "t:m:r:c:")) != -1) {
        if (c == 't') threads = atoi(optarg);
        if (c == 'm') bytes = (size_t)atoi(optarg) << 20;
        if (c == 'r') repeats = atoi(optarg);
        if (c == 'c') td_kernels_override(td_kernels_for(atoi(optarg)));
    }
    job *j = td_calloc(1, sizeof *j);
    td_error err = {0};
    td_pool_options options = {.n_threads = threads, .pin = true};
    if (!j || td_pool_create(&j->pool, &options, &err) != TD_OK) return 1;
    uint8_t *packed = td_alloc_aligned(bytes + (1u << 26), 64);
    j->y = td_alloc_aligned((size_t)PREFILL_ROWS * PREFILL_TOK * 4 + bytes, 64);
    if (!packed || !j->y) return 1;
    memset(packed, 1, bytes);
    memset(j->y, 0, (size_t)PREFILL_ROWS * PREFILL_TOK * 4 + bytes);
    printf("kernels %s, %d threads, %zu MB\n", td_kernels_get()->name, td_pool_size(j->pool), bytes >> 20);
    if (optind < argc) {
        for (int i = optind; i < argc; i++) bench(j, argv[i], bytes, repeats, packed);
    } else {
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) bench(j, all[i], bytes, repeats, packed);
    }
    td_pool_destroy(j->pool);
    return 0;
}
