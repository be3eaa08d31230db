/* Time of attention alone: one layer's shape, a depth, new rows, a cache type.
 *
 *   bench_attention [-t threads] [-k type] [-v type] [heads kv_heads d depth rows [rotated_pairs]]
 *
 * Without numbers: E2B and 31B shapes at several depths. Reads a cache larger than the last-level cache by rotating
 * over copies, as a model's other layers and weights would push it out. */
#include "attn_world.h"

#include "base/clock.h"
#include "base/pool.h"

#include <stdio.h>
#include <time.h>

enum { SAMPLES = 8192 };
static volatile uint64_t sink;
static bool hot; /* -c: the cache stays in the processor's caches */

typedef struct run {
    td_pool *pool;
    td_attn_plan *plan;
    td_attn_call call;
} run;

static void attend(void *arg, int ith, int nth) {
    (void)nth;
    run *r = arg;
    int64_t b, e;
    while (td_pool_take(r->pool, td_attn_units(r->plan), 1, &b, &e)) {
        for (; b < e; b++) td_attn_unit(r->plan, &r->call, (uint32_t)b, ith);
    }
    if (td_attn_merges(r->plan) == 0) return;
    td_pool_barrier(r->pool, ith);
    while (td_pool_take(r->pool, td_attn_merges(r->plan), 1, &b, &e)) {
        for (; b < e; b++) td_attn_merge(r->plan, &r->call, (uint32_t)b, ith);
    }
}

static double cpu_us(void) { /* of all threads: what a busy machine does not distort */
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(td_pool *pool, td_kv_type tk, td_kv_type tv, uint32_t n_head, uint32_t n_kv, uint32_t d,
                    uint32_t depth, uint32_t n_rows, uint32_t rotated) {
    td_attn_shape s;
    float *fold = calloc(d, sizeof *fold);
    uint16_t *key_at = calloc(d, sizeof *key_at);
    for (uint32_t i = 0; i < d; i++) fold[i] = i % (d / 2) < rotated ? 0.0f : 1.0f;
    for (uint32_t i = 0; i < rotated; i++) {
        key_at[i] = (uint16_t)i;
        key_at[rotated + i] = (uint16_t)(d / 2 + i);
    }
    td_attn_shape_init(&s, tk, tv, n_kv, d, rotated ? 2 * rotated : d, rotated ? fold : NULL, rotated ? key_at : NULL,
                       NULL);
    uint32_t n_pos = depth + n_rows, n_page = (n_pos + 63) / 64;
    size_t bytes = n_page * s.page_bytes;
    uint32_t copies = hot ? 1 : (uint32_t)(100000000 / bytes) + 1;
    uint8_t *base = td_alloc_aligned(bytes * copies, 64);
    float *x = malloc(2 * (size_t)n_kv * d * sizeof *x);
    for (uint32_t p = 0; p < 64; p++) { /* one page, copied */
        for (uint32_t i = 0; i < 2 * n_kv * d; i++) x[i] = (float)world_normal() * (i < n_kv * d ? 0.06f : 1.0f);
        td_attn_store(&s, base, p, x, x + (size_t)n_kv * d);
    }
    for (size_t i = 1; i < (size_t)n_page * copies; i++) memcpy(base + i * s.page_bytes, base, s.page_bytes);
    uint32_t *table = calloc(n_page, sizeof *table);
    for (uint32_t i = 0; i < n_page; i++) table[i] = i;
    td_attn_seq seq = {.page = table};
    size_t ld = (size_t)n_head * d;
    float *q = malloc(n_rows * ld * sizeof *q), *out = malloc(n_rows * ld * sizeof *out);
    for (size_t i = 0; i < n_rows * ld; i++) q[i] = (float)world_normal();
    td_attn_row *rows = calloc(n_rows, sizeof *rows);
    double keys = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        rows[i] = (td_attn_row){0, 0, depth + i + 1};
        keys += rows[i].hi;
    }
    run r = {.pool = pool};
    if (td_attn_plan_create(&r.plan, n_rows, n_head, d, (uint32_t)td_pool_size(pool), NULL) != TD_OK) exit(1);
    td_attn_plan_set(r.plan, n_head, n_kv, rows, n_rows, NULL);
    static double times[SAMPLES], cpu[SAMPLES];
    int n = 0;
    int64_t begin = td_clock_ns();
    while (n < 5 || (n < SAMPLES && td_clock_ns() - begin < 400000000)) {
        r.call = (td_attn_call){.shape = &s, .seq = &seq, .q = q, .out = out, .ldq = ld, .ldo = ld};
        r.call.base = base + (size_t)((uint32_t)n % copies) * bytes;
        int64_t t = td_clock_ns();
        double c = cpu_us();
        td_pool_run(pool, attend, &r);
        cpu[n] = cpu_us() - c;
        times[n++] = (double)(td_clock_ns() - t);
    }
    qsort(times, (size_t)n, sizeof *times, compare);
    qsort(cpu, (size_t)n, sizeof *cpu, compare);
    double read_us = INFINITY; /* the same bytes, only read */
    for (int i = 0; i < 5; i++) {
        const uint64_t *from = (const uint64_t *)(const void *)(base + (size_t)((uint32_t)i % copies) * bytes);
        double c = cpu_us();
        uint64_t sum = 0;
        for (size_t j = 0; j < bytes / 8; j += 8) sum += from[j];
        sink = sum;
        c = cpu_us() - c;
        read_us = c < read_us ? c : read_us;
    }
    double us = times[n / 2] / 1e3, macs = 2.0 * keys * n_head * d, read = (double)bytes;
    printf("%-7s %-7s %2u/%2u d %3u%s depth %6u rows %4u: %9.1f us (min %9.1f)  %6.1f GB/s  %6.1f GMAC/s; cpu %9.1f "
           "us, %6.1f GMAC/s; reading alone %.1f us\n",
           td_kv_type_name(tk), td_kv_type_name(tv), n_head, n_kv, d, rotated ? " K=V" : "    ", depth, n_rows, us,
           times[0] / 1e3, read / us / 1e3, macs / us / 1e3, cpu[n / 4], macs / cpu[n / 4] / 1e3, read_us);
    td_attn_plan_destroy(r.plan);
    td_free_aligned(base, bytes * copies);
    free(x);
    free(table);
    free(q);
    free(out);
    free(rows);
    free(fold);
    free(key_at);
}

int main(int argc, char **argv) {
    td_kv_type tk = TD_KV_F16, tv = TD_KV_F16;
    uint32_t v[6] = {0}, n = 0;
    td_pool_options o = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-t") && i + 1 < argc)
            o.n_threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "-k") && i + 1 < argc)
            td_kv_type_parse(argv[++i], &tk);
        else if (!strcmp(argv[i], "-v") && i + 1 < argc)
            td_kv_type_parse(argv[++i], &tv);
        else if (!strcmp(argv[i], "-c"))
            hot = true;
        else if (n < 6)
            v[n++] = (uint32_t)strtoul(argv[i], NULL, 10);
    }
    td_pool *pool = NULL;
    if (td_pool_create(&pool, &o, NULL) != TD_OK) return 1;
    if (n >= 5) {
        measure(pool, tk, tv, v[0], v[1], v[2], v[3], v[4], v[5]);
    } else {
        static const uint32_t depth[] = {512, 4096, 8192};
        for (int i = 0; i < 3; i++) {
            measure(pool, tk, tv, 8, 1, 512, depth[i], 1, 0);
            measure(pool, tk, tv, 8, 1, 512, depth[i], 5, 0);
            measure(pool, tk, tv, 8, 1, 512, depth[i], 512, 0);
            measure(pool, tk, tv, 32, 4, 512, depth[i], 1, 0);
            if (tk == tv) measure(pool, tk, tv, 32, 4, 512, depth[i], 1, 64);
        }
        measure(pool, tk, tv, 8, 1, 256, 511, 1, 0);
        measure(pool, tk, tv, 8, 1, 256, 511, 5, 0);
        measure(pool, tk, tv, 8, 1, 256, 511, 512, 0);
        measure(pool, tk, tv, 32, 16, 256, 1023, 1, 0);
    }
    td_pool_destroy(pool);
    return 0;
}
