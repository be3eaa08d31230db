/* Error records: the first error wins, and every text is one line, whatever bytes a hostile file put into a name. */
#define _GNU_SOURCE /* the strerror_r that returns the text */
#include "status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int http;
} statuses[] = {
#define STATUS_ROW(name, http, text) [TD_##name] = {#name, http},
    TD_STATUS_LIST(STATUS_ROW)
#undef STATUS_ROW
};

/* Control bytes become '?': an error text goes to terminals and logs, and names in files are not to be trusted. */
static void make_printable(char *s) {
    for (; *s != 0; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20 || c == 0x7f) *s = '?';
    }
}

/* A cut at the end of the buffer must not leave half a UTF-8 character. */
static void trim_utf8(char *s) {
    size_t n = strlen(s), back = 0;
    if (n < TD_ERROR_TEXT - 1) return;
    while (back < 4 && back < n && ((unsigned char)s[n - 1 - back] & 0xc0) == 0x80) back++;
    if (back < n && (unsigned char)s[n - 1 - back] >= 0xc0) s[n - 1 - back] = 0;
}

static void record(td_error *err, td_status code, uint64_t offset, const char *format, va_list args) {
    err->code = code;
    err->offset = offset;
    vsnprintf(err->text, sizeof err->text, format, args);
    make_printable(err->text);
    trim_utf8(err->text);
}

td_status td_fail(td_error *err, td_status code, uint64_t offset, const char *format, ...) {
    if (err != NULL && err->code == TD_OK) {
        va_list args;
        va_start(args, format);
        record(err, code, offset, format, args);
        va_end(args);
    }
    return code;
}

static td_status status_of_errno(int errnum) {
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return TD_ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return TD_ERR_ACCESS;
    case ENOMEM:
        return TD_ERR_MEMORY;
    default:
        return TD_ERR_IO;
    }
}

td_status td_fail_errno(td_error *err, int errnum, const char *format, ...) {
    td_status code = status_of_errno(errnum);
    if (err != NULL && err->code == TD_OK) {
        va_list args;
        va_start(args, format);
        record(err, code, TD_NO_OFFSET, format, args);
        va_end(args);
        char buffer[128];
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n, ": %s", strerror_r(errnum, buffer, sizeof buffer));
    }
    return code;
}

void td_error_prefix(td_error *err, const char *format, ...) {
    if (err == NULL || err->code == TD_OK) return;
    char old[TD_ERROR_TEXT];
    memcpy(old, err->text, sizeof old);
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t n = strlen(err->text);
    snprintf(err->text + n, sizeof err->text - n, ": %s", old);
    make_printable(err->text);
    trim_utf8(err->text);
}

void td_error_clear(td_error *err) {
    if (err != NULL) *err = (td_error){.offset = TD_NO_OFFSET};
}

const char *td_status_name(td_status code) {
    return (unsigned)code < TD_STATUS_COUNT ? statuses[code].name : "ERR_UNKNOWN";
}

int td_status_http(td_status code) {
    return (unsigned)code < TD_STATUS_COUNT ? statuses[code].http : 500;
}
