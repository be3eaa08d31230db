/* Asynchronous drafts for drivers that bring their own loop: one request in flight per slot.
 *
 * Submit copies what the draft needs (the last token; the position and the hidden row are the slot's) and returns; the
 * engine's thread runs it between two steps, wait takes the result. A slot with a request in flight is not given to a
 * job, and what removes or moves its cells is a command too, so it runs before or after the draft, never in between. */
#include "engine.h"

#include "../base/status.h"

#include <string.h>

typedef struct async_call {
    int slot, n_steps;
    uint32_t last;
    uint32_t *drafts;
    int cap, *n;
} async_call;

static td_status find(td_engine *e, int slot, td_slot **out, td_error *err) {
    if (slot < 0 || slot >= e->params.n_slots)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "slot %d does not exist: there are %d", slot,
                       e->params.n_slots);
    *out = &e->slots[slot];
    return TD_OK;
}

/* Runs on the engine's thread: the request is noted; the draft itself is made by td_async_run, between later steps. */
static td_status run_submit(td_engine *e, void *arg, td_error *err) {
    const async_call *c = arg;
    td_slot *s = NULL;
    td_status status = find(e, c->slot, &s, err);
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

bool td_async_run(td_engine *e) {
    td_slot *slots[TD_MAX_SLOTS];
    int depth[TD_MAX_SLOTS], n = 0;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->async != TD_ASYNC_PENDING) continue;
        depth[n] = s->async_steps;
        slots[n++] = s;
    }
    if (n == 0) return false;
    td_error err = {0};
    td_status status = td_draft_chain(e, slots, depth, n, &err); /* one drafter pass per chain step for all of them */
    for (int i = 0; i < n; i++) {
        slots[i]->async = TD_ASYNC_DONE;
        slots[i]->async_error = err;
        if (status) slots[i]->draft.n = 0;
    }
    return true;
}

static td_status run_wait(td_engine *e, void *arg, td_error *err) {
    async_call *c = arg;
    td_slot *s = NULL;
    td_status status = find(e, c->slot, &s, err);
    if (status) return status;
    if (s->async == TD_ASYNC_NONE)
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "nothing is in flight on slot %d", c->slot);
    if (s->async == TD_ASYNC_PENDING) (void)td_async_run(e);
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
    td_status status = find(e, c->slot, &s, err);
    if (!status) s->async = TD_ASYNC_NONE;
    return status;
}

void td_draft_cancel(td_engine *e, int slot) {
    async_call c = {.slot = slot};
    (void)td_engine_command(e, run_cancel, &c, NULL);
}
