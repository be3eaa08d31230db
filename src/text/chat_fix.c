/* Corrections that move, join or turn around messages before they are rendered: adjacent text parts (X12), leading
 * system messages (X9), results that are not where the templates look for them (X4) or answer nothing (X7), and for the
 * two earliest templates the fold of a tool round into one message. Nothing here when strict. */
#include "chat_impl.h"

#include "../base/status.h"

#include <string.h>

typedef struct node { /* a message in a list that can be reordered */
    struct node *next;
    td_chat_message m;
    bool result; /* belongs to the calls before it */
} node;

static char *join(td_arena *a, td_slice x, const char *between, td_slice y, size_t *n_bytes) {
    size_t n = strlen(between);
    char *s = td_arena_alloc(a, x.n_bytes + n + y.n_bytes + 1, 1);
    if (!s) return NULL;
    if (x.n_bytes) memcpy(s, x.data, x.n_bytes);
    memcpy(s + x.n_bytes, between, n);
    if (y.n_bytes) memcpy(s + x.n_bytes + n, y.data, y.n_bytes);
    *n_bytes = x.n_bytes + n + y.n_bytes;
    return s;
}

/* The texts of parts [first, last) with one newline between them. */
static bool join_texts(td_arena *a, const td_chat_part *first, const td_chat_part *last, td_slice *out) {
    size_t n = 0;
    for (const td_chat_part *p = first; p < last; p++) n += p->text.n_bytes + 1;
    char *s = td_arena_alloc(a, n + 1, 1);
    if (!s) return false;
    n = 0;
    for (const td_chat_part *p = first; p < last; p++) {
        if (p > first) s[n++] = '\n';
        if (p->text.n_bytes) memcpy(s + n, p->text.data, p->text.n_bytes);
        n += p->text.n_bytes;
    }
    *out = (td_slice){s, n};
    return true;
}

static bool join_parts(td_chat_message *m, td_arena *a) {
    if (m->content_kind != TD_CHAT_PARTS) return true;
    td_chat_part *parts = td_arena_alloc(a, m->n_parts + 1, sizeof *parts);
    size_t n = 0;
    if (!parts) return false;
    for (size_t i = 0, j; i < m->n_parts; i = j) {
        parts[n] = m->parts[i];
        for (j = i + 1; m->parts[i].kind == TD_CHAT_TEXT && j < m->n_parts && m->parts[j].kind == TD_CHAT_TEXT;) j++;
        if (j - i > 1 && !join_texts(a, m->parts + i, m->parts + j, &parts[n].text)) return false;
        n++;
    }
    m->parts = parts;
    m->n_parts = n;
    if (n == 0 || (n == 1 && parts[0].kind == TD_CHAT_TEXT)) {
        m->content_kind = TD_CHAT_STRING;
        m->text = n ? parts[0].text : (td_slice){"", 0};
    }
    return true;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static bool same(td_slice a, td_slice b) {
    return a.data && b.data && a.n_bytes == b.n_bytes && (!a.n_bytes || memcmp(a.data, b.data, a.n_bytes) == 0);
}

static bool answers(const td_chat_message *calls, td_slice id) {
    for (size_t i = 0; i < calls->n_calls; i++)
        if (same(calls->calls[i].id, id)) return true;
    return false;
}

/* An orphan becomes a user turn with the body as its text. */
static bool to_user(td_chat_message *m, td_arena *a) {
    m->role = TD_CHAT_USER;
    if (m->content_kind != TD_CHAT_VALUE) return true;
    td_buf text = {0};
    bool ok = td_json_write(&text, m->value);
    const char *copy = ok ? td_arena_strndup(a, text.data, text.n_bytes) : NULL;
    m->content_kind = TD_CHAT_STRING;
    m->text = (td_slice){copy, text.n_bytes};
    td_buf_free(&text);
    return copy != NULL;
}

/* Moves results up to the calls they answer and turns the rest into user turns. */
static bool settle_results(node *list, td_arena *a, unsigned *n_orphans) {
    node *calls = NULL, *run_end = NULL, *before = NULL;
    for (node *n = list, *next; n; n = next) {
        next = n->next;
        if (n->m.role == TD_CHAT_ASSISTANT) {
            calls = n->m.n_calls && !n->m.n_responses ? n : NULL;
            run_end = n;
        } else if (n->m.role == TD_CHAT_TOOL) {
            bool in_place = calls && before == run_end;
            if (!in_place && !(calls && (!n->m.tool_call_id.data || answers(&calls->m, n->m.tool_call_id)))) {
                ++*n_orphans;
                if (!to_user(&n->m, a)) return false;
            } else {
                n->result = true;
                if (!in_place) {
                    before->next = next;
                    n->next = run_end->next;
                    run_end->next = n;
                }
                run_end = n;
                if (!in_place) continue; /* `before` stays the last message of the list so far */
            }
        }
        before = n;
    }
    return true;
}

/* ---- leading system messages ------------------------------------------------------------------------------------- */

static bool is_text(const td_chat_message *m) {
    return m->content_kind == TD_CHAT_STRING || m->content_kind == TD_CHAT_NO_CONTENT;
}

static bool join_system(node *list, td_arena *a) {
    while (list && list->m.role == TD_CHAT_SYSTEM && list->next && list->next->m.role == TD_CHAT_SYSTEM &&
           is_text(&list->m) && is_text(&list->next->m)) {
        td_slice x = chat_trim(list->m.text), y = chat_trim(list->next->m.text);
        size_t n = 0;
        char *s = join(a, x, x.n_bytes && y.n_bytes ? "\n\n" : "", y, &n);
        if (!s) return false;
        list->m.content_kind = TD_CHAT_STRING;
        list->m.text = (td_slice){s, n};
        list->next = list->next->next;
    }
    return true;
}

/* ---- the two earliest templates ---------------------------------------------------------------------------------- */

static bool response_of(const td_chat_message *tool, td_arena *a, const td_json **out) {
    if (tool->content_kind == TD_CHAT_VALUE) {
        *out = tool->value;
        return true;
    }
    td_slice text = tool->text;
    if (tool->content_kind == TD_CHAT_NO_CONTENT) text = (td_slice){"", 0};
    if (tool->content_kind == TD_CHAT_PARTS && !join_texts(a, tool->parts, tool->parts + tool->n_parts, &text))
        return false;
    if (text.n_bytes && td_json_parse(out, a, text.data, text.n_bytes, TD_JSON_LAST_WINS, NULL) == TD_OK) return true;
    *out = td_json_make_string(a, text.data ? text.data : "", text.n_bytes);
    return *out != NULL;
}

static td_slice result_name(const td_chat_message *calls, const td_chat_message *tool, size_t at) {
    for (size_t i = calls->n_calls; tool->tool_call_id.data && i > 0; i--)
        if (same(calls->calls[i - 1].id, tool->tool_call_id)) return calls->calls[i - 1].name;
    if (tool->name.n_bytes) return tool->name;
    if (!tool->tool_call_id.data && at < calls->n_calls) return calls->calls[at].name;
    return chat_slice("unknown");
}

/* Calls, their results and the answer behind them as one message; returns the last node used. */
static node *fold(node *n, chat_item *item, bool text_behind, td_arena *a, bool *ok) {
    size_t n_results = 0, k = 0;
    node *last = n;
    for (node *t = n->next; t && t->result; t = t->next) n_results++;
    if (!n_results) return n;
    td_chat_response *r = td_arena_alloc(a, n_results, sizeof *r);
    for (node *t = n->next; r && *ok && t && t->result; last = t, t = t->next, k++) {
        *ok = response_of(&t->m, a, &r[k].response);
        r[k].name = result_name(&n->m, &t->m, k);
    }
    if (!r || !*ok) {
        *ok = false;
        return n;
    }
    item->m.responses = r;
    item->m.n_responses = n_results;
    if (!is_text(&n->m)) return last;
    td_slice own = n->m.content_kind == TD_CHAT_STRING ? n->m.text : (td_slice){"", 0}, later = {"", 0};
    node *f = last->next;
    if (f && f->m.role == TD_CHAT_ASSISTANT && !f->m.n_calls && !f->m.n_responses && is_text(&f->m) &&
        f->m.text.n_bytes) {
        later = f->m.text;
        last = f;
    }
    size_t n_bytes = later.n_bytes;
    const char *text = text_behind ? join(a, own, "", later, &n_bytes) : later.data;
    if (!text_behind) item->lead = own;
    *ok = text != NULL;
    item->m.content_kind = n_bytes ? TD_CHAT_STRING : TD_CHAT_NO_CONTENT;
    item->m.text = (td_slice){text, n_bytes};
    return last;
}

td_status chat_fix(const td_chat_message *messages, size_t n, const td_chat_options *o, td_arena *a, chat_item **out,
                   size_t *n_out, unsigned *n_orphans, td_error *err) {
    bool early = o->profile.generation <= TD_CHAT_INTERLEAVED, ok = true;
    chat_item *items = td_arena_alloc(a, n + 1, sizeof *items);
    node *nodes = o->strict ? NULL : td_arena_alloc(a, n + 1, sizeof *nodes);
    *out = items;
    *n_out = 0;
    if (!items || (!o->strict && !nodes)) goto fail;
    if (o->strict) {
        for (size_t i = 0; i < n; i++) items[i].m = messages[i];
        *n_out = n;
        return TD_OK;
    }
    for (size_t i = 0; i < n && ok; i++) {
        nodes[i].m = messages[i];
        nodes[i].next = i + 1 < n ? &nodes[i + 1] : NULL;
        ok = join_parts(&nodes[i].m, a);
    }
    node *list = n ? nodes : NULL;
    if (!ok || !join_system(list, a) || !settle_results(list, a, n_orphans)) goto fail;
    for (node *m = list; m; m = m->next) {
        chat_item *item = &items[(*n_out)++];
        item->m = m->m;
        if (early && m->m.role == TD_CHAT_ASSISTANT && m->m.n_calls && !m->m.n_responses)
            m = fold(m, item, o->template_text_order, a, &ok);
        if (!ok) goto fail;
    }
    return TD_OK;
fail:
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %zu messages", n);
}
