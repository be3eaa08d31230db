/* The option tables: names, values, precedence, errors, and that help shows what is parsed. */
#include "cli/options.h"
#include "cli/options_print.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct values {
    bool mmap, verbose;
    int64_t ctx, layers;
    double temp;
    const char *model;
    int flash;
    td_option_list stop;
} values;

static const td_option table[] = {
    {.kind = TD_OPT_GROUP, .help = "Model"},
    {.kind = TD_OPT_STRING, .names = "--model -m", .offset = offsetof(values, model), .arg = "FILE", .env = "T_MODEL"},
    {.kind = TD_OPT_INT,
     .names = "--ctx-size -c",
     .offset = offsetof(values, ctx),
     .arg = "N",
     .def = "512",
     .min = 0,
     .max = 4096,
     .env = "T_CTX",
     .help = "Context"},
    {.kind = TD_OPT_INT,
     .names = "--gpu-layers -ngl",
     .offset = offsetof(values, layers),
     .arg = "N",
     .def = "auto",
     .words = "auto=-1 all=-2",
     .min = 0,
     .max = 999},
    {.kind = TD_OPT_FLOAT,
     .names = "--temp",
     .offset = offsetof(values, temp),
     .arg = "T",
     .def = "0.8",
     .min = 0,
     .max = 100},
    {.kind = TD_OPT_SWITCH,
     .names = "--mmap",
     .negative = "--no-mmap -nommap",
     .offset = offsetof(values, mmap),
     .def = "on",
     .env = "T_MMAP"},
    {.kind = TD_OPT_SWITCH, .names = "--verbose -v", .offset = offsetof(values, verbose)},
    {.kind = TD_OPT_CHOICE,
     .names = "--flash-attn -fa",
     .offset = offsetof(values, flash),
     .words = "on|yes off auto",
     .def = "auto",
     .arg = "MODE"},
    {.kind = TD_OPT_LIST, .names = "--stop -r", .offset = offsetof(values, stop), .arg = "TEXT"},
    {.kind = TD_OPT_ACCEPT, .names = "--defrag-thold -dt", .arg = "X"},
    {.kind = TD_OPT_END}};

static char message[2048];

/* Parses words (apart by spaces) with standard error caught in `message`. */
static td_options_outcome parse(const char *words, values *v, int *n_args, char **args) {
    static char copy[512];
    char *argv[32] = {NULL};
    int argc = 0;
    snprintf(copy, sizeof copy, "cmd %s", words);
    for (char *w = strtok(copy, " "); w != NULL; w = strtok(NULL, " ")) argv[argc++] = w;
    *v = (values){0};
    const td_option_set sets[] = {{table, v}, {NULL, NULL}};
    const td_option_usage usage = {"cmd", "[options]", NULL, 0, 2};
    fflush(stderr);
    int saved = dup(STDERR_FILENO), pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    dup2(pipe_fds[1], STDERR_FILENO);
    close(pipe_fds[1]);
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, n_args);
    fflush(stderr);
    dup2(saved, STDERR_FILENO); /* closes the pipe's last writer */
    close(saved);
    ssize_t n = read(pipe_fds[0], message, sizeof message - 1);
    message[n > 0 ? n : 0] = 0;
    close(pipe_fds[0]);
    for (int i = 0; args != NULL && outcome == TD_OPTIONS_RUN && i < *n_args; i++) args[i] = argv[i];
    if (outcome != TD_OPTIONS_RUN) td_options_free(sets);
    return outcome;
}

static void good(const char *words, values *v) {
    int n = 0;
    if (parse(words, v, &n, NULL) != TD_OPTIONS_RUN) fail_msg("'%s': %s", words, message);
}

static void bad(const char *words, const char *says) {
    values v;
    int n = 0;
    assert_int_equal(parse(words, &v, &n, NULL), TD_OPTIONS_ERROR);
    if (strstr(message, says) == NULL) fail_msg("'%s' says '%s', expected '%s'", words, message, says);
}

static void test_values(void **state) {
    (void)state;
    values v;
    good("", &v);
    assert_true(v.ctx == 512 && v.layers == -1 && v.temp == 0.8 && v.mmap && !v.verbose && v.flash == 2);
    assert_null(v.model);
    good("-c 8 --temp=0 -m x.gguf -ngl all -fa yes -v --no-mmap", &v);
    assert_true(v.ctx == 8 && v.temp == 0 && v.layers == -2 && v.flash == 0 && v.verbose && !v.mmap);
    assert_string_equal(v.model, "x.gguf");
    good("--ctx_size 9 -ctx-size 10", &v); /* underscores, one dash, the later wins */
    assert_int_equal(v.ctx, 10);
    good("-m -odd_name --stop a -r b", &v); /* a value may begin with a dash */
    assert_string_equal(v.model, "-odd_name");
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.items[1], "b");
    free(v.stop.items);
    good("-nommap --mmap", &v);
    assert_true(v.mmap);
    good("--defrag-thold 0.1", &v);
    assert_non_null(strstr(message, "warning: --defrag-thold: accepted, without effect"));
}

static void test_arguments(void **state) {
    (void)state;
    values v;
    int n = 0;
    char *args[4];
    assert_int_equal(parse("one -c 3 two", &v, &n, args), TD_OPTIONS_RUN);
    assert_int_equal(n, 2);
    assert_string_equal(args[0], "one");
    assert_string_equal(args[1], "two");
    assert_int_equal(parse("-v -- -c", &v, &n, args), TD_OPTIONS_RUN);
    assert_int_equal(n, 1);
    assert_string_equal(args[0], "-c");
    bad("a b c", "too many arguments");
}

static void test_errors(void **state) {
    (void)state;
    bad("--ctx-size x", "--ctx-size: 'x' is not a whole number");
    bad("-c 5000", "-c: 5000 is out of range (0 to 4096)");
    bad("-c 99999999999999999999", "is not a whole number");
    bad("-c 1.5", "'1.5' is not a whole number");
    bad("--temp nan", "'nan' is not a number");
    bad("--temp -1", "-1 is out of range");
    bad("-fa maybe", "'maybe' is not one of: on|yes off auto");
    bad("-ngl some", "or one of auto=-1 all=-2");
    bad("--ctx-siz 5", "unknown option '--ctx-siz', did you mean '--ctx-size'?"); /* no abbreviations */
    bad("--mod x", "unknown option '--mod'");
    bad("--zebra", "unknown option '--zebra'\n");
    bad("-c", "-c needs a value");
    bad("--verbose=1", "unknown option '--verbose'");
}

static void test_environment(void **state) {
    (void)state;
    values v;
    setenv("LLAMA_ARG_T_CTX", "100", 1);
    good("", &v);
    assert_int_equal(v.ctx, 100);
    setenv("TANDEM_T_CTX", "200", 1);
    good("", &v);
    assert_int_equal(v.ctx, 200);
    good("-c 300", &v);
    assert_int_equal(v.ctx, 300);
    setenv("TANDEM_T_CTX", "many", 1);
    bad("", "TANDEM_T_CTX: 'many' is not a whole number");
    unsetenv("TANDEM_T_CTX");
    unsetenv("LLAMA_ARG_T_CTX");
    setenv("LLAMA_ARG_NO_T_MMAP", "1", 1);
    good("", &v);
    assert_false(v.mmap);
    unsetenv("LLAMA_ARG_NO_T_MMAP");
    setenv("LLAMA_ARG_T_MMAP", "disabled", 1);
    good("", &v);
    assert_false(v.mmap);
    unsetenv("LLAMA_ARG_T_MMAP");
}

/* Every option that parses is in help, in the manual page and among the completion words. */
static void test_printed(void **state) {
    (void)state;
    values v = {0};
    const td_option_set sets[] = {{table, &v}, {NULL, NULL}};
    const td_option_usage usage = {"cmd", "[options]", "About.", 0, 0};
    void (*const printers[])(const td_option_usage *, const td_option_set *,
                             FILE *) = {td_options_print_help, td_options_print_man, td_options_print_words};
    for (int p = 0; p < 3; p++) {
        static char text[8192];
        FILE *f = tmpfile();
        assert_non_null(f);
        printers[p](&usage, sets, f);
        rewind(f);
        size_t n = fread(text, 1, sizeof text - 1, f);
        text[n] = 0;
        fclose(f);
        for (const td_option *o = table; o->kind != TD_OPT_END; o++) {
            char word[64];
            if (o->names == NULL) continue;
            snprintf(word, sizeof word, "%.*s", (int)strcspn(o->names, " "), o->names);
            if (p == 1) snprintf(word, sizeof word, "\\-\\-%.3s", o->names + 2);
            if (strstr(text, word) == NULL) fail_msg("printer %d lacks %s", p, word);
        }
        if (p == 0) assert_non_null(strstr(text, "Context. 0 to 4096. Default: 512. [TANDEM_T_CTX]"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),      cmocka_unit_test(test_arguments), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_environment), cmocka_unit_test(test_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
