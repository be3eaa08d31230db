/* What speculation says of itself agrees: the trace, the statistics line, a job's timings and the engine's counters,
 * number for number; the trace has every field of its specification; a streak of fruitless rounds is skipped as it
 * says; the environment variables do what they do elsewhere; an attached assistant's tensors are mtp.<name>. */
#include "../identity/pair.h"
#include "../share.h"

#include "base/log.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_VOCAB = 1024, N_JOBS = 12, SLOTS = 3 };

static pair files;
static char statistics[1024]; /* the last line of draft-mtp that was logged */
static char slot_line[1024];

static void sink(void *user, td_log_level level, const char *line) {
    (void)user;
    (void)level;
    const char *at = strstr(line, "statistics ");
    if (at && strstr(at, "draft-mtp")) snprintf(statistics, sizeof statistics, "%s", at);
    if ((at = strstr(line, "draft acceptance = "))) snprintf(slot_line, sizeof slot_line, "%s", at);
}

static int make(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.6);
    return 0;
}

static int drop(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

static td_job *start(td_engine *e, int which, int skip_streak) {
    td_job_params p;
    td_error err = {0};
    td_job *j = NULL;
    uint32_t prompt[20];
    for (int i = 0; i < 20; i++) prompt[i] = 200 + (uint32_t)(which * 53 + i * 29) % (N_VOCAB - 200);
    td_job_params_init(e, &p);
    p.prompt = prompt;
    p.n_prompt = 20;
    p.n_predict = 40;
    p.sampling.temperature = 0;
    p.spec.types = TD_SPEC_MTP;
    p.spec.n_max = 1 + which % 5;
    p.spec.fixed = true;
    p.spec.skip_streak = skip_streak;
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

static long member(const json_t *o, const char *name) {
    const json_t *v = json_object_get(o, name);
    if (!json_is_integer(v)) fail_msg("%s is not there or no integer", name);
    return (long)json_integer_value(v);
}

typedef struct seen { /* what a trace adds up to */
    long drafts, drafts_accepted, tokens, accepted, skips, steps_skipped, lines;
    bool skip_after_fruit; /* a streak of 1 was skipped although the round before had accepted */
} seen;

static void add_line(const json_t *o, seen *s, long *open, long *last_accepted) {
    const char *evt = json_string_value(json_object_get(o, "evt"));
    assert_non_null(evt);
    long slot = member(o, "seq_id"), iter = member(o, "iter");
    assert_true(slot >= 0 && slot < SLOTS && iter >= 0 && member(o, "slot") == slot);
    if (strcmp(evt, "mtp_accept") == 0) {
        assert_true(open[slot] == member(o, "n_drafted_prev")); /* of the draft before it */
        s->tokens += open[slot];
        s->drafts++;
        s->accepted += last_accepted[slot] = member(o, "n_accepted");
        s->drafts_accepted += last_accepted[slot] > 0;
        open[slot] = 0;
        return;
    }
    assert_string_equal(evt, "mtp_draft");
    const char *path = json_string_value(json_object_get(o, "path"));
    const json_t *drafts = json_object_get(o, "drafts");
    assert_non_null(path);
    assert_true(json_is_array(drafts) && json_is_real(json_object_get(o, "h_l2")));
    assert_true(member(o, "id_last") < N_VOCAB && member(o, "attn_pos") >= 19 && member(o, "h_idx") >= -1);
    assert_true(json_array_size(json_object_get(o, "p")) == json_array_size(drafts));
    open[slot] = (long)json_array_size(drafts);
    if (strncmp(path, "skip", 4) == 0) {
        assert_true(member(o, "n_steps") == 0 && open[slot] == 0);
        s->skips += strcmp(path, "skip-streak") == 0;
        s->steps_skipped += strcmp(path, "skip-nsteps") == 0;
        s->skip_after_fruit |= strcmp(path, "skip-streak") == 0 && last_accepted[slot] > 0;
    } else {
        assert_true(strcmp(path, "sync") == 0 || strcmp(path, "lazy") == 0);
        assert_true(member(o, "n_steps") == open[slot]);
    }
}

static seen read_trace(const char *path) {
    seen s = {0};
    long open[SLOTS] = {0}, last_accepted[SLOTS] = {0};
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char line[4096];
    for (; fgets(line, sizeof line, f); s.lines++) {
        assert_true(strstr(line, ": ") == NULL && strstr(line, ", ") == NULL); /* no spaces */
        json_t *o = json_loads(line, 0, NULL);
        if (!o) fail_msg("not JSON: %s", line);
        add_line(o, &s, open, last_accepted);
        json_decref(o);
    }
    fclose(f);
    return s;
}

static void test_all_agree(void **unused) {
    (void)unused;
    char path[600];
    snprintf(path, sizeof path, "%s/agree.ndjson", files.folder);
    td_log_set_level(TD_LOG_INFO);
    td_log_set_sink(sink, NULL);
    setenv("LLAMA_PIPELINE_DEPTH2", "1", 1);
    setenv("LLAMA_MTP_ACC_TRACE", path, 1);
    td_engine *e = pair_open(
        (pair_engine){.target = files.target, .draft = files.ordered, .threads = 1, .slots = SLOTS, .n_ctx = 128});
    unsetenv("LLAMA_MTP_ACC_TRACE");
    td_job *jobs[N_JOBS];
    long drafted = 0, accepted = 0, rounds = 0;
    for (int i = 0; i < N_JOBS; i++) jobs[i] = start(e, i, 0);
    for (int i = 0; i < N_JOBS; i++) {
        answer a;
        answer_read(jobs[i], &a);
        drafted += a.draft_n;
        accepted += a.accepted;
        rounds += a.rounds;
    }
    td_counters c;
    do td_counters_get(e, &c);
    while (c.n_processing > 0);
    td_engine_close(e);
    td_log_set_sink(NULL, NULL);
    td_log_set_level(TD_LOG_WARN);
    seen s = read_trace(path);
    assert_true(s.drafts > N_JOBS && s.accepted > 0 && s.accepted < s.tokens);
    assert_int_equal(s.tokens, drafted);
    assert_int_equal(s.accepted, accepted);
    assert_int_equal(s.drafts, rounds);
    assert_int_equal(c.mtp.tokens, drafted);
    assert_int_equal(c.mtp.tokens_accepted, accepted);
    assert_int_equal(c.mtp.drafts, rounds);
    assert_int_equal(c.mtp.drafts_accepted, s.drafts_accepted);
    assert_int_equal(c.mtp.calls_begin, N_JOBS);
    assert_true(s.steps_skipped > 0); /* the last token of each job */
    long b, g, a, gen, acc, gen_tokens, acc_tokens;
    float mean = 0, first = 0;
    int n = sscanf(statistics,
                   "statistics        draft-mtp: #calls(b,g,a) = %ld %ld %ld, #gen drafts = %ld, #acc drafts = %ld, "
                   "#gen tokens = %ld, #acc tokens = %ld, #mean acc len = %f, #acc rate/pos = (%f",
                   &b, &g, &a, &gen, &acc, &gen_tokens, &acc_tokens, &mean, &first);
    if (n != 9) fail_msg("%d fields: %s", n, statistics);
    assert_true(b == N_JOBS && a == rounds && gen == rounds && acc == s.drafts_accepted);
    assert_true(gen_tokens == drafted && acc_tokens == accepted && g > 0 && (uint64_t)g == c.mtp.calls_draft);
    assert_true((double)mean > 0.99 + (double)accepted / (double)rounds &&
                (double)mean < 1.01 + (double)accepted / (double)rounds);
    assert_non_null(strstr(statistics, "dur(b,g,a) = "));
    float rate = 0, length = 0;
    int got = 0, of = 0;
    n = sscanf(slot_line, "draft acceptance = %f (%d accepted / %d generated), mean len = %f", &rate, &got, &of,
               &length);
    assert_int_equal(n, 4);
    assert_true(of > 0 && got <= of);
}

/* A streak of one: every fruitless round is followed by one plain step and then by a draft again. */
static void test_skip_streak(void **unused) {
    (void)unused;
    char path[600];
    for (int beside = 0; beside < 2; beside++) {
        snprintf(path, sizeof path, "%s/skip-%d.ndjson", files.folder, beside);
        setenv("LLAMA_PIPELINE_DEPTH2", beside ? "1" : "0", 1);
        answer plain, skipping;
        for (int streak = 0; streak < 2; streak++) {
            td_engine *e = pair_open((pair_engine){.target = files.target,
                                                   .draft = files.dense,
                                                   .threads = 1,
                                                   .slots = 1,
                                                   .n_ctx = 128,
                                                   .trace = streak ? path : NULL});
            answer_read(start(e, 3, streak), streak ? &skipping : &plain);
            td_engine_close(e);
        }
        answer_same(&skipping, &plain, "skip streak", beside);
        seen s = read_trace(path);
        assert_true(s.skips > 0 && s.drafts > s.skips);
        assert_int_equal(s.skips, s.drafts - s.drafts_accepted);
        assert_false(s.skip_after_fruit);
    }
}

static void run_program(const char *environment, const char *more) {
    char command[2048];
    snprintf(command, sizeof command,
             "%s %s run -m models/demo/tandem-demo.gguf -md models/demo/tandem-demo-assistant.gguf -p 'Count to nine.' "
             "-n 24 --temp 0 -t 1 %s >/dev/null",
             environment, getenv("TD_BINARY"), more);
    if (system(command) != 0) fail_msg("%s", command);
}

static long count_lines(const char *path, const char *needle) {
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    char line[4096];
    long n = 0;
    while (fgets(line, sizeof line, f)) n += strstr(line, needle) != NULL;
    fclose(f);
    return n;
}

static void test_environment(void **unused) {
    (void)unused;
    char path[600], text[1200], more[700];
    unsetenv("LLAMA_PIPELINE_DEPTH2");
    snprintf(path, sizeof path, "%s/env.ndjson", files.folder);
    snprintf(text, sizeof text, "LLAMA_PIPELINE_DEPTH2=0 LLAMA_MTP_ACC_TRACE=%s", path);
    run_program(text, "");
    long once = count_lines(path, "mtp_draft");
    assert_true(once > 0 && count_lines(path, "\"sync\"") > 0 && count_lines(path, "\"lazy\"") == 0);
    run_program(text, ""); /* appended, not replaced */
    assert_true(count_lines(path, "mtp_draft") > once);
    remove(path);
    snprintf(text, sizeof text, "LLAMA_PIPELINE_DEPTH2=1 LLAMA_MTP_ACC_TRACE=%s", path);
    run_program(text, "--spec-fixed");
    assert_true(count_lines(path, "\"lazy\"") > 0 && count_lines(path, "\"sync\"") == 0);
    remove(path);
    snprintf(text, sizeof text, "LLAMA_MTP_SKIP_STREAK_THRESHOLD=1 LLAMA_MTP_ACC_TRACE=%s", path);
    run_program(text,
                "--spec-fixed --spec-draft-n-max 1 --temp 3 --top-k 0 --top-p 1 --seed 1"); /* hot: some are refused */
    assert_true(count_lines(path, "skip-streak") > 0);
    remove(path);
    snprintf(text, sizeof text, "LLAMA_MTP_SKIP_STREAK_THRESHOLD=33 LLAMA_MTP_ACC_TRACE=%s", path);
    run_program(text, "--spec-fixed --spec-draft-n-max 1"); /* out of 1..32: ignored */
    assert_true(count_lines(path, "mtp_draft") > 0 && count_lines(path, "skip-streak") == 0);
    remove(path);
    snprintf(more, sizeof more, "2>%s", path);
    run_program("LLAMA_MTP_ACC_TRACE=1", more);
    assert_true(count_lines(path, "mtp_draft") > 0);
    run_program("LLAMA_MTP_ACC_TRACE=0", more);
    assert_int_equal(count_lines(path, "mtp_draft"), 0);
    remove(path);
    snprintf(more, sizeof more, "--spec-trace %s", path);
    run_program("", more);
    assert_true(count_lines(path, "mtp_accept") > 0);
}

/* Kept windows are counted by slot and, from the cache's own books, in all. */
static void test_checkpoints(void **unused) {
    (void)unused;
    td_engine *e = pair_open(
        (pair_engine){.target = files.target, .draft = files.ordered, .threads = 1, .slots = SLOTS, .n_ctx = 1024});
    td_slot_info info[SLOTS];
    td_counters c = {0};
    answer a;
    int sum = 0;
    for (int i = 0; i < SLOTS; i++) answer_read(start(e, i, 0), &a);
    for (int i = 0; i < 400 && c.n_checkpoints < SLOTS; i++) {
        usleep(5000);
        td_counters_get(e, &c);
    }
    td_slots_get(e, info, SLOTS);
    for (int i = 0; i < SLOTS; i++) sum += info[i].n_checkpoints;
    assert_true(sum > 0);
    assert_int_equal(sum, c.n_checkpoints);
    td_engine_close(e);
}

static void test_names(void **unused) {
    (void)unused;
    char command[1024], old[600], name[264];
    snprintf(command, sizeof command, "%s synth tiny --dialect old --vocab %d --assistant-only -q -o %s/old",
             getenv("TD_BINARY"), N_VOCAB, files.folder);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "mv %s/old/*.gguf %s/old.gguf", files.folder, files.folder);
    assert_int_equal(system(command), 0);
    snprintf(old, sizeof old, "%s/old.gguf", files.folder);
    const char *const drafts[] = {files.ordered, old};
    for (int i = 0; i < 2; i++) {
        td_engine *e =
            pair_open((pair_engine){.target = files.target, .draft = drafts[i], .threads = 1, .slots = 1, .n_ctx = 64});
        int n_target = 0, n_draft = 0;
        bool head = false;
        for (size_t t = 0; td_engine_tensor_name(e, t, name, sizeof name); t++) {
            bool attached = strncmp(name, "mtp.", 4) == 0;
            assert_false(!attached && n_draft > 0); /* the target's come first */
            n_draft += attached;
            n_target += !attached;
            assert_true(strncmp(name, "mtp.mtp.", 8) != 0);
            head |= strcmp(name, "mtp.token_embd.weight") == 0;
        }
        td_engine_close(e);
        assert_true(n_target > 20 && n_draft > 40 && head);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_agree), cmocka_unit_test(test_skip_streak),
                                       cmocka_unit_test(test_environment), cmocka_unit_test(test_checkpoints),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests_name("figures", tests, make, drop);
}
