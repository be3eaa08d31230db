/* The inner loops of the products for many rows of activations, over the vector types of an instruction set (vec_*.h).
 *
 * A tile (tile.h) unpacks codes into registers and loads every four activations for one dot instruction, so that it
 * waits for the load ports. Here codes were unpacked before (td_expanded: bytes and floats of two groups), and a
 * rectangle of TD_RECT_P vectors of rows by TD_RECT_T rows of activations uses each load several times: on AVX-512, 8
 * dot instructions for 6 loads. What remains is the multiply ports: 8 of 10 operations are dot products, so 80 % of
 * the machine's peak is the limit; 2 x 4 measured 97 % of that on Zen 5, 3 x 4 96 %, 1 x 8 89 %. Registers: 8
 * accumulators, 8 sums, 4 activations, 2 of codes. A result sees the same operations in the same order as in a tile.
 *
 * NEON's dot instruction takes four activations out of a vector of 16, so that a vector is loaded for four lines
 * (TD_RECT_LINES) and nothing is spread: 32 dot instructions for 12 loads. */
#ifndef TD_KERNELS_RECT_H
#define TD_KERNELS_RECT_H

#include "rect_walk.h"

enum { RECT_ACC = TD_RECT_P * TD_RECT_T };

TD_INLINE void expand_sub(td_expanded *to, int form, int g, int64_t at, const vb v[8], const vf s[2], const vf m[2],
                          int r) {
    TD_UNROLL
    for (int i = 0; i < 8; i++) vb_store(to->codes[at][g][i] + 4 * r, vb_expanded(v[i], form_zero_log2(form)));
    for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) {
        vf_store(to->scale[at][h] + TD_GROUP * g + r, s[h]);
        if (form_has_min(form)) vf_store(to->min[at][h] + TD_GROUP * g + r, m[h]);
    }
}

/* ---- multiplying: vectors p of rows r0 + p * TD_R by activation rows t ---- */

/* Lines [i0, i0 + n) of a block; sum8: as in vi_dot, 4 bytes a row. */
TD_INLINE void rect_dots(vi s[RECT_ACC], int form, const uint8_t (*codes)[8][64], const uint8_t *q, const uint8_t *sum8,
                         int i0, int n, int r0) {
    vi part[RECT_ACC], a[TD_RECT_T];
    TD_UNROLL
    for (int i = 0; i < n; i++) {
        if (i % TD_RECT_LINES == 0) {
            TD_UNROLL
            for (int t = 0; t < TD_RECT_T; t++) a[t] = vi_acts(q + 32 * t + 4 * (i0 + i));
        }
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
TD_INLINE void rect_half(vf acc[RECT_ACC], int form, const td_expanded *w, int64_t b, int h, lane_ptrs l, int r0) {
    vi s[RECT_ACC];
    rect_dots(s, form, w->codes[b], l.q, row_sum8(form, l.d, l.x, h), 4 * h, form_halves(form) ? 4 : 8, r0);
    TD_UNROLL
    for (int p = 0; p < TD_RECT_P; p++) {
        const vf scale = vf_load(w->scale[b][h] + r0 + p * TD_R),
                 min = form_has_min(form) ? vf_load(w->min[b][h] + r0 + p * TD_R) : vf_zero();
        TD_UNROLL
        for (int t = 0; t < TD_RECT_T; t++) {
            vf *to = &acc[p * TD_RECT_T + t];
            *to = add_scaled(*to, form, s[p * TD_RECT_T + t], scale, &min, l.d + 4 * t, l.x + 4 * t, h);
        }
    }
}

/* Activation rows [0, n) of TD_RECT_T, vectors from row r0 on. */
TD_INLINE void rect_part(const struct td_rect_args *a, int form, lane_ptrs l, int32_t n, float *y, int r0) {
    vf acc[RECT_ACC];
    TD_UNROLL
    for (int i = 0; i < RECT_ACC; i++) {
        const int t = i % TD_RECT_T;
        acc[i] = a->resume && t < n ? vf_load(y + t * a->ldy + r0 + i / TD_RECT_T * TD_R) : vf_zero();
    }
    for (int64_t b = 0; b < a->n; b++, l = lane_at(l, 1)) {
        if (r0 == 0) prefetch_next(a, l);
        for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) rect_half(acc, form, a->w, b, h, l, r0);
    }
    TD_UNROLL
    for (int i = 0; i < RECT_ACC; i++) {
        const int t = i % TD_RECT_T;
        if (t < n) vf_store(y + t * a->ldy + r0 + i / TD_RECT_T * TD_R, acc[i]);
    }
}

TD_INLINE void rect_four(const struct td_rect_args *a, int form, lane_ptrs l, int32_t n, float *y) {
    for (int t = 0; t < TD_RECT_TOK && t < n; t += TD_RECT_T) {
        lane_ptrs first = {l.q + 32 * t, l.d + 4 * t, l.x + 4 * t};
        for (int r = 0; r < TD_RECT_ROWS; r += TD_RECT_P * TD_R) rect_part(a, form, first, n - t, y + t * a->ldy, r);
    }
}

#endif
