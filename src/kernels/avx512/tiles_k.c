/* Products on AVX-512 VNNI, types with blocks of 256 values (tiles.c has the others). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../tile.h"

#define FORM(form)                                                                                                     \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3)                                                                                                   \
    TD_TILE(form, 4) TD_TILE(form, 5) TD_TILE(form, 6) TD_TILE(form, 7) TD_TILE(form, 8)

FORM(Q2_K)
FORM(Q3_K)
FORM(Q4_K)
FORM(Q5_K)
FORM(Q6_K)
FORM(IQ4_XS)

#define ENTRY(form)                                                                                                    \
    {                                                                                                                  \
        static const td_tile_fn list[TD_TILES] = TD_TILE_LIST(form);                                                   \
        memcpy(k->tile[TD_FORM_##form], list, sizeof list);                                                            \
    }

void td_avx512_tiles_k(td_kernels *k) {
    ENTRY(Q2_K)
    ENTRY(Q3_K)
    ENTRY(Q4_K)
    ENTRY(Q5_K)
    ENTRY(Q6_K)
    ENTRY(IQ4_XS)
}
