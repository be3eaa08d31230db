/* The inner loops of the products for many rows of activations, over the vector types of an instruction set (vec_*.h).
 *
 * A tile (tile.h) unpacks codes into registers and loads every four activations for one dot instruction, so that it
 * waits for the load ports. Here codes were unpacked before (td_expanded: bytes and floats of two groups), and a
 * rectangle of TD_RECT_P vectors of rows by TD_RECT_T rows of activations uses each load several times: on AVX-512, 8
 * dot instructions for 6 loads. What remains is the multiply ports: 8 of 10 operations are dot products, so 80 % of
 * the machine's peak is the limit; 2 x 4 measured 97 % of that on Zen 5, 3 x 4 96 %, 1 x 8 89 %. Registers: 8
 * accumulators, 8 sums, 4 activations, 2 of codes. A result sees the same operations in the same order as in a tile. */
#ifndef TD_KERNELS_RECT_H
#define TD_KERNELS_RECT_H

#include "tile_forms.h"

enum { RECT_ACC = TD_RECT_P * TD_RECT_T };

/* ---- expanding ---- */

TD_INLINE void expand_sub(td_expanded *to, int form, int g, int64_t at, const vb v[8], const vf s[2], const vf m[2],
                          int r) {
    TD_UNROLL
    for (int i = 0; i < 8; i++) vb_store(to->codes[at][g][i] + 4 * r, v[i]);
    for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) {
        vf_store(to->scale[at][h] + TD_GROUP * g + r, s[h]);
        if (form_has_min(form)) vf_store(to->min[at][h] + TD_GROUP * g + r, m[h]);
    }
}

TD_INLINE void expand_run(td_expanded *to, int form, int g, const uint8_t *w, int64_t n) {
    const int subs = form_subs(form), bytes = form_bytes(form);
    uint8_t sc[256], mn[256];
    for (int64_t b = 0; b < n; b++, w += bytes) {
        /* The next piece of k, while this one meets its rows: with few rows memory is as slow as the arithmetic. */
        for (int i = 0; i < bytes; i += 64) __builtin_prefetch(w + TD_RECT_BLOCKS / subs * bytes + i, 0, 2);
        if (subs > 1) super_scales(sc, mn, form, w);
        for (int r = 0; r < TD_GROUP; r += TD_R) {
            _Pragma("GCC unroll 1") for (int j = 0; j < subs; j++) {
                vf s[2], m[2];
                vb v[8];
                load_sub(v, s, m, form, w, sc, mn, j, r);
                expand_sub(to, form, g, b * subs + j, v, s, m, r);
            }
        }
    }
}

/* ---- multiplying: vectors p of rows r0 + p * TD_R by activation rows t ---- */

/* Lines [i0, i0 + n) of a block; sum8: as in vi_dot, 4 bytes a row. */
TD_INLINE void rect_dots(vi s[RECT_ACC], int form, const uint8_t (*codes)[8][64], const uint8_t *q, const uint8_t *sum8,
                         int i0, int n, int r0) {
    vi part[RECT_ACC];
    TD_UNROLL
    for (int i = 0; i < n; i++) {
        vi a[TD_RECT_T];
        TD_UNROLL
        for (int t = 0; t < TD_RECT_T; t++) a[t] = vi_bcast(q + 32 * t + 4 * (i0 + i));
        TD_UNROLL
        for (int p = 0; p < TD_RECT_P; p++) {
            const int r = r0 + p * TD_R;
            vb w = vb_load(codes[r / TD_GROUP][i0 + i] + 4 * (r % TD_GROUP));
            TD_UNROLL
            for (int t = 0; t < TD_RECT_T; t++)
                vi_mac(&s[p * TD_RECT_T + t], &part[p * TD_RECT_T + t], w, a[t], i, n, form_bits(form),
                       form_zero_log2(form), sum8 + 4 * t);
        }
    }
}

/* acc += one block of 32 values, or half of one (h) where scales change every 16. */
TD_INLINE void rect_half(vf acc[RECT_ACC], int form, const td_expanded *w, int64_t b, int h, const uint8_t *q,
                         const uint8_t *d, const uint8_t *x, int r0) {
    vi s[RECT_ACC];
    rect_dots(s, form, w->codes[b], q, row_sum8(form, d, x, h), 4 * h, form_halves(form) ? 4 : 8, r0);
    TD_UNROLL
    for (int p = 0; p < TD_RECT_P; p++) {
        const vf scale = vf_load(w->scale[b][h] + r0 + p * TD_R),
                 min = form_has_min(form) ? vf_load(w->min[b][h] + r0 + p * TD_R) : vf_zero();
        TD_UNROLL
        for (int t = 0; t < TD_RECT_T; t++) {
            vf *to = &acc[p * TD_RECT_T + t];
            *to = add_scaled(*to, form, s[p * TD_RECT_T + t], scale, &min, d + 4 * t, x + 4 * t, h);
        }
    }
}

/* The same lanes of the next panel: it stands a whole row of blocks further on, where no hardware looks. */
TD_INLINE void prefetch_next(const struct td_rect_args *a, const uint8_t *q, const uint8_t *d) {
    __builtin_prefetch(q + a->q_panel, 0, 3);
    __builtin_prefetch(q + a->q_panel + 64, 0, 3);
    __builtin_prefetch(d + a->q_panel, 0, 3);
}

/* Activation rows [0, n) of four, vectors from row r0 on. */
TD_INLINE void rect_part(const struct td_rect_args *a, int form, const uint8_t *q, const uint8_t *d, const uint8_t *x,
                         int32_t n, float *y, int r0) {
    vf acc[RECT_ACC];
    TD_UNROLL
    for (int i = 0; i < RECT_ACC; i++) {
        const int t = i % TD_RECT_T;
        acc[i] = a->resume && t < n ? vf_load(y + t * a->ldy + r0 + i / TD_RECT_T * TD_R) : vf_zero();
    }
    for (int64_t b = 0; b < a->n; b++, q += TD_I8_BLOCK, d += TD_I8_BLOCK, x += TD_I8X_BLOCK) {
        if (r0 == 0) prefetch_next(a, q, d);
        for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) rect_half(acc, form, a->w, b, h, q, d, x, r0);
    }
    TD_UNROLL
    for (int i = 0; i < RECT_ACC; i++) {
        const int t = i % TD_RECT_T;
        if (t < n) vf_store(y + t * a->ldy + r0 + i / TD_RECT_T * TD_R, acc[i]);
    }
}

/* Rows beyond n_tok in the last four are read and multiplied, but not stored. */
TD_INLINE void rect_run(const struct td_rect_args *a, int form) {
    const uint8_t *q = a->q, *d = a->d, *x = a->x;
    bool second = a->second;
    float *y = a->y;
    for (int32_t left = a->n_tok; left > 0; left -= TD_RECT_TOK, y += TD_RECT_TOK * a->ldy, second = !second) {
        for (int t = 0; t < TD_RECT_TOK && t < left; t += TD_RECT_T)
            for (int r = 0; r < TD_RECT_ROWS; r += TD_RECT_P * TD_R)
                rect_part(a, form, q + 32 * t, d + 4 * t, x + 4 * t, left - t, y + t * a->ldy, r);
        q += second ? a->q_panel - 32 * TD_RECT_TOK : 32 * TD_RECT_TOK;
        d += second ? a->q_panel - 4 * TD_RECT_TOK : 4 * TD_RECT_TOK;
        x += second ? a->x_panel - 4 * TD_RECT_TOK : 4 * TD_RECT_TOK;
    }
}

#define TD_RECT(form)                                                                                                  \
    static void expand_##form(td_expanded *to, int g, const uint8_t *group, int64_t n) {                               \
        expand_run(to, TD_FORM_##form, g, group, n);                                                                   \
    }                                                                                                                  \
    static void rect_##form(const struct td_rect_args *a) {                                                            \
        rect_run(a, TD_FORM_##form);                                                                                   \
    }

#define TD_RECT_ENTRY(form)                                                                                            \
    k->expand[TD_FORM_##form] = expand_##form;                                                                         \
    k->rect[TD_FORM_##form] = rect_##form;

#endif
