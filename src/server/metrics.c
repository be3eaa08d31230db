/* /metrics: Prometheus text format. llama-server's names, both families of speculative counters, and Tandem's own. */
#include "app.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_BOUNDS 16
static const double bounds[N_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                        0.5,   1,      2.5,   5,    10,    30,   60,  120};

void latency_add(latency *l, double seconds) {
    int i = 0;
    while (i < N_BOUNDS && seconds > bounds[i]) i++;
    atomic_fetch_add(&l->bucket[i], 1);
    atomic_fetch_add(&l->count, 1);
    double old = atomic_load(&l->sum);
    while (!atomic_compare_exchange_weak(&l->sum, &old, old + seconds)) {
    }
}

/* Tokens are counted with the bounds' thousands: 1, 2.5, … 120,000. */
void size_add(latency *l, int n) {
    latency_add(l, (double)n * 1e-3);
}

/* ---- the last minute ---- */

enum { N_SECONDS = 60 };

typedef struct rate_sample {
    uint64_t prompt_tokens, prompt_ns, predicted_tokens, predicted_ns;
} rate_sample;

struct rates {
    pthread_mutex_t lock;
    rate_sample at[N_SECONDS];
    int n; /* written so far */
};

td_status rates_create(server *s, td_error *err) {
    s->rates = td_calloc(1, sizeof *s->rates);
    if (!s->rates) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    pthread_mutex_init(&s->rates->lock, NULL);
    return TD_OK;
}

void rates_destroy(server *s) {
    if (s->rates) pthread_mutex_destroy(&s->rates->lock);
    free(s->rates);
}

static rate_sample sample_of(const td_counters *c) {
    return (rate_sample){c->prompt_tokens, c->prompt_ns, c->predicted_tokens, c->predicted_ns};
}

void rates_note(server *s) {
    td_counters c;
    td_counters_get(s->engine, &c);
    pthread_mutex_lock(&s->rates->lock);
    s->rates->at[s->rates->n++ % N_SECONDS] = sample_of(&c);
    if (s->rates->n == 2 * N_SECONDS) s->rates->n = N_SECONDS;
    pthread_mutex_unlock(&s->rates->lock);
}

/* What has grown since a minute ago, or since the start. */
static rate_sample last_minute(server *s, const td_counters *now) {
    rate_sample old = {0}, d = sample_of(now);
    pthread_mutex_lock(&s->rates->lock);
    if (s->rates->n >= N_SECONDS) old = s->rates->at[s->rates->n % N_SECONDS];
    pthread_mutex_unlock(&s->rates->lock);
    return (rate_sample){d.prompt_tokens - old.prompt_tokens, d.prompt_ns - old.prompt_ns,
                         d.predicted_tokens - old.predicted_tokens, d.predicted_ns - old.predicted_ns};
}

static double per_second(uint64_t n, uint64_t ns) {
    return ns > 0 ? (double)n * 1e9 / (double)ns : 0;
}

/* ---- the format ---- */

static void head(td_buf *b, const char *name, const char *type, const char *help) {
    (void)td_buf_printf(b, "# HELP llamacpp:%s %s\n# TYPE llamacpp:%s %s\n", name, help, name, type);
}

static void value(td_buf *b, const char *name, const char *type, const char *help, double v) {
    head(b, name, type, help);
    (void)td_buf_printf(b, "llamacpp:%s %.17g\n", name, v);
}

/* `scale`: a value of the table's bounds in the unit that is printed. */
static void scaled_histogram(td_buf *b, const char *name, const char *help, latency *l, double scale) {
    head(b, name, "histogram", help);
    unsigned long long sum = 0;
    for (int i = 0; i < N_BOUNDS; i++) {
        sum += atomic_load(&l->bucket[i]);
        (void)td_buf_printf(b, "llamacpp:%s_bucket{le=\"%g\"} %llu\n", name, bounds[i] * scale, sum);
    }
    sum += atomic_load(&l->bucket[N_BOUNDS]);
    (void)td_buf_printf(b, "llamacpp:%s_bucket{le=\"+Inf\"} %llu\nllamacpp:%s_sum %.9g\nllamacpp:%s_count %llu\n", name,
                        sum, name, atomic_load(&l->sum) * scale, name, sum);
}

static void histogram(td_buf *b, const char *name, const char *help, latency *l) {
    scaled_histogram(b, name, help, l, 1);
}

/* The text of a label, escaped. */
static void label(td_buf *b, const char *text) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') (void)td_buf_add_char(b, '\\');
        (void)td_buf_add_char(b, *text == '\n' ? ' ' : *text);
    }
}

static void by_type(td_buf *b, const char *name, const char *help, const td_counters *c, size_t offset) {
    static const char *const types[] = {"mtp", "ngram-simple", "grammar"};
    const td_spec_counters *sets[] = {&c->mtp, &c->ngram, &c->grammar};
    head(b, name, "counter", help);
    for (int i = 0; i < 3; i++)
        (void)td_buf_printf(b, "llamacpp:%s{spec_type=\"%s\"} %llu\n", name, types[i],
                            (unsigned long long)*(const uint64_t *)(const void *)((const char *)sets[i] + offset));
}

static void speculation(td_buf *b, const td_counters *c) {
    by_type(b, "speculative_drafts_generated_total", "Number of speculative draft batches generated.", c,
            offsetof(td_spec_counters, drafts));
    by_type(b, "speculative_drafts_accepted_total", "Number of speculative draft batches accepted at least partially.",
            c, offsetof(td_spec_counters, drafts_accepted));
    by_type(b, "speculative_draft_tokens_generated_total", "Number of speculative draft tokens generated.", c,
            offsetof(td_spec_counters, tokens));
    by_type(b, "speculative_draft_tokens_accepted_total",
            "Number of speculative draft tokens accepted by the target model.", c,
            offsetof(td_spec_counters, tokens_accepted));
    uint64_t drafts = c->mtp.drafts + c->ngram.drafts + c->grammar.drafts,
             tokens = c->mtp.tokens + c->ngram.tokens + c->grammar.tokens;
    uint64_t accepted = c->mtp.tokens_accepted + c->ngram.tokens_accepted + c->grammar.tokens_accepted;
    value(b, "spec_decode_num_drafts_total", "counter", "Number of drafts.", (double)drafts);
    value(b, "spec_decode_num_draft_tokens_total", "counter", "Number of draft tokens.", (double)tokens);
    value(b, "spec_decode_num_accepted_tokens_total", "counter", "Number of accepted draft tokens.", (double)accepted);
    head(b, "spec_decode_num_accepted_tokens_per_pos_total", "counter", "Accepted draft tokens by position.");
    for (int i = 0; i < TD_MAX_DRAFT; i++) {
        uint64_t n = c->mtp.accepted_at[i] + c->ngram.accepted_at[i] + c->grammar.accepted_at[i];
        if (i == 0 || n > 0)
            (void)td_buf_printf(b, "llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position=\"%d\"} %llu\n", i,
                                (unsigned long long)n);
    }
    head(b, "spec_depth_rounds_total", "counter", "Rounds by the depth that the policy chose.");
    for (int i = 0; i <= TD_MAX_DRAFT; i++)
        if (i <= 3 || c->depth_chosen[i] > 0)
            (void)td_buf_printf(b, "llamacpp:spec_depth_rounds_total{depth=\"%d\"} %llu\n", i,
                                (unsigned long long)c->depth_chosen[i]);
}

static void requests(td_buf *b, server *s) {
    static const char *const reasons[N_FINISHES] = {"stop", "length", "tool_calls", "cancelled", "error"};
    head(b, "requests_total", "counter", "Finished generations by their reason to end.");
    for (int i = 0; i < N_FINISHES; i++)
        (void)td_buf_printf(b, "llamacpp:requests_total{finish_reason=\"%s\"} %llu\n", reasons[i],
                            atomic_load(&s->finishes[i]));
    head(b, "http_responses_total", "counter", "Answers by class of status.");
    for (int i = 2; i <= 5; i++)
        if (i != 3)
            (void)td_buf_printf(b, "llamacpp:http_responses_total{status=\"%dxx\"} %llu\n", i,
                                atomic_load(&s->requests[i - 1]));
    value(b, "tool_calls_total", "counter", "Tool calls in answers.", (double)atomic_load(&s->n_calls));
    value(b, "tool_parse_failures_total", "counter", "Calls that could not be understood.",
          (double)atomic_load(&s->n_call_failures));
    head(b, "model_info", "gauge", "The model that answers.");
    (void)td_buf_add_str(b, "llamacpp:model_info{name=\"");
    label(b, s->model_id);
    (void)td_buf_add_str(b, "\",ftype=\"");
    label(b, s->info.file_type);
    (void)td_buf_add_str(b, "\",build=\"tandem-" TD_VERSION "\"} 1\n");
}

static void caches(td_buf *b, const td_counters *c) {
    value(b, "prefix_cache_queries_total", "counter", "Prompt tokens asked for.", (double)c->cache_queries);
    value(b, "prefix_cache_hits_total", "counter", "Prompt tokens found in a cache.", (double)c->cache_hits);
    value(b, "prompt_cache_entries", "gauge", "Conversations kept beside the slots.", (double)c->parked);
    value(b, "prompt_cache_bytes", "gauge", "Their size.", (double)c->parked_bytes);
    value(b, "prompt_cache_hits_total", "counter", "Prompts that went on from one of them.", (double)c->parked_hits);
    value(b, "prompt_cache_hit_tokens_total", "counter", "Tokens taken from them.", (double)c->parked_hit_tokens);
    value(b, "ctx_checkpoints", "gauge", "Windows kept to come back to.", (double)c->n_checkpoints);
    value(b, "ctx_checkpoint_bytes", "gauge", "Their size.", (double)c->checkpoint_bytes);
    head(b, "prompt_full_reprocess_total", "counter", "Prompts read again although tokens were in common.");
    (void)td_buf_printf(b, "llamacpp:prompt_full_reprocess_total{reason=\"no_window\"} %llu\n",
                        (unsigned long long)c->reprocessed);
    value(b, "grammar_resamples_total", "counter", "Draws that a grammar sent back.", (double)c->resampled);
}

http_turn serve_metrics(server *s, http_exchange *x) {
    if (!s->o->metrics)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support metrics endpoint. Start it with `--metrics`");
    td_counters c;
    td_counters_get(s->engine, &c);
    rate_sample minute = last_minute(s, &c);
    td_buf b = {0};
    double ps = (double)c.prompt_ns * 1e-9, gs = (double)c.predicted_ns * 1e-9;
    value(&b, "prompt_tokens_total", "counter", "Number of prompt tokens processed.", (double)c.prompt_tokens);
    value(&b, "prompt_seconds_total", "counter", "Prompt process time", ps);
    value(&b, "tokens_predicted_total", "counter", "Number of generation tokens processed.",
          (double)c.predicted_tokens);
    value(&b, "tokens_predicted_seconds_total", "counter", "Predict process time", gs);
    value(&b, "n_decode_total", "counter", "Total number of llama_decode() calls", (double)c.steps);
    value(&b, "n_tokens_max", "counter", "Largest observed n_tokens.", c.n_tokens_max);
    value(&b, "prompt_tokens_seconds", "gauge", "Average prompt throughput in tokens/s.",
          per_second(minute.prompt_tokens, minute.prompt_ns));
    value(&b, "predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s.",
          per_second(minute.predicted_tokens, minute.predicted_ns));
    value(&b, "requests_processing", "gauge", "Number of requests processing.", c.n_processing);
    value(&b, "requests_deferred", "gauge", "Number of requests deferred.", c.n_deferred);
    value(&b, "n_busy_slots_per_decode", "gauge", "Average number of busy slots per llama_decode() call.",
          c.steps ? (double)c.slot_steps / (double)c.steps : 0);
    value(&b, "kv_cache_usage_ratio", "gauge", "Used share of the cache.",
          c.kv_bytes_total ? (double)c.kv_bytes_used / (double)c.kv_bytes_total : 0);
    value(&b, "kv_cache_tokens", "gauge", "Positions held by slots.", (double)c.kv_tokens);
    value(&b, "kv_cache_bytes", "gauge", "Bytes of the cache in use.", (double)c.kv_bytes_used);
    value(&b, "slots_busy", "gauge", "Slots at work.", c.n_processing);
    speculation(&b, &c);
    requests(&b, s);
    caches(&b, &c);
    histogram(&b, "time_to_first_token_seconds", "Time to first token.", &s->ttft);
    histogram(&b, "inter_token_latency_seconds", "Mean time between tokens of a request.", &s->token);
    histogram(&b, "e2e_request_latency_seconds", "Time of a whole request.", &s->total);
    histogram(&b, "request_queue_time_seconds", "Time in the queue.", &s->queue);
    scaled_histogram(&b, "request_prompt_tokens", "Prompt tokens of a request.", &s->prompt_size, 1000);
    scaled_histogram(&b, "request_generation_tokens", "Generated tokens of a request.", &s->answer_size, 1000);
    char started[32];
    snprintf(started, sizeof started, "%lld", (long long)s->started_s);
    http_add_header(x, "Process-Start-Time-Unix", started);
    http_turn t = answer_text(x, 200, "text/plain; version=0.0.4", b.data ? b.data : "", b.n_bytes);
    td_buf_free(&b);
    return t;
}
