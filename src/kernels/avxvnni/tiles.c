/* Products on AVX-VNNI: tiles of 1 to 4 rows of activations, larger ones in two parts. */
#define TD_VNNI 1
#include "../vec_avx2.h"

#include "../levels.h"
#include "../tile.h"

#define FORM(form)                                                                                                     \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3)                                                                                                   \
    TD_TILE(form, 4)                                                                                                   \
    TD_TILE_PAIR(form, 5, 3, 2) TD_TILE_PAIR(form, 6, 3, 3) TD_TILE_PAIR(form, 7, 4, 3) TD_TILE_PAIR(form, 8, 4, 4)

#define FLOATS(form)                                                                                                   \
    TD_TILE(form, 1)                                                                                                   \
    TD_TILE(form, 2)                                                                                                   \
    TD_TILE(form, 3) TD_TILE(form, 4) TD_TILE(form, 5) TD_TILE(form, 6) TD_TILE(form, 7) TD_TILE(form, 8)

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

void td_avxvnni_tiles(td_kernels *k) {
    ENTRY(F32)
    ENTRY(F16)
    ENTRY(BF16)
    ENTRY(Q4_0)
    ENTRY(Q4_1)
    ENTRY(Q5_0)
    ENTRY(Q5_1)
    ENTRY(Q8_0)
    ENTRY(IQ4_NL)
    ENTRY(TQ3_1S)
    ENTRY(TQ4_1S)
}
