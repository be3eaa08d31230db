/* See rows.h. In each round thread 0 first writes the chunk of the round before, then helps with this one. */
#include "rows.h"

#include "../base/checked.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { CHUNK = 8 << 20, PIECE = 1 << 16 };

typedef struct round_state {
    td_rows *s;
    td_pool *pool;
    td_rows_fn fn;
    void *arg;
    size_t row_bytes;
    uint64_t first, n; /* rows of this round; n = 0 in the last one, which only writes */
    uint8_t *dst;
    const uint8_t *ready; /* chunk to write */
    size_t n_ready;
    int64_t grain;
    atomic_bool stop;
    td_status status;
    td_error *err;
} round_state;

static void run_round(void *arg, int ith, int nth) {
    round_state *r = arg;
    (void)nth;
    if (ith == 0 && r->n_ready > 0) {
        r->status = td_gguf_put_data(r->s->writer, r->ready, r->n_ready, r->err);
        if (r->status != TD_OK) atomic_store(&r->stop, true);
    }
    int64_t begin, end;
    while (td_pool_take(r->pool, (int64_t)r->n, r->grain, &begin, &end)) {
        if (atomic_load_explicit(&r->stop, memory_order_relaxed)) continue;
        uint8_t *dst = r->dst + (size_t)begin * r->row_bytes;
        if (!r->fn(r->arg, r->first + (uint64_t)begin, r->first + (uint64_t)end, dst)) atomic_store(&r->stop, true);
    }
}

static bool reserve(td_rows *s, size_t n) {
    if (s->capacity >= n) return true;
    td_rows_free(s);
    for (int i = 0; i < 2; i++) {
        s->buffer[i] = malloc(n);
        if (!s->buffer[i]) {
            td_rows_free(s);
            return false;
        }
    }
    s->capacity = n;
    return true;
}

td_status td_rows_write(td_rows *s, uint64_t n_rows, size_t row_bytes, td_rows_fn fn, void *arg,
                        void (*after)(void *arg, uint64_t r1), td_error *err) {
    size_t chunk = row_bytes > CHUNK ? row_bytes : CHUNK;
    if (!reserve(s, chunk))
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a chunk of %zu bytes", chunk);
    uint64_t rows_per_chunk = s->capacity / row_bytes;
    round_state r = {.s = s, .pool = s->pool, .fn = fn, .arg = arg, .row_bytes = row_bytes, .err = err};
    r.grain = row_bytes < PIECE ? (int64_t)(PIECE / row_bytes) : 1;
    for (uint64_t first = 0, i = 0;; i++) {
        uint64_t left = n_rows - first;
        r.first = first;
        r.n = left < rows_per_chunk ? left : rows_per_chunk;
        r.dst = s->buffer[i & 1];
        td_pool_run(s->pool, run_round, &r);
        if (r.status != TD_OK) return r.status;
        if (atomic_load(&r.stop)) return err && err->code != TD_OK ? err->code : TD_ERR_FORMAT;
        s->done += r.n_ready;
        if (s->progress && r.n_ready > 0) {
            s->progress(s->progress_user, s->what, s->done, s->total ? s->total : td_gguf_writer_data_bytes(s->writer));
        }
        if (r.n == 0) return TD_OK;
        first += r.n;
        if (after) after(arg, first);
        r.ready = r.dst;
        r.n_ready = (size_t)r.n * row_bytes;
    }
}

void td_rows_free(td_rows *s) {
    for (int i = 0; i < 2; i++) {
        free(s->buffer[i]);
        s->buffer[i] = NULL;
    }
    s->capacity = 0;
}

bool td_rows_fit(const float *x, uint64_t n, td_type type) {
    float limit = type == TD_TYPE_F16 ? 65519.99f : INFINITY;
    int bad = 0; /* gathered without leaving the loop, which becomes vectors so */
    if (type == TD_TYPE_F32 || type == TD_TYPE_BF16) return true;
    for (uint64_t i = 0; i < n; i++) bad |= !(fabsf(x[i]) < limit);
    return !bad;
}

td_status td_rows_check_room(const char *out, uint64_t n_bytes, td_error *err) {
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", out);
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir ? 1 : 0] = 0;
    struct statvfs v;
    if (statvfs(slash ? dir : ".", &v) != 0) return TD_OK; /* let writing tell */
    uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
    if (n_bytes <= room) return TD_OK;
    return td_fail(err, TD_ERR_IO, TD_NO_OFFSET, "%s needs %.1f MB, the disk has %.1f MB left", out,
                   (double)n_bytes / 1e6, (double)room / 1e6);
}
