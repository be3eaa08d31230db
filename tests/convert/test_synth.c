/* The parts of the pair generator: the walk is one cycle with the promised share of mistakes at every draft depth, rows
 * have the promised size in every type, clusters hold each token once and where the head will find it, and the files do
 * not depend on the number of threads. */
#include "convert/synth_parts.h"

#include "file/gguf.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_walk_is_one_cycle(void **state) {
    (void)state;
    td_walk w;
    assert_int_equal(td_walk_make(&w, 262144, 5, 1, NULL), TD_OK);
    uint32_t *next = calloc(262144, sizeof *next); /* row r of the head is the embedding of t: t leads to r */
    for (uint32_t r = 0; r < 262144; r++) {
        assert_int_equal(w.target_row[r], w.draft_row[r]); /* accept 1: the drafter is always right */
        if (td_synth_off_walk(r)) {
            assert_true(w.target_row[r] == TD_NO_TOKEN);
            assert_false(td_synth_off_walk(w.alias[r]));
        } else {
            next[w.target_row[r]] = r;
            assert_int_equal(w.alias[r], r);
        }
    }
    uint32_t n = 0, t = 600;
    do {
        t = next[t];
        n++;
    } while (t != 600 && n <= 262144);
    assert_int_equal(n, w.n);
    assert_int_equal(w.n, 262144 - 600 - 7);
    assert_int_equal(w.n_wrong, 0);
    free(next);
    td_walk_free(&w);
}

/* Follows the speculative loop along the walk as an engine would: the share of looked-at drafts that are right. */
static double measured(const td_walk *w, uint32_t depth, uint32_t start, uint32_t n_looked) {
    uint32_t i = start, looked = 0, right = 0;
    while (looked < n_looked) {
        uint32_t a = 0;
        for (; a < depth; a++) {
            uint32_t next = w->order[(i + a + 1) % w->n];
            looked++;
            if (w->draft_row[next] != w->order[(i + a) % w->n]) break;
            right++;
        }
        i += a + 1;
    }
    return (double)right / looked;
}

static void test_mistakes_are_as_promised(void **state) {
    (void)state;
    static const double accepts[] = {0.5, 0.8, 0.95};
    for (int k = 0; k < 3; k++) {
        td_walk w;
        assert_int_equal(td_walk_make(&w, 262144, 7 + (uint64_t)k, accepts[k], NULL), TD_OK);
        for (uint32_t depth = 1; depth <= 8; depth++) {
            for (uint32_t start = 0; start < 200000; start += 1999) {
                double m = measured(&w, depth, start, 1000);
                if (fabs(m - accepts[k]) > 0.02) fail_msg("depth %u from %u: %g for %g", depth, start, m, accepts[k]);
            }
        }
        td_walk_free(&w);
    }
    td_walk w;
    assert_int_equal(td_walk_make(&w, 1024, 1, 0, NULL), TD_OK);
    assert_true(measured(&w, 3, 0, 500) == 0);
    assert_int_equal(w.n_wrong, w.n);
    td_walk_free(&w);
    assert_int_equal(td_walk_make(&w, 601, 1, 0.5, NULL), TD_ERR_ARGUMENT);
}

static void test_rows_have_the_size(void **state) {
    (void)state;
    static const td_type types[] = {TD_TYPE_F32,    TD_TYPE_F16,   TD_TYPE_BF16, TD_TYPE_Q4_0,   TD_TYPE_Q4_1,
                                    TD_TYPE_Q5_0,   TD_TYPE_Q5_1,  TD_TYPE_Q8_0, TD_TYPE_Q2_K,   TD_TYPE_Q3_K,
                                    TD_TYPE_Q4_K,   TD_TYPE_Q5_K,  TD_TYPE_Q6_K, TD_TYPE_IQ4_NL, TD_TYPE_IQ4_XS,
                                    TD_TYPE_TQ3_1S, TD_TYPE_TQ4_1S};
    enum { K = 1536, ROWS = 64 };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const td_type_info *t = td_type_of(types[i]);
        td_filler f;
        td_filler_init(&f, t, 0.025f);
        double sum = 0, squares = 0, cross = 0;
        static float x[K], y[K];
        static uint8_t row[K * 4], again[K * 4];
        for (uint64_t r = 0; r < ROWS; r++) {
            td_filler_row(&f, r, K, row);
            td_filler_row(&f, r, K, again);
            assert_memory_equal(row, again, K / t->block * t->bytes);
            t->decode(row, x, K);
            for (int j = 0; j < K; j++) {
                sum += (double)x[j];
                squares += (double)x[j] * (double)x[j];
                if (r > 0) cross += (double)x[j] * (double)y[j];
            }
            memcpy(y, x, sizeof y);
        }
        double rms = sqrt(squares / (K * ROWS));
        if (fabs(rms / 0.025 - 1) > 0.02) fail_msg("%s: rms %g", t->name, rms);
        if (fabs(sum / (K * ROWS)) > 0.25 * rms) fail_msg("%s: mean %g", t->name, sum / (K * ROWS));
        if (fabs(cross / squares) > 0.06) fail_msg("%s: rows correlate %g", t->name, cross / squares);
    }
}

enum { V = 4096, H = 64, C = 32, BEST = 3 };
static float rows[V][H], centroids[C][H];

static void row_of(void *arg, uint64_t id, float *row) {
    (void)arg;
    memcpy(row, rows[id], sizeof rows[id]);
}

static bool zero_of(void *arg, uint64_t id) {
    (void)arg;
    return id < 100;
}

static void test_clusters(void **state) {
    (void)state;
    td_rng r;
    td_rng_seed(&r, 3);
    for (int i = 0; i < V; i++)
        for (int j = 0; j < H; j++) rows[i][j] = (float)(td_rng_unit(&r) + td_rng_unit(&r) + td_rng_unit(&r) - 1.5);
    for (int i = 0; i < C; i++)
        for (int j = 0; j < H; j++) centroids[i][j] = (float)(td_rng_unit(&r) + td_rng_unit(&r) - 1);
    td_pool *pool = NULL;
    assert_int_equal(td_pool_create(&pool, &(td_pool_options){.n_threads = 2}, NULL), TD_OK);
    static int32_t order[V];
    uint64_t misplaced = 99;
    td_cluster_job job = {.n_vocab = V,
                          .h = H,
                          .n_centroids = C,
                          .n_best = BEST,
                          .centroids = &centroids[0][0],
                          .row = row_of,
                          .is_zero = zero_of,
                          .pool = pool};
    assert_int_equal(td_cluster(&job, order, &misplaced, NULL), TD_OK);
    assert_int_equal(misplaced, 0);
    static uint8_t seen[V];
    for (int k = 0; k < V; k++) {
        int32_t id = order[k];
        assert_true(id >= 0 && id < V && !seen[id]);
        seen[id] = 1;
        if (id < 100) continue;
        double mine = 0;
        int better = 0; /* centroids that score higher than the one it was put to */
        for (int j = 0; j < H; j++) mine += (double)centroids[k / (V / C)][j] * (double)rows[id][j];
        for (int c = 0; c < C; c++) {
            double s = 0;
            for (int j = 0; j < H; j++) s += (double)centroids[c][j] * (double)rows[id][j];
            better += s > mine + 1e-5;
        }
        assert_true(better < BEST);
    }
    job.n_centroids = 33;
    assert_int_equal(td_cluster(&job, order, &misplaced, NULL), TD_ERR_ARGUMENT);
    td_pool_destroy(pool);
}

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *b = malloc(*n);
    assert_int_equal(fread(b, 1, *n, f), *n);
    fclose(f);
    return b;
}

static void test_files_do_not_depend_on_threads(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char path[2][512];
    for (int assistant = 0; assistant < 2; assistant++) {
        for (int k = 0; k < 2; k++) {
            td_synth_options o = {.size = "tiny", .ftype = td_ftype_by_name("q4_K_M"), .accept = 0.8, .seed = 1};
            assert_int_equal(td_pool_create(&o.pool, &(td_pool_options){.n_threads = 1 + 2 * k}, NULL), TD_OK);
            snprintf(path[k], sizeof path[k], "%s/test_synth.%ld.%d.gguf", tmp, (long)getpid(), k);
            td_error err = {0};
            if ((assistant ? td_synth_assistant : td_synth_target)(&o, path[k], &err) != TD_OK)
                fail_msg("%s", err.text);
            td_pool_destroy(o.pool);
        }
        size_t n[2];
        char *a = slurp(path[0], &n[0]), *b = slurp(path[1], &n[1]);
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(a, b, n[0]);
        td_gguf *g = NULL;
        td_error err = {0};
        if (td_gguf_open(&g, path[0], &err) != TD_OK) fail_msg("%s", err.text);
        assert_string_equal(td_gguf_arch(g), assistant ? "gemma4-assistant" : "gemma4");
        const td_gguf_tensor *t = td_gguf_tensor_find(g, "token_embd.weight");
        assert_int_equal(t->type->id, assistant ? TD_TYPE_Q8_0 : TD_TYPE_Q6_K);
        assert_int_equal(t->ne[1], 8192);
        if (assistant) assert_int_equal(td_gguf_tensor_find(g, "masked_embd_ordering")->type->id, TD_TYPE_I32);
        td_gguf_close(g);
        free(a);
        free(b);
        unlink(path[0]);
        unlink(path[1]);
    }
}

/* A cut shape is the large one in small: the last layer has full attention, and some layer of each kind owns a cache.
 */
static void test_fewer_layers(void **state) {
    (void)state;
    td_synth_shape s;
    const char *size;
    for (int i = 0; (size = td_synth_size_at(i)); i++) {
        td_synth_shape whole;
        assert_int_equal(td_synth_shape_make(&whole, size, 0, NULL), TD_OK);
        assert_int_equal(td_synth_shape_make(&s, size, whole.n_layer, NULL), TD_OK);
        assert_int_equal(s.n_shared, whole.n_shared);
        for (uint32_t n = 1; n <= 64; n++) {
            td_status status = td_synth_shape_make(&s, size, n, NULL);
            assert_int_equal(status, n % whole.period ? TD_ERR_ARGUMENT : TD_OK);
            if (status != TD_OK) continue;
            assert_int_equal(s.n_layer, n);
            assert_true(n - s.n_shared >= s.period && s.n_shared % s.period == 0);
            assert_true(whole.n_shared > 0 || s.n_shared == 0);
        }
    }
    assert_int_equal(td_synth_shape_make(&s, "e2b", 10, NULL), TD_OK);
    assert_int_equal(s.n_shared, 5);
    assert_int_equal(td_synth_shape_make(&s, "31b", 66, NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_synth_shape_make(&s, "7b", 6, NULL), TD_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_is_one_cycle),  cmocka_unit_test(test_mistakes_are_as_promised),
        cmocka_unit_test(test_rows_have_the_size), cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_fewer_layers),       cmocka_unit_test(test_files_do_not_depend_on_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
