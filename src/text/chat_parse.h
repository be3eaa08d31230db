/* Gemma 4's chat format: what the model writes to reasoning, content and tool calls, while it is being written.
 *
 * Parsing is total: no output fails, every text has a meaning, and every way of cutting the text into pieces gives the
 * same message. What is malformed is repaired where the repair is plain, else given back as content. */
#ifndef TD_TEXT_CHAT_PARSE_H
#define TD_TEXT_CHAT_PARSE_H

#include "chat.h"

typedef enum td_chat_event_kind {
    TD_CHAT_REASONING,       /* text is appended to the reasoning */
    TD_CHAT_REASONING_BREAK, /* another thought begins: text is "\n\n", to be appended where thoughts are one string */
    TD_CHAT_CONTENT,         /* text is appended to the content */
    TD_CHAT_CALL_BEGIN,      /* text is the name of call number `call` */
    TD_CHAT_CALL_ARGUMENTS,  /* text is appended to its arguments, compact JSON */
    TD_CHAT_CALL_END         /* the call is complete; missing when a length limit cut it */
} td_chat_event_kind;

typedef struct td_chat_event {
    td_chat_event_kind kind;
    uint32_t call; /* 0, 1, … */
    td_slice text; /* well-formed UTF-8, never half a character; valid during the call */
} td_chat_event;

/* False stops the parser: every later call does nothing and returns false. */
typedef bool td_chat_sink(void *context, const td_chat_event *event);

typedef enum td_chat_reasoning_format {
    TD_CHAT_REASONING_SEPARATE, /* auto, deepseek */
    TD_CHAT_REASONING_NONE,     /* thoughts stay in the content, markers included */
    TD_CHAT_REASONING_BOTH      /* deepseek-legacy */
} td_chat_reasoning_format;

typedef struct td_chat_parse_options {
    const td_chat_tool *tools; /* cleaned; must outlive the parser. Without any, calls are given back as text */
    size_t n_tools;
    td_chat_reasoning_format reasoning;
    const td_chat_start *start; /* NULL: the answer begins with plain text */
    bool echo_prefill;          /* events for start->reasoning and start->content too */
    td_chat_sink *sink;
    void *context;
} td_chat_parse_options;

typedef struct td_chat_parser td_chat_parser;

td_status td_chat_parser_create(td_chat_parser **out, const td_chat_parse_options *o, td_error *err);
void td_chat_parser_destroy(td_chat_parser *p);

/* Any bytes, cut anywhere. False: no memory, or the sink said stop. */
bool td_chat_parser_text(td_chat_parser *p, const char *text, size_t n_bytes);
/* One generated token: markers by their text, other control tokens as nothing. Out-of-range ids add nothing. */
bool td_chat_parser_token(td_chat_parser *p, const td_vocab *v, uint32_t id);

typedef enum td_chat_end {
    TD_CHAT_END_MODEL, /* <turn|>, <|tool_response>, <eos>, a stop string: open strings and brackets are closed */
    TD_CHAT_END_CUT    /* length limit or cancelled: nothing is invented */
} td_chat_end;

/* Everything held back comes out. Call once. */
bool td_chat_parser_finish(td_chat_parser *p, td_chat_end end);

bool td_chat_parser_stopped(const td_chat_parser *p); /* saw a turn's end in the text: further text is discarded */
bool td_chat_parser_in_call(const td_chat_parser *p);
uint32_t td_chat_parser_n_failures(const td_chat_parser *p); /* calls that were given back as text */

/* ---- a whole answer ---------------------------------------------------------------------------------------------- */

typedef enum td_chat_block_kind {
    TD_CHAT_BLOCK_REASONING,
    TD_CHAT_BLOCK_CONTENT,
    TD_CHAT_BLOCK_CALL
} td_chat_block_kind;

typedef struct td_chat_block {
    td_chat_block_kind kind;
    td_buf text; /* a call's arguments */
    td_buf name; /* CALL */
    bool complete;
    bool apart; /* REASONING: another thought than the block before */
} td_chat_block;

typedef struct td_chat_reply { /* zero-initialise; td_chat_reply_free at the end */
    td_chat_block *blocks;     /* in order of appearance */
    size_t n_blocks, cap_blocks;
    size_t n_calls;
    bool broken; /* a new thought begins */
} td_chat_reply;

bool td_chat_reply_add(td_chat_reply *r, const td_chat_event *e); /* a sink with the reply as context fits: */
bool td_chat_reply_sink(void *reply, const td_chat_event *e);
bool td_chat_reply_content(const td_chat_reply *r, td_buf *out);   /* all content, appended */
bool td_chat_reply_reasoning(const td_chat_reply *r, td_buf *out); /* all thoughts, a blank line between them */
void td_chat_reply_free(td_chat_reply *r);

#endif
