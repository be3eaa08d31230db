/* Grammars: texts that must and must not fit, token by token and byte by byte; errors with their place; masks against
 * single questions; hostile grammars inside their budgets; states that share, copy and survive collections. */
#include "vocab_fixture.h"

#include "base/clock.h"
#include "text/grammar.h"
#include "text/grammar_machine.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static td_grammar *compile(const char *gbnf) {
    td_grammar *g = NULL;
    td_error err = {0};
    if (td_grammar_compile(&g, fixture_vocab(), gbnf, strlen(gbnf), NULL, &err)) fail_msg("%s\n%s", err.text, gbnf);
    return g;
}

static td_grammar_state *begin(td_grammar *g) {
    td_grammar_state *s = NULL;
    assert_int_equal(td_grammar_state_create(&s, g, NULL), TD_OK);
    return s;
}

static bool accept_all(td_grammar_state *s, const uint32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool allowed = td_grammar_allows(s, ids[i]);
        assert_int_equal(td_grammar_accept(s, ids[i], NULL) == TD_OK, allowed);
        if (!allowed) return false;
    }
    return true;
}

/* Does the text fit, as the tokenizer cuts it and as single bytes? Both must agree. */
static bool fits(td_grammar *g, const char *text, td_special_mode mode) {
    const td_vocab *v = fixture_vocab();
    td_tokens t = {0};
    size_t n = strlen(text);
    td_grammar_state *s = begin(g), *b = begin(g);
    assert_int_equal(td_vocab_tokenize(v, text, n, mode, false, &t, NULL), TD_OK);
    bool fit = accept_all(s, t.ids, t.n) && td_grammar_complete(s), bytes = true;
    for (size_t i = 0; bytes && i < n; i++) bytes = accept_all(b, (uint32_t[]){td_vocab_byte(v, (uint8_t)text[i])}, 1);
    bytes = bytes && td_grammar_complete(b);
    if (mode == TD_SPECIAL_NONE && bytes != fit) fail_msg("tokens %d, bytes %d: %s", fit, bytes, text);
    if (fit) {
        assert_true(td_grammar_allows(s, 106));
        assert_int_equal(td_grammar_accept(s, 106, NULL), TD_OK);
        assert_true(td_grammar_finished(s));
        assert_false(td_grammar_allows(s, 106));
        assert_int_equal(td_grammar_accept(s, td_vocab_byte(v, 'a'), NULL), TD_ERR_ARGUMENT);
    } else {
        assert_false(td_grammar_complete(s) && td_grammar_finished(s) && bytes);
    }
    td_grammar_state_destroy(s);
    td_grammar_state_destroy(b);
    td_tokens_free(&t);
    return fit;
}

static void test_texts(void **state) {
    (void)state;
    static const struct {
        const char *gbnf, *yes[8], *no[8];
    } cases[] = {
        {"root ::= \"hello\"", {"hello"}, {"", "hell", "hello ", "Hello"}},
        {"root ::= \"a\" | \"bc\" | \"\"", {"", "a", "bc"}, {"b", "ab", "abc"}},
        {"root ::= [a-c]+ \"x\"?", {"a", "abcx", "cccc"}, {"", "x", "ax ", "axx"}},
        {"root ::= [^\"\\\\\\n]*", {"", "plain text", "\xE4\xB8\xAD\xF0\x9F\xA6\x99", "\xC3\xA9"}, {"a\"", "\\", "\n"}},
        {"root ::= .{2,3}", {"ab", "\xE4\xB8\xAD\xF0\x9F\xA6\x99", "a\nb"}, {"a", "abcd", ""}},
        {"root ::= \"x\"{3}", {"xxx"}, {"xx", "xxxx"}},
        {"root ::= (\"a\" | \"b\"){2,} \"c\"", {"abc", "bbbbbbbbbc"}, {"ac", "c", "ab"}},
        {"root ::= \"x\"{0}\"y\"{,2}", {"", "y", "yy"}, {"x", "yyy"}},
        {"root ::= (\"ab\" | \"a\"){3} \"b\"?", {"aaa", "ababab", "abaab", "aaab", "abababb"}, {"aa", "ab"}},
        {"root ::= item (\",\" item)*\nitem ::= [0-9]+ # number\n", {"1", "1,22,333"}, {"1,", ",", "1,,2"}},
        {"root ::= \"(\" root \")\" | \"x\"", {"x", "((x))"}, {"(x", "x)", "()"}},
        {"root ::=\n  \"a\"\n  | \"b\" |\n  \"c\"\nother ::= \"d\"\n", {"a", "b", "c"}, {"d"}},
        {"root ::= (\n \"a\" # one\n \"b\"\n)\n", {"ab"}, {"a"}},
        {"root ::= \"\\x41\\u00e9\\U0001F999\\\"\\\\\\t\"", {"A\xC3\xA9\xF0\x9F\xA6\x99\"\\\t"}, {"A"}},
        {"root ::= [\\x41-\\x43\\]\\-] [a-]", {"Aa", "]-", "-a"}, {"Da", "\\a"}},
        {"root ::= [\xC3\xA0-\xC3\xBF\xE4\xB8\x80-\xE9\xBE\xA5]+", {"\xC3\xA9\xE4\xB8\xAD"}, {"e", "\xC3\x9F"}},
        {"root ::= ((\"a\"?)*)* \"b\"", {"b", "aab"}, {"a"}},
        {"root ::= (\"a\"{0,2}){2,3} \"b\"", {"b", "aaaaaab"}, {"aaaaaaab"}},
        {"root ::= a a\na ::= b*\nb ::= \"x\" | \"y\" a \"z\"", {"", "xyxz", "yz"}, {"yx", "z"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_grammar *g = compile(cases[i].gbnf);
        for (int k = 0; k < 8 && cases[i].yes[k]; k++)
            if (!fits(g, cases[i].yes[k], TD_SPECIAL_NONE)) fail_msg("%s\nrefuses %s", cases[i].gbnf, cases[i].yes[k]);
        for (int k = 0; k < 8 && cases[i].no[k]; k++)
            if (fits(g, cases[i].no[k], TD_SPECIAL_NONE)) fail_msg("%s\nallows %s", cases[i].gbnf, cases[i].no[k]);
        td_grammar_unref(g);
    }
}

static void test_token_references(void **state) {
    (void)state;
    td_grammar *g =
        compile("root ::= (!<|tool_call> | call)*\ncall ::= <[48]> \"call:\" [a-z]+ \"{\" arg? \"}\" <tool_call|>\n"
                "arg ::= <|\"|> !<|\"|>* <|\"|>");
    assert_true(fits(g, "some text", TD_SPECIAL_ALL));
    assert_true(fits(g, "so <|tool_call>call:get{}<tool_call|> and", TD_SPECIAL_ALL));
    assert_true(fits(g, "<|tool_call>call:get{<|\"|>any \"text\"<|\"|>}<tool_call|>", TD_SPECIAL_ALL));
    assert_false(fits(g, "<|tool_call>call:get{x}<tool_call|>", TD_SPECIAL_ALL));
    assert_false(fits(g, "<|tool_call>call:get{", TD_SPECIAL_ALL));
    assert_false(fits(g, "a<|turn>b", TD_SPECIAL_ALL)); /* control tokens come only by name */
    td_grammar_unref(g);
    g = compile("root ::= \"<|tool_call>\" [a-z]*"); /* as characters: the token itself does not fit */
    assert_false(fits(g, "<|tool_call>x", TD_SPECIAL_ALL));
    assert_true(fits(g, "<|tool_call>x", TD_SPECIAL_NONE));
    td_grammar_unref(g);
}

static void refuse(const char *gbnf, td_status code, const char *part) {
    td_grammar *g = NULL;
    td_error err = {0};
    assert_int_equal(td_grammar_compile(&g, fixture_vocab(), gbnf, strlen(gbnf), NULL, &err), code);
    assert_null(g);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_errors(void **state) {
    (void)state;
    refuse("", TD_ERR_ARGUMENT, "no rule \"root\"");
    refuse("other ::= \"a\"", TD_ERR_ARGUMENT, "no rule \"root\"");
    refuse("root ::= \"a", TD_ERR_ARGUMENT, "line 1 column 12");
    refuse("root ::= \"a\"\nroot ::= \"b\"", TD_ERR_ARGUMENT, "line 2 column 1: this rule is defined twice");
    refuse("root ::= x", TD_ERR_ARGUMENT, "line 1 column 10: the rule \"x\" is not defined");
    refuse("root ::= [a", TD_ERR_ARGUMENT, "class");
    refuse("root ::= [z-a]", TD_ERR_ARGUMENT, "range goes down");
    refuse("root ::= \"\\q\"", TD_ERR_ARGUMENT, "escape");
    refuse("root ::= \"\\ud800\"", TD_ERR_ARGUMENT, "no such character");
    refuse("root ::= \"\\x4\"", TD_ERR_ARGUMENT, "hexadecimal");
    refuse("root ::= \"\xFF\"", TD_ERR_ARGUMENT, "UTF-8");
    refuse("root ::= (\"a\"", TD_ERR_ARGUMENT, "expected ')'");
    refuse("root ::= \"a\")", TD_ERR_ARGUMENT, "unexpected");
    refuse("root ::= *", TD_ERR_ARGUMENT, "unexpected");
    refuse("root = \"a\"", TD_ERR_ARGUMENT, "'::='");
    refuse("root ::= \"a\"{2,1}", TD_ERR_ARGUMENT, "maximum");
    refuse("root ::= \"a\"{}", TD_ERR_ARGUMENT, "number");
    refuse("root ::= \"a\"{9999999}", TD_ERR_ARGUMENT, "1000000");
    refuse("root ::= \"a\"{2", TD_ERR_ARGUMENT, "'}'");
    refuse("root ::= <nothing>", TD_ERR_ARGUMENT, "no such token");
    refuse("root ::= <[262144]>", TD_ERR_ARGUMENT, "no such token");
    refuse("root ::= <[1", TD_ERR_ARGUMENT, "<[token id]>");
    refuse("root ::= root \"a\" | \"b\"", TD_ERR_ARGUMENT, "left-recursive");
    refuse("root ::= a \"x\"\na ::= b? c\nb ::= \"b\"\nc ::= root | \"y\"", TD_ERR_ARGUMENT, "left-recursive");
    refuse("root ::= root", TD_ERR_ARGUMENT, "left-recursive");
    refuse("root ::= a* \"x\"\na ::= (root)", TD_ERR_ARGUMENT, "left-recursive");
    refuse("root ::= []", TD_ERR_ARGUMENT, "does not match any text");
    td_buf deep = {0};
    td_buf_add_str(&deep, "root ::= ");
    for (int i = 0; i < 10000; i++) td_buf_add_char(&deep, '(');
    refuse(deep.data, TD_ERR_ARGUMENT, "nested too deep");
    td_buf_free(&deep);
}

/* Each bit of a mask is the answer to the single question. */
static void check_mask(td_grammar_state *s, uint64_t *rng, int n_asked) {
    const td_vocab *v = fixture_vocab();
    static uint64_t bits[262144 / 64];
    td_status st = td_grammar_mask(s, bits, NULL);
    if (st) memset(bits, 0, sizeof bits);
    for (int i = 0; i < n_asked; i++) {
        uint32_t id = (uint32_t)(fixture_random(rng) % (i % 2 ? 262144 : 3000));
        if ((bits[id >> 6] >> (id & 63) & 1) != td_grammar_allows(s, id))
            fail_msg("token %u '%s': mask and answer differ", id, td_vocab_piece(v, id, true).data);
    }
}

static void test_masks(void **state) {
    (void)state;
    static const char *const gbnf[] = {
        "root ::= [a-z ]{3,200} \".\"", "root ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" [\"nt])* \"\\\"\"",
        "root ::= (\"(\" root \")\" | [a-z]+)+", "root ::= (!<|tool_call> | <|tool_call> [a-z]{2,5} <tool_call|>)*",
        "root ::= (\"the\" | \" the\" | \"then \" | [0-9]{1,100})*"};
    uint64_t rng = 11;
    for (size_t i = 0; i < sizeof gbnf / sizeof *gbnf; i++) {
        td_grammar *g = compile(gbnf[i]);
        for (int walk = 0; walk < 6; walk++) {
            td_grammar_state *s = begin(g);
            for (int step = 0; step < 25; step++) {
                static uint64_t bits[262144 / 64];
                check_mask(s, &rng, 400);
                if (td_grammar_mask(s, bits, NULL)) break;
                uint32_t id = (uint32_t)(fixture_random(&rng) % 262144);
                for (int k = 0; k < 262144 && !(bits[id >> 6] >> (id & 63) & 1); k++) id = (id + 1) % 262144;
                assert_int_equal(td_grammar_accept(s, id, NULL), TD_OK);
                if (td_vocab_is_end(fixture_vocab(), id)) break;
            }
            td_grammar_state_destroy(s);
        }
        td_grammar_unref(g);
    }
}

static void test_forced(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    td_grammar *g = compile("root ::= \"{\\\"name\\\": \\\"\" [a-z]+ \"\\\", \\\"end\\\": true}\"");
    td_grammar_state *s = begin(g);
    uint32_t ids[64];
    size_t n = td_grammar_forced(s, ids, 64);
    assert_true(n >= 2);
    assert_true(accept_all(s, ids, n));
    td_tokens rest = {0};
    td_vocab_tokenize(v, "\": \"bob\"", 8, TD_SPECIAL_NONE, false, &rest, NULL);
    td_tokens_free(&rest);
    td_grammar_state_destroy(s);
    td_grammar_unref(g);

    g = compile("root ::= (\"yes\" | \"no\") \" indeed\" <tool_call|>");
    s = begin(g);
    assert_int_equal(td_grammar_forced(s, ids, 64), 0);
    uint32_t yes = td_vocab_find_str(v, "yes");
    assert_int_equal(td_grammar_accept(s, yes, NULL), TD_OK);
    n = td_grammar_forced(s, ids, 64);
    assert_true(n >= 2);
    assert_int_equal(ids[n - 1], 49);
    assert_true(accept_all(s, ids, n));
    assert_true(td_grammar_finished(s));
    assert_int_equal(td_grammar_forced(s, ids, 64), 0);
    td_grammar_state_destroy(s);
    td_grammar_unref(g);
}

static void test_states_are_independent(void **state) {
    (void)state;
    td_grammar *g = compile("root ::= [a-z]{2} [0-9]{2}");
    td_grammar_state *a = begin(g), *b = NULL;
    td_grammar_unref(g); /* the states keep it */
    const td_vocab *v = fixture_vocab();
    assert_int_equal(td_grammar_accept(a, td_vocab_byte(v, 'q'), NULL), TD_OK);
    assert_int_equal(td_grammar_state_clone(&b, a, NULL), TD_OK);
    assert_int_equal(td_grammar_accept(a, td_vocab_byte(v, 'q'), NULL), TD_OK);
    assert_true(td_grammar_allows(a, td_vocab_byte(v, '7')));
    assert_false(td_grammar_allows(b, td_vocab_byte(v, '7')));
    assert_int_equal(td_grammar_accept(b, td_vocab_byte(v, '7'), NULL), TD_ERR_ARGUMENT);
    assert_true(td_grammar_allows(b, td_vocab_byte(v, 'x'))); /* unchanged by the refusal */
    assert_int_equal(td_grammar_state_copy(b, a, NULL), TD_OK);
    assert_true(td_grammar_allows(b, td_vocab_byte(v, '7')));
    td_grammar_state_destroy(a);
    assert_true(td_grammar_allows(b, td_vocab_byte(v, '7')));
    td_grammar_state_destroy(b);
}

/* A long counted text makes a new state per character: tables are collected, positions stay right. */
static void test_collection(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    td_grammar *g = compile("root ::= ([a-z]{3,30000} \"!\")+");
    td_grammar_state *s = begin(g), *early = begin(g);
    assert_int_equal(td_grammar_accept(early, td_vocab_byte(v, 'a'), NULL), TD_OK);
    for (int i = 0; i < 29000; i++)
        assert_int_equal(td_grammar_accept(s, td_vocab_byte(v, (uint8_t)('a' + i % 26)), NULL), TD_OK);
    for (int i = 0; i < 1000; i++) assert_int_equal(td_grammar_accept(s, td_vocab_byte(v, 'b'), NULL), TD_OK);
    assert_false(td_grammar_allows(s, td_vocab_byte(v, 'c')));
    assert_true(td_grammar_allows(s, td_vocab_byte(v, '!')));
    assert_true(td_grammar_allows(early, td_vocab_byte(v, 'c')));
    assert_false(td_grammar_allows(early, td_vocab_byte(v, '!')));
    assert_int_equal(td_grammar_accept(s, td_vocab_byte(v, '!'), NULL), TD_OK);
    assert_true(td_grammar_complete(s));
    td_grammar_state_destroy(s);
    td_grammar_state_destroy(early);
    td_grammar_unref(g);
}

/* Grammars that would need exponential work: an error or a refusal in bounded time. */
static void test_hostile_grammars(void **state) {
    (void)state;
    static const char *const gbnf[] = {
        "root ::= (\"a\" root \"b\") | (\"a\" root \"c\") | (\"a\" root \"d\") | \"e\"",
        "root ::= (\"a\"? (\"a\"? (\"a\"?){0,1000}){0,1000}){0,1000} \"b\"",
        "root ::= ((((((((\"a\"*)*)*)*)*)*)*)*)* \"b\"",
        "root ::= x x x x x x x x x x\nx ::= y y y y y y y y y y\ny ::= z z z z z z z z\nz ::= \"a\"?",
        "root ::= \"[\" (root (\",\" root)*)? \"]\" | (\"a\" | \"a\" | \"aa\" | \"aaa\"){0,100000}",
    };
    for (size_t i = 0; i < sizeof gbnf / sizeof *gbnf; i++) {
        td_grammar *g = NULL;
        td_error err = {0};
        static uint64_t bits[262144 / 64];
        int64_t start = td_clock_ns();
        if (td_grammar_compile(&g, fixture_vocab(), gbnf[i], strlen(gbnf[i]), NULL, &err)) {
            assert_int_equal(err.code, TD_ERR_LIMIT);
            continue;
        }
        td_grammar_state *s = begin(g);
        for (int k = 0; k < 40; k++) {
            (void)td_grammar_mask(s, bits, NULL);
            uint32_t id = td_vocab_byte(fixture_vocab(), i == 4 && k < 8 ? '[' : 'a');
            td_error_clear(&err);
            if (td_grammar_accept(s, id, &err)) break;
        }
        td_grammar_state_destroy(s);
        td_grammar_unref(g);
        double seconds = (double)(td_clock_ns() - start) * 1e-9;
        if (seconds > 10) fail_msg("%s took %.1f s", gbnf[i], seconds);
    }
}

static void test_deep_nesting_is_refused_not_crashed(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    td_grammar *g = compile("root ::= \"[\" root \"]\" | \"x\"");
    td_grammar_state *s = begin(g);
    int depth = 0;
    td_error err = {0};
    while (depth < 100000 && td_grammar_accept(s, td_vocab_byte(v, '['), &err) == TD_OK) depth++;
    assert_int_equal(err.code, TD_ERR_LIMIT);
    assert_true(depth > 500 && depth <= G_MAX_FRAMES_DEEP);
    td_grammar_state_destroy(s);
    td_grammar_unref(g);
}

/* Random texts over the characters of grammars: a grammar or an error, never a crash; and what compiles can be walked.
 */
static void test_random_grammars(void **state) {
    (void)state;
    static const char *const parts[] = {"root",
                                        " ::= ",
                                        "\"a\"",
                                        "\"bc\"",
                                        "[a-c]",
                                        "[^x]",
                                        "(",
                                        ")",
                                        "|",
                                        "*",
                                        "+",
                                        "?",
                                        "{2}",
                                        "{1,3}",
                                        "\n",
                                        " ",
                                        "b",
                                        "#",
                                        "\"",
                                        "[",
                                        "]",
                                        ".",
                                        "<[48]>",
                                        "!<[49]>",
                                        "{",
                                        "\\",
                                        "::=",
                                        "-",
                                        "b ::= \"x\" root | \"y\"\n"};
    uint64_t rng = 5;
    int compiled = 0;
    for (int i = 0; i < 20000; i++) {
        td_buf b = {0};
        td_grammar *g = NULL;
        td_buf_add_str(&b, "root ::= ");
        for (uint64_t n = fixture_random(&rng) % 14; n > 0; n--)
            td_buf_add_str(&b, parts[fixture_random(&rng) % (sizeof parts / sizeof *parts)]);
        if (td_grammar_compile(&g, fixture_vocab(), b.data, b.n_bytes, NULL, NULL) == TD_OK) {
            td_grammar_state *s = begin(g);
            compiled++;
            for (int k = 0; k < 12; k++) {
                uint32_t id = td_vocab_byte(fixture_vocab(), (uint8_t) "abcxy"[fixture_random(&rng) % 5]);
                if (td_grammar_accept(s, id, NULL)) break;
            }
            td_grammar_state_destroy(s);
            td_grammar_unref(g);
        }
        td_buf_free(&b);
    }
    assert_true(compiled > 500);
}

static void *walk_in_thread(void *arg) {
    td_grammar *g = arg;
    const td_vocab *v = fixture_vocab();
    uint64_t *bits = calloc(262144 / 64, sizeof *bits);
    uintptr_t sum = 1;
    td_grammar_state *s = NULL;
    if (!bits || td_grammar_state_create(&s, g, NULL)) return NULL;
    for (int i = 0; i < 6000; i++) {
        if (i % 600 == 0 && td_grammar_mask(s, bits, NULL) == TD_OK) sum = sum * 31 + (uintptr_t)bits[i % 4096];
        if (td_grammar_accept(s, td_vocab_byte(v, (uint8_t)('a' + i % 26)), NULL)) break;
        sum++;
    }
    td_grammar_state_destroy(s);
    free(bits);
    return (void *)sum;
}

/* Two positions of one grammar, each on its own thread, through several collections of the shared tables. */
static void test_threads_share_a_grammar(void **state) {
    (void)state;
    pthread_t a, b;
    void *ra = NULL, *rb = NULL;
    td_grammar *g = compile("root ::= [a-z]{3,30000} \"!\"");
    assert_int_equal(pthread_create(&a, NULL, walk_in_thread, g), 0);
    assert_int_equal(pthread_create(&b, NULL, walk_in_thread, g), 0);
    pthread_join(a, &ra);
    pthread_join(b, &rb);
    assert_non_null(ra);
    assert_ptr_equal(ra, rb);
    td_grammar_unref(g);
}

static int done(void **state) {
    (void)state;
    fixture_release();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_share_a_grammar),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_token_references),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_forced),
        cmocka_unit_test(test_states_are_independent),
        cmocka_unit_test(test_collection),
        cmocka_unit_test(test_hostile_grammars),
        cmocka_unit_test(test_deep_nesting_is_refused_not_crashed),
        cmocka_unit_test(test_random_grammars),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
