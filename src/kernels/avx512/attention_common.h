/* Pieces shared by the AVX-512 files of attention. */
#ifndef TD_KERNELS_AVX512_ATTENTION_COMMON_H
#define TD_KERNELS_AVX512_ATTENTION_COMMON_H

#include "../attention_ref.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef __clang__
typedef unsigned imm_t; /* type of a shift count in the intrinsics */
#else
typedef int imm_t;
#endif

INLINE __m512i table_of(const attn_format *f) { /* repeated to 32 entries */
    int16_t t[32];
    for (uint32_t i = 0; i < 32; i++) t[i] = f->table[i & ((1u << f->bits) - 1u)];
    return _mm512_loadu_si512(t);
}

INLINE __m512i load(const void *p) {
    return _mm512_loadu_si512(p);
}

/* Code `n` of a row of words, in the low bits of each lane. `w` are the 1 or 3 words of the lane. */
INLINE __m512i code_at(uint32_t bits, uint32_t n, const __m512i *w) {
    if (bits != 3) return _mm512_srli_epi16(w[0], (imm_t)(n * bits));
    if (n < 15) return _mm512_srli_epi16(w[n / 5], (imm_t)(n % 5 * 3));
    __m512i b0 = _mm512_srli_epi16(w[0], 15), b1 = _mm512_srli_epi16(w[1], 15), b2 = _mm512_srli_epi16(w[2], 15);
    return _mm512_or_si512(b0, _mm512_or_si512(_mm512_slli_epi16(b1, 1), _mm512_slli_epi16(b2, 2)));
}

INLINE __m512i twice(const uint16_t *r) { /* 16 factors, each for two lanes */
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)r));
    return _mm512_or_si512(x, _mm512_slli_epi32(x, 16));
}

INLINE __m512i factors(const uint16_t *r) { /* of two positions, alternating */
    int32_t x;
    memcpy(&x, r, sizeof x);
    return _mm512_set1_epi32(x);
}

INLINE __m512i pair(const int16_t *p) { /* two 16-bit values to all lanes */
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* Bytes to fetch before they are needed: a strip of values, or 32 steps of keys, about the latency of memory. */
enum { AHEAD = 4096 };

/* acc += x * y. As an instruction, because gcc 12 copies the accumulators of the intrinsic through other registers
 * (three times slower here). */
INLINE void multiply_add(__m512i *acc, __m512i x, __m512i y) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*acc) : "v"(x), "v"(y));
}

/* Scores of n_row rows from the sums of 32 positions: acc[2 * row + half of the lanes]. */
INLINE void put_scores(uint32_t n_row, const attn_score_args *a, uint32_t r0, const __m512i *acc) {
    __m512 k0 = _mm512_loadu_ps(a->scale), k1 = _mm512_loadu_ps(a->scale + 16);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < n_row; r++) {
        __m512 q = _mm512_set1_ps(a->q_scale[r0 + r]);
        float *s = a->s + (size_t)(r0 + r) * W_STRIDE;
        __m512 s0 = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[2 * r]), q), k0);
        __m512 s1 = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[2 * r + 1]), q), k1);
        if (a->add) {
            s0 = _mm512_add_ps(_mm512_loadu_ps(s), s0);
            s1 = _mm512_add_ps(_mm512_loadu_ps(s + 16), s1);
        }
        _mm512_storeu_ps(s, s0);
        _mm512_storeu_ps(s + 16, s1);
    }
}

/* The weighted sums of a strip joined to the output. */
INLINE void put_mix(uint32_t n_row, const attn_mix_args *a, uint32_t r0, const __m512 *sum) {
#pragma GCC unroll 8
    for (uint32_t r = 0; r < n_row; r++) {
        if (a->beta[r0 + r] == 0.0f) continue;
        __m512 scale = _mm512_set1_ps(a->w_scale[r0 + r]), alpha = _mm512_set1_ps(a->alpha[r0 + r]);
        __m512 beta = _mm512_set1_ps(a->beta[r0 + r]);
        float *o = a->o + (size_t)(r0 + r) * a->ldo;
#pragma GCC unroll 2
        for (uint32_t c = 0; c < 2; c++) {
            __m512 x = _mm512_mul_ps(sum[2 * r + c], scale), y = _mm512_mul_ps(_mm512_loadu_ps(o + 16 * c), alpha);
            _mm512_storeu_ps(o + 16 * c, _mm512_fmadd_ps(x, beta, y));
        }
    }
}

#endif
