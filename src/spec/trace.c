#include "trace.h"

#include "../base/checked.h"
#include "../base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct td_trace {
    FILE *file;
    bool owned;
};

td_status td_trace_open(td_trace **out, const char *path, td_error *err) {
    *out = NULL;
    if (!path || !*path || strcmp(path, "0") == 0) return TD_OK;
    td_trace *t = td_calloc(1, sizeof *t);
    if (!t) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the trace");
    t->owned = strcmp(path, "1") != 0;
    t->file = t->owned ? fopen(path, "a") : stderr;
    if (!t->file) {
        free(t);
        return td_fail_errno(err, errno, "the trace file %s cannot be opened", path);
    }
    *out = t;
    return TD_OK;
}

void td_trace_close(td_trace *t) {
    if (!t) return;
    if (t->owned) fclose(t->file);
    free(t);
}

static void ids(FILE *f, const uint32_t *a, int n) {
    for (int i = 0; i < n; i++) fprintf(f, i ? ",%u" : "%u", a[i]);
}

void td_trace_drafted(td_trace *t, const td_trace_draft *d) {
    if (!t) return;
    double squares = 0;
    for (int i = 0; i < d->n_h; i++) squares += (double)d->h_prev[i] * (double)d->h_prev[i];
    fprintf(t->file,
            "{\"evt\":\"mtp_draft\",\"iter\":%d,\"path\":\"%s\",\"seq_id\":%d,\"id_last\":%u,\"h_idx\":%d,"
            "\"attn_pos\":%d,\"n_steps\":%d,\"h_l2\":%.4f,\"drafts\":[",
            d->iter, d->path, d->slot, d->id_last, d->h_idx, d->attn_pos, d->n_steps, sqrt(squares));
    ids(t->file, d->drafts, d->n_drafts);
    fprintf(t->file, "],\"slot\":%d,\"ts_us\":%lld", d->slot, (long long)(td_clock_ns() / 1000));
    if (d->p) {
        fputs(",\"p\":[", t->file);
        for (int i = 0; i < d->n_drafts; i++) fprintf(t->file, i ? ",%.4f" : "%.4f", (double)d->p[i]);
        fputc(']', t->file);
    }
    fputs("}\n", t->file);
    fflush(t->file);
}

void td_trace_accepted(td_trace *t, int iter, int slot, int n_accepted, int n_drafted) {
    if (!t) return;
    fprintf(t->file,
            "{\"evt\":\"mtp_accept\",\"iter\":%d,\"n_accepted\":%d,\"n_drafted_prev\":%d,\"seq_id\":%d,\"slot\":%d,"
            "\"ts_us\":%lld}\n",
            iter, n_accepted, n_drafted, slot, slot, (long long)(td_clock_ns() / 1000));
    fflush(t->file);
}
