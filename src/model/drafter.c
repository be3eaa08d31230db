/* The forward pass of an assistant: one draft step of all drafting slots. It reads the target's token embedding and
 * cache and writes neither. The draft token is found while the head's rows pass by: no row of logits is written. */
#include "model.h"

#include "../base/alloc_guard.h"
#include "../base/clock.h"
#include "forward.h"

#include <math.h>
#include <string.h>

typedef struct run {
    const td_drafter *d;
    const td_kv *kv;
    const td_draft_row *rows;
    td_workspace *w;
    td_pool *pool;
    int n_rows;
    float *h_next; /* [n_rows][d_backbone] */
    const int32_t *pos, *slot;
} run;

/* [sqrt(d_backbone) * target's row of the token ; hidden state] into the residual stream. */
static void input_stage(td_team *t, const run *u) {
    const td_shape *s = &t->net->shape;
    int64_t bb = s->d_backbone, d = s->d_model, begin, end;
    td_acts in = td_team_acts(t, t->in, t->n_rows, 2 * bb, td_matrix_acts(&u->d->pre));
    float *e = t->mem->row;
    for (int r = t->r0; r < t->r1; r++) {
        td_matrix_row(&u->d->target->embd, 0, u->rows[r].token, e, t->mem->scratch);
        t->kn->scale(e, e, sqrtf((float)bb), bb);
        memcpy(e + bb, u->rows[r].h_prev, (size_t)bb * sizeof *e);
        t->kn->acts_set(&in, r, e, NULL, 1.0f, 0, in.n_blocks);
    }
    td_team_rows_done(t);
    int64_t n_groups = u->d->pre.n_groups, unit = td_grain(t, n_groups), n_proj = (n_groups + unit - 1) / unit;
    while (td_pool_take(t->pool, n_proj + 2 * (int64_t)t->n_rows, 1, &begin, &end)) {
        if (begin < n_proj) {
            int64_t g1 = (begin + 1) * unit < n_groups ? (begin + 1) * unit : n_groups;
            td_matmul(&u->d->pre, 0, begin * unit, g1, &in, 0, t->n_rows, t->b->y, d, t->mem->scratch);
        } else {
            td_team_angles(t, begin - n_proj);
        }
    }
    td_team_barrier(t, TD_STAGE_DRAFT);
    for (int r = t->r0; r < t->r1; r++) memcpy(t->x + td_at(r, d), t->b->y + td_at(r, d), (size_t)d * sizeof(float));
}

/* ---- heads ---- */

/* A tile of one row's logits, ids p0 .. p0 + n: almost every value is below the tenth largest so far. */
static void scan(td_top *top, const float *z, int64_t p0, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int64_t m = n - i < 16 ? n - i : 16;
        float least = top->n == TD_TOP ? top->value[TD_TOP - 1] : -INFINITY;
        int any = top->n < TD_TOP;
        for (int64_t j = 0; j < m; j++) any |= z[i + j] >= least;
        for (int64_t j = 0; any && j < m; j++) td_top_add(top, z[i + j], (int32_t)(p0 + i + j));
    }
}

static void dense_unit(const td_team *t, const run *u, int64_t g0, int64_t g1, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    int64_t p0 = g0 * TD_GROUP, n = (g1 * TD_GROUP < s->n_vocab ? g1 * TD_GROUP : s->n_vocab) - p0;
    float *tile = t->mem->tile;
    td_matmul(&t->net->head, 0, g0, g1, in, 0, t->n_rows, td_tile(tile, p0), n, t->mem->scratch);
    for (int r = 0; r < t->n_rows; r++) {
        float *z = tile + td_at(r, n);
        if (s->softcap != 0) t->kn->softcap(z, z, s->softcap, n);
        if (u->rows[r].logits) memcpy(u->rows[r].logits + p0, z, (size_t)n * sizeof *z);
        scan(&t->mem->top[r], z, p0, n);
    }
}

/* The candidates of one chosen cluster of one row. */
static void cluster_unit(const td_team *t, const run *u, int row, int i, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    const td_matrix *m = &t->net->head;
    int used = s->n_centroid_used, size = s->n_vocab / s->n_centroid;
    int32_t first = t->b->chosen[row * used + i] * size;
    float *z = t->b->z + td_at(row * used + i, size);
    for (int j = 0; j < size; j++) t->mem->pos[j] = m->row_ids ? first + j : u->d->order[first + j];
    td_matmul_rows(m, t->mem->pos, size, in, row, z, t->mem->scratch);
    if (s->softcap != 0) t->kn->softcap(z, z, s->softcap, size);
    for (int j = 0; j < size; j++) {
        int32_t id = u->d->order[first + j];
        if (u->rows[row].logits) u->rows[row].logits[id] = z[j];
        td_top *top = &t->mem->top[row];
        if (top->n < TD_TOP || z[j] >= top->value[TD_TOP - 1]) td_top_add(top, z[j], id);
    }
}

static void ordered_head(td_team *t, const run *u, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    int64_t begin, end;
    while (td_pool_take(t->pool, t->n_rows, 1, &begin, &end)) {
        int row = (int)begin;
        td_topk(t->b->scores + td_at(row, s->n_centroid), s->n_centroid, s->n_centroid_used,
                t->b->chosen + td_at(row, s->n_centroid_used), NULL);
        if (u->rows[row].logits)
            for (int i = 0; i < s->n_vocab; i++) u->rows[row].logits[i] = -INFINITY;
    }
    td_team_barrier(t, TD_STAGE_HEAD);
    int64_t n = (int64_t)t->n_rows * s->n_centroid_used;
    while (td_pool_take(t->pool, n, td_grain(t, n), &begin, &end))
        for (int64_t i = begin; i < end; i++)
            cluster_unit(t, u, (int)(i / s->n_centroid_used), (int)(i % s->n_centroid_used), in);
    td_team_barrier(t, TD_STAGE_HEAD);
}

/* Final norm, next hidden state, and the draft. */
static void output_stage(td_team *t, const run *u) {
    const td_shape *s = &t->net->shape;
    bool ordered = u->d->order != NULL;
    int64_t d = s->d_model, begin, end, a, b;
    const td_matrix *post = &u->d->post, *first = ordered ? &u->d->centroids : &t->net->head;
    uint32_t parts = td_matrix_acts(post) | td_matrix_acts(first) | td_matrix_acts(&t->net->head);
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, parts);
    for (int r = t->r0; r < t->r1; r++) td_acts_norm(&in, r, t->x + td_at(r, d), t->net->output_norm, s->eps);
    for (int r = 0; r < t->n_rows; r++) t->mem->top[r].n = 0;
    td_team_rows_done(t);
    int64_t np = post->n_groups, n = np + first->n_groups, grain = td_grain(t, n);
    if (grain > TD_HEAD_GROUPS) grain = TD_HEAD_GROUPS; /* the tile's width */
    while (td_pool_take(t->pool, n, grain, &begin, &end)) {
        if (td_part(begin, end, 0, np, &a, &b))
            td_matmul(post, 0, a, b, &in, 0, t->n_rows, u->h_next, s->d_backbone, t->mem->scratch);
        if (!td_part(begin, end, np, first->n_groups, &a, &b)) continue;
        if (ordered)
            td_matmul(first, 0, a, b, &in, 0, t->n_rows, t->b->scores, s->n_centroid, t->mem->scratch);
        else
            dense_unit(t, u, a, b, &in);
    }
    td_team_barrier(t, TD_STAGE_HEAD);
    if (ordered) ordered_head(t, u, &in);
}

static void step_thread(void *arg, int ith, int nth) {
    run *u = arg;
    /* The cache is only read: no layer of an assistant owns keys. */
    td_team t = {.kv = (td_kv *)(uintptr_t)u->kv, .pos = u->pos, .slot = u->slot, .clock = &u->w->clock};
    td_alloc_guard_enter();
    td_team_init(&t, u->pool, ith, nth, &u->d->net, &u->w->draft, u->n_rows);
    input_stage(&t, u);
    td_layers_run(&t);
    output_stage(&t, u);
    td_alloc_guard_leave();
}

/* ---- the step ---- */

static td_status check_rows(const run *u, td_error *err) {
    const td_shape *s = &u->d->net.shape;
    td_bufs *b = &u->w->draft;
    if (u->w->drafter != u->d || u->n_rows < 1 || u->n_rows > b->max_rows)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a draft step of %d rows: %d are reserved", u->n_rows,
                       u->w->drafter == u->d ? b->max_rows : 0);
    for (int i = 0; i < u->n_rows; i++) {
        const td_draft_row *r = &u->rows[i];
        if (r->token < 0 || r->token >= s->n_vocab)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "row %d of the draft: token %d, expected 0 to %d", i,
                           r->token, s->n_vocab - 1);
        if (r->slot < 0 || (uint32_t)r->slot >= td_kv_n_slot(u->kv))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "row %d of the draft: slot %d, expected 0 to %u", i,
                           r->slot, td_kv_n_slot(u->kv) - 1);
        if (r->pos < 0 || (uint32_t)r->pos > td_kv_n_pos(u->kv, (uint32_t)r->slot))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "row %d of the draft: %d positions, the slot holds %u",
                           i, r->pos, td_kv_n_pos(u->kv, (uint32_t)r->slot));
        /* Position n sees what is committed, [0, n); a sliding layer its window, counted from n. */
        uint32_t n = (uint32_t)r->pos, slot = (uint32_t)r->slot;
        u->w->pos[i] = r->pos;
        u->w->slot[i] = r->slot;
        b->att_rows[0][i] = (td_attn_row){slot, 0, n};
        b->att_rows[1][i] = (td_attn_row){slot, td_kv_window_lo(u->kv, n), n};
    }
    return td_bufs_plan(b, u->n_rows, err);
}

static void result(const run *u, int row, td_draft *out) {
    const td_bufs *b = &u->w->draft;
    td_top top = b->thread[0].top[row];
    float sum = 0;
    for (int k = 1; k < b->n_thread; k++)
        for (int i = 0; i < b->thread[k].top[row].n; i++)
            td_top_add(&top, b->thread[k].top[row].value[i], b->thread[k].top[row].id[i]);
    for (int i = 0; i < top.n; i++) sum += expf(top.value[i] - top.value[0]);
    out->token = top.n ? top.id[0] : 0;
    out->logit = top.n ? top.value[0] : 0;
    out->p = top.n ? 1.0f / sum : 0;
    out->h_next = u->h_next + td_at(row, u->d->net.shape.d_backbone);
}

td_status td_drafter_forward(const td_drafter *d, const td_kv *kv, const td_draft_row *rows, int n_rows, td_draft *out,
                             td_workspace *w, td_pool *pool, td_error *err) {
    run u = {.d = d, .kv = kv, .rows = rows, .n_rows = n_rows, .w = w, .pool = pool, .pos = w->pos, .slot = w->slot};
    td_status st = check_rows(&u, err);
    if (st) return st;
    u.h_next = w->draft.h_next[w->draft.turn];
    w->draft.turn ^= 1;
    if (w->clock.on) w->clock.last_ns = td_clock_ns();
    td_pool_run(pool, step_thread, &u);
    for (int i = 0; i < n_rows; i++) result(&u, i, &out[i]);
    return TD_OK;
}
