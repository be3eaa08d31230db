/* The growing byte buffer. Capacity doubles, so appending n bytes costs O(n) in all; the terminating 0 is kept so that
 * the content can be handed to functions that want a C string. */
#include "buf.h"

#include "../base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool td_buf_reserve(td_buf *b, size_t n_more) {
    size_t need = 0;
    if (!td_add_size(b->n_bytes, n_more, &need) || !td_add_size(need, 1, &need)) return false;
    if (need <= b->cap) return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need)
        if (!td_mul_size(cap, 2, &cap)) cap = need;
    char *data = realloc(b->data, cap);
    if (!data) return false;
    b->data = data;
    b->cap = cap;
    return true;
}

bool td_buf_add(td_buf *b, const void *data, size_t n_bytes) {
    if (!td_buf_reserve(b, n_bytes)) return false;
    if (n_bytes) memcpy(b->data + b->n_bytes, data, n_bytes);
    b->n_bytes += n_bytes;
    b->data[b->n_bytes] = 0;
    return true;
}

bool td_buf_add_str(td_buf *b, const char *text) {
    return td_buf_add(b, text, strlen(text));
}

bool td_buf_add_char(td_buf *b, char c) {
    return td_buf_add(b, &c, 1);
}

bool td_buf_printf(td_buf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !td_buf_reserve(b, (size_t)n)) return false;
    va_start(args, format);
    vsnprintf(b->data + b->n_bytes, (size_t)n + 1, format, args);
    va_end(args);
    b->n_bytes += (size_t)n;
    return true;
}

void td_buf_clear(td_buf *b) {
    b->n_bytes = 0;
    if (b->data) b->data[0] = 0;
}

void td_buf_free(td_buf *b) {
    free(b->data);
    memset(b, 0, sizeof *b);
}
