/* Products on AVX2: tiles of 1 to 4 rows of activations, larger ones in two parts. */
#include "../vec_avx2.h"

#include "../levels.h"
#include "../tile.h"

TD_FLOAT_FORMS(TD_TILES_WHOLE)
TD_BLOCK_FORMS(TD_TILES_SPLIT)

void td_avx2_tiles(td_kernels *k) {
    TD_FLOAT_FORMS(TD_TILE_ENTRY)
    TD_BLOCK_FORMS(TD_TILE_ENTRY)
}
