/* The most 8-bit multiply-adds a core can do with the instructions in use: what `tandem bench` sets prefill against. */
#ifndef TD_KERNELS_PEAK_H
#define TD_KERNELS_PEAK_H

#include <stdint.h>

/* Runs `n` rounds of independent products in registers; returns multiply-adds done. *sink keeps the work alive. */
uint64_t td_peak_int8(int64_t n, uint64_t *sink);

/* One per instruction-set file. */
uint64_t td_peak_int8_avx512(int64_t n, uint64_t *sink);
uint64_t td_peak_int8_avxvnni(int64_t n, uint64_t *sink);
uint64_t td_peak_int8_avx2(int64_t n, uint64_t *sink);

#endif
