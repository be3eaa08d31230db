/* Log lines: formatted in a buffer and written with one call, so that lines of several threads do not mix.
 *
 * Shape: seconds.millis.micros since the first line, a letter for the level, the text. */
#include "log.h"

#include "clock.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

static atomic_int current_level = TD_LOG_WARN;
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static td_log_fn sink;
static void *sink_user;
static int64_t start_ns;

static void write_line(td_log_level level, char *line) {
    static const char letters[] = "EWIDT";
    char out[LINE_BYTES + 64];
    int64_t us = (td_clock_ns() - start_ns) / 1000;
    int n = snprintf(out, sizeof out, "%lld.%03d.%03d %c %s\n", (long long)(us / 1000000), (int)(us / 1000 % 1000),
                     (int)(us % 1000), letters[level], line);
    if (n < 0) return;
    if ((size_t)n >= sizeof out) n = (int)sizeof out - 1;
    ssize_t written = write(STDERR_FILENO, out, (size_t)n);
    (void)written; /* nowhere to report a failing log */
}

void td_log(td_log_level level, const char *format, ...) {
    if ((int)level > atomic_load(&current_level) || level < TD_LOG_ERROR) return;
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *c = line; *c != 0; c++) /* one line, and no terminal control from untrusted names */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    pthread_mutex_lock(&sink_lock);
    if (start_ns == 0) start_ns = td_clock_ns();
    if (sink != NULL)
        sink(sink_user, level, line);
    else
        write_line(level, line);
    pthread_mutex_unlock(&sink_lock);
}

void td_log_set_level(td_log_level level) {
    atomic_store(&current_level, (int)level);
}

void td_log_set_sink(td_log_fn fn, void *user) {
    pthread_mutex_lock(&sink_lock);
    sink = fn;
    sink_user = user;
    pthread_mutex_unlock(&sink_lock);
}
