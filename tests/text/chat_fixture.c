/* See chat_fixture.h. */
#include "chat_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool flag(const td_json *options, const char *name, bool otherwise) {
    const td_json *v = td_json_get(options, name);
    return v ? v->kind == TD_JSON_TRUE : otherwise;
}

void chat_fixture_render(const td_json *c, td_arena *a, td_chat_replay *replay, td_chat_prompt *out) {
    const td_json *o = td_json_get(c, "options"), *profile = td_json_get(o, "profile");
    td_chat_message *messages = NULL;
    td_chat_tool *tools = NULL;
    size_t n_messages = 0, n_tools = 0, n_dropped = 0;
    td_error err = {0};
    char name[32] = "g2-large";
    if (profile) memcpy(name, profile->text.data, profile->text.n_bytes + 1 <= sizeof name ? profile->text.n_bytes : 0);
    if (profile) name[profile->text.n_bytes] = 0;
    td_chat_options options = {.profile = {TD_CHAT_G2, true},
                               .strict = flag(o, "strict", true),
                               .enable_thinking = flag(o, "enable_thinking", false),
                               .thinking_by_default = flag(o, "by_default", false),
                               .preserve_thinking = flag(o, "preserve_thinking", false),
                               .no_generation_prompt = !flag(o, "add_generation_prompt", true),
                               .template_text_order = flag(o, "template_order", false),
                               .continue_final = flag(o, "continue_final", false),
                               .replay = replay};
    assert_true(td_chat_profile_parse(name, &options.profile));
    if (td_chat_messages_read(td_json_get(c, "messages"), a, &messages, &n_messages, &err) != TD_OK ||
        td_chat_tools_read(td_json_get(c, "tools"), a, &tools, &n_tools, &n_dropped, &err) != TD_OK ||
        td_chat_render(out, messages, n_messages, tools, n_tools, &options, a, &err) != TD_OK)
        fail_msg("%s", err.text);
    size_t at = 0;
    for (size_t i = 0; i < out->n_spans; at = out->spans[i++].end) assert_int_equal(out->spans[i].begin, at);
    assert_int_equal(at, out->text.n_bytes);
}

char *chat_fixture_text(const char *json) {
    td_arena *a = td_arena_create(0);
    char *text = strdup(json);
    const td_json *c = NULL;
    td_error err = {0};
    td_chat_prompt p = {0};
    for (char *s = text; *s; s++)
        if (*s == '\'') *s = '"';
    if (td_json_parse(&c, a, text, strlen(text), TD_JSON_REJECT, &err) != TD_OK) fail_msg("%s", err.text);
    chat_fixture_render(c, a, NULL, &p);
    char *out = strdup(p.text.data);
    td_chat_prompt_free(&p);
    td_arena_destroy(a);
    free(text);
    return out;
}
