/* The feed-forward part of a MoE layer: a dense branch, and the experts that the router chose.
 *
 * Rows are grouped by expert, so that a chosen expert's weights are read once for all its rows: a verify batch costs
 * the union of its rows' experts. The sum over a row's experts runs in ascending order of the expert, whatever other
 * rows are there: a row's result is its own. */
#include "forward.h"

#include <string.h>

/* 8a-c: the inputs of dense branch, experts and router, all from the residual stream h. */
static void norms(td_team *t, int l, const td_acts *in, const td_acts *mid, const td_acts *rt) {
    const td_layer *w = &t->net->layers[l];
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model;
    for (int r = t->r0; r < t->r1; r++) {
        float *x = t->x + td_at(r, d);
        t->kn->rmsnorm_add(x, t->b->y + td_at(r, d), w->post_attn_norm, d, s->eps, 1.0f);
        float inv = t->kn->rms_scale(x, d, s->eps);
        t->kn->acts_set(in, r, x, w->ffn_norm, inv, 0, in->n_blocks);
        t->kn->acts_set(mid, r, x, w->pre_norm_2, inv, 0, mid->n_blocks);
        t->kn->acts_set(rt, r, x, w->router_scale, inv, 0, rt->n_blocks);
    }
    td_team_rows_done(t);
}

/* 8d-f: softmax over all experts, the largest, renormalised among themselves, times each expert's scale. */
static void choose(td_team *t, int l, int32_t *pick, float *weight) {
    const td_layer *w = &t->net->layers[l];
    int n = t->net->shape.n_expert, used = t->net->shape.n_expert_used;
    for (int r = t->r0; r < t->r1; r++) {
        int32_t *p = pick + td_at(r, used);
        float *u = weight + td_at(r, used), sum = 0;
        t->kn->softmax(t->mem->route.prob, t->b->router + td_at(r, n), n);
        td_topk(t->mem->route.prob, n, used, p, u);
        for (int i = 0; i < used; i++) sum += u[i];
        if (sum < 0x1p-14f) sum = 0x1p-14f; /* as llama.cpp; some of 128 shares are always larger */
        for (int i = 0; i < used; i++) u[i] = u[i] / sum * w->expert_scale[p[i]];
    }
    td_team_rows_done(t);
}

/* Entries by expert, rows ascending: a counting sort, the same in every thread. Returns the grouped rows' number. */
static int group(const td_team *t, const int32_t *pick, const float *weight) {
    td_route *g = &t->mem->route;
    int n = t->net->shape.n_expert, used = t->net->shape.n_expert_used, slot = 0;
    memset(g->first, 0, ((size_t)n + 1) * sizeof *g->first);
    for (int i = 0; i < t->n_rows * used; i++) g->first[pick[i] + 1]++;
    for (int e = 0; e < n; e++) {
        g->slot[e] = slot;
        slot += (g->first[e + 1] + TD_PANEL - 1) / TD_PANEL * TD_PANEL;
        g->first[e + 1] += g->first[e];
    }
    /* first[e] runs ahead to the end of e's entries, that is to first[e + 1], and is then moved back. */
    for (int i = 0; i < t->n_rows * used; i++) {
        int at_entry = g->first[pick[i]]++;
        g->row[at_entry] = i / used;
        g->share[at_entry] = weight[i];
    }
    memmove(g->first + 1, g->first, (size_t)n * sizeof *g->first);
    g->first[0] = 0;
    return slot;
}

/* Rows of the expert's entry run that stand next to each other in `mid`: [e0, *e1). */
static int run_end(const td_route *g, int e0, int end) {
    int e1 = e0 + 1;
    while (e1 < end && g->row[e1] == g->row[e1 - 1] + 1) e1++;
    return e1;
}

static void gather(const td_team *t, const td_acts *mid, const td_acts *ex_in) {
    const td_route *g = &t->mem->route;
    int n = t->net->shape.n_expert;
    int64_t begin, end;
    while (td_pool_take(t->pool, n, 1, &begin, &end))
        for (int i = g->first[begin]; i < g->first[end]; i++)
            td_acts_copy(ex_in, g->slot[begin] + i - g->first[begin], mid, g->row[i]);
    td_team_barrier(t, TD_STAGE_UP);
}

/* Gate and up of one expert for blocks [b0, b1). With few rows they are read where they are, run by run. */
static void expert_up(const td_team *t, const td_layer *w, int e, int64_t b0, int64_t b1, const td_acts *mid,
                      const td_acts *ex_in, const td_acts *ex_mid) {
    const td_route *g = &t->mem->route;
    int i0 = g->first[e], i1 = g->first[e + 1];
    if (!t->own) {
        td_matmul_glu(&w->gate_exps, &w->up_exps, e, b0, b1, ex_in, g->slot[e], i1 - i0, ex_mid, g->slot[e],
                      t->mem->scratch);
        return;
    }
    for (int i = i0, end; i < i1; i = end) {
        end = run_end(g, i, i1);
        td_matmul_glu(&w->gate_exps, &w->up_exps, e, b0, b1, mid, g->row[i], end - i, ex_mid, g->slot[e] + i - i0,
                      t->mem->scratch);
    }
}

/* 8g, first half, with the dense branch's down product in the same stage. */
static void up_stage(td_team *t, int l, const td_acts *mid, const td_acts *ex_in, const td_acts *ex_mid,
                     const td_acts *ff) {
    const td_layer *w = &t->net->layers[l];
    const td_route *g = &t->mem->route;
    int n = t->net->shape.n_expert, n_active = 0;
    int64_t nb = ex_mid->n_blocks;
    int32_t *active = t->mem->route.slot + n; /* room for n more */
    int64_t begin, end, a, b, n_down = w->down.n_groups, unit = td_grain(t, n_down);
    int64_t n_down_units = (n_down + unit - 1) / unit;
    for (int e = 0; e < n; e++)
        if (g->first[e + 1] > g->first[e]) active[n_active++] = e;
    /* Parts of an expert: about four units per thread in all. */
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): each row has gone to at least one expert, and there are rows */
    int64_t split = (4 * t->nth + n_active - 1) / n_active;
    if (split > nb) split = nb;
    int64_t per = (nb + split - 1) / split;
    while (td_pool_take(t->pool, n_active * split + n_down_units, 1, &begin, &end)) {
        if (td_part(begin, end, 0, n_active * split, &a, &b)) {
            int64_t b0 = a % split * per, b1 = b0 + per < nb ? b0 + per : nb;
            if (b0 < b1) expert_up(t, w, active[a / split], b0, b1, mid, ex_in, ex_mid);
        } else if (td_part(begin, end, n_active * split, n_down_units, &a, &b)) {
            int64_t g1 = (a + 1) * unit < n_down ? (a + 1) * unit : n_down;
            td_matmul(&w->down, 0, a * unit, g1, ff, 0, t->n_rows, t->b->y, w->down.n_rows, t->mem->scratch);
        }
    }
    td_team_barrier(t, TD_STAGE_UP);
}

/* 8g, second half: groups [g0, g1) of all experts' down products, summed into y2. */
static void expert_down(const td_team *t, const td_layer *w, int64_t g0, int64_t g1, const td_acts *ex_mid) {
    const td_route *g = &t->mem->route;
    const td_shape *s = &t->net->shape;
    int64_t p0 = g0 * TD_GROUP, p1 = g1 * TD_GROUP < s->d_model ? g1 * TD_GROUP : s->d_model, n = p1 - p0;
    float *tile = t->mem->tile;
    for (int r = 0; r < t->n_rows; r++) memset(t->b->y2 + td_at(r, s->d_model) + p0, 0, (size_t)n * sizeof(float));
    for (int e = 0; e < s->n_expert; e++) {
        int i0 = g->first[e], i1 = g->first[e + 1];
        if (i0 == i1) continue;
        td_matmul(&w->down_exps, e, g0, g1, ex_mid, g->slot[e], i1 - i0, td_tile(tile, p0), n, t->mem->scratch);
        for (int i = i0; i < i1; i++)
            t->kn->axpy(t->b->y2 + td_at(g->row[i], s->d_model) + p0, tile + td_at(i - i0, n), g->share[i], n);
    }
}

static void down_stage(td_team *t, int l, const td_acts *ex_mid) {
    const td_layer *w = &t->net->layers[l];
    int64_t n = w->down_exps.n_groups, grain = td_grain(t, n), begin, end;
    if (grain > TD_HEAD_GROUPS) grain = TD_HEAD_GROUPS; /* the tile's width */
    while (td_pool_take(t->pool, n, grain, &begin, &end)) expert_down(t, w, begin, end, ex_mid);
    td_team_barrier(t, TD_STAGE_DOWN);
}

/* The chosen experts' inputs, in the order of the groups. */
static void watch_up(const td_team *t, int l, const td_acts *mid) {
    const td_route *g = &t->mem->route;
    if (!t->b->importances || t->ith != 0) return;
    for (int e = 0; e < t->net->shape.n_expert; e++)
        for (int i = g->first[e]; i < g->first[e + 1]; i++)
            td_importances_add(t->b->importances, l, TD_SITE_EXPERT_UP, e, mid, g->row[i], 1);
}

static void watch_down(const td_team *t, int l, const td_acts *ex_mid) {
    const td_route *g = &t->mem->route;
    if (!t->b->importances || t->ith != 0) return;
    for (int e = 0; e < t->net->shape.n_expert; e++)
        td_importances_add(t->b->importances, l, TD_SITE_EXPERT_DOWN, e, ex_mid, g->slot[e],
                           g->first[e + 1] - g->first[e]);
}

void td_experts_run(td_team *t, int l) {
    const td_layer *w = &t->net->layers[l];
    const td_shape *s = &t->net->shape;
    int64_t d = s->d_model, n_router = w->router.n_groups, begin, end, a, b;
    uint32_t parts = td_matrix_acts(&w->gate_exps) | td_matrix_acts(&w->up_exps);
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, td_matrix_acts(&w->gate) | td_matrix_acts(&w->up));
    td_acts mid = td_team_acts(t, t->mid, t->n_rows, d, parts);
    td_acts rt = td_team_acts(t, t->rt, t->n_rows, d, td_matrix_acts(&w->router));
    td_acts ff = td_team_acts(t, t->b->ff, t->n_rows, w->down.k, td_matrix_acts(&w->down));
    norms(t, l, &in, &mid, &rt);
    td_team_watch(t, l, TD_SITE_UP, &in);
    td_team_watch(t, l, TD_SITE_ROUTER, &rt);
    while (td_pool_share(t->pool, t->ith, n_router + ff.n_blocks, 1, &begin, &end)) {
        if (td_part(begin, end, 0, n_router, &a, &b))
            td_matmul(&w->router, 0, a, b, &rt, 0, t->n_rows, t->b->router, s->n_expert, t->mem->scratch);
        if (td_part(begin, end, n_router, ff.n_blocks, &a, &b))
            td_matmul_glu(&w->gate, &w->up, 0, a, b, &in, 0, t->n_rows, &ff, 0, t->mem->scratch);
    }
    td_team_barrier(t, TD_STAGE_UP);
    int32_t *pick = t->own ? t->mem->route.pick : t->b->pick;
    float *weight = t->own ? t->mem->route.weight : t->b->weight;
    choose(t, l, pick, weight);
    int n_grouped = group(t, pick, weight);
    td_acts ex_in = td_team_acts(t, t->b->ex_in, n_grouped, d, parts);
    td_acts ex_mid = td_team_acts(t, t->b->ex_mid, n_grouped, s->d_expert, td_matrix_acts(&w->down_exps));
    td_team_watch(t, l, TD_SITE_DOWN, &ff);
    watch_up(t, l, &mid);
    if (!t->own) gather(t, &mid, &ex_in);
    up_stage(t, l, &mid, &ex_in, &ex_mid, &ff);
    watch_down(t, l, &ex_mid);
    down_stage(t, l, &ex_mid);
}
