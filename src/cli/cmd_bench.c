/* `tandem bench`: prefill, decode at depth, verify and draft costs, speculative generation; llama-bench's flags and
 * tables, and beside every result its distance to the machine's own limit. */
#include "bench_tests.h"
#include "commands.h"
#include "engine_options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

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
    {.kind = TD_OPT_LIST, .names = "--cache-type-k -ctk", AT(types_k), .arg = "TYPE", .help = "Keys (f16); a list"},
    {.kind = TD_OPT_LIST, .names = "--cache-type-v -ctv", AT(types_v), .arg = "TYPE", .help = "Values (f16); a list"},
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
    {.kind = TD_OPT_SWITCH,
     .names = "--warmup",
     AT(warmup),
     .negative = "--no-warmup",
     .help = "Before them one that does not count (default)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--interleave",
     AT(interleave),
     .help =
         "Settings (models, threads, cache types, depths) in turn: a repetition of each, then the next of each, and "
         "the median of their ratios to the first one; -ctk and -ctv lists of one length go in pairs"},
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
    {.kind = TD_OPT_SWITCH, .names = "--progress", AT(progress), .help = "A line on standard error as each run begins"},
    {.kind = TD_OPT_GROUP, .help = "Accepted so that scripts keep working"},
    {.kind = TD_OPT_ACCEPT,
     .names = "-ngl --n-gpu-layers -ncmoe --n-cpu-moe -sm --split-mode -mg --main-gpu -nkvo --no-kv-offload -fa "
              "--flash-attn -dev --device -mmp --mmap -dio --direct-io -embd --embeddings -ts --tensor-split -ot "
              "--override-tensor -nopo --no-op-offload --no-host -fitt -fitc --cpu-mask -C --cpu-strict --poll --prio "
              "--spec-type -ngld",
     .arg = "X",
     .help = "No effect: the CPU, one path"},
    {.kind = TD_OPT_ACCEPT, .names = "-v --verbose --list-devices", .help = "No effect"},
    {.kind = TD_OPT_END},
};

/* ---- lists ---- */

static bool push(bench_ints *l, long v) {
    if (v < 0 || v > INT32_MAX || l->n == BENCH_LIST) return false;
    l->at[l->n++] = (int)v;
    return true;
}

/* first-last, first-last+step, first-last*factor */
static bool range(const char *text, size_t n, bench_ints *out) {
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

static bool parse_ints(const char *flag, const td_option_list *l, const char *def, bench_ints *out) {
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

/* Names of cache types, apart by commas. */
static bool parse_types(const char *flag, const td_option_list *l, bench_ints *out) {
    if (l->n == 0) return push(out, TD_CACHE_F16);
    for (int i = 0; i < l->n; i++)
        for (const char *at = l->items[i]; *at;) {
            size_t len = strcspn(at, ",");
            char name[16];
            td_cache_type type;
            td_error err = {0};
            snprintf(name, sizeof name, "%.*s", (int)len, at);
            if (td_cache_type_from_flag(flag, name, &type, &err)) {
                fprintf(stderr, "tandem bench: %s\n", err.text);
                return false;
            }
            if (!push(out, type)) return false;
            at += len + (at[len] == ',');
        }
    return out->n > 0;
}

static bool make_plan(const bench_options *o, bench_plan *p) {
    bool given = o->prompts.n || o->gens.n || o->pgs.n || o->verify.n || o->draft.n || o->tgs.n;
    if (!parse_ints("-p", &o->prompts, given ? NULL : "512", &p->prompts) ||
        !parse_ints("-n", &o->gens, given ? NULL : "128", &p->gens) || !parse_ints("-d", &o->depths, "0", &p->depths) ||
        !parse_ints("--verify", &o->verify, NULL, &p->verify) ||
        !parse_ints("--draft-steps", &o->draft, !given && o->draft_model ? "1" : NULL, &p->draft) ||
        !parse_ints("-np", &o->slots, "1", &p->slots) || !parse_ints("-t", &o->threads, "0", &p->threads) ||
        !parse_types("-ctk", &o->types_k, &p->types_k) || !parse_types("-ctv", &o->types_v, &p->types_v) ||
        !parse_ints("-ub", &o->ubatch, "512", &p->ubatch) ||
        !parse_ints("--spec-draft-n-max", &o->n_max, "3", &p->n_max) || !parse_ints("--tgs", &o->tgs, NULL, &p->tgs))
        return false;
    for (int i = 0; i < o->pgs.n && p->n_pg < BENCH_LIST; i++, p->n_pg++) {
        char extra = 0;
        if (sscanf(o->pgs.items[i], "%d,%d%c", &p->pg[p->n_pg][0], &p->pg[p->n_pg][1], &extra) != 2) {
            fprintf(stderr, "tandem bench: -pg: '%s' is not PP,TG\n", o->pgs.items[i]);
            return false;
        }
    }
    return true;
}

static int most(const bench_ints *l) {
    int m = 0;
    for (int i = 0; i < l->n; i++) m = l->at[i] > m ? l->at[i] : m;
    return m;
}

/* ---- one engine ---- */

static int context_needed(const bench_plan *p) {
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

/* `weights_of`: an engine of the same model, or NULL. */
static bool open_engine(bench *b, td_engine *weights_of) {
    td_engine_flags f;
    td_engine_flags_init(&f);
    f.model = b->set.model;
    f.draft = b->o->draft_model;
    f.weights_of = weights_of;
    f.n_ctx = context_needed(b->p);
    f.n_batch = b->o->batch;
    f.n_ubatch = b->set.ubatch;
    f.n_threads = b->set.threads;
    f.n_slots = most(&b->p->slots);
    f.prefill_ms = 0;
    f.pack = b->o->pack;
    f.pack_cache = b->o->pack_cache;
    f.type_k = td_cache_type_name(b->set.type_k);
    f.type_v = td_cache_type_name(b->set.type_v);
    f.type_k_swa = f.type_v_swa = "auto";
    f.n_checkpoints = 4;
    f.cache_ram_mib = 8192;
    f.spec_n_max = most(&b->p->n_max);
    f.ngram_n = 12;
    f.ngram_m = 48;
    f.log_verbosity = 2;
    b->e = td_engine_from_flags("bench", &f);
    if (!b->e) return false;
    b->base = (bench_row){.n_batch = (int)b->o->batch, .n_ubatch = b->set.ubatch, .n_parallel = 1, .n_draft_max = -1};
    td_engine_get_info(b->e, &b->base.info);
    return true;
}

/* ---- all settings ---- */

static bool run_alone(bench *b) {
    if (!open_engine(b, NULL)) return false;
    bench_run_tests(b);
    if (b->o->memory) print_memory(b);
    td_engine_close(b->e);
    return !b->failed;
}

static void *take_turns(void *arg) {
    bench *b = arg;
    bench_turns_wait(b->turns, b->turn);
    bench_run_tests(b);
    bench_turns_leave(b->turns, b->turn);
    return NULL;
}

static td_engine *engine_of(const bench *all, int n, const char *model) {
    for (int i = 0; i < n; i++)
        if (strcmp(all[i].set.model, model) == 0) return all[i].e;
    return NULL;
}

/* Each setting on a thread of its own, of which one runs at a time: a repetition of each, then the next of each. */
static bool run_in_turn(bench *all, int n) {
    bench_turns turns;
    pthread_t threads[BENCH_MAX_TURNS];
    int n_open = 0, n_started = 0;
    bool ok = true;
    while (n_open < n && open_engine(&all[n_open], engine_of(all, n_open, all[n_open].set.model))) n_open++;
    bench_turns_init(&turns, n);
    for (int i = 0; i < n; i++) {
        all[i].turns = &turns;
        all[i].turn = i;
        all[i].first = &all[0];
    }
    if (n_open == n)
        while (n_started < n && !pthread_create(&threads[n_started], NULL, take_turns, &all[n_started])) n_started++;
    for (int i = n_started; i < n; i++) bench_turns_leave(&turns, i);
    for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < n; i++) ok = ok && i < n_started && !all[i].failed;
    for (int i = 0; i < n_open && all[0].o->memory; i++) print_memory(&all[i]);
    for (int i = n_open - 1; i >= 0; i--) td_engine_close(all[i].e); /* the owner of the weights last */
    free(all[0].rows);
    bench_turns_destroy(&turns);
    return ok;
}

/* ---- settings ---- */

typedef struct settings {
    bench_setting *at; /* [n] */
    int n, cap;
} settings;

static bool add(settings *all, bench_setting s) {
    if (all->n == all->cap) {
        int cap = all->cap > 0 ? 2 * all->cap : 16;
        bench_setting *at = realloc(all->at, (size_t)cap * sizeof *at);
        if (!at) return false;
        all->at = at;
        all->cap = cap;
    }
    all->at[all->n++] = s;
    return true;
}

/* One after the other: all depths on an engine. In turn: an engine for each. */
static bool add_depths(settings *all, const bench_plan *p, bool interleave, bench_setting s) {
    s.depths = p->depths.at;
    s.n_depths = interleave ? 1 : p->depths.n;
    bool ok = add(all, s);
    for (int d = 1; interleave && ok && d < p->depths.n; d++) {
        s.depths = &p->depths.at[d];
        ok = add(all, s);
    }
    return ok;
}

/* One after the other: every type of keys with every type of values, as llama-bench does. In turn: in pairs. */
static bool add_types(settings *all, const bench_plan *p, bool interleave, bench_setting s) {
    const bench_ints *ks = &p->types_k, *vs = &p->types_v;
    bool pairs = interleave && ks->n == vs->n, ok = true;
    for (int k = 0; k < ks->n; k++)
        for (int v = pairs ? k : 0; ok && v < (pairs ? k + 1 : vs->n); v++) {
            s.type_k = (td_cache_type)ks->at[k];
            s.type_v = (td_cache_type)vs->at[v];
            ok = add_depths(all, p, interleave, s);
        }
    return ok;
}

static bool make_settings(settings *all, const bench_options *o, const bench_plan *p) {
    bool ok = true;
    for (int m = 0; m < o->models.n; m++)
        for (int t = 0; t < p->threads.n; t++)
            for (int u = 0; ok && u < p->ubatch.n; u++) {
                bench_setting s = {.model = o->models.items[m], .threads = p->threads.at[t], .ubatch = p->ubatch.at[u]};
                ok = add_types(all, p, o->interleave, s);
            }
    if (!ok) fprintf(stderr, "tandem bench: no memory\n");
    if (ok && o->interleave && all->n > BENCH_MAX_TURNS) {
        fprintf(stderr, "tandem bench: --interleave: %d settings, at most %d\n", all->n, BENCH_MAX_TURNS);
        return false;
    }
    return ok;
}

static bool run_all(const bench_options *o, const bench_plan *p, bench_printer *out, bench_printer *err) {
    settings all = {0};
    bool ok = make_settings(&all, o, p) && all.n > 0;
    bench *b = ok ? calloc((size_t)all.n, sizeof *b) : NULL;
    for (int i = 0; b && i < all.n; i++) b[i] = (bench){.o = o, .p = p, .out = out, .err = err, .set = all.at[i]};
    ok = b != NULL;
    if (ok && o->interleave)
        ok = run_in_turn(b, all.n);
    else
        for (int i = 0; ok && i < all.n; i++) ok = run_alone(&b[i]);
    free(b);
    free(all.at);
    return ok;
}

int td_cmd_bench(int argc, char **argv) {
    bench_options o = {.pack = true, .limits = true, .warmup = true};
    const td_option_set sets[] = {{bench_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"bench", "-m MODEL.gguf [-md ASSISTANT.gguf] [options]",
                                   "Measures prefill, decode, verify and draft costs and speculative generation.", 0,
                                   0};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    bench_plan *p = calloc(1, sizeof *p);
    int code = 1;
    if (o.models.n == 0) {
        fprintf(stderr, "tandem bench: no model is named (-m FILE)\n");
    } else if (p && make_plan(&o, p)) {
        bench_printer out = {.out = stdout, .format = (bench_format)o.format, .extended = true, .ratios = o.interleave},
                      err = out;
        err.out = stderr;
        err.format = (bench_format)o.format_err;
        bench_begin(&out);
        bench_begin(&err);
        code = run_all(&o, p, &out, &err) ? 0 : 1;
        bench_end(&out);
        bench_end(&err);
    }
    free(p);
    td_options_free(sets);
    return code;
}
