/* Conversations written as JSON, for the tests of the chat format. */
#ifndef TESTS_TEXT_CHAT_FIXTURE_H
#define TESTS_TEXT_CHAT_FIXTURE_H

#include "text/chat_json.h"
#include "text/chat_parse.h"

/* Renders {"messages": […], "tools": […], "options": {profile, …}}; the options of chat-cases.json and `strict`
 * (default true), `continue_final`, `by_default`, `template_order`. Aborts the test on any error. The prompt's data
 * lives in the arena. */
void chat_fixture_render(const td_json *c, td_arena *a, td_chat_replay *replay, td_chat_prompt *out);
/* The same from a text with single quotation marks instead of double ones; returns malloc'ed text. */
char *chat_fixture_text(const char *json);

#endif
