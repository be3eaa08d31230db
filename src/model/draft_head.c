/* The heads of an assistant: from the last hidden state to the draft token. The token is found while the head's rows
 * pass by: no row of logits is written.
 *
 * An ordered head (the file's) looks at the tokens of the best clusters. A dense head of n_vocab rows costs more than
 * the assistant's layers, so it is screened: a 4-bit copy of it names the TD_SCREEN_KEEP best tokens, and those alone
 * meet the file's own rows. The copy's error is about a tenth of the logits' spread: the best token is far inside. A
 * draft is checked by the target in any case. */
#include "draft.h"

#include <math.h>
#include <string.h>

/* A tile of one row's logits, ids p0 .. p0 + n: almost every value is below the least that is kept. */
static void scan(td_top *top, const float *z, int64_t p0, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int64_t m = n - i < 16 ? n - i : 16;
        float least = td_top_least(top);
        int any = 0;
        for (int64_t j = 0; j < m; j++) any |= z[i + j] >= least;
        for (int64_t j = 0; any && j < m; j++) td_top_add(top, z[i + j], (int32_t)(p0 + i + j));
    }
}

static td_top merged(const td_bufs *b, int row, bool near) {
    td_top top = near ? b->thread[0].near[row] : b->thread[0].top[row];
    for (int k = 1; k < b->n_thread; k++) {
        const td_top *other = near ? &b->thread[k].near[row] : &b->thread[k].top[row];
        for (int i = 0; i < other->n; i++) td_top_add(&top, other->value[i], other->id[i]);
    }
    return top;
}

static void no_logits(const td_draft_run *u, int row) {
    if (!u->rows[row].logits) return;
    for (int i = 0; i < u->d->net.shape.n_vocab; i++) u->rows[row].logits[i] = -INFINITY;
}

/* The logit of a candidate, for whoever wants logits and for the draft. */
static void found(const td_team *t, const td_draft_run *u, int row, int32_t id, float z) {
    if (u->rows[row].logits) u->rows[row].logits[id] = z;
    td_top_add(&t->mem->top[row], z, id);
}

/* ---- dense ---- */

/* Groups [g0, g1) of the head, or of its copy. */
static void dense_unit(const td_team *t, const td_draft_run *u, bool copy, int64_t g0, int64_t g1, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    int64_t p0 = g0 * TD_GROUP, n = (g1 * TD_GROUP < s->n_vocab ? g1 * TD_GROUP : s->n_vocab) - p0;
    float *tile = t->mem->tile;
    td_matmul(copy ? &u->d->screen : &t->net->head, 0, g0, g1, in, 0, t->n_rows, td_tile(tile, p0), n, t->mem->scratch);
    for (int r = 0; r < t->n_rows; r++) {
        float *z = tile + td_at(r, n);
        if (s->softcap != 0 && !copy) t->kn->softcap(z, z, s->softcap, n);
        if (u->rows[r].logits && !copy) memcpy(u->rows[r].logits + p0, z, (size_t)n * sizeof *z);
        scan(copy ? &t->mem->near[r] : &t->mem->top[r], z, p0, n);
    }
}

/* A group of one row's candidates against the file's own rows: a matrix of those rows alone. */
static void near_unit(const td_team *t, const td_draft_run *u, int row, int64_t g, const td_acts *in) {
    const td_top *near = &t->b->near[row];
    float z[TD_GROUP], cap = t->net->shape.softcap;
    int first = (int)g * TD_GROUP, n = near->n - first < TD_GROUP ? near->n - first : TD_GROUP;
    if (n <= 0) return;
    td_matrix m = t->net->head;
    m.row_ids = near->id;
    m.n_rows = near->n;
    td_matmul(&m, 0, g, g + 1, in, row, 1, td_tile(z, first), TD_GROUP, t->mem->scratch);
    if (cap != 0) t->kn->softcap(z, z, cap, n);
    for (int i = 0; i < n; i++) found(t, u, row, near->id[first + i], z[i]);
}

static void screened_head(td_team *t, const td_draft_run *u, const td_acts *in) {
    enum { GROUPS = TD_SCREEN_KEEP / TD_GROUP };
    int64_t begin, end;
    while (td_pool_take(t->pool, t->n_rows, 1, &begin, &end)) {
        no_logits(u, (int)begin);
        t->b->near[begin] = merged(t->b, (int)begin, true);
    }
    td_team_barrier(t, TD_STAGE_HEAD);
    while (td_pool_take(t->pool, (int64_t)t->n_rows * GROUPS, 1, &begin, &end))
        near_unit(t, u, (int)(begin / GROUPS), begin % GROUPS, in);
    td_team_barrier(t, TD_STAGE_HEAD);
}

/* ---- ordered ---- */

/* The candidates of one chosen cluster of one row. */
static void cluster_unit(const td_team *t, const td_draft_run *u, int row, int i, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    const td_matrix *m = &t->net->head;
    int used = s->n_centroid_used, size = s->n_vocab / s->n_centroid;
    int32_t first = t->b->chosen[row * used + i] * size;
    float *z = t->b->z + td_at(row * used + i, size);
    for (int j = 0; j < size; j++) t->mem->pos[j] = m->row_ids ? first + j : u->d->order[first + j];
    td_matmul_rows(m, t->mem->pos, size, in, row, z, t->mem->scratch);
    if (s->softcap != 0) t->kn->softcap(z, z, s->softcap, size);
    for (int j = 0; j < size; j++) found(t, u, row, u->d->order[first + j], z[j]);
}

static void ordered_head(td_team *t, const td_draft_run *u, const td_acts *in) {
    const td_shape *s = &t->net->shape;
    int64_t begin, end;
    while (td_pool_take(t->pool, t->n_rows, 1, &begin, &end)) {
        int row = (int)begin;
        td_topk(t->b->scores + td_at(row, s->n_centroid), s->n_centroid, s->n_centroid_used,
                t->b->chosen + td_at(row, s->n_centroid_used), NULL);
        no_logits(u, row);
    }
    td_team_barrier(t, TD_STAGE_HEAD);
    int64_t n = (int64_t)t->n_rows * s->n_centroid_used;
    while (td_pool_take(t->pool, n, td_grain(t, n), &begin, &end))
        for (int64_t i = begin; i < end; i++)
            cluster_unit(t, u, (int)(i / s->n_centroid_used), (int)(i % s->n_centroid_used), in);
    td_team_barrier(t, TD_STAGE_HEAD);
}

/* ---- all heads ---- */

static void begin_tops(const td_team *t) {
    for (int r = 0; r < t->n_rows; r++) {
        t->mem->top[r] = (td_top){.keep = TD_TOP};
        t->mem->near[r] = (td_top){.keep = TD_SCREEN_KEEP};
    }
}

void td_draft_output(td_team *t, const td_draft_run *u) {
    const td_shape *s = &t->net->shape;
    bool ordered = u->d->order != NULL, screened = td_drafter_is_screened(u->d);
    int64_t d = s->d_model, begin, end, a, b;
    const td_matrix *post = &u->d->post;
    const td_matrix *first = ordered ? &u->d->centroids : screened ? &u->d->screen : &t->net->head;
    uint32_t parts = td_matrix_acts(post) | td_matrix_acts(first) | td_matrix_acts(&t->net->head);
    td_acts in = td_team_acts(t, t->in, t->n_rows, d, parts);
    for (int r = t->r0; r < t->r1; r++) td_acts_norm(&in, r, t->x + td_at(r, d), t->net->output_norm, s->eps);
    begin_tops(t);
    td_team_rows_done(t);
    int64_t np = post->n_groups, n = np + first->n_groups;
    while (td_pool_share(t->pool, t->ith, n, TD_HEAD_GROUPS, &begin, &end)) {
        if (td_part(begin, end, 0, np, &a, &b))
            td_matmul(post, 0, a, b, &in, 0, t->n_rows, u->h_next, s->d_backbone, t->mem->scratch);
        if (!td_part(begin, end, np, first->n_groups, &a, &b)) continue;
        for (int64_t g = a, end_g; g < b; g = end_g) { /* the tile's width */
            end_g = g + TD_HEAD_GROUPS < b ? g + TD_HEAD_GROUPS : b;
            if (ordered)
                td_matmul(first, 0, g, end_g, &in, 0, t->n_rows, t->b->scores, s->n_centroid, t->mem->scratch);
            else
                dense_unit(t, u, screened, g, end_g, &in);
        }
    }
    td_team_barrier(t, TD_STAGE_HEAD);
    if (ordered) ordered_head(t, u, &in);
    if (screened) screened_head(t, u, &in);
}

void td_draft_result(const td_draft_run *u, int row, td_draft *out) {
    td_top top = merged(&u->w->draft, row, false);
    float sum = 0;
    for (int i = 0; i < top.n; i++) sum += expf(top.value[i] - top.value[0]);
    out->token = top.n ? top.id[0] : 0;
    out->logit = top.n ? top.value[0] : 0;
    out->p = top.n ? 1.0f / sum : 0;
    out->h_next = u->h_next + td_at(row, u->d->net.shape.d_backbone);
}
