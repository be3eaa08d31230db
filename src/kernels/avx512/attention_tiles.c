/* Tiles of 16-bit integers from coded cache pages, with AVX-512.
 *
 * vpermw looks 32 codes up at once and reads only the low five bits of each lane, so that a code needs no masking when
 * its table is repeated to 32 entries: 4-bit codes cost a shift and a look-up per 32 values. Five 3-bit codes lie in a
 * word; the sixteenth of a group is gathered from the highest bits of three words. */
#include "attention_common.h"

static void keys_8(const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile) {
    const __m512i zero = _mm512_setzero_si512();
    uint32_t steps = b->n / 2, per_group = b->group / 2;
    const uint8_t *c = block + (size_t)half * steps * LANES;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor) + half * HALF;
    for (uint32_t step = 0; step < steps;) {
        const uint16_t *r = factor + (size_t)step / per_group * TD_ATTN_PAGE;
        __m512i r0 = twice(r), r1 = twice(r + 16);
        for (uint32_t end = step + per_group; step < end; step++, c += LANES, tile += LANES) {
            __m512i x = load(c);
            _mm512_storeu_si512(tile, _mm512_mulhrs_epi16(_mm512_unpacklo_epi8(zero, x), r0));
            _mm512_storeu_si512(tile + 32, _mm512_mulhrs_epi16(_mm512_unpackhi_epi8(zero, x), r1));
        }
    }
}

INLINE void keys_words(uint32_t bits, const attn_format *f, const attn_block *b, const uint8_t *block, uint32_t half,
                       int16_t *tile) {
    const uint32_t per_word = bits == 3 ? 16 : 16 / bits, words = bits == 3 ? 3 : 1;
    uint32_t steps = b->n / 2, rows = steps / per_word, per_group = b->group / 2;
    const uint16_t *w = (const uint16_t *)(const void *)block + (size_t)half * rows * words * LANES;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor) + half * HALF;
    __m512i table = table_of(f);
    for (uint32_t row = 0; row < rows; row++, w += words * LANES) {
        const uint16_t *r = factor + (size_t)(row * per_word) / per_group * TD_ATTN_PAGE;
        for (uint32_t side = 0; side < 2; side++) {
            __m512i x[3], rr = twice(r + 16 * side);
#pragma GCC unroll 3
            for (uint32_t k = 0; k < words; k++) x[k] = load(w + k * LANES + 32 * side);
#pragma GCC unroll 16
            for (uint32_t n = 0; n < per_word; n++) {
                __m512i v = _mm512_permutexvar_epi16(code_at(bits, n, x), table);
                _mm512_storeu_si512(tile + ((size_t)row * per_word + n) * LANES + 32 * side,
                                    _mm512_mulhrs_epi16(v, rr));
            }
        }
    }
}

void td_attn_avx512_keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    switch (f->bits) {
    case 8:
        keys_8(b, block, half, tile);
        break;
    case 4:
        keys_words(4, f, b, block, half, tile);
        break;
    case 3:
        keys_words(3, f, b, block, half, tile);
        break;
    case 2:
        keys_words(2, f, b, block, half, tile);
        break;
    default:
        td_attn_ref_keys(type, b, block, half, tile);
    }
}

static void values_8(const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1, int16_t *tile) {
    const __m512i zero = _mm512_setzero_si512();
    const uint8_t *c = block + (size_t)strip0 * PAIRS * LANES;
    for (uint32_t strip = strip0; strip < strip1; strip++) {
        const uint16_t *r =
            (const uint16_t *)(const void *)(block + b->factor) + (size_t)(strip * HALF / b->group) * TD_ATTN_PAGE;
        for (uint32_t p = 0; p < PAIRS; p++, c += LANES, tile += LANES) {
            __m512i rr = factors(r + 2 * p);
            __m512i x = load(c);
            _mm512_storeu_si512(tile, _mm512_mulhrs_epi16(_mm512_unpacklo_epi8(zero, x), rr));
            _mm512_storeu_si512(tile + 32, _mm512_mulhrs_epi16(_mm512_unpackhi_epi8(zero, x), rr));
        }
    }
}

/* Runs are groups of 16 dimensions: two to a strip, per_word to a row of words. */
INLINE void values_words(uint32_t bits, const attn_format *f, const attn_block *b, const uint8_t *block,
                         uint32_t strip0, uint32_t strip1, int16_t *tile) {
    const uint32_t per_word = bits == 3 ? 16 : 16 / bits, words = bits == 3 ? 3 : 1;
    const uint16_t *factor = (const uint16_t *)(const void *)(block + b->factor);
    __m512i table = table_of(f);
    for (uint32_t run = 2 * strip0; run < 2 * strip1; run += per_word) {
        const uint16_t *w = (const uint16_t *)(const void *)block + (size_t)(run / per_word) * PAIRS * words * 32;
        uint32_t n_run = 2 * strip1 - run;
        for (uint32_t p = 0; p < PAIRS; p++, w += words * 32) {
            __m512i x[3];
#pragma GCC unroll 3
            for (uint32_t k = 0; k < words; k++) x[k] = load(w + k * 32);
#pragma GCC unroll 16
            for (uint32_t n = 0; n < per_word; n++) {
                if (n >= n_run) break;
                __m512i rr = factors(factor + (size_t)((run + n) * 16 / b->group) * TD_ATTN_PAGE + 2 * p);
                __m512i v = _mm512_permutexvar_epi16(code_at(bits, n, x), table);
                uint32_t at = run + n - 2 * strip0;
                _mm512_storeu_si512(tile + ((size_t)(at / 2) * PAIRS + p) * LANES + (at & 1) * 32,
                                    _mm512_mulhrs_epi16(v, rr));
            }
        }
    }
}

void td_attn_avx512_values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                           int16_t *tile) {
    const attn_format *f = td_attn_format(type);
    switch (f->bits) {
    case 8:
        values_8(b, block, strip0, strip1, tile);
        break;
    case 4:
        values_words(4, f, b, block, strip0, strip1, tile);
        break;
    case 3:
        values_words(3, f, b, block, strip0, strip1, tile);
        break;
    case 2:
        values_words(2, f, b, block, strip0, strip1, tile);
        break;
    default:
        td_attn_ref_values(type, b, block, strip0, strip1, tile);
    }
}

/* 8 x 8 quadwords, rows to columns. */
INLINE void transpose_8(__m512i *x) {
    __m512i y[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) { /* y[i], y[i + 2], y[i + 4], y[i + 6]: columns i, i + 2, i + 4, i + 6 of row pairs */
        __m512i a = _mm512_shuffle_i64x2(y[i], y[i + 2], 0x88), b = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0x88);
        __m512i c = _mm512_shuffle_i64x2(y[i], y[i + 2], 0xdd), d = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0xdd);
        x[i] = _mm512_shuffle_i64x2(a, b, 0x88);
        x[i + 4] = _mm512_shuffle_i64x2(a, b, 0xdd);
        x[i + 2] = _mm512_shuffle_i64x2(c, d, 0x88);
        x[i + 6] = _mm512_shuffle_i64x2(c, d, 0xdd);
    }
}

/* Four words of a quadword are two positions of two dimensions; swapping the middle ones makes them two dimensions of
 * two positions, and the rest is a transposition of quadwords. */
void td_attn_avx512_turn(const int16_t *strip, uint32_t half, int16_t *tile) {
    const __m512i swap = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    strip += (size_t)half * PAIRS / 2 * LANES;
    for (uint32_t p = 0; p < PAIRS / 2; p += 8) {
        for (uint32_t side = 0; side < 2; side++) {
            __m512i x[8];
#pragma GCC unroll 8
            for (uint32_t i = 0; i < 8; i++) {
                const int16_t *from = strip + (size_t)(p + i) * LANES + 32 * side;
                x[i] = _mm512_shuffle_epi8(load(from), swap);
            }
            transpose_8(x);
            int16_t *to = tile + (size_t)side * 8 * LANES + (size_t)p * 4;
#pragma GCC unroll 8
            for (uint32_t i = 0; i < 8; i++) _mm512_storeu_si512(to + (size_t)i * LANES, x[i]);
        }
    }
}
