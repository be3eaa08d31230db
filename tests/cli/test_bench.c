/* `tandem bench` from outside, on the demo pair: which runs it makes, in which order. */
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_warm_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
