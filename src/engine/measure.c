/* Measurements on a loaded engine: the forward passes alone, without tokenising, sampling or delivery, so that a figure
 * can be set against the machine's limits. Runs between two steps on the engine's thread. */
#include "engine.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/status.h"
#include "../kernels/peak.h"

#include <stdlib.h>
#include <string.h>

typedef struct call {
    const td_measure *what;
    td_measured *out;
    uint64_t rng;
} call;

static int32_t random_token(const td_engine *e, call *c) {
    c->rng ^= c->rng << 13;
    c->rng ^= c->rng >> 7;
    c->rng ^= c->rng << 17;
    return (int32_t)((c->rng >> 20) % (uint64_t)e->info.n_vocab);
}

static td_status forward(td_engine *e, call *c, int slot, int n, unsigned flags, bool all, td_error *err) {
    int pos = (int)td_kv_n_pos(e->kv, (uint32_t)slot);
    for (int i = 0; i < n; i++)
        e->rows[i] =
            (td_row){.token = random_token(e, c), .pos = pos + i, .slot = slot, .flags = all || i == n - 1 ? flags : 0};
    td_step step = {.rows = e->rows, .n_rows = n};
    return td_target_forward(e->model, e->kv, &step, e->work, e->pool, err);
}

static td_status prefill(td_engine *e, call *c, int slot, int n, td_error *err) {
    td_status status = TD_OK;
    for (int done = 0; done < n && !status;) {
        int take = n - done < e->params.n_batch ? n - done : e->params.n_batch;
        unsigned flags = done + take == n ? TD_ROW_ARGMAX | (e->drafter ? TD_ROW_HIDDEN : 0u) : 0u;
        status = forward(e, c, slot, take, flags, false, err);
        done += take;
    }
    return status;
}

/* One token on each slot. */
static td_status decode_step(td_engine *e, call *c, int n_slots, td_error *err) {
    for (int i = 0; i < n_slots; i++)
        e->rows[i] = (td_row){.token = random_token(e, c),
                              .pos = (int)td_kv_n_pos(e->kv, (uint32_t)i),
                              .slot = i,
                              .flags = TD_ROW_ARGMAX};
    td_step step = {.rows = e->rows, .n_rows = n_slots};
    return td_target_forward(e->model, e->kv, &step, e->work, e->pool, err);
}

static td_status draft_chain(td_engine *e, call *c, int n_slots, td_error *err) {
    td_draft_request r = {.n = n_slots};
    for (int i = 0; i < n_slots; i++) {
        td_slot *s = &e->slots[i];
        s->n_tokens = (int)td_kv_n_pos(e->kv, (uint32_t)i);
        s->last = (uint32_t)random_token(e, c);
        s->has_h = true; /* any vector costs the same */
        r.slots[i] = s;
        r.depth[i] = c->what->n;
    }
    td_draft_chain(e, &r);
    if (r.status) *err = r.error;
    return r.status;
}

static td_status once(td_engine *e, call *c, int n_slots, td_error *err) {
    const td_measure *m = c->what;
    td_status status = TD_OK;
    switch (m->kind) {
    case TD_MEASURE_PREFILL:
        return prefill(e, c, 0, m->n, err);
    case TD_MEASURE_DECODE:
        for (int i = 0; i < m->n && !status; i++) status = decode_step(e, c, n_slots, err);
        return status;
    case TD_MEASURE_VERIFY:
        return forward(e, c, 0, m->n, TD_ROW_ARGMAX, true, err);
    case TD_MEASURE_DRAFT:
        return draft_chain(e, c, n_slots, err);
    }
    return TD_OK;
}

static td_status check(const td_engine *e, const td_measure *m, int n_slots, td_error *err) {
    if (m->n < 1 || m->depth < 0 || m->n_reps < 1 || m->n_warmup < 0 || n_slots > e->params.n_slots)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "a measurement needs n >= 1, depth >= 0, repetitions >= 1 and at most %d slots",
                       e->params.n_slots);
    if ((int64_t)m->depth + m->n > e->info.n_ctx)
        return td_fail(err, TD_ERR_CONTEXT, TD_NO_OFFSET, "depth %d and %d tokens do not fit a context of %d", m->depth,
                       m->n, e->info.n_ctx);
    if (m->kind == TD_MEASURE_VERIFY && m->n > e->max_rows)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "at most %d rows in one step", e->max_rows);
    if (m->kind == TD_MEASURE_DRAFT && !e->drafter)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "there is no assistant to measure (-md FILE)");
    if (m->kind == TD_MEASURE_DRAFT && (m->n > TD_MAX_DRAFT || m->depth < 1))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "a draft chain has 1..%d steps and needs a depth of at least 1", TD_MAX_DRAFT);
    for (int i = 0; i < n_slots; i++)
        if (e->slots[i].job) return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "slot %d is busy", i);
    return TD_OK;
}

static td_status run_measure(td_engine *e, void *arg, td_error *err) {
    call *c = arg;
    const td_measure *m = c->what;
    int n_slots = m->n_slots > 0 ? m->n_slots : 1;
    td_status status = check(e, m, n_slots, err);
    td_async_drain(e);
    for (int i = 0; i < n_slots && !status; i++) {
        td_slot_forget(e, &e->slots[i]);
        if (m->depth > 0) status = prefill(e, c, i, m->depth, err);
        td_kv_checkpoint(e->kv, (uint32_t)i);
    }
    for (int rep = -m->n_warmup; rep < m->n_reps && !status; rep++) {
        if (m->before) m->before(m->user, rep);
        uint64_t barriers = td_pool_barriers(e->pool);
        if (m->stages) td_workspace_time(e->work, true);
        int64_t t = td_clock_ns();
        status = once(e, c, n_slots, err);
        t = td_clock_ns() - t;
        c->out->barriers = td_pool_barriers(e->pool) - barriers;
        if (rep >= 0 && rep < 64) c->out->ns[rep] = t;
        for (int i = 0; i < n_slots && !status; i++) {
            if (m->depth == 0)
                td_kv_clear(e->kv, (uint32_t)i);
            else if (td_kv_truncate(e->kv, (uint32_t)i, (uint32_t)m->depth) != (uint32_t)m->depth)
                status =
                    td_fail(err, TD_ERR_INTERNAL, TD_NO_OFFSET, "the cache could not go back to position %d", m->depth);
        }
    }
    if (m->stages) {
        td_stage_time times[TD_MODEL_STAGES];
        int n = td_workspace_stages(e->work, times);
        c->out->n_stages = n < 16 ? n : 16;
        for (int i = 0; i < c->out->n_stages; i++)
            c->out->stages[i] = (td_stage){times[i].name, times[i].t_ns, times[i].n_bytes};
        td_workspace_time(e->work, false);
    }
    for (int i = 0; i < n_slots; i++) td_slot_forget(e, &e->slots[i]);
    td_model_memory use = td_model_memory_use(e->model);
    c->out->step_bytes = use.step_bytes;
    c->out->token_macs = use.token_macs;
    c->out->result_macs = use.result_macs;
    return status;
}

td_status td_engine_measure(td_engine *e, const td_measure *what, td_measured *out, td_error *err) {
    memset(out, 0, sizeof *out);
    call c = {.what = what, .out = out, .rng = what->seed * 2654435761u + 88172645463325252u};
    return td_engine_command(e, run_measure, &c, err);
}

/* ---- scoring ---- */

typedef struct score {
    const uint32_t *tokens;
    int n, first;
    td_score_fn fn;
    void *user;
} score;

static td_status run_score(td_engine *e, void *arg, td_error *err) {
    const score *c = arg;
    td_slot *s = &e->slots[0];
    if (s->job) return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "slot 0 is busy");
    if (c->n > e->info.n_ctx)
        return td_fail(err, TD_ERR_CONTEXT, TD_NO_OFFSET, "%d tokens do not fit a context of %d", c->n, e->info.n_ctx);
    td_slot_forget(e, s);
    td_status status = TD_OK;
    for (int at = 0; at < c->n && !status;) {
        int most = at >= c->first ? e->max_out : c->first - at,
            take = c->n - at < e->params.n_batch ? c->n - at : e->params.n_batch;
        if (take > most) take = most;
        for (int i = 0; i < take; i++)
            e->rows[i] = (td_row){.token = (int32_t)c->tokens[at + i],
                                  .pos = at + i,
                                  .slot = 0,
                                  .flags = at + i >= c->first ? TD_ROW_LOGITS : 0};
        td_step step = {.rows = e->rows, .n_rows = take};
        status = td_target_forward(e->model, e->kv, &step, e->work, e->pool, err);
        for (int i = 0; i < take && !status; i++)
            if (at + i >= c->first && !c->fn(c->user, at + i, td_workspace_logits(e->work, i)))
                status = td_fail(err, TD_ERR_CANCELLED, TD_NO_OFFSET, "stopped");
        at += take;
    }
    td_slot_forget(e, s);
    return status;
}

td_status td_engine_score(td_engine *e, const uint32_t *tokens, int n, int first, td_score_fn fn, void *user,
                          td_error *err) {
    for (int i = 0; i < n; i++)
        if (tokens[i] >= (uint32_t)e->info.n_vocab)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "token %u at index %d is outside the vocabulary",
                           tokens[i], i);
    score c = {.tokens = tokens, .n = n, .first = first, .fn = fn, .user = user};
    return td_engine_command(e, run_score, &c, err);
}

bool td_engine_importance(const td_engine *e, int i, td_importance *out) {
    return td_workspace_importance(e->work, i, out);
}

/* ---- the machine ---- */

#define READ_BYTES ((size_t)512 << 20) /* far beyond any last-level cache */

typedef struct limits {
    td_pool *pool;
    const uint64_t *data;
    double read_bytes, int8_macs;
    uint64_t sink[64];
    _Atomic uint64_t macs;
} limits;

static void read_all(void *arg, int ith, int nth) {
    limits *l = arg;
    size_t n = READ_BYTES / sizeof *l->data, begin = n * (size_t)ith / (size_t)nth,
           end = n * (size_t)(ith + 1) / (size_t)nth;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = begin; i + 8 <= end; i += 8) { /* one cache line a turn; the compiler makes it wide */
        a ^= l->data[i] ^ l->data[i + 4];
        b ^= l->data[i + 1] ^ l->data[i + 5];
        c ^= l->data[i + 2] ^ l->data[i + 6];
        d ^= l->data[i + 3] ^ l->data[i + 7];
    }
    l->sink[ith & 63] += a ^ b ^ c ^ d;
}

static void multiply(void *arg, int ith, int nth) {
    (void)nth;
    limits *l = arg;
    atomic_fetch_add(&l->macs, td_peak_int8(1 << 20, &l->sink[ith & 63]));
}

static td_status run_limits(td_engine *e, void *arg, td_error *err) {
    limits *l = arg;
    uint64_t *data = td_alloc_aligned(READ_BYTES, 64);
    if (!data) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory to measure bandwidth");
    memset(data, 1, READ_BYTES);
    l->data = data;
    for (int rep = 0; rep < 8; rep++) {
        int64_t t = td_clock_ns();
        td_pool_run(e->pool, read_all, l);
        double rate = (double)READ_BYTES * 1e9 / (double)(td_clock_ns() - t);
        if (rate > l->read_bytes) l->read_bytes = rate;
        t = td_clock_ns();
        td_pool_run(e->pool, multiply, l);
        double macs = (double)atomic_exchange(&l->macs, 0) * 1e9 / (double)(td_clock_ns() - t);
        if (macs > l->int8_macs) l->int8_macs = macs;
    }
    td_free_aligned(data, READ_BYTES);
    return TD_OK;
}

void td_engine_limits(td_engine *e, double *read_bytes, double *int8_macs) {
    limits l = {.pool = e->pool};
    (void)td_engine_command(e, run_limits, &l, NULL);
    *read_bytes = l.read_bytes;
    *int8_macs = l.int8_macs;
}
