/* Inside of the chat format, shared by the chat_*.c files that make prompts. */
#ifndef TD_TEXT_CHAT_IMPL_H
#define TD_TEXT_CHAT_IMPL_H

#include "chat.h"

/* ---- chat_lower.c, chat_value.c: text and values ----------------------------------------------------------------- */

uint32_t chat_lower(uint32_t cp); /* simple lower case of Unicode */

td_slice chat_trim(td_slice s);                    /* as Python's str.strip */
bool chat_strip_thinking(td_buf *out, td_slice s); /* appends s without its channels, trimmed */
static inline td_slice chat_slice(const char *text) {
    td_slice s = {text, 0};
    while (text[s.n_bytes]) s.n_bytes++;
    return s;
}

typedef struct chat_writer {
    td_chat_prompt *p;
    td_arena *a;
    td_chat_generation generation;
    bool strict;
    bool failed; /* no memory */
} chat_writer;

void chat_put(chat_writer *w, td_chat_span_kind kind, const char *text, size_t n_bytes);
static inline void chat_put_text(chat_writer *w, const char *text) {
    chat_put(w, TD_CHAT_SPAN_TEXT, text, chat_slice(text).n_bytes);
}
static inline void chat_put_data(chat_writer *w, td_slice s) {
    chat_put(w, TD_CHAT_SPAN_DATA, s.data, s.n_bytes);
}
void chat_put_mark(chat_writer *w, td_chat_mark m);
void chat_put_media(chat_writer *w, const td_chat_part *part);
void chat_put_string(chat_writer *w, td_slice s); /* between <|"|> */
/* A value in argument syntax. `quoted`: keys between <|"|>. */
void chat_put_value(chat_writer *w, const td_json *v, bool quoted);
/* The members k:v,k:v of an object, without braces, keys bare. */
void chat_put_members(chat_writer *w, const td_json *object);
/* What Python's str() makes of a value: templates print whatever stands at a place. */
void chat_put_python(chat_writer *w, const td_json *v, bool upper);
/* Children in case-insensitive order of their keys; [n], in the arena. NULL without memory (w->failed is then set). */
const td_json **chat_sorted(chat_writer *w, const td_json *object);

/* ---- chat_declare.c ---------------------------------------------------------------------------------------------- */

void chat_put_declaration(chat_writer *w, const td_chat_tool *tool);

/* ---- chat_fix.c -------------------------------------------------------------------------------------------------- */

typedef struct chat_item {
    td_chat_message m;
    td_slice lead; /* early templates: text that goes before the calls */
} chat_item;

/* The messages with the corrections that move or join them; one to one when strict. */
td_status chat_fix(const td_chat_message *messages, size_t n, const td_chat_options *o, td_arena *a, chat_item **out,
                   size_t *n_out, unsigned *n_orphans, td_error *err);

#endif
