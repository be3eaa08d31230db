/* Products on AArch64 with i8mm, 2 to 8 rows of activations (one row: neon/). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../tile_mm.h"

#define FORM(form)                                                                                                     \
    TD_TILE_MM(form, 2)                                                                                                \
    TD_TILE_MM(form, 3)                                                                                                \
    TD_TILE_MM(form, 4) TD_TILE_MM(form, 5) TD_TILE_MM(form, 6) TD_TILE_MM(form, 7) TD_TILE_MM(form, 8)

FORM(Q4_0)
FORM(Q4_1)
FORM(Q5_0)
FORM(Q5_1)
FORM(Q8_0)
FORM(IQ4_NL)
FORM(TQ3_1S)
FORM(TQ4_1S)

#define ENTRY(form)                                                                                                    \
    {                                                                                                                  \
        static const td_tile_fn list[] = {tile_##form##_2, tile_##form##_3, tile_##form##_4, tile_##form##_5,          \
                                          tile_##form##_6, tile_##form##_7, tile_##form##_8};                          \
        memcpy(k->tile[TD_FORM_##form] + 2, list, sizeof list);                                                        \
    }

void td_i8mm_tiles(td_kernels *k) {
    ENTRY(Q4_0)
    ENTRY(Q4_1)
    ENTRY(Q5_0)
    ENTRY(Q5_1)
    ENTRY(Q8_0)
    ENTRY(IQ4_NL)
    ENTRY(TQ3_1S)
    ENTRY(TQ4_1S)
}
