/* 4 rows a vector: AArch64 Advanced SIMD with the dot product extension. */
#ifndef TD_KERNELS_VEC_NEON_H
#define TD_KERNELS_VEC_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

/* 32 registers: 16 accumulators, 8 lines of codes, scale, dot, product, broadcast. */
enum {
    TD_R = 4,
    TD_ACC = 16,
    TD_ACC_FLOATS = 16,
    TD_SUBS_UNROLLED = 1,
    TD_RECT_P = 2,
    TD_RECT_T = 4,
    TD_RECT_LINES = 4
};
/* Rows from which rectangles take fewer instructions than tiles, counted in an emulator: tiles of 16 rows take 5 % more
 * for Q4_0 (i8mm: 14 %), 16 % for Q4_K (19 %); at 12 rows Q4_0 and Q8_0 take 2 % fewer. */
enum { TD_RECT_FROM = 16 };
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint8x16_t vb;

#define V_OP static inline __attribute__((always_inline))

V_OP vf vf_zero(void) {
    return vdupq_n_f32(0.0f);
}
V_OP vf vf_set1(float x) {
    return vdupq_n_f32(x);
}
V_OP vf vf_load(const float *p) {
    return vld1q_f32(p);
}
V_OP void vf_store(float *p, vf x) {
    vst1q_f32(p, x);
}
V_OP vf vf_bcast(const uint8_t *p) {
    float x;
    memcpy(&x, p, 4);
    return vdupq_n_f32(x);
}
V_OP vf vf_mul(vf a, vf b) {
    return vmulq_f32(a, b);
}
V_OP vf vf_fma(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}
V_OP vf vf_neg(vf a) {
    return vnegq_f32(a);
}
V_OP vf vf_from_vi(vi a) {
    return vcvtq_f32_s32(a);
}
V_OP vf vf_f16(const uint8_t *p) {
    uint16x4_t h;
    memcpy(&h, p, 8);
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}
V_OP vf vf_bf16(const uint8_t *p) {
    uint16x4_t h;
    memcpy(&h, p, 8);
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
V_OP vf vf_u8(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(x)))));
}
V_OP vf vf_i8(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(x)))));
}
V_OP vb vb_load(const uint8_t *p) {
    return vld1q_u8(p);
}
V_OP void vb_store(uint8_t *p, vb a) {
    vst1q_u8(p, a);
}
V_OP vb vb_set1(int x) {
    return vdupq_n_u8((uint8_t)x);
}
V_OP vb vb_and(vb a, vb b) {
    return vandq_u8(a, b);
}
V_OP vb vb_or(vb a, vb b) {
    return vorrq_u8(a, b);
}
V_OP vb vb_shr(vb a, int n) {
    return a >> n;
}
V_OP vb vb_shl(vb a, int n) {
    return a << n;
}
V_OP vb vb_lookup(const uint8_t table[16], vb i) {
    return vqtbl1q_u8(vld1q_u8(table), i);
}
/* a | value in the bytes whose mask bit is set: the 16 bits of rows r .. r + 3. */
V_OP vb vb_or_masked(vb a, const uint8_t *mask, int r, int value) {
    const vb bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    vb k = vcombine_u8(vdup_n_u8(mask[r / 2]), vdup_n_u8(mask[r / 2 + 1]));
    return vorrq_u8(a, vandq_u8(vtstq_u8(k, bit), vdupq_n_u8((uint8_t)value)));
}

/* s + the products of a line of codes and lane i % 4 of a, which the instruction wants as a constant. */
V_OP vi vi_dot_lane(vi s, vb codes, vi a, int i) {
    const int8x16_t w = vreinterpretq_s8_u8(codes), q = vreinterpretq_s8_s32(a);
    switch (i % 4) {
    case 0:
        return vdotq_laneq_s32(s, w, q, 0);
    case 1:
        return vdotq_laneq_s32(s, w, q, 1);
    case 2:
        return vdotq_laneq_s32(s, w, q, 2);
    default:
        return vdotq_laneq_s32(s, w, q, 3);
    }
}
V_OP vi vi_acts(const uint8_t *q) { /* those of four lines */
    return vreinterpretq_s32_u8(vld1q_u8(q));
}

/* Exact sum over n lines of codes (u8) * activations (i8), less 2^zero_log2 for each code (sum8: -8 * the sum of
 * activations). The instruction multiplies signed bytes: codes below 128 are as they are, codes of 8 bits become
 * code - 128, which needs no correction. */
V_OP vi vi_dot(const vb *v, const uint8_t *q, int n, int bits, int zero_log2, const uint8_t *sum8) {
    vi s = vdupq_n_s32(0), a = s;
    if (zero_log2 > 0 && bits < 8) {
        int32_t s8;
        memcpy(&s8, sum8, 4);
        s = vdupq_n_s32(zero_log2 > 3 ? s8 * (1 << (zero_log2 - 3)) : s8 >> (3 - zero_log2));
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        if (i % 4 == 0) a = vi_acts(q + 4 * i);
        s = vi_dot_lane(s, bits == 8 ? veorq_u8(v[i], vdupq_n_u8(128)) : v[i], a, i);
    }
    return s;
}

/* ---- for rect.h: codes are expanded to signed bytes, without what was added to make them unsigned, so that nothing
 * is left to correct ---- */

V_OP vb vb_expanded(vb v, int zero_log2) {
    return zero_log2 > 0 ? vsubq_u8(v, vdupq_n_u8((uint8_t)(1u << zero_log2))) : v;
}
/* Line i of a dot product into s. */
V_OP void vi_mac(vi *s, vi *part, vb w, vi a, int i, int n, int bits, int zero_log2, const uint8_t *sum8) {
    (void)part, (void)n, (void)bits, (void)zero_log2, (void)sum8;
    *s = vi_dot_lane(i == 0 ? vdupq_n_s32(0) : *s, w, a, i);
}

/* ---- for rows.h ---- */

V_OP vf vf_add(vf a, vf b) {
    return vaddq_f32(a, b);
}
V_OP vf vf_sub(vf a, vf b) {
    return vsubq_f32(a, b);
}
V_OP vf vf_div(vf a, vf b) {
    return vdivq_f32(a, b);
}
V_OP vf vf_max(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
} /* a > b ? a : b, NaN gives b */
V_OP vf vf_min(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
} /* a < b ? a : b */
V_OP vf vf_abs(vf a) {
    return vabsq_f32(a);
}
V_OP vf vf_less(vf a, vf b, vf yes, vf no) {
    return vbslq_f32(vcltq_f32(a, b), yes, no);
}
V_OP vi vi_nearest(vf a) {
    return vcvtnq_s32_f32(a);
} /* ties to even */
V_OP vi vi_half(vi a) {
    return vshrq_n_s32(a, 1);
}
V_OP vi vi_sub(vi a, vi b) {
    return vsubq_s32(a, b);
}
V_OP vf vf_pow2(vi n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
V_OP void vi_store_i8(uint8_t *p, vi a) {
    int16x4_t h = vmovn_s32(a);
    int8x8_t b = vmovn_s16(vcombine_s16(h, h));
    memcpy(p, &b, 4);
}
V_OP int vi_sum(vi a) {
    return vaddvq_s32(a);
}
V_OP vi vi_zero(void) {
    return vdupq_n_s32(0);
}
V_OP vi vi_add(vi a, vi b) {
    return vaddq_s32(a, b);
}
V_OP float vf_tree_sum(vf a) { /* lanes i + i + 2, + 1 */
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
V_OP float vf_largest(vf a) {
    return vmaxvq_f32(a);
}

#endif
