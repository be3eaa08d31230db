/* Regular expressions of JSON schemas (`pattern`) as trees over the written text: literals, `.`, classes, groups,
 * alternation and quantifiers of ECMA-262. A side without an anchor may hold anything, as the standard says.
 * Look-around, back references and word boundaries are errors: they cannot be a grammar. */
#include "schema_impl.h"
#include "utf8.h"

#include <stdio.h>
#include <string.h>

typedef struct regex {
    schema_ctx *c;
    const td_json *pattern;
    const char *at, *end;
    int depth;
} regex;

typedef struct range_list {
    g_range items[256];
    uint32_t n;
} range_list;

static g_node *fail(regex *r, const char *what) {
    return schema_fail(r->c, TD_ERR_ARGUMENT, r->pattern, "%s at character %d", what,
                       (int)(r->at - r->pattern->text.data) + 1);
}

static bool stopped(const regex *r) {
    return r->c->status != TD_OK || r->c->tree->failed;
}

static char peek(const regex *r) {
    return r->at < r->end ? *r->at : 0;
}

/* ---- one character as it is written in JSON ---------------------------------------------------------------------- */

static g_node *escaped(schema_ctx *c, uint32_t cp) {
    char text[8];
    static const char from[] = "\b\f\n\r\t\"\\", to[] = "bfnrt\"\\";
    const char *p = cp ? strchr(from, (int)cp) : NULL;
    if (p)
        snprintf(text, sizeof text, "\\%c", to[p - from]);
    else
        snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
    return g_text(c->tree, text);
}

/* A character of the ranges: as itself where JSON allows that, else as its escape. */
static g_node *encode(regex *r, const g_range *ranges, uint32_t n, bool negated) {
    g_tree *t = r->c->tree;
    g_node *all = g_class(t, ranges, n, negated);
    if (!all || r->c->dialect == G_CALL) return all;
    g_list l = {0};
    g_range plain[600];
    uint32_t n_plain = 0;
    for (uint32_t i = 0; i < all->n && n_plain + 4 < 600; i++) {
        static const g_range gaps[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x7E}, {0x80, 0x10FFFF}};
        for (int k = 0; k < 4; k++) {
            uint32_t lo = all->as.ranges[i].lo > gaps[k].lo ? all->as.ranges[i].lo : gaps[k].lo;
            uint32_t hi = all->as.ranges[i].hi < gaps[k].hi ? all->as.ranges[i].hi : gaps[k].hi;
            if (lo <= hi) plain[n_plain++] = (g_range){lo, hi};
        }
        for (uint32_t cp = all->as.ranges[i].lo; cp <= all->as.ranges[i].hi && cp < 0x80; cp++)
            if (cp < 0x20 || cp == '"' || cp == '\\' || cp == 0x7F) g_list_add(t, &l, escaped(r->c, cp));
    }
    if (n_plain || !l.n) g_list_add(t, &l, g_class(t, plain, n_plain, false));
    return g_alt(t, &l);
}

static g_node *any_character(regex *r) { /* `.` */
    return encode(r, (const g_range[]){{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}, 3, true);
}

/* ---- escapes and classes ----------------------------------------------------------------------------------------- */

static void add_range(regex *r, range_list *l, uint32_t lo, uint32_t hi) {
    if (l->n == 256)
        fail(r, "a class of too many ranges");
    else
        l->items[l->n++] = (g_range){lo, hi};
}

/* The ranges of \d \w \s and their complements; false when `c` is none of them. */
static bool add_named(regex *r, range_list *l, char c) {
    static const g_range d[] = {{'0', '9'}}, w[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                         s[] = {{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                                {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    const g_range *named = strchr("dD", c) ? d : strchr("wW", c) ? w : s;
    uint32_t n = named == d ? 1 : named == w ? 4 : 10, from = 0;
    if (!c || !strchr("dDwWsS", c)) return false;
    bool negated = c < 'a';
    for (uint32_t i = 0; i < n; i++) {
        if (!negated) add_range(r, l, named[i].lo, named[i].hi);
        if (negated && named[i].lo > from) add_range(r, l, from, named[i].lo - 1);
        from = named[i].hi + 1;
    }
    if (negated) add_range(r, l, from, 0x10FFFF);
    return true;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character of an escape after its backslash; false after an error. */
static bool read_escape(regex *r, uint32_t *cp) {
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v\0";
    char c = peek(r);
    const char *p = c ? strchr(from, c) : NULL;
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : 0;
    if (p) {
        *cp = (uint8_t)to[p - from];
        r->at++;
        return true;
    }
    if (digits) {
        *cp = 0;
        r->at++;
        for (int i = 0; i < digits; i++, r->at++) {
            int h = hex_value(peek(r));
            if (h < 0) return fail(r, "expected a hexadecimal digit"), false;
            *cp = *cp << 4 | (uint32_t)h;
        }
        return true;
    }
    if (!c || (c >= '1' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
        return fail(r, "this escape is not supported in a pattern"), false;
    int n = td_utf8_next(r->at, (size_t)(r->end - r->at), cp);
    r->at += n > 0 ? n : 1;
    return true;
}

static bool read_character(regex *r, uint32_t *cp) {
    int n = r->at < r->end ? td_utf8_next(r->at, (size_t)(r->end - r->at), cp) : 0;
    if (n <= 0) return fail(r, "unexpected end"), false;
    r->at += n;
    return *cp != '\\' || read_escape(r, cp);
}

static g_node *parse_class(regex *r) {
    range_list l = {.n = 0};
    bool negated = peek(r) == '^';
    if (negated) r->at++;
    while (!stopped(r) && peek(r) != ']') {
        if (r->end - r->at > 1 && *r->at == '\\' && add_named(r, &l, r->at[1])) {
            r->at += 2;
            continue;
        }
        uint32_t lo = 0, hi = 0;
        if (!read_character(r, &lo)) return NULL;
        hi = lo;
        if (peek(r) == '-' && r->end - r->at > 1 && r->at[1] != ']') {
            r->at++;
            if (!read_character(r, &hi)) return NULL;
            if (hi < lo) return fail(r, "a range goes down");
        }
        add_range(r, &l, lo, hi);
    }
    if (stopped(r)) return NULL;
    r->at++;
    return encode(r, l.items, l.n, negated);
}

/* ---- structure --------------------------------------------------------------------------------------------------- */

static g_node *parse_alternatives(regex *r, bool top);

static g_node *parse_group(regex *r) {
    if (++r->depth > 60) return fail(r, "groups are nested too deep");
    if (peek(r) == '?') {
        r->at++;
        if (peek(r) != ':') return fail(r, "look-around and named groups are not supported in a pattern");
        r->at++;
    }
    g_node *n = parse_alternatives(r, false);
    if (stopped(r)) return NULL;
    if (peek(r) != ')') return fail(r, "expected ')'");
    r->at++;
    r->depth--;
    return n;
}

static g_node *parse_atom(regex *r) {
    uint32_t cp = 0;
    char c = peek(r);
    if (c == '(' || c == '[' || c == '.') r->at++;
    if (c == '(') return parse_group(r);
    if (c == '[') return parse_class(r);
    if (c == '.') return any_character(r);
    if (c == '^' || c == '$') return fail(r, "an anchor inside of a pattern is not supported");
    if (strchr("*+?{", c)) return fail(r, "nothing to repeat");
    if (c == '\\' && r->end - r->at > 1) {
        range_list l = {.n = 0};
        if (add_named(r, &l, r->at[1])) {
            r->at += 2;
            return encode(r, l.items, l.n, false);
        }
    }
    if (!read_character(r, &cp)) return NULL;
    return encode(r, &(g_range){cp, cp}, 1, false);
}

static bool read_number(regex *r, uint32_t *out) {
    uint64_t v = 0;
    const char *from = r->at;
    for (; peek(r) >= '0' && peek(r) <= '9' && v <= G_MAX_COUNT; r->at++) v = v * 10 + (uint64_t)(peek(r) - '0');
    if (v > G_MAX_COUNT) fail(r, "a repetition of more than 1000000");
    *out = (uint32_t)v;
    return r->at > from;
}

static g_node *parse_quantified(regex *r) {
    g_node *n = parse_atom(r);
    char c = peek(r);
    if (stopped(r) || !c || !strchr("*+?{", c)) return n;
    uint32_t min = c == '+', max = c == '?' ? 1 : G_INF;
    r->at++;
    if (c == '{') {
        if (!read_number(r, &min)) return fail(r, "expected {m}, {m,} or {m,n}");
        max = min;
        if (peek(r) == ',') {
            r->at++;
            if (!read_number(r, &max)) max = G_INF;
        }
        if (peek(r) != '}' || max < min) return fail(r, "expected {m}, {m,} or {m,n}");
        r->at++;
    }
    if (peek(r) == '?') r->at++; /* lazy: the same texts */
    if (peek(r) && strchr("*+?{", peek(r))) return fail(r, "nothing to repeat");
    return stopped(r) ? NULL : g_repeat(r->c->tree, n, min, max);
}

/* At the top each alternative may be anchored; a side that is not may hold any text. */
static g_node *parse_alternative(regex *r, bool top) {
    g_tree *t = r->c->tree;
    g_list l = {0};
    bool begins = false, ends = false;
    if (top && peek(r) == '^') begins = true, r->at++;
    if (top && !begins) g_list_add(t, &l, g_repeat(t, schema_shared(r->c, SHARED_CHAR), 0, G_INF));
    while (!stopped(r) && r->at < r->end && peek(r) != '|' && !(peek(r) == ')' && !top)) {
        if (top && peek(r) == '$' && (r->at + 1 == r->end || r->at[1] == '|')) {
            ends = true;
            r->at++;
            break;
        }
        if (peek(r) == ')') return fail(r, "unexpected ')'");
        g_node *n = parse_quantified(r);
        if (!stopped(r)) g_list_add(t, &l, n);
    }
    if (stopped(r)) return NULL;
    if (top && !ends) g_list_add(t, &l, g_repeat(t, schema_shared(r->c, SHARED_CHAR), 0, G_INF));
    return g_seq(t, &l);
}

static g_node *parse_alternatives(regex *r, bool top) {
    g_list l = {0};
    for (;;) {
        g_node *n = parse_alternative(r, top);
        if (stopped(r)) return NULL;
        g_list_add(r->c->tree, &l, n);
        if (peek(r) != '|') return g_alt(r->c->tree, &l);
        r->at++;
    }
}

g_node *schema_pattern(schema_ctx *c, const td_json *pattern) {
    if (pattern->kind != TD_JSON_STRING) return schema_fail(c, TD_ERR_ARGUMENT, pattern, "expected a string");
    regex r = {c, pattern, pattern->text.data, pattern->text.data + pattern->text.n_bytes, 0};
    return parse_alternatives(&r, true);
}
