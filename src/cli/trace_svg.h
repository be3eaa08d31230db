/* What a trace holds, and its picture. */
#ifndef TD_CLI_TRACE_SVG_H
#define TD_CLI_TRACE_SVG_H

#include "../base/status.h"

#include <stdbool.h>

#define TRACE_MAX_DEPTH 32

typedef struct trace_round {
    int slot, iter, asked, drafted, accepted; /* accepted -1: the round was not verified */
    bool skipped;
    int64_t ts_us, accept_us;
    float p[TRACE_MAX_DEPTH];
} trace_round;

typedef struct trace_data {
    trace_round *rounds; /* [n_rounds] */
    int n_rounds, cap_rounds;
    int n_slots, verified, skipped;
    long tokens, accepted;
    long depth[TRACE_MAX_DEPTH + 1];                       /* rounds by drafted tokens */
    long reached[TRACE_MAX_DEPTH], stood[TRACE_MAX_DEPTH]; /* per position */
    int64_t verify_us, draft_us, plain_us;
} trace_data;

/* Rounds from left to right as columns of drafts, accepted ones full, rejected ones hollow; acceptance per position and
 * depths below. Written whole or not at all. */
td_status trace_draw(const trace_data *t, const char *path, td_error *err);

#endif
