/* 16 rows a vector: AVX-512 F, BW, DQ, VL and VNNI. What each operation means is said in vec_avx2.h's terms too;
 * tests/kernel compares both with ref. */
#ifndef TD_KERNELS_VEC_AVX512_H
#define TD_KERNELS_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum {
    TD_R = 16,
    TD_ACC = 16,
    TD_ACC_FLOATS = 16,
    TD_SUBS_UNROLLED = 8,
    TD_RECT_P = 2,
    TD_RECT_T = 4,
    TD_RECT_LINES = 1
};
/* Rows from which rectangles are faster than tiles: E2B Q4_0 takes 87 ms for 16 rows as rectangles, 71 as tiles. */
enum { TD_RECT_FROM = 48 };
typedef __m512 vf;
typedef __m512i vi, vb;
typedef unsigned short vec_u16 __attribute__((vector_size(64)));
typedef int vec_i32 __attribute__((vector_size(64)));

#define V_OP static inline __attribute__((always_inline))

V_OP vf vf_zero(void) {
    return _mm512_setzero_ps();
}
V_OP vf vf_set1(float x) {
    return _mm512_set1_ps(x);
}
V_OP vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_OP void vf_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}
V_OP vf vf_bcast(const uint8_t *p) {
    float x;
    memcpy(&x, p, 4);
    return _mm512_set1_ps(x);
}
V_OP vf vf_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_OP vf vf_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
V_OP vf vf_neg(vf a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
V_OP vf vf_from_vi(vi a) {
    return _mm512_cvtepi32_ps(a);
}
V_OP vf vf_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V_OP vf vf_bf16(const uint8_t *p) {
    __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
}
V_OP vf vf_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
V_OP vf vf_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
V_OP vb vb_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
V_OP void vb_store(uint8_t *p, vb a) {
    _mm512_storeu_si512(p, a);
}
V_OP vb vb_set1(int x) {
    return _mm512_set1_epi8((char)x);
}
V_OP vb vb_and(vb a, vb b) {
    return _mm512_and_si512(a, b);
}
V_OP vb vb_or(vb a, vb b) {
    return _mm512_or_si512(a, b);
}
/* In 16-bit units, so that bits of the neighbour come in: mask them. */
V_OP vb vb_shr(vb a, int n) {
    return (vb)((vec_u16)a >> n);
}
V_OP vb vb_shl(vb a, int n) {
    return (vb)((vec_u16)a << n);
}
V_OP vb vb_lookup(const uint8_t table[16], vb i) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table)), i);
}
/* a | value in the bytes whose mask bit is set. */
V_OP vb vb_or_masked(vb a, const uint8_t *mask, int r, int value) {
    uint64_t k;
    (void)r;
    memcpy(&k, mask, 8);
    return _mm512_mask_add_epi8(a, k, a, _mm512_set1_epi8((char)value)); /* the bit is clear in a */
}
V_OP vi vi_bcast(const uint8_t *p) {
    int32_t c;
    memcpy(&c, p, 4);
    return _mm512_set1_epi32(c);
}

/* What rect.h expands codes to, and one broadcast of activations for TD_RECT_LINES lines: as everywhere else here. */
V_OP vb vb_expanded(vb v, int zero_log2) {
    (void)zero_log2;
    return v;
}
V_OP vi vi_acts(const uint8_t *q) {
    return vi_bcast(q);
}

/* sum8 is -8 * the sum of activations; codes were made unsigned by adding 2^zero_log2. */
V_OP vi vi_dot_start(int bits, int zero_log2, const uint8_t *sum8) {
    (void)bits;
    if (zero_log2 == 0) return _mm512_setzero_si512();
    vec_i32 s = (vec_i32)vi_bcast(sum8);
    if (zero_log2 > 3) s = s << (zero_log2 - 3);
    if (zero_log2 < 3) s = s >> (3 - zero_log2);
    return (vi)s;
}

/* Line i of n of a dot product into s: codes w (u8) times activations a (i8). The first begins with vi_dot_start. */
V_OP void vi_mac(vi *s, vi *part, vb w, vi a, int i, int n, int bits, int zero_log2, const uint8_t *sum8) {
    (void)part, (void)n;
    *s = _mm512_dpbusd_epi32(i == 0 ? vi_dot_start(bits, zero_log2, sum8) : *s, w, a);
}

/* Exact sum over n lines of codes (u8) * activations (i8), less 2^zero_log2 for each code. */
V_OP vi vi_dot(const vb *v, const uint8_t *q, int n, int bits, int zero_log2, const uint8_t *sum8) {
    vi s, part;
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) /* the broadcast is in the instruction */
        vi_mac(&s, &part, v[i], vi_bcast(q + 4 * i), i, n, bits, zero_log2, sum8);
    return s;
}

/* ---- for rows.h ---- */

V_OP vf vf_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_OP vf vf_sub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}
V_OP vf vf_div(vf a, vf b) {
    return _mm512_div_ps(a, b);
}
V_OP vf vf_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
} /* a > b ? a : b, NaN gives b */
V_OP vf vf_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
} /* a < b ? a : b */
V_OP vf vf_abs(vf a) {
    return _mm512_abs_ps(a);
}
V_OP vf vf_less(vf a, vf b, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
V_OP vi vi_nearest(vf a) {
    return _mm512_cvtps_epi32(a);
} /* ties to even */
V_OP vi vi_half(vi a) {
    return _mm512_srai_epi32(a, 1);
}
V_OP vi vi_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
V_OP vf vf_pow2(vi n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
V_OP void vi_store_i8(uint8_t *p, vi a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}
V_OP int vi_sum(vi a) {
    return _mm512_reduce_add_epi32(a);
}
V_OP vi vi_zero(void) {
    return _mm512_setzero_si512();
}
V_OP vi vi_add(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
V_OP float vf_tree_sum(vf a) { /* lanes i + i + 8, + 4, + 2, + 1 */
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
V_OP float vf_largest(vf a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

#endif
