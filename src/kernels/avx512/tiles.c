/* Products on AVX-512 VNNI: tiles of 1 to 8 rows of activations; 16 for prefill with float weights
 * (rect.c has that of the others). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../tile.h"

TD_FLOAT_FORMS(TD_TILES_WHOLE)
TD_BLOCK_FORMS(TD_TILES_WHOLE)
TD_TILE(F32, 16)
TD_TILE(F16, 16)
TD_TILE(BF16, 16)

void td_avx512_tiles(td_kernels *k) {
    TD_FLOAT_FORMS(TD_TILE_ENTRY)
    TD_BLOCK_FORMS(TD_TILE_ENTRY)
    k->wide[TD_FORM_F32] = tile_F32_16;
    k->wide[TD_FORM_F16] = tile_F16_16;
    k->wide[TD_FORM_BF16] = tile_BF16_16;
}
