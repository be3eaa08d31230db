/* A pull reader of JSON for large files whose shape is known (a tokenizer.json of 32 MB): no tree is built, strings
 * without escapes are borrowed from the input. Small documents go through jansson instead. After the first error every
 * call fails, so callers may check at the end of a group. */
#ifndef TD_TEXT_JSON_SCAN_H
#define TD_TEXT_JSON_SCAN_H

#include "../base/arena.h"
#include "../base/cursor.h"

typedef struct json_scan {
    td_cursor c;
    td_arena *strings; /* decoded strings with escapes; owned by the caller */
    td_error *err;
    const char *what; /* the document's name in messages */
} json_scan;

json_scan json_scan_make(const char *data, size_t n_bytes, const char *what, td_arena *strings, td_error *err);
bool json_scan_failed(const json_scan *s);
/* Records "what: expected …" at the current offset; returns false. */
bool json_scan_fail(json_scan *s, const char *expected);
/* The next byte that is not a blank, not consumed; 0 at the end or after an error. */
char json_scan_peek(json_scan *s);

/* for (bool first = json_scan_open(s, '{'); json_scan_member(s, &first, &key);) …read or skip one value… */
bool json_scan_open(json_scan *s, char bracket); /* '{' or '[' */
bool json_scan_member(json_scan *s, bool *first, td_slice *key);
bool json_scan_element(json_scan *s, bool *first);

bool json_scan_string(json_scan *s, td_slice *out); /* escapes decoded; lone surrogates are an error */
bool json_scan_u32(json_scan *s, uint32_t *out);    /* plain decimal digits */
bool json_scan_bool(json_scan *s, bool *out);
/* Skips one value of any kind and size, at most 64 deep; *raw, if not NULL, is its text. */
bool json_scan_skip(json_scan *s, td_slice *raw);
bool json_scan_end(json_scan *s); /* nothing but blanks is left */

static inline bool td_slice_is(td_slice s, const char *text) {
    size_t i = 0;
    while (i < s.n_bytes && text[i] && s.data[i] == text[i]) i++;
    return i == s.n_bytes && !text[i];
}

#endif
