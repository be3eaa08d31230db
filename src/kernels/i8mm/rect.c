/* Products with many rows of activations on AArch64 with i8mm (rect_mm.h). */
#include "../vec_neon.h"

#include "../levels.h"
#include "../rect_mm.h"

TD_BLOCK_FORMS(TD_RECT)
TD_SUPER_FORMS(TD_RECT)

void td_i8mm_rect(td_kernels *k) {
    TD_BLOCK_FORMS(TD_RECT_ENTRY)
    TD_SUPER_FORMS(TD_RECT_ENTRY)
}
