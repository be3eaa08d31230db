/* The sampler against definitions evaluated here by brute force, and its state: what is drawn depends on the emitted
 * tokens and the seed only. */
#include "engine/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1000 };
static td_sampler_scratch scratch;
static float row[N];

static void fill_row(float spread) {
    for (int i = 0; i < N; i++) row[i] = spread * (float)sin(i * 12.9898) + (float)(i % 7) * 0.1f;
}

static td_sampler *make(const td_sampling *set) {
    td_sampler_env env = {.n_vocab = N, .n_ctx = 4096};
    td_sampler *s = NULL;
    td_error err = {0};
    assert_int_equal(td_sampler_create(&s, set, &env, &err), TD_OK);
    return s;
}

static int by_logit(const void *a, const void *b) {
    const td_cand *x = a, *y = b;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id < y->id ? -1 : 1;
}

/* top-k, top-p, temperature by sorting everything. */
static int oracle(const float *logits, int k, float p, float t, td_cand *out) {
    for (int i = 0; i < N; i++) out[i] = (td_cand){(uint32_t)i, logits[i], 0};
    qsort(out, N, sizeof *out, by_logit);
    int n = k > 0 && k < N ? k : N;
    double sum = 0, seen = 0;
    for (int i = 0; i < n; i++) sum += exp((double)(out[i].logit - out[0].logit));
    if (p < 1) {
        int m = 0;
        while (m < n) {
            seen += exp((double)(out[m].logit - out[0].logit)) / sum;
            m++;
            if (seen >= (double)p) break;
        }
        n = m;
    }
    sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)((out[i].logit - out[0].logit) / t));
    for (int i = 0; i < n; i++) out[i].p = (float)(exp((double)((out[i].logit - out[0].logit) / t)) / sum);
    return n;
}

static void test_truncation_matches_the_definition(void **unused) {
    (void)unused;
    const struct {
        int k;
        float p, t;
    } cases[] = {{64, 0.95f, 1.0f}, {0, 0.95f, 1.0f}, {0, 0.5f, 0.7f},    {40, 1.0f, 0.3f},
                 {1, 1.0f, 1.0f},   {0, 1.0f, 1.3f},  {300, 0.999f, 2.0f}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        td_sampling set;
        td_sampling_init(&set);
        set.top_k = cases[c].k;
        set.top_p = cases[c].p;
        set.temperature = cases[c].t;
        td_sampler *s = make(&set);
        fill_row(4);
        int n = td_sampler_distribution(s, &scratch, row, NULL);
        static td_cand want[N];
        int m = oracle(row, cases[c].k, cases[c].p, cases[c].t, want);
        assert_int_equal(n, m);
        qsort(scratch.cands, (size_t)n, sizeof *want, by_logit);
        for (int i = 0; i < n; i++) {
            assert_int_equal(scratch.cands[i].id, want[i].id);
            assert_true(fabsf(scratch.cands[i].p - want[i].p) < 1e-5f);
        }
        td_sampler_destroy(s);
    }
}

static void test_draws_follow_the_distribution(void **unused) {
    (void)unused;
    td_sampling set;
    td_sampling_init(&set);
    set.top_k = 20;
    set.top_p = 1;
    set.seed = 7;
    td_sampler *s = make(&set);
    static td_cand want[N];
    fill_row(3);
    int n = oracle(row, 20, 1, 1, want);
    enum { DRAWS = 200000 };
    long count[N] = {0};
    for (int i = 0; i < DRAWS; i++) count[td_sampler_draw(s, &scratch, row, NULL)]++;
    double x = 0;
    for (int i = 0; i < n; i++) {
        double e = (double)want[i].p * DRAWS;
        x += ((double)count[want[i].id] - e) * ((double)count[want[i].id] - e) / e;
    }
    assert_true(x < 43.8); /* 99.9 % point for 19 degrees of freedom */
    td_sampler_destroy(s);
}

static void test_penalties(void **unused) {
    (void)unused;
    td_sampling set;
    td_sampling_init(&set);
    set.repeat_penalty = 1.5f;
    set.frequency_penalty = 0.25f;
    set.presence_penalty = 0.5f;
    set.repeat_last_n = 4;
    td_sampler *s = make(&set);
    const uint32_t history[] = {10, 11, 12, 12, 13, 12}; /* the window: 12 12 13 12 */
    td_sampler_prime(s, history, 6);
    memset(row, 0, sizeof row);
    row[10] = row[11] = row[12] = 3;
    row[13] = -2;
    (void)td_sampler_distribution(s, &scratch, row, NULL);
    assert_true(row[10] == 3 && row[11] == 3); /* out of the window */
    assert_true(fabsf(row[12] - (3 / 1.5f - 3 * 0.25f - 0.5f)) < 1e-6f);
    assert_true(fabsf(row[13] - (-2 * 1.5f - 0.25f - 0.5f)) < 1e-6f);
    td_sampler_destroy(s);
}

static void test_dry(void **unused) {
    (void)unused;
    td_sampling set;
    td_sampling_init(&set);
    set.dry_multiplier = 0.8f;
    set.dry_allowed_length = 2;
    td_sampler *s = make(&set);
    const uint32_t history[] = {1, 2, 3, 4, 50, 1, 2, 3, 7, 9, 1, 2, 3};
    td_sampler_prime(s, history, 13);
    memset(row, 0, sizeof row);
    (void)td_sampler_distribution(s, &scratch, row, NULL);
    float want = -0.8f * powf(1.75f, 1); /* a match of three: one above what is free */
    assert_true(fabsf(row[4] - want) < 1e-5f);
    assert_true(fabsf(row[7] - want) < 1e-5f);
    assert_true(row[9] == 0 && row[50] == 0);
    (void)td_sampler_distribution(s, &scratch, row, NULL); /* the scratch is clean: the same again */
    assert_true(fabsf(row[4] - 2 * want) < 1e-5f);
    td_sampler_destroy(s);
}

static bool only_odd(void *user, uint32_t token) {
    (void)user;
    return token % 2 == 1;
}
static const uint64_t *odd_mask(void *user) {
    (void)user;
    static uint64_t bits[(N + 63) / 64];
    memset(bits, 0xaa, sizeof bits);
    return bits;
}

static void test_constraint(void **unused) {
    (void)unused;
    td_sampling set;
    td_sampling_init(&set);
    set.seed = 3;
    td_sampler *s = make(&set);
    td_sampler_constraint c = {only_odd, odd_mask, NULL};
    for (int i = 0; i < 2000; i++) {
        fill_row(3);
        assert_int_equal(td_sampler_draw(s, &scratch, row, &c) % 2, 1);
    }
    td_sampler_destroy(s);
}

static void test_seed_and_greedy(void **unused) {
    (void)unused;
    td_sampling set;
    td_sampling_init(&set);
    set.seed = 99;
    set.mirostat = 0;
    for (int mode = 0; mode < 4; mode++) {
        set.mirostat = mode == 1 ? 1 : mode == 2 ? 2 : 0;
        set.adaptive_target = mode == 3 ? 0.4f : -1.0f;
        td_sampler *a = make(&set), *b = make(&set);
        for (int i = 0; i < 300; i++) {
            fill_row(2);
            uint32_t x = td_sampler_draw(a, &scratch, row, NULL);
            fill_row(2);
            uint32_t y = td_sampler_draw(b, &scratch, row, NULL);
            assert_int_equal(x, y);
            td_sampler_accept(a, x);
            td_sampler_accept(b, y);
        }
        td_sampler_destroy(a);
        td_sampler_destroy(b);
    }
    td_sampling_init(&set);
    set.temperature = 0;
    td_sampler *g = make(&set);
    assert_true(td_sampler_is_argmax(g));
    memset(row, 0, sizeof row);
    row[17] = row[400] = 5; /* a tie: the lowest id */
    assert_int_equal(td_sampler_draw(g, &scratch, row, NULL), 17);
    td_sampler_destroy(g);
}

static void test_bad_values(void **unused) {
    (void)unused;
    td_sampler_env env = {.n_vocab = N, .n_ctx = 64};
    td_sampling good, bad;
    td_sampling_init(&good);
    td_sampler *s = NULL;
    td_error err = {0};
    td_logit_bias outside = {N, 1};
    bad = good, bad.temperature = NAN;
    assert_int_equal(td_sampler_create(&s, &bad, &env, &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "temperature"));
    err = (td_error){0};
    bad = good, bad.biases = &outside, bad.n_biases = 1;
    assert_int_equal(td_sampler_create(&s, &bad, &env, &err), TD_ERR_ARGUMENT);
    err = (td_error){0};
    bad = good, bad.repeat_last_n = -2;
    assert_int_equal(td_sampler_create(&s, &bad, &env, &err), TD_ERR_ARGUMENT);
    bad = good, bad.adaptive_decay = 1.0f;
    assert_int_equal(td_sampler_create(&s, &bad, &env, NULL), TD_ERR_ARGUMENT);
    assert_null(s);
}

int main(void) {
    if (!td_sampler_scratch_init(&scratch, N, 4096)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncation_matches_the_definition),
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_dry),
        cmocka_unit_test(test_constraint),
        cmocka_unit_test(test_seed_and_greedy),
        cmocka_unit_test(test_bad_values),
    };
    int failed = cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
    td_sampler_scratch_free(&scratch);
    return failed;
}
