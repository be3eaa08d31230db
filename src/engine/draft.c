/* Drafting: what every generating slot proposes for the next batch. Prepared as soon as a round's tokens are known,
 * made by the assistant then or beside the delivery (async.c), collected when the next batch is put together.
 *
 * Order per slot: tokens forced by its grammar (they cost nothing), a long look-up match, the assistant, a short
 * look-up match. One drafter pass per chain step serves all slots that draft with the assistant; their depths come from
 * the policy. Position is the same in every step of a chain (gemma4-mtp D1). */
#include "engine.h"

#include "../base/clock.h"
#include "../base/log.h"

#include <string.h>

/* Drafts that fit: below the context's end, and never beyond what the job may still emit. A round may not step over
 * the place where plain decoding would shift the context (td_slot_make_room). */
static int budget(const td_engine *e, const td_slot *s) {
    const td_job *j = s->job;
    int n = s->spec.n_max, room = e->info.n_ctx - s->n_tokens - (e->params.context_shift ? 3 : 2);
    if (n > room) n = room;
    room = td_reasoning_room(&j->reasoning);
    if (n > room) n = room;
    int most = j->params.n_predict >= 0 ? j->params.n_predict : e->info.n_ctx_train; /* as in limits(), accept.c */
    if (n > most - s->n_decoded - 1) n = most - s->n_decoded - 1;
    return n < 0 ? 0 : n;
}

/* gemma4-mtp 5.6: after `skip_streak` rounds without an accepted draft, one plain step. */
static bool skip_due(td_slot *s) {
    int limit = s->spec.skip_streak;
    if (limit <= 0) return false;
    int accepted = s->job->now.timings.draft_n_accepted;
    if (s->skipped) {
        s->skipped = false;
    } else if (s->iter > 0) {
        s->skip_streak = accepted == s->streak_accepted ? s->skip_streak + 1 : 0;
    }
    s->streak_accepted = accepted;
    if (s->skip_streak < limit) return false;
    s->skip_streak = 0;
    s->skipped = true;
    return true;
}

static bool forced(td_slot *s, int cap) {
    td_draft_set *d = &s->draft;
    if (!s->job->grammar || cap <= 0) return false;
    d->n = (int)td_grammar_forced(s->job->grammar, d->tokens, (size_t)cap);
    if (d->n == 0) return false;
    for (int i = 0; i < d->n; i++) d->p[i] = 1;
    d->source = TD_DRAFT_GRAMMAR;
    return true;
}

static bool look_up(td_slot *s, int cap, int at_least) {
    td_draft_set *d = &s->draft;
    if (!(s->spec.types & TD_SPEC_NGRAM) || cap <= 0) return false;
    if (cap > s->spec.ngram_m) cap = s->spec.ngram_m;
    s->tokens[s->n_tokens] = s->last; /* room is certain: a slot that generates has n_tokens + 1 < n_ctx */
    int match = 0;
    d->n = td_ngram_draft(s->tokens, s->n_tokens + 1, at_least, d->tokens, cap, &match);
    if (d->n == 0) return false;
    for (int i = 0; i < d->n; i++) d->p[i] = 1;
    d->source = TD_DRAFT_NGRAM;
    return true;
}

static void trace(td_engine *e, const td_slot *s) {
    if (!e->trace) return;
    td_trace_draft t = {.iter = s->iter,
                        .path = s->draft.path,
                        .slot = s->id,
                        .id_last = s->last,
                        .h_idx = s->h_idx,
                        .attn_pos = s->n_tokens - 1,
                        .n_steps = s->draft.n_ask,
                        .h_prev = s->h_prev,
                        .n_h = s->has_h ? e->info.d_model : 0,
                        .drafts = s->draft.tokens,
                        .p = s->draft.p,
                        .n_drafts = s->draft.n};
    td_trace_drafted(e->trace, &t);
}

/* Rejection: the draft is drawn from the assistant's distribution under the job's own truncation. */
static uint32_t draw_draft(td_engine *e, td_slot *s, float *logits, int step) {
    td_draft_set *d = &s->draft;
    int n = td_sampler_draft_distribution(s->job->sampler, &e->scratch, logits, TD_Q_CANDS);
    td_spec_prob *q = e->q + ((size_t)s->id * TD_MAX_DRAFT + (size_t)step) * TD_Q_CANDS;
    for (int i = 0; i < n; i++) q[i] = (td_spec_prob){e->scratch.cands[i].id, e->scratch.cands[i].p};
    d->q[step] = q;
    d->n_q[step] = n;
    return td_sampler_pick(s->job->sampler, e->scratch.cands, n);
}

static bool draws_drafts(const td_engine *e, const td_slot *s) {
    return s->spec.accept == TD_ACCEPT_REJECTION && e->draft_logits && !td_sampler_is_argmax(s->job->sampler) &&
           s->job->params.n_probs == 0;
}

/* The slots of a request that take part in its first pass. */
static int begin_chain(td_draft_request *r, td_slot **active, int *ask, td_draft_row *rows) {
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        td_slot *s = r->slots[i];
        s->draft.n = 0;
        s->draft.t_ns = 0;
        memset(s->draft.q, 0, sizeof s->draft.q);
        if (r->depth[i] <= 0 || !s->has_h) continue;
        active[n] = s;
        ask[n] = r->depth[i];
        rows[n++] = (td_draft_row){.slot = s->id, .token = (int32_t)s->last, .pos = s->n_tokens, .h_prev = s->h_prev};
    }
    return n;
}

void td_draft_chain(td_engine *e, td_draft_request *r) {
    td_draft_row rows[TD_MAX_SLOTS];
    td_draft out[TD_MAX_SLOTS];
    td_slot *active[TD_MAX_SLOTS];
    int ask[TD_MAX_SLOTS], n_active = begin_chain(r, active, ask, rows);
    r->n_steps = 0;
    r->error = (td_error){0};
    r->status = TD_OK;
    for (int step = 0; n_active > 0; step++) {
        for (int i = 0; i < n_active; i++)
            rows[i].logits = active[i]->job && draws_drafts(e, active[i])
                                 ? e->draft_logits + (size_t)i * (size_t)e->info.n_vocab
                                 : NULL;
        int64_t t = td_clock_ns();
        r->status = td_drafter_forward(e->drafter, e->kv, rows, n_active, out, e->work, e->pool, &r->error);
        if (r->status) return;
        t = td_clock_ns() - t;
        r->step_slots[step] = n_active;
        r->step_ns[step] = t;
        r->n_steps = step + 1;
        int kept = 0;
        for (int i = 0; i < n_active; i++) {
            td_slot *s = active[i];
            s->draft.t_ns += t / n_active;
            float p_min = s->job ? s->spec.p_min : 0;
            if (out[i].p < p_min) continue;
            uint32_t token = rows[i].logits ? draw_draft(e, s, rows[i].logits, step) : (uint32_t)out[i].token;
            s->draft.tokens[s->draft.n] = token;
            s->draft.p[s->draft.n++] = out[i].p;
            if (s->draft.n >= ask[i]) continue;
            active[kept] = s;
            ask[kept] = ask[i];
            rows[kept++] =
                (td_draft_row){.slot = s->id, .token = (int32_t)token, .pos = s->n_tokens, .h_prev = out[i].h_next};
        }
        n_active = kept;
    }
}

void td_draft_settle(td_engine *e, td_draft_request *r) {
    for (int i = 0; i < r->n_steps; i++) {
        td_policy_saw_draft(&e->policy, r->step_slots[i], r->step_ns[i]);
        e->counters.mtp.ns_draft += (uint64_t)r->step_ns[i];
    }
    /* A failed draft costs speed, never text: the round goes on without it. */
    if (r->status) td_log(TD_LOG_ERROR, "drafting failed: %s", r->error.text);
    for (int i = 0; i < r->n; i++) {
        td_slot *s = r->slots[i];
        if (r->status) s->draft.n = 0;
        if (s->job) s->job->now.timings.draft_ms += (double)s->draft.t_ns * 1e-6;
    }
}

/* What costs nothing or was asked for without the assistant; true when the slot is settled with it. */
static bool other_source(td_engine *e, td_slot *s, int cap, bool mtp) {
    if (cap <= 0 || s->spec.types == TD_SPEC_NONE) {
        if (mtp) s->draft.path = "skip-nsteps";
        return true;
    }
    if (skip_due(s)) {
        if (mtp) s->draft.path = "skip-streak";
        return true;
    }
    int64_t t = td_clock_ns();
    bool found = forced(s, cap) || look_up(s, cap, mtp ? TD_NGRAM_LONG : s->spec.ngram_n);
    t = td_clock_ns() - t;
    if (s->spec.types & TD_SPEC_NGRAM) {
        e->counters.ngram.calls_draft++;
        e->counters.ngram.ns_draft += (uint64_t)t;
    }
    if (s->job->grammar) {
        e->counters.grammar.calls_draft++;
        e->counters.grammar.ns_draft += (uint64_t)t;
    }
    return found || !mtp;
}

void td_draft_prepare(td_engine *e, int n_prompt_rows, bool beside) {
    td_policy_ask asks[TD_MAX_SLOTS] = {0};
    td_draft_request *r = &e->async.request;
    int n_rows = 0;
    bool adaptive = false;
    td_async_drain(e);
    r->n = 0;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->phase != TD_SLOT_GENERATE) continue;
        td_slot_make_room(e, s);
        if (s->phase != TD_SLOT_GENERATE) continue;
        s->draft = (td_draft_set){.source = TD_DRAFT_NONE};
        n_rows++;
        int cap = budget(e, s);
        bool mtp = e->drafter && (s->spec.types & TD_SPEC_MTP) && s->has_h;
        if (other_source(e, s, cap, mtp)) {
            n_rows += s->draft.n;
            continue;
        }
        s->draft.source = TD_DRAFT_MTP;
        s->draft.path = beside ? "lazy" : "sync";
        adaptive |= !s->spec.fixed;
        asks[r->n] = (td_policy_ask){.slot = &s->policy, .n_max = cap, .depth = cap};
        r->slots[r->n++] = s;
    }
    e->counters.mtp.calls_draft += r->n > 0;
    if (adaptive) td_policy_plan(&e->policy, asks, r->n, n_rows - r->n, n_prompt_rows);
    for (int i = 0; i < r->n; i++) {
        td_slot *s = r->slots[i];
        r->depth[i] = s->draft.n_ask = s->spec.fixed ? asks[i].n_max : asks[i].depth;
        e->counters.depth_chosen[r->depth[i]]++;
        if (r->depth[i] == 0) s->draft.path = "skip-nsteps";
    }
    td_async_begin(e, beside);
    e->async.prepared = true;
}

void td_draft_collect(td_engine *e) {
    td_async_drain(e);
    e->async.prepared = false;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        td_draft_set *d = &s->draft;
        if (s->phase != TD_SLOT_GENERATE || !d->path) continue;
        if (d->n < s->spec.n_min) d->n = 0;
        trace(e, s);
        d->path = NULL;
        if (d->n == 0 && d->source == TD_DRAFT_MTP) (void)look_up(s, budget(e, s), s->spec.ngram_n);
    }
}
