/* Squares: what the matrix instruction for bytes (i8mm) makes of two rows of weights and two of activations.
 *
 * smmla multiplies two rows of 8 codes by two rows of 8 activations into a 2 x 2 square of sums, twice the work of a
 * dot instruction. Results are kept as squares (activation row a then b of weight row 0, then of row 1) and put in
 * order when they are stored. tile_mm.h unpacks the codes where they are used, rect_mm.h before. */
#ifndef TD_KERNELS_SQUARE_H
#define TD_KERNELS_SQUARE_H

#include "tile_forms.h"
#include "vec_neon.h"

/* Four rows of weights: squares [pair of rows of activations][pair of rows]. */
typedef struct squares {
    vf v[4][2];
} squares;

/* Two lines of codes of four rows become two pairs of rows, 8 signed codes each. */
TD_INLINE void square_codes(vb u[2], vb a, vb b, int zero_log2) {
    const uint32x4_t x = vreinterpretq_u32_u8(vb_expanded(a, zero_log2)),
                     y = vreinterpretq_u32_u8(vb_expanded(b, zero_log2));
    u[0] = vreinterpretq_u8_u32(vzip1q_u32(x, y));
    u[1] = vreinterpretq_u8_u32(vzip2q_u32(x, y));
}

/* What stands once per row of weights, for the square of rows 2 * pair and the next. */
TD_INLINE vf square_rows(vf x, int pair) {
    return pair == 0 ? vzip1q_f32(x, x) : vzip2q_f32(x, x);
}

TD_INLINE vi square_mac(vi s, vb codes, int8x16_t acts) {
    return vmmlaq_s32(s, vreinterpretq_s8_u8(codes), acts);
}

/* As add_scaled of tile_forms.h; m and sum are read where the form has a minimum. */
TD_INLINE vf square_scaled(vf acc, int form, vi dot, vf s, vf d, const vf *m, const vf *sum) {
    acc = vf_fma(vf_from_vi(dot), vf_mul(s, d), acc);
    return form_has_min(form) ? vf_fma(*m, *sum, acc) : acc;
}

/* T rows of results, four values from r0 on, to squares and back. An odd T has its last row twice. */
TD_INLINE void squares_begin(squares *acc, float *const row[], int T, int r0, bool resume) {
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        const int o = t + 1 < T ? t + 1 : t;
        vf x = resume ? vf_load(row[t] + r0) : vf_zero(), y = resume ? vf_load(row[o] + r0) : vf_zero();
        acc->v[t / 2][0] = vzip1q_f32(x, y);
        acc->v[t / 2][1] = vzip2q_f32(x, y);
    }
}

TD_INLINE void squares_end(const squares *acc, float *const row[], int T, int r0) {
    TD_UNROLL
    for (int t = 0; t < T; t += 2) {
        vf_store(row[t] + r0, vuzp1q_f32(acc->v[t / 2][0], acc->v[t / 2][1]));
        if (t + 1 < T) vf_store(row[t + 1] + r0, vuzp2q_f32(acc->v[t / 2][0], acc->v[t / 2][1]));
    }
}

#endif
