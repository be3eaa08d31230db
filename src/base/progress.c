/* The progress bar of loading and converting: redrawn at most ten times a second, on a terminal only. */
#include "progress.h"

#include "clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REDRAW_NS = 100000000, CELLS = 24 };

void td_progress_init(td_progress *p, bool quiet, const char *unit) {
    *p = (td_progress){.enabled = !quiet && isatty(STDERR_FILENO) == 1, .unit = unit, .start_ns = td_clock_ns()};
}

static void draw(const td_progress *p, uint64_t done, uint64_t total, int64_t now) {
    double seconds = (double)(now - p->start_ns) * 1e-9, share = total != 0 ? (double)done / (double)total : 0;
    double rate = seconds > 0 ? (double)done / seconds : 0, left = rate > 0 ? (double)(total - done) / rate : 0;
    bool bytes = p->unit != NULL && strcmp(p->unit, "B") == 0;
    double scale = bytes ? 1e-6 : 1;
    char bar[CELLS + 1];
    int full = (int)(share * CELLS);
    for (int i = 0; i < CELLS; i++) bar[i] = i < full ? '#' : '.';
    bar[CELLS] = 0;
    const char *unit = bytes ? "MB" : (p->unit != NULL ? p->unit : "");
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%  %.0f/%.0f %s  %.0f %s/s  %.0f s left", p->what, bar, share * 100,
            (double)done * scale, (double)total * scale, unit, rate * scale, unit, left);
    fflush(stderr);
}

void td_progress_bar(void *progress, const char *what, uint64_t done, uint64_t total) {
    td_progress *p = progress;
    if (!p->enabled) return;
    int64_t now = td_clock_ns();
    if (strncmp(p->what, what, sizeof p->what - 1) != 0) { /* a new phase has its own rate */
        snprintf(p->what, sizeof p->what, "%s", what);
        p->start_ns = now;
        p->last_ns = 0;
    }
    if (done > total) done = total;
    if (now - p->last_ns < REDRAW_NS && done != total) return;
    p->last_ns = now;
    draw(p, done, total, now);
}

void td_progress_end(td_progress *p) {
    if (!p->enabled || p->what[0] == 0) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    p->what[0] = 0;
}
