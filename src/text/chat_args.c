/* The parser's inner half: a call's name and arguments (specification 8.3 CALL, 8.4, 8.5). A pushdown machine reads the
 * tolerant syntax and writes compact JSON in the order of reading; what it has written is never taken back. */
#include "chat_parse_impl.h"

#include "../base/checked.h"
#include "json_escape.h"
#include "utf8.h"

#include <string.h>

/* ---- output ------------------------------------------------------------------------------------------------------ */

static void put(parser *p, const char *text, size_t n_bytes) {
    if (p->as_text) return;
    if (p->in_json) {
        if (!td_buf_add(&p->json, text, n_bytes)) p->failed = true;
    } else {
        parse_emit(p, TD_CHAT_CALL_ARGUMENTS, text, n_bytes);
    }
}

static void put_word(parser *p, const char *word) {
    put(p, word, strlen(word));
}

static void put_escaped(parser *p, const char *text, size_t n_bytes) {
    td_buf b = {0};
    if (!td_json_write_escaped(&b, text, n_bytes)) p->failed = true;
    if (b.n_bytes) put(p, b.data, b.n_bytes);
    td_buf_free(&b);
}

static void put_string(parser *p, td_slice s) {
    put_word(p, "\"");
    put_escaped(p, s.data, s.n_bytes);
    put_word(p, "\"");
}

/* Consumes; remembers or passes on the call's own text. */
static void take(parser *p, size_t n_bytes) {
    if (p->as_text) {
        parse_emit(p, TD_CHAT_CONTENT, parse_here(p), n_bytes);
    } else if (!p->header_sent && !td_buf_add(&p->raw, parse_here(p), n_bytes)) {
        p->failed = true;
    }
    p->at += n_bytes;
}

static void keep(parser *p, size_t n_bytes) {
    if (!td_buf_add(&p->scratch, parse_here(p), n_bytes)) p->failed = true;
    take(p, n_bytes);
}

static td_slice scratch(const parser *p) {
    return chat_trim((td_slice){p->scratch.data, p->scratch.n_bytes});
}

/* ---- schemas ----------------------------------------------------------------------------------------------------- */

static const td_chat_tool *find_tool(const parser *p, td_slice name) {
    for (size_t i = 0; i < p->o.n_tools; i++)
        if (p->o.tools[i].name.n_bytes == name.n_bytes && memcmp(p->o.tools[i].name.data, name.data, name.n_bytes) == 0)
            return &p->o.tools[i];
    return NULL;
}

static bool wants_string(const td_json *schema) {
    const td_json *type = td_json_get(schema, "type"), *values = td_json_get(schema, "enum");
    if (td_json_is(type, TD_JSON_STRING)) return td_json_is_string(type, "string") || td_json_is_string(type, "STRING");
    if (td_json_is(type, TD_JSON_ARRAY)) {
        bool any = false;
        for (const td_json *t = type->first; t; t = t->next) {
            if (td_json_is_string(t, "string"))
                any = true;
            else if (!td_json_is_string(t, "null"))
                return false;
        }
        return any;
    }
    return td_json_is(values, TD_JSON_ARRAY) && values->first && values->first->kind == TD_JSON_STRING;
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static parse_frame *top(parser *p) {
    return &p->frames[p->n_frames - 1];
}

static void open_frame(parser *p, char open, const td_json *schema) {
    if (p->n_frames == p->cap_frames) {
        size_t cap = p->cap_frames ? p->cap_frames * 2 : 16;
        parse_frame *f = td_reallocarray(p->frames, cap, sizeof *f);
        if (!f) {
            p->failed = true;
            return;
        }
        p->frames = f;
        p->cap_frames = cap;
    }
    p->frames[p->n_frames++] = (parse_frame){open, 0, schema};
    put_word(p, open == '[' ? "[" : "{");
    p->state = open == '[' ? IN_VALUE_START : IN_KEY_START;
}

static void end_arguments(parser *p) {
    if (!p->as_text && !p->in_json) parse_mark_event(p, TD_CHAT_CALL_END, "", 0);
    p->state = IN_CALL_END;
}

static void close_frame(parser *p) {
    put_word(p, top(p)->open == '[' ? "]" : "}");
    p->n_frames--;
    p->state = IN_VALUE_END;
    if (!p->n_frames) end_arguments(p);
}

/* A closing bracket, consumed: closes everything down to its partner; without a partner it means nothing. */
static void close_by(parser *p, char c) {
    char open = c == '}' ? '{' : c == ']' ? '[' : '(';
    size_t n = p->n_frames;
    take(p, 1);
    while (n && p->frames[n - 1].open != open) n--;
    while (n && p->n_frames >= n) close_frame(p);
}

/* ---- keys and values --------------------------------------------------------------------------------------------- */

static void put_key(parser *p, td_slice key) {
    parse_frame *f = top(p);
    if (f->n++) put_word(p, ",");
    put_string(p, key);
    put_word(p, ":");
    p->value_schema = td_json_get_slice(td_json_get(f->schema, "properties"), key);
    p->state = IN_VALUE_START;
}

/* Before a value: in an array the comma, and the schema of the elements. */
static void begin_value(parser *p) {
    parse_frame *f = top(p);
    if (f->open != '[') return;
    if (f->n++) put_word(p, ",");
    p->value_schema = td_json_get(f->schema, "items");
}

static bool is_word(td_slice s, const char *word) {
    if (s.n_bytes != strlen(word)) return false;
    for (size_t i = 0; i < s.n_bytes; i++)
        if ((s.data[i] | 0x20) != word[i]) return false;
    return true;
}

static bool is_number(td_slice s) {
    size_t i = 0, n = s.n_bytes, begin;
    if (i < n && s.data[i] == '-') i++;
    begin = i;
    while (i < n && s.data[i] >= '0' && s.data[i] <= '9') i++;
    if (i == begin || (s.data[begin] == '0' && i - begin > 1)) return false;
    if (i < n && s.data[i] == '.') {
        begin = ++i;
        while (i < n && s.data[i] >= '0' && s.data[i] <= '9') i++;
        if (i == begin) return false;
    }
    if (i < n && (s.data[i] | 0x20) == 'e') {
        i++;
        if (i < n && (s.data[i] == '+' || s.data[i] == '-')) i++;
        begin = i;
        while (i < n && s.data[i] >= '0' && s.data[i] <= '9') i++;
        if (i == begin) return false;
    }
    return i == n;
}

static void put_bare(parser *p, td_slice s) {
    bool string = wants_string(p->value_schema);
    if (is_word(s, "null") || is_word(s, "none")) {
        put_word(p, "null");
    } else if (!string && (is_word(s, "true") || is_word(s, "false"))) {
        put_word(p, is_word(s, "true") ? "true" : "false");
    } else if (!string && is_number(s)) {
        put(p, s.data, s.n_bytes);
    } else {
        put_string(p, s);
    }
    p->state = IN_VALUE_END;
}

/* What was read as a key turns out to have no value. Among the arguments themselves it is taken as a value, for the
 * parameter at this place; deeper down it is a key of null. */
static void put_lonely(parser *p, bool quoted) {
    parse_frame *f = top(p);
    td_slice s = quoted ? (td_slice){p->scratch.data, p->scratch.n_bytes} : scratch(p);
    if (!s.n_bytes && !quoted) return;
    if (p->n_frames > 1 || p->in_json) {
        put_key(p, s);
        put_word(p, "null");
        p->state = IN_VALUE_END;
        return;
    }
    const td_json *properties = td_json_get(f->schema, "properties");
    const td_json *property = td_json_is(properties, TD_JSON_OBJECT) ? properties->first : NULL;
    for (uint32_t i = 0; property && i < f->n; i++) property = property->next;
    if (!property) {
        put_key(p, s);
        put_word(p, "null");
    } else {
        put_key(p, property->key);
        if (quoted) {
            put_string(p, s);
        } else {
            put_bare(p, s);
        }
    }
    p->state = IN_VALUE_END;
}

/* Whatever is open is closed, as far as it was understood. */
static void close_all(parser *p) {
    switch (p->state) {
    case IN_KEY:
        put_lonely(p, false);
        break;
    case IN_KEY_STRING:
    case IN_KEY_QUOTED:
    case IN_KEY_END:
        put_lonely(p, true);
        break;
    case IN_VALUE_START:
        if (top(p)->open != '[') put_word(p, "null");
        break;
    case IN_STRING:
    case IN_QUOTED:
        put_word(p, "\"");
        break;
    case IN_BARE:
        put_bare(p, scratch(p));
        break;
    default:
        break;
    }
    while (p->n_frames) close_frame(p);
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

void parse_call_begin(parser *p) {
    p->as_text = p->o.n_tools == 0;
    p->in_json = p->header_sent = false;
    p->n_frames = 0;
    p->value_schema = NULL;
    td_buf_clear(&p->raw);
    td_buf_clear(&p->json);
    td_buf_clear(&p->scratch);
    take(p, strlen(td_chat_mark_text(TD_MARK_TOOL_CALL)));
    p->state = IN_CALL_NAME;
}

static void leave(parser *p) {
    p->skip_blanks = !p->as_text;
    p->state = IN_TEXT;
}

static void give_back(parser *p) {
    p->n_failures++;
    parse_emit(p, TD_CHAT_CONTENT, p->raw.data, p->raw.n_bytes);
    p->state = IN_TEXT;
    p->skip_blanks = false;
}

/* The declared name for what the model wrote: itself, or what is behind the last : . or / of it. */
static td_slice resolve(const parser *p, td_slice name) {
    td_slice last = name;
    if (find_tool(p, name)) return name;
    for (size_t i = 0; i < name.n_bytes; i++)
        if (name.data[i] == ':' || name.data[i] == '.' || name.data[i] == '/')
            last = (td_slice){name.data + i + 1, name.n_bytes - i - 1};
    return find_tool(p, last) ? last : name;
}

static bool is_name(td_slice name) {
    return name.n_bytes > 0 && name.n_bytes <= 256 && !memchr(name.data, '\n', name.n_bytes);
}

static void send_header(parser *p, td_slice name) {
    p->header_sent = true;
    if (p->as_text) return;
    p->n_calls++;
    name = resolve(p, name);
    parse_mark_event(p, TD_CHAT_CALL_BEGIN, name.data, name.n_bytes);
}

/* The name as written so far, without a leading "call:". */
static td_slice written_name(const parser *p) {
    td_slice s = scratch(p);
    if (s.n_bytes >= 5 && memcmp(s.data, "call:", 5) == 0) s = chat_trim((td_slice){s.data + 5, s.n_bytes - 5});
    return s;
}

/* Was this part of the collected JSON written by the model, to its end? */
static bool is_real(const parser *p, const td_json *v, size_t n_real) {
    return (size_t)(v->raw.data - p->json.data) + v->raw.n_bytes <= n_real;
}

/* A JSON object in place of a call. `n_real`: bytes of it that the model wrote; the rest was closed for it. */
static bool send_json_call(parser *p, size_t n_real) {
    td_arena *a = td_arena_create(0);
    const td_json *v = NULL, *name = NULL, *args = NULL, *inner = NULL;
    bool ok = a && td_json_parse(&v, a, p->json.data, p->json.n_bytes, TD_JSON_LAST_WINS, NULL) == TD_OK;
    if (ok) {
        const td_json *f = td_json_get(v, "function");
        if (td_json_is(f, TD_JSON_OBJECT)) v = f;
        name = td_json_get(v, "name");
        args = td_json_get(v, "arguments");
        if (!args) args = td_json_get(v, "parameters");
        ok = td_json_is(name, TD_JSON_STRING) && is_name(chat_trim(name->text)) && is_real(p, name, n_real);
    }
    if (ok) {
        td_slice text = {"{}", 2};
        p->in_json = false;
        send_header(p, chat_trim(name->text));
        if (td_json_is(args, TD_JSON_STRING) &&
            td_json_parse(&inner, a, args->text.data, args->text.n_bytes, TD_JSON_LAST_WINS, NULL) == TD_OK &&
            inner->kind == TD_JSON_OBJECT) {
            text = inner->raw;
        } else if (td_json_is(args, TD_JSON_OBJECT)) {
            text = args->raw;
        }
        bool whole = args ? is_real(p, args, n_real) : n_real == p->json.n_bytes;
        if (!whole) text.n_bytes = td_json_is(args, TD_JSON_OBJECT) ? (size_t)(p->json.data + n_real - text.data) : 0;
        parse_emit(p, TD_CHAT_CALL_ARGUMENTS, text.data, text.n_bytes);
        if (whole) parse_mark_event(p, TD_CHAT_CALL_END, "", 0);
    }
    td_arena_destroy(a);
    return ok;
}

/* Behind the whole call, end marker included. */
static void end_call(parser *p) {
    if (p->in_json && !p->as_text && !send_json_call(p, p->json.n_bytes)) {
        give_back(p);
    } else {
        leave(p);
    }
}

/* A marker that ends the call wherever it stands outside a string. Only its own end marker is consumed. */
static bool ends_call(int mark) {
    return mark == TD_MARK_TOOL_CALL_END || mark == TD_MARK_TOOL_CALL || mark == TD_MARK_TURN ||
           mark == TD_MARK_TURN_END || mark == TD_MARK_TOOL_RESPONSE || mark == TD_MARK_TOOL_RESPONSE_END ||
           mark == TD_MARK_CHANNEL;
}

static void end_at_name(parser *p) {
    td_slice name = written_name(p);
    if (p->as_text) {
        leave(p);
    } else if (!is_name(name)) {
        give_back(p);
    } else {
        send_header(p, name);
        parse_emit(p, TD_CHAT_CALL_ARGUMENTS, "{}", 2);
        parse_mark_event(p, TD_CHAT_CALL_END, "", 0);
        leave(p);
    }
}

static void end_at_mark(parser *p, int mark) {
    size_t n = mark == TD_MARK_TOOL_CALL_END ? strlen(td_chat_mark_text(TD_MARK_TOOL_CALL_END)) : 0;
    if (p->state == IN_CALL_NAME) {
        take(p, n);
        end_at_name(p);
        return;
    }
    close_all(p);
    take(p, n);
    end_call(p);
}

void parse_call_finish(parser *p) {
    if (p->end == TD_CHAT_END_MODEL) {
        if (p->state == IN_CALL_NAME) {
            end_at_name(p);
        } else {
            close_all(p);
            end_call(p);
        }
    } else if (p->state == IN_CALL_END) {
        end_call(p);
    } else if (p->in_json && !p->as_text) {
        size_t n_real = p->json.n_bytes;
        close_all(p);
        if (!send_json_call(p, n_real)) give_back(p);
    } else if (!p->header_sent && !p->as_text) {
        give_back(p);
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static bool name_step(parser *p) {
    char c = *parse_here(p);
    if (c != '{' && c != '(') {
        keep(p, 1);
        return true;
    }
    td_slice name = written_name(p);
    if (p->as_text) {
        open_frame(p, c, NULL);
    } else if (name.n_bytes == 0 && c == '{') {
        p->in_json = true;
        open_frame(p, c, NULL);
    } else if (!is_name(name)) {
        keep(p, 1); /* prose; it will be given back */
        return true;
    } else {
        send_header(p, name);
        const td_chat_tool *tool = find_tool(p, resolve(p, name));
        open_frame(p, c, tool ? tool->parameters : NULL);
    }
    take(p, 1);
    return true;
}

static bool key_start_step(parser *p) {
    char c = *parse_here(p);
    td_buf_clear(&p->scratch);
    if (parse_is_blank(c) || c == ',' || c == '{') {
        take(p, 1);
    } else if (c == '}' || c == ']' || (c == ')' && p->frames[0].open == '(')) {
        close_by(p, c);
    } else if (c == '"' || c == '\'') {
        p->quote = c;
        take(p, 1);
        p->state = IN_KEY_QUOTED;
    } else {
        p->state = IN_KEY;
    }
    return true;
}

static bool key_step(parser *p) {
    char c = *parse_here(p);
    bool paren = top(p)->open == '(';
    if (c == ':' || (paren && c == '=')) {
        take(p, 1);
        put_key(p, scratch(p));
    } else if (c == '}' || (paren && (c == ',' || c == ')'))) {
        p->state = IN_VALUE_END;
        put_lonely(p, false);
    } else {
        keep(p, 1);
    }
    return true;
}

static bool key_end_step(parser *p) {
    char c = *parse_here(p);
    if (parse_is_blank(c)) {
        take(p, 1);
        return true;
    }
    if (c == ',' || c == '}' || c == ']' || c == ')') {
        put_lonely(p, true);
        return true;
    }
    if (c == ':' || (c == '=' && top(p)->open == '(')) take(p, 1);
    put_key(p, (td_slice){p->scratch.data, p->scratch.n_bytes});
    return true;
}

static bool value_start_step(parser *p) {
    char c = *parse_here(p);
    bool array = top(p)->open == '[', closes = c == '}' || c == ']' || (c == ')' && p->frames[0].open == '(');
    td_buf_clear(&p->scratch);
    if (parse_is_blank(c)) {
        take(p, 1);
    } else if (closes || c == ',') {
        if (!array) put_word(p, "null");
        if (!array) p->state = IN_VALUE_END;
        if (closes)
            close_by(p, c);
        else
            take(p, 1), p->state = array ? IN_VALUE_START : IN_KEY_START;
    } else if (c == '{' || c == '[') {
        begin_value(p);
        take(p, 1);
        open_frame(p, c, p->value_schema);
    } else if (c == '"' || c == '\'') {
        begin_value(p);
        p->quote = c;
        take(p, 1);
        put_word(p, "\"");
        p->state = IN_QUOTED;
    } else {
        begin_value(p);
        p->depth = 0;
        p->state = IN_BARE;
    }
    return true;
}

static bool bare_step(parser *p) {
    char c = *parse_here(p);
    bool paren = p->frames[0].open == '(';
    if (p->depth == 0 && (c == ',' || c == '}' || c == ']' || (c == ')' && paren))) {
        put_bare(p, scratch(p));
        return true;
    }
    if (c == '{' || c == '[' || (c == '(' && paren)) p->depth++;
    if (c == '}' || c == ']' || (c == ')' && paren)) p->depth--;
    keep(p, 1);
    return true;
}

static bool value_end_step(parser *p) {
    char c = *parse_here(p);
    if (c == '}' || c == ']' || (c == ')' && p->frames[0].open == '(')) {
        close_by(p, c);
        return true;
    }
    take(p, 1);
    if (c == ',') p->state = top(p)->open == '[' ? IN_VALUE_START : IN_KEY_START;
    return true;
}

/* Between <|"|>: everything up to the next one, markers included, as it is. */
static bool string_step(parser *p) {
    const char *s = parse_here(p), *quote = td_chat_mark_text(TD_MARK_QUOTE);
    bool key = p->state == IN_KEY_STRING;
    int w = parse_word(p, quote);
    if (w < 0) return false;
    if (w > 0) {
        take(p, strlen(quote));
        if (!key) put_word(p, "\"");
        p->state = key ? IN_KEY_END : IN_VALUE_END;
        return true;
    }
    const char *next = memchr(s + 1, '<', parse_left(p) - 1);
    size_t n = next ? (size_t)(next - s) : parse_left(p);
    if (key) {
        keep(p, n);
    } else {
        put_escaped(p, s, n);
        take(p, n);
    }
    return true;
}

/* The escape here: its length, and what it means in out[]. 0: more text is needed. An unknown one means itself. */
static size_t read_escape(const parser *p, char out[4], int *n_out) {
    const char *s = parse_here(p);
    size_t left = parse_left(p), n;
    uint32_t cp = 0;
    out[0] = '\\';
    *n_out = 1;
    if (left < 2 || (s[1] == 'u' && left < 6)) return p->final ? 1 : 0;
    if (s[1] == '\'') {
        out[0] = s[1];
        return 2;
    }
    n = td_json_escape(s, left, &cp);
    if (n == 0) return 1;
    if (cp >= 0xD800 && cp < 0xE000) {
        bool pair = cp < 0xDC00 && left < 12 && (left < 7 || s[6] == '\\') && (left < 8 || s[7] == 'u');
        if (pair && !p->final) return 0;
        cp = 0xFFFD;
    }
    *n_out = td_utf8_put(cp, out);
    return n;
}

static bool quoted_step(parser *p) {
    const char *s = parse_here(p);
    bool key = p->state == IN_KEY_QUOTED;
    char text[4];
    int n_text = 0;
    size_t n = 0, left = parse_left(p);
    if (*s == p->quote || (*s == '<' && parse_mark(p) == TD_MARK_QUOTE)) {
        take(p, *s == '<' ? strlen(td_chat_mark_text(TD_MARK_QUOTE)) : 1);
        if (!key) put_word(p, "\"");
        p->state = key ? IN_KEY_END : IN_VALUE_END;
        return true;
    }
    if (*s == '\\') {
        n = read_escape(p, text, &n_text);
        if (!n) return false;
        s = text;
    } else {
        do n++;
        while (n < left && s[n] != p->quote && s[n] != '\\' && s[n] != '<');
        n_text = (int)n;
    }
    if (!key) {
        put_escaped(p, s, (size_t)n_text);
    } else if (!td_buf_add(&p->scratch, s, (size_t)n_text)) {
        p->failed = true;
    }
    take(p, n);
    return true;
}

static bool end_step(parser *p, int mark) {
    char c = *parse_here(p);
    if (mark == TD_MARK_TOOL_CALL_END) {
        take(p, strlen(td_chat_mark_text(TD_MARK_TOOL_CALL_END)));
        end_call(p);
    } else if (parse_is_blank(c) || c == '}' || c == ')' || c == ']') {
        take(p, 1);
    } else {
        end_call(p);
    }
    return true;
}

/* <|"|> outside a string: opens a key or a value; anywhere else it means nothing. */
static void quote_mark(parser *p) {
    if (p->state == IN_VALUE_END) p->state = top(p)->open == '[' ? IN_VALUE_START : IN_KEY_START;
    take(p, strlen(td_chat_mark_text(TD_MARK_QUOTE)));
    if (p->state == IN_KEY_START) {
        td_buf_clear(&p->scratch);
        p->state = IN_KEY_STRING;
    } else if (p->state == IN_VALUE_START) {
        begin_value(p);
        put_word(p, "\"");
        p->state = IN_STRING;
    } else if (p->state == IN_KEY_END) { /* a key, no colon, a string */
        put_key(p, (td_slice){p->scratch.data, p->scratch.n_bytes});
        put_word(p, "\"");
        p->state = IN_STRING;
    }
}

bool parse_call_step(parser *p) {
    if (p->state == IN_STRING || p->state == IN_KEY_STRING) return string_step(p);
    int mark = parse_mark(p);
    if (mark == MARK_PARTIAL) return false;
    if (p->state == IN_CALL_END) return end_step(p, mark);
    if (ends_call(mark)) {
        end_at_mark(p, mark);
        return true;
    }
    if (p->state == IN_QUOTED || p->state == IN_KEY_QUOTED) return quoted_step(p);
    if (mark == TD_MARK_QUOTE) {
        quote_mark(p);
        return true;
    }
    if (mark != MARK_NONE) {
        take(p, strlen(td_chat_mark_text((td_chat_mark)mark)));
        return true;
    }
    switch (p->state) {
    case IN_CALL_NAME:
        return name_step(p);
    case IN_KEY_START:
        return key_start_step(p);
    case IN_KEY:
        return key_step(p);
    case IN_KEY_END:
        return key_end_step(p);
    case IN_VALUE_START:
        return value_start_step(p);
    case IN_BARE:
        return bare_step(p);
    default:
        return value_end_step(p);
    }
}
