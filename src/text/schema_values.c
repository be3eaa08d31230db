/* Trees of plain JSON values, in both dialects. Numbers are bounded in length and blanks in number, so that a model
 * cannot write either for ever. */
#include "schema_impl.h"

#include "../base/status.h"

#include <stdio.h>
#include <string.h>

static g_node *class_of(schema_ctx *c, const char *pairs, bool negated) {
    g_range r[32];
    uint32_t n = 0;
    for (; pairs[0] && n < 32; pairs += 2) r[n++] = (g_range){(uint8_t)pairs[0], (uint8_t)pairs[1]};
    return g_class(c->tree, r, n, negated);
}

static g_node *digits(schema_ctx *c, uint32_t min, uint32_t max) {
    return g_repeat(c->tree, class_of(c, "09", false), min, max);
}

static g_node *optional(schema_ctx *c, g_node *n) {
    return g_repeat(c->tree, n, 0, 1);
}

/* ---- shared rules ------------------------------------------------------------------------------------------------ */

/* Nothing, one space, or a newline with some indentation. */
static g_node *make_blank(schema_ctx *c) {
    g_tree *t = c->tree;
    if (c->dialect == G_CALL) return g_empty(t);
    g_node *indent = g_repeat(t, g_class(t, (const g_range[]){{' ', ' '}, {'\t', '\t'}}, 2, false), 0, 20);
    return g_alt_of(t, 3, g_empty(t), g_text(t, " "), g_seq_of(t, 2, g_text(t, "\n"), indent));
}

/* JSON: an ordinary character, or an escape; surrogates only as a pair. Calls: any character. */
static g_node *make_char(schema_ctx *c) {
    static const g_range special[] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}, {0x7F, 0x7F}};
    g_tree *t = c->tree;
    if (c->dialect == G_CALL) return g_class(t, NULL, 0, true);
    g_node *hex3 = g_repeat(t, class_of(c, "09afAF", false), 3, 3),
           *hex2 = g_repeat(t, class_of(c, "09afAF", false), 2, 2);
    g_node *plain = g_seq_of(t, 2, class_of(c, "09acACeeEEffFF", false), hex3);
    g_node *low_d = g_seq_of(t, 3, class_of(c, "ddDD", false), class_of(c, "07", false), hex2);
    g_node *pair = g_seq_of(t, 6, class_of(c, "ddDD", false), class_of(c, "89abAB", false), hex2, g_text(t, "\\u"),
                            g_seq_of(t, 2, class_of(c, "ddDD", false), class_of(c, "cfCF", false)), hex2);
    g_node *unicode = g_seq_of(t, 2, g_text(t, "u"), g_alt_of(t, 3, plain, low_d, pair));
    g_node *escape =
        g_seq_of(t, 2, g_text(t, "\\"), g_alt_of(t, 2, class_of(c, "\"\"\\\\//bbffnnrrtt", false), unicode));
    return g_alt_of(t, 2, g_class(t, special, 4, true), escape);
}

static g_node *make_integer(schema_ctx *c) {
    g_tree *t = c->tree;
    g_node *whole = g_alt_of(t, 2, g_text(t, "0"), g_seq_of(t, 2, class_of(c, "19", false), digits(c, 0, 15)));
    return g_seq_of(t, 2, optional(c, g_text(t, "-")), whole);
}

static g_node *make_number(schema_ctx *c) {
    g_tree *t = c->tree;
    g_node *fraction = optional(c, g_seq_of(t, 2, g_text(t, "."), digits(c, 1, 16)));
    g_node *sign = optional(c, class_of(c, "++--", false));
    g_node *exponent = optional(c, g_seq_of(t, 3, class_of(c, "eeEE", false), sign, digits(c, 1, 2)));
    return g_seq_of(t, 3, schema_shared(c, SHARED_INTEGER), fraction, exponent);
}

static g_node *make_value(schema_ctx *c) {
    g_tree *t = c->tree;
    return g_alt_of(t, 7, schema_shared(c, SHARED_OBJECT), schema_shared(c, SHARED_ARRAY),
                    schema_shared(c, SHARED_STRING), schema_shared(c, SHARED_NUMBER), g_text(t, "true"),
                    g_text(t, "false"), g_text(t, "null"));
}

static g_node *separated(schema_ctx *c, g_node *item) {
    g_tree *t = c->tree;
    return g_seq_of(t, 2, item, g_repeat(t, g_seq_of(t, 2, schema_comma(c), item), 0, G_INF));
}

static g_node *make_object(schema_ctx *c) {
    g_node *member = g_seq_of(c->tree, 2, schema_other_key(c, NULL), schema_shared(c, SHARED_VALUE));
    return schema_bracket(c, '{', separated(c, member), true, '}');
}

static g_node *make_array(schema_ctx *c) {
    return schema_bracket(c, '[', separated(c, schema_shared(c, SHARED_VALUE)), true, ']');
}

g_node *schema_shared(schema_ctx *c, g_shared which) {
    static g_node *(*const make[SHARED_COUNT])(schema_ctx *) = {
        [SHARED_BLANK] = make_blank,     [SHARED_CHAR] = make_char,     [SHARED_STRING] = NULL,
        [SHARED_INTEGER] = make_integer, [SHARED_NUMBER] = make_number, [SHARED_VALUE] = make_value,
        [SHARED_OBJECT] = make_object,   [SHARED_ARRAY] = make_array};
    if (!c->shared[which]) {
        char name[40];
        int n = snprintf(name, sizeof name, " %s value %d", c->dialect == G_JSON ? "json" : "call", (int)which);
        uint32_t rule = g_rule_named(c->tree, name, (size_t)n, 0);
        if (rule == UINT32_MAX) return NULL;
        c->shared[which] = rule + 1; /* before its body: values contain values */
        bool made = c->tree->rules[rule].node != NULL;
        g_node *node = made                     ? c->tree->rules[rule].node
                       : which == SHARED_STRING ? schema_string(c, 0, G_INF)
                                                : make[which](c);
        if (node) c->tree->rules[rule].node = node;
    }
    return g_rule_ref(c->tree, c->shared[which] - 1);
}

/* ---- strings, keys, constants ------------------------------------------------------------------------------------ */

g_node *schema_quoted(schema_ctx *c, g_node *content) {
    g_tree *t = c->tree;
    if (c->dialect == G_CALL) return g_seq_of(t, 3, g_token(t, c->quote, false), content, g_token(t, c->quote, false));
    return g_seq_of(t, 3, g_text(t, "\""), content, g_text(t, "\""));
}

g_node *schema_string(schema_ctx *c, uint32_t min, uint32_t max) {
    return schema_quoted(c, g_repeat(c->tree, schema_shared(c, SHARED_CHAR), min, max));
}

static g_node *written(schema_ctx *c, const td_json *value) {
    td_buf b = {0};
    if (!td_json_write(&b, value)) c->tree->failed = true;
    g_node *n = c->tree->failed ? NULL : g_literal(c->tree, b.data, b.n_bytes);
    td_buf_free(&b);
    return n;
}

static g_node *text_of(schema_ctx *c, td_slice s) {
    td_buf b = {0};
    bool ok = c->dialect == G_CALL ? td_buf_add(&b, s.data, s.n_bytes) : td_json_write_escaped(&b, s.data, s.n_bytes);
    if (!ok) c->tree->failed = true;
    g_node *n = c->tree->failed ? NULL : g_literal(c->tree, b.data, b.n_bytes);
    td_buf_free(&b);
    return n;
}

g_node *schema_key(schema_ctx *c, td_slice name) {
    g_tree *t = c->tree;
    g_node *text = text_of(c, name);
    if (c->dialect == G_CALL) return g_seq_of(t, 2, text, g_text(t, ":"));
    return g_seq_of(t, 3, schema_quoted(c, text), g_text(t, ":"), schema_shared(c, SHARED_BLANK));
}

g_node *schema_constant(schema_ctx *c, const td_json *v) {
    g_tree *t = c->tree;
    if (v->kind == TD_JSON_STRING) return schema_quoted(c, text_of(c, v->text));
    if (v->kind != TD_JSON_ARRAY && v->kind != TD_JSON_OBJECT) return written(c, v);
    bool object = v->kind == TD_JSON_OBJECT;
    g_list parts = {0};
    for (const td_json *k = v->first; k && !t->failed; k = k->next) {
        if (k != v->first) g_list_add(t, &parts, schema_comma(c));
        if (object) g_list_add(t, &parts, schema_key(c, k->key));
        g_list_add(t, &parts, schema_constant(c, k));
    }
    return schema_bracket(c, object ? '{' : '[', parts.n ? g_seq(t, &parts) : NULL, false, object ? '}' : ']');
}

/* ---- names that are not among the properties ----------------------------------------------------------------------
 */

typedef struct names {
    const td_slice *items;
    uint32_t n;
} names;

/* Texts of allowed characters that follow the shared prefix [0, depth) of items[lo, hi) (sorted) and do not make one of
 * them: any other character and then anything, or one of theirs and the same again. */
static g_node *not_among(schema_ctx *c, names all, uint32_t lo, uint32_t hi, size_t depth, g_node *chars,
                         const g_range *forbidden, uint32_t n_forbidden) {
    g_tree *t = c->tree;
    g_list alternatives = {0};
    g_range next[260];
    uint32_t n_next = 0;
    bool is_name = all.items[lo].n_bytes == depth; /* sorted: the shortest comes first */
    if (++c->depth > 100) return c->depth--, schema_fail(c, TD_ERR_LIMIT, NULL, "property names are too long");
    if (!is_name && depth) g_list_add(t, &alternatives, g_empty(t));
    uint32_t from = is_name ? lo + 1 : lo;
    for (uint32_t i = from; i < hi && n_next < 128;) {
        uint8_t b = (uint8_t)all.items[i].data[depth];
        uint32_t end = i;
        while (end < hi && (uint8_t)all.items[end].data[depth] == b) end++;
        next[n_next++] = (g_range){b, b};
        char byte = (char)b;
        g_node *rest = not_among(c, all, i, end, depth + 1, chars, forbidden, n_forbidden);
        g_list_add(t, &alternatives, g_seq_of(t, 2, g_literal(t, &byte, 1), rest));
        i = end;
    }
    memcpy(next + n_next, forbidden, n_forbidden * sizeof *forbidden);
    g_list_add(t, &alternatives, g_seq_of(t, 2, g_class(t, next, n_next + n_forbidden, true), chars));
    c->depth--;
    return g_alt(t, &alternatives);
}

static bool is_ascii(td_slice s) {
    for (size_t i = 0; i < s.n_bytes; i++)
        if ((uint8_t)s.data[i] >= 0x80) return false;
    return true;
}

static int compare(td_slice a, td_slice b) {
    int d = memcmp(a.data, b.data, a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes);
    return d ? d : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

/* The declared names sorted, without those that are not ASCII: where there is such a name, the names made here are
 * ASCII and cannot meet it. */
static names sorted_names(schema_ctx *c, const td_json *properties) {
    td_slice *items = td_arena_alloc(c->arena, (size_t)properties->n + 1, sizeof *items);
    names all = {items, 0};
    if (!items) return c->tree->failed = true, all;
    for (const td_json *p = properties->first; p; p = p->next) {
        if (!is_ascii(p->key)) continue;
        uint32_t at = all.n++;
        for (; at > 0 && compare(items[at - 1], p->key) > 0; at--) items[at] = items[at - 1];
        items[at] = p->key;
    }
    return all;
}

/* The name of an additional member, and its colon. Without declared names any string; else a string without escapes
 * that is none of them, so that a member is never given twice. */
g_node *schema_other_key(schema_ctx *c, const td_json *properties) {
    g_range forbidden[12] = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}, {0x7F, 0x7F}};
    static const g_range call[] = {{' ', ' '}, {',', ','}, {':', ':'}, {'<', '<'}, {'>', '>'}, {'[', ']'}, {'{', '}'}};
    g_tree *t = c->tree;
    uint32_t n = 4;
    if (c->dialect == G_CALL) {
        memcpy(forbidden + n, call, sizeof call);
        n += 7;
    }
    for (const td_json *p = properties ? properties->first : NULL; p; p = p->next)
        if (!is_ascii(p->key)) forbidden[11] = (g_range){0x80, 0x10FFFF};
    if (forbidden[11].lo) forbidden[n++] = forbidden[11];
    g_node *one = g_class(t, forbidden, n, true), *name;
    if (!properties || !properties->n) {
        name = c->dialect == G_JSON ? schema_shared(c, SHARED_STRING) : g_repeat(t, one, 1, G_INF);
    } else {
        if (properties->n > 1000)
            return schema_fail(c, TD_ERR_LIMIT, properties, "more than 1000 properties beside additional ones");
        names all = sorted_names(c, properties);
        g_node *chars = g_repeat(t, one, 0, G_INF);
        name = t->failed ? NULL : all.n ? not_among(c, all, 0, all.n, 0, chars, forbidden, n) : chars;
        if (c->dialect == G_JSON && name) name = schema_quoted(c, name);
    }
    if (c->dialect == G_CALL) return g_seq_of(t, 2, name, g_text(t, ":"));
    return g_seq_of(t, 3, name, g_text(t, ":"), schema_shared(c, SHARED_BLANK));
}

/* ---- whole numbers in a range ------------------------------------------------------------------------------------ */

static g_node *digit_range(schema_ctx *c, char lo, char hi) {
    char pair[3] = {lo, hi, 0};
    return class_of(c, pair, false);
}

/* Decimal texts of equal length from a to b. */
static g_node *same_length(schema_ctx *c, const char *a, const char *b) {
    g_tree *t = c->tree;
    size_t n = strlen(a);
    char nines[24] = {0}, zeros[24] = {0};
    if (n == 0) return g_empty(t);
    memset(nines, '9', n);
    memset(zeros, '0', n);
    if (strcmp(a, zeros) == 0 && strcmp(b, nines) == 0) return digits(c, (uint32_t)n, (uint32_t)n);
    if (a[0] == b[0]) return g_seq_of(t, 2, digit_range(c, a[0], a[0]), same_length(c, a + 1, b + 1));
    g_list l = {0};
    char low = a[0], high = b[0];
    if (strcmp(a + 1, zeros + 1) != 0) {
        g_list_add(t, &l, g_seq_of(t, 2, digit_range(c, low, low), same_length(c, a + 1, nines + 1)));
        low++;
    }
    bool cut_end = strcmp(b + 1, nines + 1) != 0;
    if (cut_end) high--;
    if (low <= high)
        g_list_add(t, &l, g_seq_of(t, 2, digit_range(c, low, high), digits(c, (uint32_t)n - 1, (uint32_t)n - 1)));
    if (cut_end) g_list_add(t, &l, g_seq_of(t, 2, digit_range(c, b[0], b[0]), same_length(c, zeros + 1, b + 1)));
    return g_alt(t, &l);
}

/* 0 <= lo <= hi, both of at most 18 digits; no leading zeros. */
static g_node *unsigned_range(schema_ctx *c, int64_t lo, int64_t hi) {
    g_list l = {0};
    int64_t power = 10; /* the first number with one digit more */
    while (power <= lo) power *= 10;
    while (lo <= hi) {
        int64_t end = hi < power - 1 ? hi : power - 1;
        char a[24], b[24];
        snprintf(a, sizeof a, "%lld", (long long)lo);
        snprintf(b, sizeof b, "%lld", (long long)end);
        g_list_add(c->tree, &l, same_length(c, a, b));
        lo = power;
        power *= 10;
    }
    return g_alt(c->tree, &l);
}

g_node *schema_int_range(schema_ctx *c, int64_t lo, int64_t hi) {
    const int64_t most = 9999999999999999; /* 16 digits: every one of them is exact as a double */
    g_tree *t = c->tree;
    g_list l = {0};
    if (lo < -most) lo = -most;
    if (hi > most) hi = most;
    if (lo > hi) return schema_fail(c, TD_ERR_ARGUMENT, NULL, "no integer lies between minimum and maximum");
    if (lo < 0) {
        int64_t from = hi < 0 ? -hi : 1;
        g_list_add(t, &l, g_seq_of(t, 2, g_text(t, "-"), unsigned_range(c, from, -lo)));
    }
    if (hi >= 0) g_list_add(t, &l, unsigned_range(c, lo > 0 ? lo : 0, hi));
    return g_alt(t, &l);
}

/* ---- formats and brackets ---------------------------------------------------------------------------------------- */

g_node *schema_format(schema_ctx *c, const td_json *format) {
    g_tree *t = c->tree;
    g_node *year = digits(c, 4, 4);
    g_node *month = g_alt_of(t, 2, g_seq_of(t, 2, g_text(t, "0"), class_of(c, "19", false)),
                             g_seq_of(t, 2, g_text(t, "1"), class_of(c, "02", false)));
    g_node *day = g_alt_of(t, 3, g_seq_of(t, 2, g_text(t, "0"), class_of(c, "19", false)),
                           g_seq_of(t, 2, class_of(c, "12", false), digits(c, 1, 1)),
                           g_seq_of(t, 2, g_text(t, "3"), class_of(c, "01", false)));
    g_node *date = g_seq_of(t, 5, year, g_text(t, "-"), month, g_text(t, "-"), day);
    g_node *hour = g_alt_of(t, 2, g_seq_of(t, 2, class_of(c, "01", false), digits(c, 1, 1)),
                            g_seq_of(t, 2, g_text(t, "2"), class_of(c, "03", false)));
    g_node *sixty = g_seq_of(t, 2, class_of(c, "05", false), digits(c, 1, 1));
    g_node *zone =
        g_alt_of(t, 2, g_text(t, "Z"), g_seq_of(t, 4, class_of(c, "++--", false), hour, g_text(t, ":"), sixty));
    g_node *part = optional(c, g_seq_of(t, 2, g_text(t, "."), digits(c, 1, 9)));
    g_node *time = g_seq_of(t, 7, hour, g_text(t, ":"), sixty, g_text(t, ":"), sixty, part, zone);
    if (td_json_is_string(format, "date")) return schema_quoted(c, date);
    if (td_json_is_string(format, "time")) return schema_quoted(c, time);
    if (td_json_is_string(format, "date-time")) return schema_quoted(c, g_seq_of(t, 3, date, g_text(t, "T"), time));
    if (td_json_is_string(format, "uuid")) {
        g_node *hex = class_of(c, "09afAF", false), *hex4 = g_repeat(t, hex, 4, 4);
        g_node *middle = g_repeat(t, g_seq_of(t, 2, g_text(t, "-"), hex4), 3, 3);
        return schema_quoted(c,
                             g_seq_of(t, 4, g_repeat(t, hex, 8, 8), middle, g_text(t, "-"), g_repeat(t, hex, 12, 12)));
    }
    return NULL;
}

g_node *schema_comma(schema_ctx *c) {
    if (c->dialect == G_CALL) return g_text(c->tree, ",");
    return g_seq_of(c->tree, 3, schema_shared(c, SHARED_BLANK), g_text(c->tree, ","), schema_shared(c, SHARED_BLANK));
}

g_node *schema_bracket(schema_ctx *c, char open, g_node *content, bool may_be_empty, char close) {
    g_tree *t = c->tree;
    g_node *from = g_literal(t, &open, 1), *to = g_literal(t, &close, 1);
    if (!content) return t->failed ? NULL : g_seq_of(t, 3, from, schema_shared(c, SHARED_BLANK), to);
    g_node *inside = g_seq_of(t, 2, content, schema_shared(c, SHARED_BLANK));
    return g_seq_of(t, 4, from, schema_shared(c, SHARED_BLANK), may_be_empty ? optional(c, inside) : inside, to);
}

/* Members in order, each a rule; those not required may be left out. Two rules per place: before the first member that
 * is written, and after it, where a comma comes first. */
static g_node *ordered(schema_ctx *c, const g_list *members, g_node *other, const bool *required) {
    g_tree *t = c->tree;
    g_node *comma = schema_comma(c);
    g_node *more = other ? g_repeat(t, g_seq_of(t, 2, comma, other), 0, G_INF) : g_empty(t), *first = g_empty(t);
    if (other) first = g_repeat(t, g_seq_of(t, 2, other, more), 0, 1);
    for (uint32_t i = members->n; i-- > 0 && !t->failed;) {
        char name[48];
        uint32_t id = c->n_rules_made++, rules[2];
        for (int k = 0; k < 2; k++) {
            int n = snprintf(name, sizeof name, " members %u %u %d", c->name_prefix, id, k);
            rules[k] = g_rule_named(t, name, (size_t)n, 0);
        }
        if (t->failed) return NULL;
        t->rules[rules[0]].node = more;
        g_node *after = g_rule_ref(t, rules[0]), *item = members->items[i];
        g_node *here = g_seq_of(t, 2, item, after), *later = g_seq_of(t, 3, comma, item, after);
        t->rules[rules[1]].node = first ? first : g_empty(t);
        first = required[i] ? here : g_alt_of(t, 2, here, g_rule_ref(t, rules[1]));
        more = required[i] ? later : g_alt_of(t, 2, later, after);
    }
    return first;
}

g_node *schema_object_of(schema_ctx *c, const g_list *members, g_node *other, const bool *required) {
    g_tree *t = c->tree;
    if (!members->n && !other) return schema_bracket(c, '{', NULL, true, '}');
    uint64_t bits = 0;
    bool any = false, fixed = members->n > 64 || (c->options && c->options->fixed_order);
    for (uint32_t i = 0; i < members->n; i++) {
        any |= required[i];
        if (i < 64 && required[i]) bits |= 1ull << i;
    }
    g_node *inside = t->failed ? NULL
                     : fixed   ? ordered(c, members, other, required)
                               : g_set(t, members, other, bits, schema_comma(c));
    return inside ? schema_bracket(c, '{', inside, !any, '}') : NULL;
}
