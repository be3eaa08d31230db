/* What each instruction set puts into the table; called in ascending order by kernels.c, later ones override. */
#ifndef TD_KERNELS_LEVELS_H
#define TD_KERNELS_LEVELS_H

#include "kernels.h"

void td_ref_tiles(td_kernels *k);
void td_ref_rows(td_kernels *k);
#if defined(__x86_64__)
void td_avx2_tiles(td_kernels *k);
void td_avx2_tiles_k(td_kernels *k);
void td_avx2_rect(td_kernels *k);
void td_avx2_rows(td_kernels *k);
void td_avxvnni_tiles(td_kernels *k);
void td_avxvnni_tiles_k(td_kernels *k);
void td_avxvnni_rect(td_kernels *k);
void td_avx512_tiles(td_kernels *k);
void td_avx512_tiles_k(td_kernels *k);
void td_avx512_pairs(td_kernels *k);
void td_avx512_rect(td_kernels *k);
void td_avx512_rows(td_kernels *k);
#elif defined(__aarch64__)
void td_neon_tiles(td_kernels *k);
void td_neon_tiles_k(td_kernels *k);
void td_neon_rect(td_kernels *k);
void td_neon_rows(td_kernels *k);
void td_i8mm_tiles(td_kernels *k);
void td_i8mm_tiles_k(td_kernels *k);
void td_i8mm_rect(td_kernels *k);
#endif

#endif
