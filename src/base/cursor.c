/* The one reader of untrusted bytes: every read compares with what is left before it touches memory. */
#include "cursor.h"

#include <string.h>

td_cursor td_cursor_make(const void *data, size_t n_bytes, uint64_t base) {
    static const uint8_t nothing[1];
    const uint8_t *begin = n_bytes != 0 ? data : nothing; /* no arithmetic on NULL */
    return (td_cursor){.begin = begin, .at = begin, .end = begin + n_bytes, .base = base};
}

uint64_t td_cursor_offset(const td_cursor *c) {
    return c->base + (uint64_t)(c->at - c->begin);
}

size_t td_cursor_left(const td_cursor *c) {
    return c->failed ? 0 : (size_t)(c->end - c->at);
}

static const uint8_t *take(td_cursor *c, uint64_t n) {
    if (n > td_cursor_left(c)) c->failed = true;
    if (c->failed) return NULL;
    const uint8_t *p = c->at;
    c->at += n;
    return p;
}

/* Little-endian, whatever the machine is: a loop that compilers turn into one load. */
static bool take_uint(td_cursor *c, int n, uint64_t *out) {
    const uint8_t *p = take(c, (uint64_t)n);
    uint64_t v = 0;
    for (int i = 0; p != NULL && i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    *out = v;
    return p != NULL;
}

bool td_cursor_u8(td_cursor *c, uint8_t *out) {
    uint64_t v;
    bool ok = take_uint(c, 1, &v);
    *out = (uint8_t)v;
    return ok;
}

bool td_cursor_u32(td_cursor *c, uint32_t *out) {
    uint64_t v;
    bool ok = take_uint(c, 4, &v);
    *out = (uint32_t)v;
    return ok;
}

bool td_cursor_u64(td_cursor *c, uint64_t *out) {
    return take_uint(c, 8, out);
}

bool td_cursor_f32(td_cursor *c, float *out) {
    uint32_t bits;
    bool ok = td_cursor_u32(c, &bits);
    memcpy(out, &bits, sizeof bits);
    return ok;
}

bool td_cursor_f64(td_cursor *c, double *out) {
    uint64_t bits;
    bool ok = td_cursor_u64(c, &bits);
    memcpy(out, &bits, sizeof bits);
    return ok;
}

bool td_cursor_bytes(td_cursor *c, uint64_t n, td_slice *out) {
    const uint8_t *p = take(c, n);
    *out = p != NULL ? (td_slice){(const char *)p, (size_t)n} : (td_slice){NULL, 0};
    return p != NULL;
}

bool td_cursor_skip(td_cursor *c, uint64_t n) {
    return take(c, n) != NULL;
}
