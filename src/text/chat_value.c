/* Pieces of a prompt: spans, trimming, and JSON values in the format's argument syntax. */
#include "chat_impl.h"

#include "../base/checked.h"
#include "utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- spans ------------------------------------------------------------------------------------------------------- */

static td_chat_span *add_span(chat_writer *w, td_chat_span_kind kind) {
    td_chat_prompt *p = w->p;
    if (p->n_spans == p->cap_spans) {
        size_t cap = p->cap_spans ? p->cap_spans * 2 : 64;
        td_chat_span *spans = td_reallocarray(p->spans, cap, sizeof *spans);
        if (!spans) {
            w->failed = true;
            return NULL;
        }
        p->spans = spans;
        p->cap_spans = cap;
    }
    td_chat_span *s = &p->spans[p->n_spans++];
    *s = (td_chat_span){.kind = kind, .begin = p->text.n_bytes, .end = p->text.n_bytes};
    return s;
}

void chat_put(chat_writer *w, td_chat_span_kind kind, const char *text, size_t n_bytes) {
    td_chat_prompt *p = w->p;
    if (!n_bytes || w->failed) return;
    td_chat_span *s = p->n_spans ? &p->spans[p->n_spans - 1] : NULL;
    if (!s || s->kind != kind || kind > TD_CHAT_SPAN_DATA) s = add_span(w, kind);
    if (!s) return;
    if (!td_buf_add(&p->text, text, n_bytes)) w->failed = true;
    s->end = p->text.n_bytes;
}

void chat_put_mark(chat_writer *w, td_chat_mark m) {
    td_slice s = chat_slice(td_chat_mark_text(m));
    chat_put(w, TD_CHAT_SPAN_MARK, s.data, s.n_bytes);
}

void chat_put_media(chat_writer *w, const td_chat_part *part) {
    td_chat_prompt *p = w->p;
    if (p->n_media == p->cap_media) {
        size_t cap = p->cap_media ? p->cap_media * 2 : 8;
        const td_chat_part **media = td_reallocarray(p->media, cap, sizeof *media);
        if (!media) {
            w->failed = true;
            return;
        }
        p->media = media;
        p->cap_media = cap;
    }
    td_slice s = chat_slice(td_chat_mark_text(part->kind == TD_CHAT_IMAGE   ? TD_MARK_IMAGE
                                              : part->kind == TD_CHAT_AUDIO ? TD_MARK_AUDIO
                                                                            : TD_MARK_VIDEO));
    chat_put(w, TD_CHAT_SPAN_MEDIA, s.data, s.n_bytes);
    if (w->failed) return;
    p->spans[p->n_spans - 1].first = p->n_media;
    p->spans[p->n_spans - 1].n = 1;
    p->media[p->n_media++] = part;
}

void chat_put_string(chat_writer *w, td_slice s) {
    chat_put_mark(w, TD_MARK_QUOTE);
    chat_put_data(w, s);
    chat_put_mark(w, TD_MARK_QUOTE);
}

/* ---- trimming ---------------------------------------------------------------------------------------------------- */

static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

td_slice chat_trim(td_slice s) {
    uint32_t cp = 0;
    int n = 0;
    while (s.n_bytes && (n = td_utf8_next(s.data, s.n_bytes, &cp)) > 0 && is_space(cp))
        s = (td_slice){s.data + n, s.n_bytes - (size_t)n};
    while (s.n_bytes) {
        size_t at = s.n_bytes - 1;
        while (at > 0 && s.n_bytes - at < 4 && ((unsigned char)s.data[at] & 0xC0) == 0x80) at--;
        if (td_utf8_next(s.data + at, s.n_bytes - at, &cp) != (int)(s.n_bytes - at) || !is_space(cp)) break;
        s.n_bytes = at;
    }
    return s;
}

static const char *find(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    for (; (size_t)(end - p) >= n; p++) {
        p = memchr(p, word[0], (size_t)(end - p) - n + 1);
        if (!p) return NULL;
        if (memcmp(p, word, n) == 0) return p;
    }
    return NULL;
}

bool chat_strip_thinking(td_buf *out, td_slice s) {
    const char *p = s.data, *end = s.data + s.n_bytes;
    td_buf kept = {0};
    bool ok = true;
    for (;;) {
        const char *close = find(p, end, "<channel|>"), *stop = close ? close : end;
        const char *open = find(p, stop, "<|channel>");
        ok = ok && td_buf_add(&kept, p, (size_t)((open ? open : stop) - p));
        if (!close) break;
        p = close + strlen("<channel|>");
    }
    td_slice t = chat_trim((td_slice){kept.data, kept.n_bytes});
    ok = ok && (!t.n_bytes || td_buf_add(out, t.data, t.n_bytes));
    td_buf_free(&kept);
    return ok;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static int compare_lowered(td_slice a, td_slice b) {
    size_t i = 0, j = 0;
    while (i < a.n_bytes && j < b.n_bytes) {
        uint32_t x = 0, y = 0;
        int n = td_utf8_next(a.data + i, a.n_bytes - i, &x), m = td_utf8_next(b.data + j, b.n_bytes - j, &y);
        x = chat_lower(x);
        y = chat_lower(y);
        if (x != y) return x < y ? -1 : 1;
        i += n > 0 ? (size_t)n : 1;
        j += m > 0 ? (size_t)m : 1;
    }
    return (i < a.n_bytes) - (j < b.n_bytes);
}

typedef struct ordered {
    const td_json *v;
    size_t at;
} ordered;

static int by_lowered(const void *pa, const void *pb) {
    const ordered *a = pa, *b = pb;
    int c = compare_lowered(a->v->key, b->v->key);
    return c ? c : (a->at > b->at) - (a->at < b->at);
}

const td_json **chat_sorted(chat_writer *w, const td_json *object) {
    size_t n = 0;
    const td_json **out = td_arena_alloc(w->a, (size_t)object->n + 1, sizeof *out);
    ordered *o = td_calloc((size_t)object->n + 1, sizeof *o);
    if (!out || !o) {
        free(o);
        w->failed = true;
        return NULL;
    }
    for (const td_json *v = object->first; v; v = v->next, n++) o[n] = (ordered){v, n};
    qsort(o, n, sizeof *o, by_lowered);
    for (size_t i = 0; i < n; i++) out[i] = o[i].v;
    free(o);
    return out;
}

/* Python's repr of the float written as `text`: the shortest digits that read back the same. */
static void put_float(chat_writer *w, const td_json *v) {
    char digits[40], out[64];
    double x = 0;
    if (!td_json_double(v, &x)) {
        chat_put_text(w, v->text.data[0] == '-' ? "-inf" : "inf");
        return;
    }
    int n_digits = 1;
    for (; n_digits <= 17; n_digits++) {
        snprintf(digits, sizeof digits, "%.*e", n_digits - 1, x);
        if (strtod(digits, NULL) == x) break;
    }
    const char *e = strchr(digits, 'e');
    int exponent = e ? atoi(e + 1) : 0;
    if (exponent >= -4 && exponent < 16) {
        int n_after = n_digits - 1 - exponent;
        snprintf(out, sizeof out, "%.*f", n_after > 1 ? n_after : 1, x);
    } else {
        snprintf(out, sizeof out, "%.*e", n_digits - 1, x);
    }
    for (char *c = out; *c; c++)
        if (*c == ',') *c = '.';
    chat_put(w, TD_CHAT_SPAN_DATA, out, strlen(out));
}

static void put_number(chat_writer *w, const td_json *v) {
    bool whole = !memchr(v->text.data, '.', v->text.n_bytes) && !memchr(v->text.data, 'e', v->text.n_bytes) &&
                 !memchr(v->text.data, 'E', v->text.n_bytes);
    if (!w->strict || (whole && !(v->text.n_bytes == 2 && memcmp(v->text.data, "-0", 2) == 0))) {
        chat_put_data(w, v->text);
    } else if (whole) {
        chat_put_text(w, "0");
    } else {
        put_float(w, v);
    }
}

void chat_put_members(chat_writer *w, const td_json *object) {
    const td_json **c = chat_sorted(w, object);
    for (uint32_t i = 0; c && i < object->n; i++) {
        if (i) chat_put_text(w, ",");
        chat_put_data(w, c[i]->key);
        chat_put_text(w, ":");
        chat_put_value(w, c[i], false);
    }
}

void chat_put_value(chat_writer *w, const td_json *v, bool quoted) {
    switch (v->kind) {
    case TD_JSON_NULL:
        chat_put_text(w, w->generation == TD_CHAT_G2 ? "null" : "None");
        return;
    case TD_JSON_TRUE:
        chat_put_text(w, "true");
        return;
    case TD_JSON_FALSE:
        chat_put_text(w, "false");
        return;
    case TD_JSON_NUMBER:
        put_number(w, v);
        return;
    case TD_JSON_STRING:
        chat_put_string(w, v->text);
        return;
    case TD_JSON_ARRAY:
        chat_put_text(w, "[");
        for (const td_json *c = v->first; c; c = c->next) {
            if (c != v->first) chat_put_text(w, ",");
            chat_put_value(w, c, quoted);
        }
        chat_put_text(w, "]");
        return;
    case TD_JSON_OBJECT:
        break;
    }
    chat_put_text(w, "{");
    if (!quoted) {
        chat_put_members(w, v);
    } else {
        const td_json **c = chat_sorted(w, v);
        for (uint32_t i = 0; c && i < v->n; i++) {
            if (i) chat_put_text(w, ",");
            chat_put_string(w, c[i]->key);
            chat_put_text(w, ":");
            chat_put_value(w, c[i], true);
        }
    }
    chat_put_text(w, "}");
}

/* ---- Python's str() ---------------------------------------------------------------------------------------------- */

static void put_repr_string(chat_writer *w, td_slice s) {
    bool has_single = memchr(s.data, '\'', s.n_bytes) != NULL, has_double = memchr(s.data, '"', s.n_bytes) != NULL;
    char quote = has_single && !has_double ? '"' : '\'';
    chat_put(w, TD_CHAT_SPAN_DATA, &quote, 1);
    for (size_t i = 0; i < s.n_bytes; i++) {
        unsigned char c = (unsigned char)s.data[i];
        char esc[8];
        const char *text = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\\' ? "\\\\" : NULL;
        if (!text && c == (unsigned char)quote) {
            text = "\\'";
        } else if (!text && (c < 0x20 || c == 0x7F)) {
            snprintf(esc, sizeof esc, "\\x%02x", c);
            text = esc;
        }
        chat_put(w, TD_CHAT_SPAN_DATA, text ? text : s.data + i, text ? strlen(text) : 1);
    }
    chat_put(w, TD_CHAT_SPAN_DATA, &quote, 1);
}

static void put_python(chat_writer *w, const td_json *v, bool inner) {
    bool object = v->kind == TD_JSON_OBJECT;
    if (v->kind <= TD_JSON_TRUE) {
        chat_put(w, TD_CHAT_SPAN_DATA,
                 v->kind == TD_JSON_NULL    ? "None"
                 : v->kind == TD_JSON_FALSE ? "False"
                                            : "True",
                 v->kind == TD_JSON_FALSE ? 5 : 4);
    } else if (v->kind == TD_JSON_NUMBER) {
        put_number(w, v);
    } else if (v->kind == TD_JSON_STRING) {
        if (inner) {
            put_repr_string(w, v->text);
        } else {
            chat_put_data(w, v->text);
        }
    } else {
        chat_put(w, TD_CHAT_SPAN_DATA, object ? "{" : "[", 1);
        for (const td_json *c = v->first; c; c = c->next) {
            if (c != v->first) chat_put(w, TD_CHAT_SPAN_DATA, ", ", 2);
            if (object) {
                put_repr_string(w, c->key);
                chat_put(w, TD_CHAT_SPAN_DATA, ": ", 2);
            }
            put_python(w, c, true);
        }
        chat_put(w, TD_CHAT_SPAN_DATA, object ? "}" : "]", 1);
    }
}

void chat_put_python(chat_writer *w, const td_json *v, bool upper) {
    size_t begin = w->p->text.n_bytes;
    put_python(w, v, false);
    for (size_t i = begin; upper && i < w->p->text.n_bytes; i++) {
        char *c = &w->p->text.data[i];
        if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    }
}
