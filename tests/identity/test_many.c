/* Many answers at once against each prompt alone: 1, 2, 4, 8 and 16 slots, any order of arrival, any mixture of plain
 * and drafted, depths, sources and policies, greedy and seeded, shared prefixes, cancels at any moment, drafts made on
 * the engine's thread and beside it. The argument is the number of cases: a few hundred in CI, 10,000 at night (ctest
 * label `nightly`). A case that differs is named by its number, and the number alone decides all of it. */
#include "../share.h"
#include "pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_VOCAB = 1024, N_PROMPTS = 250, PROMPT = 90, N_PREDICT = 20, MOST_SLOTS = 16, WAITING = 2 * MOST_SLOTS };

static pair files;
static int n_cases = 400;
static uint32_t prompts[N_PROMPTS][PROMPT];
static int n_prompt[N_PROMPTS];
static answer plain[2][N_PROMPTS]; /* [sampled], made when first needed by an engine without assistant */
static bool known[2][N_PROMPTS];

static uint32_t hash(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(x >> 32);
}

static int make(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.75);
    for (int p = 0; p < N_PROMPTS; p++) {
        n_prompt[p] = 1 + (int)(hash((uint64_t)p + 1) % PROMPT);
        /* A third of them share the beginning of another one. */
        int alike = p > 0 && p % 3 == 0 ? n_prompt[p] / 2 : 0,
            of = p > 0 ? (int)(hash((uint64_t)p + 7) % (uint32_t)p) : 0;
        for (int i = 0; i < PROMPT; i++)
            prompts[p][i] = i < alike ? prompts[of][i] : 200 + hash((uint64_t)(p * PROMPT + i) + 99) % (N_VOCAB - 200);
    }
    return 0;
}

static int drop(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

typedef struct ask {
    int prompt;
    bool sampled, cancel;
    int events; /* read before the cancel */
    uint32_t types;
    int depth;
    bool fixed;
    int skip_streak;
} ask;

static ask make_ask(int number) {
    uint64_t x = (uint64_t)number * 64;
    static const uint32_t types[] = {TD_SPEC_MTP, TD_SPEC_MTP, TD_SPEC_MTP | TD_SPEC_NGRAM, TD_SPEC_NGRAM,
                                     TD_SPEC_NONE};
    return (ask){.prompt = (int)(hash(x + 1) % N_PROMPTS),
                 .sampled = hash(x + 2) % 2,
                 .cancel = hash(x + 3) % 6 == 0,
                 .events = (int)(hash(x + 4) % 6),
                 .types = types[hash(x + 5) % 5],
                 .depth = 1 + (int)(hash(x + 6) % 8),
                 .fixed = hash(x + 7) % 2,
                 .skip_streak = hash(x + 8) % 4 ? 0 : 1};
}

static td_job *start(td_engine *e, const ask *a) {
    td_job_params p;
    td_error err = {0};
    td_job *j = NULL;
    td_job_params_init(e, &p);
    p.prompt = prompts[a->prompt];
    p.n_prompt = n_prompt[a->prompt];
    p.n_predict = N_PREDICT;
    p.sampling.temperature = a->sampled ? 3.0f : 0.0f;
    p.sampling.seed = (uint64_t)a->prompt;
    p.spec.types = a->types;
    p.spec.n_max = a->depth;
    p.spec.fixed = a->fixed;
    p.spec.skip_streak = a->skip_streak;
    p.spec.ngram_n = 2;
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static const answer *expected(td_engine *alone, const ask *a) {
    answer *out = &plain[a->sampled][a->prompt];
    if (known[a->sampled][a->prompt]) return out;
    ask b = *a;
    b.types = TD_SPEC_NONE;
    answer_read(start(alone, &b), out);
    known[a->sampled][a->prompt] = true;
    return out;
}

static void cancel(td_job *j, int events) {
    td_event ev = {0};
    for (int i = 0; i < events && ev.kind != TD_EVENT_DONE; i++)
        if (td_job_read(j, &ev, -1)) break;
    td_job_close(j);
}

/* Cases [first, last) on one engine; up to twice as many jobs as slots are open, read in scattered order. */
static void run(td_engine *alone, int slots, bool beside, int first, int last, long *accepted) {
    setenv("LLAMA_PIPELINE_DEPTH2", beside ? "1" : "0", 1);
    td_engine *e = pair_open((pair_engine){.target = files.target,
                                           .draft = slots % 4 == 2 ? files.dense : files.ordered,
                                           .threads = 1 + slots % 3 % 2,
                                           .batch = 16 + 16 * (slots % 5),
                                           .slots = slots,
                                           .n_ctx = 128});
    td_job *jobs[WAITING];
    int number[WAITING], n_open = 0;
    for (int next = first; next < last || n_open > 0;) {
        while (next < last && n_open < 2 * slots) {
            ask a = make_ask(next);
            number[n_open] = next++;
            jobs[n_open++] = start(e, &a);
        }
        int pick = (int)(hash((uint64_t)next * 31 + (uint64_t)n_open) % (uint32_t)n_open);
        ask a = make_ask(number[pick]);
        if (a.cancel) {
            cancel(jobs[pick], a.events);
        } else {
            answer got;
            answer_read(jobs[pick], &got);
            answer_same(&got, expected(alone, &a), "case", number[pick]);
            *accepted += got.accepted;
        }
        jobs[pick] = jobs[--n_open];
        number[pick] = number[n_open];
    }
    td_engine_close(e);
}

static void test_many(void **unused) {
    (void)unused;
    static const int slots[] = {1, 2, 4, 8, 16};
    long accepted = 0;
    int done = 0;
    td_engine *alone = pair_open((pair_engine){.target = files.target, .threads = 1, .n_ctx = 128});
    for (int i = 0; i < 10; i++) { /* every number of slots, drafting on the engine's thread and beside it */
        int last = (int)((long)n_cases * (i + 1) / 10);
        run(alone, slots[i % 5], i >= 5, done, last, &accepted);
        done = last;
        print_message("%d cases, %ld drafts accepted\n", done, accepted);
    }
    td_engine_close(alone);
    assert_true(accepted > 2L * n_cases);
}

int main(int argc, char **argv) {
    if (argc > 1) n_cases = atoi(argv[1]);
    n_cases = test_share(n_cases, 40);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many)};
    return cmocka_run_group_tests_name("many", tests, make, drop);
}
