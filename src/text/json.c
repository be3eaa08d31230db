/* Recursive descent over a bounded depth; see json.h. Equal names are found by sorting once an object is closed, so
 * that no body can make the reader quadratic. */
#include "json.h"

#include "../base/checked.h"
#include "json_escape.h"
#include "utf8.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    const char *begin, *at, *end;
    td_arena *a;
    td_error *err;
    td_json_duplicates dup;
    td_status status;
    int depth;
} reader;

static bool fail(reader *r, const char *at, td_status code, const char *what) {
    if (r->status != TD_OK) return false;
    uint64_t offset = (uint64_t)(at - r->begin);
    r->status = td_fail(r->err, code, offset, "JSON: %s at byte %llu", what, (unsigned long long)offset);
    return false;
}

static bool expected(reader *r, const char *what) {
    return fail(r, r->at, TD_ERR_FORMAT, what);
}

static char peek(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
    return r->at < r->end ? *r->at : 0;
}

static td_json *new_node(reader *r, td_json_kind kind) {
    td_json *v = td_json_make(r->a, kind);
    if (!v) fail(r, r->at, TD_ERR_MEMORY, "no memory, or the document's memory limit is reached");
    return v;
}

static void append(td_json *parent, td_json *child) {
    child->next = NULL;
    if (parent->last) {
        parent->last->next = child;
    } else {
        parent->first = child;
    }
    parent->last = child;
    parent->n++;
}

/* At the opening quotation mark. */
static bool read_string(reader *r, td_slice *out) {
    const char *begin = r->at + 1, *p = begin;
    bool escapes = false;
    for (; p < r->end && *p != '"'; p++) {
        if ((unsigned char)*p < 0x20) return fail(r, p, TD_ERR_FORMAT, "expected no control character in a string");
        if (*p != '\\') continue;
        escapes = true;
        if (++p == r->end) break;
    }
    if (p >= r->end) return fail(r, r->at, TD_ERR_FORMAT, "expected the end of the string that begins");
    *out = (td_slice){begin, (size_t)(p - begin)};
    r->at = p + 1;
    if (!escapes) return true;
    char *text = td_arena_alloc(r->a, out->n_bytes + 1, 1); /* decoded text is never longer than written */
    if (!text) return fail(r, begin, TD_ERR_MEMORY, "no memory, or the document's memory limit is reached");
    size_t n = 0;
    for (const char *s = begin; s < p;) {
        if (*s != '\\') {
            text[n++] = *s++;
            continue;
        }
        uint32_t cp = 0;
        size_t n_read = td_json_escape(s, (size_t)(p - s), &cp);
        if (!n_read) return fail(r, s, TD_ERR_FORMAT, "expected a valid escape");
        n += (size_t)td_utf8_put(cp >= 0xD800 && cp < 0xE000 ? 0xFFFD : cp, text + n);
        s += n_read;
    }
    *out = (td_slice){text, n};
    return true;
}

static bool digits(reader *r) {
    const char *begin = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > begin || expected(r, "expected a digit");
}

static bool read_number(reader *r, td_slice *out) {
    const char *begin = r->at;
    if (*r->at == '-') r->at++;
    if (r->at < r->end && *r->at == '0') {
        r->at++;
    } else if (!digits(r)) {
        return false;
    }
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!digits(r)) return false;
    }
    if (r->at < r->end && (*r->at | 0x20) == 'e') {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        if (!digits(r)) return false;
    }
    *out = (td_slice){begin, (size_t)(r->at - begin)};
    return true;
}

static int compare_keys(td_slice a, td_slice b) {
    size_t n = a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes;
    int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

typedef struct member {
    td_json *value;
    size_t order;
} member;

static int by_key(const void *pa, const void *pb) {
    const member *a = pa, *b = pb;
    int c = compare_keys(a->value->key, b->value->key);
    return c ? c : (a->order > b->order) - (a->order < b->order);
}

/* Equal names: the first node takes the last one's value, the others leave the list. */
static bool settle_duplicates(reader *r, td_json *object) {
    if (object->n < 2) return true;
    member *m = td_calloc(object->n, sizeof *m);
    if (!m) return expected(r, "no memory for an object's members");
    size_t n = 0;
    for (td_json *v = object->first; v; v = v->next, n++) m[n] = (member){v, n};
    qsort(m, n, sizeof *m, by_key);
    bool any = false, ok = true;
    for (size_t i = 0, j; i < n && ok; i = j) {
        for (j = i + 1; j < n && compare_keys(m[i].value->key, m[j].value->key) == 0; j++) any = true;
        if (j - i == 1) continue;
        td_slice key = m[i].value->key;
        if (r->dup == TD_JSON_REJECT) {
            ok = false;
            r->status = td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "JSON: the member '%.*s' occurs twice",
                                key.n_bytes < 64 ? (int)key.n_bytes : 64, key.data);
            break;
        }
        td_json *first = m[i].value, *last = m[j - 1].value, *next = first->next;
        *first = *last;
        first->next = next;
        for (size_t k = i + 1; k < j; k++) m[k].value->kind = (td_json_kind)-1;
    }
    free(m);
    if (!any || !ok) return ok;
    td_json *v = object->first;
    object->first = object->last = NULL;
    object->n = 0;
    for (td_json *next = NULL; v; v = next) {
        next = v->next;
        if (v->kind != (td_json_kind)-1) append(object, v);
    }
    return true;
}

static td_json *read_value(reader *r);

static bool read_members(reader *r, td_json *parent, char close) {
    bool object = close == '}';
    if (peek(r) == close) {
        r->at++;
        return true;
    }
    for (;;) {
        td_slice key = {NULL, 0};
        if (object) {
            if (peek(r) != '"') return expected(r, "expected a member's name");
            if (!read_string(r, &key)) return false;
            if (peek(r) != ':') return expected(r, "expected ':'");
            r->at++;
        }
        td_json *v = read_value(r);
        if (!v) return false;
        v->key = key;
        if (parent->n == UINT32_MAX) return fail(r, r->at, TD_ERR_LIMIT, "too many values");
        append(parent, v);
        char c = peek(r);
        if (c == close) break;
        if (c != ',') return expected(r, object ? "expected ',' or '}'" : "expected ',' or ']'");
        r->at++;
    }
    r->at++;
    return !object || settle_duplicates(r, parent);
}

static bool read_word(reader *r, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return expected(r, "expected a value");
    r->at += n;
    return true;
}

static td_json *read_value(reader *r) {
    char c = peek(r);
    const char *begin = r->at;
    td_json_kind kind = c == '{'   ? TD_JSON_OBJECT
                        : c == '[' ? TD_JSON_ARRAY
                        : c == '"' ? TD_JSON_STRING
                        : c == 't' ? TD_JSON_TRUE
                        : c == 'f' ? TD_JSON_FALSE
                        : c == 'n' ? TD_JSON_NULL
                                   : TD_JSON_NUMBER;
    if (r->at >= r->end || (kind == TD_JSON_NUMBER && c != '-' && (c < '0' || c > '9'))) {
        expected(r, "expected a value");
        return NULL;
    }
    td_json *v = new_node(r, kind);
    if (!v) return NULL;
    bool ok = true;
    if (kind >= TD_JSON_ARRAY) {
        if (++r->depth > TD_JSON_MAX_DEPTH) {
            fail(r, begin, TD_ERR_LIMIT, "nested too deep");
            return NULL;
        }
        r->at++;
        ok = read_members(r, v, kind == TD_JSON_OBJECT ? '}' : ']');
        r->depth--;
    } else if (kind == TD_JSON_STRING) {
        ok = read_string(r, &v->text);
    } else if (kind == TD_JSON_NUMBER) {
        ok = read_number(r, &v->text);
    } else {
        ok = read_word(r, kind == TD_JSON_TRUE ? "true" : kind == TD_JSON_FALSE ? "false" : "null");
    }
    v->raw = (td_slice){begin, (size_t)(r->at - begin)};
    return ok ? v : NULL;
}

td_status td_json_parse(const td_json **out, td_arena *a, const char *text, size_t n_bytes, td_json_duplicates dup,
                        td_error *err) {
    *out = NULL;
    if (!n_bytes) return td_fail(err, TD_ERR_FORMAT, 0, "JSON: expected a value, found nothing");
    reader r = {text, text, text + n_bytes, a, err, dup, TD_OK, 0};
    if (!td_utf8_valid(text, n_bytes))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "JSON: the text is not valid UTF-8");
    td_json *v = read_value(&r);
    if (v && (peek(&r), r.at < r.end)) expected(&r, "expected the end of the text");
    if (r.status == TD_OK) *out = v;
    return r.status;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

const td_json *td_json_get_slice(const td_json *object, td_slice name) {
    if (!td_json_is(object, TD_JSON_OBJECT)) return NULL;
    for (const td_json *v = object->first; v; v = v->next)
        if (compare_keys(v->key, name) == 0) return v;
    return NULL;
}

const td_json *td_json_get(const td_json *object, const char *name) {
    return td_json_get_slice(object, (td_slice){name, strlen(name)});
}

bool td_json_is_string(const td_json *v, const char *text) {
    return td_json_is(v, TD_JSON_STRING) && compare_keys(v->text, (td_slice){text, strlen(text)}) == 0;
}

bool td_json_double(const td_json *v, double *out) {
    char buf[512];
    *out = 0;
    if (!td_json_is(v, TD_JSON_NUMBER) || v->text.n_bytes >= sizeof buf) return false;
    memcpy(buf, v->text.data, v->text.n_bytes);
    buf[v->text.n_bytes] = 0;
    const struct lconv *lc = localeconv(); /* strtod wants the locale's own point */
    char *dot = strchr(buf, '.');
    if (dot && lc && lc->decimal_point && lc->decimal_point[0] && !lc->decimal_point[1]) *dot = lc->decimal_point[0];
    *out = strtod(buf, NULL);
    return isfinite(*out);
}

bool td_json_int(const td_json *v, int64_t *out) {
    *out = 0;
    if (!td_json_is(v, TD_JSON_NUMBER)) return false;
    bool negative = v->text.data[0] == '-', plain = true;
    int64_t x = 0;
    for (size_t i = negative; i < v->text.n_bytes && plain; i++) {
        char c = v->text.data[i];
        plain = c >= '0' && c <= '9';
        if (!plain) break;
        if (__builtin_mul_overflow(x, 10, &x) || __builtin_sub_overflow(x, c - '0', &x)) return false;
    }
    if (plain) { /* x is the negated value, so that the smallest integer fits */
        if (!negative && __builtin_sub_overflow((int64_t)0, x, &x)) return false;
        *out = x;
        return true;
    }
    double d = 0;
    if (!td_json_double(v, &d) || d != trunc(d) || !(fabs(d) < 9223372036854775808.0)) return false;
    *out = (int64_t)d;
    return true;
}

static bool equal_numbers(const td_json *a, const td_json *b) {
    if (compare_keys(a->text, b->text) == 0) return true;
    int64_t ia = 0, ib = 0;
    bool whole_a = td_json_int(a, &ia), whole_b = td_json_int(b, &ib);
    if (whole_a || whole_b) return whole_a && whole_b && ia == ib;
    double da = 0, db = 0;
    return td_json_double(a, &da) && td_json_double(b, &db) && da == db;
}

static bool equal_objects(const td_json *a, const td_json *b) {
    /* In the same order the usual case is linear; else look up by name, bounded by sorting being the writer's task. */
    const td_json *hint = b->first;
    for (const td_json *v = a->first; v; v = v->next) {
        const td_json *w = hint && compare_keys(hint->key, v->key) == 0 ? hint : td_json_get_slice(b, v->key);
        if (!w || !td_json_equal(v, w)) return false;
        hint = w->next;
    }
    return true;
}

bool td_json_equal(const td_json *a, const td_json *b) {
    if (a == b) return true;
    if (!a || !b || a->kind != b->kind || a->n != b->n) return false;
    if (a->kind == TD_JSON_STRING) return compare_keys(a->text, b->text) == 0;
    if (a->kind == TD_JSON_NUMBER) return equal_numbers(a, b);
    if (a->kind == TD_JSON_OBJECT) return equal_objects(a, b);
    for (const td_json *v = a->first, *w = b->first; v && w; v = v->next, w = w->next)
        if (!td_json_equal(v, w)) return false;
    return true;
}

bool td_json_truthy(const td_json *v) {
    double d = 0;
    if (!v || v->kind == TD_JSON_NULL || v->kind == TD_JSON_FALSE) return false;
    if (v->kind == TD_JSON_TRUE) return true;
    if (v->kind == TD_JSON_NUMBER) return !td_json_double(v, &d) || d != 0;
    if (v->kind == TD_JSON_STRING) return v->text.n_bytes > 0;
    return v->n > 0;
}

/* ---- making and writing ------------------------------------------------------------------------------------------ */

td_json *td_json_make(td_arena *a, td_json_kind kind) {
    td_json *v = td_arena_alloc(a, 1, sizeof *v);
    if (v) v->kind = kind;
    return v;
}

td_json *td_json_make_string(td_arena *a, const char *text, size_t n_bytes) {
    td_json *v = td_json_make(a, TD_JSON_STRING);
    char *copy = v ? td_arena_strndup(a, text, n_bytes) : NULL;
    if (!copy) return NULL;
    v->text = (td_slice){copy, n_bytes};
    return v;
}

td_json *td_json_put(td_arena *a, td_json *object, td_slice key, const td_json *value) {
    td_json *v = value ? td_arena_alloc(a, 1, sizeof *v) : NULL;
    if (!v) return NULL;
    *v = *value;
    v->key = key;
    append(object, v);
    return v;
}

bool td_json_write_escaped(td_buf *out, const char *text, size_t n_bytes) {
    size_t done = 0;
    if (!n_bytes) return true;
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        if (!td_buf_add(out, text + done, i - done)) return false;
        done = i + 1;
        const char *simple = c == '"'    ? "\\\""
                             : c == '\\' ? "\\\\"
                             : c == '\n' ? "\\n"
                             : c == '\t' ? "\\t"
                             : c == '\r' ? "\\r"
                                         : NULL;
        if (!(simple ? td_buf_add_str(out, simple) : td_buf_printf(out, "\\u%04X", c))) return false;
    }
    return td_buf_add(out, text + done, n_bytes - done);
}

bool td_json_write_string(td_buf *out, const char *text, size_t n_bytes) {
    return td_buf_add_char(out, '"') && td_json_write_escaped(out, text, n_bytes) && td_buf_add_char(out, '"');
}

bool td_json_write(td_buf *out, const td_json *v) {
    if (!v || v->kind == TD_JSON_NULL) return td_buf_add_str(out, "null");
    if (v->kind == TD_JSON_TRUE) return td_buf_add_str(out, "true");
    if (v->kind == TD_JSON_FALSE) return td_buf_add_str(out, "false");
    if (v->kind == TD_JSON_NUMBER) return td_buf_add(out, v->text.data, v->text.n_bytes);
    if (v->kind == TD_JSON_STRING) return td_json_write_string(out, v->text.data, v->text.n_bytes);
    bool object = v->kind == TD_JSON_OBJECT;
    if (!td_buf_add_char(out, object ? '{' : '[')) return false;
    for (const td_json *c = v->first; c; c = c->next) {
        if (c != v->first && !td_buf_add_char(out, ',')) return false;
        if (object && !(td_json_write_string(out, c->key.data, c->key.n_bytes) && td_buf_add_char(out, ':')))
            return false;
        if (!td_json_write(out, c)) return false;
    }
    return td_buf_add_char(out, object ? '}' : ']');
}
