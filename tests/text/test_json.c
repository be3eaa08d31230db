/* The JSON tree: what is accepted, what is refused and where, and what survives unchanged. */
#include "text/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const td_json *parse(td_arena *a, const char *text, td_json_duplicates dup, td_error *err) {
    const td_json *v = NULL;
    td_status status = td_json_parse(&v, a, text, strlen(text), dup, err);
    assert_int_equal(status == TD_OK, v != NULL);
    return v;
}

static void test_round_trip(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {" {\"b\" : [1 , 2.50e+7, -0, {}] , \"a\":null}", "{\"b\":[1,2.50e+7,-0,{}],\"a\":null}"},
        {"\"\\u0041\\n\\/\\ud83d\\ude00\\u0001\"", "\"A\\n/\xF0\x9F\x98\x80\\u0001\""},
        {"\"\\ud83d\"", "\"\xEF\xBF\xBD\""},
        {"\"\\ude00x\"", "\"\xEF\xBF\xBDx\""},
        {"[true,false,null]", "[true,false,null]"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"\"\"", "\"\""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        td_arena *a = td_arena_create(0);
        td_buf out = {0};
        assert_true(td_json_write(&out, parse(a, rows[i][0], TD_JSON_REJECT, NULL)));
        assert_string_equal(out.data, rows[i][1]);
        td_buf_free(&out);
        td_arena_destroy(a);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t offset;
    } rows[] = {{"", 0},          {" ", 1},       {"{", 1},         {"[1,]", 3}, {"{\"a\":1,}", 7},
                {"{\"a\" 1}", 5}, {"[1 2]", 3},   {"01", 1},        {"1.", 2},   {".5", 0},
                {"-", 1},         {"1e", 2},      {"+1", 0},        {"NaN", 0},  {"nul", 0},
                {"truex", 4},     {"\"\\x\"", 1}, {"\"\\u12\"", 1}, {"\"a", 0},  {"\"a\nb\"", 2},
                {"{a:1}", 1},     {"'a'", 0},     {"[1]]", 3},      {"\"\\", 0}, {"{1:2}", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        td_arena *a = td_arena_create(0);
        td_error err = {0};
        assert_null(parse(a, rows[i].text, TD_JSON_REJECT, &err));
        assert_int_equal(err.code, TD_ERR_FORMAT);
        if (err.offset != rows[i].offset) fail_msg("%s: %s", rows[i].text, err.text);
        td_arena_destroy(a);
    }
    td_arena *a = td_arena_create(0);
    assert_null(parse(a, "\"\xC3\x28\"", TD_JSON_REJECT, NULL));
    assert_null(parse(a, "\"\xED\xA0\x80\"", TD_JSON_REJECT, NULL));
    td_arena_destroy(a);
}

static void test_duplicates(void **state) {
    (void)state;
    td_arena *a = td_arena_create(0);
    td_error err = {0};
    assert_null(parse(a, "{\"x\":{\"k\":1,\"l\":2,\"k\":3}}", TD_JSON_REJECT, &err));
    assert_non_null(strstr(err.text, "'k'"));
    td_buf out = {0};
    assert_true(td_json_write(
        &out, parse(a, "{\"k\":1,\"l\":2,\"k\":{\"z\":1,\"z\":2},\"m\":4,\"k\":[5]}", TD_JSON_LAST_WINS, NULL)));
    assert_string_equal(out.data, "{\"k\":[5],\"l\":2,\"m\":4}");
    td_buf_free(&out);
    td_arena_destroy(a);
}

static void test_limits(void **state) {
    (void)state;
    char deep[2 * (TD_JSON_MAX_DEPTH + 1) + 1] = {0};
    memset(deep, '[', TD_JSON_MAX_DEPTH + 1);
    memset(deep + TD_JSON_MAX_DEPTH + 1, ']', TD_JSON_MAX_DEPTH + 1);
    td_arena *a = td_arena_create(0), *small = td_arena_create(20000);
    td_error err = {0};
    assert_null(parse(a, deep, TD_JSON_REJECT, &err));
    assert_int_equal(err.code, TD_ERR_LIMIT);
    deep[2 * TD_JSON_MAX_DEPTH + 1] = 0;
    assert_non_null(parse(a, deep + 1, TD_JSON_REJECT, NULL));
    char *wide = malloc(20001);
    for (int i = 0; i < 20000; i += 2) memcpy(wide + i, "1,", 2);
    wide[0] = '[', wide[1] = '1', wide[2] = ',';
    for (int i = 3; i < 19998; i += 2) memcpy(wide + i, "1,", 2);
    wide[19999] = 0;
    memcpy(wide + 19997, "1]", 3);
    err = (td_error){0};
    assert_non_null(parse(a, wide, TD_JSON_REJECT, NULL));
    assert_null(parse(small, wide, TD_JSON_REJECT, &err));
    assert_int_equal(err.code, TD_ERR_MEMORY);
    free(wide);
    td_arena_destroy(a);
    td_arena_destroy(small);
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool whole;
        int64_t value;
    } rows[] = {{"0", true, 0},
                {"-0", true, 0},
                {"5.0", true, 5},
                {"1e3", true, 1000},
                {"1.5", false, 0},
                {"9223372036854775807", true, INT64_MAX},
                {"-9223372036854775808", true, INT64_MIN},
                {"9223372036854775808", false, 0},
                {"1e30", false, 0},
                {"1e999", false, 0}};
    td_arena *a = td_arena_create(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t value = 1;
        assert_int_equal(td_json_int(parse(a, rows[i].text, TD_JSON_REJECT, NULL), &value), rows[i].whole);
        assert_true(value == rows[i].value || !rows[i].whole);
    }
    double d = 1;
    assert_false(td_json_double(parse(a, "1e999", TD_JSON_REJECT, NULL), &d));
    assert_true(td_json_double(parse(a, "0.1", TD_JSON_REJECT, NULL), &d) && d == 0.1);
    assert_false(td_json_int(parse(a, "\"1\"", TD_JSON_REJECT, NULL), &(int64_t){0}));
    td_arena_destroy(a);
}

static void test_equality(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        bool same;
    } rows[] = {{"{\"a\":1,\"b\":[2.0]}", "{\"b\":[2],\"a\":1.0}", true},
                {"{\"a\":1}", "{\"a\":1,\"b\":1}", false},
                {"{\"a\":1,\"c\":1}", "{\"a\":1,\"b\":1}", false},
                {"[1,2]", "[2,1]", false},
                {"\"1\"", "1", false},
                {"9007199254740993", "9007199254740992", false},
                {"0.10", "0.1", true},
                {"\"\\u00e9\"", "\"\xC3\xA9\"", true},
                {"null", "false", false}};
    td_arena *a = td_arena_create(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(
            td_json_equal(parse(a, rows[i].a, TD_JSON_REJECT, NULL), parse(a, rows[i].b, TD_JSON_REJECT, NULL)),
            rows[i].same);
    td_arena_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused), cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_numbers), cmocka_unit_test(test_equality),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
