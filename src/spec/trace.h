/* The trace of speculation: one JSON object per line, one mtp_draft and one mtp_accept event per round and slot, with
 * the field names of the reference and ts_us, slot and p in addition. Off costs one comparison. */
#ifndef TD_SPEC_TRACE_H
#define TD_SPEC_TRACE_H

#include "../base/status.h"

#include <stdbool.h>

typedef struct td_trace td_trace;

/* `path`: NULL or "" or "0" gives *out = NULL (off); "1" standard error; else a file, appended to. */
td_status td_trace_open(td_trace **out, const char *path, td_error *err);
void td_trace_close(td_trace *t);

typedef struct td_trace_draft {
    int iter;         /* rounds of this slot so far */
    const char *path; /* sync: made when it was needed; lazy: beside the delivery before; skip-streak; skip-nsteps */
    int slot;
    uint32_t id_last;
    int h_idx;    /* row of the verify batch that h_prev came from, -1 the last */
    int attn_pos; /* n - 1 */
    int n_steps;
    const float *h_prev; /* [n_h], for its norm */
    int n_h;
    const uint32_t *drafts;
    const float *p; /* NULL where the source gives none */
    int n_drafts;
} td_trace_draft;

void td_trace_drafted(td_trace *t, const td_trace_draft *d);
void td_trace_accepted(td_trace *t, int iter, int slot, int n_accepted, int n_drafted);

#endif
