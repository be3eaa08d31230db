/* Products on AArch64 with the dot product extension. */
#include "../vec_neon.h"

#include "../levels.h"
#include "../tile.h"

TD_FLOAT_FORMS(TD_TILES_WHOLE)
TD_BLOCK_FORMS(TD_TILES_WHOLE)

void td_neon_tiles(td_kernels *k) {
    TD_FLOAT_FORMS(TD_TILE_ENTRY)
    TD_BLOCK_FORMS(TD_TILE_ENTRY)
}
