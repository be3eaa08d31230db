/* Drafts made beside the engine's thread.
 *
 * A request is one chain of the assistant for any number of slots: those that generate (draft.c) and those for which a
 * driver with a loop of its own called td_draft_submit. The engine begins it when a round's tokens are known, delivers
 * and wakes callers meanwhile, and drains it before the next batch. The drafting thread reads the cache, the slots'
 * tokens and hidden rows and writes their drafts; so from begin to drain nothing may remove or move cells, start or
 * release a slot: each of these drains first (tests/engine/test_overlap.c, under ThreadSanitizer too).
 *
 * Handing over costs some 70 microseconds (two wake-ups, and the hidden rows in another core's cache), and the chain
 * runs on the engine's team of threads, so that a delivery beside it needs a processor more. It is therefore done where
 * a processor is left and waking the callers has taken longer than HANDOVER_NS: callbacks that print or write JSON.
 * LLAMA_PIPELINE_DEPTH2=0 turns it off, any other value on in any case. */
#define _GNU_SOURCE
#include "engine.h"

#include "../base/status.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define HANDOVER_NS 100000.0

/* ---- the drafting thread ---- */

static void *drafting_thread(void *arg) {
    td_engine *e = arg;
    td_async *a = &e->async;
    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        if (!a->posted) {
            pthread_cond_wait(&a->changed, &a->lock);
            continue;
        }
        pthread_mutex_unlock(&a->lock);
        td_draft_chain(e, &a->request);
        pthread_mutex_lock(&a->lock);
        a->posted = false;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

static bool processor_left(const td_engine *e) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > td_pool_size(e->pool);
}

bool td_async_helps(const td_engine *e) {
    const td_async *a = &e->async;
    return a->thread_started && (a->always || a->deliver_ns > HANDOVER_NS);
}

td_status td_async_open(td_engine *e, td_error *err) {
    td_async *a = &e->async;
    const char *set = getenv("LLAMA_PIPELINE_DEPTH2");
    a->always = set && *set && strcmp(set, "0") != 0;
    if (!e->drafter || (set && strcmp(set, "0") == 0) || !(a->always || processor_left(e))) return TD_OK;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    if (pthread_create(&a->thread, NULL, drafting_thread, e)) {
        pthread_mutex_destroy(&a->lock);
        pthread_cond_destroy(&a->changed);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "the drafting thread cannot be started");
    }
    a->thread_started = true;
    return TD_OK;
}

void td_async_close(td_engine *e) {
    td_async *a = &e->async;
    if (!a->thread_started) return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    pthread_join(a->thread, NULL);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    a->thread_started = false;
}

/* ---- one request ---- */

static void add_submitted(td_engine *e, td_draft_request *r) {
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->async != TD_ASYNC_PENDING) continue;
        s->async = TD_ASYNC_RUNNING;
        r->slots[r->n] = s;
        r->depth[r->n++] = s->async_steps;
    }
}

void td_async_begin(td_engine *e, bool beside) {
    td_async *a = &e->async;
    add_submitted(e, &a->request);
    if (a->request.n == 0) return;
    a->in_flight = true;
    if (!a->thread_started || !beside) {
        td_draft_chain(e, &a->request);
        return;
    }
    pthread_mutex_lock(&a->lock);
    a->posted = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void td_async_drain(td_engine *e) {
    td_async *a = &e->async;
    if (!a->in_flight) return;
    if (a->thread_started) {
        pthread_mutex_lock(&a->lock);
        while (a->posted) pthread_cond_wait(&a->changed, &a->lock);
        pthread_mutex_unlock(&a->lock);
    }
    a->in_flight = false;
    td_draft_settle(e, &a->request);
    for (int i = 0; i < a->request.n; i++) {
        td_slot *s = a->request.slots[i];
        if (s->async != TD_ASYNC_RUNNING) continue;
        s->async = TD_ASYNC_DONE;
        s->async_error = a->request.error;
    }
    a->request.n = 0;
}

/* ---- drivers with a loop of their own ---- */

void td_async_serve(td_engine *e) {
    bool pending = false;
    for (int i = 0; i < e->params.n_slots; i++) pending |= e->slots[i].async == TD_ASYNC_PENDING;
    if (!pending) return;
    td_async_drain(e);
    td_async_begin(e, true);
}

typedef struct async_call {
    int slot, n_steps;
    uint32_t last;
    uint32_t *drafts;
    int cap, *n;
} async_call;

/* Runs on the engine's thread: the request is noted; it goes with the next one that begins. */
static td_status run_submit(td_engine *e, void *arg, td_error *err) {
    const async_call *c = arg;
    td_slot *s = NULL;
    td_status status = td_slot_find(e, c->slot, &s, err);
    if (status) return status;
    if (!e->drafter) return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "no assistant is attached");
    if (s->job || s->async != TD_ASYNC_NONE)
        return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "slot %d %s", c->slot,
                       s->job ? "runs a job" : "has a draft that was not waited for");
    if (c->n_steps < 1 || c->n_steps > TD_MAX_DRAFT)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a draft has 1 to %d steps, not %d", TD_MAX_DRAFT,
                       c->n_steps);
    if (c->last >= (uint32_t)e->info.n_vocab)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "token %u is outside the vocabulary", c->last);
    if (s->n_tokens == 0 || !s->has_h)
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "slot %d holds no tokens with a hidden state to draft from",
                       c->slot);
    s->async = TD_ASYNC_PENDING;
    s->async_steps = c->n_steps;
    s->last = c->last;
    return TD_OK;
}

td_status td_draft_submit(td_engine *e, int slot, uint32_t last, int n_steps, td_error *err) {
    async_call c = {.slot = slot, .last = last, .n_steps = n_steps};
    return td_engine_command(e, run_submit, &c, err);
}

static td_status run_wait(td_engine *e, void *arg, td_error *err) {
    async_call *c = arg;
    td_slot *s = NULL;
    td_status status = td_slot_find(e, c->slot, &s, err);
    if (status) return status;
    if (s->async == TD_ASYNC_NONE)
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "nothing is in flight on slot %d", c->slot);
    td_async_serve(e); /* a request in flight may have begun before this slot asked */
    td_async_drain(e);
    s->async = TD_ASYNC_NONE;
    if (s->async_error.code) {
        *err = s->async_error;
        return err->code;
    }
    *c->n = s->draft.n;
    if (s->draft.n > c->cap)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%d drafts, there is room for %d", s->draft.n, c->cap);
    memcpy(c->drafts, s->draft.tokens, (size_t)s->draft.n * sizeof *c->drafts);
    return TD_OK;
}

td_status td_draft_wait(td_engine *e, int slot, uint32_t *drafts, int cap, int *n, td_error *err) {
    async_call c = {.slot = slot, .drafts = drafts, .cap = cap, .n = n};
    *n = 0;
    return td_engine_command(e, run_wait, &c, err);
}

static td_status run_cancel(td_engine *e, void *arg, td_error *err) {
    const async_call *c = arg;
    td_slot *s = NULL;
    td_status status = td_slot_find(e, c->slot, &s, err);
    if (status) return status;
    td_async_drain(e);
    s->async = TD_ASYNC_NONE;
    return TD_OK;
}

void td_draft_cancel(td_engine *e, int slot) {
    async_call c = {.slot = slot};
    (void)td_engine_command(e, run_cancel, &c, NULL);
}
