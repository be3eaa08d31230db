/* Inside of the dialects: what their readers and writers share. */
#ifndef TD_SERVER_MSG_IMPL_H
#define TD_SERVER_MSG_IMPL_H

#include "msg.h"

#include "../base/status.h"

#include <string.h>

typedef struct msg_reader {
    msg_request *r;
    const msg_defaults *d;
    td_arena *a;
    td_error *err;
} msg_reader;

static inline td_slice msg_text(const char *s) {
    return (td_slice){s, strlen(s)};
}

/* ---- msg_common.c: reading --------------------------------------------------------------------------------------- */

/* TD_ERR_ARGUMENT with `param` noted. */
td_status msg_bad(msg_reader *m, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));
td_status msg_no_memory(msg_reader *m);
/* Members with a type; absent and null leave *out as it is. */
td_status msg_get_bool(msg_reader *m, const td_json *object, const char *name, bool *out);
td_status msg_get_int(msg_reader *m, const td_json *object, const char *name, int64_t low, int64_t high, int64_t *out);
td_status msg_get_string(msg_reader *m, const td_json *object, const char *name, td_slice *out);
/* A string or an array of strings. */
td_status msg_get_stop(msg_reader *m, const char *name);
/* Sets what no dialect changes and everything that all share: stream, cache keys, reasoning formats, template options.
 */
td_status msg_read_common(msg_reader *m);
/* The thinking switches in their order; `dialect_says`: 1 on, 0 off, -1 nothing. */
td_status msg_read_thinking(msg_reader *m, int dialect_says, const char *effort_param, const td_json *effort);
/* After the tools are read: tool_choice in the spelling of any dialect. */
td_status msg_read_tool_choice(msg_reader *m, const td_json *choice);
/* {type: text | json_object | json_schema}, the schema in it or under json_schema. */
td_status msg_read_format(msg_reader *m, const td_json *format, const char *param);
td_status msg_clean_tools(msg_reader *m);
/* Media that the model does not take; and the last assistant message as a beginning of the answer. */
td_status msg_check_messages(msg_reader *m);

typedef struct msg_list { /* messages being collected */
    td_chat_message *m;
    size_t n, cap;
} msg_list;

/* A zeroed message at the end; NULL without memory. Arena memory: growing copies. */
td_chat_message *msg_add(msg_reader *m, msg_list *list, td_chat_role role);
/* Copies with parts or calls doubled when the array is full: cap is the next power of two. */
td_chat_part *msg_add_part(msg_reader *m, td_chat_message *to, td_chat_part_kind kind);
td_chat_call *msg_add_call(msg_reader *m, td_chat_message *to);
/* A text appended to the message's content. */
td_status msg_add_text(msg_reader *m, td_chat_message *to, td_slice text);

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Each returns false without memory and notes it in w->failed. */
bool msg_put(msg_writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool msg_put_string(msg_writer *w, const char *text, size_t n_bytes);
bool msg_put_raw(msg_writer *w, const char *text, size_t n_bytes);
bool msg_hidden(const msg_writer *w); /* reasoning is not to be sent */
const char *msg_call_id(const msg_writer *w, size_t call);
bool msg_ended_with_calls(const msg_writer *w, msg_stop why);

bool msg_chat_begin(msg_writer *w, const msg_usage *u);
bool msg_chat_event(msg_writer *w, const td_chat_event *e);
bool msg_chat_end(msg_writer *w, msg_stop why);
bool msg_chat_answer(td_buf *out, msg_writer *const *w, const msg_stop *why, int n, const msg_usage *u);
bool msg_anthropic_begin(msg_writer *w, const msg_usage *u);
bool msg_anthropic_event(msg_writer *w, const td_chat_event *e);
bool msg_anthropic_end(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *u);
bool msg_anthropic_answer(msg_writer *w, msg_stop why, const char *stop_word, const msg_usage *u);
bool msg_responses_begin(msg_writer *w, const msg_usage *u);
bool msg_responses_event(msg_writer *w, const td_chat_event *e);
bool msg_responses_end(msg_writer *w, msg_stop why, const msg_usage *u);
bool msg_responses_fail(msg_writer *w, int http_status, const char *text);
bool msg_responses_answer(msg_writer *w, msg_stop why, const msg_usage *u);

#endif
