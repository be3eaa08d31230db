#include "store.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/status.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 256
#define MAX_BYTES   ((size_t)64 << 20)
#define MAX_AGE_NS  ((int64_t)3600 * 1000000000)

typedef struct entry {
    char id[64];
    const char *owner; /* NULL: none */
    td_buf items, object;
    int64_t t_ns;
    struct entry *next;
} entry;

struct store {
    pthread_mutex_t lock;
    entry *first; /* newest first */
};

td_status store_create(store **out, td_error *err) {
    *out = td_calloc(1, sizeof **out);
    if (!*out) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for responses");
    pthread_mutex_init(&(*out)->lock, NULL);
    return TD_OK;
}

static void free_entry(entry *e) {
    if (!e) return;
    td_buf_free(&e->items);
    td_buf_free(&e->object);
    free(e);
}

void store_destroy(store *s) {
    if (!s) return;
    for (entry *e = s->first, *next; e; e = next) {
        next = e->next;
        free_entry(e);
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static size_t size_of(const entry *e) {
    return e->items.n_bytes + e->object.n_bytes + sizeof *e;
}

static void unlink_at(entry **at) {
    entry *e = *at;
    *at = e->next;
    free_entry(e);
}

/* From the newest on, what fits beside those that are newer stays. */
static void trim(store *s) {
    int n = 0;
    size_t n_bytes = 0;
    int64_t now = td_clock_ns();
    for (entry **at = &s->first; *at;) {
        size_t size = size_of(*at);
        if (n == MAX_ENTRIES || size > MAX_BYTES - n_bytes || now - (*at)->t_ns > MAX_AGE_NS) {
            unlink_at(at);
            continue;
        }
        n++;
        n_bytes += size;
        at = &(*at)->next;
    }
}

/* The entry that `owner` may see. */
static entry **find(store *s, const char *owner, td_slice id) {
    entry **at = &s->first;
    for (; *at; at = &(*at)->next) {
        const entry *e = *at;
        if (e->owner == owner && strlen(e->id) == id.n_bytes && memcmp(e->id, id.data, id.n_bytes) == 0) break;
    }
    return at;
}

/* Items of an array, without its brackets, behind what is there. */
static bool add_items(td_buf *to, const char *items, size_t n_bytes) {
    if (n_bytes == 0) return true;
    return (to->n_bytes == 0 || td_buf_add_char(to, ',')) && td_buf_add(to, items, n_bytes);
}

static bool add_input(td_buf *to, const td_json *input) {
    if (td_json_is(input, TD_JSON_ARRAY)) {
        for (const td_json *v = input->first; v; v = v->next)
            if (!add_items(to, v->raw.data, v->raw.n_bytes)) return false;
        return true;
    }
    if (!td_json_is(input, TD_JSON_STRING)) return true;
    return (to->n_bytes == 0 || td_buf_add_char(to, ',')) && td_buf_add_str(to, "{\"role\":\"user\",\"content\":") &&
           td_json_write_string(to, input->text.data, input->text.n_bytes) && td_buf_add_char(to, '}');
}

td_status store_put(store *s, const char *owner, const char *id, const msg_request *r, const msg_writer *w,
                    td_error *err) {
    entry *e = td_calloc(1, sizeof *e);
    if (!e) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a response");
    snprintf(e->id, sizeof e->id, "%s", id);
    e->owner = owner;
    e->t_ns = td_clock_ns();
    bool ok = add_input(&e->items, r->previous) && add_input(&e->items, td_json_get(r->body, "input")) &&
              add_items(&e->items, w->items.data, w->items.n_bytes) &&
              td_buf_add(&e->object, w->object.data, w->object.n_bytes);
    if (!ok) {
        free_entry(e);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a response");
    }
    pthread_mutex_lock(&s->lock);
    e->next = s->first;
    s->first = e;
    trim(s);
    pthread_mutex_unlock(&s->lock);
    return TD_OK;
}

td_status store_items(store *s, const char *owner, td_slice id, td_arena *a, const td_json **items, td_error *err) {
    td_buf text = {0};
    bool ok = td_buf_add_char(&text, '[');
    pthread_mutex_lock(&s->lock);
    trim(s);
    const entry *e = *find(s, owner, id);
    if (e) ok = ok && td_buf_add(&text, e->items.data ? e->items.data : "", e->items.n_bytes);
    pthread_mutex_unlock(&s->lock);
    ok = ok && td_buf_add_char(&text, ']');
    char *copy = ok && e ? td_arena_strndup(a, text.data, text.n_bytes) : NULL;
    size_t n = text.n_bytes;
    td_buf_free(&text);
    if (!e)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Previous response with id '%.*s' not found.",
                       id.n_bytes < 64 ? (int)id.n_bytes : 64, id.data);
    if (!copy) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a response");
    return td_json_parse(items, a, copy, n, TD_JSON_LAST_WINS, err);
}

td_status store_object(store *s, const char *owner, td_slice id, td_buf *out, td_error *err) {
    pthread_mutex_lock(&s->lock);
    trim(s);
    const entry *e = *find(s, owner, id);
    bool found = e != NULL, ok = found && td_buf_add(out, e->object.data, e->object.n_bytes);
    pthread_mutex_unlock(&s->lock);
    if (!found)
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "Response with id '%.*s' not found.",
                       id.n_bytes < 64 ? (int)id.n_bytes : 64, id.data);
    return ok ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a response");
}

bool store_remove(store *s, const char *owner, td_slice id) {
    pthread_mutex_lock(&s->lock);
    entry **at = find(s, owner, id);
    bool found = *at != NULL;
    if (found) unlink_at(at);
    pthread_mutex_unlock(&s->lock);
    return found;
}
