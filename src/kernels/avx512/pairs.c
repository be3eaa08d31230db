/* Products of two groups with 5 to 8 rows of activations on AVX-512 VNNI (pair.h). */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../pair.h"

TD_PAIR_FORMS(TD_PAIRS)

void td_avx512_pairs(td_kernels *k) {
    TD_PAIR_FORMS(TD_PAIR_ENTRY)
}
