/* Slots: which one takes a job, what of its cache serves the new prompt, and how it ends.
 *
 * A slot is chosen by work saved minus work lost: positions that need no computation, less cached positions that would
 * be thrown away. The prefix may also come from another slot, busy or not, by sharing its pages. At least one prompt
 * token is always computed, because logits and the assistant's hidden row are needed. */
#include "engine.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECKPOINT_STEP 1024 /* tokens between checkpoints inside a long prompt */

bool td_slot_same_key(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

td_status td_slot_find(td_engine *e, int slot, td_slot **out, td_error *err) {
    if (slot < 0 || slot >= e->params.n_slots)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "slot %d does not exist: there are %d", slot,
                       e->params.n_slots);
    *out = &e->slots[slot];
    return TD_OK;
}

/* Tokens in the cache that a job may go on from: a slot's, its own or another's, or those of a parked conversation. */
typedef struct source {
    uint32_t kv_slot;
    const uint32_t *tokens;
    const td_parked *parked; /* NULL: a slot's */
    int n, common;           /* positions to go on from; tokens in common */
} source;

static int common_prefix(const uint32_t *tokens, int n_tokens, const td_job *j) {
    int n = n_tokens < j->params.n_prompt - 1 ? n_tokens : j->params.n_prompt - 1, i = 0;
    while (i < n && tokens[i] == j->prompt[i]) i++;
    return i;
}

static source look_at(const td_engine *e, const td_job *j, uint32_t kv_slot, const uint32_t *tokens, int n_tokens,
                      const char *key) {
    source found = {.kv_slot = kv_slot, .tokens = tokens};
    if (!j->params.cache_prompt || n_tokens == 0 || !td_slot_same_key(key, j->cache_key)) return found;
    found.common = common_prefix(tokens, n_tokens, j);
    if (found.common > 0) found.n = (int)td_kv_resumable(e->kv, kv_slot, (uint32_t)found.common);
    return found;
}

static source slot_source(const td_engine *e, const td_slot *s, const td_job *j) {
    return look_at(e, j, (uint32_t)s->id, s->tokens, s->n_tokens, s->cache_key);
}

/* The one with the most positions to go on from; the slot's own where it has as many. `s` NULL: any. */
static source best_source(const td_engine *e, const td_slot *s, const td_job *j) {
    source best = s ? slot_source(e, s, j) : (source){0};
    for (int i = 0; i < e->params.n_slots; i++) {
        source other = slot_source(e, &e->slots[i], j);
        if (other.n > best.n) best = other;
    }
    for (int i = 0; i < e->n_parked; i++) {
        const td_parked *p = &e->parked[i];
        source other = look_at(e, j, p->kv_slot, p->tokens, p->tokens ? p->n_tokens : 0, p->cache_key);
        other.parked = p;
        if (other.n > best.n) best = other;
    }
    return best;
}

/* Positions that the job may come to: the cache must have room for all of them when it starts. */
static uint32_t positions_wanted(const td_engine *e, const td_job *j) {
    int64_t n = j->params.n_predict < 0 ? e->info.n_ctx : (int64_t)j->params.n_prompt + j->params.n_predict;
    return (uint32_t)(n < e->info.n_ctx ? n : e->info.n_ctx);
}

static td_slot *choose(td_engine *e, const td_job *j) {
    td_slot *best = NULL;
    int64_t best_score = 0;
    uint32_t n_pos = positions_wanted(e, j);
    int from_other = -1; /* looked for once there is a slot at all: every waiting job asks before every step */
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->phase != TD_SLOT_IDLE || s->async != TD_ASYNC_NONE || (j->params.slot >= 0 && j->params.slot != i) ||
            !td_kv_can_grow(e->kv, (uint32_t)i, n_pos))
            continue;
        if (from_other < 0) from_other = best_source(e, NULL, j).n;
        int own = slot_source(e, s, j).n;
        int64_t in_place = own - (s->n_tokens - own), shared = from_other - s->n_tokens;
        int64_t score = in_place > shared ? in_place : shared;
        if (!best || score > best_score || (score == best_score && s->t_used_ns < best->t_used_ns)) {
            best = s;
            best_score = score;
        }
    }
    return best;
}

static bool all_idle(const td_engine *e) {
    for (int i = 0; i < e->params.n_slots; i++)
        if (e->slots[i].phase != TD_SLOT_IDLE || e->slots[i].async != TD_ASYNC_NONE) return false;
    return true;
}

td_slot *td_slot_choose(td_engine *e, const td_job *j) {
    td_slot *best = choose(e, j);
    /* Parked conversations never keep a job waiting. */
    while (!best && all_idle(e) && td_park_drop_oldest(e, NULL)) best = choose(e, j);
    return best;
}

/* ---- reuse ---- */

static void note(td_job *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(td_job *j, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(j->now.cache_note, sizeof j->now.cache_note, format, ap);
    va_end(ap);
}

/* --cache-reuse: equal chunks found further on in the old tokens move down to where the new prompt needs them. */
static int reuse_chunks(td_engine *e, td_slot *s, const td_job *j, int n) {
    int least = j->params.cache_reuse;
    if (least <= 0) return n;
    for (int from = n + 1; from <= s->n_tokens - least && n < j->params.n_prompt - least;) {
        int m = 0;
        while (from + m < s->n_tokens && n + m < j->params.n_prompt - 1 && s->tokens[from + m] == j->prompt[n + m]) m++;
        if (m < least) {
            from++;
            continue;
        }
        if (td_kv_discard(e->kv, (uint32_t)s->id, (uint32_t)n, (uint32_t)from, NULL)) break;
        memmove(s->tokens + n, s->tokens + from, (size_t)(s->n_tokens - from) * sizeof *s->tokens);
        s->n_tokens -= from - n;
        n += m;
        from = n + 1;
    }
    return n;
}

static void note_reuse(td_engine *e, td_job *j, int n, int common) {
    if (n >= j->params.n_prompt - 1) {
        j->now.cache_note[0] = 0;
    } else if (!j->params.cache_prompt) {
        note(j, "cache_prompt is off");
    } else if (n < common) {
        note(j, "no window kept at or before token %d of %d", common, j->params.n_prompt);
        e->counters.reprocessed++;
    } else if (n > 0) {
        note(j, "diverged at token %d of %d", n, j->params.n_prompt);
    } else {
        note(j, "nothing in common with a slot");
    }
}

/* The slot gets the first n positions of a source, or as many as it can go on from. */
static int share(td_engine *e, td_slot *s, source from, int n) {
    n = (int)td_kv_copy_prefix(e->kv, (uint32_t)s->id, from.kv_slot, (uint32_t)n);
    memcpy(s->tokens, from.tokens, (size_t)n * sizeof *s->tokens);
    s->n_tokens = n;
    s->n_checkpointed = 0;
    return n;
}

static int take_prefix(td_engine *e, td_slot *s, td_job *j) {
    source from = best_source(e, s, j);
    bool own = from.kv_slot == (uint32_t)s->id;
    int n = from.n, common = from.common;
    if (from.parked) {
        e->counters.parked_hits++;
        e->counters.parked_hit_tokens += (uint64_t)n;
    }
    /* Where most of what the slot holds would be lost, it is kept for the conversation it belongs to. */
    const td_parked *kept = s->n_tokens > 2 * (own ? n : 0) ? td_park(e, s, from.parked) : NULL;
    if (kept && own) {
        from.kv_slot = kept->kv_slot;
        from.tokens = kept->tokens;
        own = j->params.cache_reuse > 0 && n == common; /* chunks of it are to move: a copy of all of it is worked on */
        if (own) share(e, s, from, kept->n_tokens);
    }
    if (n == 0) {
        td_slot_forget(e, s);
    } else if (own) {
        if (j->params.cache_reuse > 0 && n == common) n = reuse_chunks(e, s, j, n);
        n = (int)td_kv_truncate(e->kv, (uint32_t)s->id, (uint32_t)n);
        s->n_tokens = n;
    } else {
        n = share(e, s, from, n);
    }
    note_reuse(e, j, n, common);
    return n;
}

/* ---- start and end ---- */

static void trim_spec(const td_engine *e, td_slot *s) {
    s->spec = s->job->params.spec;
    if (!e->drafter) s->spec.types &= ~(uint32_t)TD_SPEC_MTP;
    if (s->spec.n_max == 0) s->spec.types = TD_SPEC_NONE;
    s->skip_streak = s->streak_accepted = 0;
    s->skipped = false;
    s->iter = 0;
    td_policy_slot_reset(&e->policy, &s->policy);
}

void td_slot_start(td_engine *e, td_slot *s, td_job *j) {
    td_async_drain(e); /* cells are cut, copied or moved below */
    s->job = j;
    s->phase = TD_SLOT_PROMPT;
    s->t_start_ns = td_clock_ns();
    s->n_decoded = 0;
    s->has_h = false;
    s->draft = (td_draft_set){.source = TD_DRAFT_NONE};
    int64_t t_begin = td_clock_ns();
    trim_spec(e, s);
    if (s->spec.types & TD_SPEC_MTP) e->counters.mtp.ns_begin += (uint64_t)(td_clock_ns() - t_begin);
    int n = take_prefix(e, s, j);
    free(s->cache_key);
    s->cache_key = j->cache_key; /* handed over: the job is compared with nothing any more */
    j->cache_key = NULL;
    j->params.cache_key = NULL;
    j->now.slot = s->id;
    j->now.prompt_cached = j->now.prompt_done = n;
    j->now.timings.cache_n = n;
    j->now.timings.queue_ms = (double)(s->t_start_ns - j->t_submit_ns) * 1e-6;
    e->counters.cache_queries += (uint64_t)j->params.n_prompt;
    e->counters.cache_hits += (uint64_t)n;
    e->counters.mtp.calls_begin += (s->spec.types & TD_SPEC_MTP) != 0;
    e->counters.ngram.calls_begin += (s->spec.types & TD_SPEC_NGRAM) != 0;
    e->counters.grammar.calls_begin += s->spec.types != TD_SPEC_NONE && j->grammar;
    td_error err = {0};
    uint32_t n_pos = positions_wanted(e, j);
    if ((j->params.n_probs > 0 && !td_engine_reserve_probs(e, j->params.n_probs)) ||
        (s->spec.accept == TD_ACCEPT_REJECTION && s->spec.types && !td_engine_reserve_rejection(e))) {
        err = (td_error){TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for probabilities"};
    } else {
        while (!td_kv_can_grow(e->kv, (uint32_t)s->id, n_pos) && td_park_drop_oldest(e, NULL)) continue;
        (void)td_kv_admit(e->kv, (uint32_t)s->id, n_pos, &err);
    }
    if (err.code) {
        td_slot_release(e, s, TD_FINISH_ERROR, &err);
        return;
    }
    td_sampler_prime(j->sampler, j->prompt, j->params.n_prompt);
    td_log(TD_LOG_DEBUG, "slot %d | task %d | prompt %d tokens, %d cached%s%s", s->id, j->id, j->params.n_prompt, n,
           j->now.cache_note[0] ? ": " : "", j->now.cache_note);
    td_job_progress(j);
}

/* The counters of one source since start, in llama.cpp's words. */
static void log_statistics(const char *type, const td_spec_counters *c) {
    char lengths[320] = ""; /* left out before the first acceptance */
    size_t n = 0;
    if (c->calls_accept > 0) {
        double calls = (double)c->calls_accept;
        n = (size_t)snprintf(lengths, sizeof lengths, "#mean acc len = %.2f, #acc rate/pos = (",
                             1 + (double)c->tokens_accepted / calls);
        for (int i = 0; i < TD_MAX_DRAFT && (i == 0 || c->accepted_at[i] > 0) && n + 12 < sizeof lengths; i++)
            n += (size_t)snprintf(lengths + n, sizeof lengths - n, i ? ", %.3f" : "%.3f",
                                  (double)c->accepted_at[i] / calls);
        (void)snprintf(lengths + n, sizeof lengths - n, "), ");
    }
    td_log(
        TD_LOG_INFO,
        "statistics %16s: #calls(b,g,a) = %4zu %6zu %6zu, #gen drafts = %6zu, #acc drafts = %5zu, #gen tokens = %6zu, "
        "#acc tokens = %5zu, %sdur(b,g,a) = %.3f, %.3f, %.3f ms",
        type, (size_t)c->calls_begin, (size_t)c->calls_draft, (size_t)c->calls_accept, (size_t)c->drafts,
        (size_t)c->drafts_accepted, (size_t)c->tokens, (size_t)c->tokens_accepted, lengths, (double)c->ns_begin * 1e-6,
        (double)c->ns_draft * 1e-6, (double)c->ns_accept * 1e-6);
}

static void log_timings(const td_engine *e, const td_slot *s, const td_job *j) {
    const td_timings *t = &j->now.timings;
    int n = t->predicted_n > 0 ? t->predicted_n : 1, m = t->prompt_n > 0 ? t->prompt_n : 1;
    td_log(TD_LOG_INFO,
           "slot print_timing: id %2d | task %d | prompt eval time = %10.2f ms / %5d tokens (%8.2f ms per token, %8.2f "
           "tokens per second)",
           s->id, j->id, t->prompt_ms, t->prompt_n, t->prompt_ms / m,
           t->prompt_ms > 0 ? 1e3 * t->prompt_n / t->prompt_ms : 0);
    td_log(TD_LOG_INFO,
           "slot print_timing: id %2d | task %d |        eval time = %10.2f ms / %5d tokens (%8.2f ms per token, %8.2f "
           "tokens per second)",
           s->id, j->id, t->predicted_ms, t->predicted_n, t->predicted_ms / n,
           t->predicted_ms > 0 ? 1e3 * t->predicted_n / t->predicted_ms : 0);
    td_log(TD_LOG_INFO, "slot print_timing: id %2d | task %d |       total time = %10.2f ms / %5d tokens", s->id, j->id,
           t->prompt_ms + t->predicted_ms, t->prompt_n + t->predicted_n);
    if (t->draft_n == 0) return;
    td_log(TD_LOG_INFO,
           "slot print_timing: id %2d | task %d | draft acceptance = %0.5f (%5d accepted / %5d generated), mean len = "
           "%5.2f",
           s->id, j->id, (double)t->draft_n_accepted / t->draft_n, t->draft_n_accepted, t->draft_n,
           1.0 + (double)t->draft_n_accepted / (t->draft_rounds > 0 ? t->draft_rounds : 1));
    char rates[256] = "";
    size_t len = 0;
    for (int i = 0; i < TD_MAX_DRAFT && t->accepted_at[i] > 0 && len + 10 < sizeof rates; i++)
        len += (size_t)snprintf(rates + len, sizeof rates - len, i ? ", %.3f" : "%.3f",
                                (double)t->accepted_at[i] / (t->draft_rounds > 0 ? t->draft_rounds : 1));
    td_log(TD_LOG_INFO, "slot print_timing: id %2d | task %d |      acc per pos = (%s)", s->id, j->id, rates);
    if (e->counters.mtp.drafts > 0) log_statistics("draft-mtp", &e->counters.mtp);
    if (e->counters.ngram.drafts > 0) log_statistics("ngram-simple", &e->counters.ngram);
    if (e->counters.grammar.drafts > 0) log_statistics("grammar", &e->counters.grammar);
}

void td_slot_release(td_engine *e, td_slot *s, td_finish finish, const td_error *error) {
    td_job *j = s->job;
    td_async_drain(e);
    log_timings(e, s, j);
    td_log(TD_LOG_INFO, "slot release: id %2d | task %d | stop processing: n_tokens = %d, truncated = %d", s->id, j->id,
           s->n_tokens, j->now.truncated);
    /* What the assistant was ahead of is cut off: the cache holds exactly `tokens`. */
    td_kv_truncate(e->kv, (uint32_t)s->id, (uint32_t)s->n_tokens);
    td_kv_dismiss(e->kv, (uint32_t)s->id); /* else a conversation that is parked would keep the room of its job */
    if (finish != TD_FINISH_ERROR && s->n_tokens > 0) td_kv_checkpoint(e->kv, (uint32_t)s->id);
    pthread_mutex_lock(&e->lock); /* who has seen the job's end finds the slot idle, with the job's last figures */
    td_slot_publish(e, s);
    s->job = NULL;
    s->phase = TD_SLOT_IDLE;
    td_slot_publish(e, s);
    e->published.n_processing -= e->published.n_processing > 0;
    pthread_mutex_unlock(&e->lock);
    s->unread = false;
    s->row = -1;
    s->t_used_ns = td_clock_ns();
    if (j->stream.text.n_bytes > 0 && finish != TD_FINISH_ERROR)
        td_job_deliver(j, NULL, NULL, NULL, 0, td_stream_ready(&j->stream, true));
    td_job_finish(j, finish, error);
    pthread_mutex_lock(&e->lock);
    j->owned_by_engine = false;
    pthread_cond_broadcast(&e->command_done); /* td_job_close may wait for it */
    pthread_mutex_unlock(&e->lock);
}

void td_slot_forget(td_engine *e, td_slot *s) {
    td_async_drain(e);
    td_kv_clear(e->kv, (uint32_t)s->id);
    s->n_tokens = 0;
    s->n_checkpointed = 0;
    s->has_h = false;
}

void td_slot_checkpoint(td_engine *e, td_slot *s) {
    bool end = s->n_tokens >= s->job->params.n_prompt;
    if (e->params.n_checkpoints <= 0 || (!end && s->n_tokens - s->n_checkpointed < CHECKPOINT_STEP)) return;
    td_kv_checkpoint(e->kv, (uint32_t)s->id);
    s->n_checkpointed = s->n_tokens;
}

/* Context shift: keep the first n_keep tokens, drop half of the rest, turn the keys to their new positions. */
void td_slot_make_room(td_engine *e, td_slot *s) {
    if (!e->params.context_shift || s->phase != TD_SLOT_GENERATE || s->n_tokens + 2 < e->info.n_ctx) return;
    td_job *j = s->job;
    int keep = j->params.n_keep < 0 ? j->params.n_prompt : j->params.n_keep, n = s->n_tokens;
    td_async_drain(e);
    if (j->params.n_keep >= 0 && keep < n) keep++; /* <bos> */
    if (keep > n - 4) keep = n > 4 ? n - 4 : 0;
    int drop = j->params.n_discard > 0 && j->params.n_discard < n - keep ? j->params.n_discard : (n - keep) / 2;
    if (drop == 0) return; /* one token of a context of three: there is room for the next */
    td_error err = {0};
    if (td_kv_discard(e->kv, (uint32_t)s->id, (uint32_t)keep, (uint32_t)(keep + drop), &err)) {
        td_slot_release(e, s, TD_FINISH_CONTEXT, NULL);
        return;
    }
    memmove(s->tokens + keep, s->tokens + keep + drop, (size_t)(n - keep - drop) * sizeof *s->tokens);
    s->n_tokens = n - drop;
    j->now.truncated = true;
}

void td_slot_publish(td_engine *e, td_slot *s) {
    const td_job *j = s->job;
    td_slot_info *i = &s->info;
    int n_checkpoints = (int)td_kv_n_checkpoint(e->kv, (uint32_t)s->id);
    if (!j) { /* what the last job had reached stays to be seen */
        i->id = s->id;
        i->n_ctx = e->info.n_ctx;
        i->n_tokens = s->n_tokens;
        i->n_checkpoints = n_checkpoints;
        i->job = -1;
        i->prompt_phase = i->generating = false;
        return;
    }
    *i = (td_slot_info){.id = s->id, .n_ctx = e->info.n_ctx, .n_tokens = s->n_tokens, .n_checkpoints = n_checkpoints};
    i->job = i->last_job = j->id;
    i->has_new_line = j->now.has_new_line;
    i->prompt_phase = s->phase == TD_SLOT_PROMPT;
    i->generating = s->phase == TD_SLOT_GENERATE;
    i->speculative = s->spec.types != TD_SPEC_NONE;
    i->n_prompt = j->params.n_prompt;
    i->n_prompt_done = j->now.prompt_done;
    i->n_prompt_cached = j->now.prompt_cached;
    i->n_decoded = s->n_decoded;
    i->n_remain = j->params.n_predict < 0 ? -1 : j->params.n_predict - s->n_decoded;
    i->draft_n = j->now.timings.draft_n;
    i->draft_n_accepted = j->now.timings.draft_n_accepted;
    i->depth = s->draft.n_ask;
}
