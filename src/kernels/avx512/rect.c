/* Products with many rows of activations on AVX-512 VNNI (rect.h). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../rect.h"

TD_RECT_ALL(TD_RECT)

void td_avx512_rect(td_kernels *k) {
    TD_RECT_ALL(TD_RECT_ENTRY)
}
