/* The text of one job: bytes of tokens become complete characters, and text that may begin a stop string waits.
 * After the sampler, before the caller. */
#ifndef TD_ENGINE_STREAM_H
#define TD_ENGINE_STREAM_H

#include "../text/tokenizer.h"

typedef struct td_stream {
    td_detok detok;
    td_buf text; /* decoded, not yet released; what precedes `n_out` has been taken */
    char **stop; /* [n_stop], owned */
    size_t *n_stop_bytes;
    int n_stop;
    int matched; /* index of the stop string that ended the text, -1 */
} td_stream;

td_status td_stream_init(td_stream *s, const td_vocab *vocab, const char *const *stop, int n_stop, bool special,
                         td_error *err);
void td_stream_free(td_stream *s);

/* Appends a token. True when a stop string is complete: the text is cut before it. False also without memory: *failed.
 */
bool td_stream_push(td_stream *s, uint32_t token, bool *failed);
/* Bytes at the front of `text` that may be handed out now; `end`: nothing more will come. */
size_t td_stream_ready(td_stream *s, bool end);
void td_stream_take(td_stream *s, size_t n_bytes); /* drops them from the front */

#endif
