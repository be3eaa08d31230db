/* Tiles of two groups: products for 5 rows of activations and more where there are 32 vector registers.
 *
 * A tile of one group (tile.h) loads every four activations for one dot instruction and waits for the load ports. Here
 * they meet the codes of two groups, by fours of rows: for each line of codes two loads of weights and four of
 * activations serve 8 dot instructions, as in rect.h, but codes come from the packed blocks, each of which is read from
 * memory once. Registers: 16 accumulators, 8 sums, codes, activations and scales in the rest. A result sees the same
 * operations in the same order as in a tile.
 *
 * Only the forms with one scale for 32 values and cheap codes gain (Q4_0 at 8 rows 11 %, at 5 rows 18 % while weights
 * are in the cache). Up to 4 rows are for what is left of more than 8: alone, memory is their limit, and two streams
 * are slower than one. */
#ifndef TD_KERNELS_PAIR_H
#define TD_KERNELS_PAIR_H

#include "tile_forms.h"

#include <string.h>

/* RECT_FROM: rows from which rectangles (rect.h) are faster: E2B Q4_0 takes 228 ms for 64 rows as rectangles and 201 as
 * pairs, 1506 and 1630 for 512. */
enum { PAIR_TOK = 4, PAIR_SUMS = 2 * PAIR_TOK, RECT_FROM = 192 };

#define TD_PAIR_FORMS(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(IQ4_NL)

/* s[4 g + t] = codes of group g times row t; sum8 as in vi_dot_start. */
TD_INLINE void pair_dots(vi s[PAIR_SUMS], int form, int T, const uint8_t *const w[2], const uint8_t *q,
                         const uint8_t *sum8) {
    vi part[PAIR_SUMS];
    TD_UNROLL
    for (int i = 0; i < 8; i++) {
        const vb v[2] = {code_line(form, w[0], 0, 0, i), code_line(form, w[1], 0, 0, i)};
        TD_UNROLL
        for (int t = 0; t < T; t++) {
            const vi a = vi_bcast(q + 32 * t + 4 * i);
            TD_UNROLL
            for (int g = 0; g < 2; g++)
                vi_mac(&s[PAIR_TOK * g + t], &part[PAIR_TOK * g + t], v[g], a, i, 8, form_bits(form),
                       form_zero_log2(form), sum8 + 4 * t);
        }
    }
}

/* acc[g][t] += a block of both groups times T rows, at most four. */
TD_INLINE void pair_part(vf *const acc[2], int form, int T, const uint8_t *const w[2], const vf s[2][2],
                         const vf m[2][2], const uint8_t *q, const uint8_t *d, const uint8_t *x) {
    vi dot[PAIR_SUMS];
    pair_dots(dot, form, T, w, q, row_sum8(form, d, x, 0));
    TD_UNROLL
    for (int t = 0; t < T; t++) {
        TD_UNROLL
        for (int g = 0; g < 2; g++)
            acc[g][t] = add_scaled(acc[g][t], form, dot[PAIR_TOK * g + t], s[g][0], m[g], d + 4 * t, x + 4 * t, 0);
    }
}

TD_INLINE void pair_block(vf acc[2][8], int form, int T, const uint8_t *const w[2], const uint8_t *q, const uint8_t *d,
                          const uint8_t *x) {
    vf s[2][2], m[2][2];
    TD_UNROLL
    for (int g = 0; g < 2; g++) block_scales(s[g], m[g], form, w[g], 0);
    TD_UNROLL
    for (int t = 0; t < T; t += PAIR_TOK) {
        vf *const to[2] = {acc[0] + t, acc[1] + t};
        pair_part(to, form, T - t < PAIR_TOK ? T - t : PAIR_TOK, w, s, m, q + 32 * t, d + 4 * t, x + 4 * t);
    }
}

TD_INLINE void ask(const uint8_t *const w[2], int64_t ahead, int bytes) {
    TD_UNROLL
    for (int g = 0; g < 2; g++)
        for (int i = 0; i < bytes; i += 64) __builtin_prefetch(w[g] + ahead + i, 0, 3);
}

/* `only`: the only pass over these blocks, which asks for as many bytes as it reads, known here. */
TD_INLINE void pair_run(const td_tile_args *a, int form, int T, bool only) {
    const int bytes = form_bytes(form);
    const uint8_t *w[2] = {a->w, a->w2}, *q = a->q, *d = a->d, *x = a->x;
    vf acc[2][8];
    TD_UNROLL
    for (int i = 0; i < 2 * T; i++)
        acc[i / T][i % T] = a->resume ? vf_load(a->y + i % T * a->ldy + i / T * TD_GROUP) : vf_zero();
    for (int64_t b = 0; b < a->n; b++, q += TD_I8_BLOCK, d += TD_I8_BLOCK, x += TD_I8X_BLOCK) {
        const int64_t ahead = b < a->n_near ? a->ahead : a->ahead + a->skip;
        ask(w, only ? ahead : ahead + b * (a->step - bytes), only ? bytes : a->step);
        pair_block(acc, form, T, w, q, d, x);
        w[0] += bytes;
        w[1] += bytes;
    }
    TD_UNROLL
    for (int i = 0; i < 2 * T; i++) vf_store(a->y + i % T * a->ldy + i / T * TD_GROUP, acc[i / T][i % T]);
}

#define TD_PAIR(form, T)                                                                                               \
    static void pair_##form##_##T(const td_tile_args *a) {                                                             \
        if ((T) > PAIR_TOK && a->step == form_bytes(TD_FORM_##form))                                                   \
            pair_run(a, TD_FORM_##form, T, true);                                                                      \
        else                                                                                                           \
            pair_run(a, TD_FORM_##form, T, false);                                                                     \
    }
#define TD_PAIRS(form)                                                                                                 \
    TD_PAIR(form, 1)                                                                                                   \
    TD_PAIR(form, 2)                                                                                                   \
    TD_PAIR(form, 3)                                                                                                   \
    TD_PAIR(form, 4) TD_PAIR(form, 5) TD_PAIR(form, 6) TD_PAIR(form, 7) TD_PAIR(form, 8)

#define TD_PAIR_ENTRY(form)                                                                                            \
    {                                                                                                                  \
        static const td_tile_fn list[TD_TILES] = {0,                                                                   \
                                                  pair_##form##_1,                                                     \
                                                  pair_##form##_2,                                                     \
                                                  pair_##form##_3,                                                     \
                                                  pair_##form##_4,                                                     \
                                                  pair_##form##_5,                                                     \
                                                  pair_##form##_6,                                                     \
                                                  pair_##form##_7,                                                     \
                                                  pair_##form##_8};                                                    \
        memcpy(k->pair[TD_FORM_##form], list, sizeof list);                                                            \
        k->rect_from[TD_FORM_##form] = RECT_FROM;                                                                      \
    }

#endif
