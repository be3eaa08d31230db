/* One thread's view of a step, and how stages are cut into units (see forward.h). */
#include "forward.h"

#include "../base/clock.h"

#include <string.h>

/* Whose memory the light work on n_rows uses, and which of them are this thread's. */
static void divide_rows(td_team *t, int n_rows) {
    const td_bufs *b = t->b;
    const td_thread_mem *m = t->mem;
    t->n_rows = t->n_live = n_rows;
    t->own = n_rows <= TD_OWN_ROWS;
    t->r0 = 0;
    t->r1 = n_rows;
    t->x = t->own ? m->x : b->x;
    t->in = t->own ? m->in : b->in;
    t->mid = t->own ? m->mid : b->mid;
    t->rt = t->own ? m->rt : b->rt;
    t->out = t->own ? m->out : b->out;
    if (!t->own) { /* whole panels of activations, so that two threads do not write one line */
        int64_t begin, end;
        td_pool_span(n_rows, TD_PANEL, t->ith, t->nth, &begin, &end);
        t->r0 = (int)begin;
        t->r1 = (int)end;
    }
}

void td_team_init(td_team *t, td_pool *pool, int ith, int nth, const td_net *net, td_bufs *b, int n_rows) {
    t->pool = pool;
    t->ith = ith;
    t->nth = nth;
    t->kn = td_kernels_get();
    t->net = net;
    t->b = b;
    t->mem = &b->thread[ith];
    divide_rows(t, n_rows);
}

void td_team_keep(td_team *t, int n_rows) {
    bool had_own = t->own;
    divide_rows(t, n_rows);
    if (t->own && !had_own) memcpy(t->x, t->b->x, td_at(n_rows, t->net->shape.d_model) * sizeof *t->x);
    if (t->ith == 0) td_bufs_plan_first(t->b, n_rows);
    td_pool_barrier(t->pool, t->ith);
}

void td_team_angles(const td_team *t, int64_t i) {
    int row = (int)(i / 2), k = (int)(i % 2);
    const td_rope *r = &t->net->rope[k];
    if (!r->freq) return; /* no layer of this type */
    td_rope_table(t->b->cos[k] + td_at(row, r->n_pairs), t->b->sin[k] + td_at(row, r->n_pairs), r->freq, r->n_pairs,
                  t->pos[row]);
}

void td_team_rows_done(const td_team *t) {
    if (!t->own) td_pool_barrier(t->pool, t->ith);
}

void td_team_barrier(const td_team *t, td_stage stage) {
    td_pool_barrier(t->pool, t->ith);
    if (t->ith == 0 && t->clock && t->clock->on) {
        int64_t now = td_clock_ns();
        t->clock->t_ns[stage] += now - t->clock->last_ns;
        t->clock->last_ns = now;
    }
}

bool td_part(int64_t begin, int64_t end, int64_t at, int64_t n, int64_t *a, int64_t *b) {
    *a = begin > at ? begin - at : 0;
    *b = end - at < n ? end - at : n;
    return *a < *b;
}

int64_t td_grain(const td_team *t, int64_t n_units) {
    int64_t g = n_units / (8 * t->nth);
    return t->nth == 1 ? (n_units > 0 ? n_units : 1) : g < 1 ? 1 : g;
}

void td_matmuls(const td_team *t, const td_product *products, int n) {
    int64_t total = 0, begin, end, a, b;
    for (int i = 0; i < n; i++) total += products[i].m->n_groups;
    /* Pairs of groups: products of many rows take two at a time. */
    while (td_pool_share(t->pool, t->ith, total, t->own ? 1 : 2, &begin, &end)) {
        int64_t at = 0;
        for (int i = 0; i < n; i++) {
            const td_product *p = &products[i];
            if (td_part(begin, end, at, p->m->n_groups, &a, &b))
                td_matmul(p->m, 0, a, b, p->a, 0, p->n_rows, p->y, p->ldy, t->mem->scratch);
            at += p->m->n_groups;
        }
    }
}

float *td_tile(float *tile, int64_t p0) {
    return (float *)((uintptr_t)tile - (uintptr_t)p0 * sizeof *tile); /* not dereferenced below p0 */
}

td_acts td_team_acts(const td_team *t, uint8_t *mem, int n_rows, int64_t k, uint32_t parts) {
    td_acts a;
    td_acts_init(&a, mem, n_rows, k, parts | t->b->watched_parts);
    return a;
}

void td_team_watch(const td_team *t, int layer, td_site site, const td_acts *a) {
    if (t->b->importances && t->ith == 0) td_importances_add(t->b->importances, layer, site, 0, a, 0, t->n_rows);
}

void td_top_add(td_top *top, float value, int32_t id) {
    int at = top->n;
    if (value < td_top_least(top)) return;
    while (at > 0 && (value > top->value[at - 1] || (value == top->value[at - 1] && id < top->id[at - 1]))) at--;
    if (at == top->keep) return;
    int last = top->n < top->keep ? top->n++ : top->keep - 1;
    memmove(top->value + at + 1, top->value + at, (size_t)(last - at) * sizeof *top->value);
    memmove(top->id + at + 1, top->id + at, (size_t)(last - at) * sizeof *top->id);
    top->value[at] = value;
    top->id[at] = id;
}
