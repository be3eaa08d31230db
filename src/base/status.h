/* Error text: how every function below the command line reports what went wrong.
 *
 * Use: `return td_fail(err, TD_ERR_FORMAT, offset, "%s: expected %d values, found %d", ...)`. */
#ifndef TD_BASE_STATUS_H
#define TD_BASE_STATUS_H

#include "../../include/tandem-status.h"

#include <stdarg.h>

/* Records the error unless `err` is NULL or already holds one, and returns `code`. `offset` may be TD_NO_OFFSET. */
td_status td_fail(td_error *err, td_status code, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* As td_fail, for an errno value: ENOENT, EACCES, ENOMEM and ENOSPC map to their own codes, the text ends with
 * strerror. */
td_status td_fail_errno(td_error *err, int errnum, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text of an error that is there; used when an outer function knows the file's name. */
void td_error_prefix(td_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

void td_error_clear(td_error *err);
const char *td_status_name(td_status code); /* "ERR_FORMAT" */
int td_status_http(td_status code);

#endif
