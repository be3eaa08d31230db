/* The importance matrix that the engine collects: against llama-imatrix on the same models and text (data/README.md),
 * the same whatever the steps and threads, and read back from both file forms. */
#include "convert/imatrix.h"
#include "convert/imatrix_write.h"
#include "tandem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { WINDOW = 64, MAX_TOKENS = 4096, MAX_ENTRIES = 128 };

static char text[8192];
static size_t n_text;

static int read_text(void **state) {
    (void)state;
    FILE *f = fopen("tests/engine/data/importance.txt", "rb");
    if (!f) return -1;
    n_text = fread(text, 1, sizeof text, f);
    return fclose(f);
}

static bool ignore(void *user, int pos, const float *logits) {
    (void)user, (void)pos, (void)logits;
    return true;
}

/* The windows that llama-imatrix makes: whole ones only, each begun with <bos>. */
static td_engine *collect(const char *model, int threads, int batch, uint32_t *n_window) {
    td_engine_params p;
    td_engine_params_init(&p);
    p.model_path = model;
    p.n_threads = threads;
    p.n_ctx = WINDOW + 8;
    p.n_batch = batch;
    p.importance = true;
    td_engine *e = NULL;
    td_error err = {0};
    if (td_engine_open(&e, &p, &err)) fail_msg("%s", err.text);
    static uint32_t ids[MAX_TOKENS];
    size_t n = 0;
    assert_int_equal(td_tokenize(e, text, n_text, TD_TOKENIZE_BOS, ids, MAX_TOKENS, &n, NULL), TD_OK);
    *n_window = (uint32_t)(n / WINDOW);
    for (uint32_t i = 0; i < *n_window; i++) {
        uint32_t *window = ids + (size_t)i * WINDOW;
        window[0] = ids[0];
        assert_int_equal(td_engine_score(e, window, WINDOW, WINDOW - 1, ignore, NULL, NULL), TD_OK);
    }
    return e;
}

static void compare(const td_importance *a, const td_imatrix *other, double tolerance) {
    td_imatrix_row row = td_imatrix_find(other, a->tensor);
    uint64_t n = (uint64_t)a->n_mat * (uint64_t)a->n_values;
    if (row.n != n)
        fail_msg("%s: %llu values, llama-imatrix has %llu", a->tensor, (unsigned long long)n,
                 (unsigned long long)row.n);
    for (int m = 0; m < a->n_mat; m++) {
        const float *theirs = row.values + (int64_t)m * a->n_values;
        double total = 0, off = 0, count = (double)a->counts[m];
        for (int64_t i = 0; i < a->n_values; i++) {
            double x = a->sums[(int64_t)m * a->n_values + i];
            total += (double)theirs[i];
            off += fabs((count > 0 ? x / count : 1.0) - (double)theirs[i]);
        }
        if (off > tolerance * total) fail_msg("%s, matrix %d: differs by %.4f", a->tensor, m, off / total);
    }
}

/* A router may choose the other of two near equals by rounding: then single rows of an expert differ, and a little all
 * that comes after. */
static void against_llama_imatrix(const char *stem, double plain, double expert) {
    char model[128], file[128];
    uint32_t n_window = 0;
    int n = 0;
    td_error err = {0};
    td_importance one;
    td_imatrix *other = NULL;
    snprintf(model, sizeof model, "tests/golden/data/%s.gguf", stem);
    snprintf(file, sizeof file, "tests/engine/data/importance-%s.gguf", stem);
    if (td_imatrix_open(&other, file, &err)) fail_msg("%s", err.text);
    td_engine *e = collect(model, 2, 512, &n_window);
    assert_int_equal(n_window, td_imatrix_chunks(other));
    for (; td_engine_importance(e, n, &one); n++) {
        if (one.n_mat == 1) assert_int_equal(one.counts[0], n_window * WINDOW);
        compare(&one, other, one.n_mat == 1 ? plain : expert);
    }
    assert_int_equal(n, td_imatrix_count(other));
    td_imatrix_close(other);
    td_engine_close(e);
}

static void test_dense(void **state) {
    (void)state;
    against_llama_imatrix("dense", 0.002, 0);
}

static void test_per_layer_inputs(void **state) {
    (void)state;
    against_llama_imatrix("e", 0.002, 0);
}

static void test_experts(void **state) {
    (void)state;
    against_llama_imatrix("moe", 0.02, 0.15);
}

/* Steps of three rows take other paths than steps of 64: every thread norms all rows, experts read rows where they
 * are. */
static void test_any_steps(void **state) {
    (void)state;
    uint32_t n_window = 0;
    td_engine *a = collect("tests/golden/data/moe.gguf", 2, 512, &n_window);
    td_engine *b = collect("tests/golden/data/moe.gguf", 1, 3, &n_window);
    td_importance x, y;
    int n = 0;
    for (; td_engine_importance(a, n, &x); n++) {
        assert_true(td_engine_importance(b, n, &y));
        assert_memory_equal(x.counts, y.counts, (size_t)x.n_mat * sizeof *x.counts);
        assert_memory_equal(x.sums, y.sums, (size_t)x.n_mat * (size_t)x.n_values * sizeof *x.sums);
    }
    assert_true(n > 0);
    td_engine_close(a);
    td_engine_close(b);
}

static void test_files(void **state) {
    (void)state;
    uint32_t n_window = 0;
    size_t n = 0;
    static td_importance all[MAX_ENTRIES];
    td_engine *e = collect("tests/golden/data/moe.gguf", 2, 512, &n_window);
    while (n < MAX_ENTRIES && td_engine_importance(e, (int)n, &all[n])) n++;
    for (int legacy = 0; legacy < 2; legacy++) {
        char path[512];
        const char *tmp = getenv("TMPDIR");
        snprintf(path, sizeof path, "%s/td-importance-%d", tmp ? tmp : "/tmp", (int)getpid());
        td_error err = {0};
        td_imatrix_info info = {.dataset = "text", .n_chunk = n_window, .chunk_size = WINDOW, .legacy = legacy};
        if (td_imatrix_write(path, all, n, &info, &err)) fail_msg("%s", err.text);
        td_imatrix *m = NULL;
        if (td_imatrix_open(&m, path, &err)) fail_msg("%s", err.text);
        unlink(path);
        assert_int_equal(td_imatrix_count(m), n);
        assert_int_equal(td_imatrix_chunks(m), n_window);
        assert_string_equal(td_imatrix_dataset(m), "text");
        for (size_t i = 0; i < n; i++) compare(&all[i], m, 1e-5);
        td_imatrix_close(m);
    }
    td_engine_close(e);
}

static void test_not_collected(void **state) {
    (void)state;
    td_engine_params p;
    td_engine_params_init(&p);
    p.model_path = "tests/golden/data/e.gguf";
    p.n_ctx = 64;
    td_engine *e = NULL;
    td_importance one;
    assert_int_equal(td_engine_open(&e, &p, NULL), TD_OK);
    assert_false(td_engine_importance(e, 0, &one));
    td_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),   cmocka_unit_test(test_per_layer_inputs),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_any_steps),
        cmocka_unit_test(test_files),   cmocka_unit_test(test_not_collected),
    };
    return cmocka_run_group_tests(tests, read_text, NULL);
}
