/* The inner loops of the products on AArch64 with the matrix instruction for bytes (i8mm).
 *
 * smmla multiplies two rows of 8 weights by two rows of 8 activations into a 2 x 2 square of sums, twice the work of a
 * dot instruction. Two lines of codes, shuffled, give two registers of row pairs; accumulators are squares of two rows
 * by two activation rows, put in order at the end. Each result sees the operations of tile.h in the same order, so the
 * bits are the same. An odd T multiplies its last row twice and drops the copy. */
#ifndef TD_KERNELS_TILE_MM_H
#define TD_KERNELS_TILE_MM_H

#include "tile.h"
#include "vec_neon.h"

/* Four rows, one pass: squares [activation pair][row pair]. */
typedef struct squares {
    vf v[4][2];
} squares;

TD_INLINE vf pair_f32(const uint8_t *a, const uint8_t *b) { /* a b a b */
    float x[2];
    memcpy(&x[0], a, 4);
    memcpy(&x[1], b, 4);
    float32x2_t p = vld1_f32(x);
    return vcombine_f32(p, p);
}

TD_INLINE vi pair_start(int zero_log2, const uint8_t *a, const uint8_t *b) {
    int32_t x[2];
    if (zero_log2 == 0) return vdupq_n_s32(0);
    memcpy(&x[0], a, 4);
    memcpy(&x[1], b, 4);
    int32x2_t p = vld1_s32(x);
    vi s = vcombine_s32(p, p);
    return zero_log2 > 3 ? s << (zero_log2 - 3) : s >> (3 - zero_log2);
}

/* n of the four runs of 8 values from run j on. */
TD_INLINE vi square_dot(const int8x16_t u[4][2], int rows, int j, int n, const uint8_t *qa, const uint8_t *qb, vi s) {
    TD_UNROLL
    for (int i = j; i < j + n; i++) {
        int8x16_t a = vcombine_s8(vld1_s8((const int8_t *)qa + 8 * i), vld1_s8((const int8_t *)qb + 8 * i));
        s = vmmlaq_s32(s, u[i][rows], a);
    }
    return s;
}

/* As mul_add of tile.h. */
TD_INLINE void square_add(squares *acc, int form, int T, const vb v[8], const vf s[2], const vf m[2], lane_ptrs l) {
    const int bits = form_bits(form), zero = bits == 8 ? 0 : form_zero_log2(form);
    const bool halves = form_halves(form);
    int8x16_t u[4][2];
    TD_UNROLL
    for (int i = 0; i < 4; i++) {
        const vb flip = vdupq_n_u8(bits == 8 ? 128 : 0);
        uint32x4_t a = vreinterpretq_u32_u8(veorq_u8(v[2 * i], flip)),
                   b = vreinterpretq_u32_u8(veorq_u8(v[2 * i + 1], flip));
        u[i][0] = vreinterpretq_s8_u32(vzip1q_u32(a, b));
        u[i][1] = vreinterpretq_s8_u32(vzip2q_u32(a, b));
    }
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        const int o = t + 1 < T ? t + 1 : t;
        const uint8_t *qa = l.q + 32 * t, *qb = l.q + 32 * o, *da = l.d + 4 * t, *db = l.d + 4 * o;
        const uint8_t *xa = l.x + 4 * t, *xb = l.x + 4 * o;
        const vf dx = pair_f32(da, db);
        TD_UNROLL
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < (halves ? 2 : 1); h++) {
                const vf sr = r == 0 ? vzip1q_f32(s[h], s[h]) : vzip2q_f32(s[h], s[h]); /* d0 d0 d1 d1 */
                vi dot = halves ? pair_start(zero, xa + 32 * h, xb + 32 * h) : pair_start(zero, da + 32, db + 32);
                dot = square_dot(u, r, halves ? 2 * h : 0, halves ? 2 : 4, qa, qb, dot);
                vf *to = &acc->v[t / 2][r];
                *to = vf_fma(vf_from_vi(dot), vf_mul(sr, dx), *to);
                if (!form_has_min(form)) continue;
                const vf mr = r == 0 ? vzip1q_f32(m[h], m[h]) : vzip2q_f32(m[h], m[h]);
                const int at = halves ? 96 + 32 * h : 64;
                *to = vf_fma(mr, pair_f32(xa + at, xb + at), *to);
            }
    }
}

/* Squares from and to rows of results y[t][r0 .. r0 + 3]. */
TD_INLINE void squares_begin(squares *acc, const td_tile_args *a, int T, int r0) {
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        const int o = t + 1 < T ? t + 1 : t;
        vf x = a->resume ? vf_load(a->y + t * a->ldy + r0) : vf_zero(),
           y = a->resume ? vf_load(a->y + o * a->ldy + r0) : vf_zero();
        acc->v[t / 2][0] = vzip1q_f32(x, y);
        acc->v[t / 2][1] = vzip2q_f32(x, y);
    }
}

TD_INLINE void squares_end(const squares *acc, const td_tile_args *a, int T, int r0) {
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        vf_store(a->y + t * a->ldy + r0, vuzp1q_f32(acc->v[t / 2][0], acc->v[t / 2][1]));
        if (t + 1 < T) vf_store(a->y + (t + 1) * a->ldy + r0, vuzp2q_f32(acc->v[t / 2][0], acc->v[t / 2][1]));
    }
}

TD_INLINE void tile_mm(const td_tile_args *a, int form, int T) {
    const int subs = form_subs(form), bytes = form_bytes(form);
    for (int r = 0; r < 16; r += TD_R) {
        squares acc;
        uint8_t sc[256], mn[256];
        lane_ptrs l = {a->q, a->d, a->x};
        const uint8_t *w = a->w;
        squares_begin(&acc, a, T, r);
        for (int64_t n = a->n; n > 0; n--, w += bytes, l = lane_at(l, subs)) {
            if (subs > 1) super_scales(sc, mn, form, w);
            _Pragma("GCC unroll 1") for (int j = 0; j < subs; j++) {
                vf s[2], m[2];
                vb v[8];
                load_sub(v, s, m, form, w, sc, mn, j, r);
                square_add(&acc, form, T, v, s, m, lane_at(l, j));
            }
        }
        squares_end(&acc, a, T, r);
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
