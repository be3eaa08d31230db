/* Attention with AVX-VNNI (see attention_256.h): one instruction where AVX2 has two. */
#include <immintrin.h>

#define MULTIPLY_ADD(acc, x, y) _mm256_dpwssd_avx_epi32(acc, x, y)

#include "../attention_256.h"

const attn_ops td_attn_ops_avxvnni = TD_ATTN_OPS_256("avxvnni");
