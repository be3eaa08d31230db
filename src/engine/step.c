/* One step: drafts, one batch of all slots' rows, one forward pass, acceptance, delivery. */
#include "engine.h"

#include "../base/clock.h"
#include "../base/log.h"

#include <string.h>

static unsigned row_flags(const td_engine *e, const td_slot *s) {
    const td_job *j = s->job;
    unsigned flags = e->drafter && (s->spec.types & TD_SPEC_MTP) ? TD_ROW_HIDDEN : 0;
    bool whole = j->grammar || j->params.n_probs > 0 || !td_sampler_is_argmax(j->sampler);
    return flags | (whole ? TD_ROW_LOGITS : TD_ROW_ARGMAX);
}

static int add_generating(td_engine *e) {
    int n = 0;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        s->row = -1;
        if (s->phase != TD_SLOT_GENERATE) continue;
        unsigned flags = row_flags(e, s);
        s->row = n;
        s->n_rows = 1 + s->draft.n;
        for (int k = 0; k < s->n_rows; k++)
            e->rows[n++] = (td_row){.token = (int32_t)(k ? s->draft.tokens[k - 1] : s->last),
                                    .pos = s->n_tokens + k,
                                    .slot = s->id,
                                    .flags = flags};
    }
    return n;
}

/* How many prompt rows this step may carry: all of a batch when nobody waits for tokens, else what fits prefill_ms. */
static int prompt_allowance(const td_engine *e, int n_generating) {
    if (n_generating == 0 || e->prompt_row_ns <= 0 || e->params.prefill_ms <= 0) return e->params.n_batch;
    double n = (double)e->params.prefill_ms * 1e6 / e->prompt_row_ns;
    int least = 16 < e->params.n_batch ? 16 : e->params.n_batch;
    return n >= e->params.n_batch ? e->params.n_batch : n < least ? least : (int)n;
}

/* Prompt chunks, in rotation, so that a long prompt does not keep a short one waiting. */
static int add_prompts(td_engine *e, int n, int allowance) {
    int n_slots = e->params.n_slots, first = e->next_prompt_slot, added = 0;
    for (int k = 0; k < n_slots && added < allowance; k++) {
        td_slot *s = &e->slots[(first + k) % n_slots];
        if (s->phase != TD_SLOT_PROMPT) continue;
        td_job *j = s->job;
        int left = j->params.n_prompt - s->n_tokens, take = left < allowance - added ? left : allowance - added;
        s->row = n;
        s->n_rows = take;
        for (int i = 0; i < take; i++, n++) {
            bool last = i == left - 1 && j->params.n_predict != 0;
            e->rows[n] = (td_row){.token = (int32_t)j->prompt[s->n_tokens + i],
                                  .pos = s->n_tokens + i,
                                  .slot = s->id,
                                  .flags = last ? row_flags(e, s) : 0};
        }
        added += take;
        e->next_prompt_slot = (s->id + 1) % n_slots;
    }
    return added;
}

static void after_prompt(td_engine *e, td_slot *s, int64_t step_ns) {
    td_job *j = s->job;
    memcpy(s->tokens + s->n_tokens, j->prompt + s->n_tokens, (size_t)s->n_rows * sizeof *s->tokens);
    s->n_tokens += s->n_rows;
    td_timings *t = &j->now.timings;
    j->now.prompt_done = s->n_tokens;
    t->prompt_n += s->n_rows;
    t->prompt_ms = (double)(td_clock_ns() - s->t_start_ns) * 1e-6;
    e->counters.prompt_tokens += (uint64_t)s->n_rows;
    td_slot_checkpoint(e, s);
    td_job_progress(j);
    if (s->n_tokens < j->params.n_prompt) return;
    if (j->params.n_predict == 0) {
        td_slot_release(e, s, TD_FINISH_LENGTH, NULL);
        return;
    }
    s->row += s->n_rows - 1; /* the row that makes the first token */
    s->n_rows = 1;
    td_slot_accept(e, s, step_ns);
}

static void fail_step(td_engine *e, const td_error *err) {
    td_log(TD_LOG_ERROR, "step failed: %s", err->text);
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->row < 0 || !s->job) continue;
        td_slot_release(e, s, TD_FINISH_ERROR, err);
        td_slot_forget(e, s);
    }
}

static int count_phase(const td_engine *e, td_slot_phase phase) {
    int n = 0;
    for (int i = 0; i < e->params.n_slots; i++) n += e->slots[i].phase == phase;
    return n;
}

static void prepare(td_engine *e, bool beside) {
    int n_generating = count_phase(e, TD_SLOT_GENERATE), n_prompt = count_phase(e, TD_SLOT_PROMPT);
    td_draft_prepare(e, n_prompt ? prompt_allowance(e, n_generating) : 0, beside);
}

/* The callers of this round are woken, where it helps while the next round's drafts are made. */
static void deliver(td_engine *e) {
    if (td_async_helps(e)) prepare(e, true);
    int64_t t = td_clock_ns();
    bool any = false;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        any |= s->unread;
        if (s->unread && s->job) td_job_notify(s->job);
        s->unread = false;
    }
    if (any) e->async.deliver_ns += 0.1 * ((double)(td_clock_ns() - t) - e->async.deliver_ns);
}

bool td_engine_step(td_engine *e) {
    if (!e->async.prepared) prepare(e, false);
    td_draft_collect(e);
    int n_generating = count_phase(e, TD_SLOT_GENERATE), n_prompt = count_phase(e, TD_SLOT_PROMPT);
    if (n_generating + n_prompt == 0) return false;
    int allowance = n_prompt ? prompt_allowance(e, n_generating) : 0;
    int n = add_generating(e), n_decode = n;
    int n_added = n_prompt ? add_prompts(e, n, allowance) : 0;
    n += n_added;
    if (n == 0) return false;

    td_step step = {.rows = e->rows, .n_rows = n};
    td_error err = {0};
    int64_t t0 = td_clock_ns();
    td_status status = td_target_forward(e->model, e->kv, &step, e->work, e->pool, &err);
    int64_t t = td_clock_ns() - t0;
    if (status) {
        fail_step(e, &err);
        return true;
    }
    if (n_added == 0)
        td_policy_saw_step(&e->policy, n, t);
    else if (n_added >= 16) {
        double row = ((double)t - (n_decode ? td_policy_step_ns(&e->policy, n_decode) : 0)) / n_added;
        if (row > 0) e->prompt_row_ns = e->prompt_row_ns > 0 ? e->prompt_row_ns * 0.8 + row * 0.2 : row;
    }
    e->counters.steps++;
    e->counters.rows += (uint64_t)n;
    e->counters.slot_steps += (uint64_t)(n_generating + n_prompt);
    if (n_added > n_decode)
        e->counters.prompt_ns += (uint64_t)t;
    else
        e->counters.predicted_ns += (uint64_t)t;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->row < 0) continue;
        if (s->phase == TD_SLOT_GENERATE)
            td_slot_accept(e, s, t);
        else if (s->phase == TD_SLOT_PROMPT)
            after_prompt(e, s, t);
    }
    deliver(e);
    return true;
}
