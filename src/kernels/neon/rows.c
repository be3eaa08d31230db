/* Row operations: rows.h with the vectors of this instruction set. */
#include "../vec_neon.h"

#include "../levels.h"
#include "../rows.h"

void td_neon_rows(td_kernels *k) {
    TD_ROWS_INTO(k);
}
