/* Times of the forward passes of a real-sized model, for work on this layer: prefill, decode, verify batches, draft
 * steps, with time per stage and barriers. Medians. `tandem bench` is the measure for everyone else.
 *
 * usage: bench_forward TARGET.gguf [ASSISTANT.gguf|-] [threads] [seconds per measurement] [pack cache folder|-] [WHAT]
 * WHAT: any of p(refill) v(erify) d(epth) m(tp); all when left out. */
#include "base/clock.h"
#include "file/gguf.h"
#include "kv/kv.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PREFILL = 512, MAX_TIMES = 1000 };

typedef struct bench {
    td_pool *pool;
    td_model *model;
    td_drafter *drafter;
    td_kv *kv;
    td_workspace *work;
    double seconds;
    uint32_t seed;
} bench;

static int by_time(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int die(const td_error *err) {
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static int32_t token(bench *b) {
    b->seed = b->seed * 1664525u + 1013904223u;
    return (int32_t)((b->seed >> 8) % (uint32_t)td_model_shape(b->model)->n_vocab);
}

/* Processor time of all threads: what a step costs on a machine that others use too. */
static double cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static double step(bench *b, int n, uint32_t flags) {
    static td_row rows[PREFILL];
    td_error err = {0};
    int pos = (int)td_kv_n_pos(b->kv, 0);
    for (int i = 0; i < n; i++) rows[i] = (td_row){token(b), pos + i, 0, i + 1 == n || n <= 32 ? flags : 0};
    td_step s = {rows, n};
    int64_t t = td_clock_ns();
    if (td_target_forward(b->model, b->kv, &s, b->work, b->pool, &err)) die(&err);
    return (double)(td_clock_ns() - t) * 1e-6;
}

static void stages(bench *b, int steps) {
    td_stage_time st[TD_MODEL_STAGES];
    int n = td_workspace_stages(b->work, st);
    printf("    per step:");
    for (int i = 0; i < n; i++) printf(" %s %.2f", st[i].name, (double)st[i].t_ns * 1e-6 / steps);
    printf(" ms\n");
}

/* Median of steps of n rows at depth `depth`. */
static double measure(bench *b, const char *name, int n, int depth, uint32_t flags) {
    static double t[MAX_TIMES];
    int count = 0;
    uint64_t barriers = 0;
    int64_t end = td_clock_ns() + (int64_t)(b->seconds * 1e9);
    td_kv_truncate(b->kv, 0, 0);
    while ((int)td_kv_n_pos(b->kv, 0) < depth) step(b, depth < PREFILL ? depth : PREFILL, 0);
    step(b, n, flags);
    td_kv_truncate(b->kv, 0, (uint32_t)depth);
    td_workspace_time(b->work, true);
    barriers = td_pool_barriers(b->pool);
    double cpu = cpu_ms();
    while (count < MAX_TIMES && (count < 3 || td_clock_ns() < end)) {
        t[count++] = step(b, n, flags);
        td_kv_truncate(b->kv, 0, (uint32_t)depth);
    }
    cpu = (cpu_ms() - cpu) / count;
    qsort(t, (size_t)count, sizeof *t, by_time);
    double ms = t[count / 2], bytes = (double)td_model_memory_use(b->model).step_bytes;
    printf("%-10s %3d rows at %d: %8.2f ms (best %.2f, cpu %.2f, %d runs), %8.1f tokens/s, %.1f GB/s, %llu barriers\n",
           name, n, depth, ms, t[0], cpu, count, n * 1e3 / ms, bytes / ms * 1e-6,
           (unsigned long long)(td_pool_barriers(b->pool) - barriers) / (unsigned long long)count);
    stages(b, count);
    td_workspace_time(b->work, false);
    return ms;
}

static void drafts(bench *b, int n_slots) {
    static double t[MAX_TIMES];
    td_error err = {0};
    td_draft_row rows[8];
    td_draft out[8];
    int count = 0;
    uint64_t barriers = 0;
    float *h = calloc((size_t)td_model_shape(b->model)->d_model, sizeof *h);
    int64_t end = td_clock_ns() + (int64_t)(b->seconds * 1e9);
    for (int i = 0; i < td_model_shape(b->model)->d_model; i++) h[i] = (float)(i % 7) - 3;
    td_workspace_time(b->work, true);
    for (int i = 0; i < n_slots; i++) rows[i] = (td_draft_row){0, token(b), (int)td_kv_n_pos(b->kv, 0), h, NULL};
    while (count < MAX_TIMES && (count < 3 || td_clock_ns() < end)) {
        for (int i = 0; i < n_slots; i++) rows[i].token = token(b);
        if (count == 1) barriers = td_pool_barriers(b->pool);
        int64_t t0 = td_clock_ns();
        if (td_drafter_forward(b->drafter, b->kv, rows, n_slots, out, b->work, b->pool, &err)) die(&err);
        t[count++] = (double)(td_clock_ns() - t0) * 1e-6;
    }
    qsort(t, (size_t)count, sizeof *t, by_time);
    printf("draft (%s head), %d slots: %.3f ms (best %.3f), %.1f GB/s, %llu barriers\n",
           td_drafter_is_ordered(b->drafter) ? "ordered" : "dense", n_slots, t[count / 2], t[0],
           (double)td_drafter_memory_use(b->drafter).step_bytes / t[count / 2] * 1e-6,
           (unsigned long long)(td_pool_barriers(b->pool) - barriers) / (unsigned long long)(count - 1));
    stages(b, count);
    td_workspace_time(b->work, false);
    free(h);
}

int main(int argc, char **argv) {
    static const int rows[] = {1, 2, 3, 4, 5, 6, 8, 16};
    td_error err = {0};
    bench b = {.seconds = argc > 4 ? atof(argv[4]) : 2, .seed = 1};
    if (argc < 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    td_pool_options po = {.n_threads = argc > 3 ? atoi(argv[3]) : 0};
    if (td_pool_create(&b.pool, &po, &err)) die(&err);
    td_model_options mo = {
        .path = argv[1], .pool = b.pool, .pack_cache = argc > 5 && strcmp(argv[5], "-") ? argv[5] : NULL};
    int64_t t0 = td_clock_ns();
    if (td_model_load(&b.model, &mo, &err)) die(&err);
    td_model_memory m = td_model_memory_use(b.model);
    printf("loaded in %.2f s%s: file %.2f GB, packed %.2f, mapped %.2f, per step %.3f\n",
           (double)(td_clock_ns() - t0) * 1e-9, m.from_cache ? " from the pack cache" : "", (double)m.file_bytes * 1e-9,
           (double)m.packed_bytes * 1e-9, (double)m.mapped_bytes * 1e-9, (double)m.step_bytes * 1e-9);
    td_drafter_options d = {.file = mo};
    d.file.path = argc > 2 ? argv[2] : "-";
    if (strcmp(d.file.path, "-") != 0 && td_drafter_load(&b.drafter, &d, b.model, NULL, &err)) die(&err);
    td_kv_options ko = {.n_slot = 1, .n_ctx = 8192, .n_batch = PREFILL, .n_back = 32, .type_k = TD_KV_F16};
    ko.type_v = ko.type_k_sliding = ko.type_v_sliding = TD_KV_F16;
    if (td_model_kv_create(&b.kv, b.model, &ko, &err)) die(&err);
    td_workspace_options wo = {.max_rows = PREFILL, .max_out = 16, .max_slots = 8};
    if (td_workspace_create(&b.work, b.model, b.drafter, b.pool, &wo, &err)) die(&err);
    printf("workspace %.0f MB\n", (double)td_workspace_bytes(b.work) * 1e-6);
    const char *what = argc > 6 ? argv[6] : "pvdm";
    if (strchr(what, 'p')) measure(&b, "prefill", PREFILL, 0, TD_ROW_LOGITS);
    double one = 0;
    for (size_t i = 0; strchr(what, 'v') && i < sizeof rows / sizeof *rows; i++) {
        double ms = measure(&b, "verify", rows[i], 128, TD_ROW_ARGMAX | TD_ROW_HIDDEN);
        if (i == 0) one = ms;
        printf("    T(%d)/T(1) = %.3f\n", rows[i], ms / one);
    }
    if (strchr(what, 'd')) measure(&b, "decode", 1, 4096, TD_ROW_LOGITS);
    if (b.drafter && strchr(what, 'm')) drafts(&b, 1);
    if (b.drafter && strchr(what, 'm')) drafts(&b, 4);
    td_workspace_free(b.work);
    td_kv_destroy(b.kv);
    td_drafter_free(b.drafter);
    td_model_free(b.model);
    td_pool_destroy(b.pool);
    return 0;
}
