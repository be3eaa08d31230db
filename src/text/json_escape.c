#include "json_escape.h"

#include <string.h>

int td_hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \uXXXX at s; -1: it is not there. */
static int32_t unit(const char *s, size_t n_bytes) {
    int32_t v = 0;
    if (n_bytes < 6 || s[0] != '\\' || s[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        int d = td_hex_digit(s[i]);
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

size_t td_json_escape(const char *s, size_t n_bytes, uint32_t *cp) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (n_bytes < 2 || s[0] != '\\') return 0;
    const char *simple = s[1] ? strchr(from, s[1]) : NULL;
    if (simple) {
        *cp = (uint32_t)to[simple - from];
        return 2;
    }
    int32_t high = unit(s, n_bytes), low = -1;
    if (high < 0) return 0;
    *cp = (uint32_t)high;
    if (high >= 0xD800 && high < 0xDC00) low = unit(s + 6, n_bytes - 6);
    if (low < 0xDC00 || low > 0xDFFF) return 6;
    *cp = (uint32_t)(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00));
    return 12;
}
