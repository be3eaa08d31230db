/* Every golden of an assistant: chained greedy drafts after prefixes shorter and longer than the window, identical
 * tokens, with each chain alone and with all chains drafting together in one pass per step, and with a dense head
 * screened by its 4-bit copy. */
#include "golden.h"
#include "rig.h"

#include "model/shape.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_CASES = 16 };

typedef struct chain {
    int slot, token, pos, step;
    float *h; /* [d_model] */
} chain;

/* Each chained step starts from the rounding of the one before and multiplies it, by up to 10 in these models (float32
 * numpy against float64 as well): the bound of the first step grows with the steps. */
static void check_draft(const golden *g, const golden_case *c, const td_draft *d, int step) {
    if (d->token != c->drafts[step])
        fail_msg("%s: prefix %d, draft %d is %d, expected %d", g->stem, c->n, step, d->token, c->drafts[step]);
    if (c->top && !(fabs((double)d->logit - (double)c->top[step]) <= g->tolerance * (1 + step)))
        fail_msg("%s: prefix %d, draft %d has logit %g, expected %g", g->stem, c->n, step, (double)d->logit,
                 (double)c->top[step]);
    assert_true(d->p > 0 && d->p <= 1);
}

/* Steps of all chains [0, n) together, each as long as its case. */
static void draft_together(rig *r, const golden *g, const golden_case *cases, chain *chains, int n) {
    td_error err = {0};
    td_draft_row rows[MAX_CASES];
    td_draft out[MAX_CASES];
    for (int step = 0;; step++) {
        int m = 0, of[MAX_CASES];
        for (int i = 0; i < n; i++) {
            if (step >= cases[i].n_drafts) continue;
            of[m] = i;
            rows[m++] = (td_draft_row){chains[i].slot, chains[i].token, chains[i].pos, chains[i].h, NULL};
        }
        if (!m) return;
        if (td_drafter_forward(r->drafter, r->kv, rows, m, out, r->work, r->pool, &err)) fail_msg("%s", err.text);
        for (int j = 0; j < m; j++) {
            chain *c = &chains[of[j]];
            check_draft(g, &cases[of[j]], &out[j], step);
            c->token = out[j].token;
            memcpy(c->h, out[j].h_next, (size_t)r->d_model * sizeof *c->h);
        }
    }
}

/* The logits of a screened head: those of its candidates, -inf elsewhere. */
static void check_candidates(rig *r, const chain *c) {
    enum { KEPT = 64 };
    td_error err = {0};
    td_draft out;
    float *logits = calloc((size_t)r->n_vocab, sizeof *logits);
    td_draft_row row = {c->slot, c->token, c->pos, c->h, logits};
    int n = 0;
    if (td_drafter_forward(r->drafter, r->kv, &row, 1, &out, r->work, r->pool, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < r->n_vocab; i++) {
        n += logits[i] > -INFINITY;
        assert_true(logits[i] <= out.logit);
    }
    assert_true(logits[out.token] == out.logit);
    assert_int_equal(n, r->n_vocab < KEPT ? r->n_vocab : KEPT);
    free(logits);
}

static void compare(const golden *g, const golden *t, rig_options o, bool together) {
    rig r;
    o.target = t->gguf;
    o.assistant = g->gguf;
    o.n_slots = g->n_cases;
    o.n_ctx = 1024;
    chain chains[MAX_CASES] = {0};
    assert_true(g->n_cases <= MAX_CASES);
    assert_true(rig_open(&r, &o));
    if (g->head[0]) assert_int_equal(td_drafter_is_ordered(r.drafter), strcmp(g->head, "ordered") == 0);
    size_t d = (size_t)r.d_model;
    for (int i = 0; i < g->n_cases; i++) {
        const golden_case *c = &g->cases[i];
        float *hidden = calloc((size_t)c->n * d, sizeof *hidden);
        assert_true(c->n <= t->n_tok);
        assert_true(rig_feed(&r, i, t->tokens, 0, c->n, 50, NULL, hidden));
        chains[i] = (chain){i, c->last, c->n, 0, calloc(d, sizeof(float))};
        memcpy(chains[i].h, hidden + (size_t)(c->n - 1) * d, d * sizeof *hidden);
        free(hidden);
        if (!together) draft_together(&r, g, c, &chains[i], 1);
    }
    if (together) draft_together(&r, g, g->cases, chains, g->n_cases);
    bool ordered = td_drafter_is_ordered(r.drafter), screened = td_drafter_is_screened(r.drafter);
    if (o.screen_rows > 0 && !ordered && td_drafter_shape(r.drafter)->d_model % 32 == 0) assert_true(screened);
    if (screened) check_candidates(&r, &chains[0]);
    for (int i = 0; i < g->n_cases; i++) free(chains[i].h);
    printf("%s: %d chains%s%s, %d threads, %s%s head: identical\n", g->stem, g->n_cases, together ? " together" : "",
           o.no_pack ? ", unpacked" : "", o.n_threads, screened ? "screened " : "", ordered ? "ordered" : "dense");
    rig_close(&r);
}

static void check_folder(const char *dir) {
    golden *all = NULL, *targets = NULL;
    int n = golden_find(dir, true, &all), n_targets = golden_find(dir, false, &targets);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const golden *t = NULL;
        for (int j = 0; j < n_targets; j++)
            if (strcmp(targets[j].stem, all[i].target) == 0) t = &targets[j];
        if (!t) {
            fail_msg("%s: no target %s", all[i].stem, all[i].target);
            return;
        }
        compare(&all[i], t, (rig_options){.n_threads = 1}, false);
        compare(&all[i], t, (rig_options){.n_threads = 2}, true);
        compare(&all[i], t, (rig_options){.n_threads = 1, .no_pack = true}, true);
        compare(&all[i], t, (rig_options){.n_threads = 2, .screen_rows = 1}, false);
        compare(&all[i], t, (rig_options){.n_threads = 3, .screen_rows = 1}, true);
    }
    for (int i = 0; i < n; i++) golden_free(&all[i]);
    for (int i = 0; i < n_targets; i++) golden_free(&targets[i]);
    free(all);
    free(targets);
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
