/* The forward pass of a target: embedding, per-layer inputs, decoder layers (layer.c), head. */
#include "model.h"

#include "../base/alloc_guard.h"
#include "../base/clock.h"
#include "forward.h"

#include <math.h>
#include <string.h>

typedef struct run {
    const td_model *m;
    td_kv *kv;
    const td_step *step;
    td_workspace *w;
    td_pool *pool;
    int32_t *pos, *slot; /* [n_rows] in the order of w->order */
} run;

static int32_t token_at(const run *u, int r) {
    return u->step->rows[u->w->order[r]].token;
}

/* ---- embedding ---- */

static void embed(td_team *t, const run *u, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model;
    float scale = sqrtf((float)d);
    for (int r = t->r0; r < t->r1; r++) {
        float *x = t->x + td_at(r, d);
        td_matrix_row(&u->m->embd, 0, token_at(u, r), x, t->mem->scratch);
        t->kn->scale(x, x, scale, d);
        if (in) t->kn->acts_set(in, r, x, NULL, 1.0f, 0, in->n_blocks);
    }
    td_team_rows_done(t);
}

/* Layers whose entries in the per-layer table are decoded at once: their values are a multiple of 256, which any block
 * size divides, or the whole row where that is less. */
static int64_t table_run(const td_shape *s) {
    int64_t n = 1;
    while (n < s->n_layer && n * s->d_ple % 256) n *= 2;
    return n < s->n_layer ? n : s->n_layer;
}

/* Layers whose per-layer input row r needs: it may leave before the rest (td_layers_run). */
static int64_t n_inputs(const td_team *t, int r) {
    return r < t->n_live ? t->net->shape.n_layer : t->net->shape.n_layer_kv - 1;
}

/* (RMS(context) + sqrt(d_ple) * table) / sqrt 2, per layer's slice. */
static void per_layer_inputs(td_team *t, const run *u) {
    const td_shape *s = &t->net->shape;
    int64_t p = s->d_ple, n = s->n_layer * p, per = table_run(s), runs = (s->n_layer + per - 1) / per, begin, end;
    float inv = 1.0f / sqrtf((float)s->d_model), root = sqrtf((float)p), half = 1.0f / sqrtf(2.0f);
    float *table = t->mem->table;
    while (td_pool_take(t->pool, t->n_rows * runs, td_grain(t, t->n_rows * runs), &begin, &end)) {
        for (int64_t i = begin; i < end; i++) {
            int row = (int)(i / runs);
            int64_t l0 = i % runs * per, l1 = l0 + per < s->n_layer ? l0 + per : s->n_layer;
            if (l0 >= n_inputs(t, row)) continue;
            float *c = t->b->ple + td_at(row, n) + (size_t)(l0 * p);
            td_matrix_row_slice(&u->m->ple_embd, 0, token_at(u, row), l0 * p, (l1 - l0) * p, table, t->mem->scratch);
            if (l1 > n_inputs(t, row)) l1 = n_inputs(t, row);
            t->kn->scale(table, table, root, (l1 - l0) * p);
            t->kn->scale(c, c, inv, (l1 - l0) * p);
            for (int64_t l = 0; l < l1 - l0; l++) t->kn->rmsnorm(c + l * p, c + l * p, u->m->ple_norm, p, s->eps);
            t->kn->add_scale(c, table, half, (l1 - l0) * p);
        }
    }
    td_team_barrier(t, TD_STAGE_EMBED);
}

/* Groups [g0, g1) of the per-layer inputs' context projection: of the layers that rows may leave before, only for those
 * that stay. */
static void project_inputs(const td_team *t, const run *u, const td_acts *in, int64_t g0, int64_t g1) {
    const td_shape *s = &t->net->shape;
    int64_t ldy = (int64_t)s->n_layer * s->d_ple, cut = (n_inputs(t, t->n_rows) * s->d_ple + TD_GROUP - 1) / TD_GROUP;
    int64_t a, b;
    if (td_part(g0, g1, 0, cut, &a, &b))
        td_matmul(&u->m->ple_proj, 0, a, b, in, 0, t->n_rows, t->b->ple, ldy, t->mem->scratch);
    if (td_part(g0, g1, cut, u->m->ple_proj.n_groups - cut, &a, &b) && t->n_live)
        td_matmul(&u->m->ple_proj, 0, cut + a, cut + b, in, 0, t->n_live, t->b->ple, ldy, t->mem->scratch);
}

/* Angles and the per-layer inputs' context projection in one stage; then the sum with the table. */
static void input_stage(td_team *t, const run *u) {
    const td_shape *s = &t->net->shape;
    bool ple = s->d_ple > 0;
    int64_t n_angles = 2 * (int64_t)t->n_rows, n_groups = ple ? u->m->ple_proj.n_groups : 0;
    int64_t unit = td_grain(t, n_groups), n_proj = (n_groups + unit - 1) / unit, begin, end;
    td_acts in = td_team_acts(t, t->in, t->n_rows, s->d_model, ple ? td_matrix_acts(&u->m->ple_proj) : TD_ACTS_F32);
    embed(t, u, ple ? &in : NULL);
    while (td_pool_take(t->pool, n_proj + n_angles, 1, &begin, &end)) {
        if (begin >= n_proj) {
            td_team_angles(t, begin - n_proj);
            continue;
        }
        int64_t g1 = (begin + 1) * unit < n_groups ? (begin + 1) * unit : n_groups;
        project_inputs(t, u, &in, begin * unit, g1);
    }
    td_team_barrier(t, TD_STAGE_EMBED);
    if (ple) per_layer_inputs(t, u);
}

/* ---- head ---- */

static void suppress(const td_model *m, float *logits, int64_t p0, int64_t p1) {
    for (int i = 0; i < m->n_suppress; i++)
        if (m->suppress[i] >= p0 && m->suppress[i] < p1) logits[m->suppress[i]] = -INFINITY;
}

/* Final norm of the rows that someone asked for: hidden rows, and the head's input in order of w->out_row. */
static void final_norm(td_team *t, const run *u, const td_acts *in) {
    const td_workspace *w = u->w;
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model;
    int n_out = w->n_logits + w->n_best, begin = t->own ? 0 : t->r0, end = t->own ? t->n_rows : t->r1;
    for (int r = begin; r < end; r++) {
        int32_t at = w->hidden_at[w->order[r]];
        if (at >= 0 && (!t->own || t->ith == 0))
            t->kn->rmsnorm(w->hidden + td_at(at, d), t->x + td_at(r, d), t->net->output_norm, d, s->eps);
    }
    if (!t->own) { /* rows that others hold: visible after the last layer's barrier and this one */
        int64_t o0, o1;
        td_pool_barrier(t->pool, t->ith);
        td_pool_span(n_out, TD_PANEL, t->ith, t->nth, &o0, &o1);
        begin = (int)o0;
        end = (int)o1;
    } else {
        end = n_out;
    }
    for (int o = begin; o < end; o++) td_acts_norm(in, o, t->x + td_at(w->out_row[o], d), t->net->output_norm, s->eps);
    td_team_rows_done(t);
}

/* Groups [begin, end) of the head for all rows that asked for results. */
static void head_unit(td_team *t, const run *u, const td_acts *in, int64_t begin, int64_t end) {
    const td_workspace *w = u->w;
    const td_shape *s = &t->net->shape;
    const td_matrix *m = &t->net->head;
    int64_t v = s->n_vocab, p0 = begin * TD_GROUP, p1 = end * TD_GROUP < v ? end * TD_GROUP : v;
    if (w->n_logits) td_matmul(m, 0, begin, end, in, 0, w->n_logits, w->logits, v, t->mem->scratch);
    for (int i = 0; i < w->n_logits; i++) {
        float *z = w->logits + td_at(i, v);
        if (s->softcap != 0) t->kn->softcap(z + p0, z + p0, s->softcap, p1 - p0);
        suppress(u->m, z, p0, p1);
    }
    if (w->n_best)
        td_matmul_argmax(m, p0, p1, in, w->n_logits, w->n_best, s->softcap, u->m->suppress, u->m->n_suppress,
                         t->mem->best, t->mem->scratch);
}

static void head(td_team *t, const run *u) {
    const td_workspace *w = u->w;
    const td_matrix *m = &t->net->head;
    int n_out = w->n_logits + w->n_best;
    int64_t begin, end;
    td_acts in = td_team_acts(t, t->in, n_out, t->net->shape.d_model, td_matrix_acts(m));
    final_norm(t, u, &in);
    for (int i = 0; i < w->n_best; i++) t->mem->best[i] = TD_BEST_NONE;
    while (td_pool_share(t->pool, t->ith, m->n_groups, TD_HEAD_GROUPS, &begin, &end))
        for (int64_t g = begin; g < end; g += TD_HEAD_GROUPS)
            head_unit(t, u, &in, g, g + TD_HEAD_GROUPS < end ? g + TD_HEAD_GROUPS : end);
    td_team_barrier(t, TD_STAGE_HEAD);
}

/* ---- the step ---- */

/* Weight bytes of each stage of one step, experts as the chosen ones: what `tandem bench --stages` sets times against.
 */
static void count_bytes(td_clock_stages *c, const td_model *m, int n_layer, bool with_head) {
    const td_net *net = &m->net;
    uint64_t *n = c->n_bytes, used = (uint64_t)net->shape.n_expert_used;
    n[TD_STAGE_EMBED] += m->embd.row_bytes + m->ple_embd.row_bytes + td_matrix_file_bytes(&m->ple_proj);
    for (int l = 0; l < n_layer; l++) {
        const td_layer *w = &net->layers[l];
        n[TD_STAGE_QKV] += td_matrix_file_bytes(&w->q) + td_matrix_file_bytes(&w->k) + td_matrix_file_bytes(&w->v);
        n[TD_STAGE_OUT] += td_matrix_file_bytes(&w->o);
        n[TD_STAGE_UP] += td_matrix_file_bytes(&w->gate) + td_matrix_file_bytes(&w->up);
        n[TD_STAGE_DOWN] += td_matrix_file_bytes(&w->down);
        n[TD_STAGE_PLE] += td_matrix_file_bytes(&w->ple_gate) + td_matrix_file_bytes(&w->ple_proj);
        if (w->down_exps.n_expert < 2) continue;
        uint64_t all = (uint64_t)w->down_exps.n_expert;
        n[TD_STAGE_UP] += (td_matrix_file_bytes(&w->gate_exps) + td_matrix_file_bytes(&w->up_exps)) / all * used;
        n[TD_STAGE_DOWN] += td_matrix_file_bytes(&w->down_exps) / all * used;
    }
    if (with_head) n[TD_STAGE_HEAD] += td_matrix_file_bytes(&net->head);
}

static void step_thread(void *arg, int ith, int nth) {
    run *u = arg;
    td_workspace *w = u->w;
    td_team t = {.kv = u->kv, .pos = u->pos, .slot = u->slot, .clock = &w->clock};
    td_alloc_guard_enter();
    td_team_init(&t, u->pool, ith, nth, &u->m->net, &w->target, u->step->n_rows);
    t.n_live = w->n_live;
    input_stage(&t, u);
    bool any = td_layers_run(&t);
    if (ith == 0 && w->clock.on)
        count_bytes(&w->clock, u->m, any ? t.net->shape.n_layer : t.net->shape.n_layer_kv, w->n_logits + w->n_best > 0);
    if (any && w->n_logits + w->n_best + w->n_hidden > 0) head(&t, u);
    td_alloc_guard_leave();
}

static td_status bad_row(td_error *err, int i, const char *what, int64_t value, int64_t limit) {
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "row %d of the step: %s %lld, expected 0 to %lld", i, what,
                   (long long)value, (long long)limit);
}

/* Checks the rows and decides where their results go. */
static td_status check_rows(const run *u, td_error *err) {
    const td_shape *s = &u->m->net.shape;
    td_workspace *w = u->w;
    const td_step *step = u->step;
    w->n_rows = w->n_logits = w->n_best = w->n_hidden = 0;
    if (step->n_rows < 1 || step->n_rows > w->target.max_rows)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a step of %d rows: expected 1 to %d", step->n_rows,
                       w->target.max_rows);
    for (int i = 0; i < step->n_rows; i++) {
        const td_row *r = &step->rows[i];
        if (r->token < 0 || r->token >= s->n_vocab) return bad_row(err, i, "token", r->token, s->n_vocab - 1);
        if (r->pos < 0 || (uint32_t)r->pos >= td_kv_n_ctx(u->kv))
            return bad_row(err, i, "position", r->pos, (int64_t)td_kv_n_ctx(u->kv) - 1);
        if (r->slot < 0 || (uint32_t)r->slot >= td_kv_n_slot(u->kv))
            return bad_row(err, i, "slot", r->slot, (int64_t)td_kv_n_slot(u->kv) - 1);
        if ((r->flags & TD_ROW_LOGITS) && (r->flags & TD_ROW_ARGMAX))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "row %d of the step asks for logits and for arg-max", i);
        w->logits_at[i] = r->flags & TD_ROW_LOGITS ? w->n_logits++ : -1;
        w->best_at[i] = r->flags & TD_ROW_ARGMAX ? w->n_best++ : -1;
        w->hidden_at[i] = r->flags & TD_ROW_HIDDEN ? w->n_hidden++ : -1;
    }
    if (w->n_logits > w->max_out || w->n_hidden > w->max_hidden)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "%d logits rows and %d hidden rows in a step: at most %d and %d are reserved", w->n_logits,
                       w->n_hidden, w->max_out, w->max_hidden);
    return TD_OK;
}

static bool wants_result(const run *u, int i) {
    return u->step->rows[i].flags || u->w->importances; /* which count every row in every layer */
}

/* The order in which the rows are computed: those that want a result first, so that the rest can leave. */
static void order_rows(const run *u) {
    td_workspace *w = u->w;
    int n = 0, n_rows = u->step->n_rows;
    for (int i = 0; i < n_rows; i++)
        if (wants_result(u, i)) w->order[n++] = i;
    w->n_live = n;
    for (int i = 0; i < n_rows; i++)
        if (!wants_result(u, i)) w->order[n++] = i;
    for (int r = 0; r < n_rows; r++) {
        int i = w->order[r];
        u->pos[r] = u->step->rows[i].pos;
        u->slot[r] = u->step->rows[i].slot;
        if (w->logits_at[i] >= 0) w->out_row[w->logits_at[i]] = r;
        if (w->best_at[i] >= 0) w->out_row[w->n_logits + w->best_at[i]] = r;
    }
}

/* Rows of slot `slot` from row i: their number. */
static int slot_run(const td_step *step, int i) {
    int n = 1;
    while (i + n < step->n_rows && step->rows[i + n].slot == step->rows[i].slot) n++;
    return n;
}

/* Pages for every slot's new rows, and what each row sees. */
static td_status reserve(const run *u, td_error *err) {
    const td_step *step = u->step;
    td_bufs *b = &u->w->target;
    for (int i = 0, n; i < step->n_rows; i += n) {
        uint32_t slot = (uint32_t)step->rows[i].slot, first = td_kv_n_pos(u->kv, slot);
        n = slot_run(step, i);
        for (int j = 0; j < n; j++)
            if ((uint32_t)step->rows[i + j].pos != first + (uint32_t)j)
                return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                               "row %d of the step: position %d of slot %u, expected %u", i + j, step->rows[i + j].pos,
                               slot, first + (uint32_t)j);
        td_status st = td_kv_reserve(u->kv, slot, (uint32_t)n, err);
        if (st) return st;
    }
    for (int i = 0; i < step->n_rows; i++) {
        uint32_t pos = (uint32_t)u->pos[i], slot = (uint32_t)u->slot[i];
        b->att_rows[0][i] = (td_attn_row){slot, 0, pos + 1};
        b->att_rows[1][i] = (td_attn_row){slot, td_kv_window_lo(u->kv, pos), pos + 1};
    }
    return td_bufs_plan(b, step->n_rows, err);
}

td_status td_target_forward(const td_model *m, td_kv *kv, const td_step *step, td_workspace *w, td_pool *pool,
                            td_error *err) {
    run u = {.m = m, .kv = kv, .step = step, .w = w, .pool = pool, .pos = w->pos, .slot = w->slot};
    td_status st = check_rows(&u, err);
    if (st) return st;
    order_rows(&u);
    st = reserve(&u, err);
    if (st) return st;
    if (w->clock.on) w->clock.last_ns = td_clock_ns();
    td_pool_run(pool, step_thread, &u);
    for (int i = 0; i < w->n_best; i++) {
        w->best[i] = w->target.thread[0].best[i];
        for (int k = 1; k < w->target.n_thread; k++) td_best_merge(&w->best[i], w->target.thread[k].best[i]);
    }
    for (int i = 0, n; i < step->n_rows; i += n) {
        n = slot_run(step, i);
        td_kv_commit(kv, (uint32_t)step->rows[i].slot, (uint32_t)n);
    }
    w->n_rows = step->n_rows;
    return TD_OK;
}
