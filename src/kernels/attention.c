/* Attention of a step: cuts rows into tiles and units of work, walks the cache, folds partial results.
 *
 * A tile is up to 64 rows that read one KV head of one sequence: the heads of a group for as many tokens as fit. Keys
 * and values are read (and, where quantised, expanded) once per tile: a decode or verify batch reads the cache once for
 * all its heads and rows, and a prompt's tile of 64 rows does 32 times more arithmetic per byte than memory can hold
 * up. A tile with much work is cut by chunks of positions for the threads; the folding order is that of the uncut tile,
 * so the cut is free to depend on the number of threads.
 *
 * Row r of a tile is head r % n_head of its part and token r / n_head. */
#include "attention_ops.h"

#include "../base/checked.h"
#include "../base/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    TILE_ROWS = 64,
    EXPAND = 8,             /* strips of values expanded at a time */
    PART_FLOATS = 2u << 20, /* partial results of split tiles */
    UNITS_PER_THREAD = 4,   /* cut until there are about so many */
    AHEAD = 4096,           /* bytes fetched before they are needed: a strip of 16-bit values, or 32 steps of keys */
    NO_PART = 0xffffffffu
};

typedef struct row_tile {
    uint32_t row0, n_tok;
    uint32_t lo, hi;  /* union of the rows' ranges */
    uint32_t c0, c1;  /* chunks */
    uint32_t level;   /* 0: whole; 1: cut at spans; 2: cut at chunks */
    uint32_t part0;   /* split: first partial; one per (part, piece) */
    uint32_t n_piece; /* spans or chunks */
    uint32_t merge0;  /* split: first merge item */
} row_tile;

typedef struct unit {
    uint32_t tile, part;
    uint32_t c0, c1;
} unit;

typedef struct workspace {
    _Alignas(64) char q[TILE_ROWS * Q_STRIDE * sizeof(float)]; /* int16 or float */
    char q_fold[TILE_ROWS * Q_STRIDE * sizeof(float)];         /* K = V layers: queries for the values as keys */
    char w[TILE_ROWS * W_STRIDE * sizeof(float)];              /* int16 or float */
    float s[TILE_ROWS * W_STRIDE];
    float span[TILE_ROWS * TD_ATTN_D_MAX], total[TILE_ROWS * TD_ATTN_D_MAX];
    char key_tile[2 * HALF * TD_ATTN_D_MAX * sizeof(float)]; /* keys of half a page, or a page of values as keys */
    int16_t value_tile[4 * EXPAND * PAIRS * LANES];
    float v_scale[TD_ATTN_CHUNK], x[TD_ATTN_D_MAX];
    float q_scale[TILE_ROWS], fold_scale[TILE_ROWS], w_scale[TILE_ROWS], alpha[TILE_ROWS], beta[TILE_ROWS];
    float m[TILE_ROWS], l[TILE_ROWS], m_total[TILE_ROWS], l_total[TILE_ROWS];
    uint32_t lo[TILE_ROWS], hi[TILE_ROWS];
} workspace;

struct td_attn_plan {
    uint32_t max_rows, max_heads, n_threads;
    uint32_t n_head, n_kv, n_group; /* n_group: heads of a part */
    uint32_t n_block, n_part;       /* parts of a token: KV heads, times blocks of at most 64 heads */
    uint32_t n_rows, n_tiles, n_units, n_merges, max_tiles, max_units;
    td_attn_row *rows;
    row_tile *tiles;
    unit *units;
    float *part; /* split tiles: [piece] rows * (2 + TD_ATTN_D_MAX): maximum, sum, values */
    workspace *work;
    size_t work_bytes, part_bytes;
};

static const attn_ops *overridden;

const attn_ops *td_attn_ops_for(int level) {
    if (level == TD_CPU_REF) return &td_attn_ops_ref;
    if (!td_cpu_has((td_cpu_level)level)) return NULL;
#if defined(__x86_64__)
    if (level == TD_CPU_AVX2) return &td_attn_ops_avx2;
    if (level == TD_CPU_AVXVNNI) return &td_attn_ops_avxvnni;
    if (level == TD_CPU_AVX512 || level == TD_CPU_AVX512BF16) return &td_attn_ops_avx512;
#elif defined(__aarch64__)
    if (level == TD_CPU_NEON || level == TD_CPU_I8MM) return &td_attn_ops_neon;
#endif
    return &td_attn_ops_ref;
}

/* Chosen once: asking the processor is slow in a virtual machine. */
const attn_ops *td_attn_ops(void) {
    static _Atomic(const attn_ops *) chosen;
    if (overridden) return overridden;
    const attn_ops *ops = atomic_load_explicit(&chosen, memory_order_acquire);
    if (ops) return ops;
    ops = td_attn_ops_for((int)td_cpu_current());
    if (!ops) ops = &td_attn_ops_ref;
    atomic_store_explicit(&chosen, ops, memory_order_release);
    return ops;
}

void td_attn_ops_override(const attn_ops *ops) {
    overridden = ops;
}

/* --- plan --------------------------------------------------------------------------------------------------------- */

void td_attn_plan_destroy(td_attn_plan *p) {
    if (!p) return;
    free(p->rows);
    free(p->tiles);
    free(p->units);
    if (p->part) td_free_aligned(p->part, p->part_bytes);
    if (p->work) td_free_aligned(p->work, p->work_bytes);
    free(p);
}

td_status td_attn_plan_create(td_attn_plan **out, uint32_t max_rows, uint32_t max_heads, uint32_t max_d_head,
                              uint32_t n_threads, td_error *err) {
    *out = NULL;
    if (max_rows == 0 || max_heads == 0 || n_threads == 0 || max_rows > 1u << 20 || max_heads > 1u << 12 ||
        max_d_head > TD_ATTN_D_MAX || n_threads > 1u << 12)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: %u rows, %u heads of %u, %u threads", max_rows,
                       max_heads, max_d_head, n_threads);
    td_attn_plan *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "attention: no memory");
    p->max_rows = max_rows;
    p->max_heads = max_heads;
    p->n_threads = n_threads;
    p->max_tiles = max_rows;
    p->max_units = max_rows * max_heads + 64u * UNITS_PER_THREAD * n_threads;
    p->rows = td_calloc(max_rows, sizeof *p->rows);
    p->tiles = td_calloc(p->max_tiles, sizeof *p->tiles);
    p->units = td_calloc(p->max_units, sizeof *p->units);
    p->part_bytes = (size_t)PART_FLOATS * sizeof(float);
    p->part = td_alloc_aligned(p->part_bytes, 64);
    p->work_bytes = sizeof(workspace) * n_threads;
    p->work = td_alloc_aligned(p->work_bytes, 64);
    if (p->rows && p->tiles && p->units && p->part && p->work) {
        *out = p;
        return TD_OK;
    }
    td_attn_plan_destroy(p);
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "attention: no memory for %u rows", max_rows);
}

size_t td_attn_plan_bytes(const td_attn_plan *p) {
    return sizeof *p + p->max_rows * sizeof *p->rows + p->max_tiles * sizeof *p->tiles +
           p->max_units * sizeof *p->units + p->part_bytes + p->work_bytes;
}

static uint32_t tile_rows(const td_attn_plan *p, const row_tile *t) {
    return t->n_tok * p->n_group;
}

static size_t part_size(const td_attn_plan *p, const row_tile *t) {
    return (size_t)tile_rows(p, t) * (TD_ATTN_D_MAX + 2);
}

static void make_tiles(td_attn_plan *p) {
    uint32_t most = TILE_ROWS / p->n_group;
    p->n_tiles = 0;
    for (uint32_t r = 0; r < p->n_rows;) {
        row_tile *t = &p->tiles[p->n_tiles++];
        *t = (row_tile){.row0 = r, .lo = UINT32_MAX};
        while (r < p->n_rows && t->n_tok < most && p->rows[r].seq == p->rows[t->row0].seq) {
            const td_attn_row *row = &p->rows[r++];
            t->n_tok++;
            if (row->lo >= row->hi) continue;
            t->lo = row->lo < t->lo ? row->lo : t->lo;
            t->hi = row->hi > t->hi ? row->hi : t->hi;
        }
        if (t->hi == 0) t->lo = 0;
        t->c0 = t->lo / TD_ATTN_CHUNK;
        t->c1 = (t->hi + TD_ATTN_CHUNK - 1) / TD_ATTN_CHUNK;
    }
}

/* Query heads that share a key head are taken together, at most `most`. */
static void group_heads(td_attn_plan *p, uint32_t most) {
    uint32_t ratio = p->n_head / p->n_kv, n = ratio < most ? ratio : most;
    while (n > 1 && ratio % n != 0) n--;
    p->n_group = n > 0 ? n : 1;
    p->n_block = ratio / p->n_group;
    p->n_part = p->n_kv * p->n_block;
    make_tiles(p);
}

/* Whether no tile can be cut by positions, though there are fewer units than threads. */
static bool idle_threads(const td_attn_plan *p) {
    if ((uint64_t)p->n_tiles * p->n_part >= p->n_threads) return false;
    for (uint32_t i = 0; i < p->n_tiles; i++)
        if (p->tiles[i].c1 - p->tiles[i].c0 > 1) return false;
    return true;
}

static uint32_t n_spans(const row_tile *t) {
    return t->c1 > t->c0 ? (t->c1 - 1) / TD_ATTN_SPAN - t->c0 / TD_ATTN_SPAN + 1 : 0;
}

/* Cuts a tile whose work is more than `share` (rows x chunks of one part) where memory for partial results allows. */
static void choose_level(td_attn_plan *p, row_tile *t, uint64_t share, size_t *used) {
    uint32_t chunks = t->c1 - t->c0, spans = n_spans(t);
    uint64_t work = (uint64_t)tile_rows(p, t) * chunks;
    t->level = 0;
    t->part0 = NO_PART;
    if (work <= share || chunks < 2) return;
    uint32_t want = (uint32_t)((work + share) / (share + 1));
    for (uint32_t level = spans >= 2 * want ? 1 : 2; level >= 1; level--) {
        uint32_t n = level == 1 ? spans : chunks;
        size_t need = part_size(p, t) * n * p->n_part;
        if (n < 2 || *used + need > PART_FLOATS) continue;
        t->level = level;
        t->n_piece = n;
        t->part0 = (uint32_t)*used;
        t->merge0 = p->n_merges;
        *used += need;
        p->n_merges += tile_rows(p, t) * p->n_part;
        return;
    }
}

static void make_units(td_attn_plan *p, uint32_t index) {
    const row_tile *t = &p->tiles[index];
    for (uint32_t part = 0; part < p->n_part; part++) {
        if (t->level == 0) {
            p->units[p->n_units++] = (unit){.tile = index, .part = part, .c0 = t->c0, .c1 = t->c1};
            continue;
        }
        /* At level 2 a unit takes several chunks when there are very many. */
        uint32_t run = (t->c1 - t->c0 + 31) / 32;
        for (uint32_t c = t->c0; c < t->c1;) {
            uint32_t end = t->level == 1 ? (c / TD_ATTN_SPAN + 1) * TD_ATTN_SPAN : c + run;
            end = end < t->c1 ? end : t->c1;
            p->units[p->n_units++] = (unit){.tile = index, .part = part, .c0 = c, .c1 = end};
            c = end;
        }
    }
}

static uint32_t units_of(const td_attn_plan *p, const row_tile *t) {
    uint32_t n = t->level == 0 ? 1 : t->level == 1 ? t->n_piece : 33;
    return n * p->n_part;
}

/* Tiles and units of the rows. */
static void plan_rows(td_attn_plan *p) {
    p->n_units = p->n_merges = 0;
    group_heads(p, TILE_ROWS);
    while (p->n_group > 1 && idle_threads(p)) group_heads(p, p->n_group / 2);
    uint64_t work = 0;
    for (uint32_t i = 0; i < p->n_tiles; i++)
        work += (uint64_t)tile_rows(p, &p->tiles[i]) * (p->tiles[i].c1 - p->tiles[i].c0);
    uint64_t share = UINT64_MAX - 1; /* one thread: nothing is cut */
    if (p->n_threads > 1) share = work * p->n_part / ((uint64_t)p->n_threads * UNITS_PER_THREAD);
    size_t used = 0;
    uint32_t left = p->max_units - p->n_tiles * p->n_part;
    for (uint32_t i = 0; i < p->n_tiles; i++) {
        row_tile *t = &p->tiles[i];
        uint32_t merges = p->n_merges;
        size_t before = used;
        choose_level(p, t, share, &used);
        if (t->level && units_of(p, t) > left) { /* no room in the list: whole */
            t->level = 0;
            used = before;
            p->n_merges = merges;
        }
        if (t->level) left -= units_of(p, t);
        make_units(p, i);
    }
}

td_status td_attn_plan_set(td_attn_plan *p, uint32_t n_head, uint32_t n_kv, const td_attn_row *rows, uint32_t n_rows,
                           td_error *err) {
    p->n_rows = p->n_units = p->n_merges = 0;
    if (n_rows > p->max_rows || n_head > p->max_heads || n_kv == 0 || n_head == 0 || n_head % n_kv != 0)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: %u rows of %u heads over %u", n_rows, n_head,
                       n_kv);
    p->n_head = n_head;
    p->n_kv = n_kv;
    p->n_rows = n_rows;
    if (n_rows) memcpy(p->rows, rows, n_rows * sizeof *rows);
    plan_rows(p);
    return TD_OK;
}

void td_attn_plan_first(td_attn_plan *p, uint32_t n_rows) {
    if (n_rows >= p->n_rows) return;
    p->n_rows = n_rows;
    plan_rows(p);
}

uint32_t td_attn_units(const td_attn_plan *p) {
    return p->n_units;
}

uint32_t td_attn_merges(const td_attn_plan *p) {
    return p->n_merges;
}

/* --- a unit ------------------------------------------------------------------------------------------------------- */

typedef struct job {
    const attn_ops *ops;
    const td_attn_plan *p;
    const td_attn_call *c;
    const row_tile *t;
    workspace *w;
    attn_block kb, vb;
    uint32_t n_row, d, head0; /* head0: first query head */
    size_t block;             /* offset of the KV head in a page */
    bool floats;              /* of the keys; of the values */
    bool v_floats;
} job;

static const uint8_t *page_at(const job *j, uint32_t page) {
    const td_attn_seq *seq = &j->c->seq[j->p->rows[j->t->row0].seq];
    return j->c->base + (size_t)seq->page[page - seq->first] * j->c->shape->page_bytes + j->block;
}

static job job_make(td_attn_plan *p, const td_attn_call *c, uint32_t index, uint32_t part, int ith) {
    const td_attn_shape *s = c->shape;
    job j = {.ops = td_attn_ops(), .p = p, .c = c, .t = &p->tiles[index], .w = &p->work[ith], .d = s->d_head};
    j.n_row = tile_rows(p, j.t);
    j.head0 = part * p->n_group;
    j.block = (size_t)(part / p->n_block) * s->head_bytes;
    j.kb = td_attn_block(s->type_k, s->d_key, false);
    j.vb = td_attn_block(s->type_v, s->d_head, true);
    j.floats = s->type_k == TD_KV_F32;
    j.v_floats = s->type_v == TD_KV_F32;
    return j;
}

/* One query vector (changed) into row r of `to`. */
static void set_query(const job *j, char *to, float *scale, uint32_t r, float *x, uint32_t n) {
    if (j->floats)
        memcpy((float *)(void *)to + (size_t)r * Q_STRIDE, x, n * sizeof(float));
    else
        scale[r] = j->ops->quantise(x, n, ATTN_Q_MAX, (int16_t *)(void *)to + (size_t)r * Q_STRIDE);
}

/* Queries of the tile, rotated as the keys are; where K = V also those that meet the values: folded with the norm's
 * weight, 0 at the dimensions stored as keys. */
static void load_queries(const job *j) {
    const td_attn_shape *s = j->c->shape;
    workspace *w = j->w;
    for (uint32_t r = 0; r < j->n_row; r++) {
        uint32_t row = j->t->row0 + r / j->p->n_group;
        const float *q = j->c->q + row * j->c->ldq + (size_t)(j->head0 + r % j->p->n_group) * j->d;
        w->lo[r] = j->p->rows[row].lo;
        w->hi[r] = j->p->rows[row].hi;
        for (uint32_t i = 0; i < s->d_key; i++) w->x[i] = q[s->key_at ? s->key_at[i] : i];
        if (td_attn_format(s->type_k)->rotate) j->ops->rotate(w->x, s->d_key, attn_rotation(s->d_key), false);
        set_query(j, w->q, w->q_scale, r, w->x, s->d_key);
        if (!s->fold) continue;
        for (uint32_t i = 0; i < j->d; i++) w->x[i] = q[i] * s->fold[i];
        if (td_attn_format(s->type_v)->rotate) j->ops->rotate(w->x, j->d, attn_rotation(j->d), false);
        for (uint32_t i = 0; i < s->n_strip; i++)
            memmove(w->x + i * HALF, w->x + s->strip[i] * HALF, HALF * sizeof(float));
        set_query(j, w->q_fold, w->fold_scale, r, w->x, s->n_strip * HALF);
    }
}

/* Scores of all rows against 32 positions: columns [at, at + 32) of the chunk that starts at `base`. */
static void score_rows(const job *j, const char *q, const float *q_scale, const void *keys, const float *scale,
                       uint32_t n_dim, uint32_t base, uint32_t at, bool add, const void *next, size_t jump) {
    workspace *w = j->w;
    size_t size = j->floats ? sizeof(float) : sizeof(int16_t);
    for (uint32_t r = 0; r < j->n_row; r += GROUP_ROWS) {
        uint32_t n = j->n_row - r < GROUP_ROWS ? j->n_row - r : GROUP_ROWS;
        bool any = false;
        for (uint32_t i = r; i < r + n; i++) any = any || (w->lo[i] < base + at + HALF && w->hi[i] > base + at);
        if (!any) continue;
        attn_score_args a = {
            .q = q + (size_t)r * Q_STRIDE * size, .q_scale = q_scale + r, .tile = keys, .scale = scale};
        a.s = w->s + (size_t)r * W_STRIDE + at;
        a.n_row = n;
        a.n_dim = n_dim;
        a.add = add;
        a.next = next;
        a.jump = jump;
        if (j->floats)
            j->ops->score_f32(&a);
        else
            j->ops->score(&a);
    }
}

static void turn_f32(const float *strip, uint32_t half, float *tile) {
    for (uint32_t pos = 0; pos < HALF; pos++) {
        for (uint32_t i = 0; i < HALF; i++)
            tile[(size_t)i * HALF + pos] = strip[(size_t)(half * HALF + pos) * HALF + i];
    }
}

/* K = V layers: the values of half a page as keys, a tile of n_strip * 32 dimensions. Codes are expanded once a page:
 * `first` half that is looked at. */
static void turn_values(const job *j, const uint8_t *values, uint32_t half, bool first) {
    const td_attn_shape *s = j->c->shape;
    workspace *w = j->w;
    uint32_t bits = td_attn_format(s->type_v)->bits;
    if (bits < 16 && first) j->ops->values(s->type_v, &j->vb, values, 0, j->d / HALF, w->value_tile);
    for (uint32_t i = 0; i < s->n_strip; i++) {
        uint32_t strip = s->strip[i];
        if (bits == 32) {
            turn_f32((const float *)(const void *)values + (size_t)strip * TD_ATTN_PAGE * HALF, half,
                     (float *)(void *)w->key_tile + (size_t)i * HALF * HALF);
            continue;
        }
        const int16_t *from = (const int16_t *)(const void *)values + (size_t)strip * PAIRS * LANES;
        if (bits < 16) {
            from = w->value_tile + (size_t)strip * PAIRS * LANES;
        }
        j->ops->turn(from, half, (int16_t *)(void *)w->key_tile + (size_t)i * HALF / 2 * LANES);
    }
}

/* Scores of half a page. */
static void score_half(const job *j, uint32_t base, uint32_t page, uint32_t half) {
    const td_attn_shape *s = j->c->shape;
    workspace *w = j->w;
    uint32_t at = page * TD_ATTN_PAGE + half * HALF, bits = td_attn_format(s->type_k)->bits;
    const uint8_t *keys = page_at(j, base / TD_ATTN_PAGE + page), *values = keys + s->k_bytes;
    const float *scale = (const float *)(const void *)(keys + j->kb.scale) + half * HALF;
    const void *key_tile = keys + (size_t)half * s->d_key * HALF * (bits / 8);
    bool done = false;
    if (bits < 16 && j->n_row <= GROUP_ROWS && j->ops->score_codes) {
        attn_score_args a = {.q = w->q, .q_scale = w->q_scale, .scale = scale, .s = w->s + at, .n_row = j->n_row};
        done = j->ops->score_codes(s->type_k, &j->kb, keys, half, &a);
    }
    if (bits < 16 && !done) {
        j->ops->keys(s->type_k, &j->kb, keys, half, (int16_t *)(void *)w->key_tile);
        key_tile = w->key_tile;
    }
    if (!s->fold) {
        if (!done)
            score_rows(j, w->q, w->q_scale, key_tile, scale, s->d_key, base, at, false,
                       (const uint8_t *)key_tile + AHEAD, AHEAD / 2);
        return;
    }
    /* Meanwhile the values of the next half page come in, strip by strip. */
    const uint8_t *next = values + AHEAD / 2;
    if (half == 1 && base + (page + 1) * TD_ATTN_PAGE < j->t->hi)
        next = page_at(j, base / TD_ATTN_PAGE + page + 1) + s->k_bytes;
    if (!done) score_rows(j, w->q, w->q_scale, key_tile, scale, s->d_key, base, at, false, next, AHEAD);
    turn_values(j, values, half, half == 0 || base + at <= j->t->lo);
    scale = (const float *)(const void *)(values + j->vb.scale) + half * HALF;
    next += (size_t)s->d_key / HALF * AHEAD;
    score_rows(j, w->q_fold, w->fold_scale, w->key_tile, scale, s->n_strip * HALF, base, at, true, next, AHEAD);
}

/* Folds a piece with maximum m and sum l into (m, l) of row r: factors for what is there and for what comes. */
static void fold_sums(const attn_ops *ops, float *m, float *l, float m_new, float l_new, float *alpha, float *beta) {
    *alpha = 1.0f;
    *beta = 0.0f;
    if (!(l_new > 0.0f)) return;
    float top = m_new > *m ? m_new : *m;
    *alpha = ops->exp(*m - top);
    *beta = ops->exp(m_new - top);
    *l = fmaf(l_new, *beta, *l * *alpha);
    *m = top;
}

/* Weights of the chunk for every row, and the factors of the fold into the running sums. */
static void soften(const job *j, uint32_t base) {
    workspace *w = j->w;
    for (uint32_t r = 0; r < j->n_row; r++) {
        uint32_t b = w->lo[r] > base ? w->lo[r] - base : 0, e = w->hi[r] > base ? w->hi[r] - base : 0;
        e = e < TD_ATTN_CHUNK ? e : TD_ATTN_CHUNK;
        w->alpha[r] = 1.0f;
        w->beta[r] = 0.0f;
        if (b >= e) continue;
        const float *s = w->s + (size_t)r * W_STRIDE;
        attn_soft x;
        if (j->v_floats)
            x = j->ops->soft_f32(s, b, e, (float *)(void *)w->w + (size_t)r * W_STRIDE);
        else
            x = j->ops->soft(s, b, e, w->v_scale, (int16_t *)(void *)w->w + (size_t)r * W_STRIDE);
        w->w_scale[r] = x.w_scale;
        fold_sums(j->ops, &w->m[r], &w->l[r], x.m, x.l, &w->alpha[r], &w->beta[r]);
    }
}

static void mix_strip(const job *j, attn_mix_args *a, uint32_t strip, float *o, size_t ldo) {
    workspace *w = j->w;
    size_t size = j->v_floats ? sizeof(float) : sizeof(int16_t);
    for (uint32_t r = 0; r < j->n_row; r += GROUP_ROWS) {
        a->n_row = j->n_row - r < GROUP_ROWS ? j->n_row - r : GROUP_ROWS;
        a->w = w->w + (size_t)r * W_STRIDE * size;
        a->o = o + r * ldo + (size_t)strip * HALF;
        a->w_scale = w->w_scale + r;
        a->alpha = w->alpha + r;
        a->beta = w->beta + r;
        if (j->v_floats)
            j->ops->mix_f32(a);
        else
            j->ops->mix(a);
    }
}

/* The rows of one token on codes; false where the instruction set has no such path. */
static bool mix_codes(const job *j, attn_mix_args *a, const uint8_t *const *values, float *o) {
    a->n_row = j->n_row;
    a->w = j->w->w;
    a->w_scale = j->w->w_scale;
    a->alpha = j->w->alpha;
    a->beta = j->w->beta;
    for (uint32_t p = a->page0; p < a->page1; p++) a->strip[p] = values[p];
    for (uint32_t strip = 0; strip < j->d / HALF; strip++) {
        a->o = o + (size_t)strip * HALF;
        if (!j->ops->mix_codes(j->c->shape->type_v, &j->vb, strip, a)) return false;
    }
    return true;
}

/* Weighted sums of the chunk's values, folded into o [n_row][ldo]. */
static void mix_chunk(const job *j, uint32_t base, float *o, size_t ldo) {
    const td_attn_shape *s = j->c->shape;
    workspace *w = j->w;
    uint32_t lo = j->t->lo > base ? j->t->lo - base : 0, hi = j->t->hi - base;
    attn_mix_args a = {.begin = lo, .end = hi < TD_ATTN_CHUNK ? hi : TD_ATTN_CHUNK, .ldo = ldo};
    a.page0 = a.begin / TD_ATTN_PAGE;
    a.page1 = (a.end + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE;
    const uint8_t *values[4] = {0};
    for (uint32_t p = a.page0; p < a.page1; p++) values[p] = page_at(j, base / TD_ATTN_PAGE + p) + s->k_bytes;
    uint32_t n_strip = j->d / HALF, bits = td_attn_format(s->type_v)->bits;
    if (bits < 16 && j->n_row <= GROUP_ROWS && j->ops->mix_codes && mix_codes(j, &a, values, o)) return;
    size_t strip_bytes = (size_t)TD_ATTN_PAGE * HALF * (bits == 32 ? 4 : 2);
    for (uint32_t strip = 0; strip < n_strip; strip++) {
        for (uint32_t p = a.page0; p < a.page1; p++) {
            a.strip[p] = values[p] + strip * strip_bytes;
            if (bits >= 16) continue;
            int16_t *to = w->value_tile + (size_t)p * EXPAND * PAIRS * LANES;
            uint32_t end = strip + EXPAND < n_strip ? strip + EXPAND : n_strip;
            if (strip % EXPAND == 0) j->ops->values(s->type_v, &j->vb, values[p], strip, end, to);
            a.strip[p] = to + (size_t)(strip % EXPAND) * PAIRS * LANES;
        }
        mix_strip(j, &a, strip, o, ldo);
    }
}

/* One chunk: folded into o and the running maxima and sums. */
static void do_chunk(const job *j, uint32_t chunk, float *o, size_t ldo) {
    const td_attn_shape *s = j->c->shape;
    uint32_t base = chunk * TD_ATTN_CHUNK;
    for (uint32_t page = 0; page < 4; page++) {
        uint32_t at = base + page * TD_ATTN_PAGE;
        if (at >= j->t->hi || at + TD_ATTN_PAGE <= j->t->lo) continue;
        for (uint32_t half = 0; half < 2; half++) {
            if (at + half * HALF < j->t->hi && at + (half + 1) * HALF > j->t->lo) score_half(j, base, page, half);
        }
        if (!j->v_floats)
            memcpy(j->w->v_scale + page * TD_ATTN_PAGE, page_at(j, at / TD_ATTN_PAGE) + s->k_bytes + j->vb.scale,
                   TD_ATTN_PAGE * sizeof(float));
    }
    soften(j, base);
    mix_chunk(j, base, o, ldo);
}

static void begin_sums(const job *j, float *o, size_t ldo) {
    for (uint32_t r = 0; r < j->n_row; r++) {
        j->w->m[r] = -INFINITY;
        j->w->l[r] = 0.0f;
        memset(o + r * ldo, 0, j->d * sizeof(float));
    }
}

/* Adds a finished piece x of n values to the total of a row; the first one is copied. */
static void add_piece(const attn_ops *ops, float *total, float *m, float *l, const float *x, float m_x, float l_x,
                      uint32_t n) {
    if (!(l_x > 0.0f)) return;
    if (*l == 0.0f) {
        memcpy(total, x, n * sizeof(float));
        *m = m_x;
        *l = l_x;
        return;
    }
    float alpha = 1.0f, beta = 0.0f;
    fold_sums(ops, m, l, m_x, l_x, &alpha, &beta);
    if (beta != 0.0f) ops->fold(total, x, n, alpha, beta);
}

static void finish_row(const attn_ops *ops, const td_attn_shape *s, float *out, float *total, float l) {
    uint32_t d = s->d_head;
    if (!(l > 0.0f)) {
        memset(out, 0, d * sizeof(float));
        return;
    }
    ops->scale(out, total, d, 1.0f / l);
    if (td_attn_format(s->type_v)->rotate) ops->rotate(out, d, attn_rotation(d), true);
}

static float *out_row(const job *j, uint32_t r) {
    uint32_t row = j->t->row0 + r / j->p->n_group;
    return j->c->out + row * j->c->ldo + (size_t)(j->head0 + r % j->p->n_group) * j->d;
}

static void whole_tile(const job *j) {
    workspace *w = j->w;
    const row_tile *t = j->t;
    for (uint32_t r = 0; r < j->n_row; r++) w->l_total[r] = 0.0f;
    for (uint32_t c = t->c0; c < t->c1;) {
        uint32_t end = (c / TD_ATTN_SPAN + 1) * TD_ATTN_SPAN;
        begin_sums(j, w->span, TD_ATTN_D_MAX);
        for (end = end < t->c1 ? end : t->c1; c < end; c++) do_chunk(j, c, w->span, TD_ATTN_D_MAX);
        for (uint32_t r = 0; r < j->n_row; r++)
            add_piece(j->ops, w->total + (size_t)r * TD_ATTN_D_MAX, &w->m_total[r], &w->l_total[r],
                      w->span + (size_t)r * TD_ATTN_D_MAX, w->m[r], w->l[r], j->d);
    }
    for (uint32_t r = 0; r < j->n_row; r++)
        finish_row(j->ops, j->c->shape, out_row(j, r), w->total + (size_t)r * TD_ATTN_D_MAX, w->l_total[r]);
}

/* Partial results of piece `piece` of a part: [row] maximum, [row] sum, [row][TD_ATTN_D_MAX]. */
static float *piece_at(const td_attn_plan *p, const row_tile *t, uint32_t part, uint32_t piece) {
    return p->part + t->part0 + part_size(p, t) * ((size_t)part * t->n_piece + piece);
}

void td_attn_unit(td_attn_plan *p, const td_attn_call *c, uint32_t i, int ith) {
    const unit *u = &p->units[i];
    job j = job_make(p, c, u->tile, u->part, ith);
    const row_tile *t = j.t;
    load_queries(&j);
    if (t->level == 0) {
        whole_tile(&j);
        return;
    }
    for (uint32_t chunk = u->c0; chunk < u->c1;) {
        uint32_t end = t->level == 1 ? u->c1 : chunk + 1;
        uint32_t piece = t->level == 1 ? chunk / TD_ATTN_SPAN - t->c0 / TD_ATTN_SPAN : chunk - t->c0;
        float *part = piece_at(p, t, u->part, piece), *o = part + 2 * (size_t)j.n_row;
        begin_sums(&j, o, TD_ATTN_D_MAX);
        for (; chunk < end; chunk++) do_chunk(&j, chunk, o, TD_ATTN_D_MAX);
        memcpy(part, j.w->m, j.n_row * sizeof(float));
        memcpy(part + j.n_row, j.w->l, j.n_row * sizeof(float));
    }
}

void td_attn_merge(td_attn_plan *p, const td_attn_call *c, uint32_t i, int ith) {
    uint32_t index = 0; /* split tiles are few, or merges are few: a walk is cheap */
    while (p->tiles[index].level == 0 || i - p->tiles[index].merge0 >= tile_rows(p, &p->tiles[index]) * p->n_part)
        index++;
    const row_tile *t = &p->tiles[index];
    uint32_t n_row = tile_rows(p, t), part = (i - t->merge0) / n_row, r = (i - t->merge0) % n_row;
    job j = job_make(p, c, index, part, ith);
    float *total = j.w->total, *span = j.w->span, m_total = 0, l_total = 0, m = 0, l = 0;
    for (uint32_t piece = 0; piece < t->n_piece; piece++) {
        const float *x = piece_at(p, t, part, piece), *o = x + 2 * (size_t)n_row + (size_t)r * TD_ATTN_D_MAX;
        if (t->level == 1) {
            add_piece(j.ops, total, &m_total, &l_total, o, x[r], x[n_row + r], j.d);
            continue;
        }
        add_piece(j.ops, span, &m, &l, o, x[r], x[n_row + r], j.d);
        bool last = piece + 1 == t->n_piece || (t->c0 + piece + 1) % TD_ATTN_SPAN == 0;
        if (!last) continue;
        add_piece(j.ops, total, &m_total, &l_total, span, m, l, j.d);
        l = 0;
    }
    finish_row(j.ops, c->shape, out_row(&j, r), total, l_total);
}
