/* Jobs: submission from any thread, and the mailbox through which a job's tokens and text reach its caller.
 *
 * The engine's thread appends to `in` under the job's lock and never waits for a reader; td_job_read swaps `in` and
 * `out` and describes everything that came since the last read as one event. A mailbox holds at most what the job
 * may generate, which admission has bounded. */
#include "engine.h"

#include "../base/checked.h"
#include "../base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- mailbox, engine side ---- */

static bool mail_reserve(struct td_mail *m, int n_more, int n_probs) {
    if (m->n_tokens + n_more <= m->cap_tokens) return true;
    int cap = m->cap_tokens ? m->cap_tokens * 2 : 64;
    while (cap < m->n_tokens + n_more) cap *= 2;
    uint32_t *tokens = td_reallocarray(m->tokens, (size_t)cap, sizeof *tokens);
    if (tokens) m->tokens = tokens;
    uint8_t *drafted = td_reallocarray(m->drafted, (size_t)cap, 1);
    if (drafted) m->drafted = drafted;
    td_prob *probs = NULL;
    if (n_probs > 0) {
        probs = td_reallocarray(m->probs, (size_t)cap * (size_t)(n_probs + 1), sizeof *probs);
        if (probs) m->probs = probs;
    }
    if (!tokens || !drafted || (n_probs > 0 && !probs)) return false;
    m->cap_tokens = cap;
    return true;
}

static void mail_free(struct td_mail *m) {
    free(m->tokens);
    free(m->drafted);
    free(m->probs);
    td_buf_free(&m->text);
}

static void notify(td_job *j) {
    pthread_cond_broadcast(&j->ready);
    if (j->params.on_ready) j->params.on_ready(j->params.user);
}

void td_job_deliver(td_job *j, const uint32_t *tokens, const uint8_t *drafted, const td_prob *probs, int n_tokens,
                    size_t n_text) {
    pthread_mutex_lock(&j->lock);
    struct td_mail *m = &j->in;
    int n_row = j->params.n_probs > 0 ? j->params.n_probs + 1 : 0;
    bool ok = mail_reserve(m, n_tokens, j->params.n_probs) && td_buf_add(&m->text, j->stream.text.data, n_text);
    if (ok) {
        memcpy(m->tokens + m->n_tokens, tokens, (size_t)n_tokens * sizeof *tokens);
        memcpy(m->drafted + m->n_tokens, drafted, (size_t)n_tokens);
        if (n_row)
            memcpy(m->probs + (size_t)m->n_tokens * (size_t)n_row, probs,
                   (size_t)n_tokens * (size_t)n_row * sizeof *probs);
        m->n_tokens += n_tokens;
        td_stream_take(&j->stream, n_text);
    } else {
        atomic_store(&j->cancelled, true); /* a mailbox without memory cannot be read to its end */
    }
    j->seen = j->now;
    pthread_mutex_unlock(&j->lock);
}

void td_job_notify(td_job *j) {
    pthread_mutex_lock(&j->lock);
    notify(j);
    pthread_mutex_unlock(&j->lock);
}

void td_job_progress(td_job *j) {
    pthread_mutex_lock(&j->lock);
    j->seen = j->now;
    if (j->n_marks < j->cap_marks) j->n_marks++;
    j->marks[j->n_marks - 1] = j->now.prompt_done; /* of too many the last one stays */
    notify(j);
    pthread_mutex_unlock(&j->lock);
}

void td_job_finish(td_job *j, td_finish finish, const td_error *error) {
    pthread_mutex_lock(&j->lock);
    j->seen = j->now;
    j->finish = finish;
    if (error) j->error = *error;
    j->done = true;
    notify(j);
    pthread_mutex_unlock(&j->lock);
}

/* ---- creation ---- */

void td_job_params_init(const td_engine *e, td_job_params *p) {
    *p = (td_job_params){
        .n_predict = -1,
        .slot = -1,
        .cache_prompt = true,
        .grammar_trigger = TD_TOKEN_NONE,
        .reasoning = {.budget = -1, .begin = TD_TOKEN_NONE, .end = TD_TOKEN_NONE, .call = TD_TOKEN_NONE}};
    td_sampling_init(&p->sampling);
    if (!e) return;
    p->spec = e->params.spec;
    p->cache_reuse = e->params.cache_reuse;
}

static void free_parts(td_job *j) {
    free(j->prompt);
    free(j->marks);
    free(j->cache_key);
    td_grammar_state_destroy(j->sentence);
    td_grammar_state_destroy(j->pristine);
    td_sampler_destroy(j->sampler);
    td_stream_free(&j->stream);
    td_reasoning_free(&j->reasoning);
    mail_free(&j->in);
    mail_free(&j->out);
}

static void job_free(td_job *j) {
    free_parts(j);
    pthread_cond_destroy(&j->ready);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

static int tokenize_plain(void *user, const char *text, size_t n_bytes, uint32_t *out, int cap) {
    td_tokens ids = {0};
    int n = 0;
    if (td_vocab_tokenize(user, text, n_bytes, TD_SPECIAL_NONE, false, &ids, NULL) == TD_OK)
        for (; n < cap && (size_t)n < ids.n; n++) out[n] = ids.ids[n];
    td_tokens_free(&ids);
    return n;
}

static td_status check_reasoning(const td_reasoning_params *r, int n_vocab, td_error *err) {
    if (r->begin == TD_TOKEN_NONE) return TD_OK;
    bool fine = r->budget >= -1 && r->begin < (uint32_t)n_vocab && r->end < (uint32_t)n_vocab && r->n_closing >= 0;
    for (int i = 0; i < r->n_closing && fine; i++) fine = r->closing[i] < (uint32_t)n_vocab;
    return fine ? TD_OK
                : td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                          "reasoning: the budget must be -1 or more, the tokens inside the vocabulary");
}

static td_status check(const td_engine *e, const td_job_params *p, td_error *err) {
    int n_vocab = e->info.n_vocab, n_ctx = e->info.n_ctx;
    if (p->n_prompt < 1 || !p->prompt)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the prompt is empty: at least one token is needed");
    for (int i = 0; i < p->n_prompt; i++)
        if (p->prompt[i] >= (uint32_t)n_vocab)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "prompt: token %u at index %d is outside the vocabulary (0..%d)", p->prompt[i], i,
                           n_vocab - 1);
    if (p->n_prompt >= n_ctx && !(e->params.context_shift && p->n_prompt == n_ctx))
        return td_fail(err, TD_ERR_CONTEXT, TD_NO_OFFSET,
                       "request (%d tokens) exceeds the available context size (%d tokens), try increasing it",
                       p->n_prompt, n_ctx);
    if (p->n_predict < -1)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "n_predict must be -1 or more, not %d", p->n_predict);
    if (p->slot < -1 || p->slot >= e->params.n_slots)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "slot %d does not exist: there are %d", p->slot,
                       e->params.n_slots);
    if (p->n_probs < 0 || p->n_probs > n_vocab)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "n_probs must be 0..%d, not %d", n_vocab, p->n_probs);
    if (p->n_stop < 0 || p->n_stop > 1024)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "at most 1024 stop strings, not %d", p->n_stop);
    if (p->spec.n_max < 0 || p->spec.n_max > TD_MAX_DRAFT || p->spec.n_min < 0 ||
        !(p->spec.p_min >= 0 && p->spec.p_min <= 1))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "speculation: n_max must be 0..%d, n_min 0 or more, p_min 0..1", TD_MAX_DRAFT);
    return check_reasoning(&p->reasoning, n_vocab, err);
}

static void clamp_spec(const td_engine *e, td_spec_params *s) {
    const td_spec_params *most = &e->params.spec;
    s->types &= most->types | TD_SPEC_GRAMMAR;
    if (s->n_max > most->n_max) s->n_max = most->n_max;
}

static td_status fill(td_job *j, td_error *err) {
    td_engine *e = j->engine;
    td_job_params *p = &j->params;
    j->prompt = td_calloc((size_t)p->n_prompt, sizeof *j->prompt);
    if (!j->prompt) goto no_memory;
    memcpy(j->prompt, p->prompt, (size_t)p->n_prompt * sizeof *j->prompt);
    p->prompt = j->prompt;
    j->cap_marks = p->n_prompt / 16 + 4; /* steps of 16 positions, the least beside others that generate */
    if (!(j->marks = td_calloc((size_t)j->cap_marks, sizeof *j->marks))) goto no_memory;
    if (p->cache_key) {
        if (!(j->cache_key = strdup(p->cache_key))) goto no_memory;
        p->cache_key = j->cache_key;
    }
    uint32_t n_ends = 0;
    const uint32_t *ends = td_vocab_ends(e->vocab, &n_ends);
    td_sampler_env env = {.n_vocab = e->info.n_vocab,
                          .end_tokens = ends,
                          .n_end_tokens = (int)n_ends,
                          .n_ctx = e->info.n_ctx,
                          .tokenize = tokenize_plain,
                          .user = e->vocab};
    td_status status = td_sampler_create(&j->sampler, &p->sampling, &env, err);
    if (!status) status = td_stream_init(&j->stream, e->vocab, p->stop, p->n_stop, p->special_text, err);
    if (!status) status = td_reasoning_init(&j->reasoning, &p->reasoning, err);
    if (!status && p->grammar) status = td_grammar_state_create(&j->sentence, p->grammar, err);
    if (!status && p->grammar && p->grammar_trigger != TD_TOKEN_NONE)
        status = td_grammar_state_create(&j->pristine, p->grammar, err);
    if (!j->pristine) j->grammar = j->sentence;
    p->sampling.biases = NULL; /* the sampler has its own copies */
    p->sampling.dry_breakers = NULL;
    p->stop = NULL;
    p->reasoning.closing = NULL;
    return status;
no_memory:
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a request");
}

td_status td_job_submit(td_engine *e, const td_job_params *p, td_job **out, td_error *err) {
    *out = NULL;
    td_grammar *grammar = p->grammar; /* taken over, also on failure */
    td_status status = check(e, p, err);
    td_job *j = status ? NULL : td_calloc(1, sizeof *j);
    if (!j) {
        td_grammar_unref(grammar);
        return status ? status : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a request");
    }
    j->engine = e;
    j->params = *p;
    j->now.slot = j->seen.slot = -1;
    j->t_submit_ns = td_clock_ns();
    pthread_mutex_init(&j->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&j->ready, &attr);
    pthread_condattr_destroy(&attr);
    clamp_spec(e, &j->params.spec);
    status = fill(j, err);
    td_grammar_unref(grammar); /* the state holds its own reference */
    j->params.grammar = NULL;
    if (status) {
        job_free(j);
        return status;
    }
    pthread_mutex_lock(&e->lock);
    if (e->n_queue >= TD_QUEUE_MAX || e->stop) {
        pthread_mutex_unlock(&e->lock);
        job_free(j);
        return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "the queue is full (%d requests wait)", TD_QUEUE_MAX);
    }
    j->id = e->next_job_id++;
    td_job **at = &e->queue;
    while (*at && (*at)->params.priority <= j->params.priority) at = &(*at)->next;
    j->next = *at;
    *at = j;
    j->owned_by_engine = true;
    e->n_queue++;
    e->n_open_jobs++;
    td_engine_wake(e);
    pthread_mutex_unlock(&e->lock);
    *out = j;
    return TD_OK;
}

/* ---- reading ---- */

static struct timespec deadline(int timeout_ms) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    return t;
}

static bool has_mail(const td_job *j) {
    return j->in.n_tokens > 0 || j->in.text.n_bytes > 0 || j->at_mark < j->n_marks || j->done;
}

/* Takes what waits: each step of the prompt by itself, then tokens and text, the end last. */
static void take(td_job *j, td_event *ev) {
    bool progress = j->at_mark < j->n_marks;
    if (!progress) {
        struct td_mail t = j->out;
        j->out = j->in;
        j->in = t;
        j->in.n_tokens = 0;
        td_buf_clear(&j->in.text);
    }
    *ev = (td_event){
        .kind = progress                                         ? TD_EVENT_PROGRESS
                : j->out.n_tokens > 0 || j->out.text.n_bytes > 0 ? TD_EVENT_TOKENS
                                                                 : TD_EVENT_DONE,
        .prompt_total = j->params.n_prompt,
        .prompt_cached = j->seen.prompt_cached,
        .prompt_done = progress ? j->marks[j->at_mark++] : j->seen.prompt_done,
        .tokens = progress ? NULL : j->out.tokens,
        .drafted = j->out.drafted,
        .probs = j->params.n_probs > 0 ? j->out.probs : NULL,
        .n_tokens = progress ? 0 : j->out.n_tokens,
        .n_probs = j->params.n_probs,
        .text = j->out.text.data ? j->out.text.data : "",
        .n_text = progress ? 0 : j->out.text.n_bytes,
        .slot = j->seen.slot,
        .truncated = j->seen.truncated,
        .has_new_line = j->seen.has_new_line,
        .cache_note = j->seen.cache_note,
        .timings = j->seen.timings,
    };
    if (ev->kind != TD_EVENT_DONE) return;
    ev->finish = j->finish;
    ev->stop_string = j->finish == TD_FINISH_STOP ? j->stream.stop[j->stream.matched] : NULL;
    ev->error = j->finish == TD_FINISH_ERROR ? &j->error : NULL;
    j->done_read = true;
}

td_status td_job_read(td_job *j, td_event *out, int timeout_ms) {
    td_status status = TD_OK;
    struct timespec until = deadline(timeout_ms < 0 ? 0 : timeout_ms);
    pthread_mutex_lock(&j->lock);
    if (j->done_read) status = TD_ERR_NOT_FOUND;
    while (!status && !has_mail(j)) {
        if (timeout_ms < 0)
            pthread_cond_wait(&j->ready, &j->lock);
        else if (pthread_cond_timedwait(&j->ready, &j->lock, &until) == ETIMEDOUT && !has_mail(j))
            status = TD_ERR_BUSY;
    }
    if (!status) take(j, out);
    pthread_mutex_unlock(&j->lock);
    return status;
}

void td_job_cancel(td_job *j) {
    td_engine *e = j->engine;
    atomic_store(&j->cancelled, true);
    pthread_mutex_lock(&e->lock);
    td_engine_wake(e);
    pthread_mutex_unlock(&e->lock);
}

void td_job_end_reasoning(td_job *j) {
    atomic_store(&j->reasoning.asked, true);
}

void td_job_close(td_job *j) {
    if (!j) return;
    td_engine *e = j->engine;
    td_job_cancel(j);
    pthread_mutex_lock(&e->lock);
    while (j->owned_by_engine) pthread_cond_wait(&e->command_done, &e->lock);
    e->n_open_jobs--;
    pthread_mutex_unlock(&e->lock);
    job_free(j);
}

int td_job_id(const td_job *j) {
    return j->id;
}
