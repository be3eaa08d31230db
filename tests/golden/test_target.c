/* Every golden of a target: all logits and hidden states of every position, with the prompt in one step and in steps of
 * 1, 7, 32 and 33 rows (the window is 32: rings wrap at its edge and beyond), packed and straight from the file. */
#include "golden.h"
#include "rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static double worst(const float *a, const float *b, size_t n, size_t *where) {
    double w = 0;
    for (size_t i = 0; i < n; i++) {
        if (a[i] == b[i]) continue; /* also both -infinity */
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= w)) w = d, *where = i;
    }
    return w;
}

static int best(const float *z, int n) {
    int b = 0;
    for (int i = 1; i < n; i++)
        if (z[i] > z[b]) b = i;
    return b;
}

static void compare(const golden *g, int chunk, bool no_pack, int n_threads) {
    rig r;
    rig_options o = {.target = g->gguf, .no_pack = no_pack, .n_threads = n_threads, .max_rows = 256, .n_ctx = 1024};
    size_t n = (size_t)g->n_tok, v = (size_t)g->n_vocab, at = 0;
    assert_true(rig_open(&r, &o));
    assert_int_equal(r.n_vocab, g->n_vocab);
    float *logits = calloc(n * v, sizeof *logits), *hidden = calloc(n * (size_t)r.d_model, sizeof *hidden);
    assert_true(rig_feed(&r, 0, g->tokens, 0, g->n_tok, chunk, logits, hidden));
    double d = worst(logits, g->logits, n * v, &at);
    printf("%s: steps of %d, %d threads%s: largest difference of a logit %.2g", g->stem, chunk, n_threads,
           no_pack ? ", unpacked" : "", d);
    if (!(d <= g->tolerance))
        fail_msg("position %zu, token %zu: %g, expected %g", at / v, at % v, (double)logits[at], (double)g->logits[at]);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(best(logits + i * v, g->n_vocab), best(g->logits + i * v, g->n_vocab));
    if (g->d_model) {
        assert_int_equal(r.d_model, g->d_model);
        d = worst(hidden, g->hidden, n * (size_t)g->d_model, &at);
        printf(", of a hidden value %.2g", d);
        if (!(d <= g->tolerance)) fail_msg("hidden value %zu: %g", at, d);
    }
    printf("\n");
    free(logits);
    free(hidden);
    rig_close(&r);
}

static void check_folder(const char *dir) {
    static const int chunks[] = {256, 1, 7, 32, 33};
    golden *all = NULL;
    int n = golden_find(dir, false, &all);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) compare(&all[i], chunks[c], false, 1 + (int)c % 2);
        compare(&all[i], 33, true, 1);
        golden_free(&all[i]);
    }
    free(all);
}

static void test_reference(void **state) {
    (void)state;
    check_folder("tests/golden/data");
}

static void test_transformers(void **state) {
    (void)state;
    check_folder("tests/golden/data/hf");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference), cmocka_unit_test(test_transformers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
