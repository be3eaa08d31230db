/* Status codes and error record shared by the public header and every layer below it.
 *
 * One list gives code, name, HTTP status and text. A function that can fail returns td_status and, when it is
 * given one, fills a td_error: the first error wins, so that the message names the cause and not its echo. */
#ifndef TANDEM_STATUS_H
#define TANDEM_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TD_STATUS_LIST(X)                                                                                              \
    X(OK, 200, "no error")                                                                                             \
    X(ERR_ARGUMENT, 400, "a value given by the caller is not acceptable")                                              \
    X(ERR_FORMAT, 400, "the data is malformed")                                                                        \
    X(ERR_UNSUPPORTED, 400, "well formed, but not supported")                                                          \
    X(ERR_MISMATCH, 400, "two things that must fit together do not")                                                   \
    X(ERR_NOT_FOUND, 404, "it does not exist")                                                                         \
    X(ERR_ACCESS, 403, "permission denied")                                                                            \
    X(ERR_IO, 500, "reading or writing failed")                                                                        \
    X(ERR_MEMORY, 500, "out of memory")                                                                                \
    X(ERR_LIMIT, 400, "a stated limit is exceeded")                                                                    \
    X(ERR_CONTEXT, 400, "the context is too small for this")                                                           \
    X(ERR_BUSY, 503, "not now: try again")                                                                             \
    X(ERR_CANCELLED, 499, "cancelled by the caller")                                                                   \
    X(ERR_INTERNAL, 500, "a defect of the program")

typedef enum td_status {
#define TD_STATUS_ENUM(name, http, text) TD_##name,
    TD_STATUS_LIST(TD_STATUS_ENUM)
#undef TD_STATUS_ENUM
        TD_STATUS_COUNT
} td_status;

#define TD_ERROR_TEXT 512
#define TD_NO_OFFSET  UINT64_MAX

/* Filled by the function that fails first; `text` is one line without a newline: what, where, what would be right. */
typedef struct td_error {
    td_status code;
    uint64_t offset; /* byte offset in the file or text that was read, TD_NO_OFFSET where there is none */
    char text[TD_ERROR_TEXT];
} td_error;

#ifdef __cplusplus
}
#endif
#endif
