/* `tandem serve`: OpenAI, Anthropic and llama-server endpoints on one engine. */
#ifndef TD_SERVER_SERVER_H
#define TD_SERVER_SERVER_H

#include "../../include/tandem.h"

/* What holds the arguments of calls that a model may, but need not make. */
typedef enum server_tools { SERVER_TOOLS_SCHEMA, SERVER_TOOLS_SYNTAX, SERVER_TOOLS_FREE } server_tools;

typedef struct server_options {
    const char *host;
    int port;
    bool reuse_port, allow_open; /* allow_open: listen beyond loopback without a key */
    const char *const *api_keys;
    int n_api_keys;
    const char *key_file, *cert_file; /* TLS, PEM */
    const char *const *cors_origins;
    int n_cors_origins;
    const char *cors_methods, *cors_headers; /* NULL: the usual ones */
    bool cors_no_credentials;
    const char *api_prefix, *alias, *tags, *slot_save_path, *server_header;
    bool metrics, slots, props, page, strict_model, share_prefixes, no_cache_prompt;
    int threads_http, timeout_s, max_connections, queue_max, queue_timeout_s, sse_ping_s;
    int64_t max_body;
    int n_predict, n_keep; /* of requests that do not say */
    int reasoning;         /* 1 on, 0 off, -1 auto */
    int64_t reasoning_budget;
    const char *reasoning_message;
    int reasoning_format; /* td_chat_reasoning_format */
    server_tools tool_grammar;
    bool reasoning_preserve, anthropic_thinking, no_prefill;
    const char *chat_profile;
    td_sampling sampling; /* defaults of requests */
    td_engine_params engine;
} server_options;

/* Listens, loads, serves until SIGINT or SIGTERM; a second signal cancels what still runs. Returns the exit code. */
int server_run(const server_options *o);

#endif
