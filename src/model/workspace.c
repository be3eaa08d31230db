/* Buffers of the forward passes: reserved once, for the largest step, in one block per network. The layout is written
 * once and run twice: first to add up the sizes, then to hand out addresses. */
#include "forward.h"

#include "../base/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct bump { /* memory NULL: only counts */
    uint8_t *memory;
    size_t at;
    bool overflow;
} bump;

static void *take(bump *p, size_t n, size_t size) {
    size_t bytes = 0, end = 0;
    /* 128 bytes more: no two threads' blocks share a line or the pair of lines that is fetched together. */
    if (!td_mul_size(n, size, &bytes) || !td_add_size(bytes, 255, &bytes) ||
        !td_add_size(p->at, bytes & ~(size_t)127, &end))
        p->overflow = true;
    void *r = p->memory ? p->memory + p->at : NULL;
    p->at = end;
    return p->overflow ? NULL : r;
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

typedef struct sizes {
    const td_net *net;
    size_t rows, d, q, kv, ff, wide; /* wide: the widest row of f32 anyone makes */
    size_t scratch, used, experts, entries;
    uint32_t in_parts, out_parts, ff_parts, ple_parts, ex_parts, ex_mid_parts;
} sizes;

/* What each kind of activations must hold, for the types that its readers have. */
static void find_parts(const td_net *net, uint32_t watched, sizes *z) {
    z->in_parts = z->out_parts = z->ff_parts = z->ple_parts = z->ex_parts = z->ex_mid_parts = watched;
    for (int i = 0; i < net->pack.n_items; i++) {
        const td_matrix *m = net->pack.items[i].m;
        z->in_parts |= td_matrix_acts(m); /* norms feed most matrices: one set for all */
    }
    z->in_parts |= td_matrix_acts(&net->head); /* may be read from the file */
    for (int l = 0; l < net->shape.n_layer; l++) {
        const td_layer *w = &net->layers[l];
        z->out_parts |= td_matrix_acts(&w->o);
        z->ff_parts |= td_matrix_acts(&w->down);
        if (w->ple_proj.n_rows) z->ple_parts |= td_matrix_acts(&w->ple_proj);
        if (!w->down_exps.n_rows) continue;
        z->ex_parts |= td_matrix_acts(&w->gate_exps) | td_matrix_acts(&w->up_exps);
        z->ex_mid_parts |= td_matrix_acts(&w->down_exps);
    }
}

static size_t kernel_scratch(const td_net *net) {
    size_t n = td_matrix_scratch(&net->head);
    for (int i = 0; i < net->pack.n_items; i++) {
        n = max_size(n, td_matrix_scratch(net->pack.items[i].m));
        n = max_size(n, td_matrix_row_scratch(net->pack.items[i].m));
    }
    return n;
}

static void lay_route(bump *p, td_route *r, const sizes *z) {
    if (!z->experts) return;
    r->first = take(p, z->experts + 1, sizeof *r->first);
    r->slot = take(p, 2 * z->experts, sizeof *r->slot);
    r->row = take(p, z->rows * z->used, sizeof *r->row);
    r->share = take(p, z->rows * z->used, sizeof *r->share);
    r->prob = take(p, z->experts, sizeof *r->prob);
    r->pick = take(p, TD_OWN_ROWS * z->used, sizeof *r->pick);
    r->weight = take(p, TD_OWN_ROWS * z->used, sizeof *r->weight);
}

static void lay_thread(bump *p, td_thread_mem *m, const sizes *z) {
    const td_shape *s = &z->net->shape;
    m->x = take(p, TD_OWN_ROWS * z->d, sizeof(float));
    m->q = take(p, TD_OWN_ROWS * z->q, sizeof(float));
    m->row = take(p, 2 * z->wide, sizeof(float));
    m->in = take(p, 1, td_acts_bytes(TD_OWN_ROWS, (int64_t)z->wide, z->in_parts));
    m->out = take(p, 1, td_acts_bytes(TD_OWN_ROWS, (int64_t)z->q, z->out_parts));
    if (z->experts) {
        m->mid = take(p, 1, td_acts_bytes(TD_OWN_ROWS, (int64_t)z->d, z->ex_parts));
        m->rt = take(p, 1, td_acts_bytes(TD_OWN_ROWS, (int64_t)z->d, z->in_parts));
    }
    m->tile = take(p, z->rows * TD_GROUP * TD_HEAD_GROUPS, sizeof(float));
    if (s->d_ple) m->table = take(p, (size_t)s->n_layer * (size_t)s->d_ple, sizeof(float));
    if (s->n_centroid) m->pos = take(p, (size_t)(s->n_vocab / s->n_centroid), sizeof *m->pos);
    m->scratch = take(p, z->scratch, 1);
    m->best = take(p, z->rows, sizeof *m->best);
    m->top = take(p, z->rows, sizeof *m->top);
    if (s->assistant) m->near = take(p, z->rows, sizeof *m->near);
    lay_route(p, &m->route, z);
}

static void lay_out(bump *p, td_bufs *b, const sizes *z) {
    const td_shape *s = &z->net->shape;
    int rows = (int)z->rows;
    int32_t wide = rows > TD_OWN_ROWS ? rows : TD_OWN_ROWS;
    b->x = take(p, z->rows * z->d, sizeof(float));
    b->q = take(p, z->rows * z->q, sizeof(float));
    b->k = take(p, z->rows * z->kv, sizeof(float));
    b->v = take(p, z->rows * z->kv, sizeof(float));
    b->att = take(p, z->rows * z->q, sizeof(float));
    b->y = take(p, z->rows * z->d, sizeof(float));
    b->in = take(p, 1, td_acts_bytes(wide, (int64_t)z->wide, z->in_parts));
    b->out = take(p, 1, td_acts_bytes(wide, (int64_t)z->q, z->out_parts));
    b->ff = take(p, 1, td_acts_bytes(wide, (int64_t)z->ff, z->ff_parts));
    for (int k = 0; k < 2; k++) {
        size_t n = (size_t)z->net->rope[k].n_pairs;
        b->cos[k] = take(p, z->rows * n, sizeof(float));
        b->sin[k] = take(p, z->rows * n, sizeof(float));
        b->att_rows[k] = take(p, z->rows, sizeof *b->att_rows[k]);
    }
    b->layer_kind = take(p, (size_t)s->n_layer, 1);
    if (s->d_ple) {
        size_t n = (size_t)s->d_ple * (size_t)s->n_layer;
        b->ple = take(p, z->rows * n, sizeof(float));
        b->ple_gate = take(p, z->rows * (size_t)s->d_ple, sizeof(float));
        b->pl = take(p, 1, td_acts_bytes(wide, s->d_ple, z->ple_parts));
    }
    if (z->experts) {
        b->y2 = take(p, z->rows * z->d, sizeof(float));
        b->router = take(p, z->rows * z->experts, sizeof(float));
        b->mid = take(p, 1, td_acts_bytes(wide, (int64_t)z->d, z->ex_parts));
        b->rt = take(p, 1, td_acts_bytes(wide, (int64_t)z->d, z->in_parts));
        b->ex_in = take(p, 1, td_acts_bytes((int32_t)z->entries, (int64_t)z->d, z->ex_parts));
        b->ex_mid = take(p, 1, td_acts_bytes((int32_t)z->entries, s->d_expert, z->ex_mid_parts));
        b->pick = take(p, z->rows * z->used, sizeof *b->pick);
        b->weight = take(p, z->rows * z->used, sizeof *b->weight);
    }
    if (s->assistant) {
        size_t used = (size_t)s->n_centroid_used;
        b->near = take(p, z->rows, sizeof *b->near);
        for (int i = 0; i < 2; i++) b->h_next[i] = take(p, z->rows * (size_t)s->d_backbone, sizeof(float));
        if (s->n_centroid) {
            b->scores = take(p, z->rows * (size_t)s->n_centroid, sizeof(float));
            b->chosen = take(p, z->rows * used, sizeof *b->chosen);
            b->z = take(p, z->rows * used * (size_t)(s->n_vocab / s->n_centroid), sizeof(float));
        }
    }
    b->thread = take(p, (size_t)b->n_thread, sizeof *b->thread);
    for (int i = 0; i < b->n_thread; i++) {
        td_thread_mem counted = {0};
        lay_thread(p, p->memory ? &b->thread[i] : &counted, z);
    }
}

static td_status make_plans(td_bufs *b, td_error *err) {
    const td_shape *s = &b->net->shape;
    for (int l = 0; l < s->n_layer; l++) {
        const td_layer_shape *y = &s->layers[l];
        int k = 0;
        while (k < b->n_kinds &&
               (b->kind[k].sliding != y->sliding || b->kind[k].n_head != y->n_head || b->kind[k].n_kv != y->n_kv))
            k++;
        if (k == TD_KINDS)
            return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "more than %d kinds of attention layers", TD_KINDS);
        b->layer_kind[l] = (uint8_t)k;
        if (k < b->n_kinds) continue;
        b->kind[k].sliding = y->sliding;
        b->kind[k].n_head = y->n_head;
        b->kind[k].n_kv = y->n_kv;
        b->n_kinds++;
        td_status st = td_attn_plan_create(&b->kind[k].plan, (uint32_t)b->max_rows, (uint32_t)y->n_head,
                                           (uint32_t)y->d_head, (uint32_t)b->n_thread, err);
        if (st) return st;
    }
    return TD_OK;
}

/* `row_values`: the widest row that is quantised, if wider than d_model; `scratch`: bytes beyond the matrices' own;
 * `watch`: collects the layers' activations, or NULL. */
static td_status bufs_create(td_bufs *b, const td_net *net, int n_thread, int max_rows, size_t row_values,
                             size_t scratch, td_importances *watch, td_error *err) {
    const td_shape *s = &net->shape;
    memset(b, 0, sizeof *b);
    b->net = net;
    b->max_rows = max_rows;
    b->n_thread = n_thread;
    b->importances = watch;
    b->watched_parts = watch ? TD_ACTS_F32 : 0;
    sizes z = {.net = net, .rows = (size_t)max_rows, .d = (size_t)s->d_model, .q = (size_t)s->max_q};
    z.kv = (size_t)s->max_kv;
    z.ff = (size_t)s->max_ff;
    z.wide = max_size(z.d, row_values);
    z.scratch = max_size(scratch, kernel_scratch(net));
    z.experts = (size_t)s->n_expert;
    z.used = (size_t)s->n_expert_used;
    /* Grouped rows: every expert's group begins at a panel. */
    z.entries = z.rows * z.used + z.experts * (TD_PANEL - 1);
    find_parts(net, b->watched_parts, &z);
    bump p = {0};
    lay_out(&p, b, &z);
    if (!p.overflow) p.memory = td_alloc_aligned(p.at, 128);
    if (!p.memory) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the buffers of %d rows", max_rows);
    b->memory = p.memory;
    b->n_bytes = p.at;
    p.at = 0;
    lay_out(&p, b, &z);
    return make_plans(b, err);
}

static void bufs_free(td_bufs *b) {
    for (int k = 0; k < b->n_kinds; k++) td_attn_plan_destroy(b->kind[k].plan);
    if (b->memory) td_free_aligned(b->memory, b->n_bytes);
    memset(b, 0, sizeof *b);
}

td_status td_bufs_plan(td_bufs *b, int n_rows, td_error *err) {
    td_status st = TD_OK;
    for (int k = 0; !st && k < b->n_kinds; k++)
        st = td_attn_plan_set(b->kind[k].plan, (uint32_t)b->kind[k].n_head, (uint32_t)b->kind[k].n_kv,
                              b->att_rows[b->kind[k].sliding], (uint32_t)n_rows, err);
    return st;
}

void td_bufs_plan_first(td_bufs *b, int n_rows) {
    for (int k = 0; k < b->n_kinds; k++) td_attn_plan_first(b->kind[k].plan, (uint32_t)n_rows);
}

/* ---- workspace ---- */

static td_status reserve_results(td_workspace *w, td_error *err) {
    const td_shape *s = &w->model->net.shape;
    size_t rows = (size_t)w->target.max_rows, n_logits = 0, n_hidden = 0;
    if (td_mul_size((size_t)w->max_out * sizeof(float), (size_t)s->n_vocab, &n_logits) && n_logits)
        w->logits = td_alloc_aligned(n_logits, 128);
    if (td_mul_size((size_t)w->max_hidden * sizeof(float), (size_t)s->d_model, &n_hidden))
        w->hidden = td_alloc_aligned(n_hidden, 128);
    w->logits_at = td_calloc(rows, sizeof *w->logits_at);
    w->hidden_at = td_calloc(rows, sizeof *w->hidden_at);
    w->best_at = td_calloc(rows, sizeof *w->best_at);
    w->out_row = td_calloc(rows, sizeof *w->out_row);
    w->order = td_calloc(rows, sizeof *w->order);
    size_t any = max_size(rows, (size_t)w->draft.max_rows); /* rows of either network */
    w->pos = td_calloc(any, sizeof *w->pos);
    w->slot = td_calloc(any, sizeof *w->slot);
    w->best = td_calloc(rows, sizeof *w->best);
    if ((!w->logits && w->max_out) || !w->hidden || !w->logits_at || !w->hidden_at || !w->best_at || !w->out_row ||
        !w->order || !w->pos || !w->slot || !w->best)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the results of %d rows", w->max_out);
    w->n_bytes += n_logits + n_hidden;
    return TD_OK;
}

td_status td_workspace_create(td_workspace **out, const td_model *m, const td_drafter *d, const td_pool *pool,
                              const td_workspace_options *o, td_error *err) {
    *out = NULL;
    if (o->max_rows < 1 || o->max_rows > 1 << 16 || o->max_out < 0 || o->max_out > o->max_rows || o->max_hidden < 0 ||
        o->max_hidden > o->max_rows || o->max_slots < 0 || o->max_slots > 1 << 16)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a step of %d rows with %d outputs cannot be reserved",
                       o->max_rows, o->max_out);
    td_workspace *w = td_calloc(1, sizeof *w);
    if (!w) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a workspace");
    w->model = m;
    w->drafter = d;
    w->max_out = o->max_out;
    w->max_hidden = o->max_hidden ? o->max_hidden : o->max_rows;
    int nth = td_pool_size(pool);
    size_t embd = td_matrix_row_scratch(&m->embd), table = m->ple_embd.n_rows ? td_matrix_row_scratch(&m->ple_embd) : 0;
    td_status st = o->importance ? td_importances_create(&w->importances, &m->net, err) : TD_OK;
    if (!st) st = bufs_create(&w->target, &m->net, nth, o->max_rows, 0, max_size(embd, table), w->importances, err);
    if (!st && d && o->max_slots)
        st = bufs_create(&w->draft, &d->net, nth, o->max_slots, 2 * (size_t)d->net.shape.d_backbone, embd, NULL, err);
    if (!st) st = reserve_results(w, err);
    if (st) {
        td_workspace_free(w);
        return st;
    }
    w->n_bytes += w->target.n_bytes + w->draft.n_bytes;
    for (int k = 0; k < w->target.n_kinds; k++) w->n_bytes += td_attn_plan_bytes(w->target.kind[k].plan);
    for (int k = 0; k < w->draft.n_kinds; k++) w->n_bytes += td_attn_plan_bytes(w->draft.kind[k].plan);
    *out = w;
    return TD_OK;
}

void td_workspace_free(td_workspace *w) {
    if (!w) return;
    const td_shape *s = &w->model->net.shape;
    bufs_free(&w->target);
    bufs_free(&w->draft);
    td_importances_free(w->importances);
    if (w->logits) td_free_aligned(w->logits, (size_t)w->max_out * (size_t)s->n_vocab * sizeof(float));
    if (w->hidden) td_free_aligned(w->hidden, (size_t)w->max_hidden * (size_t)s->d_model * sizeof(float));
    free(w->logits_at);
    free(w->hidden_at);
    free(w->best_at);
    free(w->out_row);
    free(w->order);
    free(w->pos);
    free(w->slot);
    free(w->best);
    free(w);
}

uint64_t td_workspace_bytes(const td_workspace *w) {
    return w->n_bytes;
}

const float *td_workspace_logits(const td_workspace *w, int i) {
    if (i < 0 || i >= w->n_rows || w->logits_at[i] < 0) return NULL;
    return w->logits + (size_t)w->logits_at[i] * (size_t)w->model->net.shape.n_vocab;
}

const float *td_workspace_hidden(const td_workspace *w, int i) {
    if (i < 0 || i >= w->n_rows || w->hidden_at[i] < 0) return NULL;
    return w->hidden + (size_t)w->hidden_at[i] * (size_t)w->model->net.shape.d_model;
}

bool td_workspace_importance(const td_workspace *w, int i, td_importance *out) {
    return w->importances && td_importances_get(w->importances, i, out);
}

int32_t td_workspace_argmax(const td_workspace *w, int i, float *logit) {
    if (i < 0 || i >= w->n_rows || w->best_at[i] < 0) return -1;
    const td_best *b = &w->best[w->best_at[i]];
    if (logit) *logit = b->value;
    return b->id;
}

/* ---- stage clock ---- */

void td_workspace_time(td_workspace *w, bool on) {
    memset(&w->clock, 0, sizeof w->clock);
    w->clock.on = on;
}

int td_workspace_stages(const td_workspace *w, td_stage_time out[TD_MODEL_STAGES]) {
    static const char *const name[TD_STAGE_COUNT] = {"embed",  "qkv",      "rope", "attention", "attn out",
                                                     "ffn up", "ffn down", "ple",  "head",      "draft"};
    int n = 0;
    for (int i = 0; i < TD_STAGE_COUNT && n < TD_MODEL_STAGES; i++)
        if (w->clock.t_ns[i]) out[n++] = (td_stage_time){name[i], w->clock.t_ns[i], w->clock.n_bytes[i]};
    return n;
}
