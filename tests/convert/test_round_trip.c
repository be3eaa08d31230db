/* From a checkpoint or a float pair through quantisation to drafting: for every type that `tandem quantize` writes, the
 * share of drafts that the target accepts must stay within 0.03 of the float pair's (random tiny models have no drafts
 * that anybody would accept, so they say nothing here). Target and assistant are both quantised, so that each type is
 * seen in both roles, ordered heads included.
 *
 * Without arguments a few types of the pairs that are quick; "all" for every type and pair, which prints the table of
 * docs/quantisation.md (ctest -C nightly -L nightly). TD_HF_PAIR may name a folder with checkpoints `target` and
 * `assistant` (tools/train_demo): they are converted first, to floats. */
#include "../identity/pair.h"
#include "../share.h"
#include "convert/convert.h"
#include "convert/quantize.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_SOURCES = 12, MAX_PROMPTS = 64, N_RANDOM = 24, MAX_IDS = 1024, DEPTH = 3, N_CTX = 1024 };
#define DEMO "models/demo/"

typedef struct source { /* a float pair */
    char name[32], target[600], assistant[600];
    bool chat; /* the demo pair's prompts, else tokens drawn at random */
} source;

typedef struct score {
    int drafted, accepted;
} score;

static bool all_types;
static char folder[512];
static td_pool *pool;
static source sources[MAX_SOURCES];
static int n_sources;
static pair synthetic;

static td_status quantize(const char *in, const char *out, const td_ftype *type) {
    td_error err = {0};
    td_quantize_options o = {.ftype = type, .allow_requantize = true, .pool = pool};
    td_quantize_report report;
    td_status status = td_quantize(in, out, &o, &report, &err);
    if (status != TD_OK) print_message("%s\n", err.text);
    return status;
}

/* A pair of files as floats, below the folder of this run. */
static void add_source(const char *name, const char *target, const char *assistant, bool chat) {
    const td_ftype *f32 = td_ftype_by_name("f32");
    assert_true(n_sources < MAX_SOURCES);
    source *s = &sources[n_sources++];
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->target, sizeof s->target, "%s/%s-target.gguf", folder, name);
    snprintf(s->assistant, sizeof s->assistant, "%s/%s-assistant.gguf", folder, name);
    s->chat = chat;
    assert_int_equal(quantize(target, s->target, f32), TD_OK);
    assert_int_equal(quantize(assistant, s->assistant, f32), TD_OK);
}

static void add_checkpoints(const char *from) {
    static const char *const parts[] = {"target", "assistant"};
    char in[600], out[2][600];
    for (int i = 0; i < 2; i++) {
        td_error err = {0};
        snprintf(in, sizeof in, "%s/%s", from, parts[i]);
        snprintf(out[i], sizeof out[i], "%s/converted-%s.gguf", folder, parts[i]);
        td_convert_options o = {.dir = in, .ftype = td_ftype_by_name("f32"), .pool = pool};
        td_convert_report report;
        if (td_convert(&o, out[i], &report, &err) != TD_OK) fail_msg("%s", err.text);
    }
    add_source("checkpoints", out[0], out[1], true);
}

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR"), *checkpoints = getenv("TD_HF_PAIR");
    snprintf(folder, sizeof folder, "%s/td-round-trip-XXXXXX", tmp ? tmp : "/tmp");
    td_pool_options po = {.n_threads = 2};
    if (!mkdtemp(folder) || td_pool_create(&pool, &po, NULL) != TD_OK) return -1;
    pair_make(&synthetic, 2048, 0.7);
    add_source("demo", DEMO "tandem-demo.gguf", DEMO "tandem-demo-assistant.gguf", true);
    add_source("synthetic, ordered head", synthetic.target, synthetic.ordered, false);
    if (!all_types) return 0;
    add_source("synthetic, dense head", synthetic.target, synthetic.dense, false);
    if (checkpoints) add_checkpoints(checkpoints);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[600];
    pair_remove(&synthetic);
    td_pool_destroy(pool);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* ---- acceptance ---- */

static int read_prompts(const td_engine *e, bool chat, uint32_t (*ids)[MAX_IDS], int *n) {
    td_engine_info info;
    td_engine_get_info(e, &info);
    uint64_t seed = 1;
    if (!chat) {
        for (int p = 0; p < N_RANDOM; p++) {
            n[p] = 24;
            for (int i = 0; i < n[p]; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                ids[p][i] = i ? 4 + (uint32_t)(seed >> 33) % (uint32_t)(info.n_vocab - 4) : 2;
            }
        }
        return N_RANDOM;
    }
    json_t *all = json_load_file(DEMO "prompts.json", 0, NULL);
    assert_non_null(all);
    int count = 0;
    for (size_t p = 0; p < json_array_size(all) && count < MAX_PROMPTS; p++) {
        const char *text = json_string_value(json_object_get(json_array_get(all, p), "prompt"));
        size_t len = 0;
        assert_int_equal(td_tokenize(e, text, strlen(text), TD_TOKENIZE_SPECIAL, ids[count], MAX_IDS, &len, NULL),
                         TD_OK);
        n[count++] = (int)len;
    }
    json_decref(all);
    return count;
}

static void answer_one(td_engine *e, const uint32_t *ids, int n, bool chat, score *s) {
    td_job_params p;
    td_job_params_init(e, &p);
    p.prompt = ids;
    p.n_prompt = n;
    p.n_predict = chat ? 96 : 32;
    p.cache_prompt = false;
    p.sampling.temperature = 0;
    p.sampling.ignore_end = !chat;
    p.spec.types = TD_SPEC_MTP;
    p.spec.n_max = DEPTH;
    p.spec.fixed = true;
    td_job *j = NULL;
    td_error err = {0};
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    td_event ev;
    do {
        assert_int_equal(td_job_read(j, &ev, -1), TD_OK);
    } while (ev.kind != TD_EVENT_DONE);
    if (ev.finish == TD_FINISH_ERROR) fail_msg("%s", ev.error->text);
    s->drafted += ev.timings.draft_n;
    s->accepted += ev.timings.draft_n_accepted;
    td_job_close(j);
}

static score accept(const char *target, const char *assistant, bool chat) {
    static uint32_t ids[MAX_PROMPTS][MAX_IDS];
    static int n[MAX_PROMPTS];
    score s = {0};
    td_engine *e = pair_open((pair_engine){.target = target, .draft = assistant, .threads = 1, .n_ctx = N_CTX});
    int count = read_prompts(e, chat, ids, n);
    for (int p = 0; p < count; p++) answer_one(e, ids[p], n[p], chat, &s);
    td_engine_close(e);
    return s;
}

static double share(score s) {
    return s.drafted ? (double)s.accepted / (double)s.drafted : 0;
}

/* Answers part where the types do, and go on as other samples: one standard error of the difference is theirs. */
static double limit_of(score base, score other) {
    double p = share(base);
    return 0.03 + sqrt(p * (1 - p) * (1.0 / base.drafted + 1.0 / other.drafted));
}

static void test_types(void **state) {
    (void)state;
    static const char *const few[] = {"q8_0", "q4_0", "q4_K_M", "tq4_1s"};
    int n_bad = 0, n_few = test_share((int)(sizeof few / sizeof *few), 1);
    for (int i = 0; i < n_sources; i++) {
        const source *s = &sources[i];
        score base = accept(s->target, s->assistant, s->chat);
        print_message("%-24s f32     %.3f (%d drafts)\n", s->name, share(base), base.drafted);
        const td_ftype *type;
        for (int t = 0; (type = td_ftype_at(t)); t++) {
            char target[600], assistant[600];
            bool chosen = all_types && t > 0;
            for (int k = 0; k < n_few; k++) chosen = chosen || !strcmp(few[k], type->name);
            if (!chosen) continue;
            snprintf(target, sizeof target, "%s/target.gguf", folder);
            snprintf(assistant, sizeof assistant, "%s/assistant.gguf", folder);
            if (!strcmp(type->name, "q2_K_S")) continue; /* not without an importance matrix */
            assert_int_equal(quantize(s->target, target, type), TD_OK);
            assert_int_equal(quantize(s->assistant, assistant, type), TD_OK);
            score a = accept(target, assistant, s->chat);
            double d = share(a) - share(base);
            bool bad = fabs(d) > limit_of(base, a);
            n_bad += bad;
            print_message("%-24s %-7s %.3f %+.3f%s\n", s->name, type->name, share(a), d, bad ? " too far" : "");
        }
    }
    assert_int_equal(n_bad, 0);
}

int main(int argc, char **argv) {
    all_types = argc > 1 && !strcmp(argv[1], "all");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
