/* Promise 3 at the level of the engine: greedy and seeded text is the same with drafts on or off, for both heads, every
 * depth, any number of threads, any chunk size of the prompt, any number of slots and order of arrival, cancels
 * included, and after going back to a cached prefix. The pair is synthetic: made by `tandem synth` for this run, wrong
 * on a share of its drafts, so that rounds end at every place. */
#include "../share.h"
#include "pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_PROMPTS = 200, N_PREDICT = 20, MAX_PROMPT = 90, N_VOCAB = 2048 };

static pair files;

typedef struct text {
    uint32_t ids[N_PREDICT];
    int n;
    int draft_n, accepted, reused;
} text;

typedef struct config {
    const char *draft;
    int threads, batch, slots;
    td_cache_type type;
} config;

static uint32_t prompts[N_PROMPTS][MAX_PROMPT];
static int n_prompts; /* N_PROMPTS, or the share of a slow build */
static int n_prompt[N_PROMPTS];

static int make_pair(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.7);
    n_prompts = test_share(N_PROMPTS, 14); /* the tests name prompts up to 13 */
    uint64_t x = 20261120;
    for (int p = 0; p < N_PROMPTS; p++) {
        n_prompt[p] = p < 4 ? p + 1 : 1 + (int)(x >> 40) % MAX_PROMPT;
        for (int i = 0; i < MAX_PROMPT; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            prompts[p][i] = 200 + (uint32_t)(x >> 33) % (N_VOCAB - 200);
        }
    }
    return 0;
}

static int remove_pair(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

static td_engine *open_engine(config c) {
    return pair_open((pair_engine){.target = files.target,
                                   .draft = c.draft,
                                   .threads = c.threads,
                                   .batch = c.batch,
                                   .slots = c.slots,
                                   .n_ctx = 256,
                                   .type = c.type});
}

static td_job *submit(td_engine *e, int prompt, bool sampled, uint32_t types, int depth, bool fixed) {
    td_job_params p;
    td_job_params_init(e, &p);
    p.prompt = prompts[prompt];
    p.n_prompt = n_prompt[prompt];
    p.n_predict = N_PREDICT;
    p.sampling.temperature = sampled ? 1.0f : 0.0f;
    p.sampling.top_k = 0;
    p.sampling.seed = (uint64_t)prompt;
    p.sampling.ignore_end = false;
    p.spec.types = types;
    p.spec.n_max = depth;
    p.spec.fixed = fixed;
    p.spec.ngram_n = 2;
    td_job *j = NULL;
    td_error err = {0};
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static void collect(td_job *j, text *out) {
    *out = (text){0};
    td_event ev;
    do {
        assert_int_equal(td_job_read(j, &ev, -1), TD_OK);
        for (int i = 0; i < ev.n_tokens && out->n < N_PREDICT; i++) out->ids[out->n++] = ev.tokens[i];
    } while (ev.kind != TD_EVENT_DONE);
    if (ev.finish == TD_FINISH_ERROR) fail_msg("%s", ev.error->text);
    out->draft_n = ev.timings.draft_n;
    out->accepted = ev.timings.draft_n_accepted;
    out->reused = ev.timings.cache_n;
    td_job_close(j);
}

static void same(const text *a, const text *b, const char *what, int prompt) {
    if (a->n != b->n || memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) != 0)
        fail_msg("%s: the text of prompt %d differs", what, prompt);
}

static text plain[2][N_PROMPTS]; /* [sampled] what every other way must repeat */

static void test_reference(void **unused) {
    (void)unused;
    td_engine *e = open_engine((config){NULL, 1, 64, 1, TD_CACHE_F16});
    for (int sampled = 0; sampled < 2; sampled++)
        for (int p = 0; p < n_prompts; p++) collect(submit(e, p, sampled, TD_SPEC_NONE, 0, true), &plain[sampled][p]);
    td_engine_close(e);
    int distinct = 0;
    for (int p = 1; p < n_prompts; p++)
        distinct += memcmp(plain[0][p].ids, plain[0][0].ids, sizeof plain[0][0].ids) != 0;
    assert_true(distinct > n_prompts / 2); /* a model that says the same to everything would prove nothing */
}

static void test_depths_and_heads(void **unused) {
    (void)unused;
    const char *const heads[] = {files.ordered, files.dense};
    for (int h = 0; h < 2; h++) {
        td_engine *e = open_engine((config){heads[h], 2, 64, 1, TD_CACHE_F16});
        int drafted = 0, accepted = 0;
        for (int p = 0; p < n_prompts; p++) {
            for (int sampled = 0; sampled < 2; sampled++) {
                text t;
                int depth = 1 + (p + sampled) % 8;
                collect(submit(e, p, sampled, TD_SPEC_MTP, depth, true), &t);
                same(&t, &plain[sampled][p], h ? "dense head" : "ordered head", p);
                if (!sampled) drafted += t.draft_n, accepted += t.accepted;
            }
        }
        td_engine_close(e);
        assert_true(drafted > 5 * n_prompts);
        assert_true(accepted > drafted / 10 && accepted < drafted); /* both outcomes happened */
    }
}

static void test_policy_and_look_up(void **unused) {
    (void)unused;
    td_engine *e = open_engine((config){files.ordered, 2, 64, 1, TD_CACHE_F16});
    for (int p = 0; p < n_prompts; p++) {
        text t;
        collect(submit(e, p, p % 2, TD_SPEC_MTP, 8, false), &t);
        same(&t, &plain[p % 2][p], "policy", p);
        collect(submit(e, p, p % 2, TD_SPEC_NGRAM, 8, true), &t);
        same(&t, &plain[p % 2][p], "look-up", p);
        collect(submit(e, p, p % 2, TD_SPEC_NGRAM | TD_SPEC_MTP, 5, true), &t);
        same(&t, &plain[p % 2][p], "look-up and assistant", p);
    }
    td_engine_close(e);
}

static void test_threads_and_chunks(void **unused) {
    (void)unused;
    const config configs[] = {{files.ordered, 2, 64, 1, TD_CACHE_F16},
                              {files.ordered, 3, 7, 1, TD_CACHE_F16},
                              {files.dense, 1, 1, 1, TD_CACHE_F16},
                              {files.ordered, 2, 33, 1, TD_CACHE_F16}};
    for (size_t c = 0; c < sizeof configs / sizeof *configs; c++) {
        td_engine *e = open_engine(configs[c]);
        for (int p = 0; p < n_prompts; p += 4) {
            text t;
            collect(submit(e, p, p % 8 == 0, c % 2 ? TD_SPEC_MTP : TD_SPEC_NONE, 3, true), &t);
            same(&t, &plain[p % 8 == 0][p], "threads and chunks", p);
        }
        td_engine_close(e);
    }
}

/* Many at once, started in a scattered order, every seventh cancelled on the way. */
static void test_slots(void **unused) {
    (void)unused;
    const int counts[] = {2, 4, 8, 16};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        td_engine *e = open_engine((config){c % 2 ? files.dense : files.ordered, 2, 48, counts[c], TD_CACHE_F16});
        enum { N = 60 };
        td_job *jobs[N];
        int which[N], n = test_share(N, 24);
        for (int i = 0; i < n; i++) {
            which[i] = (i * 37 + (int)c * 11) % n_prompts;
            jobs[i] = submit(e, which[i], i % 2, i % 3 ? TD_SPEC_MTP : TD_SPEC_NONE, 1 + i % 8, i % 5 != 0);
            if (i % 7 == 3) td_job_cancel(jobs[i]);
        }
        for (int i = 0; i < n; i++) {
            text t;
            collect(jobs[i], &t);
            if (i % 7 != 3) same(&t, &plain[i % 2][which[i]], "slots", which[i]);
        }
        td_engine_close(e);
    }
}

/* The same prompt again, a longer one, a diverging one: reuse changes the work, not the text. */
static void test_prefix_reuse(void **unused) {
    (void)unused;
    td_engine *e = open_engine((config){files.ordered, 2, 64, 2, TD_CACHE_F16});
    int reused = 0;
    int last = 10 + test_share(30, 4);
    for (int p = 10; p < last; p++) {
        text t;
        for (int again = 0; again < 2; again++) {
            collect(submit(e, p, false, again ? TD_SPEC_MTP : TD_SPEC_NONE, 4, true), &t);
            same(&t, &plain[0][p], "reuse", p);
            if (again) reused += t.reused;
        }
        int half = n_prompt[p] / 2, whole = n_prompt[p];
        if (half < 1) continue;
        n_prompt[p] = half; /* goes back behind the window of the sliding layers */
        collect(submit(e, p, false, TD_SPEC_NONE, 0, true), &t);
        n_prompt[p] = whole;
        collect(submit(e, p, false, TD_SPEC_MTP, 2, true), &t);
        same(&t, &plain[0][p], "reuse after going back", p);
    }
    td_engine_close(e);
    assert_true(reused > 15 * (last - 10));
}

/* A thought with a budget: as many tokens of the plain text as it allows, then the forced ones, then what the model
 * goes on with; the same whatever is drafted, and counted. */
static void test_thought_budget(void **unused) {
    (void)unused;
    enum { CLOSE_1 = 300, CLOSE_2 = 301, END = 302, BEGIN = 303 };
    static const uint32_t closing[] = {CLOSE_1, CLOSE_2};
    td_engine *e = open_engine((config){files.ordered, 2, 64, 1, TD_CACHE_F16});
    for (int p = 0; p < 6; p++) {
        for (int budget = -1; budget < 9; budget += 1 + (budget > 0) * (p % 3)) {
            text first = {0};
            for (int way = 0; way < 4; way++) {
                td_job_params q;
                td_job_params_init(e, &q);
                q.prompt = prompts[p];
                q.n_prompt = n_prompt[p];
                q.n_predict = N_PREDICT;
                q.sampling.temperature = 0;
                q.spec.types = way == 0 ? TD_SPEC_NONE : way == 3 ? TD_SPEC_NGRAM | TD_SPEC_MTP : TD_SPEC_MTP;
                q.spec.n_max = way == 1 ? 2 : 8;
                q.spec.ngram_n = 2;
                q.spec.fixed = true;
                q.reasoning = (td_reasoning_params){
                    .budget = budget, .open = true, .begin = BEGIN, .end = END, .call = TD_TOKEN_NONE};
                q.reasoning.closing = closing;
                q.reasoning.n_closing = 2;
                td_job *j = NULL;
                td_error err = {0};
                if (td_job_submit(e, &q, &j, &err)) fail_msg("%s", err.text);
                text t = {0};
                collect(j, &t);
                if (way == 0) first = t;
                same(&t, &first, "a thought's budget", p);
            }
            if (budget < 0) {
                same(&first, &plain[0][p], "a thought without a budget", p);
            } else if (plain[0][p].n == N_PREDICT) {
                assert_memory_equal(first.ids, plain[0][p].ids, (size_t)budget * sizeof *first.ids);
                assert_int_equal(first.ids[budget], CLOSE_1);
                assert_int_equal(first.ids[budget + 1], CLOSE_2);
                assert_int_equal(first.ids[budget + 2], END);
            }
        }
    }
    td_engine_close(e);
}

/* Each cache type has its own text; within a type drafts change nothing. */
static void test_cache_types(void **unused) {
    (void)unused;
    const td_cache_type types[] = {TD_CACHE_F32, TD_CACHE_BF16, TD_CACHE_Q8_0};
    for (size_t c = 0; c < sizeof types / sizeof *types; c++) {
        td_engine *e = open_engine((config){files.ordered, 2, 64, 2, types[c]});
        for (int p = 0; p < n_prompts; p += 8) {
            text a, b;
            collect(submit(e, p, false, TD_SPEC_NONE, 0, true), &a);
            collect(submit(e, p, false, TD_SPEC_MTP, 4, true), &b);
            same(&b, &a, td_cache_type_name(types[c]), p);
        }
        td_engine_close(e);
    }
}

/* Drafts asked for from outside: the same as the engine's own, one in flight per slot, and cells stay while it is. */
static void test_asynchronous_drafts(void **unused) {
    (void)unused;
    td_engine *e = open_engine((config){files.ordered, 2, 64, 2, TD_CACHE_F16});
    text t;
    td_error err = {0};
    uint32_t a[8], b[8];
    int n = 0, m = 0;
    collect(submit(e, 12, false, TD_SPEC_MTP, 4, true), &t);
    td_slot_info info[2];
    td_slots_get(e, info, 2);
    int slot = info[0].n_tokens > 0 ? 0 : 1, other = 1 - slot;
    uint32_t last = t.ids[t.n - 1];
    assert_int_equal(td_draft_wait(e, slot, a, 8, &n, &err), TD_ERR_NOT_FOUND);
    err = (td_error){0};
    assert_int_equal(td_draft_submit(e, other, last, 4, &err), TD_ERR_NOT_FOUND); /* nothing to draft from */
    err = (td_error){0};
    assert_int_equal(td_draft_submit(e, slot, last, 6, &err), TD_OK);
    assert_int_equal(td_draft_submit(e, slot, last, 6, &err), TD_ERR_BUSY);
    err = (td_error){0};
    assert_int_equal(td_slot_erase(e, slot, NULL, &err), TD_ERR_BUSY);
    collect(submit(e, 13, false, TD_SPEC_MTP, 4, true), &t); /* another job runs meanwhile, on the other slot */
    same(&t, &plain[0][13], "beside a draft in flight", 13);
    assert_int_equal(td_draft_wait(e, slot, a, 8, &n, &err), TD_OK);
    assert_int_equal(n, 6);
    err = (td_error){0};
    assert_int_equal(td_draft_submit(e, slot, last, 6, &err), TD_OK);
    assert_int_equal(td_draft_wait(e, slot, b, 8, &m, &err), TD_OK);
    assert_int_equal(m, 6);
    assert_memory_equal(a, b, sizeof a[0] * 6);
    assert_int_equal(td_draft_submit(e, slot, last, 3, &err), TD_OK);
    td_draft_cancel(e, slot);
    assert_int_equal(td_slot_erase(e, slot, NULL, &err), TD_OK);
    td_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_depths_and_heads),
        cmocka_unit_test(test_policy_and_look_up),
        cmocka_unit_test(test_threads_and_chunks),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_prefix_reuse),
        cmocka_unit_test(test_thought_budget),
        cmocka_unit_test(test_cache_types),
        cmocka_unit_test(test_asynchronous_drafts),
    };
    return cmocka_run_group_tests_name("engine identity", tests, make_pair, remove_pair);
}
