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
    {.kind = TD_OPT_SWITCH,
     .names = "--warmup",
     AT(warmup),
     .negative = "--no-warmup",
     .help = "Before them one that does not count (default)"},
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

static bool make_plan(const bench_options *o, bench_plan *p) {
    bool given = o->prompts.n || o->gens.n || o->pgs.n || o->verify.n || o->draft.n || o->tgs.n;
    if (!parse_ints("-p", &o->prompts, given ? NULL : "512", &p->prompts) ||
        !parse_ints("-n", &o->gens, given ? NULL : "128", &p->gens) || !parse_ints("-d", &o->depths, "0", &p->depths) ||
        !parse_ints("--verify", &o->verify, NULL, &p->verify) ||
        !parse_ints("--draft-steps", &o->draft, !given && o->draft_model ? "1" : NULL, &p->draft) ||
        !parse_ints("-np", &o->slots, "1", &p->slots) || !parse_ints("-t", &o->threads, "0", &p->threads) ||
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
    bench_run_tests(b);
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
