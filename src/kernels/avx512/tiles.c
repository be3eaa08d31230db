/* Products on AVX-512 VNNI: tiles of 1 to 8 rows of activations; 16 for prefill with float weights
 * (rect.c has that of the others). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../tile.h"

#define FORM(form)                                                                                                     \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3)                                                                                                   \
    TD_TILE(form, 4) TD_TILE(form, 5) TD_TILE(form, 6) TD_TILE(form, 7) TD_TILE(form, 8)

#define FLOATS(form) FORM(form) TD_TILE(form, 16)

FLOATS(F32)
FLOATS(F16)
FLOATS(BF16)
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
        static const td_tile_fn list[TD_TILES] = TD_TILE_LIST(form);                                                   \
        memcpy(k->tile[TD_FORM_##form], list, sizeof list);                                                            \
    }

void td_avx512_tiles(td_kernels *k) {
    ENTRY(F32)
    ENTRY(F16)
    ENTRY(BF16)
    k->wide[TD_FORM_F32] = tile_F32_16;
    k->wide[TD_FORM_F16] = tile_F16_16;
    k->wide[TD_FORM_BF16] = tile_BF16_16;
    ENTRY(Q4_0)
    ENTRY(Q4_1)
    ENTRY(Q5_0)
    ENTRY(Q5_1)
    ENTRY(Q8_0)
    ENTRY(IQ4_NL)
    ENTRY(TQ3_1S)
    ENTRY(TQ4_1S)
}
