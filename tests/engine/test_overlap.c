/* Drafts made beside the engine's thread (LLAMA_PIPELINE_DEPTH2=1) are those made on it (=0), round for round; and
 * while they are in flight, cancels, erasures, saves, restores and drafts asked for from outside come at random from
 * three threads: what is not cancelled has the text of a quiet engine. ThreadSanitizer runs this too. */
#include "../identity/pair.h"
#include "../share.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_VOCAB = 1024, N_PROMPTS = 24, PROMPT = 60, N_PREDICT = 24, SLOTS = 4 };

static pair files;
static uint32_t prompts[N_PROMPTS][PROMPT];
static answer plain[N_PROMPTS];

static int make(void **state) {
    (void)state;
    pair_make(&files, N_VOCAB, 0.7);
    uint64_t x = 77;
    for (int p = 0; p < N_PROMPTS; p++) {
        for (int i = 0; i < PROMPT; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            prompts[p][i] = 200 + (uint32_t)(x >> 33) % (N_VOCAB - 200);
        }
        /* Half of the prompts begin alike, so that prefixes are shared and cut. */
        if (p % 2) memcpy(prompts[p], prompts[0], sizeof prompts[0] / 2);
    }
    return 0;
}

static int drop(void **state) {
    (void)state;
    pair_remove(&files);
    return 0;
}

static td_engine *open_engine(const char *depth2, const char *trace, int threads) {
    setenv("LLAMA_PIPELINE_DEPTH2", depth2, 1);
    return pair_open((pair_engine){.target = files.target,
                                   .draft = files.ordered,
                                   .threads = threads,
                                   .batch = 32,
                                   .slots = SLOTS,
                                   .n_ctx = 128,
                                   .trace = trace});
}

static td_job *start(td_engine *e, int which, uint32_t types, int depth, bool fixed) {
    td_job_params p;
    td_error err = {0};
    td_job *j = NULL;
    td_job_params_init(e, &p);
    p.prompt = prompts[which];
    p.n_prompt = PROMPT - which;
    p.n_predict = N_PREDICT;
    p.sampling.temperature = which % 3 ? 0.0f : 0.9f;
    p.sampling.seed = (uint64_t)which;
    p.spec.types = types;
    p.spec.n_max = depth;
    p.spec.fixed = fixed;
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    return j;
}

/* The trace without its clock: "iter seq_id id_last attn_pos n_steps drafts" of every round; counts its paths. */
static size_t read_rounds(const char *path, char *out, size_t cap, int *n_sync, int *n_lazy) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char line[2048];
    size_t n = 0;
    *n_sync = *n_lazy = 0;
    while (fgets(line, sizeof line, f)) {
        char *at = strstr(line, "\"seq_id\""), *end = strstr(line, "\"ts_us\"");
        *n_sync += strstr(line, "\"path\":\"sync\"") != NULL;
        *n_lazy += strstr(line, "\"path\":\"lazy\"") != NULL;
        if (!at || !end || strstr(line, "mtp_accept")) continue;
        assert_true(n + (size_t)(end - at) < cap);
        memcpy(out + n, at, (size_t)(end - at));
        n += (size_t)(end - at);
        out[n++] = '\n';
    }
    fclose(f);
    return n;
}

static void test_same_drafts(void **unused) {
    (void)unused;
    static char rounds[2][1 << 20];
    size_t n[2];
    int n_sync[2], n_lazy[2], turns = test_share(N_PROMPTS, 4);
    uint32_t outside[2][6];
    for (int beside = 0; beside < 2; beside++) {
        char path[600];
        snprintf(path, sizeof path, "%s/trace-%d.ndjson", files.folder, beside);
        td_engine *e = open_engine(beside ? "1" : "0", path, 2);
        answer a;
        for (int p = 0; p < turns; p++) {
            answer_read(start(e, p, TD_SPEC_MTP, 1 + p % 8, true), &a);
            if (!beside)
                plain[p] = a;
            else
                answer_same(&a, &plain[p], "drafted beside", p);
        }
        td_slot_info info[SLOTS];
        td_error err = {0};
        int slot = 0, got = 0;
        td_slots_get(e, info, SLOTS);
        while (info[slot].n_tokens == 0) slot++;
        assert_int_equal(td_draft_submit(e, slot, a.ids[a.n - 1], 6, &err), TD_OK);
        assert_int_equal(td_draft_wait(e, slot, outside[beside], 6, &got, &err), TD_OK);
        assert_int_equal(got, 6);
        td_engine_close(e);
        n[beside] = read_rounds(path, rounds[beside], sizeof rounds[0], &n_sync[beside], &n_lazy[beside]);
    }
    assert_true(n_sync[0] > turns && n_lazy[0] == 0);
    assert_true(n_lazy[1] == n_sync[0] && n_sync[1] == 0);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(rounds[0], rounds[1], n[0]);
    assert_memory_equal(outside[0], outside[1], sizeof outside[0]);
}

typedef struct driver {
    td_engine *e;
    uint64_t rng;
    int turns, compared, cancelled, erased, saved, drafted;
    bool failed;
    char path[600];
} driver;

static uint32_t next(driver *d) {
    d->rng = d->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->rng >> 33);
}

static void one_job(driver *d) {
    int which = (int)(next(d) % N_PROMPTS), events = (int)(next(d) % 12);
    bool cancel = next(d) % 2;
    td_job *j = start(d->e, which, next(d) % 4 ? TD_SPEC_MTP : TD_SPEC_NONE, 1 + (int)(next(d) % 8), next(d) % 2);
    if (!cancel) {
        answer a;
        answer_read(j, &a);
        d->compared++;
        d->failed |= a.n != plain[which].n || memcmp(a.ids, plain[which].ids, (size_t)a.n * sizeof *a.ids) != 0;
        return;
    }
    td_event ev = {0};
    for (int i = 0; i < events && ev.kind != TD_EVENT_DONE; i++)
        if (td_job_read(j, &ev, -1)) break;
    if (next(d) % 2) td_job_cancel(j);
    td_job_close(j);
    d->cancelled++;
}

static void one_operation(driver *d) {
    td_error err = {0};
    int slot = (int)(next(d) % SLOTS), n = 0;
    uint32_t drafts[8];
    td_slot_info info[SLOTS];
    td_counters counters;
    switch (next(d) % 6) {
    case 0: /* TD_ERR_BUSY is a good answer to all of these */
        d->erased += td_slot_erase(d->e, slot, NULL, &err) == TD_OK;
        break;
    case 1:
        d->saved += td_slot_save(d->e, slot, d->path, NULL, NULL, &err) == TD_OK;
        break;
    case 2:
        (void)td_slot_restore(d->e, slot, d->path, NULL, NULL, NULL, &err);
        break;
    case 3:
        if (td_draft_submit(d->e, slot, 300, 1 + (int)(next(d) % 8), &err) == TD_OK && next(d) % 2)
            d->drafted += td_draft_wait(d->e, slot, drafts, 8, &n, &err) == TD_OK && n > 0;
        else
            td_draft_cancel(d->e, slot);
        break;
    default:
        td_slots_get(d->e, info, SLOTS);
        td_counters_get(d->e, &counters);
    }
}

static void *drive(void *arg) {
    driver *d = arg;
    for (int i = 0; i < d->turns; i++) {
        one_job(d);
        one_operation(d);
        one_operation(d);
    }
    return NULL;
}

static void test_random_cancels(void **unused) {
    (void)unused;
    enum { DRIVERS = 3 };
    td_engine *e = open_engine("0", NULL, 1);
    for (int p = 0; p < N_PROMPTS; p++) answer_read(start(e, p, TD_SPEC_NONE, 0, true), &plain[p]);
    td_engine_close(e);
    e = open_engine("1", NULL, 2);
    driver d[DRIVERS];
    pthread_t threads[DRIVERS];
    memset(d, 0, sizeof d);
    for (int i = 0; i < DRIVERS; i++) {
        d[i].e = e;
        d[i].rng = (uint64_t)i + 1;
        d[i].turns = test_share(150, 12);
        snprintf(d[i].path, sizeof d[i].path, "%s/slot-%d", files.folder, i);
        assert_int_equal(pthread_create(&threads[i], NULL, drive, &d[i]), 0);
    }
    driver sum = {0};
    for (int i = 0; i < DRIVERS; i++) {
        pthread_join(threads[i], NULL);
        if (d[i].failed) fail_msg("driver %d: another text than alone", i);
        sum.compared += d[i].compared;
        sum.cancelled += d[i].cancelled;
        sum.erased += d[i].erased;
        sum.saved += d[i].saved;
        sum.drafted += d[i].drafted;
    }
    td_engine_close(e);
    assert_true(sum.compared > 0 && sum.cancelled > 0 && sum.erased > 0 && sum.saved > 0);
}

/* Closing with drafts in flight and jobs running ends them, and nothing is left behind (AddressSanitizer). */
static void test_close_in_flight(void **unused) {
    (void)unused;
    for (int i = 0; i < 6; i++) {
        td_engine *e = open_engine("1", NULL, 2);
        td_job *j = start(e, i, TD_SPEC_MTP, 8, true), *k = start(e, i + 1, TD_SPEC_MTP, 8, true);
        td_event ev;
        for (int n = 0; n < i; n++) (void)td_job_read(j, &ev, -1);
        td_job_close(j);
        td_job_close(k);
        td_engine_close(e);
    }
}

static double process_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A job for a slot whose draft nobody has fetched waits without using the processor, and runs once it is. */
static void test_unfetched(void **unused) {
    (void)unused;
    td_engine *e = open_engine("0", NULL, 1);
    answer before, after;
    answer_read(start(e, 0, TD_SPEC_MTP, 4, true), &before);
    td_slot_info info[SLOTS];
    td_error err = {0};
    int slot = 0, n = 0;
    td_slots_get(e, info, SLOTS);
    while (info[slot].n_tokens == 0) slot++;
    assert_int_equal(td_draft_submit(e, slot, before.ids[before.n - 1], 4, &err), TD_OK);
    td_job_params p;
    td_job *j = NULL;
    td_job_params_init(e, &p);
    p.prompt = prompts[0];
    p.n_prompt = PROMPT;
    p.n_predict = N_PREDICT;
    p.slot = slot;
    p.sampling.temperature = 0.9f;
    p.sampling.seed = 0;
    assert_int_equal(td_job_submit(e, &p, &j, &err), TD_OK);
    usleep(100000); /* the draft is made */
    double used = process_seconds();
    usleep(500000);
    used = process_seconds() - used;
    if (used > 0.1) fail_msg("%.3f s of processor in half a second of waiting", used);
    uint32_t drafts[4];
    td_event ev;
    assert_int_equal(td_job_read(j, &ev, 0), TD_ERR_BUSY);
    assert_int_equal(td_draft_wait(e, slot, drafts, 4, &n, &err), TD_OK);
    answer_read(j, &after);
    answer_same(&after, &before, "after a draft that was fetched late", slot);
    td_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_drafts), cmocka_unit_test(test_random_cancels),
                                       cmocka_unit_test(test_close_in_flight), cmocka_unit_test(test_unfetched)};
    return cmocka_run_group_tests_name("overlap", tests, make, drop);
}
