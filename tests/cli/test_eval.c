/* `tandem eval` from outside, on the demo pair's target: a run compared with itself differs by rounding only, fewer
 * bits in the cache differ more, look-ups go out to the context, importance matrices take the form their name says. */
#include "../../src/cli/eval_stats.h"
#include "file/gguf.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "models/demo/tandem-demo.gguf"
#define TEXT  "tests/engine/data/importance.txt"

static char folder[512];

static int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s/td-eval-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* Runs eval on the model; its output is `out` in the folder. */
static int run(const char *arguments) {
    char command[4096];
    const char *binary = getenv("TD_BINARY");
    snprintf(command, sizeof command, "%s eval -m %s -t 1 %s >%s/out 2>%s/err", binary ? binary : "build-dev/tandem",
             MODEL, arguments, folder, folder);
    return system(command);
}

static json_t *output(void) {
    char path[600];
    snprintf(path, sizeof path, "%s/out", folder);
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    return j;
}

static double number(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

/* KL divergence of a cache type from the base. */
static double divergence(const char *type, double *same_top) {
    char arguments[1024];
    snprintf(arguments, sizeof arguments, "--kl-divergence --kl-divergence-base %s/base --json -ctk %s -ctv %s", folder,
             type, type);
    assert_int_equal(run(arguments), 0);
    json_t *j = output();
    double d = number(j, "kld_mean");
    *same_top = number(j, "same_top");
    assert_string_equal(json_string_value(json_object_get(j, "type_k")), type);
    assert_true(number(j, "kv_token_bytes") > 0);
    json_decref(j);
    return d;
}

static void test_divergence(void **state) {
    (void)state;
    char arguments[1024];
    double top_f32 = 0, top_turbo2 = 0;
    snprintf(arguments, sizeof arguments, "-f " TEXT " -c 128 --json -ctk f32 -ctv f32 --kl-divergence-base %s/base",
             folder);
    assert_int_equal(run(arguments), 0);
    double same = divergence("f32", &top_f32), other = divergence("turbo2", &top_turbo2);
    assert_true(same < 1e-5 && top_f32 >= 0.99); /* the base holds 16 bits of each logarithm */
    assert_true(other > 10 * same && top_turbo2 <= top_f32);
}

static void test_lookup(void **state) {
    (void)state;
    assert_int_equal(run("--lookup -c 300 --probes 3 --json"), 0);
    json_t *j = output(), *rows = json_object_get(j, "lookup");
    assert_int_equal(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_int_equal((int)number(row, "distance"), 64 << i);
        assert_int_equal((int)number(row, "n"), 3);
        assert_true(number(row, "found") <= 3 && number(row, "nll") >= 0);
    }
    json_decref(j);
    assert_int_not_equal(run("--lookup -c 100"), 0); /* no distance fits */
}

static void test_importance_forms(void **state) {
    (void)state;
    static const char *const names[] = {"m.gguf", "m.dat"};
    for (int i = 0; i < 2; i++) {
        char arguments[1024], path[600], magic[4] = {0};
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        snprintf(arguments, sizeof arguments, "-f " TEXT " -c 64 --chunks 1 --imatrix %s", path);
        assert_int_equal(run(arguments), 0);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        assert_int_equal(fread(magic, 1, 4, f), 4);
        fclose(f);
        assert_int_equal(memcmp(magic, "GGUF", 4) == 0, i == 0);
    }
}

static void test_refusals(void **state) {
    (void)state;
    assert_int_not_equal(run(""), 0);
    assert_int_not_equal(run("-f /nonexistent"), 0);
    assert_int_not_equal(run("-f " TEXT " -c 4096"), 0); /* too short for two windows */
    assert_int_not_equal(run("-f " TEXT " -c 4"), 0);    /* nothing to score in half of that */
    assert_int_not_equal(run("--kl-divergence --kl-divergence-base " TEXT), 0);
}

/* A scale that is not a number: products take the block for zeros, so that the loss is a number like any other. */
static void test_not_a_number(void **state) {
    (void)state;
    static const uint8_t nan16[2] = {0x00, 0x7e};
    char path[600], command[2048], text[600] = "";
    td_gguf *g = NULL;
    td_error err = {0};
    snprintf(path, sizeof path, "%s/spoilt.gguf", folder);
    snprintf(command, sizeof command, "cp " MODEL " %s", path);
    assert_int_equal(system(command), 0);
    if (td_gguf_open(&g, path, &err)) fail_msg("%s", err.text);
    const td_gguf_tensor *t = td_gguf_tensor_find(g, "blk.0.ffn_down.weight");
    FILE *f = fopen(path, "r+b");
    assert_true(t && f);
    fseek(f, (long)t->offset, SEEK_SET);
    assert_int_equal(fwrite(nan16, 2, 1, f), 1);
    fclose(f);
    td_gguf_close(g);
    for (int lookup = 0; lookup < 2; lookup++) {
        snprintf(command, sizeof command, "-m %s %s -c 300 --chunks 1", path,
                 lookup ? "--lookup --probes 1" : "-f " TEXT);
        assert_int_not_equal(run(command), 0);
        snprintf(command, sizeof command, "%s/err", folder);
        f = fopen(command, "r");
        assert_non_null(f);
        text[fread(text, 1, sizeof text - 1, f)] = 0;
        fclose(f);
        assert_non_null(strstr(text, "blk.0.ffn_down.weight"));
    }
}

static void test_not_finite(void **state) {
    (void)state;
    double log_sum = 0, nll = 0;
    float row[4] = {0, 0, 0, 0};
    td_error err = {0};
    assert_int_equal(eval_nll(row, 4, 2, 17, &log_sum, &nll, &err), TD_OK);
    assert_true(fabs(nll - 1.386294361) < 1e-6);
    row[1] = -INFINITY; /* an id that is suppressed */
    assert_int_equal(eval_nll(row, 4, 2, 17, &log_sum, &nll, &err), TD_OK);
    assert_true(fabs(nll - 1.098612289) < 1e-6);
    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 8; i++) {
        float other[4] = {0, 0, 0, 0};
        other[i / 2] = bad[i % 2];
        td_error_clear(&err);
        assert_int_equal(eval_nll(other, 4, 2, 17, &log_sum, &nll, &err), TD_ERR_FORMAT);
        assert_non_null(strstr(err.text, "position 17"));
        assert_non_null(strstr(err.text, "--check-tensors"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_divergence), cmocka_unit_test(test_lookup),       cmocka_unit_test(test_importance_forms),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_not_a_number), cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
