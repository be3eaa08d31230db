/* Error records: first error wins, one printable line, cuts never inside a character. */
#include "base/status.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_first_error_wins(void **state) {
    (void)state;
    td_error err = {0};
    assert_int_equal(td_fail(&err, TD_ERR_FORMAT, 17, "a %d", 1), TD_ERR_FORMAT);
    assert_int_equal(td_fail(&err, TD_ERR_IO, 18, "b"), TD_ERR_IO);
    assert_string_equal(err.text, "a 1");
    assert_int_equal(err.code, TD_ERR_FORMAT);
    assert_true(err.offset == 17);
    td_error_prefix(&err, "file %s", "x");
    assert_string_equal(err.text, "file x: a 1");
    td_error_clear(&err);
    assert_int_equal(err.code, TD_OK);
    assert_true(err.offset == TD_NO_OFFSET);
    assert_int_equal(td_fail(NULL, TD_ERR_IO, 0, "no record"), TD_ERR_IO);
}

static void test_errno_maps(void **state) {
    (void)state;
    td_error err = {0};
    assert_int_equal(td_fail_errno(&err, ENOENT, "open %s", "f"), TD_ERR_NOT_FOUND);
    assert_string_equal(err.text, "open f: No such file or directory");
    assert_int_equal(td_fail_errno(NULL, EACCES, "x"), TD_ERR_ACCESS);
    assert_int_equal(td_fail_errno(NULL, ENOMEM, "x"), TD_ERR_MEMORY);
    assert_int_equal(td_fail_errno(NULL, EIO, "x"), TD_ERR_IO);
}

static void test_text_is_one_printable_line(void **state) {
    (void)state;
    td_error err = {0};
    td_fail(&err, TD_ERR_FORMAT, 0, "%s", "a\nb\033[31mc\177");
    assert_string_equal(err.text, "a?b?[31mc?");
    char longer[TD_ERROR_TEXT + 8];
    for (size_t shift = 0; shift < 3; shift++) { /* three-byte characters cut at every phase */
        memset(longer, 'x', sizeof longer);
        for (size_t i = shift; i + 3 < sizeof longer; i += 3) memcpy(longer + i, "\xe2\x82\xac", 3);
        longer[sizeof longer - 1] = 0;
        td_error_clear(&err);
        td_fail(&err, TD_ERR_FORMAT, 0, "%s", longer);
        size_t n = strlen(err.text);
        assert_true(n >= TD_ERROR_TEXT - 4);
        assert_int_equal((n - shift) % 3, 0);
    }
}

static void test_names(void **state) {
    (void)state;
    assert_string_equal(td_status_name(TD_ERR_CONTEXT), "ERR_CONTEXT");
    assert_int_equal(td_status_http(TD_ERR_BUSY), 503);
    assert_string_equal(td_status_name((td_status)999), "ERR_UNKNOWN");
    assert_int_equal(td_status_http((td_status)999), 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_error_wins),
        cmocka_unit_test(test_errno_maps),
        cmocka_unit_test(test_text_is_one_printable_line),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
