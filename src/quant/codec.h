/* Encode and decode functions behind the type table; only src/quant includes this. */
#ifndef TD_QUANT_CODEC_H
#define TD_QUANT_CODEC_H

#include "types.h"

void td_decode_f32(const void *src, float *dst, int64_t n);
void td_decode_f16(const void *src, float *dst, int64_t n);
void td_decode_bf16(const void *src, float *dst, int64_t n);
void td_decode_q4_0(const void *src, float *dst, int64_t n);
void td_decode_q4_1(const void *src, float *dst, int64_t n);
void td_decode_q5_0(const void *src, float *dst, int64_t n);
void td_decode_q5_1(const void *src, float *dst, int64_t n);
void td_decode_q8_0(const void *src, float *dst, int64_t n);
void td_decode_q2_k(const void *src, float *dst, int64_t n);
void td_decode_q3_k(const void *src, float *dst, int64_t n);
void td_decode_q4_k(const void *src, float *dst, int64_t n);
void td_decode_q5_k(const void *src, float *dst, int64_t n);
void td_decode_q6_k(const void *src, float *dst, int64_t n);
void td_decode_iq4_nl(const void *src, float *dst, int64_t n);
void td_decode_iq4_xs(const void *src, float *dst, int64_t n);
void td_decode_mxfp4(const void *src, float *dst, int64_t n);
void td_decode_nvfp4(const void *src, float *dst, int64_t n);
void td_decode_tq3_1s(const void *src, float *dst, int64_t n);
void td_decode_tq4_1s(const void *src, float *dst, int64_t n);
void td_decode_turbo2(const void *src, float *dst, int64_t n);
void td_decode_turbo3(const void *src, float *dst, int64_t n);
void td_decode_turbo4(const void *src, float *dst, int64_t n);

void td_encode_f32(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_f16(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_bf16(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q4_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q4_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q5_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q5_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q8_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q8_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q8_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q2_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q3_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q4_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q5_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_q6_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_iq4_nl(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
/* Without search: the writer of caches, where each token is encoded once and at once. */
void td_encode_iq4_nl_fast(const float *src, void *dst, int64_t n);
void td_encode_iq4_xs(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_mxfp4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_nvfp4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_tq3_1s(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_tq4_1s(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_turbo2(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_turbo3(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);
void td_encode_turbo4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix);

/* The 16 values an IQ4 code stands for. */
extern const int8_t td_iq4_values[16];
/* E2M1 doubled. */
extern const int8_t td_fp4_values[16];

float td_e8m0_half(uint8_t e);  /* 2^(e - 128) */
float td_ue4m3_half(uint8_t x); /* half the value of an unsigned e4m3 */

#endif
