/* Products on AArch64 with i8mm, types with blocks of 256 values (tiles.c has the others). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../tile_mm.h"

#define FORM(form)                                                                                                     \
    TD_TILE_MM(form, 2)                                                                                                \
    TD_TILE_MM(form, 3)                                                                                                \
    TD_TILE_MM(form, 4) TD_TILE_MM(form, 5) TD_TILE_MM(form, 6) TD_TILE_MM(form, 7) TD_TILE_MM(form, 8)

FORM(Q2_K)
FORM(Q3_K)
FORM(Q4_K)
FORM(Q5_K)
FORM(Q6_K)
FORM(IQ4_XS)

#define ENTRY(form)                                                                                                    \
    {                                                                                                                  \
        static const td_tile_fn list[] = {tile_##form##_2, tile_##form##_3, tile_##form##_4, tile_##form##_5,          \
                                          tile_##form##_6, tile_##form##_7, tile_##form##_8};                          \
        memcpy(k->tile[TD_FORM_##form] + 2, list, sizeof list);                                                        \
    }

void td_i8mm_tiles_k(td_kernels *k) {
    ENTRY(Q2_K)
    ENTRY(Q3_K)
    ENTRY(Q4_K)
    ENTRY(Q5_K)
    ENTRY(Q6_K)
    ENTRY(IQ4_XS)
}
