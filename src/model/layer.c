/* The decoder layer, in network order, for target and assistant alike: an assistant's layers own no keys and values,
 * no experts and no per-layer embedding. Numbers in comments are the steps of the layer's definition. */
#include "forward.h"

#include <string.h>

static const td_matrix *present(const td_matrix *m) {
    return m->n_rows ? m : NULL;
}

static uint32_t parts_of(const td_matrix *a, const td_matrix *b, const td_matrix *c) {
    return td_matrix_acts(a) | (b && b->n_rows ? td_matrix_acts(b) : 0) | (c && c->n_rows ? td_matrix_acts(c) : 0);
}

/* Rows that query in layer l: after the last layer that stores keys and values only those that want a result. */
static int n_query(const td_team *t, int l) {
    return l + 1 < t->net->shape.n_layer_kv ? t->n_rows : t->n_live;
}

/* 1, 2, 3: one stage of products for queries, keys and values. */
static void project(td_team *t, int l) {
    const td_layer *w = &t->net->layers[l];
    const td_bufs *b = t->b;
    int64_t d = t->net->shape.d_model;
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, parts_of(&w->q, &w->k, &w->v));
    for (int r = t->r0; r < t->r1; r++) td_acts_norm(&in, r, t->x + td_at(r, d), w->attn_norm, t->net->shape.eps);
    td_team_rows_done(t);
    td_team_watch(t, l, TD_SITE_QKV, &in);
    td_product products[3] = {{&w->q, &in, n_query(t, l), b->q, w->q.n_rows}};
    int n = 1;
    if (present(&w->k)) products[n++] = (td_product){&w->k, &in, t->n_rows, b->k, w->k.n_rows};
    if (present(&w->v)) products[n++] = (td_product){&w->v, &in, t->n_rows, b->v, w->v.n_rows};
    td_matmuls(t, products, n);
    td_team_barrier(t, TD_STAGE_QKV);
}

static void rotate_q(const td_team *t, int l, float *q, int row, int head, int n_head) {
    const td_layer_shape *y = &t->net->shape.layers[l];
    const td_rope *rope = &t->net->rope[y->sliding];
    t->kn->head_norm_rope(q + (size_t)head * (size_t)y->d_head, n_head, y->d_head, y->d_head, t->net->layers[l].q_norm,
                          t->net->shape.eps, t->b->cos[y->sliding] + td_at(row, rope->n_pairs),
                          t->b->sin[y->sliding] + td_at(row, rope->n_pairs), rope->n_pairs);
}

/* 3a-d: one row's keys and values into the cache. Values fork off at the raw projection and are never rotated. */
static void store_row(const td_team *t, int l, int row) {
    const td_layer_shape *y = &t->net->shape.layers[l];
    const td_layer *w = &t->net->layers[l];
    const td_rope *rope = &t->net->rope[y->sliding];
    float eps = t->net->shape.eps;
    int64_t n = w->k.n_rows;
    float *k = t->b->k + td_at(row, n), *v = t->b->v + td_at(row, n);
    if (!present(&w->v)) memcpy(v, k, (size_t)n * sizeof *v);
    t->kn->head_norm_rope(k, y->n_kv, y->d_head, y->d_head, w->k_norm, eps,
                          t->b->cos[y->sliding] + td_at(row, rope->n_pairs),
                          t->b->sin[y->sliding] + td_at(row, rope->n_pairs), rope->n_pairs);
    t->kn->head_norm_rope(v, y->n_kv, y->d_head, y->d_head, NULL, eps, NULL, NULL, 0);
    td_kv_store(t->kv, (uint32_t)l, (uint32_t)t->slot[row], (uint32_t)t->pos[row], k, v);
}

/* Heads made ready for attention; returns the queries to use. A layer without keys of its own, with few rows, needs no
 * barrier here: each thread turns a copy of its own. */
static const float *rotate(td_team *t, int l) {
    const td_layer_shape *y = &t->net->shape.layers[l];
    bool stores = present(&t->net->layers[l].k) != NULL;
    int64_t n_q = t->net->layers[l].q.n_rows, begin, end;
    if (!stores && t->own) {
        memcpy(t->mem->q, t->b->q, td_at(t->n_rows, n_q) * sizeof *t->mem->q);
        for (int r = 0; r < t->n_rows; r++) rotate_q(t, l, t->mem->q + td_at(r, n_q), r, 0, y->n_head);
        return t->mem->q;
    }
    /* Units: per row its keys and values, then its query heads by fours. */
    int per = 4, n_parts = 1 + (y->n_head + per - 1) / per, n_rows = n_query(t, l);
    int64_t n = (int64_t)t->n_rows * n_parts, grain = t->own ? 1 : n_parts;
    while (td_pool_take(t->pool, n, grain, &begin, &end)) {
        for (int64_t i = begin; i < end; i++) {
            int row = (int)(i / n_parts), head = ((int)(i % n_parts) - 1) * per;
            if (head >= 0 && row < n_rows)
                rotate_q(t, l, t->b->q + td_at(row, n_q), row, head, y->n_head - head < per ? y->n_head - head : per);
            else if (head < 0 && stores)
                store_row(t, l, row);
        }
    }
    td_team_barrier(t, TD_STAGE_ROPE);
    return t->b->q;
}

/* 4-6: scores, softmax, weighted values. */
static void attend(td_team *t, int l, const float *q) {
    const td_layer_shape *y = &t->net->shape.layers[l];
    td_attn_plan *plan = t->b->kind[t->b->layer_kind[l]].plan;
    size_t n_q = (size_t)t->net->layers[l].q.n_rows;
    td_attn_call c = {.q = q, .out = t->b->att, .ldq = n_q, .ldo = n_q};
    int64_t begin, end;
    td_kv_attend(t->kv, (uint32_t)y->kv_layer, &c);
    while (td_pool_take(t->pool, td_attn_units(plan), 1, &begin, &end)) td_attn_unit(plan, &c, (uint32_t)begin, t->ith);
    td_team_barrier(t, TD_STAGE_ATTENTION);
    if (!td_attn_merges(plan)) return;
    while (td_pool_take(t->pool, td_attn_merges(plan), 1, &begin, &end))
        td_attn_merge(plan, &c, (uint32_t)begin, t->ith);
    td_team_barrier(t, TD_STAGE_ATTENTION);
}

/* 6, 7: output projection into y; the residual is added by whoever reads y next. */
static void project_out(td_team *t, int l) {
    const td_layer *w = &t->net->layers[l];
    int64_t n_q = w->o.k;
    td_acts out = td_team_acts(t, t->out, t->n_rows, n_q, td_matrix_acts(&w->o));
    for (int r = t->r0; r < t->r1; r++)
        t->kn->acts_set(&out, r, t->b->att + td_at(r, n_q), NULL, 1.0f, 0, out.n_blocks);
    td_team_rows_done(t);
    td_team_watch(t, l, TD_SITE_OUT, &out);
    td_product product = {&w->o, &out, t->n_rows, t->b->y, w->o.n_rows};
    td_matmuls(t, &product, 1);
    td_team_barrier(t, TD_STAGE_OUT);
}

/* 8, dense: gate, up and their product in one stage, then down into y. */
static void ffn(td_team *t, int l) {
    const td_layer *w = &t->net->layers[l];
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model, begin, end;
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, parts_of(&w->gate, &w->up, NULL));
    td_acts ff = td_team_acts(t, t->b->ff, t->n_rows, w->down.k, td_matrix_acts(&w->down));
    for (int r = t->r0; r < t->r1; r++) {
        float *x = t->x + td_at(r, d);
        t->kn->rmsnorm_add(x, t->b->y + td_at(r, d), w->post_attn_norm, d, s->eps, 1.0f);
        td_acts_norm(&in, r, x, w->ffn_norm, s->eps);
    }
    td_team_rows_done(t);
    td_team_watch(t, l, TD_SITE_UP, &in);
    while (td_pool_share(t->pool, t->ith, ff.n_blocks, 1, &begin, &end))
        td_matmul_glu(&w->gate, &w->up, 0, begin, end, &in, 0, t->n_rows, &ff, 0, t->mem->scratch);
    td_team_barrier(t, TD_STAGE_UP);
    td_team_watch(t, l, TD_SITE_DOWN, &ff);
    td_product product = {&w->down, &ff, t->n_rows, t->b->y, w->down.n_rows};
    td_matmuls(t, &product, 1);
    td_team_barrier(t, TD_STAGE_DOWN);
}

/* 8h, 9, 12: the branch joins the residual stream; MoE layers first add their two branches. */
static void join(td_team *t, int l, float scale) {
    const td_layer *w = &t->net->layers[l];
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model;
    for (int r = t->r0; r < t->r1; r++) {
        const float *f = t->b->y + td_at(r, d);
        if (s->layers[l].moe) {
            float *f1 = t->mem->row, *f2 = f1 + d;
            t->kn->rmsnorm(f1, f, w->post_norm_1, d, s->eps);
            t->kn->rmsnorm(f2, t->b->y2 + td_at(r, d), w->post_norm_2, d, s->eps);
            t->kn->add(f1, f2, d);
            f = f1;
        }
        t->kn->rmsnorm_add(t->x + td_at(r, d), f, w->post_norm, d, s->eps, scale);
    }
}

/* 10, 11, 12: per-layer embedding. */
static void per_layer(td_team *t, int l) {
    const td_layer *w = &t->net->layers[l];
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model, n = s->d_ple, begin, end;
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, td_matrix_acts(&w->ple_gate));
    td_acts pl = td_team_acts(t, t->b->pl, t->n_rows, n, td_matrix_acts(&w->ple_proj));
    for (int r = t->r0; r < t->r1; r++) t->kn->acts_set(&in, r, t->x + td_at(r, d), NULL, 1.0f, 0, in.n_blocks);
    td_team_rows_done(t);
    td_team_watch(t, l, TD_SITE_PLE_GATE, &in);
    while (td_pool_share(t->pool, t->ith, pl.n_blocks, 1, &begin, &end)) {
        int64_t g1 = 2 * end < w->ple_gate.n_groups ? 2 * end : w->ple_gate.n_groups;
        td_matmul(&w->ple_gate, 0, 2 * begin, g1, &in, 0, t->n_rows, t->b->ple_gate, n, t->mem->scratch);
        for (int r = 0; r < t->n_rows; r++) {
            size_t first = (size_t)(32 * begin);
            t->kn->acts_glu(&pl, r, t->b->ple_gate + td_at(r, n) + first,
                            t->b->ple + td_at(r, n * s->n_layer) + td_at(l, n) + first, begin, end);
        }
    }
    td_team_barrier(t, TD_STAGE_PLE);
    td_team_watch(t, l, TD_SITE_PLE_PROJ, &pl);
    td_product product = {&w->ple_proj, &pl, t->n_rows, t->b->y, d};
    td_matmuls(t, &product, 1);
    td_team_barrier(t, TD_STAGE_PLE);
    for (int r = t->r0; r < t->r1; r++)
        t->kn->rmsnorm_add(t->x + td_at(r, d), t->b->y + td_at(r, d), w->ple_norm, d, s->eps, w->scale);
}

bool td_layers_run(td_team *t) {
    const td_shape *s = &t->net->shape;
    for (int l = 0; l < s->n_layer; l++) {
        project(t, l);
        const float *q = rotate(t, l);
        if (l + 1 == s->n_layer_kv && t->n_live < t->n_rows) {
            if (t->n_live == 0) return false;
            td_team_keep(t, t->n_live);
        }
        attend(t, l, q);
        project_out(t, l);
        if (s->layers[l].moe)
            td_experts_run(t, l);
        else
            ffn(t, l);
        join(t, l, s->d_ple ? 1.0f : t->net->layers[l].scale);
        if (s->d_ple) per_layer(t, l);
    }
    return true;
}
