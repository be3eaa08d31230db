/* Inside of the parser: what chat_parse.c (text and thoughts) and chat_args.c (calls) share. */
#ifndef TD_TEXT_CHAT_PARSE_IMPL_H
#define TD_TEXT_CHAT_PARSE_IMPL_H

#include "chat_impl.h"
#include "chat_parse.h"

typedef enum parse_state { /* where the next character belongs */
                           IN_TEXT,
                           IN_CHANNEL_NAME,  /* behind <|channel> */
                           IN_CHANNEL_BREAK, /* behind its name: one newline may follow */
                           IN_THOUGHT,
                           IN_NESTED_CHANNEL, /* behind a <|channel> inside a thought */
                           IN_CALL_NAME,
                           IN_KEY_START,
                           IN_KEY,        /* bare */
                           IN_KEY_STRING, /* between <|"|> */
                           IN_KEY_QUOTED,
                           IN_KEY_END, /* behind a quoted key */
                           IN_VALUE_START,
                           IN_STRING, /* between <|"|> */
                           IN_QUOTED,
                           IN_BARE,
                           IN_VALUE_END,
                           IN_CALL_END, /* behind the last bracket */
                           IN_NOTHING   /* stopped */
} parse_state;

typedef struct parse_frame {
    char open; /* { [ ( */
    uint32_t n;
    const td_json *schema; /* of this object or array; NULL: unknown */
} parse_frame;

struct td_chat_parser {
    td_chat_parse_options o;
    td_chat_start start;
    td_utf8_stream utf8;
    td_buf in; /* not yet understood, from `at` */
    size_t at;
    bool begun, final, failed;
    td_chat_end end;
    parse_state state;

    td_chat_event_kind pending; /* events of one kind are collected in `out` */
    td_buf out;

    bool at_beginning; /* nothing was read: a repeated role header may come */
    bool any_content;  /* so a leaked "thought" can no longer come */
    bool skip_blanks;  /* at the start of text behind a thought or call */
    bool any_reasoning, thought_begun;
    td_buf held; /* blanks of a thought that has shown nothing else yet */
    bool newline_held;

    uint32_t n_calls, n_failures;
    bool as_text; /* the request has no tools: the call goes out as it is */
    bool in_json; /* a JSON object in place of name and arguments: collected in `json` */
    bool header_sent;
    td_buf raw, json; /* the call's own text until its header is out */
    td_buf scratch;   /* name, key or bare value being read */
    char quote;       /* of IN_QUOTED, IN_KEY_QUOTED */
    uint32_t depth;   /* brackets open inside a bare value */
    const td_json *value_schema;
    parse_frame *frames;
    size_t n_frames, cap_frames;
};

typedef td_chat_parser parser;

enum { MARK_NONE = -1, MARK_PARTIAL = -2 };

static inline size_t parse_left(const parser *p) {
    return p->in.n_bytes - p->at;
}
static inline const char *parse_here(const parser *p) {
    return p->in.data + p->at;
}
/* The marker that begins here, MARK_PARTIAL when more text could still make one, else MARK_NONE. */
int parse_mark(const parser *p);
/* 1: `word` is here, -1: more text could still make it, 0: no. */
int parse_word(const parser *p, const char *word);
void parse_emit(parser *p, td_chat_event_kind kind, const char *text, size_t n_bytes);
void parse_mark_event(parser *p, td_chat_event_kind kind, const char *text, size_t n_bytes); /* not joined */
bool parse_is_blank(char c);

void parse_call_begin(parser *p); /* at <|tool_call>, which is consumed */
/* One step of a call; false: more text is needed. */
bool parse_call_step(parser *p);
void parse_call_finish(parser *p); /* at the end of the output */

#endif
