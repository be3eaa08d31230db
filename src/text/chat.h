/* Gemma 4's chat format: messages to a prompt. The other direction is chat_parse.h.
 *
 * No template engine: the five generations of the published templates are written out in C (chat_render.c), and what
 * they get wrong is corrected before and while rendering unless `strict` is set (chat_fix.c, chat_schema.c).
 *
 * The prompt is a text with a mask over it, never a plain string: the format's own markers are spans of their own, and
 * everything that came with the request (contents, arguments, names, results, schemas) is data, in which no control
 * token is ever matched. All slices are borrowed; a request keeps its messages in one arena until it is answered. */
#ifndef TD_TEXT_CHAT_H
#define TD_TEXT_CHAT_H

#include "json.h"
#include "tokenizer.h"

/* ---- which template ---------------------------------------------------------------------------------------------- */

typedef enum td_chat_generation {
    TD_CHAT_G0, /* launch; used as G1B unless forced */
    TD_CHAT_INTERLEAVED,
    TD_CHAT_G1,
    TD_CHAT_G1B,
    TD_CHAT_G2
} td_chat_generation;

typedef struct td_chat_profile {
    td_chat_generation generation;
    bool large; /* 12B, 26B-A4B, 31B: an empty thought is written when thinking is off */
} td_chat_profile;

/* From tokenizer.chat_template (NULL or empty: none in the file). `model_is_small`: the model has per-layer input
 * embeddings (E2B, E4B). *warning is NULL or one line to log. False: the text is no Gemma 4 template; *out is then G2
 * (a template given by hand must be refused instead, see td_chat_generations_text). */
bool td_chat_profile_detect(const char *chat_template, size_t n_bytes, bool model_is_small, td_chat_profile *out,
                            const char **warning);
/* "g2", "g2-large", "g1b-small", "interleaved", …; without a size `large` is left as it is. */
bool td_chat_profile_parse(const char *name, td_chat_profile *inout);
const char *td_chat_profile_name(td_chat_profile p); /* "g2-large" */
const char *td_chat_generations_text(void);          /* the recognised ones, for messages */

/* ---- messages ---------------------------------------------------------------------------------------------------- */

typedef enum td_chat_role {
    TD_CHAT_SYSTEM, /* and developer */
    TD_CHAT_USER,
    TD_CHAT_ASSISTANT,
    TD_CHAT_TOOL
} td_chat_role;

typedef enum td_chat_part_kind { TD_CHAT_TEXT, TD_CHAT_IMAGE, TD_CHAT_AUDIO, TD_CHAT_VIDEO } td_chat_part_kind;

typedef struct td_chat_part {
    td_chat_part_kind kind;
    td_slice text;         /* TEXT */
    const td_json *source; /* media: the request's part, for whoever loads it */
} td_chat_part;

typedef struct td_chat_call {
    td_slice id, name;        /* id.data NULL: none was given */
    const td_json *arguments; /* an object; NULL: {} */
} td_chat_call;

typedef struct td_chat_response { /* an entry of the models' native field tool_responses */
    td_slice name;                /* data NULL: none */
    const td_json *response;      /* any value; NULL: the member is missing */
} td_chat_response;

typedef enum td_chat_content_kind {
    TD_CHAT_NO_CONTENT, /* missing or null */
    TD_CHAT_STRING,     /* text */
    TD_CHAT_PARTS,      /* parts */
    TD_CHAT_VALUE       /* value: a tool's result given as JSON */
} td_chat_content_kind;

typedef struct td_chat_message {
    td_chat_role role;
    td_chat_content_kind content_kind;
    td_slice text;
    const td_chat_part *parts;
    size_t n_parts;
    const td_json *value;
    td_slice reasoning;         /* `reasoning`, or `reasoning_content` when that is empty */
    td_slice reasoning_content; /* only what came under this name (one template looks at nothing else) */
    const td_chat_call *calls;
    size_t n_calls;
    const td_chat_response *responses;
    size_t n_responses;
    td_slice tool_call_id, name; /* role TOOL; data NULL: none was given */
} td_chat_message;

typedef struct td_chat_tool {
    td_slice name, description;
    const td_json *parameters; /* a JSON schema; NULL: none */
    const td_json *response;
    bool strict; /* the client asked for schema-exact arguments */
} td_chat_tool;

typedef struct td_chat_replay td_chat_replay; /* chat_replay.h */

typedef struct td_chat_options {
    td_chat_profile profile;
    bool strict; /* byte-exact with the published template: all corrections off */
    bool enable_thinking;
    bool thinking_by_default; /* nobody asked for or against it (X3 is then left out) */
    bool preserve_thinking;
    bool no_generation_prompt;
    bool template_text_order; /* X2 off */
    bool continue_final;      /* a last assistant message without calls is left open for the model to go on */
    td_chat_replay *replay;   /* X11; may be NULL */
} td_chat_options;

/* Corrections to the schemas of tools (X5), in the arena: unions, const, $ref, missing types. Idempotent; a parser and
 * a grammar should be given the same result as the renderer, which applies it itself unless strict. */
td_status td_chat_tools_clean(const td_chat_tool *tools, size_t n_tools, td_arena *a, td_chat_tool **out,
                              td_error *err);

/* ---- prompt ------------------------------------------------------------------------------------------------------ */

typedef enum td_chat_span_kind {
    TD_CHAT_SPAN_TEXT,  /* ours */
    TD_CHAT_SPAN_DATA,  /* the request's: never a control token */
    TD_CHAT_SPAN_MARK,  /* one special token */
    TD_CHAT_SPAN_MEDIA, /* one image, recording or film; the text holds the template's placeholder */
    TD_CHAT_SPAN_REPLAY /* tokens of an earlier answer, exactly; the text holds their text */
} td_chat_span_kind;

typedef struct td_chat_span {
    td_chat_span_kind kind;
    size_t begin, end; /* in td_chat_prompt.text */
    size_t first, n;   /* REPLAY: in td_chat_prompt.replayed; MEDIA: index in td_chat_prompt.media, 1 */
} td_chat_span;

/* The part of the answer that the prompt already holds; td_chat_parser_create takes it. */
typedef struct td_chat_start {
    bool in_thought;    /* the prompt ends inside <|channel>thought\n… */
    bool after_thought; /* it ends behind a thought, empty ones included */
    bool in_turn;       /* it ends behind results: this answer continues a turn */
    td_slice reasoning; /* prefilled by the client; borrowed from the messages */
    td_slice content;
    size_t begin; /* offset in the text where the answer begins; up to the end it is part of the turn (X11) */
} td_chat_start;

typedef struct td_chat_prompt { /* zero-initialise; td_chat_prompt_free at the end */
    td_buf text;                /* begins with <bos> */
    td_chat_span *spans;        /* cover the text without gaps */
    size_t n_spans, cap_spans;
    const td_chat_part **media; /* in order */
    size_t n_media, cap_media;
    td_tokens replayed;
    size_t *boundaries; /* offsets where turns begin: good places for context checkpoints */
    size_t n_boundaries, cap_boundaries;
    td_chat_start start;
    unsigned n_orphans; /* tool results without a call, shown as user turns (X7): to be logged */
} td_chat_prompt;

/* TD_ERR_MEMORY only: every message list has a rendering. The arena takes what the corrections rewrite; messages and
 * tools are not changed. */
td_status td_chat_render(td_chat_prompt *out, const td_chat_message *messages, size_t n_messages,
                         const td_chat_tool *tools, size_t n_tools, const td_chat_options *options, td_arena *a,
                         td_error *err);
void td_chat_prompt_free(td_chat_prompt *p);
/* The text as /apply-template shows it: without <bos>. Borrowed. */
td_slice td_chat_prompt_text(const td_chat_prompt *p);

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

typedef enum td_chat_mark {
    TD_MARK_BOS,
    TD_MARK_TURN,
    TD_MARK_TURN_END,
    TD_MARK_CHANNEL,
    TD_MARK_CHANNEL_END,
    TD_MARK_TOOL,
    TD_MARK_TOOL_END,
    TD_MARK_TOOL_CALL,
    TD_MARK_TOOL_CALL_END,
    TD_MARK_TOOL_RESPONSE,
    TD_MARK_TOOL_RESPONSE_END,
    TD_MARK_QUOTE, /* <|"|> */
    TD_MARK_THINK,
    TD_MARK_IMAGE,
    TD_MARK_AUDIO,
    TD_MARK_VIDEO,
    TD_MARK_COUNT
} td_chat_mark;

const char *td_chat_mark_text(td_chat_mark m); /* "<|turn>" */

typedef struct td_chat_vocab {
    const td_vocab *vocab;
    uint32_t ids[TD_MARK_COUNT]; /* TD_TOKEN_NONE: the vocabulary has none; its text is then written out */
} td_chat_vocab;

/* TD_ERR_FORMAT when <|turn>, <turn|> or <|channel> is missing. *warning: NULL, or a line about ids other than
 * Gemma 4's. */
td_status td_chat_vocab_init(td_chat_vocab *cv, const td_vocab *v, const char **warning, td_error *err);

/* Appends the prompt's ids, <bos> first. `parse_special_input`: control words in data become tokens (X6 off).
 * `boundaries`, if not NULL, has room for n_boundaries positions. TD_ERR_UNSUPPORTED for media. */
td_status td_chat_prompt_tokenize(const td_chat_prompt *p, const td_chat_vocab *cv, bool parse_special_input,
                                  td_tokens *out, size_t *boundaries, td_error *err);

#endif
