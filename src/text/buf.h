/* A growing byte buffer, the output of everything in this folder that makes text. */
#ifndef TD_TEXT_BUF_H
#define TD_TEXT_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct td_buf { /* zero-initialise; td_buf_free at the end */
    char *data;         /* data[n_bytes] is always 0 once something was appended */
    size_t n_bytes, cap;
} td_buf;

/* Room for `n_more` bytes beyond n_bytes; false without memory (the content is kept). */
bool td_buf_reserve(td_buf *b, size_t n_more);
bool td_buf_add(td_buf *b, const void *data, size_t n_bytes);
bool td_buf_add_str(td_buf *b, const char *text); /* 0-terminated */
bool td_buf_add_char(td_buf *b, char c);
bool td_buf_printf(td_buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void td_buf_clear(td_buf *b); /* keeps the memory */
void td_buf_free(td_buf *b);

#endif
