/* Row operations: rows.h with the vectors of this instruction set. */
#include "../vec_avx512.h"

#include "../levels.h"
#include "../rows.h"

void td_avx512_rows(td_kernels *k) {
    TD_ROWS_INTO(k);
}
