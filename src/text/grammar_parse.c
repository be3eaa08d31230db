/* GBNF to a tree: rules `name ::= …`, alternation, groups, literals, classes, `.`, repetition, comments and token
 * references, as llama.cpp's grammars/README.md describes them. Recursion is bounded by G_MAX_DEPTH; every error names
 * line and column. */
#include "grammar_parse.h"

#include "../base/status.h"
#include "utf8.h"

#include <stdio.h>
#include <string.h>

typedef struct parser {
    g_tree *tree;
    const td_vocab *vocab;
    const char *text;
    size_t at, n_bytes;
    int depth;
    td_error *err;
    td_status status;
} parser;

static g_node *fail(parser *p, const char *what) {
    if (p->status) return NULL;
    unsigned line = 1, column = 1;
    for (size_t i = 0; i < p->at && i < p->n_bytes; i++) {
        column++;
        if (p->text[i] == '\n') line++, column = 1;
    }
    p->status = td_fail(p->err, TD_ERR_ARGUMENT, p->at, "grammar, line %u column %u: %s", line, column, what);
    return NULL;
}

static char peek(const parser *p) {
    return p->at < p->n_bytes ? p->text[p->at] : 0;
}

static bool at_end(const parser *p) {
    return p->at >= p->n_bytes;
}

/* Blanks and comments; newlines too where a rule cannot end. */
static void skip_blanks(parser *p, bool newlines) {
    while (!at_end(p)) {
        char c = peek(p);
        if (c == '#') {
            while (!at_end(p) && peek(p) != '\n') p->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || (c == '\n' && newlines)) {
            p->at++;
        } else {
            return;
        }
    }
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static size_t word_length(const parser *p) {
    size_t n = 0;
    while (p->at + n < p->n_bytes && is_word(p->text[p->at + n])) n++;
    return n;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One character of a literal or class, escapes resolved; false after an error. */
static bool read_char(parser *p, uint32_t *cp) {
    int n = at_end(p) ? 0 : td_utf8_next(p->text + p->at, p->n_bytes - p->at, cp);
    if (n <= 0) return fail(p, at_end(p) ? "unexpected end" : "this is not UTF-8"), false;
    p->at += (size_t)n;
    if (*cp != '\\') return true;
    static const char from[] = "nrt\"\\[]-^/.", to[] = "\n\r\t\"\\[]-^/.";
    char c = peek(p);
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        *cp = (uint8_t)to[simple - from];
        p->at++;
        return true;
    }
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (!digits)
        return fail(p, "unknown escape; known are \\n \\r \\t \\\" \\\\ \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH"), false;
    p->at++;
    *cp = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        int h = hex_value(peek(p));
        if (h < 0) return fail(p, "expected a hexadecimal digit"), false;
        *cp = *cp << 4 | (uint32_t)h;
    }
    char ignored[4];
    if (!td_utf8_put(*cp, ignored)) return fail(p, "no such character"), false;
    return true;
}

static g_node *parse_literal(parser *p) {
    td_buf bytes = {0};
    p->at++;
    while (!p->status && peek(p) != '"') {
        uint32_t cp = 0;
        char utf8[4];
        if (peek(p) == '\n' || at_end(p)) fail(p, "a literal does not end on its line");
        if (p->status || !read_char(p, &cp)) break;
        if (!td_buf_add(&bytes, utf8, (size_t)td_utf8_put(cp, utf8))) p->tree->failed = true;
    }
    p->at++;
    g_node *n = p->status ? NULL : g_literal(p->tree, bytes.data, bytes.n_bytes);
    td_buf_free(&bytes);
    return n;
}

static g_node *parse_class(parser *p) {
    td_buf ranges = {0}; /* g_range after g_range */
    bool negated = false;
    p->at++;
    if (peek(p) == '^') negated = true, p->at++;
    while (!p->status && peek(p) != ']') {
        g_range r = {0, 0};
        if (at_end(p) || peek(p) == '\n') fail(p, "a class does not end on its line");
        if (p->status || !read_char(p, &r.lo)) break;
        r.hi = r.lo;
        if (peek(p) == '-' && p->at + 1 < p->n_bytes && p->text[p->at + 1] != ']') {
            p->at++;
            if (!read_char(p, &r.hi)) break;
            if (r.hi < r.lo) fail(p, "a range goes down");
        }
        if (!td_buf_add(&ranges, &r, sizeof r)) p->tree->failed = true;
    }
    p->at++;
    g_node *n = NULL;
    if (!p->status)
        n = g_class(p->tree, (const g_range *)(const void *)ranges.data, (uint32_t)(ranges.n_bytes / sizeof(g_range)),
                    negated);
    td_buf_free(&ranges);
    return n;
}

/* <[id]> or <text>: the stored text includes the angle brackets. */
static g_node *parse_token(parser *p, bool negated) {
    size_t start = p->at;
    uint64_t id = 0;
    if (p->at + 1 < p->n_bytes && p->text[p->at + 1] == '[') {
        size_t digits = 0;
        for (p->at += 2; peek(p) >= '0' && peek(p) <= '9' && digits < 10; p->at++, digits++)
            id = id * 10 + (uint64_t)(peek(p) - '0');
        if (!digits || p->at + 1 >= p->n_bytes || p->text[p->at] != ']' || p->text[p->at + 1] != '>')
            return fail(p, "expected <[token id]>");
        p->at += 2;
    } else {
        while (!at_end(p) && peek(p) != '>' && peek(p) != '\n') p->at++;
        if (peek(p) != '>') return fail(p, "a token reference does not end");
        p->at++;
        id = p->vocab ? td_vocab_find(p->vocab, p->text + start, p->at - start) : TD_TOKEN_NONE;
    }
    if (!p->vocab) return fail(p, "token references need a vocabulary");
    if (id >= td_vocab_size(p->vocab)) {
        p->at = start;
        return fail(p, "no such token in the vocabulary");
    }
    return g_token(p->tree, (uint32_t)id, negated);
}

static g_node *parse_alternatives(parser *p, bool inside);

static g_node *parse_reference(parser *p) {
    size_t start = p->at, n = word_length(p);
    p->at += n;
    uint32_t rule = g_rule_named(p->tree, p->text + start, n, start);
    return g_rule_ref(p->tree, rule);
}

static g_node *parse_item(parser *p, bool inside) {
    (void)inside;
    char c = peek(p);
    if (c == '"') return parse_literal(p);
    if (c == '[') return parse_class(p);
    if (c == '<') return parse_token(p, false);
    if (c == '!' && p->at + 1 < p->n_bytes && p->text[p->at + 1] == '<') {
        p->at++;
        return parse_token(p, true);
    }
    if (c == '.') {
        p->at++;
        return g_class(p->tree, NULL, 0, true);
    }
    if (c == '(') {
        if (++p->depth > G_MAX_DEPTH) return fail(p, "groups are nested too deep");
        p->at++;
        g_node *n = parse_alternatives(p, true);
        if (!p->status && peek(p) != ')') return fail(p, "expected ')'");
        p->at++;
        p->depth--;
        return n;
    }
    if (is_word(c)) return parse_reference(p);
    return fail(p, "unexpected character");
}

static bool read_count(parser *p, uint32_t *out) {
    uint64_t v = 0;
    size_t digits = 0;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++, digits++) {
        v = v * 10 + (uint64_t)(peek(p) - '0');
        if (v > G_MAX_COUNT) return fail(p, "a repetition of more than 1000000"), false;
    }
    *out = (uint32_t)v;
    return digits > 0;
}

/* {m} {m,} {,n} {m,n}, after the opening brace. */
static g_node *parse_count(parser *p, g_node *item) {
    uint32_t min = 0, max = 0;
    p->at++;
    skip_blanks(p, true);
    bool has_min = read_count(p, &min);
    if (p->status) return NULL;
    skip_blanks(p, true);
    if (peek(p) == ',') {
        p->at++;
        skip_blanks(p, true);
        if (!read_count(p, &max)) max = G_INF;
        if (!has_min && max == G_INF) return fail(p, "expected {m}, {m,}, {,n} or {m,n}");
    } else {
        if (!has_min) return fail(p, "expected a number");
        max = min;
    }
    if (p->status) return NULL;
    skip_blanks(p, true);
    if (peek(p) != '}') return fail(p, "expected '}'");
    p->at++;
    if (max < min) return fail(p, "a repetition whose maximum is below its minimum");
    return g_repeat(p->tree, item, min, max);
}

static g_node *parse_repeats(parser *p, g_node *item, bool inside) {
    for (int n = 0; !p->status && !p->tree->failed; n++) {
        skip_blanks(p, inside);
        char c = peek(p);
        if (c != '*' && c != '+' && c != '?' && c != '{') break;
        if (n == 16) return fail(p, "too many repetitions in a row");
        if (c == '{') {
            item = parse_count(p, item);
            continue;
        }
        p->at++;
        item = g_repeat(p->tree, item, c == '+', c == '?' ? 1 : G_INF);
    }
    return item;
}

/* Does `name ::=` begin here? A rule ends before it; only asked at the start of a line. */
static bool starts_rule(const parser *p) {
    size_t i = p->at + word_length(p);
    if (i == p->at) return false;
    while (i < p->n_bytes && (p->text[i] == ' ' || p->text[i] == '\t')) i++;
    return p->n_bytes - i >= 3 && memcmp(p->text + i, "::=", 3) == 0;
}

static g_node *parse_alternatives(parser *p, bool inside) {
    g_list alternatives = {0}, sequence = {0};
    skip_blanks(p, true);
    while (!p->status && !p->tree->failed) {
        skip_blanks(p, inside);
        char c = peek(p);
        if (c == '\n') { /* a rule may go on after a line that ends in '|', or with one that begins with it */
            size_t line = p->at;
            skip_blanks(p, true);
            if (peek(p) == '|') continue;
            p->at = line;
            break;
        }
        if (at_end(p) || (c == ')' && inside)) break;
        if (c == '|') {
            p->at++;
            g_list_add(p->tree, &alternatives, g_seq(p->tree, &sequence));
            sequence = (g_list){0};
            skip_blanks(p, true);
            if (!inside && starts_rule(p)) return fail(p, "expected an alternative after '|'");
            continue;
        }
        g_node *item = parse_item(p, inside);
        if (p->status) return NULL;
        g_list_add(p->tree, &sequence, parse_repeats(p, item, inside));
    }
    if (p->status) return NULL;
    g_list_add(p->tree, &alternatives, g_seq(p->tree, &sequence));
    return g_alt(p->tree, &alternatives);
}

static void parse_rule(parser *p) {
    size_t start = p->at, n = word_length(p);
    if (!n) {
        fail(p, "expected a rule: name ::= …");
        return;
    }
    p->at += n;
    skip_blanks(p, false);
    if (p->n_bytes - p->at < 3 || memcmp(p->text + p->at, "::=", 3) != 0) {
        fail(p, "expected '::='");
        return;
    }
    p->at += 3;
    uint32_t rule = g_rule_named(p->tree, p->text + start, n, start);
    if (rule == UINT32_MAX) return;
    if (p->tree->rules[rule].node) {
        p->at = start;
        fail(p, "this rule is defined twice");
        return;
    }
    g_node *node = parse_alternatives(p, false);
    if (!p->status && !at_end(p) && peek(p) != '\n') fail(p, "unexpected character");
    if (node) p->tree->rules[rule].node = node;
}

td_status td_gbnf_parse(g_tree *tree, const td_vocab *v, const char *text, size_t n_bytes, td_error *err) {
    parser p = {.tree = tree, .vocab = v, .text = text, .n_bytes = n_bytes, .err = err};
    if (n_bytes > 4u << 20)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "a grammar of %zu bytes, at most 4 MiB", n_bytes);
    for (skip_blanks(&p, true); !p.status && !tree->failed && !at_end(&p); skip_blanks(&p, true)) parse_rule(&p);
    if (p.status) return p.status;
    if (tree->failed) return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too large");
    for (uint32_t i = 0; i < tree->n_rules; i++) {
        if (tree->rules[i].node) continue;
        p.at = (size_t)tree->rules[i].offset;
        char what[120];
        snprintf(what, sizeof what, "the rule \"%.80s\" is not defined", tree->rules[i].name);
        fail(&p, what);
        return p.status;
    }
    return TD_OK;
}
