/* Acceptance: from the rows of a forward pass to the tokens a slot emits.
 *
 * Row 0 is `last`, row i the i-th draft; each row's sample is a genuine draw of the target with the job's complete
 * sampler. Drafts are kept while they equal the sample; the first sample that differs, or the one after the last
 * draft, is the next `last`. The cache is cut back to the accepted rows, and the hidden row of the last accepted one is
 * kept for the assistant (tests/identity: text with and without drafts is the same). */
#include "engine.h"

#include "../base/clock.h"
#include "../base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct emission { /* one round */
    uint32_t tokens[TD_MAX_DRAFT + 1];
    uint8_t drafted[TD_MAX_DRAFT + 1];
    td_prob *probs; /* [TD_MAX_DRAFT + 1][n_probs + 1], NULL without */
    int n;
    int n_accepted;
    td_finish finish;
    td_error error;
} emission;

typedef struct constraint { /* the grammar, as the sampler asks for it */
    td_engine *e;
    td_job *j;
    td_error error;
} constraint;

static bool allowed(void *user, uint32_t token) {
    const constraint *c = user;
    return td_grammar_allows(c->j->grammar, token);
}

static const uint64_t *mask(void *user) {
    constraint *c = user;
    c->e->counters.resampled++;
    size_t n_words = ((size_t)c->e->info.n_vocab + 63) / 64;
    if (td_grammar_mask(c->j->grammar, c->e->mask, &c->error)) memset(c->e->mask, 0, n_words * sizeof *c->e->mask);
    return c->e->mask;
}

/* ---- log-probabilities ---- */

/* Raw: log-softmax of the row (bias included). out[0] is filled by the caller once the token is known. */
static double log_sum(const float *logits, int n_vocab) {
    float m = -INFINITY;
    for (int i = 0; i < n_vocab; i++) m = logits[i] > m ? logits[i] : m;
    double sum = 0;
    for (int i = 0; i < n_vocab; i++) sum += exp((double)(logits[i] - m));
    /* cppcheck-suppress invalidFunctionArg ; the largest has added 1 */
    return (double)m + log(sum);
}

static void best(const float *logits, int n_vocab, double lse, td_prob *out, int n) {
    int have = 0;
    for (int id = 0; id < n_vocab; id++) {
        float lp = (float)((double)logits[id] - lse);
        if (have == n && lp <= out[n - 1].logprob) continue;
        int at = have < n ? have++ : n - 1;
        while (at > 0 && out[at - 1].logprob < lp) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = (td_prob){(uint32_t)id, lp};
    }
}

/* ---- one row ---- */

/* The token that the end of a thought demands, TD_TOKEN_NONE when the sampler decides: only behind whole characters,
 * and never against the grammar. */
static uint32_t forced_token(const td_job *j) {
    uint32_t token = td_reasoning_forced(&j->reasoning);
    bool possible = token != TD_TOKEN_NONE && j->stream.detok.utf8.n_pending == 0 &&
                    (!j->grammar || td_grammar_allows(j->grammar, token));
    return possible ? token : TD_TOKEN_NONE;
}

/* Candidates that the chain has cut are impossible: they fill the list in the order of the logits, in `likely`. */
static void fill_up(td_prob *probs, const td_prob *likely, int n) {
    int have = 1;
    while (have <= n && probs[have].token != TD_TOKEN_NONE) have++;
    for (int i = 1; i <= n && have <= n; i++) {
        bool there = false;
        for (int k = 1; k < have && !there; k++) there = probs[k].token == likely[i].token;
        if (!there) probs[have++] = (td_prob){likely[i].token, -INFINITY};
    }
}

/* After the chain a forced token is certain. */
static void certain(uint32_t token, td_prob *probs, int n) {
    probs[0] = (td_prob){token, 0.0f};
    for (int i = 1; i <= n; i++) probs[i] = (td_prob){i == 1 ? token : TD_TOKEN_NONE, i == 1 ? 0.0f : -INFINITY};
}

/* Draws from row `row` of the step, or takes `forced`; fills the row's probabilities when the job asks for them. */
static uint32_t draw(td_engine *e, td_slot *s, int row, uint32_t forced, td_prob *probs, td_error *err) {
    td_job *j = s->job;
    float *logits = (float *)td_workspace_logits(e->work, row);
    if (!logits) return forced != TD_TOKEN_NONE ? forced : (uint32_t)td_workspace_argmax(e->work, row, NULL);
    td_sampler_bias(j->sampler, logits);
    int n_probs = j->params.n_probs;
    double lse = 0;
    float *raw = NULL;
    bool post = j->params.post_sampling_probs;
    if (n_probs > 0 && !post) {
        lse = log_sum(logits, e->info.n_vocab);
        best(logits, e->info.n_vocab, lse, probs + 1, n_probs);
        raw = e->raw_row;
        memcpy(raw, logits, (size_t)e->info.n_vocab * sizeof *raw);
    }
    td_prob *likely = e->probs ? e->probs + (size_t)(TD_MAX_DRAFT + 1) * (size_t)(n_probs + 1) : NULL;
    if (n_probs > 0 && post) best(logits, e->info.n_vocab, 0, likely + 1, n_probs);
    constraint c = {.e = e, .j = j};
    td_sampler_constraint use = {allowed, mask, &c};
    uint32_t token =
        forced != TD_TOKEN_NONE ? forced : td_sampler_draw(j->sampler, &e->scratch, logits, j->grammar ? &use : NULL);
    if (token == TD_TOKEN_NONE) {
        *err = c.error.code ? c.error
                            : (td_error){TD_ERR_ARGUMENT, TD_NO_OFFSET, "no token is possible: everything is masked"};
        return token;
    }
    if (raw) probs[0] = (td_prob){token, (float)((double)raw[token] - lse)};
    if (n_probs > 0 && post) {
        if (forced != TD_TOKEN_NONE)
            certain(token, probs, n_probs);
        else
            td_sampler_last_probs(&e->scratch, token, probs, n_probs);
        fill_up(probs, likely, n_probs);
    }
    return token;
}

/* The grammar goes on over a token that is no end. One with a trigger begins with that token, and the round ends there:
 * the rows behind it were computed for free text. False: m->error is set, or *stop. */
static bool follow_grammar(td_job *j, uint32_t token, emission *m, bool *stop) {
    bool begins = j->pristine && !j->grammar && token == j->params.grammar_trigger;
    if (begins && td_grammar_state_copy(j->sentence, j->pristine, &m->error)) return false;
    if (begins) j->grammar = j->sentence;
    *stop = begins;
    if (j->grammar && td_grammar_accept(j->grammar, token, &m->error)) return false;
    if (j->pristine && j->grammar && j->params.grammar_repeats && td_grammar_complete(j->grammar)) j->grammar = NULL;
    return true;
}

/* The token is final: history, grammar, text. False when the round ends here. */
static bool emit(td_engine *e, td_slot *s, emission *m, uint32_t token, bool forced, bool drafted) {
    td_job *j = s->job;
    td_slice piece = td_vocab_piece(e->vocab, token, true);
    bool newline = piece.n_bytes && memchr(piece.data, '\n', piece.n_bytes);
    td_reasoning_push(&j->reasoning, token, forced, newline);
    j->now.has_new_line |= newline;
    m->tokens[m->n] = token;
    m->drafted[m->n++] = drafted;
    s->n_decoded++;
    td_sampler_accept(j->sampler, token);
    bool end = td_vocab_is_end(e->vocab, token);
    bool begins = false;
    if (!end && !follow_grammar(j, token, m, &begins)) {
        m->finish = TD_FINISH_ERROR;
        return false;
    }
    if (end) {
        m->finish = TD_FINISH_END;
        return false;
    }
    bool failed = false;
    if (td_stream_push(&j->stream, token, &failed)) m->finish = TD_FINISH_STOP;
    if (failed) {
        m->error = (td_error){TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the text"};
        m->finish = TD_FINISH_ERROR;
    }
    if (m->finish == TD_FINISH_NONE && j->params.n_predict >= 0 && s->n_decoded >= j->params.n_predict)
        m->finish = TD_FINISH_LENGTH;
    return m->finish == TD_FINISH_NONE && !begins;
}

/* Rejection: the draft against the target's distribution; true when it stands, else *token is the replacement. */
static bool judge(td_engine *e, td_slot *s, int i, uint32_t *token, td_error *err) {
    td_job *j = s->job;
    float *logits = (float *)td_workspace_logits(e->work, s->row + i);
    td_sampler_bias(j->sampler, logits);
    const uint64_t *bits = NULL;
    constraint c = {.e = e, .j = j};
    if (j->grammar) bits = mask(&c);
    int n = td_sampler_distribution(j->sampler, &e->scratch, logits, bits);
    if (n == 0) {
        *err = (td_error){TD_ERR_ARGUMENT, TD_NO_OFFSET, "no token is possible: everything is masked"};
        *token = TD_TOKEN_NONE;
        return false;
    }
    double u1 = td_sampler_uniform(j->sampler), u2 = td_sampler_uniform(j->sampler);
    for (int k = 0; k < n; k++) e->p_row[k] = (td_spec_prob){e->scratch.cands[k].id, e->scratch.cands[k].p};
    td_spec_prob one = {s->draft.tokens[i], 1.0f};
    const td_spec_prob *q = s->draft.q[i] ? s->draft.q[i] : &one;
    int n_q = s->draft.q[i] ? s->draft.n_q[i] : 1;
    *token = s->draft.tokens[i];
    return td_accept_reject(e->p_row, n, q, n_q, s->draft.tokens[i], u1, u2, token);
}

static bool uses_rejection(const td_slot *s) {
    return s->spec.accept == TD_ACCEPT_REJECTION && s->draft.n > 0 && !td_sampler_is_argmax(s->job->sampler) &&
           s->job->params.n_probs == 0;
}

static void rows_to_tokens(td_engine *e, td_slot *s, emission *m) {
    bool rejection = uses_rejection(s);
    int n_row = s->job->params.n_probs + 1;
    for (int i = 0; i < s->n_rows; i++) {
        uint32_t token = TD_TOKEN_NONE, forced = forced_token(s->job);
        bool stands = false;
        td_prob *probs = m->probs ? m->probs + (size_t)i * (size_t)n_row : NULL;
        if (rejection && forced == TD_TOKEN_NONE && i < s->draft.n) {
            stands = judge(e, s, i, &token, &m->error);
        } else {
            token = draw(e, s, s->row + i, forced, probs, &m->error);
            stands = i < s->draft.n && token == s->draft.tokens[i];
        }
        if (token == TD_TOKEN_NONE) {
            m->finish = TD_FINISH_ERROR;
            return;
        }
        m->n_accepted += stands;
        if (!emit(e, s, m, token, forced != TD_TOKEN_NONE, stands) || !stands) return;
    }
}

/* ---- bookkeeping after the round ---- */

static td_spec_counters *source_counters(td_engine *e, td_draft_source source) {
    td_counters *c = &e->counters;
    return source == TD_DRAFT_NGRAM ? &c->ngram : source == TD_DRAFT_GRAMMAR ? &c->grammar : &c->mtp;
}

static void count(td_engine *e, td_slot *s, const emission *m, int64_t t_ns) {
    td_draft_set *d = &s->draft;
    if (d->n == 0) return;
    td_timings *t = &s->job->now.timings;
    t->draft_n += d->n;
    t->draft_n_accepted += m->n_accepted;
    t->draft_rounds++;
    t->verify_ms += (double)t_ns * 1e-6;
    for (int i = 0; i < m->n_accepted; i++) t->accepted_at[i]++;
    td_spec_counters *c = source_counters(e, d->source);
    c->calls_accept++;
    c->drafts++;
    c->drafts_accepted += m->n_accepted > 0;
    c->tokens += (uint64_t)d->n;
    c->tokens_accepted += (uint64_t)m->n_accepted;
    for (int i = 0; i < m->n_accepted; i++) c->accepted_at[i]++;
    if (d->source == TD_DRAFT_MTP) {
        td_policy_saw_accept(&e->policy, &s->policy, d->n, m->n_accepted);
        td_trace_accepted(e->trace, s->iter, s->id, m->n_accepted, d->n);
    }
    s->iter++;
}

static void keep(td_engine *e, td_slot *s, const emission *m) {
    /* Cached now: `last` and the accepted drafts that were emitted and are not the new `last`. */
    int n_new = m->n < s->n_rows ? m->n : s->n_rows;
    s->tokens[s->n_tokens++] = s->last;
    for (int i = 1; i < n_new; i++) s->tokens[s->n_tokens++] = m->tokens[i - 1];
    td_kv_truncate(e->kv, (uint32_t)s->id, (uint32_t)s->n_tokens);
    s->last = m->tokens[m->n - 1];
    s->h_idx = n_new - 1;
    const float *h = td_workspace_hidden(e->work, s->row + n_new - 1);
    s->has_h = h != NULL;
    if (h) memcpy(s->h_prev, h, (size_t)e->info.d_model * sizeof *h);
}

static td_finish limits(td_engine *e, const td_slot *s) {
    const td_job *j = s->job;
    if (s->n_tokens + 1 >= e->info.n_ctx && !e->params.context_shift) return TD_FINISH_CONTEXT;
    /* With shifting contexts nothing else would end an answer without a limit. */
    if (j->params.n_predict < 0 && s->n_decoded >= e->info.n_ctx_train) return TD_FINISH_CONTEXT;
    bool timed = j->params.max_ms > 0 && (j->now.has_new_line || !j->params.max_ms_at_line);
    if (timed && td_clock_ns() - s->t_first_ns > j->params.max_ms * 1000000) return TD_FINISH_TIME;
    return TD_FINISH_NONE;
}

void td_slot_accept(td_engine *e, td_slot *s, int64_t step_ns) {
    td_job *j = s->job;
    emission m = {.probs = j->params.n_probs > 0 ? e->probs : NULL}; /* reserved when the job started */
    int64_t now = td_clock_ns();
    uint64_t *ns_accept = &source_counters(e, s->draft.source)->ns_accept;
    bool first = s->phase == TD_SLOT_PROMPT;
    if (first) {
        s->draft.n = 0;
        s->t_first_ns = now;
        j->now.timings.ttft_ms = (double)(now - j->t_submit_ns) * 1e-6;
    }
    rows_to_tokens(e, s, &m);
    if (m.finish == TD_FINISH_ERROR) {
        td_slot_release(e, s, m.finish, &m.error);
        return;
    }
    if (first) { /* the prompt's rows are in the cache already; its last row made the token */
        s->last = m.tokens[0];
        const float *h = td_workspace_hidden(e->work, s->row);
        s->has_h = h != NULL;
        s->h_idx = -1;
        if (h) memcpy(s->h_prev, h, (size_t)e->info.d_model * sizeof *h);
        s->phase = TD_SLOT_GENERATE;
    } else {
        count(e, s, &m, step_ns);
        keep(e, s, &m);
        if (s->draft.n > 0) *ns_accept += (uint64_t)(td_clock_ns() - now);
    }
    if (m.finish == TD_FINISH_NONE) m.finish = limits(e, s);
    td_timings *t = &j->now.timings;
    t->predicted_n = s->n_decoded;
    t->reasoning_n = j->reasoning.n_tokens;
    t->predicted_ms = (double)(now - s->t_first_ns) * 1e-6;
    e->counters.predicted_tokens += (uint64_t)m.n;
    td_job_deliver(j, m.tokens, m.drafted, m.probs, m.n, td_stream_ready(&j->stream, m.finish != TD_FINISH_NONE));
    s->unread = true;
    if (m.finish != TD_FINISH_NONE) td_slot_release(e, s, m.finish, NULL);
}
