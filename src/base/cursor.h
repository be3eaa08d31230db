/* The one reader of untrusted bytes. It never reads outside [begin, end); after the first failure every further read
 * fails too and leaves its output zero, so that a parser may check once per group of fields. */
#ifndef TD_BASE_CURSOR_H
#define TD_BASE_CURSOR_H

#include "status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct td_cursor {
    const uint8_t *begin, *at, *end;
    uint64_t base; /* file offset of `begin`, for messages */
    bool failed;
} td_cursor;

typedef struct td_slice { /* borrowed bytes, not terminated */
    const char *data;
    size_t n_bytes;
} td_slice;

td_cursor td_cursor_make(const void *data, size_t n_bytes, uint64_t base);
uint64_t td_cursor_offset(const td_cursor *c);
size_t td_cursor_left(const td_cursor *c);
/* Little-endian scalars. */
bool td_cursor_u8(td_cursor *c, uint8_t *out);
bool td_cursor_u32(td_cursor *c, uint32_t *out);
bool td_cursor_u64(td_cursor *c, uint64_t *out);
bool td_cursor_f32(td_cursor *c, float *out);
bool td_cursor_f64(td_cursor *c, double *out);
/* n bytes, borrowed from the underlying memory. */
bool td_cursor_bytes(td_cursor *c, uint64_t n, td_slice *out);
bool td_cursor_skip(td_cursor *c, uint64_t n);

#endif
