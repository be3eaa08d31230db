/* Products with many rows of activations on AArch64 with the dot product extension (rect.h). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../rect.h"

TD_BLOCK_FORMS(TD_RECT)
TD_SUPER_FORMS(TD_RECT)

void td_neon_rect(td_kernels *k) {
    TD_BLOCK_FORMS(TD_RECT_ENTRY)
    TD_SUPER_FORMS(TD_RECT_ENTRY)
}
