/* `tandem bench` from outside, on the demo pair: which runs it makes, in which order, and what it says
 * of them. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "models/demo/tandem-demo.gguf"
#define PAIR  "-md models/demo/tandem-demo-assistant.gguf "

/* What `--progress` says, without its first words, a line after the other; the exit status. */
static int progress(const char *arguments, char *out, size_t n_bytes) {
    static const char begin[] = "tandem bench: ";
    char command[1024], line[512];
    const char *binary = getenv("TD_BINARY");
    size_t n = 0;
    snprintf(command, sizeof command, "%s bench -m %s -t 1 --no-limits --progress -o none %s 2>&1 >/dev/null",
             binary ? binary : "build-dev/tandem", MODEL, arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    out[0] = 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, begin, sizeof begin - 1) == 0 && n < n_bytes)
            n += (size_t)snprintf(out + n, n_bytes - n, "%s", line + sizeof begin - 1);
    return pclose(f);
}

static void test_warm_up(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(progress("-p 8 -n 2 -r 1", text, sizeof text), 0);
    assert_string_equal(text, "pp8: warm-up\npp8: run 1/1\ntg2: warm-up\ntg2: run 1/1\n");
    assert_int_equal(
        progress(PAIR "-p 8 -n 2 -pg 4,2 --verify 2 --draft-steps 2 --tgs 4 -r 1 --no-warmup", text, sizeof text), 0);
    assert_string_equal(text, "pp8: run 1/1\ntg2: run 1/1\npp4+tg2: run 1/1\npp4+tg2: run 1/1\nverify1: run 1/1\n"
                              "verify2: run 1/1\nverify1: run 1/1\ndraft2 @ d64: run 1/1\ntg4: run 1/1\n"
                              "tgs4: run 1/1\n");
}

/* A repetition of each setting before the next of any; every depth is an engine's own. */
static void test_turns(void **state) {
    (void)state;
    char text[4096];
    assert_int_equal(progress("-p 4 -n 2 -d 8,16 -r 2 --interleave", text, sizeof text), 0);
    assert_string_equal(text, "setting 1: pp4 @ d8: warm-up\nsetting 2: pp4 @ d16: warm-up\n"
                              "setting 1: pp4 @ d8: run 1/2\nsetting 2: pp4 @ d16: run 1/2\n"
                              "setting 1: pp4 @ d8: run 2/2\nsetting 2: pp4 @ d16: run 2/2\n"
                              "setting 1: tg2 @ d8: warm-up\nsetting 2: tg2 @ d16: warm-up\n"
                              "setting 1: tg2 @ d8: run 1/2\nsetting 2: tg2 @ d16: run 1/2\n"
                              "setting 1: tg2 @ d8: run 2/2\nsetting 2: tg2 @ d16: run 2/2\n");
    assert_int_equal(progress(PAIR "-p 0 --tgs 4 -t 2 -r 1 --no-warmup --interleave", text, sizeof text), 0);
    assert_string_equal(text, "setting 1: tg4: run 1/1\nsetting 2: tg4: run 1/1\nsetting 1: tgs4: run 1/1\n"
                              "setting 2: tgs4: run 1/1\n");
}

static json_t *rows_of(const char *arguments) {
    char command[1024];
    const char *binary = getenv("TD_BINARY");
    snprintf(command, sizeof command, "%s bench -m %s -t 1 --no-limits -o json %s 2>/dev/null",
             binary ? binary : "build-dev/tandem", MODEL, arguments);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    json_t *rows = json_loadf(f, 0, NULL);
    assert_int_equal(pclose(f), 0);
    assert_true(json_is_array(rows));
    return rows;
}

static const char *string_of(const json_t *row, const char *key) {
    return json_string_value(json_object_get(row, key));
}

static double sample(const json_t *row, size_t i) {
    return json_number_value(json_array_get(json_object_get(row, "samples_ns"), i));
}

/* With three repetitions the median is the ratio that is neither the smallest nor the largest. */
static void test_ratios(void **state) {
    (void)state;
    static const char *const types[3] = {"f16", "turbo4", "q8_0"};
    json_t *rows = rows_of("-p 0 -n 8 -d 16 -r 3 -ctk f16,turbo4,q8_0 -ctv f16,turbo4,q8_0 --interleave"), *row;
    size_t n;
    assert_int_equal(json_array_size(rows), 3);
    json_array_foreach(rows, n, row) {
        assert_string_equal(string_of(row, "type_k"), types[n]);
        assert_string_equal(string_of(row, "type_v"), types[n]);
        double ratio = json_number_value(json_object_get(row, "ratio_to_first"));
        int below = 0, above = 0;
        for (size_t i = 0; i < 3; i++) {
            double x = sample(json_array_get(rows, 0), i) / sample(row, i);
            below += x < ratio * (1 - 1e-6);
            above += x > ratio * (1 + 1e-6);
        }
        assert_true(below <= 1 && above <= 1);
        if (n == 0) assert_true(ratio > 0.999999 && ratio < 1.000001);
    }
    json_decref(rows);
}

/* Without --interleave every type of keys goes with every type of values. */
static void test_types(void **state) {
    (void)state;
    static const char *const types[4][2] = {{"f16", "f16"}, {"f16", "q4_0"}, {"q8_0", "f16"}, {"q8_0", "q4_0"}};
    json_t *rows = rows_of("-p 4 -n 0 -r 1 -ctk f16,q8_0 -ctv f16 -ctv q4_0"), *row;
    size_t n;
    assert_int_equal(json_array_size(rows), 4);
    json_array_foreach(rows, n, row) {
        assert_string_equal(string_of(row, "type_k"), types[n][0]);
        assert_string_equal(string_of(row, "type_v"), types[n][1]);
        assert_true(json_number_value(json_object_get(row, "ratio_to_first")) == 0);
    }
    json_decref(rows);
    char text[256];
    assert_int_not_equal(progress("-ctk f16,q9", text, sizeof text), 0);
    assert_non_null(strstr(text, "'q9'"));
}

/* A test that cannot be made does not keep the settings from the next one. */
static void test_failure(void **state) {
    (void)state;
    char text[1024];
    assert_int_not_equal(progress("-p 0 --draft-steps 1 -n 2 -d 8,16 -r 1 --no-warmup --interleave", text, sizeof text),
                         0);
    assert_non_null(strstr(text, "setting 2: tg2 @ d16: run 1/1\n"));
    assert_non_null(strstr(text, "there is no assistant"));
    assert_int_not_equal(progress("-p 4 -m /nonexistent --interleave", text, sizeof text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warm_up), cmocka_unit_test(test_turns),
                                       cmocka_unit_test(test_ratios), cmocka_unit_test(test_types),
                                       cmocka_unit_test(test_failure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
