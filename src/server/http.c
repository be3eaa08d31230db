/* HTTP over libmicrohttpd: a pool of threads with poll; connections that wait are suspended, so that a thousand idle
 * streams cost no thread and no place in the set that is polled. Not epoll: with it
 * three starts were seen in which new connections stayed unaccepted while both threads slept; the cause is not known.
 */
#define _GNU_SOURCE /* POLLRDHUP */
#include "http.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_HEADERS  32
#define MEMORY_LIMIT (64 * 1024) /* of one connection's headers */
#define STREAM_BLOCK (32 * 1024)

struct http_server {
    struct MHD_Daemon *daemon;
    http_options o;
    char *host, *key, *cert, *header;
    char *unix_path;
    int listen_fd, port;
    bool listening;
    atomic_int connections;
    atomic_bool stopping;       /* nothing sleeps any more: the library wants no suspended connection when it ends */
    pthread_mutex_t list_lock;  /* taken before an exchange's own lock */
    struct http_exchange *open; /* all exchanges */
};

typedef struct header {
    char *name, *value;
} header;

struct http_exchange {
    http_server *s;
    struct MHD_Connection *c;
    char *path, *method;
    td_buf body;
    bool too_large, begun, answered, streaming, ended, dropped;
    void *task;
    char request_id[64];
    int64_t t_begin_ns;
    header headers[MAX_HEADERS];
    int n_headers;
    td_buf out; /* stream bytes not yet taken by the library */
    size_t taken;
    struct MHD_Response *response;
    int status;
    pthread_mutex_t lock; /* the two below */
    bool asleep, woken;
    struct http_exchange *prev, *next; /* under the server's list_lock */
};

/* ---- sleeping and waking ---- */

/* True: the connection now sleeps; false: it was woken in the meantime, so another turn is due. */
static bool fall_asleep(http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool sleep = !x->woken && !atomic_load(&x->s->stopping);
    x->woken = false;
    if (sleep) {
        x->asleep = true;
        MHD_suspend_connection(x->c);
    }
    pthread_mutex_unlock(&x->lock);
    return sleep;
}

void http_wake(http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    if (x->asleep) {
        x->asleep = false;
        MHD_resume_connection(x->c);
    } else {
        x->woken = true;
    }
    pthread_mutex_unlock(&x->lock);
}

void http_wake_all(http_server *s) {
    pthread_mutex_lock(&s->list_lock);
    for (http_exchange *x = s->open; x; x = x->next) http_wake(x);
    pthread_mutex_unlock(&s->list_lock);
}

/* Asked of the socket, whatever unread bytes (a next request, TLS's farewell) are before the end. */
bool http_client_gone(const http_exchange *x) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->c, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!info) return false;
    struct pollfd p = {.fd = info->connect_fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* ---- request ---- */

const char *http_method(const http_exchange *x) {
    return x->method;
}
const char *http_path(const http_exchange *x) {
    return x->path;
}

const char *http_query(const http_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->c, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_header(const http_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->c, MHD_HEADER_KIND, name);
}

const char *http_body(const http_exchange *x, size_t *n_bytes) {
    *n_bytes = x->body.n_bytes;
    return x->body.data ? x->body.data : "";
}

const char *http_request_id(const http_exchange *x) {
    return x->request_id;
}
int http_status(const http_exchange *x) {
    return x->answered ? x->status : 0;
}
int64_t http_started_ns(const http_exchange *x) {
    return x->t_begin_ns;
}
void http_set_task(http_exchange *x, void *task) {
    x->task = task;
}
td_buf *http_out(http_exchange *x) {
    return &x->out;
}

static void make_request_id(http_exchange *x) {
    const char *given = http_header(x, "x-request-id");
    size_t n = given ? strlen(given) : 0;
    bool fine = n > 0 && n < sizeof x->request_id;
    for (size_t i = 0; i < n && fine; i++) fine = given[i] > ' ' && given[i] < 127;
    if (fine) {
        memcpy(x->request_id, given, n + 1);
        return;
    }
    uint64_t bits[2] = {(uint64_t)td_clock_ns(), (uint64_t)(uintptr_t)x};
    (void)!getrandom(bits, sizeof bits, GRND_NONBLOCK);
    snprintf(x->request_id, sizeof x->request_id, "req_%016llx%016llx", (unsigned long long)bits[0],
             (unsigned long long)bits[1]);
}

/* ---- answer ---- */

void http_add_header(http_exchange *x, const char *name, const char *value) {
    if (x->n_headers == MAX_HEADERS) return;
    header *h = &x->headers[x->n_headers];
    h->name = strdup(name);
    h->value = strdup(value);
    if (h->name && h->value) x->n_headers++;
}

static void finish_headers(http_exchange *x, const char *content_type) {
    MHD_add_response_header(x->response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    MHD_add_response_header(x->response, MHD_HTTP_HEADER_SERVER, x->s->header);
    MHD_add_response_header(x->response, "x-request-id", x->request_id);
    for (int i = 0; i < x->n_headers; i++)
        MHD_add_response_header(x->response, x->headers[i].name, x->headers[i].value);
}

void http_answer(http_exchange *x, int status, const char *content_type, const void *body, size_t n_bytes) {
    if (x->answered) return;
    x->response = MHD_create_response_from_buffer(n_bytes, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    if (!x->response) return;
    x->status = status;
    x->answered = true;
    finish_headers(x, content_type);
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max);

void http_stream_begin(http_exchange *x, int status, const char *content_type) {
    if (x->answered) return;
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, NULL);
    if (!x->response) return;
    x->status = status;
    x->answered = x->streaming = true;
    finish_headers(x, content_type);
    MHD_add_response_header(x->response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(x->response, "X-Accel-Buffering", "no");
}

static enum MHD_Result queue(http_exchange *x) {
    enum MHD_Result r = MHD_queue_response(x->c, (unsigned)x->status, x->response);
    MHD_destroy_response(x->response);
    x->response = NULL;
    return r;
}

/* Takes turns until there is something to do other than to wait. */
static http_turn take_turns(http_exchange *x) {
    for (;;) {
        http_turn t = x->begun ? x->s->o.handler.turn(x, x->task) : x->s->o.handler.begin(x, x->s->o.handler.user);
        x->begun = true;
        if (t != HTTP_WAIT) return t;
        if (atomic_load(&x->s->stopping)) {
            x->dropped = true;
            return HTTP_END;
        }
        if (fall_asleep(x)) return HTTP_WAIT;
    }
}

/* The library asks for stream bytes. */
static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max) {
    (void)pos;
    http_exchange *x = cls;
    while (x->taken == x->out.n_bytes) {
        td_buf_clear(&x->out);
        x->taken = 0;
        if (x->ended) return MHD_CONTENT_READER_END_OF_STREAM;
        http_turn t = take_turns(x);
        if (t == HTTP_WAIT) return 0; /* asleep; called again after http_wake */
        if (x->dropped) return MHD_CONTENT_READER_END_WITH_ERROR;
        if (t == HTTP_END) x->ended = true;
    }
    size_t n = x->out.n_bytes - x->taken;
    if (n > max) n = max;
    memcpy(buf, x->out.data + x->taken, n);
    x->taken += n;
    return (ssize_t)n;
}

/* ---- the library's callbacks ---- */

static http_exchange *create(http_server *s, struct MHD_Connection *c, const char *url, const char *method) {
    http_exchange *x = td_calloc(1, sizeof *x);
    if (!x) return NULL;
    x->s = s;
    x->c = c;
    x->path = strdup(url);
    x->method = strdup(method);
    if (!x->path || !x->method) {
        free(x->path);
        free(x->method);
        free(x);
        return NULL;
    }
    x->t_begin_ns = td_clock_ns();
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutex_lock(&s->list_lock);
    x->next = s->open;
    if (s->open) s->open->prev = x;
    s->open = x;
    pthread_mutex_unlock(&s->list_lock);
    make_request_id(x);
    const char *length = http_header(x, "Content-Length");
    if (length && strtoull(length, NULL, 10) > s->o.limits.max_body) x->too_large = true;
    return x;
}

static void answer_too_large(http_exchange *x) {
    const http_server *s = x->s;
    s->o.handler.too_large(x, s->o.limits.max_body, s->o.handler.user);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n_data, void **state) {
    (void)version;
    http_server *s = cls;
    http_exchange *x = *state;
    if (!x) { /* headers are here */
        x = create(s, c, url, method);
        *state = x;
        if (!x) return MHD_NO;
        if (x->too_large) { /* answered before the body is read: the connection closes after it */
            answer_too_large(x);
            return queue(x);
        }
        return MHD_YES;
    }
    if (*n_data > 0) {
        if (x->body.n_bytes + *n_data > s->o.limits.max_body)
            x->too_large = true, td_buf_free(&x->body);
        else if (!x->too_large && !td_buf_add(&x->body, data, *n_data))
            x->too_large = true;
        *n_data = 0;
        return MHD_YES;
    }
    if (x->streaming) return MHD_YES; /* the reader goes on */
    if (x->too_large) {
        answer_too_large(x);
        return queue(x);
    }
    http_turn t = take_turns(x);
    if (t == HTTP_WAIT) return MHD_YES; /* asleep; called again after http_wake */
    if (!x->response) return MHD_NO;    /* no memory for an answer: the connection is dropped */
    if (t == HTTP_END) x->ended = true;
    return queue(x);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode code) {
    (void)c;
    (void)code;
    http_server *s = cls;
    http_exchange *x = *state;
    *state = NULL;
    if (!x) return;
    pthread_mutex_lock(&s->list_lock);
    if (x->next) x->next->prev = x->prev;
    *(x->prev ? &x->prev->next : &s->open) = x->next;
    pthread_mutex_unlock(&s->list_lock);
    if (x->begun) s->o.handler.end(x, x->task, s->o.handler.user);
    if (x->response) MHD_destroy_response(x->response);
    for (int i = 0; i < x->n_headers; i++) {
        free(x->headers[i].name);
        free(x->headers[i].value);
    }
    td_buf_free(&x->body);
    td_buf_free(&x->out);
    pthread_mutex_destroy(&x->lock);
    free(x->path);
    free(x->method);
    free(x);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **socket_state,
                          enum MHD_ConnectionNotificationCode code) {
    (void)c;
    (void)socket_state;
    http_server *s = cls;
    atomic_fetch_add(&s->connections, code == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1);
}

static void on_log(void *cls, const char *format, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_log(void *cls, const char *format, va_list ap) {
    (void)cls;
    char text[512];
    vsnprintf(text, sizeof text, format, ap);
    size_t n = strlen(text);
    while (n > 0 && text[n - 1] == '\n') text[--n] = 0;
    td_log(TD_LOG_DEBUG, "http: %s", text);
}

/* ---- listening ---- */

static td_status listen_unix(http_server *s, td_error *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(s->host) >= sizeof a.sun_path)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--host: the socket path is longer than %zu bytes",
                       sizeof a.sun_path - 1);
    memcpy(a.sun_path, s->host, strlen(s->host) + 1);
    struct stat st;
    if (lstat(s->host, &st) == 0 && S_ISSOCK(st.st_mode)) (void)unlink(s->host);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&a, sizeof a) != 0)
        return td_fail_errno(err, errno, "the socket %s cannot be bound", s->host);
    s->unix_path = s->host;
    return TD_OK;
}

static td_status listen_tcp(http_server *s, td_error *err) {
    char port[16];
    snprintf(port, sizeof port, "%d", s->o.port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    int code = getaddrinfo(s->host, port, &hints, &list);
    if (code) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--host %s: %s", s->host, gai_strerror(code));
    int failed = 0;
    for (struct addrinfo *a = list; a && s->listen_fd < 0; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol), one = 1;
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (s->o.reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0)
            s->listen_fd = fd;
        else
            failed = errno, close(fd);
    }
    freeaddrinfo(list);
    if (s->listen_fd < 0) return td_fail_errno(err, failed, "cannot listen on %s port %d", s->host, s->o.port);
    struct sockaddr_storage bound = {0};
    socklen_t n = sizeof bound;
    if (getsockname(s->listen_fd, (struct sockaddr *)&bound, &n) == 0)
        /* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): getsockname has written it, one member seen as another */
        s->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                    : ((struct sockaddr_in *)&bound)->sin_port);
    return TD_OK;
}

static td_status open_socket(http_server *s, td_error *err) {
    size_t n = strlen(s->host);
    bool local = n > 5 && strcmp(s->host + n - 5, ".sock") == 0;
    td_status status = local ? listen_unix(s, err) : listen_tcp(s, err);
    if (!status && listen(s->listen_fd, 1024) != 0) status = td_fail_errno(err, errno, "cannot listen on %s", s->host);
    return status;
}

static void free_server(http_server *s) {
    if (s->listen_fd >= 0 && !s->daemon) close(s->listen_fd);
    if (s->unix_path) (void)unlink(s->unix_path);
    free(s->host);
    free(s->key);
    free(s->cert);
    free(s->header);
    pthread_mutex_destroy(&s->list_lock);
    free(s);
}

td_status http_start(http_server **out, const http_options *o, td_error *err) {
    *out = NULL;
    http_server *s = td_calloc(1, sizeof *s);
    if (!s) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the server");
    s->o = *o;
    s->listen_fd = -1;
    pthread_mutex_init(&s->list_lock, NULL);
    s->host = strdup(o->host);
    s->header = strdup(o->server_header ? o->server_header : "Tandem");
    s->key = o->key_pem ? strdup(o->key_pem) : NULL;
    s->cert = o->cert_pem ? strdup(o->cert_pem) : NULL;
    td_status status = s->host && s->header ? open_socket(s, err)
                                            : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the server");
    if (status) {
        free_server(s);
        return status;
    }
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_ITC;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_KEY, 0, s->key}, {MHD_OPTION_HTTPS_MEM_CERT, 0, s->cert}, {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    if (s->key) flags |= MHD_USE_TLS;
    s->daemon =
        MHD_start_daemon(flags, (uint16_t)s->port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                         MHD_OPTION_LISTEN_SOCKET, s->listen_fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_TIMEOUT,
                         (unsigned)o->limits.idle_timeout_s, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)o->limits.max_connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
                         (unsigned)o->limits.max_per_address, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_LIMIT,
                         MHD_OPTION_THREAD_POOL_SIZE, (unsigned)(o->limits.n_threads > 1 ? o->limits.n_threads : 0),
                         MHD_OPTION_ARRAY, s->key ? tls : none, MHD_OPTION_END);
    if (!s->daemon) {
        status = td_fail(err, TD_ERR_IO, TD_NO_OFFSET, "the HTTP server cannot be started%s",
                         s->key ? ": is the library built with TLS, and do key and certificate fit together?" : "");
        free_server(s);
        return status;
    }
    s->listening = true;
    *out = s;
    return TD_OK;
}

int http_port(const http_server *s) {
    return s->port;
}
void http_quiesce(http_server *s) {
    if (!s->listening) return;
    s->listening = false;
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0) close(fd);
}

void http_stop(http_server *s) {
    if (!s) return;
    atomic_store(&s->stopping, true);
    http_wake_all(s);
    MHD_stop_daemon(s->daemon);
    free_server(s);
}
