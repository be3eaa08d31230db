/* Products on AVX-512 VNNI, types with blocks of 256 values (tiles.c has the others). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../tile.h"

TD_SUPER_FORMS(TD_TILES_WHOLE)

void td_avx512_tiles_k(td_kernels *k) {
    TD_SUPER_FORMS(TD_TILE_ENTRY)
}
