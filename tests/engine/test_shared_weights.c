/* Engines over one copy of the weights: the second needs no file, answers as the first does, at the same time and with
 * another number of threads, and leaves the weights to it. */
#include "../identity/pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_VOCAB = 1024, PROMPT = 40 };

static pair files;

static int make(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.6);
    return 0;
}

static int drop(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

static td_engine *open_engine(int threads, td_engine *weights_of) {
    return pair_open((pair_engine){.target = files.target,
                                   .draft = files.ordered,
                                   .weights_of = weights_of,
                                   .threads = threads,
                                   .batch = 32,
                                   .slots = 1,
                                   .n_ctx = 128});
}

static td_job *start(td_engine *e) {
    uint32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = 200 + (uint32_t)(i * 29) % (N_VOCAB - 200);
    td_job_params p;
    td_job *j = NULL;
    td_error err = {0};
    td_job_params_init(e, &p);
    p.prompt = prompt;
    p.n_prompt = PROMPT;
    p.n_predict = 48;
    p.sampling.temperature = 0;
    p.spec.types = TD_SPEC_MTP;
    p.spec.n_max = 3;
    p.spec.fixed = true;
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static void test_other_files(void **state) {
    (void)state;
    td_engine *e = open_engine(1, NULL), *other = NULL;
    td_engine_params p;
    td_engine_params_init(&p);
    p.model_path = files.target;
    p.weights_of = e;
    assert_int_equal(td_engine_open(&other, &p, NULL), TD_ERR_ARGUMENT); /* without the assistant */
    p.draft_path = files.dense;
    assert_int_equal(td_engine_open(&other, &p, NULL), TD_ERR_ARGUMENT);
    p.draft_path = files.ordered;
    p.model_path = files.dense;
    assert_int_equal(td_engine_open(&other, &p, NULL), TD_ERR_ARGUMENT);
    td_engine_close(e);
}

static void test_answers(void **state) {
    (void)state;
    static answer first, second, last;
    td_engine *a = open_engine(1, NULL);
    assert_int_equal(unlink(files.target), 0);
    assert_int_equal(unlink(files.ordered), 0);
    td_engine *b = open_engine(2, a);
    td_job *on_a = start(a), *on_b = start(b);
    answer_read(on_b, &second);
    answer_read(on_a, &first);
    assert_true(first.n > 0 && first.accepted > 0);
    answer_same(&first, &second, "engine", 2);
    td_engine_close(b);
    answer_read(start(a), &last);
    answer_same(&first, &last, "engine", 1);
    td_engine_close(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_other_files), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, make, drop);
}
