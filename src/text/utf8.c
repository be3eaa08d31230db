/* UTF-8 without tables: the second byte's range decides overlong forms, surrogates and the upper end (Unicode, table
 * 3-7), every further byte is 80..BF. */
#include "utf8.h"

#include <string.h>

int td_utf8_next(const char *text, size_t n_bytes, uint32_t *cp) {
    const uint8_t *s = (const uint8_t *)text;
    uint8_t a = s[0];
    if (a < 0x80) {
        *cp = a;
        return 1;
    }
    if (a < 0xC2 || a > 0xF4) return 0;
    int n = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
    if (n_bytes < 2) return -1;
    uint8_t lo = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80, hi = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < lo || s[1] > hi) return 0;
    uint32_t v = n == 2 ? a & 0x1Fu : n == 3 ? a & 0x0Fu : a & 0x07u;
    v = v << 6 | (s[1] & 0x3Fu);
    for (int i = 2; i < n; i++) {
        if ((size_t)i >= n_bytes) return -1;
        if ((s[i] & 0xC0) != 0x80) return 0;
        v = v << 6 | (s[i] & 0x3Fu);
    }
    *cp = v;
    return n;
}

int td_utf8_put(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp >= 0xD800 && cp < 0xE000) return 0;
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    if (cp > 0x10FFFF) return 0;
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* Length of the longest well-formed beginning. */
static size_t valid_prefix(const char *s, size_t n_bytes) {
    size_t i = 0;
    while (i < n_bytes) {
        uint32_t cp = 0;
        int n = td_utf8_next(s + i, n_bytes - i, &cp);
        if (n <= 0) break;
        i += (size_t)n;
    }
    return i;
}

bool td_utf8_valid(const char *s, size_t n_bytes) {
    return valid_prefix(s, n_bytes) == n_bytes;
}

size_t td_utf8_tail(const char *s, size_t n_bytes) {
    uint32_t cp = 0;
    for (size_t back = 1; back <= 3 && back <= n_bytes; back++) {
        uint8_t c = (uint8_t)s[n_bytes - back];
        if ((c & 0xC0) == 0x80) continue;
        return td_utf8_next(s + n_bytes - back, back, &cp) < 0 ? back : 0;
    }
    return 0;
}

size_t td_utf8_stream_push(td_utf8_stream *s, const char *bytes, size_t n_bytes, char *out) {
    size_t n_out = 0;
    uint32_t cp = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (!s->n_pending && (uint8_t)bytes[i] < 0x80) {
            out[n_out++] = bytes[i];
            continue;
        }
        s->pending[s->n_pending++] = bytes[i];
        int n = td_utf8_next(s->pending, s->n_pending, &cp);
        if (n < 0) continue;
        if (n > 0) {
            memcpy(out + n_out, s->pending, s->n_pending);
            n_out += s->n_pending;
        } else {
            memcpy(out + n_out, "\xEF\xBF\xBD", 3);
            n_out += 3;
            if (s->n_pending > 1) i--; /* the byte that broke the character may begin the next one */
        }
        s->n_pending = 0;
    }
    return n_out;
}

size_t td_utf8_stream_finish(td_utf8_stream *s, char *out) {
    if (!s->n_pending) return 0;
    s->n_pending = 0;
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}
