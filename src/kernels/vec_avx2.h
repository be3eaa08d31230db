/* 8 rows a vector: AVX2, FMA, F16C; the dot product through AVX-VNNI where TD_VNNI is defined. */
#ifndef TD_KERNELS_VEC_AVX2_H
#define TD_KERNELS_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* 16 registers: 4 accumulators, 8 lines of codes, scale, dot, product, broadcast. */
enum { TD_R = 8, TD_ACC = 4, TD_ACC_FLOATS = 8, TD_SUBS_UNROLLED = 1, TD_RECT_P = 2, TD_RECT_T = 2, TD_RECT_LINES = 1 };
/* Rows from which rectangles are faster than tiles: E2B Q4_0 takes 87 ms for 16 rows as rectangles, 71 as tiles. */
enum { TD_RECT_FROM = 48 };
typedef __m256 vf;
typedef __m256i vi, vb;
typedef unsigned short vec_u16 __attribute__((vector_size(32)));
typedef int vec_i32 __attribute__((vector_size(32)));

#define V_OP static inline __attribute__((always_inline))

V_OP vf vf_zero(void) {
    return _mm256_setzero_ps();
}
V_OP vf vf_set1(float x) {
    return _mm256_set1_ps(x);
}
V_OP vf vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}
V_OP void vf_store(float *p, vf x) {
    _mm256_storeu_ps(p, x);
}
V_OP vf vf_bcast(const uint8_t *p) {
    float x;
    memcpy(&x, p, 4);
    return _mm256_set1_ps(x);
}
V_OP vf vf_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_OP vf vf_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
V_OP vf vf_neg(vf a) {
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
V_OP vf vf_from_vi(vi a) {
    return _mm256_cvtepi32_ps(a);
}
V_OP vf vf_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V_OP vf vf_bf16(const uint8_t *p) {
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}
V_OP vf vf_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
V_OP vf vf_i8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
V_OP vb vb_load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
V_OP void vb_store(uint8_t *p, vb a) {
    _mm256_storeu_si256((__m256i *)(void *)p, a);
}
V_OP vb vb_set1(int x) {
    return _mm256_set1_epi8((char)x);
}
V_OP vb vb_and(vb a, vb b) {
    return _mm256_and_si256(a, b);
}
V_OP vb vb_or(vb a, vb b) {
    return _mm256_or_si256(a, b);
}
/* In 16-bit units, so that bits of the neighbour come in: mask them. */
V_OP vb vb_shr(vb a, int n) {
    return (vb)((vec_u16)a >> n);
}
V_OP vb vb_shl(vb a, int n) {
    return (vb)((vec_u16)a << n);
}
V_OP vb vb_lookup(const uint8_t table[16], vb i) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table)), i);
}
/* a | value in the bytes whose mask bit is set: the 32 bits of rows r .. r + 7 spread over bytes, tested bit by bit. */
V_OP vb vb_or_masked(vb a, const uint8_t *mask, int r, int value) {
    int32_t k;
    memcpy(&k, mask + r / 2, 4);
    const vb spread = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const vb bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    vb m = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(k), spread), bit);
    return _mm256_or_si256(a, _mm256_and_si256(_mm256_cmpeq_epi8(m, bit), _mm256_set1_epi8((char)value)));
}

V_OP vi vi_bcast(const uint8_t *p) {
    int32_t c;
    memcpy(&c, p, 4);
    return _mm256_set1_epi32(c);
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
#ifndef TD_VNNI
    if (bits == 8) zero_log2 = 0; /* see vi_mac */
#endif
    (void)bits;
    if (zero_log2 == 0) return _mm256_setzero_si256();
    vec_i32 s = (vec_i32)vi_bcast(sum8);
    return (vi)(zero_log2 > 3 ? s << (zero_log2 - 3) : s >> (3 - zero_log2));
}

/* Line i of n of a dot product into s: codes w (u8) times activations a (i8). `part` is kept between the lines. */
#ifdef TD_VNNI
V_OP void vi_mac(vi *s, vi *part, vb w, vi a, int i, int n, int bits, int zero_log2, const uint8_t *sum8) {
    (void)part, (void)n;
    *s = _mm256_dpbusd_avx_epi32(i == 0 ? vi_dot_start(bits, zero_log2, sum8) : *s, w, a);
}
#else
/* Pairs of products fit 16 bits: 8 of them at 4 bits (8 * 2 * 15 * 127 = 30480), 4 at 5 bits, 2 at 6; only then do they
 * reach s, which takes no register before. Codes of 8 bits go as |w| * sign(a, w) with w = code - 128, which needs no
 * correction. */
V_OP void vi_mac(vi *s, vi *part, vb w, vi a, int i, int n, int bits, int zero_log2, const uint8_t *sum8) {
    const int most = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1, run = most < n ? most : n;
    vi p;
    if (bits == 8) {
        w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        p = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    } else {
        p = _mm256_maddubs_epi16(w, a);
    }
    *part = i % run == 0 ? p : _mm256_add_epi16(*part, p);
    __asm__("" : "+x"(*part)); /* gcc would add at the end, and keep all products in memory until then */
    if ((i + 1) % run != 0) return;
    *s = _mm256_add_epi32(i + 1 == run ? vi_dot_start(bits, zero_log2, sum8) : *s,
                          _mm256_madd_epi16(*part, _mm256_set1_epi16(1)));
}
#endif

/* Exact sum over n lines of codes (u8) * activations (i8), less 2^zero_log2 for each code. */
V_OP vi vi_dot(const vb *v, const uint8_t *q, int n, int bits, int zero_log2, const uint8_t *sum8) {
    vi s, part;
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) vi_mac(&s, &part, v[i], vi_bcast(q + 4 * i), i, n, bits, zero_log2, sum8);
    return s;
}

/* ---- for rows.h ---- */

V_OP vf vf_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_OP vf vf_sub(vf a, vf b) {
    return _mm256_sub_ps(a, b);
}
V_OP vf vf_div(vf a, vf b) {
    return _mm256_div_ps(a, b);
}
V_OP vf vf_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
} /* a > b ? a : b, NaN gives b */
V_OP vf vf_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
} /* a < b ? a : b */
V_OP vf vf_abs(vf a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
V_OP vf vf_less(vf a, vf b, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
V_OP vi vi_nearest(vf a) {
    return _mm256_cvtps_epi32(a);
} /* ties to even */
V_OP vi vi_half(vi a) {
    return _mm256_srai_epi32(a, 1);
}
V_OP vi vi_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
V_OP vf vf_pow2(vi n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
V_OP void vi_store_i8(uint8_t *p, vi a) {
    const vi low = _mm256_set1_epi64x(0x0c080400); /* the low bytes of four lanes, in each half */
    vi b = _mm256_shuffle_epi8(a, low);
    __m128i c = _mm_unpacklo_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    _mm_storel_epi64((__m128i *)(void *)p, c);
}
V_OP int vi_sum(vi a) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
V_OP vi vi_zero(void) {
    return _mm256_setzero_si256();
}
V_OP vi vi_add(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
V_OP float vf_tree_sum(vf a) { /* lanes i + i + 4, + 2, + 1 */
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
V_OP float vf_largest(vf a) {
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

#endif
