/* Escapes in JSON strings, for every reader of them. */
#ifndef TD_TEXT_JSON_ESCAPE_H
#define TD_TEXT_JSON_ESCAPE_H

#include <stddef.h>
#include <stdint.h>

int td_hex_digit(char c); /* 0..15, or -1 */
/* Bytes of the escape whose backslash `s` begins with: 2, 6, or 12 for a pair of surrogates; 0: there is none, or not
 * the whole of it. *cp is its code point; a lone surrogate is left to the caller (0xD800..0xDFFF). */
size_t td_json_escape(const char *s, size_t n_bytes, uint32_t *cp);

#endif
