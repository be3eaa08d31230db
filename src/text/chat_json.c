/* See chat_json.h. */
#include "chat_json.h"

#include "../base/status.h"
#include "chat_impl.h"

#include <stdio.h>

static td_slice string_or(const td_json *object, const char *name, td_slice otherwise) {
    const td_json *v = td_json_get(object, name);
    return td_json_is(v, TD_JSON_STRING) ? v->text : otherwise;
}

static const td_slice none = {NULL, 0};

static td_status bad(td_error *err, const char *what, const char *text) {
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: %s", what, text);
}

static td_status no_memory(td_error *err) {
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the messages");
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static bool part_kind(const td_json *type, td_chat_part_kind *out) {
    static const struct {
        const char *name;
        td_chat_part_kind kind;
    } kinds[] = {{"text", TD_CHAT_TEXT},         {"input_text", TD_CHAT_TEXT},   {"output_text", TD_CHAT_TEXT},
                 {"refusal", TD_CHAT_TEXT},      {"image", TD_CHAT_IMAGE},       {"image_url", TD_CHAT_IMAGE},
                 {"input_image", TD_CHAT_IMAGE}, {"audio", TD_CHAT_AUDIO},       {"input_audio", TD_CHAT_AUDIO},
                 {"video", TD_CHAT_VIDEO},       {"input_video", TD_CHAT_VIDEO}, {"video_url", TD_CHAT_VIDEO}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (td_json_is_string(type, kinds[i].name)) {
            *out = kinds[i].kind;
            return true;
        }
    return false;
}

td_status td_chat_parts_read(const td_json *content, td_arena *a, const char *what, td_chat_part **out, size_t *n_out,
                             td_error *err) {
    td_chat_part *p = td_arena_alloc(a, (size_t)content->n + 1, sizeof *p);
    *out = p;
    *n_out = 0;
    if (!p) return no_memory(err);
    for (const td_json *c = content->first; c; c = c->next, p++) {
        const td_json *type = td_json_get(c, "type");
        if (!part_kind(type, &p->kind)) {
            td_slice t = string_or(c, "type", chat_slice("missing"));
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "unsupported content[].type: %s has '%.*s'", what,
                           t.n_bytes < 40 ? (int)t.n_bytes : 40, t.data);
        }
        p->source = c;
        if (p->kind == TD_CHAT_TEXT) {
            const td_json *text = td_json_get(c, td_json_is_string(type, "refusal") ? "refusal" : "text");
            if (!td_json_is(text, TD_JSON_STRING)) return bad(err, what, "a text part must have a string 'text'");
            p->text = text->text;
        }
        ++*n_out;
    }
    return TD_OK;
}

static td_status read_content(const td_json *content, td_arena *a, const char *what, td_chat_message *m,
                              td_error *err) {
    char name[64];
    if (!td_json_present(content)) return TD_OK;
    if (content->kind == TD_JSON_STRING) {
        m->content_kind = TD_CHAT_STRING;
        m->text = content->text;
        return TD_OK;
    }
    if (content->kind == TD_JSON_ARRAY) {
        td_chat_part *parts = NULL;
        m->content_kind = TD_CHAT_PARTS;
        snprintf(name, sizeof name, "%s.content", what);
        td_status status = td_chat_parts_read(content, a, name, &parts, &m->n_parts, err);
        m->parts = parts;
        return status;
    }
    if (m->role == TD_CHAT_TOOL) {
        m->content_kind = TD_CHAT_VALUE;
        m->value = content;
        return TD_OK;
    }
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Expected 'content' to be a string or an array (%s)", what);
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

td_status td_chat_arguments_read(const td_json *arguments, td_arena *a, const char *what, const td_json **out,
                                 td_error *err) {
    const td_json *v = arguments;
    *out = NULL;
    if (!td_json_present(v)) return TD_OK;
    if (v->kind == TD_JSON_STRING) {
        td_error inner = {0};
        td_slice text = chat_trim(v->text);
        if (!text.n_bytes) return TD_OK;
        td_status status = td_json_parse(&v, a, text.data, text.n_bytes, TD_JSON_LAST_WINS, &inner);
        if (status == TD_ERR_MEMORY) return no_memory(err);
        if (status != TD_OK)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: 'arguments' must be a JSON object: %s", what,
                           inner.text);
        if (!td_json_present(v)) return TD_OK;
    }
    if (v->kind != TD_JSON_OBJECT) return bad(err, what, "'arguments' must be a JSON object");
    *out = v;
    return TD_OK;
}

static td_status read_call(const td_json *c, const td_json *function, td_arena *a, const char *what, td_chat_call *out,
                           td_error *err) {
    const td_json *name = td_json_get(function, "name");
    if (!td_json_is(name, TD_JSON_STRING)) return bad(err, what, "a tool call must have a function with a 'name'");
    out->name = name->text;
    out->id = string_or(c, "id", none);
    return td_chat_arguments_read(td_json_get(function, "arguments"), a, what, &out->arguments, err);
}

static td_status read_calls(const td_json *message, td_arena *a, const char *what, td_chat_message *m, td_error *err) {
    const td_json *list = td_json_get(message, "tool_calls"), *old = td_json_get(message, "function_call");
    bool has_list = td_json_present(list);
    if (has_list && list->kind != TD_JSON_ARRAY) return bad(err, what, "'tool_calls' must be an array");
    size_t n = has_list ? list->n : td_json_present(old) ? 1 : 0;
    td_chat_call *calls = n ? td_arena_alloc(a, n, sizeof *calls) : NULL;
    if (n && !calls) return no_memory(err);
    m->calls = calls;
    m->n_calls = n;
    if (!has_list) return n ? read_call(NULL, old, a, what, calls, err) : TD_OK;
    size_t i = 0;
    for (const td_json *c = list->first; c; c = c->next, i++) {
        const td_json *function = td_json_get(c, "function");
        td_status status = read_call(c, function ? function : c, a, what, &calls[i], err);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}

static td_status read_responses(const td_json *message, td_arena *a, const char *what, td_chat_message *m,
                                td_error *err) {
    const td_json *list = td_json_get(message, "tool_responses");
    if (!td_json_present(list)) return TD_OK;
    if (list->kind != TD_JSON_ARRAY) return bad(err, what, "'tool_responses' must be an array");
    td_chat_response *r = td_arena_alloc(a, (size_t)list->n + 1, sizeof *r);
    if (!r) return no_memory(err);
    m->responses = r;
    m->n_responses = list->n;
    for (const td_json *c = list->first; c; c = c->next, r++) {
        r->name = string_or(c, "name", none);
        r->response = td_json_get(c, "response");
    }
    return TD_OK;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static td_status read_role(const td_json *message, const char *what, td_chat_role *out, td_error *err) {
    static const struct {
        const char *name;
        td_chat_role role;
    } roles[] = {{"system", TD_CHAT_SYSTEM},       {"developer", TD_CHAT_SYSTEM}, {"user", TD_CHAT_USER},
                 {"assistant", TD_CHAT_ASSISTANT}, {"tool", TD_CHAT_TOOL},        {"function", TD_CHAT_TOOL}};
    const td_json *role = td_json_get(message, "role");
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (td_json_is_string(role, roles[i].name)) {
            *out = roles[i].role;
            return TD_OK;
        }
    if (!td_json_is(role, TD_JSON_STRING)) return bad(err, what, "a message must have a string 'role'");
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                   "%s: unknown role '%.*s' (expected system, developer, user, assistant or tool)", what,
                   role->text.n_bytes < 40 ? (int)role->text.n_bytes : 40, role->text.data);
}

static td_status read_message(const td_json *v, td_arena *a, const char *what, td_chat_message *m, td_error *err) {
    if (v->kind != TD_JSON_OBJECT) return bad(err, what, "a message must be an object");
    td_status status = read_role(v, what, &m->role, err);
    if (status != TD_OK) return status;
    const td_json *content = td_json_get(v, "content");
    if (m->role == TD_CHAT_ASSISTANT) {
        m->reasoning_content = string_or(v, "reasoning_content", none);
        m->reasoning = string_or(v, "reasoning", none);
        if (!m->reasoning.n_bytes) m->reasoning = m->reasoning_content;
        status = read_calls(v, a, what, m, err);
        if (status == TD_OK) status = read_responses(v, a, what, m, err);
        if (status != TD_OK) return status;
        if (!content && !m->n_calls && !m->n_responses && !m->reasoning.n_bytes)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "Assistant message must contain either 'content' or 'tool_calls'! (%s)", what);
    } else if (!content) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "All non-assistant messages must contain 'content' (%s)",
                       what);
    }
    if (m->role == TD_CHAT_TOOL) {
        m->tool_call_id = string_or(v, "tool_call_id", none);
        m->name = string_or(v, "name", none);
    }
    return read_content(content, a, what, m, err);
}

td_status td_chat_messages_read(const td_json *messages, td_arena *a, td_chat_message **out, size_t *n_out,
                                td_error *err) {
    size_t i = 0;
    *out = NULL;
    *n_out = 0;
    if (!td_json_present(messages)) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'messages' is required");
    if (messages->kind != TD_JSON_ARRAY)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Expected 'messages' to be an array");
    td_chat_message *m = td_arena_alloc(a, (size_t)messages->n + 1, sizeof *m);
    if (!m) return no_memory(err);
    for (const td_json *v = messages->first; v; v = v->next, i++) {
        char what[40];
        snprintf(what, sizeof what, "messages[%zu]", i);
        td_status status = read_message(v, a, what, &m[i], err);
        if (status != TD_OK) return status;
    }
    *out = m;
    *n_out = i;
    return TD_OK;
}

/* ---- tools ------------------------------------------------------------------------------------------------------- */

td_status td_chat_tool_read(const td_json *function, td_chat_tool *out, td_error *err) {
    const td_json *name = td_json_get(function, "name"), *params = td_json_get(function, "parameters");
    if (!td_json_is(name, TD_JSON_STRING) || !name->text.n_bytes)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "tools[].function must have a 'name'");
    if (!td_json_present(params)) params = td_json_get(function, "input_schema");
    if (td_json_present(params) && params->kind != TD_JSON_OBJECT)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "tool '%.*s': 'parameters' must be an object",
                       name->text.n_bytes < 64 ? (int)name->text.n_bytes : 64, name->text.data);
    *out = (td_chat_tool){.name = name->text,
                          .description = string_or(function, "description", chat_slice("")),
                          .parameters = td_json_present(params) ? params : NULL,
                          .response = td_json_get(function, "response"),
                          .strict = td_json_is(td_json_get(function, "strict"), TD_JSON_TRUE)};
    return TD_OK;
}

td_status td_chat_tools_read(const td_json *tools, td_arena *a, td_chat_tool **out, size_t *n_out, size_t *n_dropped,
                             td_error *err) {
    *out = NULL;
    *n_out = *n_dropped = 0;
    if (!td_json_present(tools)) return TD_OK;
    if (tools->kind != TD_JSON_ARRAY)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Expected 'tools' to be an array");
    td_chat_tool *t = td_arena_alloc(a, (size_t)tools->n + 1, sizeof *t);
    if (!t) return no_memory(err);
    for (const td_json *v = tools->first; v; v = v->next) {
        const td_json *type = td_json_get(v, "type"), *function = td_json_get(v, "function");
        if (td_json_present(type) && !td_json_is_string(type, "function")) {
            ++*n_dropped;
            continue;
        }
        td_status status = td_chat_tool_read(function ? function : v, &t[*n_out], err);
        if (status != TD_OK) return status;
        ++*n_out;
    }
    *out = t;
    return TD_OK;
}
