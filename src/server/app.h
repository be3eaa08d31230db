/* The server's own state and what its files share. */
#ifndef TD_SERVER_APP_H
#define TD_SERVER_APP_H

#include "../text/chat.h"
#include "../text/chat_replay.h"
#include "../text/json.h"
#include "http.h"
#include "msg.h"
#include "server.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

typedef enum server_state { SERVER_LOADING, SERVER_READY, SERVER_FAILED, SERVER_STOPPING } server_state;

typedef struct latency { /* a histogram: counts of values up to each bound of metrics.c */
    atomic_ullong bucket[17], count;
    _Atomic double sum;
} latency;

typedef struct server {
    const server_options *o;
    http_server *http;
    td_engine *engine; /* set before `state` becomes READY */
    const td_vocab *vocab;
    td_engine_info info;
    td_chat_vocab chat_vocab;
    bool has_chat;
    td_chat_profile profile;
    td_chat_replay *replay;
    _Atomic server_state state;
    atomic_bool cancelling; /* stopping, and no answer may finish any more */
    char model_id[128];
    int64_t started_s;
    td_error load_error;
    atomic_int n_tasks;
    atomic_ullong requests[5]; /* by the first digit of the status */
    latency ttft, token, total, queue;

    pthread_t reaper; /* closes jobs whose client is gone: that may take as long as a step */
    pthread_mutex_t reap_lock;
    pthread_cond_t reap;
    struct task *garbage;
    bool reap_stop;
} server;

/* ---- answers (respond.c) ---- */

/* Seven digits are what a float holds: 0.95 stays 0.95. */
#define JSON_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(7))
#define JSON_TYPE  "application/json; charset=utf-8"

http_turn answer_json(http_exchange *x, int status, json_t *body); /* takes over body */
http_turn answer_text(http_exchange *x, int status, const char *type, const char *text, size_t n);
/* In the dialect's shape; `extra` as in msg_write_error. */
http_turn answer_error(http_exchange *x, msg_dialect d, int status, const char *param, const char *extra,
                       const char *format, ...) __attribute__((format(printf, 6, 7)));
http_turn answer_td_error(http_exchange *x, msg_dialect d, const td_error *err);
/* The error body for a context that is too small, with the extra members clients look for. */
http_turn answer_context(http_exchange *x, msg_dialect d, int n_prompt, int n_ctx);

/* ---- request fields (fields.c) ---- */

typedef struct request_fields { /* what every generating endpoint shares */
    td_job_params job;
    int n; /* choices */
    bool stream, include_usage, return_tokens, timings_per_token, return_progress, tandem, echo;
    td_grammar *grammar;
    td_logit_bias *biases; /* in the arena */
    const char **stop;
    bool has_constraint;
} request_fields;

/* Reads the shared members into `f`, which holds the defaults. TD_ERR_ARGUMENT with the member's name in `param`. */
td_status fields_read(server *s, const td_json *body, td_arena *a, request_fields *f, char param[64], td_error *err);
void fields_init(server *s, request_fields *f);
json_t *fields_settings(const server *s, const td_job_params *p); /* generation_settings */
/* The table itself, for the test that walks it. */
typedef struct field_info {
    const char *name;
    char kind; /* i f b */
    double min, max;
    bool clamp;
} field_info;
const field_info *fields_table(int *n);

/* ---- generation (task.c) ---- */

typedef enum api { API_COMPLETION, API_OAI_COMPLETION, API_CHAT, API_ANTHROPIC, API_RESPONSES } api;

typedef struct choice {
    struct task *task;
    int index;
    td_job *job;
    bool done;
    td_finish finish;
    td_timings timings;
    td_buf text;         /* API_COMPLETION and OAI */
    json_t *ids, *probs; /* whole answers */
    uint32_t *tokens;    /* [n_tokens] everything generated, for replay */
    size_t n_tokens, cap_tokens;
    td_chat_parser *parser;
    msg_writer writer;
    char stop_word[256];
    bool truncated, began;
    int slot, n_cached, n_prompt, n_seen;
    int64_t t_last_ns;
} choice;

typedef struct task {
    server *s;
    http_exchange *x; /* NULL once the client is gone; under lock */
    pthread_mutex_t lock;
    td_arena *arena;
    const td_json *body;
    api api;
    msg_dialect dialect;
    request_fields f;
    msg_request msg;
    msg_head head;
    td_chat_prompt prompt;
    td_tokens ids;
    choice *choices; /* [f.n] */
    bool streaming, finished;
    int64_t t_begin_ns, t_ping_ns;
    char model[128];
    struct task *next; /* garbage */
} task;

http_turn task_begin_completion(server *s, http_exchange *x, api kind);
http_turn task_begin_chat(server *s, http_exchange *x, api kind);
http_turn task_turn(http_exchange *x, task *t);
void task_end(task *t);  /* the exchange is over; freed later */
void task_free(task *t); /* reaper */

/* formats of native completion (completion.c) */
void completion_event(task *t, choice *c, const td_event *ev);
void completion_end(task *t, choice *c);
http_turn completion_answer(task *t);
json_t *timings_json(const td_timings *t);
json_t *probs_json(const server *s, const td_event *ev, int i, bool post);
json_t *usage_json(const task *t);
void send_event(task *t, const char *event, json_t *data); /* takes over data */

/* ---- other endpoints (info.c, metrics.c) ---- */

http_turn serve_health(server *s, http_exchange *x);
http_turn serve_props(server *s, http_exchange *x);
http_turn serve_slots(server *s, http_exchange *x);
http_turn serve_slot_action(server *s, http_exchange *x, const char *rest);
http_turn serve_models(server *s, http_exchange *x, const char *id);
http_turn serve_tokenize(server *s, http_exchange *x);
http_turn serve_detokenize(server *s, http_exchange *x);
http_turn serve_apply_template(server *s, http_exchange *x);
http_turn serve_count(server *s, http_exchange *x, api kind);
http_turn serve_metrics(server *s, http_exchange *x);
void latency_add(latency *l, double seconds);

/* Parses the body as a JSON object; on failure answers 400 itself and returns NULL. */
const td_json *read_body(http_exchange *x, td_arena *a, msg_dialect d, http_turn *turn);
/* Messages of a chat body to prompt tokens. */
td_status chat_prompt(server *s, const msg_request *r, td_arena *a, td_chat_prompt *prompt, td_tokens *ids,
                      td_error *err);
td_status chat_read(server *s, api kind, const td_json *body, td_arena *a, msg_request *out, td_error *err);
const char *key_of(const server *s, http_exchange *x); /* NULL: prefixes are shared */

/* routes.c */
http_turn route(http_exchange *x, void *server_);

#endif
