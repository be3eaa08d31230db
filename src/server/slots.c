/* /slots: what every slot does, and saving, restoring, erasing them. Such an action waits until its slot is idle; it
 * waits in a thread of its own, the clerk, so that it holds neither a thread of HTTP nor another action. */
#include "app.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- what /slots shows ---- */

static void add_note(server *s, json_t *o, int slot) {
    pthread_mutex_lock(&s->tasks_lock);
    const slot_note *n = &s->notes[slot];
    json_t *params = n->params ? json_loads(n->params, 0, NULL) : NULL;
    if (params) json_object_set_new(o, "params", params);
    if (s->show_prompts) {
        json_object_set_new(o, "prompt", json_stringn(n->prompt.data ? n->prompt.data : "", n->prompt.n_bytes));
        json_object_set_new(o, "generated",
                            json_stringn(n->generated.data ? n->generated.data : "", n->generated.n_bytes));
    }
    pthread_mutex_unlock(&s->tasks_lock);
}

static json_t *slot_json(server *s, const td_slot_info *k) {
    bool busy = k->job >= 0;
    json_t *o = json_pack("{s:i,s:i,s:b,s:b,s:s,s:i,s:i}", "id", k->id, "n_ctx", k->n_ctx, "speculative",
                          s->info.draft_path != NULL || k->speculative, "is_processing", busy, "state",
                          !busy             ? "idle"
                          : k->prompt_phase ? "prompt"
                                            : "generate",
                          "n_cached_tokens", k->n_tokens, "checkpoints", k->n_checkpoints);
    if (k->last_job < 0) return o;
    json_object_set_new(o, "id_task", json_integer(k->last_job));
    json_object_set_new(o, "n_prompt_tokens", json_integer(k->n_prompt));
    json_object_set_new(o, "n_prompt_tokens_processed", json_integer(k->n_prompt_done - k->n_prompt_cached));
    json_object_set_new(o, "n_prompt_tokens_cache", json_integer(k->n_prompt_cached));
    json_object_set_new(o, "next_token",
                        json_pack("[{s:b,s:b,s:i,s:i}]", "has_next_token", busy, "has_new_line", k->has_new_line,
                                  "n_remain", k->n_remain, "n_decoded", k->n_decoded));
    json_object_set_new(o, "draft_n", json_integer(k->draft_n));
    json_object_set_new(o, "draft_n_accepted", json_integer(k->draft_n_accepted));
    json_object_set_new(o, "depth", json_integer(k->depth));
    add_note(s, o, k->id);
    return o;
}

http_turn serve_slots(server *s, http_exchange *x) {
    if (!s->o->slots)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support slots endpoint. Start it with `--slots`");
    td_slot_info *info = td_calloc((size_t)s->info.n_slots, sizeof *info);
    json_t *list = json_array();
    int n = info ? td_slots_get(s->engine, info, s->info.n_slots) : 0, idle = 0;
    for (int i = 0; i < n; i++) {
        idle += info[i].job < 0;
        json_array_append_new(list, slot_json(s, &info[i]));
    }
    free(info);
    const char *fail = http_query(x, "fail_on_no_slot");
    if (fail && strcmp(fail, "0") != 0 && idle == 0) {
        json_decref(list);
        return answer_error(x, MSG_CHAT, 503, NULL, NULL, "no slot available");
    }
    return answer_json(x, 200, list);
}

void slot_note_start(task *t, choice *c) {
    server *s = t->s;
    c->noted = true;
    if (!s->o->slots || c->slot >= s->info.n_slots) return;
    json_t *o = fields_settings(s, &t->f);
    char *text = json_dumps(o, JSON_FLAGS);
    json_decref(o);
    td_buf prompt = {0};
    if (s->show_prompts) (void)td_vocab_detokenize(s->vocab, c->prompt->ids, c->prompt->n, true, &prompt, NULL);
    pthread_mutex_lock(&s->tasks_lock);
    slot_note *n = &s->notes[c->slot];
    free(n->params);
    td_buf_free(&n->prompt);
    td_buf_clear(&n->generated);
    n->params = text;
    n->prompt = prompt;
    pthread_mutex_unlock(&s->tasks_lock);
}

void slot_note_text(task *t, choice *c, const td_event *ev) {
    server *s = t->s;
    if (!s->show_prompts || !s->o->slots || c->slot < 0 || c->slot >= s->info.n_slots) return;
    pthread_mutex_lock(&s->tasks_lock);
    (void)td_buf_add(&s->notes[c->slot].generated, ev->text, ev->n_text);
    pthread_mutex_unlock(&s->tasks_lock);
}

/* ---- actions ---- */

typedef enum action_kind { ACTION_SAVE, ACTION_RESTORE, ACTION_ERASE } action_kind;

struct slot_action {
    work_kind kind; /* first: what the exchange's task is */
    server *s;
    http_exchange *x; /* NULL once the client is gone; under the server's tasks_lock, as all below */
    action_kind what;
    int slot;
    const char *key; /* the server's own copy, see key_of */
    char name[256], path[4096];
    bool done;
    td_status status;
    td_error err;
    int n_tokens;
    uint64_t n_bytes;
    int64_t t_ns;
    struct slot_action *next;
};

/* Only plain names: no path comes from a client. */
static bool plain_name(td_slice s) {
    if (s.n_bytes == 0 || s.n_bytes > 200 || s.data[0] == '.') return false;
    for (size_t i = 0; i < s.n_bytes; i++) {
        char c = s.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
              c == '.'))
            return false;
    }
    return true;
}

static td_status perform(slot_action *a, td_error *err) {
    td_engine *e = a->s->engine;
    switch (a->what) {
    case ACTION_SAVE:
        return td_slot_save(e, a->slot, a->path, &a->n_tokens, &a->n_bytes, err);
    case ACTION_RESTORE:
        return td_slot_restore(e, a->slot, a->path, a->key, &a->n_tokens, &a->n_bytes, err);
    default:
        return td_slot_erase(e, a->slot, &a->n_tokens, err);
    }
}

static void remove_action(server *s, slot_action *a) {
    slot_action **at = &s->actions;
    while (*at && *at != a) at = &(*at)->next;
    if (*at) *at = a->next;
}

/* One action under way, without the lock; a busy slot leaves it where it is. */
static void try_action(server *s, slot_action *a) {
    td_error err = {0};
    int64_t t0 = td_clock_ns();
    pthread_mutex_unlock(&s->tasks_lock);
    td_status status = perform(a, &err);
    pthread_mutex_lock(&s->tasks_lock);
    if (status == TD_ERR_BUSY && a->x && !s->clerk_stop) return;
    a->status = status;
    a->err = err;
    a->t_ns = td_clock_ns() - t0;
    a->done = true;
    remove_action(s, a);
    if (a->x)
        http_wake(a->x);
    else
        free(a);
}

void *slot_clerk(void *server_) {
    server *s = server_;
    pthread_mutex_lock(&s->tasks_lock);
    while (!s->clerk_stop || s->actions) {
        if (!s->actions) {
            pthread_cond_wait(&s->acting, &s->tasks_lock);
            continue;
        }
        for (slot_action *a = s->actions, *next; a; a = next) {
            next = a->next; /* only the clerk removes */
            try_action(s, a);
            if (!s->actions) break;
        }
        if (!s->actions) continue;
        struct timespec nap = {0, 10 * 1000000};
        pthread_mutex_unlock(&s->tasks_lock);
        nanosleep(&nap, NULL);
        pthread_mutex_lock(&s->tasks_lock);
    }
    pthread_mutex_unlock(&s->tasks_lock);
    return NULL;
}

void slot_action_end(slot_action *a) {
    server *s = a->s;
    pthread_mutex_lock(&s->tasks_lock);
    a->x = NULL;
    bool mine = a->done; /* else the clerk frees it */
    pthread_mutex_unlock(&s->tasks_lock);
    if (mine) free(a);
}

http_turn slot_action_turn(http_exchange *x, slot_action *a) {
    static const char *const n_names[] = {"n_saved", "n_restored"}, *const b_names[] = {"n_written", "n_read"},
                             *const t_names[] = {"save_ms", "restore_ms"};
    pthread_mutex_lock(&a->s->tasks_lock);
    bool done = a->done;
    pthread_mutex_unlock(&a->s->tasks_lock);
    if (!done) return HTTP_WAIT;
    /* As llama-server: what is wrong with a file is the request's fault, so not td_status_http. */
    if (a->status)
        return answer_error(x, MSG_CHAT, a->status == TD_ERR_BUSY ? 503 : 400, NULL, NULL, "%s", a->err.text);
    if (a->what == ACTION_ERASE)
        return answer_json(x, 200, json_pack("{s:i,s:i}", "id_slot", a->slot, "n_erased", a->n_tokens));
    return answer_json(x, 200,
                       json_pack("{s:i,s:s,s:i,s:I,s:{s:f}}", "id_slot", a->slot, "filename", a->name, n_names[a->what],
                                 a->n_tokens, b_names[a->what], (json_int_t)a->n_bytes, "timings", t_names[a->what],
                                 (double)a->t_ns * 1e-6));
}

/* False: *turn is the answer. */
static bool read_name(slot_action *a, http_exchange *x, http_turn *turn) {
    own_body b;
    if (!own_body_read(&b, x, MSG_CHAT)) {
        *turn = b.turn;
        return false;
    }
    const td_json *name = td_json_get(b.json, "filename");
    bool fine = td_json_is(name, TD_JSON_STRING) && plain_name(name->text);
    if (fine) {
        snprintf(a->name, sizeof a->name, "%.*s", (int)name->text.n_bytes, name->text.data);
        int n = snprintf(a->path, sizeof a->path, "%s/%s", a->s->o->slot_save_path, a->name);
        fine = n > 0 && (size_t)n < sizeof a->path;
    }
    if (!fine) *turn = answer_error(x, MSG_CHAT, 400, "filename", NULL, "Invalid filename");
    td_arena_destroy(b.arena);
    return fine;
}

http_turn serve_slot_action(server *s, http_exchange *x, const char *rest) {
    static const char *const words[] = {"save", "restore", "erase"};
    char *end = NULL;
    long id = strtol(rest, &end, 10);
    const char *word = http_query(x, "action");
    int what = 0;
    if (!s->o->slot_save_path)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support slots action. Start it with `--slot-save-path`");
    if (end == rest || *end || id < 0 || id >= s->info.n_slots)
        return answer_error(x, MSG_CHAT, 400, NULL, NULL, "Invalid slot ID");
    while (what < 3 && (!word || strcmp(word, words[what]) != 0)) what++;
    if (what == 3) return answer_error(x, MSG_CHAT, 400, NULL, NULL, "Invalid action");
    slot_action *a = td_calloc(1, sizeof *a);
    if (!a) return answer_error(x, MSG_CHAT, 500, NULL, NULL, "no memory");
    *a = (slot_action){
        .kind = WORK_SLOT_ACTION, .s = s, .x = x, .key = key_of(s, x), .what = (action_kind)what, .slot = (int)id};
    http_turn turn = HTTP_WAIT;
    if (what != ACTION_ERASE && !read_name(a, x, &turn)) {
        free(a);
        return turn;
    }
    http_set_task(x, a);
    pthread_mutex_lock(&s->tasks_lock);
    slot_action **at = &s->actions;
    while (*at) at = &(*at)->next;
    *at = a;
    pthread_cond_signal(&s->acting);
    pthread_mutex_unlock(&s->tasks_lock);
    return HTTP_WAIT;
}
