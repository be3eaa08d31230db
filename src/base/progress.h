/* Progress of long work: a bar with rate and remaining time on a terminal, nothing (or sparse lines) elsewhere. */
#ifndef TD_BASE_PROGRESS_H
#define TD_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef void (*td_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/* The bar: pass td_progress_bar as td_progress_fn and a td_progress as user; `total` in bytes where unit is "B". */
typedef struct td_progress {
    bool enabled;     /* false: prints nothing */
    const char *unit; /* "B" prints MB and MB/s */
    int64_t start_ns, last_ns;
    char what[64];
} td_progress;

void td_progress_init(td_progress *p, bool quiet,
                      const char *unit); /* enabled iff stderr is a terminal and not quiet */
void td_progress_bar(void *progress, const char *what, uint64_t done, uint64_t total);
void td_progress_end(td_progress *p); /* erases the bar's line */

#endif
