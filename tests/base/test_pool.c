/* The pool: every thread runs, barriers separate stages, chunks cover a range exactly once, sleepers wake. */
#include "base/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { N_ITEMS = 1000, N_ROUNDS = 300 };

typedef struct job {
    td_pool *pool;
    int n_threads;
    int ran[64];
    int marks[N_ITEMS]; /* plain memory: ThreadSanitizer checks that barriers order it */
    int column[64][2];  /* written by one thread in a stage, read by all in the next */
    atomic_int n_errors;
    int rounds;
    bool nap;
} job;

static void nap_some(int ith) {
    struct timespec t = {0, (ith + 1) * 300000};
    nanosleep(&t, NULL);
}

static void walk(void *arg, int ith, int nth) {
    job *j = arg;
    if (nth != j->n_threads) atomic_fetch_add(&j->n_errors, 1);
    j->ran[ith]++;
    for (int round = 0; round < j->rounds; round++) {
        int64_t begin, end;
        while (round & 1 ? td_pool_share(j->pool, ith, N_ITEMS, 3, &begin, &end)
                         : td_pool_take(j->pool, N_ITEMS, 7, &begin, &end))
            for (int64_t i = begin; i < end; i++) j->marks[i]++;
        j->column[ith][round & 1] = round;
        if (j->nap) nap_some(ith); /* longer than any spin: barriers must sleep and be woken */
        td_pool_barrier(j->pool, ith);
        for (int t = 0; t < nth; t++)
            if (j->column[t][round & 1] != round) atomic_fetch_add(&j->n_errors, 1);
        for (int64_t i = ith; i < N_ITEMS; i += nth)
            if (j->marks[i] != (round + 1)) atomic_fetch_add(&j->n_errors, 1);
        td_pool_barrier(j->pool, ith);
    }
}

static void run_walk(int n_threads, uint32_t spin_ns, int rounds, bool nap) {
    td_error err = {0};
    td_pool *pool = NULL;
    td_pool_options options = {.n_threads = n_threads, .spin_ns = spin_ns};
    assert_int_equal(td_pool_create(&pool, &options, &err), TD_OK);
    assert_int_equal(td_pool_size(pool), n_threads);
    for (int run = 0; run < 3; run++) {
        job j = {.pool = pool, .n_threads = n_threads, .rounds = rounds, .nap = nap};
        td_pool_run(pool, walk, &j);
        assert_int_equal(atomic_load(&j.n_errors), 0);
        for (int i = 0; i < 64; i++) assert_int_equal(j.ran[i], i < n_threads ? 1 : 0);
    }
    assert_true(td_pool_barriers(pool) == (uint64_t)(3 * 2 * rounds));
    td_pool_destroy(pool);
}

static void test_stages(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 5, 8};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) run_walk(sizes[i], 0, N_ROUNDS, false);
}

static void test_sleeping_barriers(void **state) {
    (void)state;
    run_walk(2, 1, 20, true);
    run_walk(4, 1, 20, true);
}

typedef struct stall {
    td_pool *pool;
    atomic_int n_done;
    int n_held; /* items of the thread that stands still */
} stall;

/* Thread 0 claims one piece and then stands still until the others have done all the rest. */
static void stand_still(void *arg, int ith, int nth) {
    stall *s = arg;
    int64_t begin, end;
    (void)nth;
    if (ith == 0 && td_pool_share(s->pool, ith, N_ITEMS, 1, &begin, &end)) {
        s->n_held = (int)(end - begin);
        while (atomic_load(&s->n_done) + s->n_held < N_ITEMS) nap_some(0);
    }
    while (ith != 0 && td_pool_share(s->pool, ith, N_ITEMS, 1, &begin, &end))
        atomic_fetch_add(&s->n_done, (int)(end - begin));
}

/* A core that gets nowhere holds the step by one piece at most; a split by threads would hang here. */
static void test_slow_core(void **state) {
    (void)state;
    td_pool *pool = NULL;
    td_pool_options options = {.n_threads = 2};
    assert_int_equal(td_pool_create(&pool, &options, NULL), TD_OK);
    stall s = {.pool = pool};
    td_pool_run(pool, stand_still, &s);
    assert_int_equal(atomic_load(&s.n_done) + s.n_held, N_ITEMS);
    assert_true(s.n_held <= N_ITEMS / 8 + 1);
    td_pool_destroy(pool);
}

static void count(void *arg, int ith, int nth) {
    (void)ith;
    (void)nth;
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* Many short runs: a lost wake-up shows as a hang (the test's time limit). */
static void test_many_runs(void **state) {
    (void)state;
    td_pool *pool = NULL;
    td_pool_options options = {.n_threads = 4, .spin_ns = 1};
    atomic_int n = 0;
    assert_int_equal(td_pool_create(&pool, &options, NULL), TD_OK);
    for (int i = 0; i < 3000; i++) td_pool_run(pool, count, &n);
    assert_int_equal(atomic_load(&n), 12000);
    td_pool_destroy(pool);
}

static void test_span(void **state) {
    (void)state;
    for (int64_t n = 0; n < 70; n++)
        for (int nth = 1; nth < 9; nth++)
            for (int64_t unit = 1; unit < 20; unit += 6) {
                int64_t at = 0;
                for (int i = 0; i < nth; i++) {
                    int64_t b, e;
                    td_pool_span(n, unit, i, nth, &b, &e);
                    assert_true(b == at && e >= b && (b % unit == 0 || b == n));
                    at = e;
                }
                assert_true(at == n);
            }
}

static void test_limits(void **state) {
    (void)state;
    td_pool *pool = NULL;
    td_error err = {0};
    td_pool_options options = {.n_threads = 100000};
    assert_int_equal(td_pool_create(&pool, &options, &err), TD_ERR_LIMIT);
    assert_null(pool);
    options = (td_pool_options){.pin = true};
    assert_int_equal(td_pool_create(&pool, &options, NULL), TD_OK);
    assert_true(td_pool_size(pool) >= 1);
    td_pool_destroy(pool);
    td_pool_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages),    cmocka_unit_test(test_sleeping_barriers),
        cmocka_unit_test(test_many_runs), cmocka_unit_test(test_slow_core),
        cmocka_unit_test(test_span),      cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
