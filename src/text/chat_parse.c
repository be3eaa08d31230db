/* The parser's outer half: text, thoughts and markers (specification 8.3). Text is taken as soon as it can no longer be
 * the beginning of a marker, and nothing else ever depends on how it was cut into pieces. Calls are in chat_args.c. */
#include "chat_parse_impl.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is here ------------------------------------------------------------------------------------------------ */

int parse_word(const parser *p, const char *word) {
    size_t n = strlen(word), left = parse_left(p);
    if (left >= n) return memcmp(parse_here(p), word, n) == 0;
    return !p->final && memcmp(parse_here(p), word, left) == 0 ? -1 : 0;
}

int parse_mark(const parser *p) {
    static const td_chat_mark marks[] = {
        TD_MARK_CHANNEL,  TD_MARK_CHANNEL_END,   TD_MARK_TOOL_CALL,         TD_MARK_TOOL_CALL_END, TD_MARK_TURN,
        TD_MARK_TURN_END, TD_MARK_TOOL_RESPONSE, TD_MARK_TOOL_RESPONSE_END, TD_MARK_QUOTE};
    int found = MARK_NONE;
    if (!parse_left(p) || *parse_here(p) != '<') return MARK_NONE;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        int w = parse_word(p, td_chat_mark_text(marks[i]));
        if (w > 0) return (int)marks[i];
        if (w < 0) found = MARK_PARTIAL;
    }
    return found;
}

bool parse_is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void send(parser *p, td_chat_event_kind kind, const char *text, size_t n_bytes) {
    td_chat_event e = {kind, p->n_calls ? p->n_calls - 1 : 0, {n_bytes ? text : "", n_bytes}};
    if (!p->failed && !p->o.sink(p->o.context, &e)) p->failed = true;
}

static void flush(parser *p) {
    if (p->out.n_bytes) send(p, p->pending, p->out.data, p->out.n_bytes);
    td_buf_clear(&p->out);
}

void parse_emit(parser *p, td_chat_event_kind kind, const char *text, size_t n_bytes) {
    if (!n_bytes) return;
    if (kind != p->pending) flush(p);
    p->pending = kind;
    if (kind == TD_CHAT_CONTENT) p->any_content = true;
    if (!td_buf_add(&p->out, text, n_bytes)) p->failed = true;
}

void parse_mark_event(parser *p, td_chat_event_kind kind, const char *text, size_t n_bytes) {
    flush(p);
    send(p, kind, text, n_bytes);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void take(parser *p, size_t n_bytes) {
    p->at += n_bytes;
    p->at_beginning = false;
}

/* Bytes inside a thought, markers included: in the legacy form they are content too. */
static void take_thought(parser *p, size_t n_bytes) {
    if (p->o.reasoning == TD_CHAT_REASONING_BOTH) parse_emit(p, TD_CHAT_CONTENT, parse_here(p), n_bytes);
    take(p, n_bytes);
}

static void open_thought(parser *p, parse_state state) {
    p->state = state;
    p->thought_begun = p->newline_held = false;
    td_buf_clear(&p->held);
}

static size_t mark_length(int mark) {
    return strlen(td_chat_mark_text((td_chat_mark)mark));
}

/* At a marker in text. */
static void text_mark(parser *p, int mark) {
    switch (mark) {
    case TD_MARK_CHANNEL:
        take_thought(p, mark_length(mark));
        open_thought(p, IN_CHANNEL_NAME);
        return;
    case TD_MARK_CHANNEL_END:
    case TD_MARK_TOOL_CALL_END:
        take(p, mark_length(mark));
        return;
    case TD_MARK_TOOL_CALL:
        p->at_beginning = false;
        parse_call_begin(p);
        return;
    default:
        p->state = IN_NOTHING;
        return;
    }
}

static bool text_step(parser *p) {
    bool markers_are_text = p->o.reasoning == TD_CHAT_REASONING_NONE;
    int w = p->at_beginning ? parse_word(p, "<|turn>model\n") : 0;
    if (w < 0) return false;
    if (w > 0) {
        take(p, strlen("<|turn>model\n"));
        return true;
    }
    w = !p->any_content && !markers_are_text ? parse_word(p, "thought\n") : 0;
    if (w < 0) return false;
    if (w > 0) {
        take_thought(p, strlen("thought\n"));
        open_thought(p, IN_THOUGHT);
        return true;
    }
    const char *s = parse_here(p);
    int mark = parse_mark(p);
    if (mark == MARK_PARTIAL) return false;
    bool plain = mark == MARK_NONE || mark == TD_MARK_QUOTE ||
                 (markers_are_text && (mark == TD_MARK_CHANNEL || mark == TD_MARK_CHANNEL_END));
    if (!plain) {
        text_mark(p, mark);
        return true;
    }
    if (p->skip_blanks && parse_is_blank(*s)) {
        take(p, 1);
        return true;
    }
    /* A run up to the next possible marker; with skip_blanks off and content there, nothing else needs a look. */
    const char *next = memchr(s + 1, '<', parse_left(p) - 1);
    size_t n = next ? (size_t)(next - s) : parse_left(p);
    p->skip_blanks = false;
    parse_emit(p, TD_CHAT_CONTENT, s, n);
    take(p, n);
    return true;
}

/* ---- thoughts ---------------------------------------------------------------------------------------------------- */

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static bool channel_name_step(parser *p) {
    enum { MAX_NAME = 32 };
    const char *s = parse_here(p);
    size_t left = parse_left(p), n = 0;
    int mark = parse_mark(p);
    if (mark == MARK_PARTIAL) return false;
    if (mark == TD_MARK_CHANNEL) { /* doubled: the first is dropped */
        take_thought(p, mark_length(mark));
        return true;
    }
    while (n < left && n <= MAX_NAME && is_name_char(s[n])) n++;
    if (n == left && n <= MAX_NAME && !p->final) return false;
    if (n >= 7 && memcmp(s, "thought", 7) == 0) {
        take_thought(p, 7);
        p->state = IN_CHANNEL_BREAK;
    } else if (n && n <= MAX_NAME && n < left && s[n] == '\n') {
        take_thought(p, n);
        p->state = IN_CHANNEL_BREAK;
    } else {
        if (n == left && n < 7 && memcmp(s, "thought", n) == 0) take_thought(p, n); /* the name was cut */
        p->state = IN_THOUGHT;
    }
    return true;
}

static void put_reasoning(parser *p, const char *text, size_t n_bytes) {
    if (!p->thought_begun) {
        if (p->any_reasoning) parse_mark_event(p, TD_CHAT_REASONING_BREAK, "\n\n", 2);
        p->thought_begun = p->any_reasoning = true;
        parse_emit(p, TD_CHAT_REASONING, p->held.data, p->held.n_bytes);
        td_buf_clear(&p->held);
    }
    if (p->newline_held) parse_emit(p, TD_CHAT_REASONING, "\n", 1);
    p->newline_held = n_bytes > 0 && text[n_bytes - 1] == '\n';
    parse_emit(p, TD_CHAT_REASONING, text, n_bytes - p->newline_held);
}

static bool thought_step(parser *p) {
    const char *s = parse_here(p);
    int mark = parse_mark(p);
    if (mark == MARK_PARTIAL) return false;
    if (mark == TD_MARK_CHANNEL_END) {
        take_thought(p, mark_length(mark));
        p->skip_blanks = p->o.reasoning == TD_CHAT_REASONING_SEPARATE;
        p->state = IN_TEXT;
    } else if (mark == TD_MARK_TOOL_CALL) {
        p->state = IN_TEXT;
    } else if (mark == TD_MARK_CHANNEL) {
        take_thought(p, mark_length(mark));
        p->state = IN_NESTED_CHANNEL;
    } else if (mark == TD_MARK_TOOL_CALL_END) {
        take_thought(p, mark_length(mark));
    } else if (mark != MARK_NONE && mark != TD_MARK_QUOTE) {
        p->state = IN_NOTHING;
    } else if (!p->thought_begun && parse_is_blank(*s)) {
        if (!td_buf_add(&p->held, s, 1)) p->failed = true;
        take_thought(p, 1);
    } else {
        const char *next = memchr(s + 1, '<', parse_left(p) - 1);
        size_t n = next ? (size_t)(next - s) : parse_left(p);
        put_reasoning(p, s, n);
        take_thought(p, n);
    }
    return true;
}

static bool step(parser *p) {
    int w = 0;
    switch (p->state) {
    case IN_TEXT:
        return text_step(p);
    case IN_CHANNEL_NAME:
        return channel_name_step(p);
    case IN_THOUGHT:
        return thought_step(p);
    case IN_CHANNEL_BREAK:
        if (*parse_here(p) == '\n') take_thought(p, 1);
        p->state = IN_THOUGHT;
        return true;
    case IN_NESTED_CHANNEL:
        w = parse_word(p, "thought\n");
        if (w < 0) return false;
        if (w > 0) take_thought(p, strlen("thought\n"));
        p->state = IN_THOUGHT;
        return true;
    case IN_NOTHING:
        p->at = p->in.n_bytes;
        return true;
    default:
        return parse_call_step(p);
    }
}

/* ---- the public side --------------------------------------------------------------------------------------------- */

td_status td_chat_parser_create(td_chat_parser **out, const td_chat_parse_options *o, td_error *err) {
    parser *p = calloc(1, sizeof *p);
    *out = p;
    if (!p) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the parser of the answer");
    p->o = *o;
    p->at_beginning = true;
    if (o->start) p->start = *o->start;
    p->o.start = NULL;
    return TD_OK;
}

void td_chat_parser_destroy(td_chat_parser *p) {
    if (!p) return;
    td_buf_free(&p->in);
    td_buf_free(&p->out);
    td_buf_free(&p->held);
    td_buf_free(&p->raw);
    td_buf_free(&p->json);
    td_buf_free(&p->scratch);
    free(p->frames);
    free(p);
}

/* The part of the answer that stands in the prompt. */
static void begin(parser *p) {
    const td_chat_start *s = &p->start;
    p->begun = true;
    p->skip_blanks = s->after_thought;
    if (s->reasoning.n_bytes && p->o.echo_prefill) {
        p->any_reasoning = true;
        parse_emit(p, TD_CHAT_REASONING, s->reasoning.data, s->reasoning.n_bytes);
    }
    if (s->in_thought) {
        open_thought(p, IN_THOUGHT);
        p->thought_begun = s->reasoning.n_bytes > 0;
        p->at_beginning = false;
        if (p->o.reasoning == TD_CHAT_REASONING_NONE) p->state = IN_TEXT;
    }
    if (s->content.n_bytes) {
        p->skip_blanks = p->at_beginning = false;
        p->any_content = true;
        if (p->o.echo_prefill) parse_emit(p, TD_CHAT_CONTENT, s->content.data, s->content.n_bytes);
    }
}

static void run(parser *p) {
    while (p->at < p->in.n_bytes && !p->failed && step(p)) {
    }
    size_t left = parse_left(p);
    if (p->at) memmove(p->in.data, p->in.data + p->at, left);
    p->in.n_bytes = left;
    p->at = 0;
    flush(p);
}

bool td_chat_parser_text(td_chat_parser *p, const char *text, size_t n_bytes) {
    if (!p->begun) begin(p);
    if (p->failed || p->state == IN_NOTHING || p->final) return !p->failed;
    while (n_bytes && !p->failed) { /* in pieces, so that memory follows what is held back and not what is given */
        size_t n = n_bytes < 16384 ? n_bytes : 16384;
        if (!td_buf_reserve(&p->in, 3 * (n + 1))) {
            p->failed = true;
            break;
        }
        p->in.n_bytes += td_utf8_stream_push(&p->utf8, text, n, p->in.data + p->in.n_bytes);
        run(p);
        text += n;
        n_bytes -= n;
    }
    return !p->failed;
}

bool td_chat_parser_token(td_chat_parser *p, const td_vocab *v, uint32_t id) {
    td_slice s = td_vocab_piece(v, id, false);
    if (td_vocab_flags(v, id) & TD_TOKEN_CONTROL) {
        td_slice text = td_vocab_piece(v, id, true);
        for (int m = TD_MARK_TURN; m <= TD_MARK_QUOTE; m++)
            if (m != TD_MARK_TOOL && m != TD_MARK_TOOL_END && text.n_bytes == mark_length(m) &&
                memcmp(text.data, td_chat_mark_text((td_chat_mark)m), text.n_bytes) == 0)
                s = text;
    }
    return td_chat_parser_text(p, s.data, s.n_bytes);
}

bool td_chat_parser_finish(td_chat_parser *p, td_chat_end end) {
    if (!p->begun) begin(p);
    if (p->final || p->failed) return !p->failed;
    if (!td_buf_reserve(&p->in, 4)) p->failed = true;
    if (!p->failed) p->in.n_bytes += td_utf8_stream_finish(&p->utf8, p->in.data + p->in.n_bytes);
    p->final = true;
    p->end = end;
    run(p);
    if (p->state >= IN_CALL_NAME && p->state <= IN_CALL_END) parse_call_finish(p);
    if (p->state == IN_THOUGHT && p->newline_held) parse_emit(p, TD_CHAT_REASONING, "\n", 1);
    flush(p);
    return !p->failed;
}

bool td_chat_parser_stopped(const td_chat_parser *p) {
    return p->state == IN_NOTHING;
}

bool td_chat_parser_in_call(const td_chat_parser *p) {
    return p->state >= IN_CALL_NAME && p->state <= IN_CALL_END;
}

uint32_t td_chat_parser_n_failures(const td_chat_parser *p) {
    return p->n_failures;
}
