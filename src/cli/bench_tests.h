/* `tandem bench`, shared by the command and its tests: what is asked for, and the engine that it is asked of. */
#ifndef TD_CLI_BENCH_TESTS_H
#define TD_CLI_BENCH_TESTS_H

#include "bench.h"
#include "bench_turns.h"
#include "options.h"

typedef struct bench_options {
    td_option_list models, prompts, gens, pgs, depths, verify, draft, slots, threads, ubatch, types_k, types_v, n_max,
        tgs;
    int64_t reps, batch, seed, callback_us;
    int format, format_err;
    const char *draft_model, *pack_cache;
    double delay;
    bool pack, stages, limits, progress, fixed, warmup, memory, interleave;
} bench_options;

enum { BENCH_LIST = 256 };
typedef struct bench_ints {
    int at[BENCH_LIST];
    int n;
} bench_ints;

typedef struct bench_plan { /* the lists of the options, as numbers */
    bench_ints prompts, gens, depths, verify, draft, slots, threads, ubatch, n_max, tgs;
    bench_ints types_k, types_v; /* td_cache_type */
    int pg[BENCH_LIST][2], n_pg;
} bench_plan;

typedef struct bench_setting { /* of an engine */
    const char *model;
    int threads, ubatch;
    td_cache_type type_k, type_v;
    const int *depths; /* [n_depths] that it is measured at */
    int n_depths;
} bench_setting;

typedef struct bench {
    const bench_options *o;
    const bench_plan *p;
    bench_printer *out, *err;
    bench_setting set;
    td_engine *e;
    bench_row base; /* what all rows of this engine share */
    double read_bytes, int8_macs;
    double decode_ns; /* one token at the depth in hand */
    bool failed;

    /* With --interleave, else NULL: settings take turns, and results stand beside those of the first one. */
    bench_turns *turns;
    int turn; /* the place in them */
    struct bench *first;
    bench_row *rows; /* [n_rows] of the first one, so far */
    int n_rows;
} bench;

/* All tests of the plan on the engine; what fails is reported and noted in `failed`. */
void bench_run_tests(bench *b);

#endif
