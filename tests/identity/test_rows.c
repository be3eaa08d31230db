/* A row's results do not depend on the rows around it: the same bits for 1, 2 and 3 threads, for a prompt fed in steps
 * of any size, for verify batches of 1 to 8 rows, with another slot in the same step, packed or not, packed now or from
 * the copy on disk, and when only the arg-max is asked for. In float32 and in quantised types, for every family.
 * Nothing on the way allocates. */
#include "../golden/golden.h"
#include "../golden/rig.h"

#include "base/alloc_guard.h"

#include "../share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_TOK = 80, MAX_VOCAB = 1024 };

static int32_t tokens[N_TOK];

static void make_tokens(int n_vocab) {
    uint32_t x = 7;
    for (int i = 0; i < N_TOK; i++) {
        x = x * 1664525u + 1013904223u;
        tokens[i] = i ? (int32_t)(5 + (x >> 8) % (uint32_t)(n_vocab - 5)) : 2;
    }
}

typedef struct result {
    float *logits, *hidden;
    int n_vocab, d_model;
} result;

static result reference(const char *path) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16};
    assert_true(rig_open(&r, &o));
    assert_true(r.n_vocab <= MAX_VOCAB);
    make_tokens(r.n_vocab);
    result f = {.n_vocab = r.n_vocab, .d_model = r.d_model};
    f.logits = calloc(N_TOK * (size_t)r.n_vocab, sizeof *f.logits);
    f.hidden = calloc(N_TOK * (size_t)r.d_model, sizeof *f.hidden);
    assert_true(rig_feed(&r, 0, tokens, 0, N_TOK, N_TOK, f.logits, f.hidden));
    rig_close(&r);
    return f;
}

static void expect_same(const result *f, int from, int to, const float *logits, const float *hidden, const char *what) {
    size_t v = (size_t)f->n_vocab, d = (size_t)f->d_model;
    for (int i = from; i < to; i++) {
        size_t at = (size_t)(i - from);
        if (memcmp(logits + at * v, f->logits + (size_t)i * v, v * sizeof *logits) != 0)
            fail_msg("%s: logits of position %d differ", what, i);
        if (memcmp(hidden + at * d, f->hidden + (size_t)i * d, d * sizeof *hidden) != 0)
            fail_msg("%s: hidden state of position %d differs", what, i);
    }
}

/* The prompt in steps of `chunk`, compared at every position. */
static void check_chunk(const result *f, const rig_options *o, int chunk, const char *what) {
    rig r;
    float *logits = calloc(N_TOK * (size_t)f->n_vocab, sizeof *logits);
    float *hidden = calloc(N_TOK * (size_t)f->d_model, sizeof *hidden);
    char text[96];
    snprintf(text, sizeof text, "%s, steps of %d, %d threads", what, chunk, o->n_threads);
    assert_true(rig_open(&r, o));
    assert_true(rig_feed(&r, 0, tokens, 0, N_TOK, chunk, logits, hidden));
    expect_same(f, 0, N_TOK, logits, hidden, text);
    free(logits);
    free(hidden);
    rig_close(&r);
}

/* Batches of n rows from position 40 on, each tried with wrong tokens first and taken back, as drafts are. */
static void check_verify(const result *f, const char *path, int n, int n_threads) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16, .n_threads = n_threads};
    float logits[8 * MAX_VOCAB], hidden[8 * 256];
    int32_t wrong[N_TOK];
    char what[64];
    snprintf(what, sizeof what, "verify batches of %d, %d threads", n, n_threads);
    assert_true(f->d_model <= 256);
    assert_true(rig_open(&r, &o));
    assert_true(rig_feed(&r, 0, tokens, 0, 40, 64, NULL, NULL));
    for (int i = 40; i + n <= 40 + 4 * n; i += n) {
        for (int j = 0; j < N_TOK; j++) wrong[j] = j > i ? 9 + j : tokens[j];
        assert_true(rig_feed(&r, 0, wrong, i, i + n, n, logits, hidden));
        expect_same(f, i, i + 1, logits, hidden, what); /* the first row's token was right */
        assert_int_equal(td_kv_truncate(r.kv, 0, (uint32_t)i), i);
        assert_true(rig_feed(&r, 0, tokens, i, i + n, n, logits, hidden));
        expect_same(f, i, i + n, logits, hidden, what);
    }
    rig_close(&r);
}

/* Two slots share every step: slot 1 runs the prompt, slot 0 and 2 something else before and after it. */
static void check_company(const result *f, const char *path) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16, .n_slots = 3, .n_threads = 2};
    td_error err = {0};
    assert_true(rig_open(&r, &o));
    for (int i = 0; i < N_TOK; i += 5) {
        td_row rows[15];
        for (int j = 0; j < 15; j++) {
            int pos = i + j % 5, other = tokens[N_TOK - 1 - pos];
            rows[j] = (td_row){j / 5 == 1 ? tokens[pos] : other, pos, j / 5, TD_ROW_LOGITS | TD_ROW_HIDDEN};
        }
        td_step step = {rows, 15};
        if (td_target_forward(r.model, r.kv, &step, r.work, r.pool, &err)) fail_msg("%s", err.text);
        for (int j = 5; j < 10; j++)
            expect_same(f, i + j - 5, i + j - 4, td_workspace_logits(r.work, j), td_workspace_hidden(r.work, j),
                        "three slots in a step");
    }
    rig_close(&r);
}

/* Rows that ask for the arg-max only, beside rows that ask for all. */
static void check_argmax(const result *f, const char *path, int chunk) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16, .n_threads = 2};
    td_error err = {0};
    size_t v = (size_t)f->n_vocab;
    assert_true(rig_open(&r, &o));
    for (int i = 0; i < N_TOK; i += chunk) {
        td_row rows[N_TOK];
        int n = N_TOK - i < chunk ? N_TOK - i : chunk;
        for (int j = 0; j < n; j++) {
            uint32_t kind = j % 3 == 0 ? TD_ROW_ARGMAX : j % 3 == 1 ? TD_ROW_LOGITS : TD_ROW_ARGMAX | TD_ROW_HIDDEN;
            rows[j] = (td_row){tokens[i + j], i + j, 0, kind};
        }
        td_step step = {rows, n};
        if (td_target_forward(r.model, r.kv, &step, r.work, r.pool, &err)) fail_msg("%s", err.text);
        for (int j = 0; j < n; j++) {
            const float *z = f->logits + (size_t)(i + j) * v;
            float logit = 0;
            int best = 0;
            for (int k = 1; k < f->n_vocab; k++)
                if (z[k] > z[best]) best = k;
            if (j % 3 == 1) {
                assert_memory_equal(td_workspace_logits(r.work, j), z, v * sizeof *z);
                assert_int_equal(td_workspace_argmax(r.work, j, NULL), -1);
            } else {
                assert_int_equal(td_workspace_argmax(r.work, j, &logit), best);
                assert_true(logit == z[best]);
                assert_null(td_workspace_logits(r.work, j));
            }
        }
    }
    rig_close(&r);
}

/* Rows that want nothing leave after the last layer that stores keys and values: what the others get, and what later
 * steps read from the cache, must not change. Two slots in a step; `every`: one row in so many wants a result. */
static void check_unwanted(const result *f, const char *path, int chunk, int every, int n_threads) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16, .n_slots = 2, .n_threads = n_threads};
    td_error err = {0};
    char what[64];
    snprintf(what, sizeof what, "one row in %d wanted, steps of 2 x %d", every, chunk);
    assert_true(rig_open(&r, &o));
    for (int i = 0; i < N_TOK; i += chunk) {
        td_row rows[2 * N_TOK];
        int n = N_TOK - i < chunk ? N_TOK - i : chunk;
        for (int j = 0; j < 2 * n; j++) {
            int pos = i + j % n;
            uint32_t flags = (pos + 1) % every == 0 ? TD_ROW_LOGITS | TD_ROW_HIDDEN : 0;
            rows[j] = (td_row){j < n ? tokens[pos] : tokens[N_TOK - 1 - pos], pos, j / n, flags};
        }
        td_step step = {rows, 2 * n};
        if (td_target_forward(r.model, r.kv, &step, r.work, r.pool, &err)) fail_msg("%s", err.text);
        for (int j = 0; j < n; j++) {
            if (!rows[j].flags)
                assert_null(td_workspace_hidden(r.work, j));
            else
                expect_same(f, i + j, i + j + 1, td_workspace_logits(r.work, j), td_workspace_hidden(r.work, j), what);
        }
    }
    rig_close(&r);
}

static void check_pack_cache(const result *f, const char *path) {
    rig r;
    rig_options o = {.target = path, .kv = TD_KV_F16, .pack_cache = ""};
    char copy[600];
    snprintf(copy, sizeof copy, "%s.tdpack", path);
    unlink(copy);
    check_chunk(f, &o, 33, "pack cache, first start");
    assert_true(rig_open(&r, &o));
    assert_true(td_model_memory_use(r.model).from_cache);
    rig_close(&r);
    check_chunk(f, &o, 33, "pack cache, second start");
    /* One bit of the content: found, and packed again. */
    FILE *c = fopen(copy, "r+b");
    assert_non_null(c);
    fseek(c, -100, SEEK_END);
    int byte = fgetc(c);
    fseek(c, -1, SEEK_CUR);
    fputc(byte ^ 4, c);
    fclose(c);
    assert_true(rig_open(&r, &o));
    assert_false(td_model_memory_use(r.model).from_cache);
    rig_close(&r);
    /* Cut short: the same. */
    assert_int_equal(truncate(copy, 5000), 0);
    check_chunk(f, &o, 33, "pack cache, cut short");
    assert_true(rig_open(&r, &o));
    assert_true(td_model_memory_use(r.model).from_cache);
    rig_close(&r);
    unlink(copy);
}

static void check_file(const char *path) {
    /* Threads and rows of a step: below, at and above the limit of own rows, a panel, a tile of 8, the window. */
    static const int cases[][2] = {{1, 1}, {1, 4}, {1, 5}, {1, 7},  {1, 9}, {1, 32}, {1, 33},
                                   {2, 1}, {2, 3}, {2, 8}, {2, 33}, {3, 2}, {3, 17}, {3, N_TOK}};
    result f = reference(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_options o = {.target = path, .kv = TD_KV_F16, .n_threads = cases[i][0]};
        check_chunk(&f, &o, cases[i][1], "chunks");
    }
    for (int n = 1; n <= 8; n++) check_verify(&f, path, n, 1 + n % 2);
    check_company(&f, path);
    check_argmax(&f, path, 3);
    check_argmax(&f, path, 50);
    check_unwanted(&f, path, 1, 2, 2);   /* steps of one row a slot, wanted or not */
    check_unwanted(&f, path, 7, 3, 1);   /* several stay */
    check_unwanted(&f, path, 20, 10, 3); /* some 40 rows become 4, which every thread holds */
    check_unwanted(&f, path, 40, N_TOK, 2);
    rig_options plain = {.target = path, .kv = TD_KV_F16, .n_threads = 2, .no_pack = true};
    check_chunk(&f, &plain, 33, "unpacked");
    check_pack_cache(&f, path);
    free(f.logits);
    free(f.hidden);
}

static void check_type(td_type type, int n_kinds) {
    static const char *const kinds[] = {"e", "moe", "dense", "e4"};
    for (int j = 0; j < test_share(n_kinds, 1); j++) { /* a slow build: another family for each type */
        int i = (j + (int)type) % n_kinds;
        char from[128], to[512], name[64];
        snprintf(from, sizeof from, "tests/golden/data/%s.gguf", kinds[i]);
        snprintf(name, sizeof name, "rows-%s-%d.gguf", kinds[i], (int)type);
        rig_temp(to, sizeof to, name);
        assert_true(rig_requantise(from, to, type));
        check_file(to);
        unlink(to);
    }
    assert_int_equal(td_alloc_guard_hits(), 0);
}

static void test_f32(void **state) {
    (void)state;
    check_type(TD_TYPE_F32, 4);
}

static void test_bf16(void **state) {
    (void)state;
    check_type(TD_TYPE_BF16, 2);
}

static void test_q8_0(void **state) {
    (void)state;
    check_type(TD_TYPE_Q8_0, 4);
}

static void test_q4_0(void **state) {
    (void)state;
    check_type(TD_TYPE_Q4_0, 4);
}

static void test_q5_1(void **state) {
    (void)state;
    check_type(TD_TYPE_Q5_1, 2);
}

/* The goldens' rows are one or two blocks wide, and threads share blocks: the forms of the real sizes, several blocks
 * everywhere. */
static void test_forms(void **state) {
    static const char *const sizes[] = {"tiny", "tiny-e4b", "tiny-12b", "tiny-26b", "tiny-31b"};
    const char *binary = getenv("TD_BINARY");
    (void)state;
    assert_non_null(binary);
    for (int i = 0; i < test_share(5, 2); i++) {
        char folder[400], path[512], command[1200];
        rig_temp(folder, sizeof folder, "forms");
        snprintf(command, sizeof command, "%s synth %s --type q4_0 --vocab 1024 --target-only -q -o %s", binary,
                 sizes[i], folder);
        assert_int_equal(system(command), 0);
        snprintf(path, sizeof path, "%s/%s-q4_0.gguf", folder, sizes[i]);
        check_file(path);
        unlink(path);
        rmdir(folder);
    }
    assert_int_equal(td_alloc_guard_hits(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32),  cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_q8_0), cmocka_unit_test(test_q4_0),
                                       cmocka_unit_test(test_q5_1), cmocka_unit_test(test_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
