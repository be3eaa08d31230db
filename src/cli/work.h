/* What the commands that write files share: their last two options, and the threads and progress bar of the work. */
#ifndef TD_CLI_WORK_H
#define TD_CLI_WORK_H

#include "base/pool.h"
#include "base/progress.h"
#include "options.h"

typedef struct work_flags {
    int64_t n_threads;
    bool quiet;
} work_flags;

extern const td_option work_options[]; /* of work_flags; behind a heading of the command's own table */

typedef struct work {
    td_pool *pool;
    td_progress bar; /* for td_progress_bar */
    int64_t start_ns;
} work;

td_status work_begin(work *w, const work_flags *f, td_error *err); /* work_end also after a failure */
void work_end(work *w);
double work_seconds(const work *w); /* since work_begin */

#endif
