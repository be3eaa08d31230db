/* HTTP for the server: connections, bodies, headers, limits, streams. No endpoint is known here.
 *
 * A request is read whole (up to a limit) and given to the handler on one of the HTTP threads. The handler answers at
 * once, or leaves a task that answers later: then the connection sleeps, any thread wakes it with http_wake, and `turn`
 * is called again until it has answered or ended the stream. Nothing here or in a handler waits for the model. */
#ifndef TD_SERVER_HTTP_H
#define TD_SERVER_HTTP_H

#include "../base/status.h"
#include "../text/buf.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct http_server http_server;
typedef struct http_exchange http_exchange;

typedef struct http_limits {
    size_t max_body;     /* bytes; larger: 413 */
    int max_connections; /* refused beyond */
    int max_per_address; /* 0: no limit */
    int idle_timeout_s;  /* of a connection that neither sends nor receives */
    int n_threads;
} http_limits;

typedef enum http_turn {
    HTTP_WAIT,   /* nothing new: sleep until http_wake */
    HTTP_ANSWER, /* http_answer was called */
    HTTP_STREAM, /* a stream was begun with http_stream_begin, or there is more of it in `out` */
    HTTP_END     /* the stream is complete: what is in `out` goes out, then the connection may serve another request */
} http_turn;

typedef struct http_handler {
    /* The request is complete. */
    http_turn (*begin)(http_exchange *x, void *user);
    /* The body is larger than the limit: answers. */
    void (*too_large)(http_exchange *x, size_t limit, void *user);
    /* Called after http_wake, on an HTTP thread; may be called without news. */
    http_turn (*turn)(http_exchange *x, void *task);
    /* The client is gone or the exchange is over: the task is freed. */
    void (*end)(http_exchange *x, void *task, void *user);
    void *user;
} http_handler;

typedef struct http_options {
    const char *host; /* address, or a path ending in .sock */
    int port;         /* 0: any */
    bool reuse_port;
    const char *key_pem, *cert_pem; /* contents; both or none */
    http_limits limits;
    http_handler handler;
    const char *server_header;
} http_options;

td_status http_start(http_server **out, const http_options *o, td_error *err);
int http_port(const http_server *s);
/* No new connections; those that are open go on. */
void http_quiesce(http_server *s);
/* A turn for every exchange, soon: those whose client left notice it, silent streams send a sign of life. */
void http_wake_all(http_server *s);
/* Ends every connection and frees; what still waits is dropped. */
void http_stop(http_server *s);

/* ---- the request ---- */

const char *http_method(const http_exchange *x);
const char *http_path(const http_exchange *x);                    /* decoded, without query; "" never */
const char *http_query(const http_exchange *x, const char *name); /* NULL when absent */
const char *http_header(const http_exchange *x, const char *name);
const char *http_body(const http_exchange *x, size_t *n_bytes);
int64_t http_started_ns(const http_exchange *x);
const char *http_request_id(const http_exchange *x); /* the client's x-request-id, or one made here */

/* ---- the answer ---- */

void http_set_task(http_exchange *x, void *task);
/* Any thread; also before the exchange sleeps. Never blocks for long. */
void http_wake(http_exchange *x);
/* Whole answer; the body is copied. */
void http_answer(http_exchange *x, int status, const char *content_type, const void *body, size_t n_bytes);
void http_add_header(http_exchange *x, const char *name,
                     const char *value); /* before http_answer or http_stream_begin */
int http_status(const http_exchange *x); /* of the answer; 0: none yet */
/* Begins a stream; its bytes are what is put into *http_out. */
void http_stream_begin(http_exchange *x, int status, const char *content_type);
td_buf *http_out(http_exchange *x);
bool http_client_gone(const http_exchange *x); /* asks the socket */

#endif
