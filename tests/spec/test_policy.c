/* The depth policy on simulated machines: it finds the best depth, gives up where drafts do not pay, comes back. */
#include "spec/ngram.h"
#include "spec/policy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static uint64_t state = 4101842887655102017u;
static double uniform(void) {
    state ^= state >> 21;
    state ^= state << 35;
    state ^= state >> 4;
    return (double)((state * 2685821657736338717u) >> 11) * 0x1p-53;
}

typedef struct machine {
    double row_cost;   /* share of T(1) per extra row */
    double draft_cost; /* share of T(1) per drafter pass */
} machine;

typedef struct run {
    double tokens, time;
    double depth_sum;
    int rounds;
} run;

static void simulate(td_policy *p, td_policy_slot *s, machine m, double accept, int rounds, run *out) {
    const double t1 = 20e6;
    for (int r = 0; r < rounds; r++) {
        td_policy_ask ask = {.slot = s, .n_max = 8};
        td_policy_plan(p, &ask, 1, 0, 0);
        int accepted = 0;
        while (accepted < ask.depth && uniform() < accept) accepted++;
        double step = t1 * (1 + m.row_cost * ask.depth) * (0.98 + 0.04 * uniform());
        double draft = t1 * m.draft_cost;
        td_policy_saw_step(p, 1 + ask.depth, (int64_t)step);
        for (int i = 0; i < ask.depth; i++) td_policy_saw_draft(p, 1, (int64_t)draft);
        if (ask.depth > 0) td_policy_saw_accept(p, s, ask.depth, accepted);
        out->tokens += 1 + accepted;
        out->time += step + draft * ask.depth;
        out->depth_sum += ask.depth;
        out->rounds++;
    }
}

static double rate(const run *r) {
    return r->tokens / r->time * 20e6;
} /* in units of plain decoding */

static double best_rate(machine m, double accept) {
    double best = 1;
    for (int k = 1; k <= 8; k++) {
        double e = accept < 1 ? (1 - pow(accept, k + 1)) / (1 - accept) : k + 1;
        double r = e / (1 + (m.row_cost + m.draft_cost) * k);
        if (r > best) best = r;
    }
    return best;
}

static void test_near_the_best_fixed_depth(void **unused) {
    (void)unused;
    const machine machines[] = {{0.02, 0.015}, {0.02, 0.07}, {0.3, 0.05}, {0.6, 0.1}, {1.0, 0.1}};
    const double accepts[] = {0.0, 0.1, 0.3, 0.5, 0.8, 1.0};
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        for (size_t k = 0; k < sizeof accepts / sizeof *accepts; k++) {
            td_policy p;
            td_policy_slot s;
            td_policy_init(&p);
            td_policy_slot_reset(&p, &s);
            run r = {0};
            simulate(&p, &s, machines[i], accepts[k], 2000, &r);
            double best = best_rate(machines[i], accepts[k]);
            if (rate(&r) < 0.93 * best || rate(&r) < 0.98)
                fail_msg("row cost %.2f, accept %.1f: %.3f of plain, best fixed %.3f, mean depth %.2f",
                         machines[i].row_cost, accepts[k], rate(&r), best, r.depth_sum / r.rounds);
        }
    }
}

static void test_notices_a_change(void **unused) {
    (void)unused;
    machine m = {0.02, 0.03};
    td_policy p;
    td_policy_slot s;
    td_policy_init(&p);
    td_policy_slot_reset(&p, &s);
    run before = {0}, after = {0}, settled = {0};
    simulate(&p, &s, m, 0.0, 600, &before);
    simulate(&p, &s, m, 0.9, 300, &after);
    simulate(&p, &s, m, 0.9, 300, &settled);
    assert_true(rate(&before) > 0.98);
    assert_true(rate(&settled) > 0.9 * best_rate(m, 0.9));
    assert_true(rate(&after) > 1.5);
    run back = {0};
    simulate(&p, &s, m, 0.0, 600, &back);
    assert_true(rate(&back) > 0.97);
}

static void test_never_deeper_than_allowed(void **unused) {
    (void)unused;
    td_policy p;
    td_policy_slot s[3];
    td_policy_init(&p);
    for (int i = 0; i < 3; i++) td_policy_slot_reset(&p, &s[i]);
    for (int r = 0; r < 200; r++) {
        td_policy_ask asks[3] = {
            {.slot = &s[0], .n_max = 0}, {.slot = &s[1], .n_max = 2}, {.slot = &s[2], .n_max = 32}};
        td_policy_plan(&p, asks, 3, 1, r % 3 ? 0 : 64);
        int rows = 4;
        for (int i = 0; i < 3; i++) {
            assert_true(asks[i].depth >= 0 && asks[i].depth <= asks[i].n_max);
            rows += asks[i].depth;
            td_policy_saw_accept(&p, &s[i], asks[i].depth, asks[i].depth);
        }
        td_policy_saw_step(&p, rows, 20000000);
        td_policy_saw_draft(&p, 2, 300000);
    }
    assert_true(s[2].accept[3] > 0.9f);
}

/* Where every row costs the same, a prompt in the pass changes nothing about what a draft is worth. */
static void test_prompts_do_not_make_drafts_cheap(void **unused) {
    (void)unused;
    for (int free_rows = 0; free_rows < 2; free_rows++) {
        td_policy p;
        td_policy_slot slots[4];
        td_policy_ask asks[4];
        int sum[2] = {0, 0};
        td_policy_init(&p);
        for (int rows = 1; rows <= TD_POLICY_ROWS; rows++)
            for (int k = 0; k < 2; k++)
                td_policy_saw_step(&p, rows, (int64_t)(free_rows ? 30e6 + 1e4 * rows : 10e6 + 5e6 * rows));
        for (int k = 1; k <= 4; k++) td_policy_saw_draft(&p, k, 3000000);
        for (int i = 0; i < 4; i++) {
            td_policy_slot_reset(&p, &slots[i]);
            for (int k = 0; k < 40; k++) td_policy_saw_accept(&p, &slots[i], 1, k % 10 < 6);
            slots[i].idle_rounds = 0;
        }
        for (int with = 0; with < 2; with++) {
            for (int i = 0; i < 4; i++) asks[i] = (td_policy_ask){.slot = &slots[i], .n_max = 8};
            td_policy_plan(&p, asks, 4, 0, with ? 24 : 0);
            for (int i = 0; i < 4; i++) sum[with] += asks[i].depth;
        }
        assert_int_equal(sum[0], sum[1]);
        assert_int_equal(sum[0] > 0, free_rows);
    }
}

static void test_look_up(void **unused) {
    (void)unused;
    const uint32_t text[] = {5, 1, 2, 3, 4, 9, 9, 1, 2, 3, 7, 8, 1, 2, 3};
    uint32_t out[6];
    int match = 0;
    int n = td_ngram_draft(text, 15, 3, out, 2, &match);
    assert_int_equal(n, 2);
    assert_int_equal(match, 3);
    assert_int_equal(out[0], 7); /* the latest of two equal matches */
    assert_int_equal(out[1], 8);
    assert_int_equal(td_ngram_draft(text, 15, 4, out, 2, &match), 0); /* no match of four */
    const uint32_t loop[] = {1, 2, 1, 2, 1, 2};
    n = td_ngram_draft(loop, 6, 2, out, 6, &match);
    assert_int_equal(n, 6); /* a repetition goes on repeating */
    for (int i = 0; i < 6; i++) assert_int_equal(out[i], i % 2 ? 2 : 1);
    assert_int_equal(td_ngram_draft(loop, 1, 1, out, 6, &match), 0);
}

/* A measured curve with a knee: eight rows in one tile cost little more than one, nine need a second tile. Time is
 * given in units of T(1); what is beyond the table goes on as it ends. */
static double knee(int rows) {
    static const double t[] = {0,   1,    1.02, 1.06, 1.126, 1.16, 1.19, 1.25, 1.305,
                               2.1, 2.15, 2.22, 2.34, 2.6,   2.9,  3.2,  3.58};
    return rows <= 16 ? t[rows] : 3.58 + 0.08 * (rows - 16);
}

/* Several slots of acceptance 0.8 from the first round on: what looking for the best depth costs is counted. */
static void test_knee_with_slots(void **unused) {
    (void)unused;
    for (int n = 1; n <= 8; n *= 2) {
        double best = n / knee(n), tokens = 0, time = 0;
        for (int k = 1; k <= 8; k++) {
            double r = n * (1 - pow(0.8, k + 1)) / 0.2 / (knee(n * (k + 1)) + 0.007 * k);
            best = r > best ? r : best;
        }
        td_policy p;
        td_policy_slot s[8];
        for (int round = 0; round < 4000; round++) {
            td_policy_ask asks[8];
            if (round % 400 == 0) td_policy_init(&p); /* a new machine */
            for (int i = 0; i < n; i++) {
                if (round % 400 == 0) td_policy_slot_reset(&p, &s[i]);
                asks[i] = (td_policy_ask){.slot = &s[i], .n_max = 8};
            }
            td_policy_plan(&p, asks, n, 0, 0);
            int rows = n, deepest = 0;
            for (int i = 0; i < n; i++) {
                rows += asks[i].depth;
                deepest = asks[i].depth > deepest ? asks[i].depth : deepest;
            }
            double step = 20e6 * knee(rows) * (0.97 + 0.06 * uniform());
            td_policy_saw_step(&p, rows, (int64_t)step);
            for (int k = 0; k < deepest; k++) td_policy_saw_draft(&p, n, 140000);
            for (int i = 0; i < n; i++) {
                int accepted = 0;
                while (accepted < asks[i].depth && uniform() < 0.8) accepted++;
                if (asks[i].depth > 0) td_policy_saw_accept(&p, &s[i], asks[i].depth, accepted);
                tokens += 1 + accepted;
            }
            time += step / 20e6 + 0.007 * deepest;
        }
        if (tokens / time < 0.92 * best || tokens / time < 0.98 * n / knee(n))
            fail_msg("%d slots: %.3f tokens per T(1), best fixed %.3f, plain %.3f", n, tokens / time, best,
                     n / knee(n));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_the_best_fixed_depth),
        cmocka_unit_test(test_knee_with_slots),
        cmocka_unit_test(test_notices_a_change),
        cmocka_unit_test(test_never_deeper_than_allowed),
        cmocka_unit_test(test_prompts_do_not_make_drafts_cheap),
        cmocka_unit_test(test_look_up),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
