/* The tests of `tandem bench`: what each measures, and its distance to the machine's own limit. */
#include "bench_tests.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void stamp(char out[32]) {
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &t);
}

static void pass_turn(const bench *b) {
    if (b->turns) bench_turns_pass(b->turns, b->turn);
}

/* ---- rows ---- */

static void keep_row(bench *b, const bench_row *r) {
    bench_row *rows = realloc(b->rows, (size_t)(b->n_rows + 1) * sizeof *rows);
    if (!rows) return; /* then others have no ratio to it */
    b->rows = rows;
    rows[b->n_rows++] = *r;
}

/* The last row of the same test; settings may differ in all else. */
static const bench_row *same_test(const bench *b, const bench_row *r) {
    for (int i = b->n_rows - 1; i >= 0; i--) {
        const bench_row *x = &b->rows[i];
        if (strcmp(x->test, r->test) == 0 && x->n_prompt == r->n_prompt && x->n_gen == r->n_gen &&
            x->n_parallel == r->n_parallel && x->n_draft_max == r->n_draft_max)
            return x;
    }
    return NULL;
}

/* The first setting comes to each test before the others, so its row is there. */
static void print_row(bench *b, bench_row *r) {
    if (b->first == b) keep_row(b, r);
    const bench_row *first = b->first ? same_test(b->first, r) : NULL;
    if (first) r->ratio = bench_ratio(r, first);
    bench_print(b->out, r);
    bench_print(b->err, r);
}

static void print_stages(const bench *b, const td_measured *m) {
    if (!b->o->stages) return;
    int64_t total = 0;
    for (int i = 0; i < m->n_stages; i++) total += m->stages[i].ns;
    for (int i = 0; i < m->n_stages; i++)
        fprintf(stderr, "    %-20s %9.3f ms  %5.1f %%  %9.2f MB  %6.2f GB/s\n", m->stages[i].name,
                (double)m->stages[i].ns * 1e-6, total ? 100.0 * (double)m->stages[i].ns / (double)total : 0,
                (double)m->stages[i].n_bytes * 1e-6,
                m->stages[i].ns ? (double)m->stages[i].n_bytes / (double)m->stages[i].ns : 0);
}

static double median_ns(const bench_row *r) {
    double mean_ns, dev_ns, mean, dev, median;
    bench_stats(r, &mean_ns, &dev_ns, &mean, &dev, &median);
    return median > 0 ? 1e9 * r->n_tokens / median : 0;
}

/* A run of a test that is about to begin. */
typedef struct run {
    const bench *b;
    const bench_row *r;
} run;

/* `rep` below 0: not measured. */
static void before_run(void *user, int rep) {
    const run *u = user;
    pass_turn(u->b);
    if (!u->b->o->progress) return;
    char name[BENCH_NAME], setting[32] = "";
    bench_name(u->r, name);
    if (u->b->turns) snprintf(setting, sizeof setting, "setting %d: ", u->b->turn + 1);
    if (rep < 0)
        fprintf(stderr, "tandem bench: %s%s: warm-up\n", setting, name);
    else
        fprintf(stderr, "tandem bench: %s%s: run %d/%d\n", setting, name, rep + 1, (int)u->b->o->reps);
}

/* Measures; fills times, bytes, barriers. False: reported. Settings that take turns have tokens of their own: with the
 * same ones the first setting alone would wait for their embedding rows, which stay in the file until they are read. */
static bool measure(bench *b, td_measure_kind kind, int n, int depth, int slots, bench_row *r) {
    run u = {b, r};
    td_measure what = {.kind = kind,
                       .n = n,
                       .depth = depth,
                       .n_slots = slots,
                       .n_reps = (int)b->o->reps,
                       .n_warmup = b->o->warmup ? 1 : 0,
                       .seed = (uint64_t)(b->o->seed + b->turn),
                       .stages = b->o->stages,
                       .before = before_run,
                       .user = &u};
    td_measured m;
    td_error err = {0};
    stamp(r->time);
    td_status status = td_engine_measure(b->e, &what, &m, &err);
    pass_turn(b); /* the others have their last run before anything else is done */
    if (status) {
        fprintf(stderr, "tandem bench: %s\n", err.text);
        b->failed = true;
        return false;
    }
    r->n_reps = what.n_reps;
    memcpy(r->ns, m.ns, sizeof m.ns);
    r->step_bytes = m.step_bytes;
    r->token_macs = m.token_macs;
    r->result_macs = m.result_macs;
    r->barriers = m.barriers;
    r->n_tokens = n * (slots > 0 ? slots : 1);
    print_stages(b, &m);
    if (b->o->delay > 0) {
        struct timespec t = {(time_t)b->o->delay, (long)((b->o->delay - floor(b->o->delay)) * 1e9)};
        nanosleep(&t, NULL);
    }
    return true;
}

static void read_limits(bench *b) {
    td_engine_limits(b->e, &b->read_bytes, &b->int8_macs);
    fprintf(stderr, "machine: %s, %d threads, read %.1f GB/s, 8-bit peak %.0f GMAC/s\n", b->base.info.cpu,
            b->base.info.n_threads, b->read_bytes * 1e-9, b->int8_macs * 1e-9);
}

/* The limits read before a test and after it, in the middle: shared machines change their speed. Those after it stand
 * before the next. */
static void limits_around(bench *b, double *read_bytes, double *int8_macs) {
    *read_bytes = b->read_bytes;
    *int8_macs = b->int8_macs;
    if (!b->o->limits) return;
    read_limits(b);
    *read_bytes = (*read_bytes + b->read_bytes) / 2;
    *int8_macs = (*int8_macs + b->int8_macs) / 2;
}

static void prefill_test(bench *b, int n, int depth) {
    bench_row r = b->base;
    r.test = "pp";
    r.n_prompt = n;
    r.n_depth = depth;
    if (!measure(b, TD_MEASURE_PREFILL, n, depth, 1, &r)) return;
    double ns = median_ns(&r), read, macs; /* attention is left out: the share is of the work with weights */
    limits_around(b, &read, &macs);
    if (macs > 0 && ns > 0)
        r.limit_share = ((double)r.token_macs * (n - 1) + (double)r.result_macs) / (ns * 1e-9) / macs;
    print_row(b, &r);
}

static void decode_test(bench *b, int n, int depth, int slots) {
    bench_row r = b->base;
    r.test = "tg";
    r.n_gen = n;
    r.n_depth = depth;
    r.n_parallel = slots;
    if (!measure(b, TD_MEASURE_DECODE, n, depth, slots, &r)) return;
    r.barriers /= (uint64_t)n;
    double step_ns = median_ns(&r) / n, read, macs;
    if (slots == 1) b->decode_ns = step_ns;
    limits_around(b, &read, &macs);
    if (read > 0 && step_ns > 0) r.limit_share = (double)r.step_bytes / (step_ns * 1e-9) / read;
    print_row(b, &r);
}

static void pair_test(bench *b, int pp, int tg, int depth) {
    bench_row r = b->base, g = b->base;
    r.test = g.test = "pg";
    r.n_prompt = g.n_prompt = pp;
    r.n_gen = g.n_gen = tg;
    r.n_depth = g.n_depth = depth;
    if (!measure(b, TD_MEASURE_PREFILL, pp, depth, 1, &r) || !measure(b, TD_MEASURE_DECODE, tg, depth + pp, 1, &g))
        return;
    for (int i = 0; i < r.n_reps; i++) r.ns[i] += g.ns[i];
    r.n_tokens = pp + tg;
    print_row(b, &r);
}

/* T(1) is measured before and after, so that a drifting machine shows. */
static void verify_test(bench *b, const bench_ints *ks, int depth) {
    bench_row one = b->base;
    one.test = "verify";
    one.n_gen = 1;
    one.n_depth = depth;
    if (!measure(b, TD_MEASURE_VERIFY, 1, depth, 1, &one)) return;
    double t1 = median_ns(&one);
    one.cost = 1;
    one.verify_ms = t1 * 1e-6;
    print_row(b, &one);
    for (int i = 0; i < ks->n; i++) {
        bench_row r = b->base;
        r.test = "verify";
        r.n_gen = ks->at[i];
        r.n_depth = depth;
        if (ks->at[i] <= 1 || !measure(b, TD_MEASURE_VERIFY, ks->at[i], depth, 1, &r)) continue;
        bench_row again = one;
        if (!measure(b, TD_MEASURE_VERIFY, 1, depth, 1, &again)) return;
        double t = (t1 + median_ns(&again)) / 2;
        t1 = median_ns(&again);
        r.cost = t > 0 ? median_ns(&r) / t : 0;
        r.verify_ms = median_ns(&r) * 1e-6;
        print_row(b, &r);
    }
}

static void draft_test(bench *b, int n, int depth, int slots) {
    bench_row r = b->base;
    r.test = "draft";
    r.n_gen = n;
    r.n_depth = depth > 0 ? depth : 64;
    r.n_parallel = slots;
    if (!measure(b, TD_MEASURE_DRAFT, n, r.n_depth, slots, &r)) return;
    r.draft_ms = median_ns(&r) * 1e-6 / n;
    if (b->decode_ns > 0) r.cost = median_ns(&r) / n / b->decode_ns;
    print_row(b, &r);
}

/* ---- generation through the engine ---- */

/* A caller that prints or writes JSON in its callback: busy for the time given. */
static void busy_callback(void *user) {
    const bench_options *o = user;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t until = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 + o->callback_us;
    do clock_gettime(CLOCK_MONOTONIC, &t);
    while ((int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 < until);
}

static bool generate(bench *b, int n, int depth, int slots, bool spec, int n_max, int rep, bench_row *r) {
    run u = {b, r};
    before_run(&u, rep);
    td_job *jobs[TD_MAX_SLOTS] = {0};
    td_error err = {0};
    int n_prompt = depth > 0 ? depth : 16;
    uint32_t *prompt = calloc((size_t)n_prompt, sizeof *prompt);
    bool ok = prompt != NULL;
    for (int s = 0; s < slots && ok; s++) {
        td_job_params p;
        td_job_params_init(b->e, &p);
        uint64_t x = (uint64_t)b->o->seed * 7919 + (uint64_t)((rep + 1) * slots + s) * 104729 + 12345;
        for (int i = 0; i < n_prompt; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            prompt[i] = (uint32_t)((x >> 33) % (uint64_t)b->base.info.n_vocab);
        }
        p.prompt = prompt;
        p.n_prompt = n_prompt;
        p.n_predict = n;
        p.cache_prompt = false;
        p.sampling.temperature = 0;
        p.sampling.ignore_end = false;
        p.spec.types = spec ? TD_SPEC_MTP : TD_SPEC_NONE;
        p.spec.n_max = n_max;
        p.spec.fixed = b->o->fixed;
        p.on_ready = b->o->callback_us > 0 ? busy_callback : NULL;
        p.user = (void *)b->o;
        ok = td_job_submit(b->e, &p, &jobs[s], &err) == TD_OK;
    }
    double longest = 0;
    int tokens = 0;
    for (int s = 0; s < slots && ok; s++) {
        td_event ev;
        do ok = td_job_read(jobs[s], &ev, -1) == TD_OK;
        while (ok && ev.kind != TD_EVENT_DONE);
        if (!ok || ev.finish == TD_FINISH_ERROR) {
            ok = false;
            if (ev.error) err = *ev.error;
            break;
        }
        if (ev.timings.predicted_ms > longest) longest = ev.timings.predicted_ms;
        tokens += ev.timings.predicted_n - 1; /* the first token came with the prompt */
        r->draft_n += ev.timings.draft_n;
        r->draft_n_accepted += ev.timings.draft_n_accepted;
        r->draft_rounds += ev.timings.draft_rounds;
        r->draft_ms += ev.timings.draft_ms;
        r->verify_ms += ev.timings.verify_ms;
        for (int i = 0; i < TD_MAX_DRAFT; i++) r->accepted_at[i] += ev.timings.accepted_at[i];
    }
    for (int s = 0; s < slots; s++) td_job_close(jobs[s]);
    free(prompt);
    if (!ok) {
        fprintf(stderr, "tandem bench: %s\n", err.text[0] ? err.text : "generation failed");
        b->failed = true;
        return false;
    }
    /* A text may end early, in each repetition elsewhere: the time is that of all tokens at its rate. */
    r->n_tokens = (n - 1) * slots;
    if (tokens > 0) longest *= (double)r->n_tokens / tokens;
    r->ns[r->n_reps++] = (int64_t)(longest * 1e6);
    return true;
}

/* Plain and speculative generation in turn: A B A B. */
static void tgs_test(bench *b, int n, int depth, int slots, int n_max) {
    bench_row plain = b->base, spec = b->base;
    plain.test = "tg";
    spec.test = "tgs";
    plain.n_gen = spec.n_gen = n;
    plain.n_depth = spec.n_depth = depth;
    plain.n_parallel = spec.n_parallel = slots;
    spec.n_draft_max = n_max;
    stamp(plain.time);
    stamp(spec.time);
    bench_row warm = spec;
    if (b->o->warmup && !generate(b, n < 32 ? n : 32, depth, slots, true, n_max, -1, &warm)) return;
    for (int rep = 0; rep < b->o->reps; rep++)
        if (!generate(b, n, depth, slots, false, n_max, rep, &plain) ||
            !generate(b, n, depth, slots, true, n_max, rep, &spec))
            return;
    pass_turn(b);
    double a = median_ns(&plain), c = median_ns(&spec);
    spec.speed_up = c > 0 ? a / c * spec.n_tokens / plain.n_tokens : 0;
    if (spec.draft_rounds > 0) {
        spec.verify_ms /= spec.draft_rounds;
        spec.draft_ms /= spec.draft_rounds;
    }
    print_row(b, &plain);
    print_row(b, &spec);
}

void bench_run_tests(bench *b) {
    const bench_plan *p = b->p;
    if (b->o->limits) read_limits(b);
    for (int d = 0; d < b->set.n_depths; d++) {
        int depth = b->set.depths[d];
        for (int i = 0; i < p->prompts.n; i++)
            if (p->prompts.at[i] > 0) prefill_test(b, p->prompts.at[i], depth);
        for (int s = 0; s < p->slots.n; s++)
            for (int i = 0; i < p->gens.n; i++)
                if (p->gens.at[i] > 0) decode_test(b, p->gens.at[i], depth, p->slots.at[s]);
        for (int i = 0; i < p->n_pg; i++) pair_test(b, p->pg[i][0], p->pg[i][1], depth);
        if (p->verify.n > 0) verify_test(b, &p->verify, depth);
        for (int s = 0; s < p->slots.n; s++)
            for (int i = 0; i < p->draft.n; i++) draft_test(b, p->draft.at[i], depth, p->slots.at[s]);
        for (int s = 0; s < p->slots.n; s++)
            for (int i = 0; i < p->tgs.n; i++)
                for (int k = 0; k < p->n_max.n; k++) tgs_test(b, p->tgs.at[i], depth, p->slots.at[s], p->n_max.at[k]);
    }
}
