/* The products: how groups of weight rows and rows of activations are walked. The arithmetic is in the tiles.
 *
 * Decode and verify (at most 8 rows): weights stream through once, each group, or pair of groups (src/kernels/pair.h),
 * against all rows; somewhat more rows pass over a pair of groups that stays near, asking for the next meanwhile, or,
 * where there are no pairs, over a piece of weights that stays in L2. Prefill of quantised weights: k is
 * cut into chunks of 512 values; two groups of a chunk are expanded (src/kernels/rect.h, 24 KB, beside four rows of
 * activations in L1) and then meet all rows, whose chunk (330 KB for 512 rows) stays in L2 over all groups of the call.
 * Prefill of float weights: tiles of 16 rows, chunks of about 1024 values. A chunk's accumulators start where the
 * previous one's ended, so that cutting k changes no bit. Tails of rows go through a buffer. */
#include "forms.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK_VALUES = 1024,
    PAIR_VALUES = 2048,
    PAIR_AHEAD = 12288,
    L2_BYTES = 384 * 1024,
    GLU_BLOCKS = 4,
    GLU_RUN = 16,
    PAIR_ROWS = 4
};
/* Groups of one pass over the rows (their results, 256 KB for 512 rows, stay in L2); rows and blocks of 32 results of a
 * fused product between two quantisations (2 x 64 KB). */
enum { RECT_FEW = 64, RECT_GROUPS = 8, GLU_TOK = 512, GLU_PAIRS = 1, GLU_LD = GLU_PAIRS * TD_RECT_ROWS };

/* The beginning of every scratch. */
typedef struct rect_mem {
    td_expanded w;
    float gate[GLU_TOK * GLU_LD], up[GLU_TOK * GLU_LD];
} rect_mem;

/* A group's packed bytes; scratch holds them when the matrix is not packed. */
typedef struct view {
    const td_kernels *kern;
    const td_form *form;
    const td_acts *a;
    const uint8_t *q, *x; /* i8 or wht part and its extras */
    int64_t unit;         /* values per block */
    int64_t n;            /* blocks in a row */
    size_t block_bytes;   /* of a packed block */
} view;

static view view_make(const td_matrix *m, const td_acts *a) {
    const td_form *f = m->form->id == TD_FORM_GENERIC ? td_form_of(TD_TYPE_F32) : m->form;
    bool wht = f->acts & TD_ACTS_WHT;
    return (view){.kern = td_kernels_get(),
                  .form = f,
                  .a = a,
                  .q = wht ? a->wht : a->i8,
                  .x = wht ? a->whtx : a->i8x,
                  .unit = f->block,
                  .n = m->k / f->block,
                  .block_bytes = (size_t)f->bytes * TD_GROUP};
}

/* Rows of the generic form, decoded into the F32 form. scratch: k * 16 floats, then one row. */
static void decode_group(const td_matrix *m, const uint8_t *const rows[TD_GROUP], float *scratch) {
    float *row = scratch + (size_t)m->k * TD_GROUP;
    for (int r = 0; r < TD_GROUP; r++) {
        if (rows[r])
            m->type->decode(rows[r], row, m->k);
        else
            memset(row, 0, (size_t)m->k * sizeof *row);
        for (int64_t i = 0; i < m->k; i++) scratch[i * TD_GROUP + r] = row[i];
    }
}

static const uint8_t *group_at(const td_matrix *m, int32_t expert, int64_t g, void *mem) {
    uint8_t *scratch = mem ? (uint8_t *)mem + sizeof(rect_mem) : NULL;
    bool generic = m->form->id == TD_FORM_GENERIC;
    const uint8_t *at = m->data + (size_t)expert * m->expert_bytes + (size_t)g * m->group_bytes;
    if (m->packed && !generic) return at;
    const uint8_t *rows[TD_GROUP];
    for (int r = 0; r < TD_GROUP; r++) {
        int64_t p = g * TD_GROUP + r;
        if (m->packed) {
            rows[r] = at + (size_t)r * m->row_bytes;
        } else if (p < m->n_rows) {
            int64_t id = m->row_ids ? m->row_ids[p] : p;
            rows[r] = m->data + (size_t)expert * m->expert_bytes + (size_t)id * m->row_bytes;
        } else {
            rows[r] = NULL;
        }
    }
    if (generic)
        decode_group(m, rows, (float *)(void *)scratch);
    else
        td_form_pack_group(m->form, scratch, rows, m->k / m->form->block);
    return scratch;
}

/* What tiles of any kind need for blocks [b0, b1) of a packed group and rows from t on. */
static td_tile_args tile_args(const view *v, const uint8_t *group, int64_t b0, int64_t b1, int32_t t, float *y,
                              int64_t ldy) {
    size_t panel = (size_t)(t / TD_PANEL), lane = (size_t)(t % TD_PANEL), blocks = (size_t)v->a->n_blocks;
    size_t first = panel * blocks + (size_t)(b0 * v->unit / 32);
    td_tile_args args = {.w = group + (size_t)b0 * v->block_bytes, .n = b1 - b0, .y = y, .ldy = ldy, .resume = b0 > 0};
    args.q = args.d = args.x = group; /* parts this form does not read must still be pointers */
    args.f = (const float *)(const void *)group;
    if (v->q) {
        args.q = v->q + first * TD_I8_BLOCK + 32 * lane;
        args.d = v->q + first * TD_I8_BLOCK + TD_I8_SCALE + 4 * lane;
    }
    if (v->x) args.x = v->x + first * TD_I8X_BLOCK + 4 * lane;
    if (v->a->f32) {
        args.f = v->a->f32 + first * TD_PANEL * 32 + 32 * lane;
        args.f_panel = blocks * TD_PANEL * 32;
    }
    return args;
}

/* Blocks [b0, b1) of a packed group times rows [t, t + n), which lie in one panel (or n is TD_WIDE, from a panel's
 * first row on). */
static void tile(const view *v, const uint8_t *group, int64_t b0, int64_t b1, int32_t t, int32_t n, float *y,
                 int64_t ldy) {
    td_tile_args args = tile_args(v, group, b0, b1, t, y, ldy);
    td_tile_fn fn = n == TD_WIDE ? v->kern->wide[v->form->id] : v->kern->tile[v->form->id][n];
    fn(&args);
}

/* The same for that group and the next. Pass `pass` of `passes` over these blocks: each asks for a part of what comes
 * next from memory, so that memory and arithmetic work at the same time. */
static void pair(const view *v, const uint8_t *group, int64_t b0, int64_t b1, int32_t t, int32_t n, float *y,
                 int64_t ldy, int pass, int passes) {
    td_tile_args args = tile_args(v, group, b0, b1, t, y, ldy);
    int64_t block = (int64_t)v->block_bytes, bytes = v->n * block;
    args.w2 = args.w + bytes;
    args.step = (int32_t)v->block_bytes / passes;
    args.n_near = args.n;
    if (passes > 1) { /* the next piece of k, or the next pair from its beginning */
        args.ahead = b1 < v->n ? args.n * block : 2 * bytes - b0 * block;
        args.ahead += pass * args.n * args.step;
    } else { /* a little ahead, from some block on in the next pair */
        args.ahead = bytes < PAIR_AHEAD ? 2 * bytes : PAIR_AHEAD;
        args.skip = bytes;
        if (bytes >= PAIR_AHEAD) args.n_near = (bytes - PAIR_AHEAD) / block;
    }
    v->kern->pair[v->form->id][n](&args);
}

size_t td_matrix_scratch(const td_matrix *m) {
    size_t group = m->packed ? 0 : m->group_bytes;
    if (m->form->id == TD_FORM_GENERIC) group = ((size_t)m->k * TD_GROUP + (size_t)m->k) * sizeof(float);
    return sizeof(rect_mem) + group;
}

/* How many of the rows [t, end) the next tile takes. */
static int32_t tile_rows(const view *v, int32_t t, int32_t end) {
    if (t % TD_PANEL == 0 && end - t >= TD_WIDE && v->kern->wide[v->form->id]) return TD_WIDE;
    int32_t in_panel = TD_PANEL - t % TD_PANEL;
    return end - t < in_panel ? end - t : in_panel;
}

/* The same into y of which only n_rows results per row of activations exist. */
static void tile_tail(const view *v, const uint8_t *group, int64_t b0, int64_t b1, int32_t t, int32_t n, float *y,
                      int64_t ldy, int64_t n_rows) {
    _Alignas(64) float buf[TD_WIDE * TD_GROUP];
    if (n_rows >= TD_GROUP) {
        tile(v, group, b0, b1, t, n, y, ldy);
        return;
    }
    memset(buf, 0, sizeof buf);
    for (int32_t i = 0; i < n && b0 > 0; i++) memcpy(buf + i * TD_GROUP, y + i * ldy, (size_t)n_rows * sizeof *y);
    tile(v, group, b0, b1, t, n, buf, TD_GROUP);
    for (int32_t i = 0; i < n; i++) memcpy(y + i * ldy, buf + i * TD_GROUP, (size_t)n_rows * sizeof *y);
}

static bool direct(const td_matrix *m) { /* groups are read where they are */
    return m->packed && m->form->id != TD_FORM_GENERIC;
}

/* Groups [g, end) of a matrix that is read where it is, by twos where there are kernels for that. y is where group g
 * begins; n_rows results exist from there on. */
static void tiles(const view *v, const td_matrix *m, int32_t expert, int64_t g, int64_t end, int64_t b0, int64_t b1,
                  int32_t t, int32_t n, float *y, int64_t ldy, int64_t n_rows) {
    bool pairs = n > PAIR_ROWS && n < TD_TILES && v->kern->pair[v->form->id][n];
    for (int64_t step; g < end; g += step, y += step * TD_GROUP, n_rows -= step * TD_GROUP) {
        const uint8_t *group = group_at(m, expert, g, NULL);
        step = pairs && g + 1 < end && n_rows >= 2 * TD_GROUP ? 2 : 1;
        if (step == 2)
            pair(v, group, b0, b1, t, n, y, ldy, 0, 1);
        else
            tile_tail(v, group, b0, b1, t, n, y, ldy, n_rows);
    }
}

/* Blocks per chunk of k: even parts of about `most` values, in whole blocks of 256. */
static int64_t chunk_blocks(const view *v, int64_t k, int32_t n_tok, int64_t most) {
    if (n_tok <= TD_PANEL || k <= most + most / 4) return v->n;
    int64_t n_chunks = (k + most - 1) / most;
    int64_t values = ((k + n_chunks - 1) / n_chunks + 255) / 256 * 256;
    return values / v->unit;
}

/* ---- more rows than a panel: two groups at a time, which stay in L1 while all rows pass ---- */

static bool use_pairs(const view *v, const td_matrix *m, int32_t n_tok) {
    return n_tok > TD_PANEL && direct(m) && v->kern->pair[v->form->id][TD_PANEL];
}

/* Rows [t0, t0 + n_tok) times groups [g0, g1); y is where group g0 begins, of which n_rows results exist. */
static void pairs_matmul(const view *v, const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, int32_t t0,
                         int32_t n_tok, float *y, int64_t ldy, int64_t n_rows) {
    int64_t chunk = chunk_blocks(v, m->k, n_tok, PAIR_VALUES);
    int passes = (t0 % TD_PANEL + n_tok + TD_PANEL - 1) / TD_PANEL;
    for (int64_t g = g0; g < g1; g += 2, y += 2 * TD_GROUP, n_rows -= 2 * TD_GROUP) {
        const uint8_t *group = group_at(m, expert, g, NULL);
        bool both = g + 1 < g1 && n_rows >= 2 * TD_GROUP;
        for (int64_t b = 0; b < v->n; b += chunk) {
            int64_t be = b + chunk < v->n ? b + chunk : v->n;
            int pass = 0;
            for (int32_t t = t0, n; t < t0 + n_tok; t += n, pass++) {
                float *to = y + (t - t0) * ldy;
                n = tile_rows(v, t, t0 + n_tok);
                if (both)
                    pair(v, group, b, be, t, n, to, ldy, pass, passes);
                else
                    tiles(v, m, expert, g, g + 2 < g1 ? g + 2 : g1, b, be, t, n, to, ldy, n_rows);
            }
        }
    }
}

/* ---- many rows of quantised weights ---- */

static bool use_rect(const view *v, const td_matrix *m, int32_t n_tok) {
    return v->kern->rect[v->form->id] && n_tok >= v->kern->rect_from[v->form->id] && direct(m);
}

/* The expanded blocks from block `b` (of 32) times rows [t, t + n), for 32 rows of W. Rows from t on stand in whole
 * halves of panels, or n ends before the next half. */
static void rect(const view *v, const td_expanded *w, int64_t b, int64_t n_blocks, int32_t t, int32_t n, float *y,
                 int64_t ldy) {
    size_t lane = (size_t)(t % TD_PANEL), blocks = (size_t)v->a->n_blocks;
    size_t at = (size_t)(t / TD_PANEL) * blocks + (size_t)b;
    const uint8_t *q = v->q + at * TD_I8_BLOCK;
    struct td_rect_args args = {.w = w,
                                .n = n_blocks,
                                .q = q + 32 * lane,
                                .d = q + TD_I8_SCALE + 4 * lane,
                                .x = v->x ? v->x + at * TD_I8X_BLOCK + 4 * lane : q, /* not read, but a pointer */
                                .q_panel = blocks * TD_I8_BLOCK,
                                .x_panel = blocks * TD_I8X_BLOCK,
                                .second = lane >= TD_RECT_TOK,
                                .n_tok = n,
                                .y = y,
                                .ldy = ldy,
                                .resume = b > 0};
    v->kern->rect[v->form->id](&args);
}

/* The same into y of which only `rows` results per row of activations exist, four rows at a time. */
static void rect_tail(const view *v, const td_expanded *w, int64_t b, int64_t n_blocks, int32_t t0, int32_t n_tok,
                      float *y, int64_t ldy, int64_t rows) {
    _Alignas(64) float buf[TD_RECT_TOK * TD_RECT_ROWS];
    for (int32_t t = 0, n; t < n_tok; t += n, y += n * ldy) {
        n = TD_RECT_TOK - (t0 + t) % TD_RECT_TOK;
        if (n > n_tok - t) n = n_tok - t;
        for (int32_t i = 0; i < n && b > 0; i++) memcpy(buf + i * TD_RECT_ROWS, y + i * ldy, (size_t)rows * sizeof *y);
        rect(v, w, b, n_blocks, t0 + t, n, buf, TD_RECT_ROWS);
        for (int32_t i = 0; i < n; i++) memcpy(y + i * ldy, buf + i * TD_RECT_ROWS, (size_t)rows * sizeof *y);
    }
}

/* Rows [t0, t0 + n_tok) times groups [g0, g1); y is where group g0 begins. */
static void rect_matmul(const view *v, const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, int32_t t0,
                        int32_t n_tok, float *y, int64_t ldy, td_expanded *w) {
    td_expand_fn expand = v->kern->expand[v->form->id];
    int64_t per = v->unit / 32, chunk = TD_RECT_BLOCKS / per; /* blocks of 32 in one of the form; of the form in `w` */
    int32_t lead = (TD_RECT_TOK - t0 % TD_RECT_TOK) % TD_RECT_TOK;
    if (lead > n_tok) lead = n_tok;
    for (int64_t b = 0; b < v->n; b += chunk) {
        int64_t n = b + chunk < v->n ? chunk : v->n - b;
        for (int64_t g = g0; g < g1; g += 2) {
            int64_t rows = m->n_rows - g * TD_GROUP;
            float *to = y + (g - g0) * TD_GROUP;
            for (int i = 0; i < 2 && g + i < g1; i++)
                expand(w, i, group_at(m, expert, g + i, NULL) + (size_t)b * v->block_bytes, n);
            if (g + 1 == g1 && rows > TD_GROUP) rows = TD_GROUP;
            if (rows < TD_RECT_ROWS) {
                rect_tail(v, w, b * per, n * per, t0, n_tok, to, ldy, rows);
                continue;
            }
            if (lead) rect(v, w, b * per, n * per, t0, lead, to, ldy);
            rect(v, w, b * per, n * per, t0 + lead, n_tok - lead, to + lead * ldy, ldy);
        }
    }
}

/* Whether more rows than a panel have a way of their own, and that way. y as in pairs_matmul. */
static bool use_many(const view *v, const td_matrix *m, int32_t n_tok) {
    return use_rect(v, m, n_tok) || use_pairs(v, m, n_tok);
}

static void many_matmul(const view *v, const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, int32_t t0,
                        int32_t n_tok, float *y, int64_t ldy, td_expanded *w) {
    if (use_rect(v, m, n_tok))
        rect_matmul(v, m, expert, g0, g1, t0, n_tok, y, ldy, w);
    else
        pairs_matmul(v, m, expert, g0, g1, t0, n_tok, y, ldy, m->n_rows - g0 * TD_GROUP);
}

static void many_glu(const view *vg, const view *vu, const td_matrix *gate, const td_matrix *up, int32_t expert,
                     int64_t b0, int64_t b1, int32_t t0, int32_t n_tok, const td_acts *out, int32_t u0, rect_mem *mem) {
    for (int32_t t = 0; t < n_tok; t += GLU_TOK) {
        int32_t n = t + GLU_TOK < n_tok ? GLU_TOK : n_tok - t;
        for (int64_t b = b0; b < b1; b += GLU_PAIRS) {
            int64_t be = b + GLU_PAIRS < b1 ? b + GLU_PAIRS : b1,
                    g1 = 2 * be < gate->n_groups ? 2 * be : gate->n_groups;
            many_matmul(vg, gate, expert, 2 * b, g1, t0 + t, n, mem->gate, GLU_LD, &mem->w);
            many_matmul(vu, up, expert, 2 * b, g1, t0 + t, n, mem->up, GLU_LD, &mem->w);
            for (int32_t i = 0; i < n; i++)
                vg->kern->acts_glu(out, u0 + t + i, mem->gate + i * GLU_LD, mem->up + i * GLU_LD, b, be);
        }
    }
}

/* ---- all products ---- */

void td_matmul(const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, const td_acts *a, int32_t t0, int32_t n_tok,
               float *y, int64_t ldy, void *scratch) {
    view v = view_make(m, a);
    if (use_many(&v, m, n_tok)) {
        int64_t per = n_tok < RECT_FEW ? 2 : RECT_GROUPS; /* few rows: weights are read in their order */
        for (int64_t g = g0; g < g1; g += per)
            many_matmul(&v, m, expert, g, g + per < g1 ? g + per : g1, t0, n_tok, y + g * TD_GROUP, ldy,
                        &((rect_mem *)scratch)->w);
        return;
    }
    int64_t chunk = chunk_blocks(&v, m->k, n_tok, CHUNK_VALUES);
    int64_t step = 1;
    if (direct(m)) step = n_tok <= TD_PANEL ? g1 - g0 : (int64_t)(L2_BYTES / ((size_t)chunk * v.block_bytes));
    if (step < 1) step = 1;
    for (int64_t g = g0; g < g1; g += step) {
        int64_t end = g + step < g1 ? g + step : g1;
        const uint8_t *group = direct(m) ? NULL : group_at(m, expert, g, scratch);
        for (int64_t b = 0; b < v.n; b += chunk) {
            int64_t be = b + chunk < v.n ? b + chunk : v.n;
            for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
                float *to = y + (t - t0) * ldy + g * TD_GROUP;
                n = tile_rows(&v, t, t0 + n_tok);
                if (group)
                    tile_tail(&v, group, b, be, t, n, to, ldy, m->n_rows - g * TD_GROUP);
                else
                    tiles(&v, m, expert, g, end, b, be, t, n, to, ldy, m->n_rows - g * TD_GROUP);
            }
        }
    }
}

/* One matrix's results for rows [t, t + n) and groups [g0, g1) into buf[n][ld]. */
static void glu_part(const view *v, const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, int32_t t, int32_t n,
                     int64_t chunk, float *buf, int64_t ld, void *scratch) {
    for (int64_t b = 0; b < v->n && direct(m); b += chunk)
        tiles(v, m, expert, g0, g1, b, b + chunk < v->n ? b + chunk : v->n, t, n, buf, ld, (g1 - g0) * TD_GROUP);
    for (int64_t g = g0; g < g1 && !direct(m); g++)
        tile(v, group_at(m, expert, g, scratch), 0, v->n, t, n, buf + (g - g0) * TD_GROUP, ld);
}

void td_matmul_glu(const td_matrix *gate, const td_matrix *up, int32_t expert, int64_t b0, int64_t b1, const td_acts *a,
                   int32_t t0, int32_t n_tok, const td_acts *out, int32_t u0, void *scratch) {
    view vg = view_make(gate, a), vu = view_make(up, a);
    if (use_many(&vg, gate, n_tok) && use_many(&vu, up, n_tok)) {
        many_glu(&vg, &vu, gate, up, expert, b0, b1, t0, n_tok, out, u0, scratch);
        return;
    }
    int64_t cg = chunk_blocks(&vg, gate->k, n_tok, CHUNK_VALUES), cu = chunk_blocks(&vu, up->k, n_tok, CHUNK_VALUES);
    rect_mem *mem = scratch;
    float *g_buf = mem->gate, *u_buf = mem->up; /* [TD_WIDE][32 * step] at most */
    /* Few rows: long runs, as each change from gate to up is a stream of memory that begins anew. More: what L2 holds.
     */
    const int64_t step = n_tok <= TD_PANEL ? GLU_RUN : GLU_BLOCKS, ld = 32 * step;
    for (int64_t b = b0; b < b1; b += step) {
        int64_t be = b + step < b1 ? b + step : b1, g0 = 2 * b, g1 = 2 * be;
        if (g1 > gate->n_groups) g1 = gate->n_groups;
        for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
            int32_t ng = tile_rows(&vg, t, t0 + n_tok), nu = tile_rows(&vu, t, t0 + n_tok);
            n = ng < nu ? ng : nu;
            glu_part(&vg, gate, expert, g0, g1, t, n, cg, g_buf, ld, scratch);
            glu_part(&vu, up, expert, g0, g1, t, n, cu, u_buf, ld, scratch);
            for (int32_t i = 0; i < n; i++)
                vg.kern->acts_glu(out, u0 + (t - t0) + i, g_buf + i * ld, u_buf + i * ld, b, be);
        }
    }
}

void td_best_merge(td_best *into, td_best other) {
    if (other.id < 0) return;
    if (into->id < 0 || other.value > into->value || (other.value == into->value && other.id < into->id)) *into = other;
}

/* Products below this cannot come to the best one's value by softcap, which is steep enough this far from its limits.
 */
static float floor_of(float product, float cap) {
    if (cap == 0.0f) return product;
    if (product > 3 * cap || product < -2.5f * cap) return -INFINITY;
    return product > 0 ? 0.99f * product : 1.01f * product;
}

static float largest(const float *y, int64_t n) { /* NaN: not looked at */
    float lane[TD_GROUP];
    for (int i = 0; i < TD_GROUP; i++) lane[i] = -INFINITY;
    for (; n >= TD_GROUP; n -= TD_GROUP, y += TD_GROUP)
        for (int i = 0; i < TD_GROUP; i++) lane[i] = y[i] > lane[i] ? y[i] : lane[i];
    for (int64_t i = 0; i < n; i++) lane[0] = y[i] > lane[0] ? y[i] : lane[0];
    for (int i = 1; i < TD_GROUP; i++) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
}

typedef struct argmax {
    const view *v;
    const td_matrix *m;
    float cap;
    const int32_t *suppress;
    int32_t n_suppress;
} argmax;

/* The best of up to 32 products y of packed rows p ... against what was found before. */
static void best_of(const argmax *a, td_best *best, const float *y, int64_t p, int64_t n) {
    float value[2 * TD_GROUP];
    if (best->id >= 0 && largest(y, n) < best->floor) return;
    if (a->cap != 0.0f)
        a->v->kern->softcap(value, y, a->cap, n);
    else
        memcpy(value, y, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        td_best one = {value[i], a->m->row_ids ? a->m->row_ids[p + i] : (int32_t)(p + i), floor_of(y[i], a->cap)};
        bool skip = isnan(one.value);
        for (int32_t s = 0; s < a->n_suppress && !skip; s++) skip = a->suppress[s] == one.id;
        if (!skip) td_best_merge(best, one);
    }
}

void td_matmul_argmax(const td_matrix *m, int64_t p0, int64_t p1, const td_acts *a, int32_t t0, int32_t n_tok,
                      float cap, const int32_t *suppress, int32_t n_suppress, td_best *best, void *scratch) {
    view v = view_make(m, a);
    float *y = ((rect_mem *)scratch)->gate; /* [GLU_TOK][GLU_LD] */
    bool pairs = use_pairs(&v, m, n_tok);
    argmax find = {&v, m, cap, suppress, n_suppress};
    int64_t step = direct(m) ? 2 : 1, end = (p1 + TD_GROUP - 1) / TD_GROUP;
    for (int64_t g = p0 / TD_GROUP; g < end; g += step) {
        int64_t ge = g + step < end ? g + step : end, base = g * TD_GROUP, lo = base > p0 ? base : p0,
                hi = ge * TD_GROUP < p1 ? ge * TD_GROUP : p1;
        const uint8_t *group = direct(m) ? NULL : group_at(m, 0, g, scratch);
        if (hi > m->n_rows) hi = m->n_rows;
        for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
            n = tile_rows(&v, t, t0 + n_tok);
            if (pairs) {
                n = t0 + n_tok - t < GLU_TOK ? t0 + n_tok - t : GLU_TOK;
                pairs_matmul(&v, m, 0, g, ge, t, n, y, GLU_LD, GLU_LD);
            } else if (group) {
                tile(&v, group, 0, v.n, t, n, y, GLU_LD);
            } else {
                tiles(&v, m, 0, g, ge, 0, v.n, t, n, y, GLU_LD, GLU_LD);
            }
            for (int32_t i = 0; i < n; i++)
                best_of(&find, &best[t - t0 + i], y + i * GLU_LD + (lo - base), lo, hi - lo);
        }
    }
}

void td_matmul_rows(const td_matrix *m, const int32_t *pos, int64_t n, const td_acts *a, int32_t t, float *y,
                    void *scratch) {
    _Alignas(64) float buf[TD_GROUP];
    view v = view_make(m, a);
    for (int64_t i = 0; i < n;) {
        int64_t g = pos[i] / TD_GROUP;
        tile(&v, group_at(m, 0, g, scratch), 0, v.n, t, 1, buf, TD_GROUP);
        for (; i < n && pos[i] / TD_GROUP == g; i++) y[i] = buf[pos[i] % TD_GROUP];
    }
}
