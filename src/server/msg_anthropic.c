/* Anthropic messages: the request of specification 3.10. What Claude Code and the SDKs send is taken as it comes:
 * blocks that mean nothing here are dropped and counted, never refused. The answers are in msg_anthropic_out.c. */
#include "msg_impl.h"

#include <stdio.h>

/* ---- client noise (X10) ------------------------------------------------------------------------------------------ */

static size_t find(td_slice s, size_t from, const char *word) {
    size_t n = strlen(word);
    for (size_t i = from; i + n <= s.n_bytes; i++)
        if (memcmp(s.data + i, word, n) == 0) return i;
    return SIZE_MAX;
}

/* The changing value of a billing header becomes letters f, and markers of tokens left go: the head of the prompt must
 * not change from request to request, or nothing of it is ever found in the cache. */
static td_status remove_noise(msg_reader *m, td_slice *text) {
    static const char header[] = "x-anthropic-billing-header:", open[] = "<total_tokens>";
    static const char close[] = " tokens left</total_tokens>";
    bool billing = text->n_bytes >= sizeof header - 1 && memcmp(text->data, header, sizeof header - 1) == 0;
    if (!billing && find(*text, 0, open) == SIZE_MAX) return TD_OK;
    char *s = td_arena_strndup(m->a, text->data, text->n_bytes);
    if (!s) return msg_no_memory(m);
    td_slice t = {s, text->n_bytes};
    size_t line_end = find(t, 0, "\n"), at = billing ? find(t, 0, "cch=") : SIZE_MAX;
    if (at != SIZE_MAX && at < line_end)
        for (at += 4; at < t.n_bytes && s[at] != ';' && s[at] != '\n' && s[at] != ' ' && s[at] != ','; at++)
            s[at] = 'f';
    size_t n = 0;
    for (size_t from = 0; from < t.n_bytes;) { /* what lies before each marker is kept */
        size_t i = find(t, from, open), end = i != SIZE_MAX ? find(t, i, close) : SIZE_MAX;
        size_t stop = end != SIZE_MAX ? i : t.n_bytes;
        memmove(s + n, s + from, stop - from);
        n += stop - from;
        from = end != SIZE_MAX ? end + sizeof close - 1 : t.n_bytes;
        while (end != SIZE_MAX && from < t.n_bytes && s[from] == '\n') from++; /* its line goes too */
    }
    t.n_bytes = n;
    *text = t;
    return TD_OK;
}

/* ---- system ------------------------------------------------------------------------------------------------------ */

static td_status read_system(msg_reader *m, msg_list *list) {
    const td_json *system = td_json_get(m->r->body, "system");
    td_status s = TD_OK;
    if (!td_json_present(system)) return TD_OK;
    bool array = system->kind == TD_JSON_ARRAY;
    if (!array && system->kind != TD_JSON_STRING)
        return msg_bad(m, "system", "system: expected a string or an array of text blocks");
    td_chat_message *to = msg_add(m, list, TD_CHAT_SYSTEM);
    if (!to) return msg_no_memory(m);
    to->content_kind = TD_CHAT_STRING;
    to->text = msg_text("");
    for (const td_json *v = array ? system->first : system; v && s == TD_OK; v = array ? v->next : NULL) {
        const td_json *text = array ? td_json_get(v, "text") : v;
        if (!td_json_is(text, TD_JSON_STRING)) {
            m->r->n_dropped++;
            continue;
        }
        td_slice t = text->text;
        if (!m->d->keep_client_noise) s = remove_noise(m, &t);
        if (s == TD_OK && t.n_bytes) s = msg_add_text(m, to, t);
    }
    if (!to->n_parts) list->n--; /* nothing in it */
    return s;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static td_status add_media(msg_reader *m, td_chat_message *to, const td_json *block) {
    const td_json *type = td_json_get(td_json_get(block, "source"), "type");
    if (!td_json_is_string(type, "base64") && !td_json_is_string(type, "url"))
        return msg_bad(m, "messages", "image source type must be base64 or url");
    td_chat_part *p = msg_add_part(m, to, TD_CHAT_IMAGE);
    if (!p) return msg_no_memory(m);
    p->source = block;
    return TD_OK;
}

static td_status add_document(msg_reader *m, td_chat_message *to, const td_json *block) {
    const td_json *source = td_json_get(block, "source"), *data = td_json_get(source, "data");
    if (!td_json_is_string(td_json_get(source, "type"), "text") || !td_json_is(data, TD_JSON_STRING))
        return msg_bad(m, "messages", "document blocks are only supported with a text source");
    return msg_add_text(m, to, data->text);
}

/* Text, image and document blocks; *known is false for others. */
static td_status add_plain(msg_reader *m, td_chat_message *to, const td_json *block, bool *known) {
    const td_json *type = td_json_get(block, "type"), *text = td_json_get(block, "text");
    *known = true;
    if (td_json_is_string(type, "text")) {
        if (!td_json_is(text, TD_JSON_STRING)) return msg_bad(m, "messages", "a text block must have a string 'text'");
        return msg_add_text(m, to, text->text);
    }
    if (td_json_is_string(type, "image")) return add_media(m, to, block);
    if (td_json_is_string(type, "document")) return add_document(m, to, block);
    *known = false;
    return TD_OK;
}

static bool says_error(td_slice s) {
    static const char word[] = "error";
    for (size_t i = 0; i + 5 <= s.n_bytes && i < 64; i++) {
        size_t k = 0;
        while (k < 5 && (s.data[i + k] | 0x20) == word[k]) k++;
        if (k == 5) return true;
    }
    return false;
}

/* An entry of a web search, by its title and address; other blocks are left out. */
static td_status add_link(msg_reader *m, td_chat_message *to, const td_json *block) {
    const td_json *title = td_json_get(block, "title"), *url = td_json_get(block, "url");
    td_status s = TD_OK;
    if (!td_json_is(url, TD_JSON_STRING)) m->r->n_dropped++;
    if (td_json_is(url, TD_JSON_STRING) && td_json_is(title, TD_JSON_STRING)) s = msg_add_text(m, to, title->text);
    if (td_json_is(url, TD_JSON_STRING) && s == TD_OK) s = msg_add_text(m, to, url->text);
    return s;
}

static td_status add_result(msg_reader *m, msg_list *list, const td_json *block) {
    const td_json *id = td_json_get(block, "tool_use_id"), *content = td_json_get(block, "content");
    td_chat_message *to = msg_add(m, list, TD_CHAT_TOOL);
    td_status s = TD_OK;
    if (!to) return msg_no_memory(m);
    if (td_json_is(id, TD_JSON_STRING)) to->tool_call_id = id->text;
    to->content_kind = TD_CHAT_STRING;
    to->text = msg_text("");
    bool failed = td_json_is(td_json_get(block, "is_error"), TD_JSON_TRUE);
    td_slice first = {"", 0};
    if (td_json_is(content, TD_JSON_STRING)) first = content->text;
    if (td_json_is(content, TD_JSON_ARRAY)) {
        const td_json *b = content->first;
        while (b && !td_json_is(td_json_get(b, "text"), TD_JSON_STRING)) b = b->next;
        if (b) first = td_json_get(b, "text")->text;
    }
    if (failed && !says_error(first)) {
        char *joined = td_arena_alloc(m->a, first.n_bytes + 8, 1);
        if (!joined) return msg_no_memory(m);
        memcpy(joined, "Error: ", 7);
        if (first.n_bytes) memcpy(joined + 7, first.data, first.n_bytes);
        first = (td_slice){joined, first.n_bytes + 7};
    }
    if (!td_json_is(content, TD_JSON_ARRAY)) {
        to->text = first;
        if (td_json_present(content) && content->kind == TD_JSON_OBJECT) {
            to->content_kind = TD_CHAT_VALUE;
            to->value = content;
        }
        return TD_OK;
    }
    bool text_done = false;
    for (const td_json *b = content->first; b && s == TD_OK; b = b->next) {
        bool known = false;
        if (!text_done && td_json_is(td_json_get(b, "text"), TD_JSON_STRING)) {
            text_done = known = true;
            s = msg_add_text(m, to, first);
        } else {
            s = add_plain(m, to, b, &known);
            if (!known) s = add_link(m, to, b);
        }
    }
    if (failed && !text_done && s == TD_OK) s = msg_add_text(m, to, first);
    return s;
}

static td_status add_use(msg_reader *m, td_chat_message *to, const td_json *block) {
    const td_json *name = td_json_get(block, "name"), *id = td_json_get(block, "id");
    td_chat_call *call = msg_add_call(m, to);
    if (!call) return msg_no_memory(m);
    if (!td_json_is(name, TD_JSON_STRING)) return msg_bad(m, "messages", "a tool_use block must have a 'name'");
    call->name = name->text;
    if (td_json_is(id, TD_JSON_STRING)) call->id = id->text;
    const td_json *input = td_json_get(block, "input");
    if (td_json_present(input) && input->kind != TD_JSON_OBJECT)
        return msg_bad(m, "messages", "tool_use input must be an object");
    call->arguments = td_json_present(input) ? input : NULL;
    return TD_OK;
}

static td_status add_thinking(msg_reader *m, td_chat_message *to, const td_json *block) {
    const td_json *text = td_json_get(block, "thinking");
    if (!td_json_is(text, TD_JSON_STRING) || !text->text.n_bytes) return TD_OK;
    if (!to->reasoning.n_bytes) {
        to->reasoning = to->reasoning_content = text->text;
        return TD_OK;
    }
    size_t n = to->reasoning.n_bytes + 2 + text->text.n_bytes;
    char *joined = td_arena_alloc(m->a, n + 1, 1);
    if (!joined) return msg_no_memory(m);
    memcpy(joined, to->reasoning.data, to->reasoning.n_bytes);
    memcpy(joined + to->reasoning.n_bytes, "\n\n", 2);
    memcpy(joined + to->reasoning.n_bytes + 2, text->text.data, text->text.n_bytes);
    to->reasoning = to->reasoning_content = (td_slice){joined, n};
    return TD_OK;
}

/* One message's blocks. Results come first whatever their place, then everything else as one message; what follows a
 * server tool's result in an assistant message is a message of its own. */
static td_status read_blocks(msg_reader *m, msg_list *list, td_chat_role role, const td_json *content) {
    td_status s = TD_OK;
    size_t at = SIZE_MAX; /* of this message in the list, once it is there */
    bool assistant = role == TD_CHAT_ASSISTANT;
    for (const td_json *b = content->first; b && s == TD_OK && !assistant; b = b->next)
        if (td_json_is_string(td_json_get(b, "type"), "tool_result")) s = add_result(m, list, b);
    for (const td_json *b = content->first; b && s == TD_OK; b = b->next) {
        const td_json *type = td_json_get(b, "type");
        bool use = td_json_is_string(type, "tool_use") || td_json_is_string(type, "server_tool_use"), known = true;
        if (td_json_is_string(type, "tool_result") && !assistant) continue;
        if (assistant && td_json_is(type, TD_JSON_STRING) && type->text.n_bytes > 12 &&
            memcmp(type->text.data + type->text.n_bytes - 12, "_tool_result", 12) == 0) {
            s = add_result(m, list, b);
            at = SIZE_MAX;
            continue;
        }
        if (at == SIZE_MAX) {
            if (!msg_add(m, list, role)) return msg_no_memory(m);
            at = list->n - 1;
        }
        td_chat_message *to = &list->m[at];
        if (assistant && use) {
            s = add_use(m, to, b);
        } else if (assistant && td_json_is_string(type, "thinking")) {
            s = add_thinking(m, to, b);
        } else {
            s = add_plain(m, to, b, &known);
        }
        if (!known) m->r->n_dropped++;
    }
    const td_chat_message *last = at != SIZE_MAX ? &list->m[at] : NULL;
    if (last && !last->n_parts && !last->n_calls && !last->reasoning.n_bytes) list->n--; /* nothing in it is known */
    return s;
}

static td_status read_message(msg_reader *m, msg_list *list, const td_json *v, size_t i) {
    const td_json *role = td_json_get(v, "role"), *content = td_json_get(v, "content");
    td_chat_role r = TD_CHAT_USER;
    if (!td_json_is(v, TD_JSON_OBJECT)) return msg_bad(m, "messages", "messages.%zu: expected an object", i);
    if (td_json_is_string(role, "assistant")) {
        r = TD_CHAT_ASSISTANT;
    } else if (td_json_is_string(role, "system") || td_json_is_string(role, "developer")) {
        r = TD_CHAT_SYSTEM;
    } else if (!td_json_is_string(role, "user")) {
        return msg_bad(m, "messages", "messages.%zu: unexpected role (expected user, assistant or system)", i);
    }
    if (td_json_is(content, TD_JSON_ARRAY)) return read_blocks(m, list, r, content);
    if (!td_json_is(content, TD_JSON_STRING))
        return msg_bad(m, "messages", "messages.%zu.content: expected a string or an array of blocks", i);
    td_chat_message *to = msg_add(m, list, r);
    if (!to) return msg_no_memory(m);
    to->content_kind = TD_CHAT_STRING;
    to->text = content->text;
    return TD_OK;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static td_status read_tools(msg_reader *m) {
    msg_request *r = m->r;
    const td_json *tools = td_json_get(r->body, "tools"), *choice = td_json_get(r->body, "tool_choice");
    if (td_json_present(tools)) {
        if (tools->kind != TD_JSON_ARRAY) return msg_bad(m, "tools", "tools: expected an array");
        r->tools = td_arena_alloc(m->a, (size_t)tools->n + 1, sizeof *r->tools);
        if (!r->tools) return msg_no_memory(m);
        for (const td_json *t = tools->first; t; t = t->next) {
            const td_json *type = td_json_get(t, "type");
            bool typed = td_json_is(type, TD_JSON_STRING) && !td_json_is_string(type, "custom");
            if (typed && !td_json_present(td_json_get(t, "input_schema"))) {
                r->n_dropped++;
                continue;
            }
            td_status s = td_chat_tool_read(t, &r->tools[r->n_tools], m->err);
            if (s != TD_OK) {
                snprintf(r->param, sizeof r->param, "tools");
                return s;
            }
            r->n_tools++;
        }
    }
    td_status s = msg_clean_tools(m);
    if (s == TD_OK) s = msg_read_tool_choice(m, choice);
    bool serial = false;
    if (s == TD_OK && td_json_is(choice, TD_JSON_OBJECT))
        s = msg_get_bool(m, choice, "disable_parallel_tool_use", &serial);
    r->parallel_calls = !serial;
    return s;
}

static td_status read_thinking(msg_reader *m) {
    msg_request *r = m->r;
    const td_json *thinking = td_json_get(r->body, "thinking"), *type = td_json_get(thinking, "type");
    const td_json *output = td_json_get(r->body, "output_config");
    int says = -1;
    int64_t budget = -1;
    if (td_json_present(thinking)) {
        if (td_json_is_string(type, "enabled") || td_json_is_string(type, "adaptive")) {
            says = 1;
        } else if (td_json_is_string(type, "disabled")) {
            says = 0;
        } else {
            return msg_bad(m, "thinking", "thinking.type: expected enabled, adaptive or disabled");
        }
    }
    if (td_json_present(output) && output->kind != TD_JSON_OBJECT)
        return msg_bad(m, "output_config", "output_config: expected an object");
    td_status s = msg_get_int(m, thinking, "budget_tokens", 0, INT32_MAX, &budget);
    /* Effort alone does not switch thinking on here: an absent `thinking` means off in this dialect. */
    if (s == TD_OK)
        s = msg_read_thinking(m, says, "output_config.effort", says < 0 ? NULL : td_json_get(output, "effort"));
    if (s != TD_OK) return s;
    if (budget >= 0 && !td_json_present(td_json_get(r->body, "reasoning_budget_tokens"))) r->reasoning_budget = budget;
    if (td_json_is_string(td_json_get(thinking, "display"), "omitted")) r->hide_reasoning = true;
    return msg_read_format(m, td_json_get(output, "format"), "output_config.format");
}

td_status msg_read_anthropic(msg_request *out, const td_json *body, const msg_defaults *d, td_arena *a, td_error *err) {
    *out = (msg_request){.dialect = MSG_ANTHROPIC, .body = body};
    msg_reader reader = {out, d, a, err}, *m = &reader;
    msg_list list = {NULL, 0, 0};
    const td_json *messages = td_json_get(body, "messages");
    size_t i = 0;
    td_status s = msg_read_common(m);
    if (s == TD_OK && !td_json_present(messages)) s = msg_bad(m, "messages", "'messages' is required");
    if (s == TD_OK && messages->kind != TD_JSON_ARRAY) s = msg_bad(m, "messages", "Expected 'messages' to be an array");
    if (s == TD_OK) s = read_system(m, &list);
    for (const td_json *v = s == TD_OK ? messages->first : NULL; v && s == TD_OK; v = v->next)
        s = read_message(m, &list, v, i++);
    out->messages = list.m;
    out->n_messages = list.n;
    if (s == TD_OK) s = read_tools(m);
    if (s == TD_OK) s = read_thinking(m);
    out->max_tokens = 4096;
    if (s == TD_OK) s = msg_get_int(m, body, "max_tokens", 0, INT32_MAX, &out->max_tokens);
    if (s == TD_OK) s = msg_get_stop(m, "stop_sequences");
    out->continue_final = !d->no_prefill;
    if (s == TD_OK) s = msg_check_messages(m);
    return s;
}
