/* `tandem inspect` as a user runs it: exit codes, one-line errors, JSON that parses, pairs that fit and do not. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/golden/data/"

static char output[1 << 20];
static char temp[256];

/* Runs the program; standard error joins the output. Returns the exit code. */
static int run(const char *args) {
    char command[1024];
    snprintf(command, sizeof command, "%s %s 2>&1", getenv("TD_BINARY"), args);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = 0;
    int code = pclose(f);
    assert_true(WIFEXITED(code)); /* no signal, whatever the file is */
    return WEXITSTATUS(code);
}

static void expect(const char *args, int code, const char *says) {
    int got = run(args);
    if (got != code || strstr(output, says) == NULL)
        fail_msg("'%s': code %d, expected %d; output lacks '%s':\n%.1000s", args, got, code, says, output);
}

static void test_targets(void **state) {
    (void)state;
    expect("inspect " DATA "e.gguf", 0, "9 layers (6 sliding over 32 positions, 3 full), d_model 64");
    assert_non_null(strstr(output, "Usable        yes"));
    assert_non_null(strstr(output, "blk.0.attn_q.weight"));
    assert_non_null(strstr(output, "gemma4.attention.shared_kv_layers"));
    expect("inspect -m " DATA "moe.gguf --no-tensors --no-metadata", 0, "8 experts of d_ff 40, 2 used");
    assert_null(strstr(output, "blk.0."));
    expect("inspect " DATA "assist-e.gguf", 0, "an assistant");
}

static void test_pairs(void **state) {
    (void)state;
    expect("inspect " DATA "e.gguf -md " DATA "assist-e.gguf", 0, "fits, dense head");
    expect("inspect " DATA "e.gguf --mtp-head " DATA "assist-e-ordered.gguf", 0, "fits, ordered head");
    expect("inspect " DATA "e.gguf -md " DATA "assist-e-old.gguf", 0, "fits, ordered head"); /* the older dialect */
    expect("inspect " DATA "dense.gguf -md " DATA "assist-e.gguf", 1, "does not fit (code -6)");
    assert_non_null(strstr(output, "hidden size of 64, the target has 96"));
    expect("inspect " DATA "e.gguf -md " DATA "moe.gguf", 1, "does not fit (code -4)");
    expect("inspect " DATA "e.gguf -md missing.gguf", 1, "does not fit (code -3): missing.gguf: No such file");
    expect("inspect " DATA "assist-e.gguf -md " DATA "assist-e.gguf", 1, "does not fit (code -2)");
}

static json_t *run_json(const char *args, int code) {
    json_error_t err;
    assert_int_equal(run(args), code);
    json_t *j = json_loads(output, 0, &err);
    if (j == NULL) fail_msg("%s: %s", args, err.text);
    return j;
}

static void test_json(void **state) {
    (void)state;
    json_t *j = run_json("inspect " DATA "e.gguf --json -md " DATA "assist-e-ordered.gguf", 0);
    json_t *tensors = json_object_get(j, "tensors");
    assert_int_equal(json_array_size(tensors), 150 + 51); /* the target's, then the assistant's as mtp.<name> */
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(tensors, i), "name"));
        assert_int_equal(strncmp(name, "mtp.", 4) == 0, i >= 150);
    }
    json_int_t bytes = 0;
    for (size_t i = 0; i < 150; i++) bytes += json_integer_value(json_object_get(json_array_get(tensors, i), "bytes"));
    json_t *mix = json_object_get(json_object_get(j, "types"), "f32");
    assert_true(bytes == json_integer_value(json_object_get(mix, "bytes")));
    assert_true(json_is_true(json_object_get(json_object_get(j, "draft"), "fits")));
    json_t *keys = json_object_get(j, "metadata");
    assert_int_equal(json_integer_value(json_object_get(keys, "gemma4.block_count")), 9);
    assert_int_equal(json_array_size(json_object_get(keys, "gemma4.attention.sliding_window_pattern")), 9);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(keys, "tokenizer.ggml.tokens"), "length")),
                     600);
    json_decref(j);
    j = run_json("inspect " DATA "dense.gguf --json --no-tensors -md " DATA "assist-e.gguf", 1);
    json_t *draft = json_object_get(j, "draft");
    assert_int_equal(json_integer_value(json_object_get(draft, "code")), -6);
    assert_non_null(strstr(json_string_value(json_object_get(draft, "reason")), "hidden size"));
    assert_null(json_object_get(j, "tensors"));
    json_decref(j);
}

/* Errors are one line on standard error and exit code 1. */
static void expect_error(const char *args, const char *says) {
    expect(args, 1, says);
    assert_int_equal(strcspn(output, "\n"), strlen(output) - 1);
}

static void test_errors(void **state) {
    (void)state;
    expect_error("inspect", "a file is needed");
    expect_error("inspect nothing.gguf", "nothing.gguf: No such file or directory");
    expect_error("inspect src", "not a regular file");
    expect_error("inspect CMakeLists.txt", "not a GGUF file");
    expect_error("inspect --jason x", "did you mean '--json'?");
    expect_error("inspekt", "did you mean 'inspect'?");
}

/* A real file cut at lengths all over its metadata and first tensors. */
static void test_cuts(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(temp, sizeof temp, "%s/td-inspect-%d.gguf", tmp != NULL ? tmp : "/tmp", (int)getpid());
    FILE *in = fopen(DATA "e.gguf", "rb");
    assert_non_null(in);
    static char head[400000];
    size_t n = fread(head, 1, sizeof head, in);
    fclose(in);
    for (size_t cut = 0; cut <= n; cut = cut * 3 / 2 + 5) {
        char args[512];
        FILE *f = fopen(temp, "wb");
        assert_non_null(f);
        fwrite(head, 1, cut, f);
        fclose(f);
        snprintf(args, sizeof args, "inspect %s", temp);
        expect_error(args, "td-inspect");
    }
    unlink(temp);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets), cmocka_unit_test(test_pairs), cmocka_unit_test(test_json),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
