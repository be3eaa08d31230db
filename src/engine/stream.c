#include "stream.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <stdlib.h>
#include <string.h>

td_status td_stream_init(td_stream *s, const td_vocab *vocab, const char *const *stop, int n_stop, bool special,
                         td_error *err) {
    memset(s, 0, sizeof *s);
    s->matched = -1;
    td_detok_init(&s->detok, vocab, special);
    s->stop = td_calloc((size_t)n_stop + 1, sizeof *s->stop);
    s->n_stop_bytes = td_calloc((size_t)n_stop + 1, sizeof *s->n_stop_bytes);
    if (!s->stop || !s->n_stop_bytes) goto no_memory;
    for (int i = 0; i < n_stop; i++) {
        size_t n = stop[i] ? strlen(stop[i]) : 0;
        if (n == 0) continue; /* an empty stop string would end every text at once */
        s->stop[s->n_stop] = strdup(stop[i]);
        if (!s->stop[s->n_stop]) goto no_memory;
        s->n_stop_bytes[s->n_stop++] = n;
    }
    return TD_OK;
no_memory:
    td_stream_free(s);
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for stop strings");
}

void td_stream_free(td_stream *s) {
    for (int i = 0; i < s->n_stop; i++) free(s->stop[i]);
    free(s->stop);
    free(s->n_stop_bytes);
    td_buf_free(&s->text);
    memset(s, 0, sizeof *s);
}

/* The earliest match that ends after `from`; -1 none. */
static long find(const td_stream *s, size_t from, int *which) {
    long best = -1;
    for (int i = 0; i < s->n_stop; i++) {
        size_t n = s->n_stop_bytes[i], begin = from >= n - 1 ? from - (n - 1) : 0;
        for (size_t at = begin; at + n <= s->text.n_bytes; at++) {
            if (best >= 0 && (long)at >= best) break;
            if (memcmp(s->text.data + at, s->stop[i], n) == 0) {
                best = (long)at;
                *which = i;
                break;
            }
        }
    }
    return best;
}

bool td_stream_push(td_stream *s, uint32_t token, bool *failed) {
    size_t before = s->text.n_bytes;
    *failed = !td_detok_push(&s->detok, token, &s->text);
    if (s->text.n_bytes == before || s->n_stop == 0) return false;
    long at = find(s, before, &s->matched);
    if (at < 0) return false;
    s->text.n_bytes = (size_t)at;
    return true;
}

/* Length of the longest end of the text that begins a stop string. */
static size_t held(const td_stream *s) {
    size_t longest = 0;
    for (int i = 0; i < s->n_stop; i++) {
        size_t n = s->n_stop_bytes[i] - 1;
        if (n > s->text.n_bytes) n = s->text.n_bytes;
        for (; n > longest; n--) {
            if (memcmp(s->text.data + s->text.n_bytes - n, s->stop[i], n) == 0) {
                longest = n;
                break;
            }
        }
    }
    return longest;
}

size_t td_stream_ready(td_stream *s, bool end) {
    if (!end) return s->text.n_bytes - held(s);
    if (s->matched < 0) (void)td_detok_finish(&s->detok, &s->text);
    return s->text.n_bytes;
}

void td_stream_take(td_stream *s, size_t n_bytes) {
    memmove(s->text.data, s->text.data + n_bytes, s->text.n_bytes - n_bytes);
    s->text.n_bytes -= n_bytes;
}
