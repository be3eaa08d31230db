/* See json_scan.h. The cursor's bounds are the only ones used; nothing recurses. */
#include "json_scan.h"

#include "../base/status.h"
#include "json_escape.h"
#include "utf8.h"

#include <string.h>

json_scan json_scan_make(const char *data, size_t n_bytes, const char *what, td_arena *strings, td_error *err) {
    return (json_scan){td_cursor_make(data, n_bytes, 0), strings, err, what};
}

bool json_scan_failed(const json_scan *s) {
    return s->c.failed;
}

bool json_scan_fail(json_scan *s, const char *expected) {
    if (!s->c.failed)
        td_fail(s->err, TD_ERR_FORMAT, td_cursor_offset(&s->c), "%s: expected %s at byte %llu", s->what, expected,
                (unsigned long long)td_cursor_offset(&s->c));
    s->c.failed = true;
    return false;
}

char json_scan_peek(json_scan *s) {
    if (s->c.failed) return 0;
    while (s->c.at < s->c.end && (*s->c.at == ' ' || *s->c.at == '\n' || *s->c.at == '\r' || *s->c.at == '\t'))
        s->c.at++;
    return s->c.at < s->c.end ? (char)*s->c.at : 0;
}

static bool take(json_scan *s, char c, const char *expected) {
    if (json_scan_peek(s) != c) return json_scan_fail(s, expected);
    s->c.at++;
    return true;
}

bool json_scan_open(json_scan *s, char bracket) {
    take(s, bracket, bracket == '{' ? "an object" : "an array");
    return true; /* the value of `first` */
}

/* Consumes the separator; false after the closing bracket or an error. */
static bool another(json_scan *s, bool *first, char close) {
    char c = json_scan_peek(s);
    if (c == close) {
        s->c.at++;
        return false;
    }
    if (!*first && !take(s, ',', close == '}' ? "',' or '}'" : "',' or ']'")) return false;
    *first = false;
    return !s->c.failed;
}

bool json_scan_member(json_scan *s, bool *first, td_slice *key) {
    return another(s, first, '}') && json_scan_string(s, key) && take(s, ':', "':'");
}

bool json_scan_element(json_scan *s, bool *first) {
    if (!another(s, first, ']')) return false;
    return json_scan_peek(s) != ']' || json_scan_fail(s, "a value");
}

bool json_scan_string(json_scan *s, td_slice *out) {
    *out = (td_slice){"", 0};
    if (!take(s, '"', "a string")) return false;
    const uint8_t *p = s->c.at, *end = s->c.end;
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20) p++;
    if (p < end && *p == '"') {
        *out = (td_slice){(const char *)s->c.at, (size_t)(p - s->c.at)};
        s->c.at = p + 1;
        return true;
    }
    const uint8_t *close = p; /* the decoded text is never longer than the written one */
    while (close < end && *close != '"') close += *close == '\\' && end - close > 1 ? 2 : 1;
    char *text = close < end ? td_arena_alloc(s->strings, (size_t)(close - s->c.at) + 1, 1) : NULL;
    if (!text) {
        if (close >= end) return json_scan_fail(s, "the end of a string");
        s->c.failed = true;
        td_fail(s->err, TD_ERR_MEMORY, TD_NO_OFFSET, "%s: no memory for its strings", s->what);
        return false;
    }
    size_t n = 0;
    for (p = s->c.at; p < close;) {
        s->c.at = p;
        if (*p < 0x20) return json_scan_fail(s, "no control characters in a string");
        if (*p != '\\') {
            text[n++] = (char)*p++;
            continue;
        }
        uint32_t cp = 0;
        size_t n_read = td_json_escape((const char *)p, (size_t)(close - p), &cp);
        int n_put = n_read ? td_utf8_put(cp, text + n) : 0;
        if (!n_put) return json_scan_fail(s, "a valid escape");
        n += (size_t)n_put;
        p += n_read;
    }
    s->c.at = close + 1;
    *out = (td_slice){text, n};
    return true;
}

bool json_scan_u32(json_scan *s, uint32_t *out) {
    uint64_t v = 0;
    *out = 0;
    char c = json_scan_peek(s);
    if (c < '0' || c > '9') return json_scan_fail(s, "a number from 0 to 4294967295");
    for (; s->c.at < s->c.end && *s->c.at >= '0' && *s->c.at <= '9'; s->c.at++) {
        v = v * 10 + (uint64_t)(*s->c.at - '0');
        if (v > UINT32_MAX) return json_scan_fail(s, "a number from 0 to 4294967295");
    }
    *out = (uint32_t)v;
    return true;
}

static bool word(json_scan *s, const char *text) {
    size_t n = strlen(text);
    if (json_scan_peek(s) != text[0] || td_cursor_left(&s->c) < n || memcmp(s->c.at, text, n) != 0) return false;
    s->c.at += n;
    return true;
}

bool json_scan_bool(json_scan *s, bool *out) {
    *out = word(s, "true");
    return *out || word(s, "false") || json_scan_fail(s, "true or false");
}

static bool skip_scalar(json_scan *s) {
    td_slice ignored;
    char c = json_scan_peek(s);
    if (c == '"') return json_scan_string(s, &ignored);
    if (word(s, "true") || word(s, "false") || word(s, "null")) return true;
    if (c != '-' && (c < '0' || c > '9')) return json_scan_fail(s, "a value");
    while (s->c.at < s->c.end && (td_hex_digit((char)*s->c.at) >= 0 || strchr("+-.", *s->c.at)) && *s->c.at) s->c.at++;
    return true;
}

bool json_scan_skip(json_scan *s, td_slice *raw) {
    char close[64]; /* the closing brackets that are waited for */
    bool first[64];
    int depth = 0;
    json_scan_peek(s);
    const uint8_t *start = s->c.at;
    do {
        char c = json_scan_peek(s);
        if (c == '{' || c == '[') {
            if (depth == 64) return json_scan_fail(s, "nesting of at most 64 levels");
            close[depth] = c == '{' ? '}' : ']';
            first[depth++] = json_scan_open(s, c);
        } else if (!skip_scalar(s)) {
            return false;
        }
        while (depth > 0) { /* to the start of the next value, leaving every level that ends here */
            td_slice key;
            bool more = close[depth - 1] == '}' ? json_scan_member(s, &first[depth - 1], &key)
                                                : json_scan_element(s, &first[depth - 1]);
            if (s->c.failed) return false;
            if (more) break;
            depth--;
        }
    } while (depth > 0);
    if (raw) *raw = (td_slice){(const char *)start, (size_t)(s->c.at - start)};
    return true;
}

bool json_scan_end(json_scan *s) {
    json_scan_peek(s);
    return !s->c.failed && (s->c.at == s->c.end || json_scan_fail(s, "nothing more"));
}
