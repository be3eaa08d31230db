/* Row operations: rows.h with the vectors of this instruction set. */
#include "../vec_ref.h"

#include "../levels.h"
#include "../rows.h"

void td_ref_rows(td_kernels *k) {
    TD_ROWS_INTO(k);
}
