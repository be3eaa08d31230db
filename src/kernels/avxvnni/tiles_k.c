/* Products on AVX-VNNI, types with blocks of 256 values (tiles.c has the others). */
#define TD_VNNI 1
#include "../vec_avx2.h"

#include "../levels.h"
#include "../tile.h"

TD_SUPER_FORMS(TD_TILES_SPLIT)

void td_avxvnni_tiles_k(td_kernels *k) {
    TD_SUPER_FORMS(TD_TILE_ENTRY)
}
