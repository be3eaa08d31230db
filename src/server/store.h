/* Finished responses, so that a later request can go on from one by its id: at most 256 of them, 64 MiB, one hour. */
#ifndef TD_SERVER_STORE_H
#define TD_SERVER_STORE_H

#include "msg.h"

typedef struct store store;

td_status store_create(store **out, td_error *err);
void store_destroy(store *s);

/* Keeps the conversation up to here (previous items, this request's input, the answer's items) and the response object.
 * `owner`: the API key it belongs to, NULL without keys; it must outlive the store, and the same one is the same
 * pointer (owner_of in app.h). */
td_status store_put(store *s, const char *owner, const char *id, const msg_request *r, const msg_writer *w,
                    td_error *err);
/* The conversation's items as an array in the arena. TD_ERR_ARGUMENT when there is no such response of this owner. */
td_status store_items(store *s, const char *owner, td_slice id, td_arena *a, const td_json **items, td_error *err);
/* The response object, appended; TD_ERR_NOT_FOUND. */
td_status store_object(store *s, const char *owner, td_slice id, td_buf *out, td_error *err);
bool store_remove(store *s, const char *owner, td_slice id);

#endif
