/* What the readers of all dialects share: typed members, thinking switches, tool choice, response formats. */
#include "msg_impl.h"

#include <stdarg.h>
#include <stdio.h>

td_status msg_bad(msg_reader *m, const char *param, const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!m->r->param[0]) snprintf(m->r->param, sizeof m->r->param, "%s", param);
    return td_fail(m->err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s", text);
}

td_status msg_no_memory(msg_reader *m) {
    return td_fail(m->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the request");
}

/* ---- members ----------------------------------------------------------------------------------------------------- */

td_status msg_get_bool(msg_reader *m, const td_json *object, const char *name, bool *out) {
    const td_json *v = td_json_get(object, name);
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_TRUE && v->kind != TD_JSON_FALSE)
        return msg_bad(m, name, "Field '%s': expected a boolean", name);
    *out = v->kind == TD_JSON_TRUE;
    return TD_OK;
}

td_status msg_get_int(msg_reader *m, const td_json *object, const char *name, int64_t low, int64_t high, int64_t *out) {
    const td_json *v = td_json_get(object, name);
    int64_t x = 0;
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_NUMBER) return msg_bad(m, name, "Field '%s': expected an integer", name);
    if (!td_json_int(v, &x) || x < low || x > high)
        return msg_bad(m, name, "Field '%s': Value must be between %lld <= value <= %lld, but got %.*s", name,
                       (long long)low, (long long)high, v->text.n_bytes < 40 ? (int)v->text.n_bytes : 40, v->text.data);
    *out = x;
    return TD_OK;
}

td_status msg_get_string(msg_reader *m, const td_json *object, const char *name, td_slice *out) {
    const td_json *v = td_json_get(object, name);
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_STRING) return msg_bad(m, name, "Field '%s': expected a string", name);
    *out = v->text;
    return TD_OK;
}

td_status msg_get_stop(msg_reader *m, const char *name) {
    const td_json *v = td_json_get(m->r->body, name);
    if (!td_json_present(v)) return TD_OK;
    bool array = v->kind == TD_JSON_ARRAY;
    if (!array && v->kind != TD_JSON_STRING)
        return msg_bad(m, name, "Field '%s': expected a string or an array of strings", name);
    size_t n = array ? v->n : 1, k = 0;
    td_slice *stop = td_arena_alloc(m->a, n + 1, sizeof *stop);
    if (!stop) return msg_no_memory(m);
    for (const td_json *s = array ? v->first : v; s; s = array ? s->next : NULL) {
        if (s->kind != TD_JSON_STRING)
            return msg_bad(m, name, "Field '%s': expected a string or an array of strings", name);
        if (s->text.n_bytes) stop[k++] = s->text;
    }
    m->r->stop = stop;
    m->r->n_stop = k;
    return TD_OK;
}

static td_status read_reasoning_format(msg_reader *m) {
    static const struct {
        const char *name;
        td_chat_reasoning_format format;
    } formats[] = {{"auto", TD_CHAT_REASONING_SEPARATE},
                   {"deepseek", TD_CHAT_REASONING_SEPARATE},
                   {"deepseek-legacy", TD_CHAT_REASONING_BOTH},
                   {"none", TD_CHAT_REASONING_NONE}};
    const td_json *v = td_json_get(m->r->body, "reasoning_format");
    if (!td_json_present(v)) return TD_OK;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (td_json_is_string(v, formats[i].name)) {
            m->r->reasoning_format = formats[i].format;
            return TD_OK;
        }
    return msg_bad(m, "reasoning_format", "Field 'reasoning_format': expected none, auto, deepseek or deepseek-legacy");
}

td_status msg_read_common(msg_reader *m) {
    msg_request *r = m->r;
    const td_json *options = td_json_get(r->body, "stream_options");
    bool shown = true;
    r->parallel_calls = true;
    r->reasoning_budget = m->d->reasoning_budget;
    r->reasoning_format = m->d->reasoning_format;
    r->preserve_thinking = m->d->preserve_thinking;
    r->max_tokens = -1;
    if (td_json_present(options) && options->kind != TD_JSON_OBJECT)
        return msg_bad(m, "stream_options", "Field 'stream_options': expected an object");
    td_status s = msg_get_bool(m, r->body, "stream", &r->stream);
    if (s == TD_OK) s = msg_get_bool(m, options, "include_usage", &r->include_usage);
    if (s == TD_OK) s = msg_get_bool(m, r->body, "include_reasoning", &shown);
    if (s == TD_OK) s = read_reasoning_format(m);
    r->hide_reasoning = !shown;
    return s;
}

/* ---- thinking ---------------------------------------------------------------------------------------------------- */

/* 1 on, 0 off, -1 not given; *budget is what the word stands for. */
static td_status read_effort(msg_reader *m, const char *param, const td_json *v, int *on, int64_t *budget) {
    static const struct {
        const char *name;
        int on;
        int64_t budget;
    } efforts[] = {{"none", 0, -1}, {"minimal", 1, 128}, {"low", 1, 512}, {"medium", 1, 2048},
                   {"high", 1, -1}, {"xhigh", 1, -1},    {"max", 1, -1}};
    if (!td_json_present(v)) return TD_OK;
    for (size_t i = 0; i < sizeof efforts / sizeof *efforts; i++)
        if (td_json_is_string(v, efforts[i].name)) {
            *on = efforts[i].on;
            *budget = efforts[i].budget;
            return TD_OK;
        }
    return msg_bad(m, param, "Field '%s': expected none, minimal, low, medium, high, xhigh or max", param);
}

static td_status read_flag(msg_reader *m, const td_json *object, const char *name, int *on) {
    bool value = false;
    td_status s = msg_get_bool(m, object, name, &value);
    if (s == TD_OK && td_json_present(td_json_get(object, name)) && *on < 0) *on = value;
    return s;
}

/* `reasoning` of the request, in its two meanings: {enabled}, {effort}. */
static td_status read_reasoning(msg_reader *m, int *on, int64_t *budget) {
    const td_json *v = td_json_get(m->r->body, "reasoning");
    int by_effort = -1;
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_OBJECT) return msg_bad(m, "reasoning", "Field 'reasoning': expected an object");
    td_status s = read_flag(m, v, "enabled", on);
    if (s == TD_OK) s = read_effort(m, "reasoning.effort", td_json_get(v, "effort"), &by_effort, budget);
    if (*on < 0) *on = by_effort;
    return s;
}

td_status msg_read_thinking(msg_reader *m, int dialect_says, const char *effort_param, const td_json *effort) {
    msg_request *r = m->r;
    const td_json *kwargs = td_json_get(r->body, "chat_template_kwargs"),
                  *enable = td_json_get(kwargs, "enable_thinking");
    int on = -1, by_effort = -1;
    int64_t effort_budget = -1, given = -2;
    if (td_json_present(kwargs) && kwargs->kind != TD_JSON_OBJECT)
        return msg_bad(m, "chat_template_kwargs", "Field 'chat_template_kwargs': expected an object");
    if (enable && enable->kind != TD_JSON_TRUE && enable->kind != TD_JSON_FALSE)
        return msg_bad(m, "chat_template_kwargs.enable_thinking",
                       "invalid type for \"enable_thinking\" (expected boolean)");
    td_status s = read_flag(m, kwargs, "enable_thinking", &on);
    if (s == TD_OK) s = msg_get_bool(m, kwargs, "preserve_thinking", &r->preserve_thinking);
    if (on < 0) on = dialect_says;
    const td_json *plain = td_json_get(r->body, "reasoning_effort");
    if (s == TD_OK) s = read_effort(m, "reasoning_effort", plain, &by_effort, &effort_budget);
    if (s == TD_OK) s = read_effort(m, effort_param, effort, &by_effort, &effort_budget);
    if (on < 0) on = by_effort;
    if (s == TD_OK) s = read_reasoning(m, &on, &effort_budget);
    if (s == TD_OK) s = read_flag(m, r->body, "think", &on);
    if (s == TD_OK) s = msg_get_int(m, r->body, "reasoning_budget", -1, INT32_MAX, &given);
    if (s == TD_OK) s = msg_get_int(m, r->body, "thinking_budget_tokens", -1, INT32_MAX, &given);
    if (s == TD_OK) s = msg_get_int(m, r->body, "reasoning_budget_tokens", -1, INT32_MAX, &given);
    if (effort_budget >= 0) r->reasoning_budget = effort_budget;
    if (given >= -1) r->reasoning_budget = given;
    r->thinking_by_default = on < 0;
    if (on < 0 && r->dialect == MSG_ANTHROPIC && !m->d->anthropic_thinking) on = 0;
    r->thinking = on < 0 ? m->d->reasoning != 0 : on;
    return s;
}

/* ---- tools ------------------------------------------------------------------------------------------------------- */

td_status msg_clean_tools(msg_reader *m) {
    td_chat_tool *cleaned = NULL;
    td_status s = td_chat_tools_clean(m->r->tools, m->r->n_tools, m->a, &cleaned, m->err);
    if (s == TD_OK) m->r->tools = cleaned;
    return s;
}

static td_status allow(msg_reader *m, const td_json *name) {
    msg_request *r = m->r;
    if (!td_json_is(name, TD_JSON_STRING)) return msg_bad(m, "tool_choice", "Invalid tool_choice: a name is missing");
    if (!r->allowed) r->allowed = td_arena_alloc(m->a, r->n_tools + 1, sizeof *r->allowed);
    if (!r->allowed) return msg_no_memory(m);
    for (size_t i = 0; i < r->n_tools; i++)
        if (r->tools[i].name.n_bytes == name->text.n_bytes &&
            memcmp(r->tools[i].name.data, name->text.data, name->text.n_bytes) == 0) {
            r->allowed[i] = true;
            return TD_OK;
        }
    return msg_bad(m, "tool_choice", "Invalid tool_choice: there is no tool '%.*s'",
                   name->text.n_bytes < 64 ? (int)name->text.n_bytes : 64, name->text.data);
}

static const td_json *name_in(const td_json *v) {
    const td_json *function = td_json_get(v, "function");
    return td_json_get(td_json_is(function, TD_JSON_OBJECT) ? function : v, "name");
}

static td_status allow_list(msg_reader *m, const td_json *choice) {
    const td_json *inner = td_json_get(choice, "allowed_tools"), *v = inner ? inner : choice;
    const td_json *list = td_json_get(v, "tools"), *mode = td_json_get(v, "mode");
    if (!td_json_is(list, TD_JSON_ARRAY) || !list->n)
        return msg_bad(m, "tool_choice", "Invalid tool_choice: allowed_tools needs a list of tools");
    if (td_json_present(mode) && !td_json_is_string(mode, "auto") && !td_json_is_string(mode, "required"))
        return msg_bad(m, "tool_choice", "Invalid tool_choice: the mode is auto or required");
    if (td_json_is_string(mode, "required")) m->r->tool_choice = MSG_TOOLS_REQUIRED;
    for (const td_json *t = list->first; t; t = t->next) {
        td_status s = allow(m, name_in(t));
        if (s != TD_OK) return s;
    }
    return TD_OK;
}

td_status msg_read_tool_choice(msg_reader *m, const td_json *choice) {
    msg_request *r = m->r;
    if (!td_json_present(choice)) return TD_OK;
    const td_json *type = choice->kind == TD_JSON_OBJECT ? td_json_get(choice, "type") : choice;
    if (td_json_is_string(type, "auto")) return TD_OK;
    if (td_json_is_string(type, "none")) {
        r->tool_choice = MSG_TOOLS_NONE;
        return TD_OK;
    }
    if (td_json_is_string(type, "allowed_tools")) return allow_list(m, choice);
    bool named = td_json_is_string(type, "function") || td_json_is_string(type, "tool") ||
                 td_json_is_string(type, "custom") || (!type && td_json_get(choice, "name"));
    if (!named && !td_json_is_string(type, "required") && !td_json_is_string(type, "any"))
        return msg_bad(m, "tool_choice", "Invalid tool_choice: expected auto, none, required or a tool");
    if (!r->n_tools) return msg_bad(m, "tool_choice", "Invalid tool_choice: the request has no tools");
    r->tool_choice = MSG_TOOLS_REQUIRED;
    return named ? allow(m, name_in(choice)) : TD_OK;
}

/* ---- response format --------------------------------------------------------------------------------------------- */

td_status msg_read_format(msg_reader *m, const td_json *format, const char *param) {
    msg_request *r = m->r;
    if (!td_json_present(format)) return TD_OK;
    if (format->kind != TD_JSON_OBJECT) return msg_bad(m, param, "Field '%s': expected an object", param);
    const td_json *type = td_json_get(format, "type"), *inner = td_json_get(format, "json_schema");
    if (td_json_is_string(type, "text")) return TD_OK;
    if (td_json_is_string(type, "json_object")) {
        r->format = MSG_FORMAT_OBJECT;
        r->schema = td_json_get(format, "schema");
    } else if (td_json_is_string(type, "json_schema")) {
        const td_json *holder = td_json_is(inner, TD_JSON_OBJECT) ? inner : format;
        r->format = MSG_FORMAT_SCHEMA;
        r->schema = td_json_get(holder, "schema");
        td_status s = msg_get_bool(m, holder, "strict", &r->schema_strict);
        if (s != TD_OK) return s;
        if (!td_json_present(r->schema)) return msg_bad(m, param, "Field '%s': json_schema needs a schema", param);
    } else {
        td_slice t = td_json_is(type, TD_JSON_STRING) ? type->text : msg_text("nothing");
        return msg_bad(m, param, "%s type must be one of \"text\", \"json_object\" or \"json_schema\", but got: %.*s",
                       param, t.n_bytes < 40 ? (int)t.n_bytes : 40, t.data);
    }
    if (!td_json_present(r->schema)) r->schema = NULL;
    if (r->schema && r->schema->kind > TD_JSON_TRUE && r->schema->kind != TD_JSON_OBJECT)
        return msg_bad(m, param, "Field '%s': the schema must be an object", param);
    return TD_OK;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static td_status refuse_media(msg_reader *m, td_chat_part_kind kind) {
    const char *word = kind == TD_CHAT_IMAGE ? "image" : kind == TD_CHAT_AUDIO ? "audio" : "video";
    return msg_bad(m, m->r->dialect == MSG_RESPONSES ? "input" : "messages",
                   "%s input is not supported - hint: if this is unexpected, you may need to provide the mmproj", word);
}

td_status msg_check_messages(msg_reader *m) {
    const msg_request *r = m->r;
    for (size_t i = 0; i < r->n_messages && !m->d->media; i++)
        for (size_t k = 0; k < r->messages[i].n_parts; k++)
            if (r->messages[i].parts[k].kind != TD_CHAT_TEXT) return refuse_media(m, r->messages[i].parts[k].kind);
    return TD_OK;
}

td_chat_message *msg_add(msg_reader *m, msg_list *list, td_chat_role role) {
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 16;
        td_chat_message *grown = td_arena_alloc(m->a, cap, sizeof *grown);
        if (!grown) return NULL;
        if (list->n) memcpy(grown, list->m, list->n * sizeof *grown);
        list->m = grown;
        list->cap = cap;
    }
    td_chat_message *out = &list->m[list->n++];
    *out = (td_chat_message){.role = role};
    return out;
}

/* An array that grows by doubling at each power of two; NULL without memory. */
static void *grow(msg_reader *m, const void *old, size_t n, size_t size) {
    if (n && (n & (n - 1))) return (void *)(uintptr_t)old; /* there is room */
    char *grown = td_arena_alloc(m->a, n ? 2 * n : 1, size);
    if (grown && n) memcpy(grown, old, n * size);
    return grown;
}

td_chat_part *msg_add_part(msg_reader *m, td_chat_message *to, td_chat_part_kind kind) {
    td_chat_part *parts = grow(m, to->parts, to->n_parts, sizeof *parts);
    if (!parts) return NULL;
    to->content_kind = TD_CHAT_PARTS;
    to->parts = parts;
    parts[to->n_parts] = (td_chat_part){.kind = kind};
    return &parts[to->n_parts++];
}

td_chat_call *msg_add_call(msg_reader *m, td_chat_message *to) {
    td_chat_call *calls = grow(m, to->calls, to->n_calls, sizeof *calls);
    if (!calls) return NULL;
    to->calls = calls;
    calls[to->n_calls] = (td_chat_call){.id = {NULL, 0}};
    return &calls[to->n_calls++];
}

td_status msg_add_text(msg_reader *m, td_chat_message *to, td_slice text) {
    td_chat_part *p = msg_add_part(m, to, TD_CHAT_TEXT);
    if (!p) return msg_no_memory(m);
    p->text = text;
    return TD_OK;
}

td_chat_options msg_render_options(const msg_request *r, td_chat_profile profile, td_chat_replay *replay) {
    return (td_chat_options){.profile = profile,
                             .enable_thinking = r->thinking,
                             .thinking_by_default = r->thinking_by_default,
                             .preserve_thinking = r->preserve_thinking,
                             .no_generation_prompt = r->no_generation_prompt,
                             .continue_final = r->continue_final,
                             .replay = replay};
}
