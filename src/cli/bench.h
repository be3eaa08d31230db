/* `tandem bench`, shared by its files: one row per test, printed in llama-bench's formats. */
#ifndef TD_CLI_BENCH_H
#define TD_CLI_BENCH_H

#include "../../include/tandem.h"

#include <stdio.h>

typedef enum bench_format { BENCH_MD, BENCH_CSV, BENCH_JSON, BENCH_JSONL, BENCH_SQL, BENCH_NONE } bench_format;

enum { BENCH_MAX_REPS = 64, BENCH_NAME = 64 };

typedef struct bench_row {
    td_engine_info info;
    int n_prompt, n_gen, n_depth, n_batch, n_ubatch;
    const char *test; /* pp, tg, pg, verify, draft, tgs, load */
    int n_parallel;
    int n_draft_max; /* -1: no speculation */
    int draft_n, draft_n_accepted, draft_rounds;
    int accepted_at[TD_MAX_DRAFT];
    double draft_ms, verify_ms, speed_up; /* speed_up: against plain generation of the same run; 0 unknown */
    double ratio;               /* of speed to the first setting's: the median of the repetitions'; 0 unknown */
    double cost;                /* verify: T(k) / T(1); draft: share of a decode step */
    int64_t ns[BENCH_MAX_REPS]; /* per repetition */
    int n_reps;
    int n_tokens;                     /* per repetition */
    uint64_t step_bytes;              /* weights of one decode step */
    uint64_t token_macs, result_macs; /* as in td_measured */
    uint64_t barriers;                /* of one repetition */
    double limit_share; /* of the machine's own limit: bandwidth for decode, 8-bit peak for prefill; 0 unknown */
    char time[32];
} bench_row;

typedef struct bench_printer {
    FILE *out;
    bench_format format;
    bool extended; /* columns beyond llama-bench's */
    bool ratios;   /* one more, with --interleave */
    int n_rows;
} bench_printer;

void bench_begin(bench_printer *p);
void bench_print(bench_printer *p, const bench_row *r);
void bench_end(bench_printer *p);

/* "pp512 @ d4096" */
void bench_name(const bench_row *r, char out[BENCH_NAME]);

void bench_stats(const bench_row *r, double *mean_ns, double *dev_ns, double *mean_ts, double *dev_ts,
                 double *median_ts);
/* How much faster `r` was than `first`, repetition by repetition: the median of their ratios. */
double bench_ratio(const bench_row *r, const bench_row *first);

#endif
