/* Products with many rows of activations on AVX-512 VNNI (rect.h). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../rect.h"

TD_BLOCK_FORMS(TD_RECT)
TD_SUPER_FORMS(TD_RECT)

void td_avx512_rect(td_kernels *k) {
    TD_BLOCK_FORMS(TD_RECT_ENTRY)
    TD_SUPER_FORMS(TD_RECT_ENTRY)
}
