/* A JSON text as an immutable tree in an arena, for documents of requests: tool schemas, arguments, whole bodies.
 *
 * Why not jansson here: numbers keep the characters they were written with (the chat format prints them again, and
 * 1e-7, 0.10 or an integer of 30 digits must not change), and every value knows its own source text. Members keep their
 * order. Depth, memory (through the arena's limit) and time (n log n) are bounded. */
#ifndef TD_TEXT_JSON_H
#define TD_TEXT_JSON_H

#include "../base/arena.h"
#include "../base/cursor.h"
#include "buf.h"

#define TD_JSON_MAX_DEPTH 512

typedef enum td_json_kind {
    TD_JSON_NULL,
    TD_JSON_FALSE,
    TD_JSON_TRUE,
    TD_JSON_NUMBER,
    TD_JSON_STRING,
    TD_JSON_ARRAY,
    TD_JSON_OBJECT
} td_json_kind;

typedef struct td_json td_json;
struct td_json {
    td_json_kind kind;
    uint32_t n;            /* children */
    td_slice text;         /* STRING: decoded; NUMBER: as written; else empty */
    td_slice raw;          /* the whole value in the source; empty for a value made by td_json_make_… */
    td_slice key;          /* as a member: its name */
    td_json *first, *last; /* children; ARRAY and OBJECT */
    td_json *next;         /* sibling */
};

typedef enum td_json_duplicates { TD_JSON_LAST_WINS, TD_JSON_REJECT } td_json_duplicates;

/* The text must stay as long as the tree (strings without escapes are borrowed). Lone surrogates in escapes become
 * U+FFFD; ill-formed UTF-8 is an error. LAST_WINS: the last of equal names stays, at the place of the first.
 * TD_ERR_FORMAT with the offset and what was expected, TD_ERR_LIMIT (depth), TD_ERR_MEMORY. */
td_status td_json_parse(const td_json **out, td_arena *a, const char *text, size_t n_bytes, td_json_duplicates dup,
                        td_error *err);

/* The member, or NULL; also for NULL and for values that are no objects. Linear in the number of members. */
const td_json *td_json_get(const td_json *object, const char *name);
const td_json *td_json_get_slice(const td_json *object, td_slice name);
/* NULL and JSON null are both "absent" to most callers: */
static inline bool td_json_present(const td_json *v) {
    return v && v->kind != TD_JSON_NULL;
}
static inline bool td_json_is(const td_json *v, td_json_kind kind) {
    return v && v->kind == kind;
}
bool td_json_is_string(const td_json *v, const char *text); /* a string of exactly this text */
/* Integers written as such or as 5.0, 1e3; false outside int64 or when a fraction is left. */
bool td_json_int(const td_json *v, int64_t *out);
bool td_json_double(const td_json *v, double *out); /* finite; independent of the locale */
/* Same values: members in any order, numbers by value. Both sides at most TD_JSON_MAX_DEPTH deep. */
bool td_json_equal(const td_json *a, const td_json *b);
bool td_json_truthy(const td_json *v); /* as Python: false for NULL, null, false, 0, "", [], {} */

/* Values made by hand, in the arena; NULL without memory. */
td_json *td_json_make(td_arena *a, td_json_kind kind);
td_json *td_json_make_string(td_arena *a, const char *text, size_t n_bytes);
/* A shallow copy under another name (children are shared: trees are immutable). */
td_json *td_json_put(td_arena *a, td_json *object, td_slice key, const td_json *value);

/* Compact JSON text: no blanks, members in order, numbers as written. False without memory. */
bool td_json_write(td_buf *out, const td_json *v);
/* A quoted string, with quotation marks; the bytes must be well-formed UTF-8. */
bool td_json_write_string(td_buf *out, const char *text, size_t n_bytes);
/* The inside of a quoted string, for strings that are written in pieces. */
bool td_json_write_escaped(td_buf *out, const char *text, size_t n_bytes);

#endif
