/* Speed of grammars over the real vocabulary: compilation, the first mask of a state, a kept mask, one token. */
#include "vocab_fixture.h"

#include "text/grammar.h"
#include "text/token_trie.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static uint64_t bits[262144 / 64];

/* Time of this thread, so that a busy machine does not count. */
static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double us_since(int64_t start) {
    return (double)(cpu_ns() - start) * 1e-3;
}

static void measure(const char *what, const char *gbnf, const char *text) {
    td_grammar *g = NULL;
    td_grammar_state *s = NULL;
    td_error err = {0};
    td_tokens t = {0};
    int64_t start = cpu_ns();
    if (td_grammar_compile(&g, fixture_vocab(), gbnf, strlen(gbnf), NULL, &err) ||
        td_grammar_state_create(&s, g, &err)) {
        printf("%s: %s\n", what, err.text);
        return;
    }
    double compiled = us_since(start), first = 0, again = 0, worst = 0, accepted = 0;
    td_vocab_tokenize(fixture_vocab(), text, strlen(text), TD_SPECIAL_ALL, false, &t, &err);
    for (size_t i = 0; i < t.n; i++) {
        start = cpu_ns();
        (void)td_grammar_mask(s, bits, &err);
        double us = us_since(start);
        first += us;
        worst = us > worst ? us : worst;
        start = cpu_ns();
        (void)td_grammar_mask(s, bits, &err);
        again += us_since(start);
        start = cpu_ns();
        if (td_grammar_accept(s, t.ids[i], &err)) printf("%s: %s\n", what, err.text);
        accepted += us_since(start);
    }
    double n = (double)t.n;
    printf("%-18s compile %7.0f us   mask: worst %6.0f us, mean %6.0f us, again %5.1f us   accept %5.2f us\n", what,
           compiled, worst, first / n, again / n, accepted / n);
    td_tokens_free(&t);
    td_grammar_state_destroy(s);
    td_grammar_unref(g);
}

int main(void) {
    static const char json[] =
        "root ::= object\nvalue ::= object | array | string | number | (\"true\" | \"false\" | \"null\")\n"
        "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? ws \"}\"\n"
        "array ::= \"[\" ws (value (\",\" ws value)*)? ws \"]\"\nstring ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" "
        "([\"\\\\/bfnrt] | \"u\" [0-9a-fA-F]{4}))* \"\\\"\"\nnumber ::= \"-\"? ([0-9] | [1-9] [0-9]{0,15}) (\".\" "
        "[0-9]+)? "
        "([eE] [-+]? [0-9]{1,15})?\nws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";
    static const char text[] = "{\"name\": \"Ada Lovelace, mathematician\", \"born\": 1815,\n  \"tags\": [\"first "
                               "programmer\", {\"x\": [true, null, -2.5e3]}], \"quote\": \"That brain of mine is "
                               "something more than merely mortal\"}";
    (void)td_vocab_trie(fixture_vocab());
    measure("json", json, text);
    measure("free text", "root ::= .*", "The quick brown fox jumps over the lazy dog, again and again.");
    measure("string{0,1000}", "root ::= \"\\\"\" [^\"]{0,1000} \"\\\"\"",
            "\"The quick brown fox jumps over the lazy dog.\"");
    measure("words{3,50}", "root ::= ([a-zA-Z]+ \" \"?){3,50} \".\"", "The quick brown fox jumps over the lazy dog.");
    fixture_release();
    return 0;
}
