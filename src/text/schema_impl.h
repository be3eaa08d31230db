/* Inside of the schema compiler: grammar_schema.c walks the schema, schema_values.c makes the trees of plain values,
 * schema_pattern.c those of regular expressions, schema_merge.c joins schemas. */
#ifndef TD_TEXT_SCHEMA_IMPL_H
#define TD_TEXT_SCHEMA_IMPL_H

#include "grammar_schema.h"
#include "json.h"
#include "json_scan.h"

/* How values are written: as JSON, or as the arguments of Gemma 4's tool calls (bare keys, no blanks, strings between
 * two tokens <|"|> with nothing escaped). */
typedef enum g_dialect { G_JSON, G_CALL } g_dialect;

typedef enum g_shared { /* rules made once per grammar and dialect */
                        SHARED_BLANK,
                        SHARED_CHAR, /* one character inside a string */
                        SHARED_STRING,
                        SHARED_INTEGER,
                        SHARED_NUMBER,
                        SHARED_VALUE,
                        SHARED_OBJECT,
                        SHARED_ARRAY,
                        SHARED_COUNT
} g_shared;

typedef struct schema_ctx {
    g_tree *tree;
    td_arena *arena; /* of the JSON trees, merged ones included */
    const td_json *root;
    const td_schema_options *options;
    g_dialect dialect;
    uint32_t quote;                /* the token <|"|>, for G_CALL */
    uint32_t shared[SHARED_COUNT]; /* rule index + 1 */
    uint32_t n_rules_made;         /* for names of rules */
    uint32_t name_prefix;          /* keeps the rules of several schemas in one tree apart */
    int depth, n_merges;
    td_error *err;
    td_status status;
} schema_ctx;

/* Records the first error, with the place where it is if one is known; returns NULL. */
g_node *schema_fail(schema_ctx *c, td_status code, const td_json *at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* schema_values.c */
g_node *schema_shared(schema_ctx *c, g_shared which);
g_node *schema_string(schema_ctx *c, uint32_t min, uint32_t max); /* a string of so many characters */
g_node *schema_quoted(schema_ctx *c, g_node *content);            /* content between the dialect's quotes */
g_node *schema_constant(schema_ctx *c, const td_json *value);     /* exactly this value */
g_node *schema_key(schema_ctx *c, td_slice name);                 /* a member's name and its colon */
g_node *schema_other_key(schema_ctx *c, const td_json *properties);
g_node *schema_int_range(schema_ctx *c, int64_t lo, int64_t hi);
g_node *schema_format(schema_ctx *c, const td_json *format); /* NULL without error: not one that constrains */
g_node *schema_comma(schema_ctx *c);
/* open [first second…] close, with the dialect's blanks; `content` NULL: nothing inside. */
g_node *schema_bracket(schema_ctx *c, char open, g_node *content, bool may_be_empty, char close);
g_node *schema_object_of(schema_ctx *c, const g_list *members, g_node *other, const bool *required);

/* schema_pattern.c: the strings that match an anchored regular expression, without their quotes */
g_node *schema_pattern(schema_ctx *c, const td_json *pattern);

/* schema_merge.c: both must hold; NULL after an error */
const td_json *schema_merge(schema_ctx *c, const td_json *a, const td_json *b);
bool schema_is_annotation(td_slice key); /* does not constrain */
const td_json *schema_without(schema_ctx *c, const td_json *object, const char *const *names, int n);

#endif
