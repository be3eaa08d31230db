/* Every way an answer can end or be bent, each with drafts and without, greedy and seeded: the same tokens, text and
 * reason. On the demo pair, because ends need words: end tokens, stop strings, JSON. Rounds are long (up to eight
 * drafts, most of them right), so that the end falls inside an accepted run; each test counts that it did. */
#include "../share.h"
#include "pair.h"

#include "text/grammar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TARGET "models/demo/tandem-demo.gguf"
#define DRAFT  "models/demo/tandem-demo-assistant.gguf"

static const char *const questions[] = {
    "What is acceptance in Tandem?", "So what is this Tandem thing?",           "What models does Tandem run?",
    "What does GGUF mean?",          "Tell me a story about a dog and a boat.", "Count from one to nine."};
enum { N_QUESTIONS = sizeof questions / sizeof *questions, MAX_PROMPT = 400 };

typedef struct ask { /* what differs from a plain job */
    bool sampled, spec;
    int depth;     /* 0: the policy chooses */
    int n_predict; /* 0: without limit */
    const char *stop;
    const char *gbnf;
    const uint32_t *prompt; /* NULL: the question */
    int n_prompt;
    int n_probs;
    uint32_t types;
    bool ignore_end;
} ask;

static td_engine *open_demo(int n_ctx, bool shift) {
    return pair_open((pair_engine){
        .target = TARGET, .draft = DRAFT, .threads = 1, .n_ctx = n_ctx, .shift = shift, .slots = 2, .batch = 64});
}

static int question(const td_engine *e, int which, uint32_t *out) {
    char text[256];
    size_t n = 0;
    td_error err = {0};
    snprintf(text, sizeof text, "<|turn>user\n%s<turn|>\n<|turn>model\n", questions[which]);
    if (td_tokenize(e, text, strlen(text), TD_TOKENIZE_BOS | TD_TOKENIZE_SPECIAL, out, MAX_PROMPT, &n, &err))
        fail_msg("%s", err.text);
    return (int)n;
}

static td_job *start(td_engine *e, int which, const ask *a) {
    td_job_params p;
    td_error err = {0};
    uint32_t ids[MAX_PROMPT];
    td_job *j = NULL;
    td_job_params_init(e, &p);
    p.prompt = a->prompt ? a->prompt : ids;
    p.n_prompt = a->prompt ? a->n_prompt : question(e, which, ids);
    p.n_predict = a->n_predict > 0 ? a->n_predict : -1;
    p.sampling.temperature = a->sampled ? 0.7f : 0.0f;
    p.sampling.seed = (uint64_t)which + 1;
    p.sampling.ignore_end = a->ignore_end;
    p.spec.types = !a->spec ? TD_SPEC_NONE : a->types ? a->types : TD_SPEC_MTP;
    p.spec.n_max = a->depth > 0 ? a->depth : 8;
    p.spec.fixed = a->depth > 0;
    p.spec.ngram_n = 2;
    p.stop = &a->stop;
    p.n_stop = a->stop != NULL;
    p.n_probs = a->n_probs;
    if (a->gbnf && td_grammar_compile(&p.grammar, td_engine_vocab(e), a->gbnf, strlen(a->gbnf), "root", &err))
        fail_msg("%s", err.text);
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static void say(td_engine *e, int which, ask a, bool spec, int depth, answer *out) {
    a.spec = spec;
    a.depth = depth;
    answer_read(start(e, which, &a), out);
}

/* A slow build (tests/share.h) takes fewer depths and fewer stop strings. */
static bool slow(void) {
    return test_share(2, 1) < 2;
}

/* Compares plain generation with several depths (0: the policy's); returns the drafted answers whose last token was an
 * accepted draft. */
static int compare(td_engine *e, int which, ask a, const char *what, answer *plain) {
    answer drafted;
    int inside = 0;
    say(e, which, a, false, 0, plain);
    for (int depth = 0; depth <= 8; depth += !depth ? 1 : slow() ? 4 : 2) {
        say(e, which, a, true, depth, &drafted);
        answer_same(&drafted, plain, what, which * 10 + depth);
        inside += drafted.n > 0 && drafted.drafted[drafted.n - 1];
    }
    return inside;
}

static void test_end_token(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    int ended = 0, inside = 0;
    answer plain;
    for (int q = 0; q < N_QUESTIONS; q++) {
        for (int sampled = 0; sampled < 2; sampled++) {
            inside += compare(e, q, (ask){.sampled = sampled, .n_predict = 300}, "end token", &plain);
            ended += plain.finish == TD_FINISH_END;
            if (plain.finish == TD_FINISH_END) assert_true(td_token_is_end(e, plain.ids[plain.n - 1]));
        }
    }
    td_engine_close(e);
    assert_true(ended >= 6);
    assert_true(inside >= 6);
}

/* Stop strings cut out of the plain text at every place: inside a token, over two, over five. */
static void test_stop_strings(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    int stopped = 0, inside = 0;
    for (int q = 0; q < 3; q++) {
        answer whole, plain;
        bool sampled = q == 1;
        say(e, q, (ask){.sampled = sampled, .n_predict = 60}, false, 0, &whole);
        for (size_t at = 3; at + 12 < whole.n_text; at += (slow() ? 20 : 7) + at % 5) {
            char stop[16];
            snprintf(stop, sizeof stop, "%.*s", (int)(1 + at % 11), whole.text + at);
            if ((unsigned char)stop[0] >= 0x80 || !stop[0]) continue;
            inside += compare(e, q, (ask){.sampled = sampled, .n_predict = 60, .stop = stop}, stop, &plain);
            stopped += plain.finish == TD_FINISH_STOP;
            if (plain.finish == TD_FINISH_STOP) {
                assert_string_equal(plain.stop, stop);
                assert_true(plain.n_text <= at); /* its first occurrence, and nothing of it */
            }
        }
    }
    td_engine_close(e);
    assert_true(stopped > 10);
    assert_true(inside > stopped);
}

static void test_budget(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    int inside = 0;
    const int budgets[] = {1, 2, 3, 4, 5, 7, 12, 23};
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        answer plain;
        inside += compare(e, (int)i % N_QUESTIONS, (ask){.sampled = i % 2, .n_predict = budgets[i]}, "budget", &plain);
        assert_int_equal(plain.n, budgets[i]);
        assert_int_equal(plain.finish, TD_FINISH_LENGTH);
    }
    td_engine_close(e);
    assert_int_equal(inside, 0); /* the last token of a budget is never drafted: it is the target's own */
}

/* A long prompt that leaves only a few positions, down to none. */
static int long_prompt(const td_engine *e, uint32_t *out, int n) {
    uint32_t ids[MAX_PROMPT];
    int have = question(e, 4, ids);
    for (int i = 0; i < n; i++) out[i] = ids[i % have];
    return n;
}

static void test_context_end(void **unused) {
    (void)unused;
    enum { N_CTX = 96 };
    for (int shift = 0; shift < 2; shift++) {
        td_engine *e = open_demo(N_CTX, shift);
        uint32_t prompt[MAX_PROMPT];
        int full = 0, truncated = 0, turns = 0;
        for (int n = 40; n < N_CTX; n += n < N_CTX - 12 ? 13 : 1, turns++) {
            answer plain;
            ask a = {.sampled = n % 2, .prompt = prompt, .n_prompt = long_prompt(e, prompt, n), .ignore_end = true};
            if (shift) a.n_predict = 120;
            compare(e, 0, a, shift ? "context shift" : "context end", &plain);
            full += plain.finish == TD_FINISH_CONTEXT;
            truncated += plain.truncated;
            if (!shift) assert_int_equal(n + plain.n, N_CTX);
        }
        td_engine_close(e);
        assert_true(shift ? truncated == turns : full == turns);
    }
}

/* Contexts too small to keep anything of the prompt shift like any other. */
static void test_tiny_contexts(void **unused) {
    (void)unused;
    static const uint32_t bos = 2;
    for (int n_ctx = 3; n_ctx < 8; n_ctx++) {
        td_engine *e = open_demo(n_ctx, true);
        ask a = {.sampled = n_ctx % 2, .prompt = &bos, .n_prompt = 1, .ignore_end = true, .n_predict = 20};
        answer plain;
        compare(e, 0, a, "tiny context", &plain);
        assert_int_equal(plain.finish, TD_FINISH_LENGTH);
        assert_true(plain.truncated);
        td_engine_close(e);
    }
}

/* The same prompt again, wholly in the cache: one token is computed anew, so that there is a hidden row to draft from.
 */
static void test_prompt_cached(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    for (int q = 0; q < N_QUESTIONS; q++) {
        answer first, again;
        ask a = {.sampled = q % 2, .n_predict = 40};
        uint32_t ids[MAX_PROMPT];
        int n_prompt = question(e, q, ids);
        say(e, q, a, q % 3 == 0, 4, &first);
        for (int depth = 0; depth <= 8; depth += 4) {
            say(e, q, a, true, depth, &again);
            answer_same(&again, &first, "cached prompt", q);
            assert_int_equal(again.reused, n_prompt - 1);
            if (depth) assert_true(again.draft_n > 0);
        }
    }
    td_engine_close(e);
}

static void test_grammars(void **unused) {
    (void)unused;
    static const char *const grammars[] = {
        "root ::= \"{\\\"answer\\\": \\\"\" [a-zA-Z ,.]+ \"\\\", \\\"sure\\\": \" (\"true\" | \"false\") \"}\"",
        "root ::= [A-Z] [a-z ]+ \".\" root?", "root ::= (\"yes\" | \"no\") (\", \" (\"yes\" | \"no\"))*"};
    td_engine *e = open_demo(512, false);
    td_counters c;
    for (int q = 0; q < N_QUESTIONS; q++) {
        for (int sampled = 0; sampled < 2; sampled++) {
            answer plain;
            ask a = {.sampled = sampled, .n_predict = 40, .gbnf = grammars[q % 3]};
            compare(e, q, a, "grammar", &plain);
            a.types = TD_SPEC_MTP | TD_SPEC_NGRAM;
            compare(e, q, a, "grammar and look-up", &plain);
        }
    }
    td_counters_get(e, &c);
    td_engine_close(e);
    assert_true(c.grammar.tokens_accepted > 0); /* not all: the model may cut a forced text into other tokens */
    assert_true(c.mtp.tokens_accepted > 0);
}

/* Cancelled on the way, at whatever point the caller happens to be; what the slot keeps serves the next job, and its
 * text is the same as from an empty slot. */
static void test_cancel_in_a_round(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    answer plain[N_QUESTIONS], t;
    ask a = {.n_predict = 60};
    for (int q = 0; q < N_QUESTIONS; q++) say(e, q, a, false, 0, &plain[q]);
    int cut = 0, turns = test_share(60, 12);
    for (int i = 0; i < turns; i++) {
        int q = i % N_QUESTIONS, next = i % 4 ? q : (q + 1) % N_QUESTIONS;
        ask b = a;
        b.spec = true;
        b.depth = 1 + i % 8;
        td_job *j = start(e, q, &b), *beside = start(e, next, &b);
        td_event ev;
        for (int events = 0; events <= i % 5; events++)
            if (td_job_read(j, &ev, -1) || ev.kind == TD_EVENT_DONE) break;
        td_job_cancel(j);
        answer rest;
        answer_read(beside, &rest);
        answer_same(&rest, &plain[next], "beside a cancelled job", i);
        while (td_job_read(j, &ev, -1) == TD_OK && ev.kind != TD_EVENT_DONE) continue;
        cut += ev.finish == TD_FINISH_CANCELLED;
        td_job_close(j);
        say(e, q, a, true, b.depth, &t);
        answer_same(&t, &plain[q], "after a cancelled job", i);
    }
    td_engine_close(e);
    assert_true(cut > turns / 3);
}

/* Candidates with their probabilities: bit-equal too, since rows do not know of each other. */
static void test_probabilities(void **unused) {
    (void)unused;
    td_engine *e = open_demo(512, false);
    enum { N = 24, K = 3 };
    for (int q = 0; q < N_QUESTIONS; q++) {
        td_prob seen[2][N * (K + 1)];
        int n[2] = {0};
        for (int spec = 0; spec < 2; spec++) {
            ask a = {.sampled = q % 2, .n_predict = N, .n_probs = K, .spec = spec, .depth = spec ? 3 + q : 0};
            td_job *j = start(e, q, &a);
            td_event ev;
            do {
                assert_int_equal(td_job_read(j, &ev, -1), TD_OK);
                memcpy(seen[spec] + n[spec] * (K + 1), ev.probs, (size_t)ev.n_tokens * (K + 1) * sizeof(td_prob));
                n[spec] += ev.n_tokens;
            } while (ev.kind != TD_EVENT_DONE);
            td_job_close(j);
        }
        assert_int_equal(n[0], n[1]);
        assert_memory_equal(seen[0], seen[1], (size_t)n[0] * (K + 1) * sizeof(td_prob));
    }
    td_engine_close(e);
}

/* Both ways of drafting: on the engine's thread, and beside it. */
static int beside_off(void **unused) {
    (void)unused;
    return setenv("LLAMA_PIPELINE_DEPTH2", "0", 1);
}
static int beside_on(void **unused) {
    (void)unused;
    return setenv("LLAMA_PIPELINE_DEPTH2", "1", 1);
}

int main(void) {
#define BOTH(f) cmocka_unit_test_setup(f, beside_off), cmocka_unit_test_setup(f, beside_on)
    const struct CMUnitTest tests[] = {BOTH(test_end_token),   BOTH(test_stop_strings),      BOTH(test_budget),
                                       BOTH(test_context_end), BOTH(test_tiny_contexts),     BOTH(test_prompt_cached),
                                       BOTH(test_grammars),    BOTH(test_cancel_in_a_round), BOTH(test_probabilities)};
    cmocka_set_test_filter(getenv("TD_TEST_FILTER"));
    return cmocka_run_group_tests_name("ends", tests, NULL, NULL);
}
