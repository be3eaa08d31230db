/* Messages and tools as OpenAI's dialect writes them in JSON, read into the message model. Other dialects have their
 * own readers in src/server; files of conversations and tests use this one. */
#ifndef TD_TEXT_CHAT_JSON_H
#define TD_TEXT_CHAT_JSON_H

#include "chat.h"

/* Errors are TD_ERR_ARGUMENT with the texts that llama-server's clients know, and name the message's index. Everything
 * points into the JSON tree or the arena. */
td_status td_chat_messages_read(const td_json *messages, td_arena *a, td_chat_message **out, size_t *n_out,
                                td_error *err);
/* NULL or JSON null: no tools. Entries of other types than `function` are dropped and counted in *n_dropped. */
td_status td_chat_tools_read(const td_json *tools, td_arena *a, td_chat_tool **out, size_t *n_out, size_t *n_dropped,
                             td_error *err);
/* One tool from {name, description, parameters | input_schema, response, strict}. */
td_status td_chat_tool_read(const td_json *function, td_chat_tool *out, td_error *err);
/* Content parts: an array of objects with `type`. `what` names it in messages: "messages[3].content". */
td_status td_chat_parts_read(const td_json *content, td_arena *a, const char *what, td_chat_part **out, size_t *n_out,
                             td_error *err);
/* Arguments of a call: an object, or a string with one in it; "" and null mean {}. */
td_status td_chat_arguments_read(const td_json *arguments, td_arena *a, const char *what, const td_json **out,
                                 td_error *err);

#endif
