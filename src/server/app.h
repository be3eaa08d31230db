/* The server's own state and what its files share. */
#ifndef TD_SERVER_APP_H
#define TD_SERVER_APP_H

#include "../text/chat.h"
#include "../text/chat_replay.h"
#include "../text/json.h"
#include "http.h"
#include "msg.h"
#include "server.h"
#include "store.h"
#include "timings.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

typedef enum finish_class { /* label finish_reason of requests_total */
                            FINISH_STOP,
                            FINISH_LENGTH,
                            FINISH_TOOL_CALLS,
                            FINISH_CANCELLED,
                            FINISH_ERROR,
                            N_FINISHES
} finish_class;

typedef enum server_state { SERVER_LOADING, SERVER_READY, SERVER_FAILED, SERVER_STOPPING } server_state;

typedef struct latency { /* a histogram: counts of values up to each bound of metrics.c */
    atomic_ullong bucket[17], count;
    _Atomic double sum;
} latency;

typedef struct slot_note { /* what /slots shows of the last task of a slot beyond the engine's figures */
    char *params;          /* JSON text */
    td_buf prompt, generated;
} slot_note;

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
    atomic_ullong finishes[N_FINISHES], n_calls, n_call_failures;
    latency ttft, token, total, queue, prompt_size, answer_size;
    struct rates *rates; /* metrics.c: the last minute */
    store *responses;
    _Atomic int64_t t_alive_ns; /* when the engine was last seen to go on */

    pthread_mutex_t tasks_lock;
    struct task *tasks; /* those that run, for /control */
    slot_note *notes;   /* [n_slots]; under tasks_lock */
    bool show_prompts;  /* LLAMA_SERVER_SLOTS_DEBUG */

    pthread_t clerk;             /* saves, restores and erases slots, which may have to wait for them */
    struct slot_action *actions; /* under tasks_lock */
    pthread_cond_t acting;
    bool clerk_stop;

    pthread_t reaper; /* closes jobs whose client is gone: that may take as long as a step */
    pthread_mutex_t reap_lock;
    pthread_cond_t reap;
    struct task *garbage;
    bool reap_stop;
} server;

#define REQUEST_BYTES ((size_t)512 << 20) /* limit of a request's arena */

/* ---- answers (respond.c) ---- */

/* system_fingerprint and build_info, in the shape of the reference: b, a number, a name. */
#define FINGERPRINT "b" TD_VERSION "-tandem"

/* Seven digits are what a float holds: 0.95 stays 0.95. */
#define JSON_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(7))
#define JSON_TYPE  "application/json; charset=utf-8"

http_turn answer_json(http_exchange *x, int status, json_t *body); /* takes over body */
http_turn answer_text(http_exchange *x, int status, const char *type, const char *text, size_t n);
/* In the dialect's shape; `extra` as in msg_write_error. */
http_turn answer_error(http_exchange *x, msg_dialect d, int status, const char *param, const char *extra,
                       const char *format, ...) __attribute__((format(printf, 6, 7)));
http_turn answer_td_error(http_exchange *x, msg_dialect d, const td_error *err);
/* 400 that names `field`, or the one that the text begins with. */
http_turn answer_field_error(http_exchange *x, const char *field, const td_error *err);
/* The error body for a context that is too small, with the extra members clients look for. */
http_turn answer_context(http_exchange *x, msg_dialect d, int n_prompt, int n_ctx);

/* ---- request fields (fields.c) ---- */

typedef struct request_fields { /* what every generating endpoint shares */
    td_job_params job;
    int n, ping_s; /* choices; silence before a sign of life, -1 none */
    bool chat;     /* a chat endpoint */
    bool stream, include_usage, return_tokens, timings_per_token, return_progress, tandem, echo;
    int reasoning_budget; /* tokens, -1 none */
    bool reasoning_control;
    const char *reasoning_message; /* before the end of a thought that is cut; may be NULL */
    td_grammar *grammar;
    td_slice grammar_text;
    td_logit_bias *biases; /* in the arena */
    const char **stop;
    const td_json *response_fields; /* array of strings, NULL: everything */
} request_fields;

/* Reads the shared members into `f`, which holds the defaults. TD_ERR_ARGUMENT with the member's name in `param`. */
td_status fields_read(server *s, const td_json *body, td_arena *a, request_fields *f, char param[64], td_error *err);
void fields_init(server *s, request_fields *f);
json_t *fields_settings(const server *s, const request_fields *f); /* generation_settings */
/* The table itself, for the test that walks it. */
typedef struct field_info {
    const char *name;
    char kind; /* i int, l long, f float, b bool, s string, a array; x: `types` */
    double min, max;
    bool clamp;
    const char *types; /* x: what it may be: n number, s string, b bool, a array, o object */
} field_info;
const field_info *fields_table(int *n);

/* ---- generation ---- */

typedef enum api { API_COMPLETION, API_OAI_COMPLETION, API_CHAT, API_ANTHROPIC, API_RESPONSES } api;

static inline msg_dialect api_dialect(api kind) {
    return kind == API_ANTHROPIC ? MSG_ANTHROPIC : kind == API_RESPONSES ? MSG_RESPONSES : MSG_CHAT;
}

typedef struct choice {
    struct task *task;
    int index;
    const td_tokens *prompt;
    td_job *job;
    bool done;
    td_finish finish;
    td_timings timings;
    td_buf text;      /* API_COMPLETION and OAI */
    json_t *probs;    /* whole answers */
    uint32_t *tokens; /* [n_tokens] everything generated, for replay */
    size_t n_tokens, cap_tokens;
    td_chat_parser *parser;
    msg_writer writer;
    char stop_word[256];
    bool truncated, has_new_line, began, noted;
    int slot, n_cached, n_seen;
    size_t text_offset; /* of the next token's text, logprobs of /v1/completions */
} choice;

typedef enum work_kind { WORK_TASK, WORK_SLOT_ACTION } work_kind; /* first member of what an exchange waits for */

typedef struct task {
    work_kind kind;
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
    td_tokens *prompts; /* [n_prompts] */
    td_tokens closing;  /* what ends a thought that is cut */
    choice *choices;    /* [n_choices] f.n for each prompt */
    int n_prompts, n_choices;
    bool headers, streaming, started, finished; /* stream: its headers went out, its beginning did; a slot was taken */
    int64_t t_begin_ns, t_ping_ns, t_deadline_ns; /* deadline 0: none */
    char model[128];
    const char *owner; /* see owner_of */
    bool listed;
    struct task *next; /* garbage */
    struct task *next_running, *prev_running;
} task;

/* task_begin.c */
http_turn task_begin(server *s, http_exchange *x, api kind);
td_status chat_prompt(server *s, const msg_request *r, td_arena *a, td_chat_prompt *prompt, td_tokens *ids,
                      td_error *err);
/* With the stored items of a previous response, where the body names one (`owner` may read its own only). */
td_status chat_read(server *s, api kind, const char *owner, const td_json *body, td_arena *a, msg_request *out,
                    td_error *err);

/* task.c */
task *task_new(server *s, http_exchange *x, api kind);
http_turn task_turn(http_exchange *x, task *t);
void task_end(task *t);  /* the exchange is over; freed later */
void task_free(task *t); /* reaper */
void task_list(task *t); /* from now on serve_control finds it */
void task_unlist(task *t);
bool task_is_chat(const task *t);
msg_usage task_usage(const task *t);
void task_on_ready(void *task);
http_turn serve_control(server *s, http_exchange *x);
void send_event(task *t, const char *event, json_t *data); /* takes over data */

/* task_chat.c: choices of the chat dialects */
td_status chat_choices(task *t, td_error *err);
void chat_begin(task *t);
void chat_tokens(task *t, choice *c, const td_event *ev);
void chat_progress(task *t, choice *c, const td_event *ev);
void chat_end(task *t, choice *c);
http_turn chat_answer(task *t);

/* completion.c: native completion and OpenAI's */
void completion_begin(task *t);
void completion_event(task *t, choice *c, const td_event *ev);
void completion_progress(task *t, choice *c, const td_event *ev);
void completion_end(task *t, choice *c);
http_turn completion_answer(task *t);
json_t *progress_json(const td_event *ev);
json_t *probs_json(const server *s, const td_event *ev, int i, bool post);

/* ---- other endpoints (info.c, metrics.c) ---- */

http_turn serve_health(server *s, http_exchange *x);
http_turn serve_props(server *s, http_exchange *x);
http_turn serve_models(server *s, http_exchange *x, const char *id);
http_turn serve_tags(server *s, http_exchange *x);
http_turn serve_show(server *s, http_exchange *x);
http_turn serve_response(server *s, http_exchange *x, const char *id);
http_turn serve_tokenize(server *s, http_exchange *x);
http_turn serve_detokenize(server *s, http_exchange *x);
http_turn serve_apply_template(server *s, http_exchange *x);
http_turn serve_count(server *s, http_exchange *x, api kind);

http_turn serve_metrics(server *s, http_exchange *x);
void latency_add(latency *l, double seconds);
void size_add(latency *l, int n);
td_status rates_create(server *s, td_error *err);
void rates_destroy(server *s);
void rates_note(server *s); /* about once a second */

/* ---- slots (slots.c) ---- */

http_turn serve_slots(server *s, http_exchange *x);
http_turn serve_slot_action(server *s, http_exchange *x, const char *rest);
typedef struct slot_action slot_action;
http_turn slot_action_turn(http_exchange *x, slot_action *a);
void slot_action_end(slot_action *a);
void *slot_clerk(void *server);
void slot_note_start(task *t, choice *c);
void slot_note_text(task *t, choice *c, const td_event *ev);

/* Parses the body as a JSON object; on failure answers 400 itself and returns NULL. */
const td_json *read_body(http_exchange *x, td_arena *a, msg_dialect d, http_turn *turn);
/* A body in an arena of its own. False: `turn` is the answer, and there is nothing to destroy. */
typedef struct own_body {
    td_arena *arena;
    const td_json *json;
    http_turn turn;
} own_body;
bool own_body_read(own_body *b, http_exchange *x, msg_dialect d);
/* The server's own copy of a request's API key: the same key is the same pointer, as long as the server lives. */
const char *key_of(const server *s, http_exchange *x);   /* of prefixes; NULL: they are shared */
const char *owner_of(const server *s, http_exchange *x); /* of stored responses; NULL: there are no keys */

bool server_knows_model(const server *s, const char *name); /* an alias, or the file's name */

/* routes.c */
http_turn route(http_exchange *x, void *server_);
void route_too_large(http_exchange *x, size_t limit, void *server_);

#endif
