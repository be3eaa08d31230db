/* Log lines to standard error (or a callback), one write each; never used on a step's path. */
#ifndef TD_BASE_LOG_H
#define TD_BASE_LOG_H

typedef enum td_log_level { TD_LOG_ERROR, TD_LOG_WARN, TD_LOG_INFO, TD_LOG_DEBUG, TD_LOG_TRACE } td_log_level;
typedef void (*td_log_fn)(void *user, td_log_level level, const char *line);

void td_log(td_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void td_log_set_level(td_log_level level);      /* default TD_LOG_WARN */
void td_log_set_sink(td_log_fn fn, void *user); /* NULL: standard error */

#endif
