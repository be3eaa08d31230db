/* The forward pass of an assistant: one draft step of all drafting slots. It reads the target's token embedding and
 * cache and writes neither. */
#include "draft.h"

#include "../base/alloc_guard.h"
#include "../base/clock.h"

#include <math.h>
#include <string.h>

/* [sqrt(d_backbone) * target's row of the token ; hidden state] into the residual stream. */
static void input_stage(td_team *t, const td_draft_run *u) {
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

static void step_thread(void *arg, int ith, int nth) {
    td_draft_run *u = arg;
    /* The cache is only read: no layer of an assistant owns keys. */
    td_team t = {.kv = (td_kv *)(uintptr_t)u->kv, .pos = u->pos, .slot = u->slot, .clock = &u->w->clock};
    td_alloc_guard_enter();
    td_team_init(&t, u->pool, ith, nth, &u->d->net, &u->w->draft, u->n_rows);
    input_stage(&t, u);
    td_layers_run(&t);
    td_draft_output(&t, u);
    td_alloc_guard_leave();
}

/* ---- the step ---- */

static td_status check_rows(const td_draft_run *u, td_error *err) {
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

td_status td_drafter_forward(const td_drafter *d, const td_kv *kv, const td_draft_row *rows, int n_rows, td_draft *out,
                             td_workspace *w, td_pool *pool, td_error *err) {
    td_draft_run u = {
        .d = d, .kv = kv, .rows = rows, .n_rows = n_rows, .w = w, .pool = pool, .pos = w->pos, .slot = w->slot};
    td_status st = check_rows(&u, err);
    if (st) return st;
    u.h_next = w->draft.h_next[w->draft.turn];
    w->draft.turn ^= 1;
    if (w->clock.on) w->clock.last_ns = td_clock_ns();
    td_pool_run(pool, step_thread, &u);
    for (int i = 0; i < n_rows; i++) td_draft_result(&u, i, &out[i]);
    return TD_OK;
}
