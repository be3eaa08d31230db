/* What td_engine_measure computes and how often, counted by the rows that the importance matrix has seen. */
#include "tandem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static td_engine *open_engine(void) {
    td_engine_params p;
    td_engine_params_init(&p);
    p.model_path = "models/demo/tandem-demo.gguf";
    p.draft_path = "models/demo/tandem-demo-assistant.gguf";
    p.n_threads = 1;
    p.n_ctx = 256;
    p.importance = true;
    td_engine *e = NULL;
    td_error err = {0};
    if (td_engine_open(&e, &p, &err)) fail_msg("%s", err.text);
    return e;
}

/* Rows that have gone through the first layer of the target. */
static uint64_t rows(const td_engine *e) {
    td_importance first;
    return td_engine_importance(e, 0, &first) ? first.counts[0] : 0;
}

typedef struct reps {
    int first, last, n;
} reps;

static void note(void *user, int rep) {
    reps *r = user;
    if (r->n++ == 0) r->first = rep;
    r->last = rep;
}

static void test_runs(void **state) {
    (void)state;
    static const struct {
        td_measure_kind kind;
        int n;
        uint64_t rows; /* of a run */
    } kinds[] = {
        {TD_MEASURE_PREFILL, 40, 40}, {TD_MEASURE_DECODE, 5, 5}, {TD_MEASURE_VERIFY, 4, 4}, {TD_MEASURE_DRAFT, 3, 0}};
    td_engine *e = open_engine();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int n_warmup = 0; n_warmup < 3; n_warmup++) {
            reps r = {0};
            td_measure m = {.kind = kinds[i].kind,
                            .n = kinds[i].n,
                            .depth = 16,
                            .n_reps = 2,
                            .n_warmup = n_warmup,
                            .before = note,
                            .user = &r};
            td_measured out;
            td_error err = {0};
            uint64_t before = rows(e);
            if (td_engine_measure(e, &m, &out, &err)) fail_msg("%s", err.text);
            uint64_t runs = 2 + (uint64_t)n_warmup;
            assert_int_equal(rows(e) - before, 16 + runs * kinds[i].rows); /* the depth once */
            assert_int_equal(r.n, runs);
            assert_int_equal(r.first, -n_warmup);
            assert_int_equal(r.last, 1);
            assert_true(out.ns[0] > 0 && out.ns[1] > 0 && out.ns[2] == 0);
        }
    td_engine_close(e);
}

static void test_refusals(void **state) {
    (void)state;
    td_engine *e = open_engine();
    td_measured out;
    const td_measure none = {.n = 1}, less = {.n = 1, .n_reps = 1, .n_warmup = -1};
    assert_int_equal(td_engine_measure(e, &none, &out, NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_engine_measure(e, &less, &out, NULL), TD_ERR_ARGUMENT);
    td_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
