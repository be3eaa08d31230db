/* The inner loops of the products for many rows of activations on AArch64 with i8mm: rect.h with squares (square.h).
 *
 * Expanded codes are pairs of rows by runs of 8 values, in the order in which they are used: 8 rows (four pairs) of one
 * run are a line of 64 bytes. Scales and minima stand twice each, as a square takes them, so that nothing is shuffled
 * in the loop. The same is done to four rows of activations once for all 32 rows of weights (3.5 KB on the stack: 8
 * loads, 8 shuffles and 8 stores of a block, beside its 128 matrix instructions).
 *
 * A pass multiplies 8 rows by four of activations: for a run of 8 values four loads of codes and two of activations
 * serve 8 matrix instructions. Registers: 8 accumulators, 8 sums, 2 of activations, 4 of codes. A block of 32 values is
 * 32 matrix instructions, then 8 conversions, multiplications and additions each: more rows side by side would not
 * change that, and would not fit. */
#ifndef TD_KERNELS_RECT_MM_H
#define TD_KERNELS_RECT_MM_H

#include "rect_walk.h"
#include "square.h"

enum { PASS_ROWS = 8, RUNS = 4, PAIRS = TD_RECT_TOK / 2 };

TD_INLINE void expand_sub(td_expanded *to, int form, int g, int64_t at, const vb v[8], const vf s[2], const vf m[2],
                          int r) {
    uint8_t *codes = to->codes[at][g][RUNS * (r / PASS_ROWS)] + 8 * (r % PASS_ROWS);
    TD_UNROLL
    for (int i = 0; i < RUNS; i++) {
        vb u[2];
        square_codes(u, v[2 * i], v[2 * i + 1], form_zero_log2(form));
        vb_store(codes + 64 * i, u[0]);
        vb_store(codes + 64 * i + 16, u[1]);
    }
    for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) {
        for (int p = 0; p < 2; p++) {
            const int i = 2 * (TD_GROUP * g + r) + 4 * p;
            vf_store(to->scale[at][h] + i, square_rows(s[h], p));
            if (form_has_min(form)) vf_store(to->min[at][h] + i, square_rows(m[h], p));
        }
    }
}

/* Four rows of activations over all blocks, as squares take them: a run of 8 values of both rows of a pair; a scale of
 * each, twice. */
typedef struct paired {
    int8_t q[TD_RECT_BLOCKS][RUNS][PAIRS][16];
    float d[TD_RECT_BLOCKS][PAIRS][4], sum[TD_RECT_BLOCKS][2][PAIRS][4];
} paired;

TD_INLINE void pair_floats(float to[PAIRS][4], const uint8_t *four) {
    const float64x2_t x = vreinterpretq_f64_u8(vld1q_u8(four));
    vst1q_f32(to[0], vreinterpretq_f32_f64(vdupq_laneq_f64(x, 0)));
    vst1q_f32(to[1], vreinterpretq_f32_f64(vdupq_laneq_f64(x, 1)));
}

TD_INLINE void pair_up(paired *to, int form, int64_t n, lane_ptrs l) {
    const int halves = form_halves(form) ? 2 : 1;
    for (int64_t b = 0; b < n; b++, l = lane_at(l, 1)) {
        TD_UNROLL
        for (int i = 0; i < 2 * PAIRS; i++) { /* two runs of a pair */
            const uint8_t *q = l.q + 64 * (i / 2) + 16 * (i % 2);
            const int64x2_t x = vreinterpretq_s64_u8(vld1q_u8(q)), y = vreinterpretq_s64_u8(vld1q_u8(q + 32));
            vst1q_s8(to->q[b][2 * (i % 2)][i / 2], vreinterpretq_s8_s64(vzip1q_s64(x, y)));
            vst1q_s8(to->q[b][2 * (i % 2) + 1][i / 2], vreinterpretq_s8_s64(vzip2q_s64(x, y)));
        }
        pair_floats(to->d[b], l.d);
        for (int h = 0; h < halves && form_has_min(form); h++) pair_floats(to->sum[b][h], row_sum(form, l.x, h));
    }
}

/* acc += block b of 32 values, or half of one (h) where scales change every 16. */
TD_INLINE void square_half(squares acc[2], int form, const td_expanded *w, const paired *a, int64_t b, int h, int r0) {
    const int n = form_halves(form) ? RUNS / 2 : RUNS;
    const uint8_t *codes = w->codes[b][r0 / TD_GROUP][RUNS * (r0 % TD_GROUP / PASS_ROWS)];
    vi s[PAIRS][4];
    TD_UNROLL
    for (int i = 0; i < 4 * PAIRS; i++) s[i / 4][i % 4] = vi_zero();
    TD_UNROLL
    for (int i = h * n; i < h * n + n; i++) {
        TD_UNROLL
        for (int p = 0; p < 4; p++) {
            const vb pair = vb_load(codes + 64 * i + 16 * p);
            TD_UNROLL
            for (int t = 0; t < PAIRS; t++) s[t][p] = square_mac(s[t][p], pair, vld1q_s8(a->q[b][i][t]));
        }
    }
    TD_UNROLL
    for (int p = 0; p < 4; p++) {
        const vf scale = vf_load(w->scale[b][h] + 2 * r0 + 4 * p), min = vf_load(w->min[b][h] + 2 * r0 + 4 * p);
        TD_UNROLL
        for (int t = 0; t < PAIRS; t++) {
            vf *to = &acc[p / 2].v[t][p % 2];
            const vf sum = vf_load(a->sum[b][h][t]);
            *to = square_scaled(*to, form, s[t][p], scale, vf_load(a->d[b][t]), &min, &sum);
        }
    }
}

/* Rows that do not exist have a place to go. */
TD_INLINE void rect_four(const struct td_rect_args *a, int form, lane_ptrs l, int32_t n, float *y) {
    float none[TD_RECT_ROWS] = {0}, *row[TD_RECT_TOK];
    paired acts;
    for (int t = 0; t < TD_RECT_TOK; t++) row[t] = t < n ? y + t * a->ldy : none;
    pair_up(&acts, form, a->n, l);
    for (int r = 0; r < TD_RECT_ROWS; r += PASS_ROWS) {
        squares acc[2];
        lane_ptrs at = l;
        TD_UNROLL
        for (int i = 0; i < 2; i++) squares_begin(&acc[i], row, TD_RECT_TOK, r + 4 * i, a->resume);
        for (int64_t b = 0; b < a->n; b++, at = lane_at(at, 1)) {
            if (r == 0) prefetch_next(a, at);
            for (int h = 0; h < (form_halves(form) ? 2 : 1); h++) square_half(acc, form, a->w, &acts, b, h, r);
        }
        TD_UNROLL
        for (int i = 0; i < 2; i++) squares_end(&acc[i], row, TD_RECT_TOK, r + 4 * i);
    }
}

#endif
