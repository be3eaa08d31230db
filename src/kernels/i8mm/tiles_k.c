/* Products on AArch64 with i8mm, types with blocks of 256 values (tiles.c has the others). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../tile_mm.h"

TD_SUPER_FORMS(TD_TILES_MM)

void td_i8mm_tiles_k(td_kernels *k) {
    TD_SUPER_FORMS(TD_TILE_MM_ENTRY)
}
