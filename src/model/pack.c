/* Packs matrices in parallel (see pack.h). Work is cut into runs of rows of one expert; threads take them in file
 * order, so that the disk reads ahead, and the pages of a tensor go back to the system when its last run is done. */
#include "pack.h"

#include "../base/checked.h"
#include "../base/log.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { RUN_BYTES = 1 << 20 }; /* of source per unit of work: far above the cost of taking one, far below a tensor */

td_status td_pack_add(td_pack *p, td_matrix *m, const td_gguf_tensor *t, int64_t row0, int64_t src_rows,
                      td_error *err) {
    uint64_t end = 0;
    if (p->n_items == p->cap) {
        int cap = p->cap ? 2 * p->cap : 256;
        td_pack_item *items = td_reallocarray(p->items, (size_t)cap, sizeof *items);
        if (!items) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the list of matrices");
        p->items = items;
        p->cap = cap;
    }
    p->items[p->n_items++] = (td_pack_item){m, t, row0, src_rows, p->n_bytes};
    if (!td_add_u64(p->n_bytes, td_matrix_packed_bytes(m), &end) || !td_align_up_u64(end, 64, &p->n_bytes))
        return td_fail(err, TD_ERR_LIMIT, t->offset, "tensor %s: too large", t->name);
    return TD_OK;
}

void td_pack_free(td_pack *p) {
    if (p->memory) td_free_aligned(p->memory, (size_t)p->n_bytes);
    if (p->from_cache) td_map_close(&p->cache);
    free(p->items);
    memset(p, 0, sizeof *p);
}

/* ---- parallel loop ---- */

typedef struct loop {
    atomic_llong next;
    int64_t n;
    void (*fn)(void *arg, int64_t i);
    void (*tick)(void *arg);
    void *arg;
} loop;

static void loop_thread(void *arg, int ith, int nth) {
    loop *l = arg;
    (void)nth;
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed);
        if (i >= l->n) return;
        l->fn(l->arg, i);
        if (ith == 0 && l->tick) l->tick(l->arg);
    }
}

void td_pack_parallel(td_pool *pool, int64_t n, void (*fn)(void *arg, int64_t i), void (*tick)(void *arg), void *arg) {
    loop l = {.n = n, .fn = fn, .tick = tick, .arg = arg};
    atomic_init(&l.next, 0);
    if (pool)
        td_pool_run(pool, loop_thread, &l);
    else
        loop_thread(&l, 0, 1);
}

/* ---- packing ---- */

typedef struct job {
    td_pack *p;
    const td_gguf *g;
    const td_model_options *o;
    int64_t *first;     /* [n_items + 1] first unit of each item */
    atomic_int *left;   /* [n_items] units not yet done */
    atomic_ullong done; /* source bytes */
    atomic_bool no_memory;
    uint64_t total;
} job;

static int64_t rows_per_run(const td_matrix *m) {
    int64_t n = RUN_BYTES / (int64_t)(m->row_bytes ? m->row_bytes : 1);
    n -= n % TD_GROUP;
    return n < TD_GROUP ? TD_GROUP : n;
}

static int64_t runs_of(const td_matrix *m) {
    return (m->n_rows + rows_per_run(m) - 1) / rows_per_run(m) * m->n_expert;
}

static int item_of(const job *j, int64_t unit) {
    int lo = 0, hi = j->p->n_items;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (j->first[mid] <= unit)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Rows of the tensor in the matrix's type; NULL: no memory. */
static uint8_t *encode_rows(const td_pack_item *it, int64_t r0, int64_t n) {
    const td_matrix *m = it->m;
    size_t from = it->t->n_bytes / (size_t)it->src_rows;
    const uint8_t *src = (const uint8_t *)it->t->data + (size_t)(it->row0 + r0) * from;
    float *row = td_reallocarray(NULL, (size_t)m->k, sizeof *row);
    uint8_t *out = td_reallocarray(NULL, (size_t)n, m->row_bytes);
    for (int64_t i = 0; row && out && i < n; i++) {
        it->t->type->decode(src + (size_t)i * from, row, m->k);
        m->type->encode(row, out + (size_t)i * m->row_bytes, m->k, 1, NULL);
    }
    if (!row) {
        free(out);
        out = NULL;
    }
    free(row);
    return out;
}

static void pack_encoded(job *j, const td_pack_item *it, uint8_t *dst, int64_t r0, int64_t n) {
    uint8_t *rows = encode_rows(it, r0, n);
    if (rows)
        td_matrix_pack(it->m, dst, 0, r0, n, rows);
    else
        atomic_store(&j->no_memory, true);
    free(rows);
}

static void pack_unit(void *arg, int64_t unit) {
    job *j = arg;
    int i = item_of(j, unit);
    const td_pack_item *it = &j->p->items[i];
    const td_matrix *m = it->m;
    int64_t per = rows_per_run(m), runs = (m->n_rows + per - 1) / per, u = unit - j->first[i];
    int32_t e = (int32_t)(u / runs);
    int64_t r0 = u % runs * per, n = m->n_rows - r0 < per ? m->n_rows - r0 : per;
    const uint8_t *expert = (const uint8_t *)it->t->data + (size_t)(e * it->src_rows + it->row0) * m->row_bytes;
    if (u == 0 && i + 1 < j->p->n_items) td_gguf_prefetch(j->g, it[1].t);
    uint8_t *dst = j->p->memory + it->offset;
    if (m->type != it->t->type)
        pack_encoded(j, it, dst, r0, n);
    else if (m->row_ids)
        td_matrix_pack_ordered(m, dst, e, r0, n, expert);
    else
        td_matrix_pack(m, dst, e, r0, n, expert + (size_t)r0 * m->row_bytes);
    atomic_fetch_add(&j->done, (unsigned long long)n * m->row_bytes);
    bool last = atomic_fetch_sub(&j->left[i], 1) == 1;
    bool whole = m->type == it->t->type; /* else the file's rows are still read */
    if (last && whole && (i + 1 == j->p->n_items || it[1].t != it->t)) td_gguf_release(j->g, it->t);
}

static void report(void *arg) {
    job *j = arg;
    if (j->o->progress) j->o->progress(j->o->progress_user, "loading", atomic_load(&j->done), j->total);
}

static td_status pack_all(td_pack *p, const td_gguf *g, const td_model_options *o, td_error *err) {
    job j = {.p = p, .g = g, .o = o};
    td_status st = TD_OK;
    atomic_init(&j.done, 0);
    atomic_init(&j.no_memory, false);
    j.first = td_calloc((size_t)p->n_items + 1, sizeof *j.first);
    j.left = td_calloc((size_t)p->n_items + 1, sizeof *j.left);
    for (int i = 0; j.first && j.left && i < p->n_items; i++) {
        const td_matrix *m = p->items[i].m;
        j.first[i + 1] = j.first[i] + runs_of(m);
        atomic_init(&j.left[i], (int)runs_of(m));
        j.total += td_matrix_file_bytes(m);
    }
    if (j.first && j.left)
        td_pack_parallel(o->pool, j.first[p->n_items], pack_unit, report, &j);
    else
        atomic_store(&j.no_memory, true);
    if (atomic_load(&j.no_memory)) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory to load the model");
    report(&j);
    free(j.first);
    free(j.left);
    return st;
}

td_status td_pack_run(td_pack *p, const td_gguf *g, const td_model_options *o, td_error *err) {
    if (o->no_pack) {
        for (int i = 0; i < p->n_items; i++) {
            const td_pack_item *it = &p->items[i];
            td_matrix *m = it->m;
            m->row_ids = m->row_pos = NULL; /* the file's own order */
            td_matrix_bind_plain(m, (const uint8_t *)it->t->data + (size_t)it->row0 * m->row_bytes);
            m->expert_bytes = (size_t)it->src_rows * m->row_bytes;
        }
        return TD_OK;
    }
    if (o->pack_cache && td_pack_cache_load(p, g, o)) return TD_OK;
    p->memory = td_alloc_aligned((size_t)p->n_bytes, (size_t)1 << 21);
    if (!p->memory)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %.1f GB of weights", (double)p->n_bytes / 1e9);
    td_status st = pack_all(p, g, o, err);
    for (int i = 0; i < p->n_items; i++) td_matrix_bind_packed(p->items[i].m, p->memory + p->items[i].offset);
    if (!st && o->pack_cache) td_pack_cache_save(p, g, o);
    return st;
}
