/* The three chat dialects (OpenAI chat completions, Anthropic messages, OpenAI responses) as pure functions: a body to
 * the message model, and the parser's events to the bytes that the client gets. No HTTP, no engine, no threads here.
 *
 * What all dialects share with plain completion (temperature, top_k, seed, …) is not read here: those members have the
 * same names everywhere and go through the table of request fields. */
#ifndef TD_SERVER_MSG_H
#define TD_SERVER_MSG_H

#include "../text/chat_json.h"
#include "../text/chat_parse.h"

typedef enum msg_dialect { MSG_CHAT, MSG_ANTHROPIC, MSG_RESPONSES } msg_dialect;

/* ---- requests ---------------------------------------------------------------------------------------------------- */

typedef struct msg_defaults { /* what the command line says */
    int reasoning;            /* 1 on, 0 off, -1 auto, which means on */
    int64_t reasoning_budget; /* tokens, -1: none */
    td_chat_reasoning_format reasoning_format;
    bool preserve_thinking;
    bool anthropic_thinking; /* an Anthropic request without `thinking` thinks by `reasoning`; else not at all */
    bool keep_client_noise;  /* X10 off */
    bool no_prefill;         /* a last assistant message is not continued */
    bool media;              /* images and sound are supported */
    const td_json *previous; /* responses: items before this request's, an array; NULL: none */
} msg_defaults;

typedef enum msg_tool_choice { MSG_TOOLS_AUTO, MSG_TOOLS_NONE, MSG_TOOLS_REQUIRED } msg_tool_choice;
typedef enum msg_format { MSG_FORMAT_TEXT, MSG_FORMAT_OBJECT, MSG_FORMAT_SCHEMA } msg_format;

typedef struct msg_request { /* everything borrowed from the body's tree or its arena */
    msg_dialect dialect;
    const td_json *body;
    td_chat_message *messages;
    size_t n_messages;
    td_chat_tool *tools; /* cleaned (X5) */
    size_t n_tools;
    size_t n_dropped; /* tools and blocks that were left out: to be logged */
    msg_tool_choice tool_choice;
    bool *allowed; /* [n_tools] the tools that may be called; NULL: all */
    bool *custom;  /* [n_tools] responses: tools of free text; NULL: none */
    bool parallel_calls;
    msg_format format;
    const td_json *schema; /* FORMAT_SCHEMA, or FORMAT_OBJECT with a schema; else NULL */
    bool schema_strict;

    bool thinking;
    bool thinking_by_default; /* nobody said anything */
    bool preserve_thinking;
    int64_t reasoning_budget; /* tokens, -1: none */
    td_chat_reasoning_format reasoning_format;
    bool hide_reasoning;
    bool no_generation_prompt, continue_final;

    bool stream, include_usage;
    bool logprobs;
    int top_logprobs;
    int64_t max_tokens; /* -1: not given */
    td_slice *stop;
    size_t n_stop;
    td_slice previous_response_id; /* responses; may be empty */
    td_slice instructions;         /* responses; may be empty */
    const td_json *previous;       /* responses: the items of that one, NULL without */
    bool no_store;                 /* responses: store is false */
    char param[64];                /* after an error: the member it is about, or "" */
} msg_request;

/* All fill *out even on error (for `param`). TD_ERR_ARGUMENT: HTTP 400 with the error's text. The body is an object. */
td_status msg_read_chat(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err);
td_status msg_read_anthropic(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err);
td_status msg_read_responses(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err);

/* The options of td_chat_render for this request. */
td_chat_options msg_render_options(const msg_request *r, td_chat_profile profile, td_chat_replay *replay);

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* "call_" and 24 random letters and digits; out has room for strlen(prefix) + n + 1. */
void msg_new_id(char *out, const char *prefix, int n);

typedef struct msg_head {
    char id[64]; /* chatcmpl-…, msg_…, resp_… */
    const char *model, *fingerprint;
    int64_t created; /* seconds since 1970 */
} msg_head;

typedef struct msg_usage {
    int64_t n_prompt, n_cached, n_generated, n_reasoning, n_draft_accepted, n_draft_rejected;
} msg_usage;

typedef enum msg_stop {                  /* why generation ended */
                        MSG_STOP_MODEL,  /* an end token */
                        MSG_STOP_WORD,   /* a stop string */
                        MSG_STOP_LENGTH, /* max_tokens */
                        MSG_STOP_CONTEXT /* the context is full */
} msg_stop;

typedef struct msg_writer { /* one choice of one answer */
    const msg_request *request;
    const msg_head *head;
    int index; /* of the choice */
    td_buf *out;
    td_chat_reply reply;
    char (*call_ids)[40]; /* [reply.n_calls]: the id that clients send back with results */
    size_t cap_call_ids;
    td_buf logprobs;                /* OpenAI: objects to go with the next chunk, separated by commas */
    const char *timings, *progress; /* JSON objects for the next chunks, or NULL; borrowed */
    bool failed;
    /* streams of blocks and items */
    int block;        /* open block: 0 none, else 1 + td_chat_block_kind */
    int n_blocks;     /* blocks or items begun */
    int64_t sequence; /* of events, responses */
    td_buf text;      /* of the open item, responses */
    char item_id[40];
    td_buf items;  /* finished items of a response, as JSON */
    td_buf object; /* the finished response */
    bool custom;   /* the open item calls a tool of free text */
} msg_writer;

/* `out` takes the stream's events, or the whole answer at the end. */
void msg_writer_init(msg_writer *w, const msg_request *r, const msg_head *head, int index, td_buf *out);
void msg_writer_free(msg_writer *w);
/* The stream's beginning; nothing when the request does not stream. */
bool msg_writer_begin(msg_writer *w, const msg_usage *usage);
/* A td_chat_sink with the writer as context. */
bool msg_writer_event(void *writer, const td_chat_event *e);
/* OpenAI chat: one element of logprobs.content, a JSON object. */
bool msg_writer_logprob(msg_writer *w, const char *json, size_t n_bytes);
/* OpenAI chat, stream: a chunk with nothing but prompt_progress (w->progress) and the first role delta. */
bool msg_writer_progress(msg_writer *w);
/* This choice is complete: a stream gets its closing events; a whole answer is written by msg_write_answer. */
bool msg_writer_end(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *usage);

/* OpenAI chat, stream: behind the last choice, the usage chunk if asked for and [DONE]. The other dialects need none.
 */
bool msg_write_end(msg_writer *last, const msg_usage *usage);
/* Not a stream: the whole answer of n writers (1 but for OpenAI chat), each with its own reason. */
bool msg_write_answer(td_buf *out, msg_writer *const *w, const msg_stop *why, const char *const *stop_words, int n,
                      const msg_usage *usage);

/* Error bodies in the dialect's shape. `param` may be NULL. `extra`: further members, ",\"n_ctx\":5", or NULL. */
bool msg_write_error(td_buf *out, msg_dialect d, int http_status, const char *text, const char *param,
                     const char *extra, const char *request_id);
/* An error behind the beginning of a stream: the event; the stream is then closed without [DONE]. */
bool msg_writer_fail(msg_writer *w, int http_status, const char *text, const char *request_id);
const char *msg_error_type(msg_dialect d, int http_status); /* "invalid_request_error" */

#endif
