/* OpenAI responses: the request of specification 3.11. Its items become messages: what the model said and called
 * between two inputs is one assistant message, so that calls stand behind the text they came with. Answers are in
 * msg_responses_out.c. */
#include "msg_impl.h"

#include <stdio.h>

typedef struct item_reader {
    msg_list list;
    td_slice reasoning; /* of the next assistant message */
} item_reader;

/* ---- items ------------------------------------------------------------------------------------------------------- */

/* The assistant message that is being put together, or a new one. */
static td_chat_message *assistant(msg_reader *m, item_reader *it, bool join) {
    td_chat_message *last = it->list.n ? &it->list.m[it->list.n - 1] : NULL;
    if (last && last->role == TD_CHAT_ASSISTANT && join && !it->reasoning.n_bytes) return last;
    last = msg_add(m, &it->list, TD_CHAT_ASSISTANT);
    if (last) last->reasoning = last->reasoning_content = it->reasoning;
    it->reasoning = (td_slice){"", 0};
    return last;
}

static td_status read_parts(msg_reader *m, td_chat_message *to, const td_json *content, const char *what) {
    td_chat_part *parts = NULL;
    if (td_json_is(content, TD_JSON_STRING)) {
        to->content_kind = TD_CHAT_STRING;
        to->text = content->text;
        return TD_OK;
    }
    if (!td_json_is(content, TD_JSON_ARRAY))
        return msg_bad(m, "input", "%s: expected a string or an array of parts", what);
    td_status s = td_chat_parts_read(content, m->a, what, &parts, &to->n_parts, m->err);
    if (s != TD_OK && !m->r->param[0]) snprintf(m->r->param, sizeof m->r->param, "input");
    to->content_kind = TD_CHAT_PARTS;
    to->parts = parts;
    return s;
}

static td_status read_message(msg_reader *m, item_reader *it, const td_json *v, const char *what) {
    const td_json *role = td_json_get(v, "role");
    char name[64];
    td_chat_message *to = NULL;
    snprintf(name, sizeof name, "%s.content", what);
    if (td_json_is_string(role, "assistant")) {
        to = assistant(m, it, false);
    } else if (td_json_is_string(role, "system") || td_json_is_string(role, "developer")) {
        to = msg_add(m, &it->list, TD_CHAT_SYSTEM);
    } else if (td_json_is_string(role, "user")) {
        to = msg_add(m, &it->list, TD_CHAT_USER);
    } else {
        return msg_bad(m, "input", "%s: unknown role (expected user, assistant, system or developer)", what);
    }
    return to ? read_parts(m, to, td_json_get(v, "content"), name) : msg_no_memory(m);
}

/* {"input": text}: how the free text of a custom tool stands in arguments. */
static const td_json *input_object(msg_reader *m, td_slice text) {
    td_json *object = td_json_make(m->a, TD_JSON_OBJECT);
    td_json *value = td_json_make_string(m->a, text.n_bytes ? text.data : "", text.n_bytes);
    return object && value && td_json_put(m->a, object, msg_text("input"), value) ? object : NULL;
}

static td_status read_call(msg_reader *m, item_reader *it, const td_json *v, const char *what, bool custom) {
    const td_json *name = td_json_get(v, "name"), *id = td_json_get(v, "call_id"), *input = td_json_get(v, "input");
    td_chat_message *to = assistant(m, it, true);
    td_chat_call *call = to ? msg_add_call(m, to) : NULL;
    if (!call) return msg_no_memory(m);
    if (!td_json_is(name, TD_JSON_STRING)) return msg_bad(m, "input", "%s: a call must have a 'name'", what);
    call->name = name->text;
    if (td_json_is(id, TD_JSON_STRING)) call->id = id->text;
    if (custom) {
        call->arguments = input_object(m, td_json_is(input, TD_JSON_STRING) ? input->text : msg_text(""));
        return call->arguments ? TD_OK : msg_no_memory(m);
    }
    td_status s = td_chat_arguments_read(td_json_get(v, "arguments"), m->a, what, &call->arguments, m->err);
    if (s != TD_OK && !m->r->param[0]) snprintf(m->r->param, sizeof m->r->param, "input");
    return s;
}

static td_status read_output(msg_reader *m, item_reader *it, const td_json *v, const char *what) {
    const td_json *id = td_json_get(v, "call_id");
    td_chat_message *to = msg_add(m, &it->list, TD_CHAT_TOOL);
    if (!to) return msg_no_memory(m);
    if (td_json_is(id, TD_JSON_STRING)) to->tool_call_id = id->text;
    return read_parts(m, to, td_json_get(v, "output"), what);
}

/* The text of a reasoning item: its content, else its summary; kept for the assistant message that follows. */
static td_status read_reasoning(msg_reader *m, item_reader *it, const td_json *v) {
    const td_json *content = td_json_get(v, "content"), *summary = td_json_get(v, "summary");
    const td_json *list = td_json_is(content, TD_JSON_ARRAY) && content->n ? content : summary;
    td_buf text = {0};
    bool ok = true;
    if (it->reasoning.n_bytes) ok = td_buf_add(&text, it->reasoning.data, it->reasoning.n_bytes);
    for (const td_json *p = td_json_is(list, TD_JSON_ARRAY) ? list->first : NULL; p && ok; p = p->next) {
        const td_json *t = td_json_get(p, "text");
        if (!td_json_is(t, TD_JSON_STRING)) continue;
        if (text.n_bytes) ok = td_buf_add_str(&text, "\n\n");
        ok = ok && td_buf_add(&text, t->text.data, t->text.n_bytes);
    }
    char *copy = ok ? td_arena_strndup(m->a, text.n_bytes ? text.data : "", text.n_bytes) : NULL;
    it->reasoning = (td_slice){copy, text.n_bytes};
    td_buf_free(&text);
    return copy ? TD_OK : msg_no_memory(m);
}

static td_status read_item(msg_reader *m, item_reader *it, const td_json *v, size_t i) {
    const td_json *type = td_json_get(v, "type");
    char what[40];
    snprintf(what, sizeof what, "input[%zu]", i);
    if (!td_json_is(v, TD_JSON_OBJECT)) return msg_bad(m, "input", "%s: expected an object", what);
    if (!td_json_present(type) || td_json_is_string(type, "message")) return read_message(m, it, v, what);
    if (td_json_is_string(type, "function_call")) return read_call(m, it, v, what, false);
    if (td_json_is_string(type, "custom_tool_call")) return read_call(m, it, v, what, true);
    if (td_json_is_string(type, "function_call_output") || td_json_is_string(type, "custom_tool_call_output"))
        return read_output(m, it, v, what);
    if (td_json_is_string(type, "reasoning")) return read_reasoning(m, it, v);
    if (td_json_is_string(type, "item_reference"))
        return msg_bad(m, "input", "%s: item_reference is not supported", what);
    m->r->n_dropped++; /* calls of tools that only OpenAI's servers have */
    return TD_OK;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

/* A tool of free text: a function with one string. */
static td_status add_custom(msg_reader *m, const td_json *t, td_chat_tool *out) {
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}},"
                                 "\"required\":[\"input\"]}";
    td_status s = td_chat_tool_read(t, out, m->err);
    if (s != TD_OK) return s;
    return td_json_parse(&out->parameters, m->a, schema, sizeof schema - 1, TD_JSON_REJECT, m->err);
}

static td_status read_tools(msg_reader *m) {
    msg_request *r = m->r;
    const td_json *tools = td_json_get(r->body, "tools");
    td_status s = TD_OK;
    if (td_json_present(tools)) {
        if (tools->kind != TD_JSON_ARRAY) return msg_bad(m, "tools", "Expected 'tools' to be an array");
        r->tools = td_arena_alloc(m->a, (size_t)tools->n + 1, sizeof *r->tools);
        r->custom = td_arena_alloc(m->a, (size_t)tools->n + 1, sizeof *r->custom);
        if (!r->tools || !r->custom) return msg_no_memory(m);
        for (const td_json *t = tools->first; t && s == TD_OK; t = t->next) {
            const td_json *type = td_json_get(t, "type"), *function = td_json_get(t, "function");
            bool custom = td_json_is_string(type, "custom");
            if (!custom && td_json_present(type) && !td_json_is_string(type, "function")) {
                r->n_dropped++;
                continue;
            }
            r->custom[r->n_tools] = custom;
            td_chat_tool *to = &r->tools[r->n_tools++];
            s = custom ? add_custom(m, t, to) : td_chat_tool_read(function ? function : t, to, m->err);
        }
        if (s != TD_OK && !r->param[0]) snprintf(r->param, sizeof r->param, "tools");
    }
    if (s == TD_OK) s = msg_clean_tools(m);
    if (s == TD_OK) s = msg_read_tool_choice(m, td_json_get(r->body, "tool_choice"));
    return s == TD_OK ? msg_get_bool(m, r->body, "parallel_tool_calls", &r->parallel_calls) : s;
}

static td_status read_input(msg_reader *m) {
    msg_request *r = m->r;
    item_reader it = {.reasoning = {"", 0}};
    const td_json *previous = m->d->previous;
    const td_json *input = td_json_get(r->body, "input");
    td_chat_message *to = NULL;
    size_t i = 0;
    td_status s = msg_get_string(m, r->body, "instructions", &r->instructions);
    if (s != TD_OK) return s;
    if (r->instructions.n_bytes) {
        to = msg_add(m, &it.list, TD_CHAT_SYSTEM);
        if (!to) return msg_no_memory(m);
        to->content_kind = TD_CHAT_STRING;
        to->text = r->instructions;
    }
    r->previous = previous;
    for (const td_json *v = previous ? previous->first : NULL; v && s == TD_OK; v = v->next)
        s = read_item(m, &it, v, i++);
    if (s != TD_OK) return s;
    i = 0;
    if (!td_json_present(input)) return msg_bad(m, "input", "'input' is required");
    if (input->kind == TD_JSON_STRING) {
        to = msg_add(m, &it.list, TD_CHAT_USER);
        if (!to) return msg_no_memory(m);
        to->content_kind = TD_CHAT_STRING;
        to->text = input->text;
    } else if (input->kind != TD_JSON_ARRAY) {
        return msg_bad(m, "input", "Expected 'input' to be a string or an array");
    }
    for (const td_json *v = input->kind == TD_JSON_ARRAY ? input->first : NULL; v && s == TD_OK; v = v->next)
        s = read_item(m, &it, v, i++);
    if (s == TD_OK && it.reasoning.n_bytes && !assistant(m, &it, false)) s = msg_no_memory(m);
    r->messages = it.list.m;
    r->n_messages = it.list.n;
    return s;
}

td_status msg_read_responses(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err) {
    *out = (msg_request){.dialect = MSG_RESPONSES, .body = body};
    msg_reader reader = {out, d, a, err}, *m = &reader;
    td_status s = msg_read_common(m);
    if (s == TD_OK) s = read_input(m);
    if (s == TD_OK) s = read_tools(m);
    if (s == TD_OK) s = msg_read_thinking(m, -1, "", NULL);
    if (s == TD_OK) s = msg_read_format(m, td_json_get(td_json_get(body, "text"), "format"), "text.format");
    if (s == TD_OK) s = msg_get_stop(m, "stop");
    if (s == TD_OK) s = msg_get_int(m, body, "max_output_tokens", 0, INT32_MAX, &out->max_tokens);
    if (s == TD_OK) s = msg_get_string(m, body, "previous_response_id", &out->previous_response_id);
    bool keep = true;
    if (s == TD_OK) s = msg_get_bool(m, body, "store", &keep);
    out->no_store = !keep;
    out->continue_final = !d->no_prefill;
    if (s == TD_OK) s = msg_check_messages(m);
    return s;
}
