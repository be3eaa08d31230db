/* The conversation: system turn, messages, generation prompt, in the words of each template generation.
 *
 * Two loops, because the templates are two families: the modern ones (g1, g1b, g2) fold results into the model's turn
 * and let adjacent assistant messages share one; the early ones (g0, interleaved) give every message its own turn. The
 * rest of a token's life: chat_tokens.c makes ids of the spans. */
#include "chat_impl.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "chat_replay.h"

#include <stdlib.h>
#include <string.h>

typedef enum ended { ENDED_OTHER, ENDED_CALL, ENDED_RESULT, ENDED_MEDIA } ended;

typedef struct render {
    chat_writer w;
    const td_chat_options *o;
    const chat_item *items;
    size_t n;          /* items to be rendered as history */
    size_t n_all;      /* with a prefilled last message */
    size_t last_user;  /* index of the last user message, SIZE_MAX: none */
    ended last;        /* what the templates believe the last message ended in */
    bool turn_open;    /* a model turn is open */
    bool has_previous; /* of the messages that are no results: */
    td_chat_role previous;
} render;

static bool after_user(const render *r, size_t i) {
    return r->last_user == SIZE_MAX || i > r->last_user;
}

static void note_boundary(chat_writer *w) {
    td_chat_prompt *p = w->p;
    if (p->n_boundaries == p->cap_boundaries) {
        size_t cap = p->cap_boundaries ? p->cap_boundaries * 2 : 16;
        size_t *b = td_reallocarray(p->boundaries, cap, sizeof *b);
        if (!b) {
            w->failed = true;
            return;
        }
        p->boundaries = b;
        p->cap_boundaries = cap;
    }
    p->boundaries[p->n_boundaries++] = p->text.n_bytes;
}

static void open_turn(render *r, td_chat_role role) {
    static const char *const words[] = {"system\n", "user\n", "model\n", "tool\n"};
    note_boundary(&r->w);
    chat_put_mark(&r->w, TD_MARK_TURN);
    chat_put_text(&r->w, words[role]);
    r->turn_open = role == TD_CHAT_ASSISTANT;
}

static void close_turn(render *r) {
    chat_put_mark(&r->w, TD_MARK_TURN_END);
    chat_put_text(&r->w, "\n");
    r->turn_open = false;
}

static void put_empty_thought(render *r) {
    chat_put_mark(&r->w, TD_MARK_CHANNEL);
    chat_put_text(&r->w, "thought\n");
    chat_put_mark(&r->w, TD_MARK_CHANNEL_END);
}

/* ---- parts of a message ------------------------------------------------------------------------------------------ */

static void put_text_of(render *r, td_slice s, bool assistant) {
    if (!assistant) {
        chat_put_data(&r->w, chat_trim(s));
        return;
    }
    td_buf stripped = {0};
    if (s.n_bytes && !chat_strip_thinking(&stripped, s)) r->w.failed = true;
    chat_put_data(&r->w, (td_slice){stripped.data, stripped.n_bytes});
    td_buf_free(&stripped);
}

/* True when something was written; *media: parts that are no text. */
static bool put_content(render *r, const td_chat_message *m, bool *media) {
    size_t begin = r->w.p->text.n_bytes;
    bool assistant = m->role == TD_CHAT_ASSISTANT;
    *media = false;
    if (m->content_kind == TD_CHAT_STRING) put_text_of(r, m->text, assistant);
    if (m->content_kind == TD_CHAT_VALUE) chat_put_value(&r->w, m->value, false);
    for (size_t i = 0; m->content_kind == TD_CHAT_PARTS && i < m->n_parts; i++) {
        if (m->parts[i].kind == TD_CHAT_TEXT) {
            put_text_of(r, m->parts[i].text, assistant);
            continue;
        }
        /* The launch template surrounds pictures by blank lines. */
        bool blank = r->w.generation == TD_CHAT_G0 && m->parts[i].kind != TD_CHAT_AUDIO;
        if (blank) chat_put_text(&r->w, "\n\n");
        chat_put_media(&r->w, &m->parts[i]);
        if (blank) chat_put_text(&r->w, "\n\n");
        *media = true;
    }
    return r->w.p->text.n_bytes > begin;
}

/* Python's truth of the content as it came. */
static bool content_given(const td_chat_message *m) {
    if (m->content_kind == TD_CHAT_STRING) return m->text.n_bytes > 0;
    if (m->content_kind == TD_CHAT_PARTS) return m->n_parts > 0;
    return m->content_kind == TD_CHAT_VALUE && td_json_truthy(m->value);
}

static void put_thought(render *r, const td_chat_message *m, size_t i) {
    td_chat_generation g = r->w.generation;
    td_slice text = g == TD_CHAT_INTERLEAVED ? m->reasoning_content : m->reasoning;
    bool shown = g == TD_CHAT_G2 ? after_user(r, i) || (r->o->preserve_thinking && m->n_calls)
                                 : g != TD_CHAT_G0 && after_user(r, i) && m->n_calls;
    if (!text.n_bytes || !shown) return;
    chat_put_mark(&r->w, TD_MARK_CHANNEL);
    chat_put_text(&r->w, "thought\n");
    chat_put_data(&r->w, text);
    if (g != TD_CHAT_INTERLEAVED) chat_put_text(&r->w, "\n");
    chat_put_mark(&r->w, TD_MARK_CHANNEL_END);
}

static void put_calls(render *r, const td_chat_message *m) {
    for (size_t i = 0; i < m->n_calls; i++) {
        chat_put_mark(&r->w, TD_MARK_TOOL_CALL);
        chat_put_text(&r->w, "call:");
        chat_put_data(&r->w, m->calls[i].name);
        chat_put_text(&r->w, "{");
        if (td_json_is(m->calls[i].arguments, TD_JSON_OBJECT)) chat_put_members(&r->w, m->calls[i].arguments);
        chat_put_text(&r->w, "}");
        chat_put_mark(&r->w, TD_MARK_TOOL_CALL_END);
    }
}

/* A result's frame; the caller writes the body between `head` and `tail`. */
static void result_head(render *r, td_slice name, bool object) {
    chat_put_mark(&r->w, TD_MARK_TOOL_RESPONSE);
    chat_put_text(&r->w, "response:");
    chat_put_data(&r->w, name);
    chat_put_text(&r->w, object ? "{" : "{value:");
}

static void result_tail(render *r) {
    chat_put_text(&r->w, "}");
    chat_put_mark(&r->w, TD_MARK_TOOL_RESPONSE_END);
}

static void put_result_value(render *r, td_slice name, const td_json *v) {
    bool object = td_json_is(v, TD_JSON_OBJECT);
    result_head(r, name, object);
    if (object) {
        chat_put_members(&r->w, v);
    } else if (v) {
        chat_put_value(&r->w, v, false);
    } else {
        chat_put_text(&r->w, "[]"); /* what the templates make of a missing value */
    }
    result_tail(r);
}

static void put_responses(render *r, const td_chat_message *m) {
    for (size_t i = 0; i < m->n_responses; i++) {
        td_slice name = m->responses[i].name;
        if (!name.data || (!name.n_bytes && (r->w.generation == TD_CHAT_G2 || !r->w.strict)))
            name = chat_slice("unknown");
        put_result_value(r, name, m->responses[i].response);
    }
}

static td_slice name_of_result(const render *r, const td_chat_message *calls, const td_chat_message *t, size_t at) {
    for (size_t i = calls->n_calls; i > 0; i--) { /* the last match counts, and "no id" matches "no id" */
        td_slice a = calls->calls[i - 1].id, b = t->tool_call_id;
        bool given = a.data && b.data;
        if (given ? a.n_bytes == b.n_bytes && (!a.n_bytes || memcmp(a.data, b.data, a.n_bytes) == 0)
                  : !a.data && !b.data && r->w.strict)
            return calls->calls[i - 1].name;
    }
    if (t->name.n_bytes || (t->name.data && r->w.generation != TD_CHAT_G2 && r->w.strict)) return t->name;
    if (!r->w.strict && !t->tool_call_id.data && at < calls->n_calls) return calls->calls[at].name;
    return chat_slice("unknown");
}

/* The run of tool messages behind item i; true when there was one. */
static bool put_results(render *r, size_t i) {
    size_t begin = i + 1, k = begin;
    for (; k < r->n && r->items[k].m.role == TD_CHAT_TOOL; k++) {
        const td_chat_message *t = &r->items[k].m;
        td_slice name = name_of_result(r, &r->items[i].m, t, k - begin);
        if (t->content_kind == TD_CHAT_VALUE) {
            put_result_value(r, name, t->value);
            continue;
        }
        result_head(r, name, false);
        if (t->content_kind == TD_CHAT_NO_CONTENT && r->w.strict) {
            chat_put_text(&r->w, r->w.generation == TD_CHAT_G2 ? "null" : "None");
        } else {
            chat_put_mark(&r->w, TD_MARK_QUOTE);
            if (t->content_kind == TD_CHAT_STRING) chat_put_data(&r->w, t->text);
            for (size_t p = 0; t->content_kind == TD_CHAT_PARTS && p < t->n_parts; p++)
                if (t->parts[p].kind == TD_CHAT_TEXT) chat_put_data(&r->w, t->parts[p].text);
            chat_put_mark(&r->w, TD_MARK_QUOTE);
        }
        result_tail(r);
        for (size_t p = 0; t->content_kind == TD_CHAT_PARTS && r->w.generation == TD_CHAT_G2 && p < t->n_parts; p++)
            if (t->parts[p].kind != TD_CHAT_TEXT) chat_put_media(&r->w, &t->parts[p]);
    }
    return k > begin;
}

/* Thought, text and calls as the model wrote them, when that is remembered. */
static bool put_replay(render *r, const td_chat_message *m, size_t i) {
    td_chat_prompt *p = r->w.p;
    bool has_thought = false;
    size_t first = p->replayed.n;
    td_buf text = {0};
    if (!r->o->replay || r->w.strict || !m->n_calls || m->n_responses) return false;
    bool found = td_chat_replay_find(r->o->replay, m, &p->replayed, &text, &has_thought);
    bool keep = !has_thought || after_user(r, i) || (r->w.generation == TD_CHAT_G2 && r->o->preserve_thinking);
    if (found && keep && text.n_bytes) {
        chat_put(&r->w, TD_CHAT_SPAN_REPLAY, text.data, text.n_bytes);
        if (!r->w.failed) {
            p->spans[p->n_spans - 1].first = first;
            p->spans[p->n_spans - 1].n = p->replayed.n - first;
        }
    } else {
        found = false;
        p->replayed.n = first;
    }
    td_buf_free(&text);
    return found;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* The next message that is no result; NULL at the end. */
static const td_chat_message *next_message(const render *r, size_t i) {
    for (size_t k = i + 1; k < r->n_all; k++)
        if (r->items[k].m.role != TD_CHAT_TOOL) return &r->items[k].m;
    return NULL;
}

static void close_modern(render *r, const td_chat_message *m, size_t i, bool results, bool content, bool faithful) {
    const td_chat_message *next = next_message(r, i);
    bool assistant_next = next && next->role == TD_CHAT_ASSISTANT, g2 = r->w.generation == TD_CHAT_G2;
    bool dangling = r->w.strict ? r->last == ENDED_CALL && !results : m->n_calls && !results;
    if (dangling) {
        chat_put_mark(&r->w, TD_MARK_TOOL_RESPONSE);
    } else if (faithful && results) {
        if (next && !assistant_next) close_turn(r);
    } else if (g2 && m->role == TD_CHAT_ASSISTANT && assistant_next && (!m->n_calls || results)) {
        return;
    } else if (!(results && !content && (!g2 || !next))) {
        close_turn(r);
    }
}

static void put_modern(render *r, size_t i) {
    const td_chat_message *m = &r->items[i].m;
    bool content = false, media = false, results = false;
    if (m->role == TD_CHAT_TOOL) return;
    r->last = ENDED_OTHER;
    if (m->role != TD_CHAT_ASSISTANT || !r->has_previous || r->previous != TD_CHAT_ASSISTANT) open_turn(r, m->role);
    /* Messages in the models' native form carry results and, behind them, text: that order is theirs. */
    bool faithful = m->n_calls && !m->n_responses && !r->w.strict && !r->o->template_text_order;
    bool replayed = put_replay(r, m, i);
    if (!replayed) {
        put_thought(r, m, i);
        if (faithful) content = put_content(r, m, &media);
        put_calls(r, m);
    }
    if (m->n_calls) r->last = ENDED_CALL;
    if (m->n_responses) {
        put_responses(r, m);
        results = true;
    } else if (m->n_calls) {
        results = put_results(r, i);
    }
    if (results) r->last = ENDED_RESULT;
    if (!faithful && !replayed) content = put_content(r, m, &media);
    if (r->w.generation == TD_CHAT_G1) content = content_given(m);
    if (media && r->w.generation != TD_CHAT_G2 && !faithful) r->last = ENDED_MEDIA;
    close_modern(r, m, i, results, content, faithful || replayed);
    r->has_previous = true;
    r->previous = m->role;
}

static void put_early(render *r, size_t i) {
    const td_chat_message *m = &r->items[i].m;
    bool media = false, interleaved = r->w.generation == TD_CHAT_INTERLEAVED;
    if (!(interleaved && r->last == ENDED_RESULT && m->n_calls)) open_turn(r, m->role);
    r->last = ENDED_OTHER;
    bool replayed = put_replay(r, m, i);
    if (!replayed) {
        put_thought(r, m, i);
        if (r->items[i].lead.n_bytes) put_text_of(r, r->items[i].lead, true);
        put_calls(r, m);
    }
    if (m->n_calls) r->last = ENDED_CALL;
    put_responses(r, m);
    if (m->n_responses) r->last = ENDED_RESULT;
    if (!replayed) put_content(r, m, &media);
    if (media) r->last = ENDED_MEDIA;
    if (!m->n_responses || content_given(m)) close_turn(r);
}

/* ---- both ends --------------------------------------------------------------------------------------------------- */

static void put_system(render *r, const td_chat_message *first, const td_chat_tool *tools, size_t n_tools) {
    chat_writer *w = &r->w;
    open_turn(r, TD_CHAT_SYSTEM);
    if (r->o->enable_thinking) {
        chat_put_mark(w, TD_MARK_THINK);
        if (w->generation != TD_CHAT_G0) chat_put_text(w, "\n");
    }
    if (first && first->content_kind == TD_CHAT_PARTS && w->generation >= TD_CHAT_G1B) {
        for (size_t i = 0; i < first->n_parts; i++) {
            chat_put_data(w, chat_trim(first->parts[i].text));
            chat_put_text(w, " ");
        }
    } else if (first && first->content_kind == TD_CHAT_PARTS) {
        td_buf joined = {0};
        for (size_t i = 0; i < first->n_parts; i++) {
            td_slice t = first->parts[i].text;
            if ((i && !td_buf_add_char(&joined, '\n')) || !td_buf_add(&joined, t.data, t.n_bytes)) w->failed = true;
        }
        chat_put_data(w, chat_trim((td_slice){joined.data, joined.n_bytes}));
        td_buf_free(&joined);
    } else if (first && first->content_kind == TD_CHAT_STRING) {
        chat_put_data(w, chat_trim(first->text));
    }
    for (size_t i = 0; i < n_tools; i++) {
        chat_put_mark(w, TD_MARK_TOOL);
        chat_put_declaration(w, &tools[i]);
        chat_put_mark(w, TD_MARK_TOOL_END);
    }
    close_turn(r);
}

/* The answer's beginning as the client gave it: the last message, left open. */
static void put_prefill(render *r, const td_chat_message *m) {
    td_chat_start *s = &r->w.p->start;
    bool media = false;
    if (m->reasoning.n_bytes) {
        chat_put_mark(&r->w, TD_MARK_CHANNEL);
        chat_put_text(&r->w, "thought\n");
        chat_put_data(&r->w, m->reasoning);
        s->reasoning = m->reasoning;
        if (!content_given(m)) {
            s->in_thought = true;
            return;
        }
        chat_put_text(&r->w, "\n");
        chat_put_mark(&r->w, TD_MARK_CHANNEL_END);
        s->after_thought = true;
    } else if (r->last != ENDED_RESULT && r->o->profile.large && !r->o->enable_thinking &&
               r->w.generation != TD_CHAT_G0) {
        put_empty_thought(r);
        s->after_thought = true;
    }
    size_t begin = r->w.p->text.n_bytes;
    if (m->content_kind == TD_CHAT_STRING) {
        chat_put_data(&r->w, m->text); /* as it is: the model goes on exactly here */
        s->content = m->text;
        return;
    }
    put_content(r, m, &media);
    if (r->w.failed || media) return;
    size_t n = r->w.p->text.n_bytes - begin;
    const char *copy = td_arena_strndup(r->w.a, n ? r->w.p->text.data + begin : "", n);
    if (!copy) r->w.failed = true;
    s->content = (td_slice){copy, n};
}

static void put_generation_prompt(render *r, const td_chat_message *prefill) {
    td_chat_generation g = r->w.generation;
    bool early = g <= TD_CHAT_INTERLEAVED, thinking = r->o->enable_thinking, large = r->o->profile.large;
    td_chat_start *s = &r->w.p->start;
    ended last = r->last;
    if (!r->w.strict && !r->turn_open) last = ENDED_OTHER; /* X1 */
    if (last == ENDED_MEDIA) last = ENDED_OTHER;
    bool opens = early ? last != ENDED_RESULT : last == ENDED_OTHER;
    if (prefill && r->turn_open) opens = false;
    if (opens) open_turn(r, TD_CHAT_ASSISTANT);
    s->begin = r->w.p->text.n_bytes;
    s->in_turn = last == ENDED_RESULT;
    if (prefill) {
        r->last = last;
        put_prefill(r, prefill);
        return;
    }
    bool empty = false;
    if (!thinking && g == TD_CHAT_INTERLEAVED) {
        empty = true;
    } else if (!thinking && large) {
        bool asked = !r->w.strict && !r->o->thinking_by_default; /* X3 */
        empty = (last == ENDED_OTHER && g != TD_CHAT_G0) || (last == ENDED_RESULT && asked);
    }
    if (empty) {
        put_empty_thought(r);
        s->after_thought = true;
    } else if (thinking && g == TD_CHAT_G2 && last == ENDED_RESULT) {
        chat_put_mark(&r->w, TD_MARK_CHANNEL);
        chat_put_text(&r->w, "thought\n");
        s->in_thought = true;
    }
}

static bool is_prefill(const td_chat_message *m) {
    return m->role == TD_CHAT_ASSISTANT && !m->n_calls && !m->n_responses && (content_given(m) || m->reasoning.n_bytes);
}

td_status td_chat_render(td_chat_prompt *out, const td_chat_message *messages, size_t n_messages,
                         const td_chat_tool *tools, size_t n_tools, const td_chat_options *o, td_arena *a,
                         td_error *err) {
    chat_item *items = NULL;
    size_t n = 0;
    td_chat_tool *cleaned = NULL;
    td_status status = chat_fix(messages, n_messages, o, a, &items, &n, &out->n_orphans, err);
    if (status == TD_OK && !o->strict) status = td_chat_tools_clean(tools, n_tools, a, &cleaned, err);
    if (status != TD_OK) return status;
    render r = {.w = {out, a, o->profile.generation, o->strict, false}, .o = o, .items = items, .last_user = SIZE_MAX};
    chat_put_mark(&r.w, TD_MARK_BOS);
    bool system = n && items[0].m.role == TD_CHAT_SYSTEM;
    if (o->enable_thinking || n_tools || system)
        put_system(&r, system ? &items[0].m : NULL, o->strict ? tools : cleaned, n_tools);
    r.items += system;
    r.n = r.n_all = n - system;
    const td_chat_message *last = r.n ? &r.items[r.n - 1].m : NULL;
    const td_chat_message *prefill = o->continue_final && last && is_prefill(last) ? last : NULL;
    if (prefill) r.n--;
    for (size_t i = 0; i < r.n; i++)
        if (r.items[i].m.role == TD_CHAT_USER) r.last_user = i;
    for (size_t i = 0; i < r.n && !r.w.failed; i++) {
        if (o->profile.generation <= TD_CHAT_INTERLEAVED) {
            put_early(&r, i);
        } else {
            put_modern(&r, i);
        }
    }
    if (prefill || !o->no_generation_prompt) put_generation_prompt(&r, prefill);
    if (r.w.failed) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the prompt");
    return TD_OK;
}

void td_chat_prompt_free(td_chat_prompt *p) {
    td_buf_free(&p->text);
    free(p->spans);
    free(p->media);
    free(p->boundaries);
    td_tokens_free(&p->replayed);
    *p = (td_chat_prompt){0};
}

td_slice td_chat_prompt_text(const td_chat_prompt *p) {
    size_t skip = chat_slice(td_chat_mark_text(TD_MARK_BOS)).n_bytes;
    return p->text.n_bytes < skip ? (td_slice){"", 0} : (td_slice){p->text.data + skip, p->text.n_bytes - skip};
}
