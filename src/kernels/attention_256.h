/* Attention with 256-bit vectors: the body shared by AVX2 and AVX-VNNI, which differ in MULTIPLY_ADD(acc, x, y): pairs
 * of 16-bit products added to 32 bits. Included by one file per instruction set, after <immintrin.h>.
 *
 * 2 rows by 32 lanes at a time: 8 accumulators, 4 vectors of the tile, 2 broadcasts of 16 registers. */
#ifndef TD_KERNELS_ATTENTION_256_H
#define TD_KERNELS_ATTENTION_256_H

#include "attention_256_rows.h"

/* acc[4 * r + c] += sum over steps of a[r][step] * b[step][lanes of c]. */
INLINE void dot(uint32_t n_row, const int16_t *a, size_t stride, const int16_t *b, uint32_t n_step, __m256i *acc) {
    for (uint32_t i = 0; i < n_step; i++) {
        __m256i x0 = pair(a + 2 * i), x1 = pair(a + (n_row > 1 ? stride : 0) + 2 * i);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < 4; c++) {
            __m256i y = load(b + (size_t)i * LANES + 16 * c);
            acc[c] = MULTIPLY_ADD(acc[c], x0, y);
            if (n_row > 1) acc[4 + c] = MULTIPLY_ADD(acc[4 + c], x1, y);
        }
    }
}

INLINE void score_n(uint32_t n_row, const attn_score_args *a, uint32_t r0) {
    __m256i acc[8];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) acc[i] = _mm256_setzero_si256();
    dot(n_row, (const int16_t *)a->q + (size_t)r0 * Q_STRIDE, Q_STRIDE, a->tile, a->n_dim / 2, acc);
#pragma GCC unroll 2
    for (uint32_t r = 0; r < n_row; r++) {
        __m256 q = _mm256_set1_ps(a->q_scale[r0 + r]);
#pragma GCC unroll 4
        for (uint32_t c = 0; c < 4; c++) {
            float *s = a->s + (size_t)(r0 + r) * W_STRIDE + 8 * c;
            __m256 x =
                _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc[4 * r + c]), q), _mm256_loadu_ps(a->scale + 8 * c));
            if (a->add) x = _mm256_add_ps(_mm256_loadu_ps(s), x);
            _mm256_storeu_ps(s, x);
        }
    }
}

static void score(const attn_score_args *a) {
    uint32_t r = 0;
    for (; r + 2 <= a->n_row; r += 2) score_n(2, a, r);
    if (r < a->n_row) score_n(1, a, r);
}

INLINE void mix_n(uint32_t n_row, const attn_mix_args *a, uint32_t r0) {
    float sum[2][HALF] __attribute__((aligned(32))) = {{0}};
    const int16_t *w = (const int16_t *)a->w + (size_t)r0 * W_STRIDE;
    for (uint32_t page = a->page0; page < a->page1; page++) {
        __m256i acc[8];
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) acc[i] = _mm256_setzero_si256();
        dot(n_row, w + (size_t)page * TD_ATTN_PAGE, W_STRIDE, a->strip[page], PAIRS, acc);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 4 * n_row; i++) {
            float *s = &sum[i / 4][i % 4 * 8];
            _mm256_store_ps(s, _mm256_add_ps(_mm256_load_ps(s), _mm256_cvtepi32_ps(acc[i])));
        }
    }
    for (uint32_t r = 0; r < n_row; r++) {
        if (a->beta[r0 + r] == 0.0f) continue;
        __m256 scale = _mm256_set1_ps(a->w_scale[r0 + r]), alpha = _mm256_set1_ps(a->alpha[r0 + r]);
        __m256 beta = _mm256_set1_ps(a->beta[r0 + r]);
        float *o = a->o + (size_t)(r0 + r) * a->ldo;
        for (uint32_t c = 0; c < HALF; c += 8) {
            __m256 x = _mm256_mul_ps(_mm256_load_ps(&sum[r][c]), scale);
            _mm256_storeu_ps(o + c, _mm256_fmadd_ps(x, beta, _mm256_mul_ps(_mm256_loadu_ps(o + c), alpha)));
        }
    }
}

static void mix(const attn_mix_args *a) {
    uint32_t r = 0;
    for (; r + 2 <= a->n_row; r += 2) mix_n(2, a, r);
    if (r < a->n_row) mix_n(1, a, r);
}

static void score_f32(const attn_score_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        const float *q = (const float *)a->q + (size_t)r * Q_STRIDE, *t = a->tile;
        __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (uint32_t i = 0; i < a->n_dim; i++) {
            __m256 x = _mm256_set1_ps(q[i]);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) s[c] = _mm256_fmadd_ps(x, _mm256_loadu_ps(t + (size_t)i * HALF + 8 * c), s[c]);
        }
        for (int c = 0; c < 4; c++) {
            float *to = a->s + (size_t)r * W_STRIDE + 8 * c;
            _mm256_storeu_ps(to, a->add ? _mm256_add_ps(_mm256_loadu_ps(to), s[c]) : s[c]);
        }
    }
}

static void mix_f32(const attn_mix_args *a) {
    for (uint32_t r = 0; r < a->n_row; r++) {
        if (a->beta[r] == 0.0f) continue;
        const float *w = (const float *)a->w + (size_t)r * W_STRIDE;
        __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (uint32_t j = a->begin; j < a->end; j++) {
            const float *v = (const float *)a->strip[j / TD_ATTN_PAGE] + (size_t)(j % TD_ATTN_PAGE) * HALF;
            __m256 x = _mm256_set1_ps(w[j]);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) s[c] = _mm256_fmadd_ps(x, _mm256_loadu_ps(v + 8 * c), s[c]);
        }
        float *o = a->o + (size_t)r * a->ldo;
        __m256 alpha = _mm256_set1_ps(a->alpha[r]), beta = _mm256_set1_ps(a->beta[r]);
        for (int c = 0; c < 4; c++)
            _mm256_storeu_ps(o + 8 * c, _mm256_fmadd_ps(s[c], beta, _mm256_mul_ps(_mm256_loadu_ps(o + 8 * c), alpha)));
    }
}

/* --- tiles ----------------------------------------------------------------------------------------------------------
 */

/* Look-up of 16-bit levels by byte shuffles: low and high bytes from two tables, each in its byte of the lane. */
typedef struct levels {
    __m256i low, high;
} levels;

INLINE levels levels_of(const attn_format *f) {
    uint8_t lo[16], hi[16];
    for (uint32_t i = 0; i < 16; i++) {
        uint16_t t = (uint16_t)f->table[i & ((1u << f->bits) - 1u)];
        lo[i] = (uint8_t)t;
        hi[i] = (uint8_t)(t >> 8);
    }
    levels l = {.low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)lo))};
    l.high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)hi));
    return l;
}

INLINE __m256i look_up(levels l, __m256i code) { /* code: 0 .. 15 in each lane */
    __m256i lo = _mm256_shuffle_epi8(l.low, _mm256_or_si256(code, _mm256_set1_epi16((short)0x8000)));
    __m256i hi = _mm256_shuffle_epi8(l.high, _mm256_or_si256(_mm256_slli_epi16(code, 8), _mm256_set1_epi16(0x80)));
    return _mm256_or_si256(lo, hi);
}

/* Code n of a lane; `w`: one vector, or three `triple` words apart. */
INLINE __m256i code_of(uint32_t bits, uint32_t n, const uint16_t *w, size_t triple) {
    if (bits == 3 && n == 15) {
        __m256i b0 = _mm256_srli_epi16(load(w), 15), b1 = _mm256_srli_epi16(load(w + triple), 15);
        __m256i b2 = _mm256_srli_epi16(load(w + 2 * triple), 15);
        return _mm256_or_si256(b0, _mm256_or_si256(_mm256_slli_epi16(b1, 1), _mm256_slli_epi16(b2, 2)));
    }
    uint32_t shift = bits == 3 ? n % 5 * 3 : n * bits;
    __m256i x = load(w + (bits == 3 ? n / 5 * triple : 0));
    x = _mm256_srl_epi16(x, _mm_cvtsi32_si128((int)shift));
    return _mm256_and_si256(x, _mm256_set1_epi16((short)((1u << bits) - 1u)));
}

INLINE __m256i twice(const uint16_t *r) { /* 8 factors, each for two lanes */
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)r));
    return _mm256_or_si256(x, _mm256_slli_epi32(x, 16));
}

/* 64 codes of 8 bits times factors r[4] of their 16 lanes. */
INLINE void row_8(const uint8_t *c, int16_t *to, const __m256i *r) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i x = load(c), y = load(c + 32);
    store(to, _mm256_mulhrs_epi16(_mm256_unpacklo_epi8(zero, x), r[0]));
    store(to + 16, _mm256_mulhrs_epi16(_mm256_unpacklo_epi8(zero, y), r[1]));
    store(to + 32, _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(zero, x), r[2]));
    store(to + 48, _mm256_mulhrs_epi16(_mm256_unpackhi_epi8(zero, y), r[3]));
}

static void keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    if (f->bits >= 16) {
        td_attn_ref_keys(type, b, block, half, tile);
        return;
    }
    uint32_t steps = b->n / 2, per_row = f->bits == 8 ? 1 : f->bits == 3 ? 16 : 16u / f->bits;
    uint32_t words = f->bits == 3 ? 3 : 1, rows = steps / per_row;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor) + half * HALF;
    levels l = f->bits < 8 ? levels_of(f) : (levels){.low = _mm256_setzero_si256(), .high = _mm256_setzero_si256()};
    for (uint32_t row = 0; row < rows; row++) {
        const uint16_t *from = factor + (size_t)(row * per_row) / (b->group / 2) * TD_ATTN_PAGE;
        __m256i r[4] = {twice(from), twice(from + 8), twice(from + 16), twice(from + 24)};
        int16_t *to = tile + (size_t)row * per_row * LANES;
        if (f->bits == 8) {
            row_8(block + ((size_t)half * steps + row) * LANES, to, r);
            continue;
        }
        const uint16_t *w = (const uint16_t *)(const void *)block + ((size_t)half * rows + row) * words * LANES;
        for (uint32_t n = 0; n < per_row; n++) {
            for (uint32_t c = 0; c < 4; c++)
                store(to + (size_t)n * LANES + 16 * c,
                      _mm256_mulhrs_epi16(look_up(l, code_of(f->bits, n, w + 16 * c, LANES)), r[c]));
        }
    }
}

static void values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                   int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    if (f->bits >= 16) {
        td_attn_ref_values(type, b, block, strip0, strip1, tile);
        return;
    }
    uint32_t per_row = f->bits == 3 ? 16 : 16u / f->bits, words = f->bits == 3 ? 3 : 1;
    levels l = f->bits < 8 ? levels_of(f) : (levels){.low = _mm256_setzero_si256(), .high = _mm256_setzero_si256()};
    for (uint32_t strip = strip0; strip < strip1; strip++) {
        const int16_t *factor =
            (const int16_t *)(const void *)(block + b->factor) + (size_t)(strip * HALF / b->group) * TD_ATTN_PAGE;
        for (uint32_t p = 0; p < PAIRS; p++, tile += LANES) {
            __m256i x = pair(factor + 2 * p), r[4] = {x, x, x, x};
            if (f->bits == 8) {
                row_8(block + ((size_t)strip * PAIRS + p) * LANES, tile, r);
                continue;
            }
            for (uint32_t side = 0; side < 2; side++) {
                uint32_t run = 2 * strip + side;
                const uint16_t *w =
                    (const uint16_t *)(const void *)block + ((size_t)(run / per_row) * PAIRS + p) * words * 32;
                for (uint32_t c = 0; c < 2; c++)
                    store(tile + 32 * side + 16 * c,
                          _mm256_mulhrs_epi16(look_up(l, code_of(f->bits, run % per_row, w + 16 * c, 32)), x));
            }
        }
    }
}

#define TD_ATTN_OPS_256(set)                                                                                           \
    {                                                                                                                  \
        .name = (set), .quantise = quantise, .rotate = td_attn_ref_rotate, .match = fit_match, .codes = fit_codes,     \
        .error_8 = fit_error_8, .codes_8 = fit_codes_8, .keys = keys, .values = values, .turn = td_attn_ref_turn,      \
        .score = score, .score_f32 = score_f32, .soft = soft, .soft_f32 = soft_f32, .mix = mix, .mix_f32 = mix_f32,    \
        .fold = fold, .scale = scale, .exp = td_attn_ref_exp                                                           \
    }

#endif
