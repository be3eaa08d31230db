/* Products with many rows of activations on AVX2 (rect.h). */
#include "../vec_avx2.h"

#include "../levels.h"
#include "../rect.h"

TD_RECT_ALL(TD_RECT)

void td_avx2_rect(td_kernels *k) {
    TD_RECT_ALL(TD_RECT_ENTRY)
}
