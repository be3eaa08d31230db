/* The plain operations, for the tables of sets that do not replace all of them. */
#ifndef TD_KERNELS_ATTENTION_REF_H
#define TD_KERNELS_ATTENTION_REF_H

#include "attention_ops.h"

extern const uint8_t td_attn_signs[16];

float td_attn_ref_exp(float x);
void td_attn_ref_rotate(float *x, uint32_t n, uint32_t g, bool inverse);
void td_attn_ref_keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile);
void td_attn_ref_values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                        int16_t *tile);
void td_attn_ref_turn(const int16_t *strip, uint32_t half, int16_t *tile);

/* Parts of the AVX-512 table (avx512/attention_tiles.c, avx512/attention_codes.c). */
void td_attn_avx512_keys(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile);
void td_attn_avx512_values(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                           int16_t *tile);
bool td_attn_avx512_score_codes(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half,
                                const attn_score_args *a);
bool td_attn_avx512_mix_codes(td_kv_type type, const attn_block *b, uint32_t strip, const attn_mix_args *a);
void td_attn_avx512_turn(const int16_t *strip, uint32_t half, int16_t *tile);

#endif
