/* See chat_replay.h. Entries are few and large (whole turns), so a list in order of use and a linear search by the
 * first call's id are enough; the bound is on bytes. */
#include "chat_replay.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "chat_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_ENTRY = 17 << 10 }; /* an arena takes its memory in blocks: the first of 16 KiB, later ones up to doubled */

typedef struct entry {
    struct entry *next;
    td_arena *a; /* everything below */
    size_t n_bytes;
    size_t n_calls;
    td_slice *ids, *names;
    const td_json **arguments;
    td_slice content, reasoning, text;
    const uint32_t *tokens;
    size_t n_tokens;
    bool has_thought;
} entry;

struct td_chat_replay {
    pthread_mutex_t lock;
    entry *first; /* most recently used first */
    size_t n_bytes, max_bytes;
};

td_status td_chat_replay_create(td_chat_replay **out, size_t max_bytes, td_error *err) {
    td_chat_replay *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r || pthread_mutex_init(&r->lock, NULL) != 0) {
        free(r);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the replay store");
    }
    r->max_bytes = max_bytes;
    *out = r;
    return TD_OK;
}

static void free_entries(entry *e) {
    while (e) {
        entry *next = e->next;
        td_arena_destroy(e->a);
        e = next;
    }
}

void td_chat_replay_destroy(td_chat_replay *r) {
    if (!r) return;
    free_entries(r->first);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static bool copy(td_arena *a, td_slice *out, const char *data, size_t n_bytes) {
    char *s = td_arena_strndup(a, n_bytes ? data : "", n_bytes);
    *out = (td_slice){s, n_bytes};
    return s != NULL;
}

static bool equal(td_slice a, td_slice b) {
    return a.n_bytes == b.n_bytes && (!a.n_bytes || memcmp(a.data, b.data, a.n_bytes) == 0);
}

static bool fill(entry *e, const td_chat_reply *reply, const td_slice *ids) {
    td_arena *a = e->a;
    td_buf text = {0};
    size_t k = 0;
    e->ids = td_arena_alloc(a, e->n_calls, sizeof *e->ids);
    e->names = td_arena_alloc(a, e->n_calls, sizeof *e->names);
    e->arguments = td_arena_alloc(a, e->n_calls, sizeof *e->arguments);
    bool ok = e->ids && e->names && e->arguments;
    for (size_t i = 0; ok && i < reply->n_blocks; i++) {
        const td_chat_block *b = &reply->blocks[i];
        td_slice args;
        if (b->kind != TD_CHAT_BLOCK_CALL) continue;
        ok = copy(a, &e->ids[k], ids[k].data, ids[k].n_bytes) && copy(a, &e->names[k], b->name.data, b->name.n_bytes) &&
             copy(a, &args, b->text.data, b->text.n_bytes) &&
             td_json_parse(&e->arguments[k], a, args.data, args.n_bytes, TD_JSON_LAST_WINS, NULL) == TD_OK;
        k++;
    }
    ok = ok && td_chat_reply_content(reply, &text) && copy(a, &e->content, text.data, text.n_bytes);
    td_buf_clear(&text);
    ok = ok && td_chat_reply_reasoning(reply, &text) && copy(a, &e->reasoning, text.data, text.n_bytes);
    td_buf_free(&text);
    return ok;
}

static bool contains(const char *text, size_t n_bytes, const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= n_bytes; i++)
        if (text[i] == word[0] && memcmp(text + i, word, n) == 0) return true;
    return false;
}

/* With the lock held: drops from the far end until the bound holds. */
static void shrink(td_chat_replay *r) {
    size_t kept = 0;
    entry **at = &r->first;
    while (*at && kept + (*at)->n_bytes <= r->max_bytes) {
        kept += (*at)->n_bytes;
        at = &(*at)->next;
    }
    free_entries(*at);
    *at = NULL;
    r->n_bytes = kept;
}

td_status td_chat_replay_put(td_chat_replay *r, const td_chat_reply *reply, const td_slice *ids, const uint32_t *tokens,
                             size_t n_tokens, const char *text, size_t n_text, td_error *err) {
    if (!reply->n_calls) return TD_OK;
    for (size_t i = 0; i < reply->n_blocks; i++) /* a call that was cut off cannot come back */
        if (reply->blocks[i].kind == TD_CHAT_BLOCK_CALL && !reply->blocks[i].complete) return TD_OK;
    td_arena *a = td_arena_create(r->max_bytes);
    entry *e = a ? td_arena_alloc(a, 1, sizeof *e) : NULL;
    uint32_t *t = e ? td_arena_alloc(a, n_tokens + 1, sizeof *t) : NULL;
    if (!t) goto fail;
    e->a = a;
    e->n_calls = reply->n_calls;
    if (n_tokens) memcpy(t, tokens, n_tokens * sizeof *t);
    e->tokens = t;
    e->n_tokens = n_tokens;
    e->has_thought = contains(text, n_text, td_chat_mark_text(TD_MARK_CHANNEL));
    if (!copy(a, &e->text, text, n_text) || !fill(e, reply, ids)) goto fail;
    e->n_bytes = 2 * td_arena_used(a) + MIN_ENTRY;
    pthread_mutex_lock(&r->lock);
    e->next = r->first;
    r->first = e;
    r->n_bytes += e->n_bytes;
    if (r->n_bytes > r->max_bytes) shrink(r);
    pthread_mutex_unlock(&r->lock);
    return TD_OK;
fail:
    td_arena_destroy(a);
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for remembering an answer");
}

/* The text of a message whose content is text, without the blanks that clients cut off; false for anything else. */
static bool same_content(const entry *e, const td_chat_message *m) {
    td_slice text = {"", 0};
    if (m->content_kind == TD_CHAT_STRING) text = m->text;
    if (m->content_kind == TD_CHAT_PARTS) {
        if (m->n_parts > 1 || (m->n_parts == 1 && m->parts[0].kind != TD_CHAT_TEXT)) return false;
        if (m->n_parts) text = m->parts[0].text;
    }
    return m->content_kind != TD_CHAT_VALUE && equal(chat_trim(text), chat_trim(e->content));
}

static bool matches(const entry *e, const td_chat_message *m) {
    static const td_json empty = {.kind = TD_JSON_OBJECT};
    if (e->n_calls != m->n_calls || !same_content(e, m)) return false;
    for (size_t i = 0; i < e->n_calls; i++) {
        const td_json *args = m->calls[i].arguments ? m->calls[i].arguments : &empty;
        if (!m->calls[i].id.data || !equal(e->ids[i], m->calls[i].id) || !equal(e->names[i], m->calls[i].name) ||
            !td_json_equal(e->arguments[i], args))
            return false;
    }
    return !m->reasoning.n_bytes || equal(chat_trim(m->reasoning), chat_trim(e->reasoning));
}

bool td_chat_replay_find(td_chat_replay *r, const td_chat_message *m, td_tokens *tokens, td_buf *text,
                         bool *has_thought) {
    bool ok = false;
    if (!m->n_calls) return false;
    pthread_mutex_lock(&r->lock);
    for (entry **at = &r->first; *at; at = &(*at)->next) {
        entry *e = *at;
        if (!m->calls[0].id.data || !equal(e->ids[0], m->calls[0].id) || !matches(e, m)) continue;
        ok = td_tokens_reserve(tokens, e->n_tokens) && td_buf_add(text, e->text.data, e->text.n_bytes);
        for (size_t i = 0; ok && i < e->n_tokens; i++) ok = td_tokens_add(tokens, e->tokens[i]);
        *has_thought = e->has_thought;
        *at = e->next; /* to the front */
        e->next = r->first;
        r->first = e;
        break;
    }
    pthread_mutex_unlock(&r->lock);
    return ok;
}

size_t td_chat_replay_bytes(td_chat_replay *r) {
    pthread_mutex_lock(&r->lock);
    size_t n = r->n_bytes;
    pthread_mutex_unlock(&r->lock);
    return n;
}
