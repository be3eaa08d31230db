/* Attention on coded pages without a tile, with AVX-512: for the rows of one token (4 or 8 heads), where writing
 * integers to memory and reading them back would cost more than the sums. Codes become 16-bit integers in registers,
 * two vectors a step, and meet the rows there; the integers are those of the tiles, so the sums are the same bits. */
#include "attention_common.h"

INLINE void step(uint32_t n_row, const int16_t *a, size_t stride, __m512i b0, __m512i b1, __m512i *acc) {
#pragma GCC unroll 8
    for (uint32_t r = 0; r < n_row; r++) {
        __m512i x = pair(a + r * stride);
        multiply_add(&acc[2 * r], x, b0);
        multiply_add(&acc[2 * r + 1], x, b1);
    }
}

INLINE void score_rows(uint32_t bits, uint32_t n_row, td_kv_type type, const attn_block *b, const uint8_t *block,
                       uint32_t half, const attn_score_args *a) {
    const uint32_t per_word = bits == 8 ? 1 : bits == 3 ? 16 : 16 / bits, words = bits == 3 ? 3 : 1;
    const __m512i zero = _mm512_setzero_si512(), table = bits == 8 ? zero : table_of(td_attn_format(type));
    uint32_t rows = b->n / 2 / per_word, per_group = b->group / 2 / per_word;
    size_t row_bytes = bits == 8 ? LANES : (size_t)words * LANES * 2;
    const uint8_t *c = block + (size_t)half * rows * row_bytes;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor) + half * HALF;
    const int16_t *q = a->q;
    __m512i acc[2 * GROUP_ROWS];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 2 * n_row; i++) acc[i] = zero;
    for (uint32_t row = 0; row < rows; factor += TD_ATTN_PAGE) {
        __m512i r0 = twice(factor), r1 = twice(factor + 16);
        for (uint32_t end = row + per_group; row < end; row++, c += row_bytes, q += 2 * per_word) {
            if (bits == 8) {
                __m512i x = load(c);
                _mm_prefetch((const char *)c + AHEAD, _MM_HINT_T0);
                step(n_row, q, Q_STRIDE, _mm512_mulhrs_epi16(_mm512_unpacklo_epi8(zero, x), r0),
                     _mm512_mulhrs_epi16(_mm512_unpackhi_epi8(zero, x), r1), acc);
                continue;
            }
            __m512i x[3], y[3];
#pragma GCC unroll 3
            for (uint32_t k = 0; k < words; k++) {
                x[k] = load(c + k * LANES * 2);
                y[k] = load(c + k * LANES * 2 + LANES);
                _mm_prefetch((const char *)c + AHEAD + k * LANES * 2, _MM_HINT_T0);
                _mm_prefetch((const char *)c + AHEAD + k * LANES * 2 + LANES, _MM_HINT_T0);
            }
#pragma GCC unroll 16
            for (uint32_t n = 0; n < per_word; n++) {
                __m512i b0 = _mm512_permutexvar_epi16(code_at(bits, n, x), table);
                __m512i b1 = _mm512_permutexvar_epi16(code_at(bits, n, y), table);
                step(n_row, q + 2 * n, Q_STRIDE, _mm512_mulhrs_epi16(b0, r0), _mm512_mulhrs_epi16(b1, r1), acc);
            }
        }
    }
    put_scores(n_row, a, 0, acc);
}

/* Codes n and n + 1 of a row of words, n known at run time. */
INLINE void two_codes(uint32_t bits, uint32_t n, const uint8_t *w, __m512i *c0, __m512i *c1) {
    if (bits != 3) {
        __m512i x = load(w);
        *c0 = _mm512_srlv_epi16(x, _mm512_set1_epi16((short)(n * bits)));
        *c1 = _mm512_srlv_epi16(x, _mm512_set1_epi16((short)((n + 1) * bits)));
        return;
    }
    *c0 = _mm512_srlv_epi16(load(w + n / 5 * LANES), _mm512_set1_epi16((short)(n % 5 * 3)));
    if (n == 14) {
        __m512i x[3] = {load(w), load(w + LANES), load(w + 2 * LANES)};
        *c1 = code_at(3, 15, x);
    } else {
        *c1 = _mm512_srlv_epi16(load(w + (n + 1) / 5 * LANES), _mm512_set1_epi16((short)((n + 1) % 5 * 3)));
    }
}

INLINE void mix_rows(uint32_t bits, uint32_t n_row, td_kv_type type, const attn_block *b, uint32_t strip,
                     const attn_mix_args *a) {
    const uint32_t per_word = bits == 8 ? 2 : bits == 3 ? 16 : 16 / bits, words = bits == 3 ? 3 : 1;
    const __m512i zero = _mm512_setzero_si512(), table = bits == 8 ? zero : table_of(td_attn_format(type));
    uint32_t run = 2 * strip, n = run % per_word;
    size_t row_bytes = (size_t)words * 64, at = (size_t)(run / per_word) * PAIRS * row_bytes;
    size_t group = (size_t)(strip * HALF / b->group) * TD_ATTN_PAGE;
    __m512 sum[2 * GROUP_ROWS];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 2 * n_row; i++) sum[i] = _mm512_setzero_ps();
    for (uint32_t page = a->page0; page < a->page1; page++) {
        const uint8_t *block = a->strip[page], *c = block + at;
        const uint8_t *next = c + PAIRS * row_bytes; /* wanted when the strips of these words are done */
        const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor) + group;
        const int16_t *w = (const int16_t *)a->w + (size_t)page * TD_ATTN_PAGE;
        __m512i acc[2 * GROUP_ROWS];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 2 * n_row; i++) acc[i] = zero;
        for (uint32_t p = 0; p < PAIRS; p++, c += row_bytes, next += row_bytes) {
            __m512i b0, b1, r = factors(factor + 2 * p);
            if (n + 2 >= per_word) {
#pragma GCC unroll 3
                for (uint32_t k = 0; k < words; k++) _mm_prefetch((const char *)next + 64 * k, _MM_HINT_T0);
            }
            if (bits == 8) {
                __m512i x = load(c);
                b0 = _mm512_unpacklo_epi8(zero, x);
                b1 = _mm512_unpackhi_epi8(zero, x);
            } else {
                two_codes(bits, n, c, &b0, &b1);
                b0 = _mm512_permutexvar_epi16(b0, table);
                b1 = _mm512_permutexvar_epi16(b1, table);
            }
            step(n_row, w + 2 * p, W_STRIDE, _mm512_mulhrs_epi16(b0, r), _mm512_mulhrs_epi16(b1, r), acc);
        }
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 2 * n_row; i++) sum[i] = _mm512_add_ps(sum[i], _mm512_cvtepi32_ps(acc[i]));
    }
    put_mix(n_row, a, 0, sum);
}

#define CASES(fn, ...)                                                                                                 \
    switch (td_attn_format(type)->bits * 16u + a->n_row) {                                                             \
    case 8 * 16 + 8:                                                                                                   \
        fn(8, 8, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 8 * 16 + 4:                                                                                                   \
        fn(8, 4, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 4 * 16 + 8:                                                                                                   \
        fn(4, 8, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 4 * 16 + 4:                                                                                                   \
        fn(4, 4, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 3 * 16 + 8:                                                                                                   \
        fn(3, 8, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 3 * 16 + 4:                                                                                                   \
        fn(3, 4, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 2 * 16 + 8:                                                                                                   \
        fn(2, 8, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    case 2 * 16 + 4:                                                                                                   \
        fn(2, 4, __VA_ARGS__);                                                                                         \
        return true;                                                                                                   \
    default:                                                                                                           \
        return false;                                                                                                  \
    }

bool td_attn_avx512_score_codes(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half,
                                const attn_score_args *a) {
    CASES(score_rows, type, b, block, half, a)
}

bool td_attn_avx512_mix_codes(td_kv_type type, const attn_block *b, uint32_t strip, const attn_mix_args *a) {
    CASES(mix_rows, type, b, strip, a)
}
