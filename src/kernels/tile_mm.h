/* The inner loops of the products on AArch64 with the matrix instruction for bytes (i8mm), for few rows.
 *
 * As in tile.h, codes are unpacked where they are used, here to pairs of rows, and serve all rows of activations, two
 * at a time (square.h). Each result sees the operations of tile.h in the same order, so the bits are the same. An odd T
 * multiplies its last row twice and drops the copy. */
#ifndef TD_KERNELS_TILE_MM_H
#define TD_KERNELS_TILE_MM_H

#include "square.h"
#include "tile.h"

TD_INLINE vf pair_f32(const uint8_t *a, const uint8_t *b) { /* a b a b */
    float x[2];
    memcpy(&x[0], a, 4);
    memcpy(&x[1], b, 4);
    float32x2_t p = vld1_f32(x);
    return vcombine_f32(p, p);
}

TD_INLINE vi pair_start(int zero_log2, const uint8_t *a, const uint8_t *b) { /* as vi_dot */
    int32_t x[2];
    if (zero_log2 == 0) return vi_zero();
    memcpy(&x[0], a, 4);
    memcpy(&x[1], b, 4);
    int32x2_t p = vld1_s32(x);
    vi s = vcombine_s32(p, p);
    return zero_log2 > 3 ? s << (zero_log2 - 3) : s >> (3 - zero_log2);
}

/* s + n of the four runs of 8 values from run j on. */
TD_INLINE vi square_dot(vi s, const vb u[4][2], int rows, int j, int n, const uint8_t *qa, const uint8_t *qb) {
    TD_UNROLL
    for (int i = j; i < j + n; i++) {
        int8x16_t a = vcombine_s8(vld1_s8((const int8_t *)qa + 8 * i), vld1_s8((const int8_t *)qb + 8 * i));
        s = square_mac(s, u[i][rows], a);
    }
    return s;
}

/* As mul_add of tile.h. What was added to codes to make them unsigned is taken off the sums, of which a few rows have
 * fewer than there are codes; but codes of 8 bits must be made signed. */
TD_INLINE void square_add(squares *acc, int form, int T, const vb v[8], const vf s[2], const vf m[2], lane_ptrs l) {
    const int halves = form_halves(form) ? 2 : 1, n = 4 / halves;
    const int zero = form_zero_log2(form), of_codes = form_bits(form) == 8 ? zero : 0;
    vb u[4][2];
    TD_UNROLL
    for (int i = 0; i < 4; i++) square_codes(u[i], v[2 * i], v[2 * i + 1], of_codes);
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        const int o = t + 1 < T ? t + 1 : t;
        const uint8_t *qa = l.q + 32 * t, *qb = l.q + 32 * o, *da = l.d + 4 * t, *db = l.d + 4 * o;
        const uint8_t *xa = l.x + 4 * t, *xb = l.x + 4 * o;
        const vf d = pair_f32(da, db);
        TD_UNROLL
        for (int h = 0; h < halves; h++) {
            const vi start = pair_start(zero - of_codes, row_sum8(form, da, xa, h), row_sum8(form, db, xb, h));
            const vf sum = form_has_min(form) ? pair_f32(row_sum(form, xa, h), row_sum(form, xb, h)) : d;
            TD_UNROLL
            for (int r = 0; r < 2; r++) {
                const vf min = form_has_min(form) ? square_rows(m[h], r) : d;
                const vi dot = square_dot(start, u, r, n * h, n, qa, qb);
                vf *to = &acc->v[t / 2][r];
                *to = square_scaled(*to, form, dot, square_rows(s[h], r), d, &min, &sum);
            }
        }
    }
}

TD_INLINE void tile_mm(const td_tile_args *a, int form, int T) {
    const int subs = form_subs(form), bytes = form_bytes(form);
    float *row[TD_PANEL];
    TD_UNROLL
    for (int t = 0; t < T; t++) row[t] = a->y + t * a->ldy;
    for (int r = 0; r < 16; r += TD_R) {
        squares acc;
        uint8_t sc[256], mn[256];
        lane_ptrs l = {a->q, a->d, a->x};
        const uint8_t *w = a->w;
        squares_begin(&acc, row, T, r, a->resume);
        for (int64_t n = a->n; n > 0; n--, w += bytes, l = lane_at(l, subs)) {
            if (subs > 1) super_scales(sc, mn, form, w);
            _Pragma("GCC unroll 1") for (int j = 0; j < subs; j++) {
                vf s[2], m[2];
                vb v[8];
                load_sub(v, s, m, form, w, sc, mn, j, r);
                square_add(&acc, form, T, v, s, m, lane_at(l, j));
            }
        }
        squares_end(&acc, row, T, r);
    }
}

#define TD_TILE_MM(form, T)                                                                                            \
    static void tile_##form##_##T(const td_tile_args *a) {                                                             \
        tile_mm(a, TD_FORM_##form, T);                                                                                 \
    }

/* Tiles of 2 to 8 rows. */
#define TD_TILES_MM(form)                                                                                              \
    TD_TILE_MM(form, 2)                                                                                                \
    TD_TILE_MM(form, 3)                                                                                                \
    TD_TILE_MM(form, 4) TD_TILE_MM(form, 5) TD_TILE_MM(form, 6) TD_TILE_MM(form, 7) TD_TILE_MM(form, 8)

/* Puts them into the table `k`. */
#define TD_TILE_MM_ENTRY(form)                                                                                         \
    {                                                                                                                  \
        static const td_tile_fn list[] = {tile_##form##_2, tile_##form##_3, tile_##form##_4, tile_##form##_5,          \
                                          tile_##form##_6, tile_##form##_7, tile_##form##_8};                          \
        memcpy(k->tile[TD_FORM_##form] + 2, list, sizeof list);                                                        \
    }

#endif
