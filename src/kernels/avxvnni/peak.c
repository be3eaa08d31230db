/* Peak of 8-bit products: independent accumulators, enough to fill the pipelines' latency. */
#include "../peak.h"

#include <immintrin.h>

enum { UNROLL = 12 };

uint64_t td_peak_int8_avxvnni(int64_t n, uint64_t *sink) {
    __m256i acc[UNROLL];
    for (int k = 0; k < UNROLL; k++) acc[k] = _mm256_setzero_si256();
    __m256i a = _mm256_set1_epi32(0x01020304), b = _mm256_set1_epi32(0x03010201);

    for (int64_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+x"(a), "+x"(b)); /* the products may not be hoisted out of the loop */
#pragma GCC unroll 12
        for (int k = 0; k < UNROLL; k++) acc[k] = _mm256_dpbusd_avx_epi32(acc[k], a, b);
    }
    int32_t out[8];
    for (int k = 0; k < UNROLL; k++) {
        _mm256_storeu_si256((void *)out, acc[k]);
        for (int j = 0; j < 8; j++) *sink += (uint64_t)(uint32_t)out[j];
    }
    return (uint64_t)n * UNROLL * 32;
}
