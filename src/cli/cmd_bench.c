/* `tandem bench`: prefill, decode at depth, verify and draft costs, speculative generation; llama-bench's flags and
 * tables, and beside every result its distance to the machine's own limit. */
#include "bench.h"
#include "commands.h"
#include "engine_options.h"

#include "../base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

typedef struct bench_options {
    td_option_list models, prompts, gens, pgs, depths, verify, draft, slots, threads, ubatch, types_k, types_v, n_max,
        tgs;
    int64_t reps, batch, seed, callback_us;
    int format, format_err;
    const char *draft_model, *pack_cache;
    double delay;
    bool pack, stages, limits, progress, fixed, no_warmup, memory;
} bench_options;

#define AT(field) .offset = offsetof(bench_options, field)

static const td_option bench_table[] = {
    {.kind = TD_OPT_GROUP, .help = "What (lists: 1,2 or repeated; ranges: 64-512, 64-512+64, 64-512*2)"},
    {.kind = TD_OPT_LIST, .names = "--model -m", AT(models), .arg = "FILE", .help = "Model; repeatable"},
    {.kind = TD_OPT_STRING,
     .names = "--model-draft -md --mtp-head",
     AT(draft_model),
     .arg = "FILE",
     .help = "Its assistant: adds the draft test and, with --tgs, speculative generation"},
    {.kind = TD_OPT_LIST, .names = "--n-prompt -p", AT(prompts), .arg = "N", .help = "Prefill sizes (512)"},
    {.kind = TD_OPT_LIST, .names = "--n-gen -n", AT(gens), .arg = "N", .help = "Tokens to decode (128)"},
    {.kind = TD_OPT_LIST, .names = "-pg", AT(pgs), .arg = "PP,TG", .help = "Prefill and decode together; repeatable"},
    {.kind = TD_OPT_LIST, .names = "--n-depth -d", AT(depths), .arg = "N", .help = "Positions in the cache before (0)"},
    {.kind = TD_OPT_LIST, .names = "--verify", AT(verify), .arg = "K", .help = "Verify batches of K rows: T(K)/T(1)"},
    {.kind = TD_OPT_LIST,
     .names = "--draft-steps",
     AT(draft),
     .arg = "N",
     .help = "Draft chains of N steps (1 when there is an assistant)"},
    {.kind = TD_OPT_LIST,
     .names = "--tgs",
     AT(tgs),
     .arg = "N",
     .help = "Speculative generation of N tokens against plain generation"},
    {.kind = TD_OPT_LIST, .names = "--parallel -np", AT(slots), .arg = "N", .help = "Sequences generated together (1)"},
    {.kind = TD_OPT_GROUP, .help = "How"},
    {.kind = TD_OPT_LIST, .names = "--threads -t", AT(threads), .arg = "N", .help = "Threads"},
    {.kind = TD_OPT_INT,
     .names = "--batch-size -b",
     AT(batch),
     .arg = "N",
     .def = "2048",
     .min = 1,
     .max = 16384,
     .help = "Logical batch"},
    {.kind = TD_OPT_LIST, .names = "--ubatch-size -ub", AT(ubatch), .arg = "N", .help = "Rows of a pass (512)"},
    {.kind = TD_OPT_LIST, .names = "--cache-type-k -ctk", AT(types_k), .arg = "TYPE", .help = "Keys (f16)"},
    {.kind = TD_OPT_LIST, .names = "--cache-type-v -ctv", AT(types_v), .arg = "TYPE", .help = "Values (f16)"},
    {.kind = TD_OPT_LIST, .names = "--spec-draft-n-max", AT(n_max), .arg = "N", .help = "Drafts per round (3)"},
    {.kind = TD_OPT_SWITCH, .names = "--spec-fixed", AT(fixed), .help = "No depth policy"},
    {.kind = TD_OPT_INT,
     .names = "--callback-us",
     AT(callback_us),
     .arg = "N",
     .def = "0",
     .max = 1000000,
     .help = "With --tgs: what a caller's callback takes per round, in microseconds"},
    {.kind = TD_OPT_SWITCH,
     .names = "--repack",
     AT(pack),
     .negative = "--no-repack -nr --no-pack",
     .help = "Interleave weights (default)"},
    {.kind = TD_OPT_STRING,
     .names = "--pack-cache",
     AT(pack_cache),
     .arg = "DIR",
     .help = "Keep packed weights on disk"},
    {.kind = TD_OPT_INT,
     .names = "--repetitions -r",
     AT(reps),
     .arg = "N",
     .def = "5",
     .min = 1,
     .max = BENCH_MAX_REPS,
     .help = "Measured runs of each test"},
    {.kind = TD_OPT_INT, .names = "--seed", AT(seed), .arg = "N", .def = "1", .help = "Of the random tokens"},
    {.kind = TD_OPT_FLOAT,
     .names = "--delay",
     AT(delay),
     .arg = "S",
     .def = "0",
     .min = 0,
     .max = 3600,
     .help = "Pause between tests"},
    {.kind = TD_OPT_SWITCH, .names = "--stages", AT(stages), .help = "Time and bytes of each stage of a step"},
    {.kind = TD_OPT_SWITCH,
     .names = "--limits",
     AT(limits),
     .negative = "--no-limits",
     .help = "Measure the machine before and after each test (default)"},
    {.kind = TD_OPT_SWITCH, .names = "--memory", AT(memory), .help = "Load time and peak memory at the end"},
    {.kind = TD_OPT_GROUP, .help = "Output"},
    {.kind = TD_OPT_CHOICE,
     .names = "--output -o",
     AT(format),
     .arg = "md|csv|json|jsonl|sql",
     .def = "md",
     .words = "md csv json jsonl sql none",
     .help = "Format on standard output"},
    {.kind = TD_OPT_CHOICE,
     .names = "--output-err -oe",
     AT(format_err),
     .arg = "md|csv|json|jsonl|sql",
     .def = "none",
     .words = "md csv json jsonl sql none",
     .help = "Format on standard error"},
    {.kind = TD_OPT_SWITCH,
     .names = "--progress",
     AT(progress),
     .help = "A line on standard error as each test begins"},
    {.kind = TD_OPT_GROUP, .help = "Accepted so that scripts keep working"},
    {.kind = TD_OPT_ACCEPT,
     .names = "-ngl --n-gpu-layers -ncmoe --n-cpu-moe -sm --split-mode -mg --main-gpu -nkvo --no-kv-offload -fa "
              "--flash-attn -dev --device -mmp --mmap -dio --direct-io -embd --embeddings -ts --tensor-split -ot "
              "--override-tensor -nopo --no-op-offload --no-host -fitt -fitc --cpu-mask -C --cpu-strict --poll --prio "
              "--spec-type -ngld",
     .arg = "X",
     .help = "No effect: the CPU, one path"},
    {.kind = TD_OPT_ACCEPT, .names = "--no-warmup -v --verbose --list-devices", .help = "No effect"},
    {.kind = TD_OPT_END},
};

/* ---- lists ---- */

enum { MAX_LIST = 256 };
typedef struct ints {
    int at[MAX_LIST];
    int n;
} ints;

static bool push(ints *l, long v) {
    if (v < 0 || v > INT32_MAX || l->n == MAX_LIST) return false;
    l->at[l->n++] = (int)v;
    return true;
}

/* first-last, first-last+step, first-last*factor */
static bool range(const char *text, size_t n, ints *out) {
    char copy[64], *end = NULL;
    if (n == 0 || n >= sizeof copy) return false;
    memcpy(copy, text, n);
    copy[n] = 0;
    long first = strtol(copy, &end, 10);
    if (end == copy) return false;
    if (!*end) return push(out, first);
    if (*end != '-') return false;
    char *next = end + 1;
    long last = strtol(next, &end, 10), step = 1;
    bool times = *end == '*';
    if (end == next) return false;
    if (*end == '+' || times) {
        next = end + 1;
        step = strtol(next, &end, 10);
        if (end == next || step < (times ? 2 : 1)) return false;
    }
    if (*end || first < 1) return false;
    for (long v = first; v <= last; v = times ? v * step : v + step)
        if (!push(out, v)) return false;
    return true;
}

static bool parse_ints(const char *flag, const td_option_list *l, const char *def, ints *out) {
    out->n = 0;
    const char *one[] = {def};
    int n = l->n > 0 ? l->n : def ? 1 : 0;
    const char *const *items = l->n > 0 ? l->items : one;
    for (int i = 0; i < n; i++) {
        for (const char *at = items[i]; *at;) {
            size_t len = strcspn(at, ",");
            if (!range(at, len, out)) {
                fprintf(stderr, "tandem bench: %s: '%s' is not a list of numbers such as 1,64-512*2\n", flag, items[i]);
                return false;
            }
            at += len + (at[len] == ',');
        }
    }
    return true;
}

typedef struct plan {
    ints prompts, gens, depths, verify, draft, slots, threads, ubatch, n_max, tgs;
    int pg[MAX_LIST][2], n_pg;
} plan;

static bool make_plan(const bench_options *o, plan *p) {
    bool given = o->prompts.n || o->gens.n || o->pgs.n || o->verify.n || o->draft.n || o->tgs.n;
    if (!parse_ints("-p", &o->prompts, given ? NULL : "512", &p->prompts) ||
        !parse_ints("-n", &o->gens, given ? NULL : "128", &p->gens) || !parse_ints("-d", &o->depths, "0", &p->depths) ||
        !parse_ints("--verify", &o->verify, NULL, &p->verify) ||
        !parse_ints("--draft-steps", &o->draft, !given && o->draft_model ? "1" : NULL, &p->draft) ||
        !parse_ints("-np", &o->slots, "1", &p->slots) || !parse_ints("-t", &o->threads, "0", &p->threads) ||
        !parse_ints("-ub", &o->ubatch, "512", &p->ubatch) ||
        !parse_ints("--spec-draft-n-max", &o->n_max, "3", &p->n_max) || !parse_ints("--tgs", &o->tgs, NULL, &p->tgs))
        return false;
    for (int i = 0; i < o->pgs.n && p->n_pg < MAX_LIST; i++, p->n_pg++) {
        char extra = 0;
        if (sscanf(o->pgs.items[i], "%d,%d%c", &p->pg[p->n_pg][0], &p->pg[p->n_pg][1], &extra) != 2) {
            fprintf(stderr, "tandem bench: -pg: '%s' is not PP,TG\n", o->pgs.items[i]);
            return false;
        }
    }
    return true;
}

static int most(const ints *l) {
    int m = 0;
    for (int i = 0; i < l->n; i++) m = l->at[i] > m ? l->at[i] : m;
    return m;
}

/* ---- one engine ---- */

typedef struct bench {
    const bench_options *o;
    const plan *p;
    bench_printer out, err;
    td_engine *e;
    bench_row base; /* what all rows of this engine share */
    double read_bytes, int8_macs;
    double decode_ns; /* one token at the depth in hand */
    bool failed;
} bench;

static void stamp(char out[32]) {
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &t);
}

static void print_row(bench *b, const bench_row *r) {
    bench_print(&b->out, r);
    bench_print(&b->err, r);
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

/* Measures; fills times, bytes, barriers. False: reported. */
static bool measure(bench *b, td_measure_kind kind, int n, int depth, int slots, bench_row *r) {
    td_measure what = {.kind = kind,
                       .n = n,
                       .depth = depth,
                       .n_slots = slots,
                       .n_reps = (int)b->o->reps,
                       .seed = (uint64_t)b->o->seed,
                       .stages = b->o->stages};
    td_measured m;
    td_error err = {0};
    stamp(r->time);
    if (b->o->progress) fprintf(stderr, "tandem bench: %s n=%d depth=%d\n", r->test, n, depth);
    if (td_engine_measure(b->e, &what, &m, &err)) {
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
static void verify_test(bench *b, const ints *ks, int depth) {
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
    td_job *jobs[TD_MAX_SLOTS] = {0};
    td_error err = {0};
    int n_prompt = depth > 0 ? depth : 16;
    uint32_t *prompt = calloc((size_t)n_prompt, sizeof *prompt);
    bool ok = prompt != NULL;
    for (int s = 0; s < slots && ok; s++) {
        td_job_params p;
        td_job_params_init(b->e, &p);
        uint64_t x = (uint64_t)b->o->seed * 7919 + (uint64_t)(rep * slots + s) * 104729 + 12345;
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
    r->ns[r->n_reps++] = (int64_t)(longest * 1e6);
    r->n_tokens = tokens;
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
    if (!generate(b, n < 32 ? n : 32, depth, slots, true, n_max, 99, &warm)) return;
    for (int rep = 0; rep < b->o->reps; rep++)
        if (!generate(b, n, depth, slots, false, n_max, rep, &plain) ||
            !generate(b, n, depth, slots, true, n_max, rep, &spec))
            return;
    double a = median_ns(&plain), c = median_ns(&spec);
    spec.speed_up = c > 0 ? a / c * spec.n_tokens / plain.n_tokens : 0;
    if (spec.draft_rounds > 0) {
        spec.verify_ms /= spec.draft_rounds;
        spec.draft_ms /= spec.draft_rounds;
    }
    print_row(b, &plain);
    print_row(b, &spec);
}

static void run_tests(bench *b) {
    const plan *p = b->p;
    for (int d = 0; d < p->depths.n; d++) {
        int depth = p->depths.at[d];
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

static int context_needed(const plan *p) {
    int n = most(&p->prompts), m = most(&p->gens) > most(&p->tgs) + 16 ? most(&p->gens) : most(&p->tgs) + 16;
    for (int i = 0; i < p->n_pg; i++)
        if (p->pg[i][0] + p->pg[i][1] > n) n = p->pg[i][0] + p->pg[i][1];
    if (m > n) n = m;
    return n + most(&p->depths) + 128;
}

static void print_memory(const bench *b) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    fprintf(stderr,
            "load %.2f s, file %.0f MiB, weights %.0f MiB, cache %.0f MiB reserved, work %.0f MiB, peak resident %.0f "
            "MiB\n",
            (double)b->base.info.load_ns * 1e-9, (double)b->base.info.file_bytes / 1048576,
            (double)b->base.info.weight_bytes / 1048576, (double)b->base.info.kv_bytes / 1048576,
            (double)b->base.info.work_bytes / 1048576, (double)use.ru_maxrss / 1024);
}

static bool with_engine(bench *b, const char *model, int threads, int ubatch, const char *type_k, const char *type_v) {
    td_engine_flags f;
    td_engine_flags_init(&f);
    f.model = model;
    f.draft = b->o->draft_model;
    f.n_ctx = context_needed(b->p);
    f.n_batch = b->o->batch;
    f.n_ubatch = ubatch;
    f.n_threads = threads;
    f.n_slots = most(&b->p->slots);
    f.prefill_ms = 0;
    f.pack = b->o->pack;
    f.pack_cache = b->o->pack_cache;
    f.type_k = type_k;
    f.type_v = type_v;
    f.type_k_swa = f.type_v_swa = "auto";
    f.n_checkpoints = 4;
    f.cache_ram_mib = 8192;
    f.spec_n_max = most(&b->p->n_max);
    f.ngram_n = 12;
    f.ngram_m = 48;
    f.log_verbosity = 2;
    b->e = td_engine_from_flags("bench", &f);
    if (!b->e) return false;
    b->base = (bench_row){.n_batch = (int)b->o->batch, .n_ubatch = ubatch, .n_parallel = 1, .n_draft_max = -1};
    td_engine_get_info(b->e, &b->base.info);
    b->decode_ns = 0;
    if (b->o->limits) read_limits(b);
    run_tests(b);
    if (b->o->memory) print_memory(b);
    td_engine_close(b->e);
    return !b->failed;
}

static bool run_all(bench *b) {
    const bench_options *o = b->o;
    static const char *f16[] = {"f16"};
    const char *const *ks = o->types_k.n ? o->types_k.items : f16, *const *vs = o->types_v.n ? o->types_v.items : f16;
    int n_k = o->types_k.n ? o->types_k.n : 1, n_v = o->types_v.n ? o->types_v.n : 1;
    for (int m = 0; m < o->models.n; m++)
        for (int t = 0; t < b->p->threads.n; t++)
            for (int u = 0; u < b->p->ubatch.n; u++)
                for (int k = 0; k < n_k; k++)
                    for (int v = 0; v < n_v; v++)
                        if (!with_engine(b, o->models.items[m], b->p->threads.at[t], b->p->ubatch.at[u], ks[k], vs[v]))
                            return false;
    return true;
}

int td_cmd_bench(int argc, char **argv) {
    bench_options o = {.pack = true, .limits = true};
    const td_option_set sets[] = {{bench_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"bench", "-m MODEL.gguf [-md ASSISTANT.gguf] [options]",
                                   "Measures prefill, decode, verify and draft costs and speculative generation.", 0,
                                   0};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    plan *p = calloc(1, sizeof *p);
    int code = 1;
    if (o.models.n == 0) {
        fprintf(stderr, "tandem bench: no model is named (-m FILE)\n");
    } else if (p && make_plan(&o, p)) {
        bench b = {.o = &o,
                   .p = p,
                   .out = {.out = stdout, .format = (bench_format)o.format, .extended = true},
                   .err = {.out = stderr, .format = (bench_format)o.format_err, .extended = true}};
        bench_begin(&b.out);
        bench_begin(&b.err);
        code = run_all(&b) ? 0 : 1;
        bench_end(&b.out);
        bench_end(&b.err);
    }
    free(p);
    td_options_free(sets);
    return code;
}
