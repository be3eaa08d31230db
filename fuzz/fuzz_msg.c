/* Bodies of the chat endpoints: whatever they hold, each dialect reads or refuses them with a text, and what was read
 * can be rendered and answered. */
#include "server/msg.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok) {
    if (!ok) abort();
}

static void answer(const msg_request *r) {
    static const msg_head head = {"id", "m", "f", 1};
    static const msg_usage usage = {3, 1, 2, 0, 0, 0};
    td_buf out = {0};
    msg_writer w, *all = &w;
    msg_stop why = MSG_STOP_MODEL;
    msg_writer_init(&w, r, &head, 0, &out);
    check(msg_writer_begin(&w, &usage));
    check(msg_writer_event(&w, &(td_chat_event){TD_CHAT_CALL_BEGIN, 0, {"f", 1}}));
    check(msg_writer_event(&w, &(td_chat_event){TD_CHAT_CALL_ARGUMENTS, 0, {"{}", 2}}));
    check(msg_writer_event(&w, &(td_chat_event){TD_CHAT_CALL_END, 0, {"", 0}}));
    check(r->stream ? msg_writer_end(&w, why, NULL, &usage) : msg_write_answer(&out, &all, &why, NULL, 1, &usage));
    check(out.n_bytes > 0);
    msg_writer_free(&w);
    td_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static td_status (*const readers[])(msg_request *, const td_json *, const msg_defaults *, td_arena *,
                                        td_error *) = {msg_read_chat, msg_read_anthropic, msg_read_responses};
    static const msg_defaults defaults = {.reasoning = -1, .reasoning_budget = -1};
    td_arena *a = td_arena_create(64 << 20);
    const td_json *body = NULL;
    check(a != NULL);
    if (td_json_parse(&body, a, (const char *)data, n, TD_JSON_REJECT, NULL) == TD_OK) {
        for (int i = 0; i < 3; i++) {
            msg_request r;
            td_error err = {0};
            if (readers[i](&r, body, &defaults, a, &err) != TD_OK) {
                check(err.code == TD_ERR_ARGUMENT && err.text[0]);
                continue;
            }
            td_chat_prompt p = {0};
            td_chat_options o = msg_render_options(&r, (td_chat_profile){TD_CHAT_G2, true}, NULL);
            check(td_chat_render(&p, r.messages, r.n_messages, r.tools, r.n_tools, &o, a, NULL) == TD_OK);
            td_chat_prompt_free(&p);
            answer(&r);
        }
    }
    td_arena_destroy(a);
    return 0;
}
