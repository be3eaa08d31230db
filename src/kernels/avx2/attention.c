/* Attention with AVX2 (see attention_256.h): products of pairs, then a sum. */
#include <immintrin.h>

#define MULTIPLY_ADD(acc, x, y) _mm256_add_epi32(acc, _mm256_madd_epi16(x, y))

#include "../attention_256.h"

const attn_ops td_attn_ops_avx2 = TD_ATTN_OPS_256("avx2");
