/* Products on AArch64 with i8mm, 2 to 8 rows of activations (one row: neon/). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../tile_mm.h"

TD_BLOCK_FORMS(TD_TILES_MM)

void td_i8mm_tiles(td_kernels *k) {
    TD_BLOCK_FORMS(TD_TILE_MM_ENTRY)
}
