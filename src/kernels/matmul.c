/* The products: how groups of weight rows and rows of activations are walked. The arithmetic is in the tiles.
 *
 * Decode and verify (at most 8 rows): weights stream through once, each group against all rows. Prefill: k is cut into
 * chunks of about 1024 values, so that 16 activation rows of a chunk (20 KB) and a packed group of it (9 KB at 4 bits)
 * lie in L1 together; groups of a call stay in L2 over all rows. A chunk's accumulators start where the previous one's
 * ended, so that cutting k changes no bit. Tails of rows go through a buffer; the tiles always write 16 results. */
#include "forms.h"

#include <math.h>
#include <string.h>

enum { CHUNK_VALUES = 1024, L2_BYTES = 384 * 1024, GLU_BLOCKS = 4 };

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

static const uint8_t *group_at(const td_matrix *m, int32_t expert, int64_t g, void *scratch) {
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
        decode_group(m, rows, (float *)scratch);
    else
        td_form_pack_group(m->form, (uint8_t *)scratch, rows, m->k / m->form->block);
    return (const uint8_t *)scratch;
}

/* Blocks [b0, b1) of a packed group times rows [t, t + n), which lie in one panel (or n is TD_WIDE, from a panel's
 * first row on). */
static void tile(const view *v, const uint8_t *group, int64_t b0, int64_t b1, int32_t t, int32_t n, float *y,
                 int64_t ldy) {
    size_t panel = (size_t)(t / TD_PANEL), lane = (size_t)(t % TD_PANEL), blocks = (size_t)v->a->n_blocks;
    size_t first = panel * blocks + (size_t)(b0 * v->unit / 32);
    td_tile_args args = {.w = group + (size_t)b0 * v->block_bytes, .n = b1 - b0, .y = y, .ldy = ldy, .resume = b0 > 0};
    args.q = args.d = args.x = group; /* parts this form does not read must still be pointers */
    args.f = (const float *)(const void *)group;
    if (v->q) {
        args.q = v->q + first * TD_I8_BLOCK + 32 * lane;
        args.d = v->q + first * TD_I8_BLOCK + TD_I8_SCALE + 4 * lane;
        args.q_panel = blocks * TD_I8_BLOCK;
    }
    if (v->x) {
        args.x = v->x + first * TD_I8X_BLOCK + 4 * lane;
        args.x_panel = blocks * TD_I8X_BLOCK;
    }
    if (v->a->f32) {
        args.f = v->a->f32 + first * TD_PANEL * 32 + 32 * lane;
        args.f_panel = blocks * TD_PANEL * 32;
    }
    td_tile_fn fn = n == TD_WIDE ? v->kern->wide[v->form->id] : v->kern->tile[v->form->id][n];
    fn(&args);
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

/* Blocks per chunk of k: even parts of about CHUNK_VALUES, in whole blocks of 256. */
static int64_t chunk_blocks(const view *v, int64_t k, int32_t n_tok) {
    if (n_tok <= TD_PANEL || k <= CHUNK_VALUES + CHUNK_VALUES / 4) return v->n;
    int64_t n_chunks = (k + CHUNK_VALUES - 1) / CHUNK_VALUES;
    int64_t values = ((k + n_chunks - 1) / n_chunks + 255) / 256 * 256;
    return values / v->unit;
}

void td_matmul(const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, const td_acts *a, int32_t t0, int32_t n_tok,
               float *y, int64_t ldy, void *scratch) {
    view v = view_make(m, a);
    bool direct = m->packed && m->form->id != TD_FORM_GENERIC;
    int64_t chunk = chunk_blocks(&v, m->k, n_tok);
    int64_t fit = (int64_t)(L2_BYTES / ((size_t)chunk * v.block_bytes)), step = !direct ? 1 : fit < 1 ? 1 : fit;
    if (n_tok <= TD_PANEL) step = 1;
    for (int64_t g = g0; g < g1; g += step) {
        int64_t end = g + step < g1 ? g + step : g1;
        const uint8_t *group = direct ? NULL : group_at(m, expert, g, scratch);
        for (int64_t b = 0; b < v.n; b += chunk) {
            int64_t be = b + chunk < v.n ? b + chunk : v.n;
            for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
                n = tile_rows(&v, t, t0 + n_tok);
                for (int64_t i = g; i < end; i++)
                    tile_tail(&v, direct ? group_at(m, expert, i, NULL) : group, b, be, t, n,
                              y + (t - t0) * ldy + i * TD_GROUP, ldy, m->n_rows - i * TD_GROUP);
            }
        }
    }
}

/* One matrix's results for rows [t, t + n) and groups [g0, g1) into buf[n][ld]. */
static void glu_part(const view *v, const td_matrix *m, int32_t expert, int64_t g0, int64_t g1, int32_t t, int32_t n,
                     int64_t chunk, float *buf, int64_t ld, void *scratch) {
    bool direct = m->packed && m->form->id != TD_FORM_GENERIC;
    if (!direct) chunk = v->n;
    for (int64_t b = 0; b < v->n; b += chunk)
        for (int64_t g = g0; g < g1; g++) {
            const uint8_t *group = group_at(m, expert, g, scratch);
            tile(v, group, b, b + chunk < v->n ? b + chunk : v->n, t, n, buf + (g - g0) * TD_GROUP, ld);
        }
}

void td_matmul_glu(const td_matrix *gate, const td_matrix *up, int32_t expert, int64_t b0, int64_t b1, const td_acts *a,
                   int32_t t0, int32_t n_tok, const td_acts *out, int32_t u0, void *scratch) {
    enum { LD = GLU_BLOCKS * 32 };
    _Alignas(64) float g_buf[TD_WIDE * LD], u_buf[TD_WIDE * LD];
    view vg = view_make(gate, a), vu = view_make(up, a);
    int64_t cg = chunk_blocks(&vg, gate->k, n_tok), cu = chunk_blocks(&vu, up->k, n_tok);
    for (int64_t b = b0; b < b1; b += GLU_BLOCKS) {
        int64_t be = b + GLU_BLOCKS < b1 ? b + GLU_BLOCKS : b1, g0 = 2 * b, g1 = 2 * be;
        if (g1 > gate->n_groups) g1 = gate->n_groups;
        for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
            int32_t ng = tile_rows(&vg, t, t0 + n_tok), nu = tile_rows(&vu, t, t0 + n_tok);
            n = ng < nu ? ng : nu;
            glu_part(&vg, gate, expert, g0, g1, t, n, cg, g_buf, LD, scratch);
            glu_part(&vu, up, expert, g0, g1, t, n, cu, u_buf, LD, scratch);
            for (int32_t i = 0; i < n; i++)
                vg.kern->acts_glu(out, u0 + (t - t0) + i, g_buf + i * LD, u_buf + i * LD, b, be);
        }
    }
}

void td_best_merge(td_best *into, td_best other) {
    if (other.id < 0) return;
    if (into->id < 0 || other.value > into->value || (other.value == into->value && other.id < into->id)) *into = other;
}

/* The best of up to 16 results of packed rows p ... against what was found before. */
static void best_of(td_best *best, const float *y, const td_matrix *m, int64_t p, int64_t n, const int32_t *suppress,
                    int32_t n_suppress) {
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++) max = y[i] > max ? y[i] : max;
    if (best->id >= 0 && max < best->value) return;
    for (int64_t i = 0; i < n; i++) {
        td_best one = {y[i], m->row_ids ? m->row_ids[p + i] : (int32_t)(p + i)};
        bool skip = isnan(one.value);
        for (int32_t s = 0; s < n_suppress && !skip; s++) skip = suppress[s] == one.id;
        if (!skip) td_best_merge(best, one);
    }
}

void td_matmul_argmax(const td_matrix *m, int64_t p0, int64_t p1, const td_acts *a, int32_t t0, int32_t n_tok,
                      float cap, const int32_t *suppress, int32_t n_suppress, td_best *best, void *scratch) {
    _Alignas(64) float y[TD_WIDE * TD_GROUP];
    view v = view_make(m, a);
    for (int64_t g = p0 / TD_GROUP; g * TD_GROUP < p1; g++) {
        const uint8_t *group = group_at(m, 0, g, scratch);
        int64_t lo = g * TD_GROUP > p0 ? g * TD_GROUP : p0, hi = (g + 1) * TD_GROUP < p1 ? (g + 1) * TD_GROUP : p1;
        if (hi > m->n_rows) hi = m->n_rows;
        for (int32_t t = t0, n; t < t0 + n_tok; t += n) {
            n = tile_rows(&v, t, t0 + n_tok);
            tile(&v, group, 0, v.n, t, n, y, TD_GROUP);
            if (cap != 0.0f) v.kern->softcap(y, y, cap, n * TD_GROUP);
            for (int32_t i = 0; i < n; i++)
                best_of(&best[t - t0 + i], y + i * TD_GROUP + (lo - g * TD_GROUP), m, lo, hi - lo, suppress,
                        n_suppress);
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
