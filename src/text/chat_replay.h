/* Exact replay (X11): the tokens of answers with tool calls, kept so that the next request shows the model what it
 * really wrote and the cached prefix goes on. Keyed by the ids of the calls; thread-safe; bounded in bytes, least
 * recently used out first. */
#ifndef TD_TEXT_CHAT_REPLAY_H
#define TD_TEXT_CHAT_REPLAY_H

#include "chat_parse.h"

td_status td_chat_replay_create(td_chat_replay **out, size_t max_bytes, td_error *err);
void td_chat_replay_destroy(td_chat_replay *r);

/* `tokens`: the part of the turn that the prompt already held (td_chat_start.begin) and the generated ones without the
 * end token; `text`: theirs, markers included. `ids`: one per call of the reply. Answers without calls are ignored. */
td_status td_chat_replay_put(td_chat_replay *r, const td_chat_reply *reply, const td_slice *ids, const uint32_t *tokens,
                             size_t n_tokens, const char *text, size_t n_text, td_error *err);

/* Copies tokens and text of the answer that this message repeats: same ids, names, arguments as values, content, and
 * reasoning where the client sent one. *has_thought: there is a thought in it, an empty one included. False: none. */
bool td_chat_replay_find(td_chat_replay *r, const td_chat_message *m, td_tokens *tokens, td_buf *text,
                         bool *has_thought);

size_t td_chat_replay_bytes(td_chat_replay *r);

#endif
