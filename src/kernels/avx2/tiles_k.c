/* Products on AVX2, types with blocks of 256 values (tiles.c has the others). */
#include "../vec_avx2.h"

#include "../levels.h"
#include "../tile.h"

TD_SUPER_FORMS(TD_TILES_SPLIT)

void td_avx2_tiles_k(td_kernels *k) {
    TD_SUPER_FORMS(TD_TILE_ENTRY)
}
