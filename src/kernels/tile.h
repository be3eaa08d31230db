/* The inner loops of the products, written once over the vector types of an instruction set (vec_*.h).
 *
 * A vector holds TD_R rows of a group (16, 8 or 4), so a group takes 16 / TD_R passes; as many of them run side by side
 * as accumulators fit (TD_ACC beside codes, TD_ACC_FLOATS without). In a sub-block of 32 values the codes are unpacked
 * once into eight registers of unsigned bytes and serve T rows of activations: eight dot instructions, one conversion,
 * one multiplication and one fused multiply-add for each, which on Zen 5 leaves the two multiply ports and the two load
 * ports as the limit (5 cycles for 512 products). Registers at T = 8: 8 accumulators, 8 of codes, scale, dot,
 * broadcast, product: 20 of 32. Float weights have no codes, so that 16 rows (TD_WIDE) fit there.
 *
 * A file of an instruction set includes its vec_*.h, then this, and makes one function per form and T with TD_TILE. */
#ifndef TD_KERNELS_TILE_H
#define TD_KERNELS_TILE_H

#include "tile_forms.h"

/* How far ahead to prefetch, in bytes of packed weights. Measured on a Zen 5 core (40 GB/s): 2.5 KB gives 20 GB/s at 8
 * rows of activations, 8 KB 23, 12 KB 25, which is what the arithmetic allows; more gains nothing. */
enum { PREFETCH = 12288 };

TD_INLINE void prefetch(const uint8_t *p, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + PREFETCH + i, 0, 3);
}

/* Keeps the compiler from moving all prefetches of an unrolled block to its start, where they would wait for miss
 * buffers and hold up the loads behind them (Q6_K, 8 rows: 10 instead of 21 GB/s). */
TD_INLINE void prefetch_here(const uint8_t *p, int bytes) {
    __asm__ volatile("" ::: "memory");
    prefetch(p, bytes);
    __asm__ volatile("" ::: "memory");
}

/* acc[t] += sub-block: codes v (eight lines), scales s, minima m, activations l. */
TD_INLINE void mul_add(vf *acc, int form, int T, const vb v[8], const vf s[2], const vf m[2], lane_ptrs l) {
    const int halves = form_halves(form) ? 2 : 1, n = form_halves(form) ? 4 : 8;
    TD_UNROLL
    for (int t = 0; t < T; t++) {
        const uint8_t *q = l.q + 32 * t, *d = l.d + 4 * t, *x = l.x + 4 * t;
        TD_UNROLL
        for (int h = 0; h < halves; h++) {
            vi dot = vi_dot(v + 4 * h, q + 16 * h, n, form_bits(form), form_zero_log2(form), row_sum8(form, d, x, h));
            acc[t] = add_scaled(acc[t], form, dot, s[h], m + h, d, x, h);
        }
    }
}

/* The accumulators of P passes by T rows of activations, from the result so far or zero, and back. */
TD_INLINE void acc_begin(vf *acc, const td_tile_args *a, int T, int P, int r0) {
    TD_UNROLL
    for (int i = 0; i < P * T; i++) acc[i] = a->resume ? vf_load(a->y + i % T * a->ldy + r0 + i / T * TD_R) : vf_zero();
}

TD_INLINE void acc_end(const vf *acc, const td_tile_args *a, int T, int P, int r0) {
    TD_UNROLL
    for (int i = 0; i < P * T; i++) vf_store(a->y + i % T * a->ldy + r0 + i / T * TD_R, acc[i]);
}

/* Sub-block j of a block, all passes. */
TD_INLINE void tile_sub(vf *acc, int form, int T, int P, int r0, const uint8_t *w, const uint8_t *sc, const uint8_t *mn,
                        int j, lane_ptrs l) {
    const int subs = form_subs(form), bytes = form_bytes(form) / subs;
    if (r0 == 0 && subs == 1) prefetch(w, bytes);
    if (r0 == 0 && subs > 1) prefetch_here(w + bytes * j, bytes);
    TD_UNROLL
    for (int p = 0; p < P; p++) {
        int r = r0 + p * TD_R;
        vf s[2], m[2];
        vb v[8];
        load_sub(v, s, m, form, w, sc, mn, j, r);
        mul_add(acc + p * T, form, T, v, s, m, lane_at(l, j));
    }
}

/* P passes side by side over the blocks: rows r0, r0 + TD_R, ... */
TD_INLINE void tile_blocks(const td_tile_args *a, int form, int T, int P, int r0) {
    const int subs = form_subs(form), bytes = form_bytes(form);
    vf acc[TD_ACC];
    uint8_t sc[256], mn[256]; /* [16 scales][16 rows] */
    lane_ptrs l = {a->q, a->d, a->x};
    const uint8_t *w = a->w;
    acc_begin(acc, a, T, P, r0);
    for (int64_t n = a->n; n > 0; n--, w += bytes, l = lane_at(l, subs)) {
        if (subs > 1) super_scales(sc, mn, form, w);
        if (subs == 1 || T <= TD_SUBS_UNROLLED) { /* constant shifts */
            TD_UNROLL
            for (int j = 0; j < subs; j++) tile_sub(acc, form, T, P, r0, w, sc, mn, j, l);
        } else { /* unrolled, the code would outgrow the processor's cache of decoded instructions */
            _Pragma("GCC unroll 1") for (int j = 0; j < subs; j++) tile_sub(acc, form, T, P, r0, w, sc, mn, j, l);
        }
    }
    acc_end(acc, a, T, P, r0);
}

/* F32, F16, BF16: one line of 16 values of W per value of k. */
TD_INLINE vf float_line(int form, const uint8_t *w, int r) {
    if (form == TD_FORM_F32) return vf_load((const float *)(const void *)w + r);
    return form == TD_FORM_F16 ? vf_f16(w + 2 * r) : vf_bf16(w + 2 * r);
}

/* Every 32 products are a sum of their own, and the sums are added: one chain over all of k would round k times. */
TD_INLINE void tile_floats(const td_tile_args *a, int form, int T, int P, int r0) {
    const int bytes = form == TD_FORM_F32 ? 64 : 32;
    vf total[TD_ACC_FLOATS];
    const uint8_t *w = a->w;
    const float *f = a->f;
    acc_begin(total, a, T, P, r0);
    for (int64_t i = 0; i < a->n; f += TD_PANEL * 32) {
        int64_t end = i + 32 < a->n ? i + 32 : a->n;
        vf acc[TD_ACC_FLOATS];
        TD_UNROLL
        for (int j = 0; j < P * T; j++) acc[j] = vf_zero();
        for (const float *g = f; i < end; i++, g++, w += bytes) {
            if (r0 == 0) prefetch(w, 1);
            TD_UNROLL
            for (int p = 0; p < P; p++) {
                vf v = float_line(form, w, r0 + p * TD_R);
                TD_UNROLL
                for (int t = 0; t < T; t++)
                    acc[p * T + t] = vf_fma(v, vf_bcast((const uint8_t *)(g + 32 * (t & 7) + (t < 8 ? 0 : a->f_panel))),
                                            acc[p * T + t]);
            }
        }
        TD_UNROLL
        for (int j = 0; j < P * T; j++) total[j] = vf_add(total[j], acc[j]);
    }
    acc_end(total, a, T, P, r0);
}

/* Passes side by side: as many as leave T * P accumulators in registers. */
TD_INLINE int passes(int T, int most) {
    int p = 16 / TD_R;
    while (p > 1 && p * T > most) p /= 2;
    return p;
}

TD_INLINE void tile_run(const td_tile_args *a, int form, int T) {
    const bool floats = form <= TD_FORM_BF16;
    const int P = passes(T, floats ? TD_ACC_FLOATS : TD_ACC);
    for (int r0 = 0; r0 < 16; r0 += P * TD_R) {
        if (floats)
            tile_floats(a, form, T, P, r0);
        else
            tile_blocks(a, form, T, P, r0);
    }
}

/* A tile of T rows as two of fewer, where registers do not suffice. */
TD_INLINE td_tile_args tile_rest(const td_tile_args *a, int T) {
    td_tile_args b = *a;
    b.q += 32 * T;
    b.d += 4 * T;
    b.x += 4 * T;
    b.f += 32 * T;
    b.y += T * b.ldy;
    return b;
}

#define TD_TILE(form, T)                                                                                               \
    static void tile_##form##_##T(const td_tile_args *a) {                                                             \
        tile_run(a, TD_FORM_##form, T);                                                                                \
    }
#define TD_TILE_PAIR(form, T, A, B)                                                                                    \
    static void tile_##form##_##T(const td_tile_args *a) {                                                             \
        td_tile_args b = tile_rest(a, A);                                                                              \
        tile_##form##_##A(a);                                                                                          \
        tile_##form##_##B(&b);                                                                                         \
    }
/* Tiles of 1 to 8 rows: all in one, or from 5 on in two. */
#define TD_TILES_WHOLE(form)                                                                                           \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3)                                                                                                   \
    TD_TILE(form, 4) TD_TILE(form, 5) TD_TILE(form, 6) TD_TILE(form, 7) TD_TILE(form, 8)
#define TD_TILES_SPLIT(form)                                                                                           \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3)                                                                                                   \
    TD_TILE(form, 4)                                                                                                   \
    TD_TILE_PAIR(form, 5, 3, 2) TD_TILE_PAIR(form, 6, 3, 3) TD_TILE_PAIR(form, 7, 4, 3) TD_TILE_PAIR(form, 8, 4, 4)

/* Puts them into the table `k`. */
#define TD_TILE_ENTRY(form)                                                                                            \
    {                                                                                                                  \
        static const td_tile_fn list[TD_TILES] = {0,                                                                   \
                                                  tile_##form##_1,                                                     \
                                                  tile_##form##_2,                                                     \
                                                  tile_##form##_3,                                                     \
                                                  tile_##form##_4,                                                     \
                                                  tile_##form##_5,                                                     \
                                                  tile_##form##_6,                                                     \
                                                  tile_##form##_7,                                                     \
                                                  tile_##form##_8};                                                    \
        memcpy(k->tile[TD_FORM_##form], list, sizeof list);                                                            \
    }

#endif
