/* Products for many rows of activations, what all instruction sets share: expanding the blocks of a group, and the walk
 * over the rows by fours. How expanded codes lie, and how they meet four rows, is in rect.h (vectors of rows) and
 * rect_mm.h (squares of two rows by two), of which a file includes one. */
#ifndef TD_KERNELS_RECT_WALK_H
#define TD_KERNELS_RECT_WALK_H

#include "tile_forms.h"

/* Stores a sub-block: codes v, scales s and minima m of rows r to r + TD_R - 1 of group g, as block `at`. */
TD_INLINE void expand_sub(td_expanded *to, int form, int g, int64_t at, const vb v[8], const vf s[2], const vf m[2],
                          int r);
/* Results of four rows of activations from l on, of which n exist, with all that was expanded. */
TD_INLINE void rect_four(const struct td_rect_args *a, int form, lane_ptrs l, int32_t n, float *y);

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

/* The same lanes of the next panel: it stands a whole row of blocks further on, where no hardware looks. */
TD_INLINE void prefetch_next(const struct td_rect_args *a, lane_ptrs l) {
    __builtin_prefetch(l.q + a->q_panel, 0, 3);
    __builtin_prefetch(l.q + a->q_panel + 64, 0, 3);
    __builtin_prefetch(l.d + a->q_panel, 0, 3);
}

/* Rows beyond n_tok in the last four are read and multiplied, but not stored. */
TD_INLINE void rect_run(const struct td_rect_args *a, int form) {
    lane_ptrs l = {a->q, a->d, a->x};
    bool second = a->second;
    float *y = a->y;
    for (int32_t left = a->n_tok; left > 0; left -= TD_RECT_TOK, y += TD_RECT_TOK * a->ldy, second = !second) {
        rect_four(a, form, l, left < TD_RECT_TOK ? left : TD_RECT_TOK, y);
        l.q += second ? a->q_panel - 32 * TD_RECT_TOK : 32 * TD_RECT_TOK;
        l.d += second ? a->q_panel - 4 * TD_RECT_TOK : 4 * TD_RECT_TOK;
        l.x += second ? a->x_panel - 4 * TD_RECT_TOK : 4 * TD_RECT_TOK;
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
    k->rect[TD_FORM_##form] = rect_##form;                                                                             \
    k->rect_from[TD_FORM_##form] = TD_RECT_FROM;

#endif
