/* See eval_imatrix.h. The engine has summed the squared inputs of every product while the windows ran. */
#include "eval_imatrix.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "../convert/imatrix_write.h"

#include <stdlib.h>
#include <string.h>

static bool is_dat(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".dat") == 0;
}

td_status eval_imatrix_write(const td_engine *e, const char *path, int format, const char *text, int n_chunk, int n_ctx,
                             td_error *err) {
    td_importance one;
    size_t n = 0;
    while (td_engine_importance(e, (int)n, &one)) n++;
    td_importance *all = td_calloc(n ? n : 1, sizeof *all);
    if (!all) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the importance matrix");
    for (size_t i = 0; i < n; i++) td_engine_importance(e, (int)i, &all[i]);
    td_imatrix_info info = {.dataset = text, .n_chunk = (uint32_t)n_chunk, .chunk_size = (uint32_t)n_ctx};
    info.legacy = format == EVAL_IMATRIX_DAT || (format == EVAL_IMATRIX_AUTO && is_dat(path));
    td_status status = td_imatrix_write(path, all, n, &info, err);
    free(all);
    return status;
}
