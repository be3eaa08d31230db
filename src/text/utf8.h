/* UTF-8 as Unicode defines it: shortest forms only, no surrogates, nothing above U+10FFFF. */
#ifndef TD_TEXT_UTF8_H
#define TD_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length 1..4 of the well-formed character at the start of `s`, its code point in *cp.
 * 0: ill-formed here. -1: the bytes end inside a character that could still become well-formed. n_bytes >= 1. */
int td_utf8_next(const char *s, size_t n_bytes, uint32_t *cp);
/* Bytes 1..4 written to out[4]; 0 for a surrogate or a value above U+10FFFF. */
int td_utf8_put(uint32_t cp, char out[4]);
bool td_utf8_valid(const char *s, size_t n_bytes);
/* Bytes of a character begun but not finished at the end of `s`: 0..3. */
size_t td_utf8_tail(const char *s, size_t n_bytes);

/* Bytes in, complete characters out: what cannot become well-formed any more leaves as one U+FFFD per maximal prefix,
 * the begun character at the end stays pending. */
typedef struct td_utf8_stream { /* zero-initialise */
    char pending[4];
    uint32_t n_pending; /* 0..3 */
} td_utf8_stream;

/* `out` has room for 3 * (n_bytes + 1) bytes; returns the bytes written. */
size_t td_utf8_stream_push(td_utf8_stream *s, const char *bytes, size_t n_bytes, char *out);
/* One U+FFFD when something is pending: `out` has room for 3 bytes. */
size_t td_utf8_stream_finish(td_utf8_stream *s, char *out);

#endif
