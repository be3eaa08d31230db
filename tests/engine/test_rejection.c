/* Rejection acceptance through the whole engine, as distributions: drafts drawn from the assistant under the request's
 * own temperature and truncation, judged, replaced and emitted, against plain sampling of the same prompt. The tokens
 * of many answers are counted by their place and compared by chi-square, for three temperatures. The same comparison
 * with a defect in the rule must fail: the linker puts `__wrap_td_accept_reject` between the engine and the rule. */
#include "../identity/pair.h"
#include "../share.h"

#include "spec/accept.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_VOCAB = 1024, BINS = 12, LENGTH = 6, SLOTS = 8, PROMPT = 9 };

static pair files;

static int make(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.5);
    return 0;
}

static int drop(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

/* ---- the rule, and rules that are wrong ---- */

typedef enum defect { NONE, ALWAYS_ACCEPT, PART_OF_Q, NO_RESIDUAL, DEFECTS } defect;
static defect seeded;

bool __real_td_accept_reject(const td_spec_prob *p, int n_p, const td_spec_prob *q, int n_q, uint32_t draft, double u1,
                             double u2, uint32_t *out);
bool __wrap_td_accept_reject(const td_spec_prob *p, int n_p, const td_spec_prob *q, int n_q, uint32_t draft, double u1,
                             double u2, uint32_t *out);
bool __wrap_td_accept_reject(const td_spec_prob *p, int n_p, const td_spec_prob *q, int n_q, uint32_t draft, double u1,
                             double u2, uint32_t *out) {
    if (seeded == ALWAYS_ACCEPT) return true;
    if (seeded == PART_OF_Q) u1 *= 0.2; /* accepts with min(1, 5 p/q) */
    bool stands = __real_td_accept_reject(p, n_p, q, n_q, draft, u1, u2, out);
    if (stands || seeded != NO_RESIDUAL) return stands;
    double seen = 0; /* the replacement comes from p instead of what q leaves of it */
    for (int i = 0; i < n_p; i++) {
        seen += (double)p[i].p;
        *out = p[i].token;
        if (u2 < seen) break;
    }
    return false;
}

typedef struct histogram {
    long at[LENGTH][N_VOCAB]; /* tokens by place in the answer */
    long n;
    long drafted, accepted;
} histogram;

static td_job *start(td_engine *e, float temperature, bool rejection, uint64_t seed) {
    td_job_params p;
    td_error err = {0};
    td_job *j = NULL;
    uint32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = 300 + 31u * (uint32_t)i;
    td_job_params_init(e, &p);
    p.prompt = prompt;
    p.n_prompt = PROMPT;
    p.n_predict = LENGTH;
    p.sampling.temperature = temperature;
    p.sampling.top_k = BINS;
    p.sampling.top_p = 1.0f;
    p.sampling.seed = seed;
    p.spec.types = rejection ? TD_SPEC_MTP : TD_SPEC_NONE;
    p.spec.n_max = 3;
    p.spec.fixed = true;
    p.spec.accept = TD_ACCEPT_REJECTION;
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static void sample(td_engine *e, float temperature, bool rejection, bool odd, int turns, histogram *h) {
    memset(h, 0, sizeof *h);
    for (int done = 0; done < turns; done += SLOTS) {
        td_job *jobs[SLOTS];
        answer a;
        for (int i = 0; i < SLOTS; i++)
            jobs[i] = start(e, temperature, rejection, (uint64_t)(done + i) * 2 + (uint64_t)odd);
        for (int i = 0; i < SLOTS; i++) {
            answer_read(jobs[i], &a);
            assert_int_equal(a.n, LENGTH);
            for (int k = 0; k < LENGTH; k++) h->at[k][a.ids[k]]++;
            h->n++;
            h->drafted += a.draft_n;
            h->accepted += a.accepted;
        }
    }
}

/* Two samples of equal size: sum of (a - b)^2 / (a + b), rare tokens together. Degrees of freedom: cells - 1. */
static double two_sample(const long *a, const long *b, int *freedom) {
    double x = 0;
    long rest_a = 0, rest_b = 0;
    int cells = 0;
    for (int t = 0; t < N_VOCAB; t++) {
        if (a[t] + b[t] < 20) {
            rest_a += a[t];
            rest_b += b[t];
            continue;
        }
        x += (double)(a[t] - b[t]) * (double)(a[t] - b[t]) / (double)(a[t] + b[t]);
        cells++;
    }
    if (rest_a + rest_b > 0) {
        x += (double)(rest_a - rest_b) * (double)(rest_a - rest_b) / (double)(rest_a + rest_b);
        cells++;
    }
    *freedom = cells > 1 ? cells - 1 : 1;
    return x;
}

/* The z-value of a chi-square (Wilson and Hilferty): above 4 it is one in thirty thousand. */
static double z_value(double x, int freedom) {
    double f = freedom;
    return (cbrt(x / f) - (1 - 2 / (9 * f))) / sqrt(2 / (9 * f));
}

static double worst_z(const histogram *a, const histogram *b) {
    double worst = -10;
    for (int k = 0; k < LENGTH; k++) {
        int freedom = 1;
        double x = two_sample(a->at[k], b->at[k], &freedom), z = z_value(x, freedom);
        if (z > worst) worst = z;
    }
    return worst;
}

static td_engine *open_engine(void) {
    return pair_open((pair_engine){
        .target = files.target, .draft = files.dense, .threads = 1, .slots = SLOTS, .n_ctx = 64, .batch = 64});
}

static histogram plain, spec;

static void test_follows_plain_sampling(void **unused) {
    (void)unused;
    const float temperatures[] = {2.0f, 3.0f, 5.0f};
    td_engine *e = open_engine();
    for (int i = 0; i < 3; i++) {
        int turns = test_share(2400, 200);
        sample(e, temperatures[i], false, false, turns, &plain);
        sample(e, temperatures[i], true, true, turns, &spec);
        double z = worst_z(&plain, &spec), rate = (double)spec.accepted / (double)spec.drafted;
        print_message("temperature %.1f: %ld answers, acceptance %.3f, worst z %.2f\n", (double)temperatures[i], spec.n,
                      rate, z);
        assert_true(z < 4);
        assert_true(rate > 0.05 && rate < 0.95); /* both outcomes are exercised */
    }
    td_engine_close(e);
}

static void test_sees_a_defect(void **unused) {
    (void)unused;
    enum { TURNS = 2400 };
    if (test_share(TURNS, 0) < TURNS / 2) skip(); /* too few draws of a slow build to tell */
    td_engine *e = open_engine();
    sample(e, 3.0f, false, false, TURNS, &plain);
    for (seeded = ALWAYS_ACCEPT; seeded < DEFECTS; seeded++) {
        sample(e, 3.0f, true, true, TURNS, &spec);
        double z = worst_z(&plain, &spec);
        print_message("defect %d: worst z %.2f\n", (int)seeded, z);
        assert_true(z > 6);
    }
    seeded = NONE;
    td_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_follows_plain_sampling),
                                       cmocka_unit_test(test_sees_a_defect)};
    return cmocka_run_group_tests_name("rejection", tests, make, drop);
}
