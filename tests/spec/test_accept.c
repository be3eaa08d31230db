/* Rejection acceptance as distributions: what leaves the rule follows the target, for three temperatures and drafts
 * that are greedy or sampled; the same test with a wrong rule must fail, so it can see a bias. */
#include "spec/accept.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { N_VOCAB = 24, N_DRAWS = 400000 };

static uint64_t state = 88172645463325252u;

static double uniform(void) { /* xorshift64: independent of the engine's generator */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-53;
}

static void softmax(const double *logits, double temperature, td_spec_prob *out) {
    double sum = 0;
    for (int i = 0; i < N_VOCAB; i++) sum += exp(logits[i] / temperature);
    for (int i = 0; i < N_VOCAB; i++) out[i] = (td_spec_prob){(uint32_t)i, (float)(exp(logits[i] / temperature) / sum)};
}

static uint32_t draw(const td_spec_prob *p) {
    double u = uniform(), seen = 0;
    for (int i = 0; i < N_VOCAB; i++) {
        seen += (double)p[i].p;
        if (u < seen) return p[i].token;
    }
    return N_VOCAB - 1;
}

/* The defect that shipped elsewhere: a greedy draft judged against the drafter's whole softmax. */
static double chi_square(double temperature, bool greedy_draft, bool wrong) {
    double lp[N_VOCAB], lq[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++) {
        lp[i] = 3 * sin(1.7 * i);
        lq[i] = 3 * sin(1.7 * i + 0.5);
    }
    td_spec_prob p[N_VOCAB], q[N_VOCAB];
    softmax(lp, temperature, p);
    softmax(lq, temperature, q);
    long count[N_VOCAB] = {0};
    int top = 0;
    for (int i = 1; i < N_VOCAB; i++)
        if (q[i].p > q[top].p) top = i;
    for (int n = 0; n < N_DRAWS; n++) {
        uint32_t d = greedy_draft ? (uint32_t)top : draw(q), out = d;
        td_spec_prob one = {d, 1};
        const td_spec_prob *used = greedy_draft && !wrong ? &one : q;
        (void)td_accept_reject(p, N_VOCAB, used, greedy_draft && !wrong ? 1 : N_VOCAB, d, uniform(), uniform(), &out);
        count[out]++;
    }
    double x = 0;
    for (int i = 0; i < N_VOCAB; i++) {
        double expected = (double)p[i].p * N_DRAWS;
        x += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
    }
    return x;
}

/* 99.9 % point of chi-square with 23 degrees of freedom. */
#define CRITICAL 49.73

static void test_follows_the_target(void **unused) {
    (void)unused;
    const double temperatures[] = {0.5, 1.0, 1.5};
    for (int i = 0; i < 3; i++) { /* 2.4 million draws in all */
        assert_true(chi_square(temperatures[i], false, false) < CRITICAL);
        assert_true(chi_square(temperatures[i], true, false) < CRITICAL);
    }
}

static void test_sees_a_wrong_rule(void **unused) {
    (void)unused;
    assert_true(chi_square(1.0, true, true) > 10 * CRITICAL);
}

static void test_identical_distributions_always_accept(void **unused) {
    (void)unused;
    td_spec_prob p[2] = {{3, 0.25f}, {9, 0.75f}};
    uint32_t out = 0;
    for (int i = 0; i < 1000; i++) assert_true(td_accept_reject(p, 2, p, 2, i % 2 ? 3 : 9, uniform(), uniform(), &out));
    assert_false(td_accept_reject(p, 2, p, 2, 77, 0.0, 0.5, &out)); /* a draft that q could not make */
    assert_true(out == 3 || out == 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_follows_the_target),
                                       cmocka_unit_test(test_sees_a_wrong_rule),
                                       cmocka_unit_test(test_identical_distributions_always_accept)};
    return cmocka_run_group_tests_name("accept", tests, NULL, NULL);
}
