/* `tandem tokenize` as a user meets it: every form of input and output, and one line with exit code 1 for every error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#define MODEL "-m tests/golden/data/e.gguf "

/* Runs the command, both streams together; returns the exit code. */
static int run(const char *before, const char *args, char *out, size_t cap) {
    char line[1024];
    const char *binary = getenv("TD_BINARY");
    assert_non_null(binary);
    snprintf(line, sizeof line, "%s '%s' tokenize %s 2>&1", before, binary, args);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, cap - 1, f);
    out[n] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(const char *before, const char *args, const char *want) {
    char out[4096];
    int code = run(before, args, out, sizeof out);
    if (code != 0) fail_msg("%s: exit code %d: %s", args, code, out);
    assert_string_equal(out, want);
}

static void expect_error(const char *args, const char *part) {
    char out[4096];
    assert_int_equal(run("", args, out, sizeof out), 1);
    if (!strstr(out, part)) fail_msg("%s: \"%s\" does not say \"%s\"", args, out, part);
    assert_non_null(strchr(out, '\n'));
    assert_int_equal(strchr(out, '\n')[1], 0);
}

static void test_forms(void **state) {
    (void)state;
    expect("", MODEL "--ids 'the win<|turn>'", "[2, 447, 460, 466, 463, 105]\n");
    expect("", MODEL "--ids --no-bos the 'win<|turn>'", "[447, 460, 466, 463, 105]\n");
    expect("", MODEL "--ids --no-bos --no-parse-special -p '<|turn>'", "[391, 455, 447, 448, 445, 441, 393]\n");
    expect("", MODEL "--ids --no-bos --special none -p '<bos>'", "[391, 429, 442, 446, 393]\n");
    expect("printf 'the' |", MODEL "--ids --show-count", "[2, 447, 460]\nTotal number of tokens: 3\n");
    expect("printf 'a\\nb\\303' |", MODEL "--stdin --no-bos",
           "   428 -> 'a'\n   107 -> '\\n'\n   429 -> 'b'\n   347 -> '\\xEF'\n   299 -> '\\xBF'\n   297 -> '\\xBD'\n");
    expect("", MODEL "-d 105 447,460 '[466, 463]'", "<|turn>the win");
    expect("", MODEL "--json -p 'a\303\251'",
           "{\"n_tokens\":4,\"tokens\":[{\"id\":2,\"piece\":\"<bos>\"},{\"id\":428,\"piece\":\"a\"},{\"id\":303,"
           "\"piece\":[195]"
           "},{\"id\":277,\"piece\":[169]}]}\n");
    expect("", MODEL "--json -d 428", "{\"content\":\"a\"}\n");
    expect("", MODEL "--json -d 303", "{\"content\":[195]}\n");
}

static void test_errors(void **state) {
    (void)state;
    expect_error("x", "-m FILE");
    expect_error("-m /nonexistent x", "No such file");
    expect_error("-m LICENSE x", "tokenizer.json: expected an object");
    expect_error("-m tests/text/data x", "tokenizer.json");
    expect_error(MODEL "-d 600", "outside the vocabulary of 600");
    expect_error(MODEL "-d 99999999999", "too large");
    expect_error(MODEL "-d 1x", "byte 1");
    expect_error(MODEL "-p a b", "once");
    expect_error(MODEL "-f /nonexistent", "No such file");
    expect_error(MODEL "-f /", "directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
