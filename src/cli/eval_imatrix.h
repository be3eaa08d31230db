/* `tandem eval --imatrix`: the importance matrix of the text just computed, as a file. */
#ifndef TD_CLI_EVAL_IMATRIX_H
#define TD_CLI_EVAL_IMATRIX_H

#include "tandem.h"

enum { EVAL_IMATRIX_AUTO, EVAL_IMATRIX_GGUF, EVAL_IMATRIX_DAT }; /* AUTO: .dat by its name, else GGUF */

td_status eval_imatrix_write(const td_engine *e, const char *path, int format, const char *text, int n_chunk, int n_ctx,
                             td_error *err);

#endif
