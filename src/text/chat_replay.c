/* See chat_replay.h. */
#include "chat_replay.h"
bool td_chat_replay_find(td_chat_replay *r, const td_chat_message *m, td_tokens *tokens, td_buf *text,
                         bool *has_thought) {
    (void)r;
    (void)m;
    (void)tokens;
    (void)text;
    (void)has_thought;
    return false;
}
