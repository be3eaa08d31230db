/* /metrics: Prometheus text format. llama-server's names, both families of speculative counters, and Tandem's own. */
#include "app.h"

#include <stdio.h>
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

static void head(td_buf *b, const char *name, const char *type, const char *help) {
    (void)td_buf_printf(b, "# HELP llamacpp:%s %s\n# TYPE llamacpp:%s %s\n", name, help, name, type);
}

static void value(td_buf *b, const char *name, const char *type, const char *help, double v) {
    head(b, name, type, help);
    (void)td_buf_printf(b, "llamacpp:%s %.17g\n", name, v);
}

static void histogram(td_buf *b, const char *name, const char *help, latency *l) {
    head(b, name, "histogram", help);
    unsigned long long sum = 0;
    for (int i = 0; i < N_BOUNDS; i++) {
        sum += atomic_load(&l->bucket[i]);
        (void)td_buf_printf(b, "llamacpp:%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], sum);
    }
    sum += atomic_load(&l->bucket[N_BOUNDS]);
    (void)td_buf_printf(b, "llamacpp:%s_bucket{le=\"+Inf\"} %llu\nllamacpp:%s_sum %.9g\nllamacpp:%s_count %llu\n", name,
                        sum, name, atomic_load(&l->sum), name, sum);
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

http_turn serve_metrics(server *s, http_exchange *x) {
    if (!s->o->metrics)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support metrics endpoint. Start it with `--metrics`");
    td_counters c;
    td_counters_get(s->engine, &c);
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
          ps > 0 ? (double)c.prompt_tokens / ps : 0);
    value(&b, "predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s.",
          gs > 0 ? (double)c.predicted_tokens / gs : 0);
    value(&b, "requests_processing", "gauge", "Number of requests processing.", c.n_processing);
    value(&b, "requests_deferred", "gauge", "Number of requests deferred.", c.n_deferred);
    value(&b, "n_busy_slots_per_decode", "gauge", "Average number of busy slots per llama_decode() call.",
          c.steps ? (double)c.slot_steps / (double)c.steps : 0);
    value(&b, "kv_cache_usage_ratio", "gauge", "Used share of the cache.",
          c.kv_bytes_total ? (double)c.kv_bytes_used / (double)c.kv_bytes_total : 0);
    value(&b, "kv_cache_bytes", "gauge", "Bytes of the cache in use.", (double)c.kv_bytes_used);
    value(&b, "prefix_cache_queries_total", "counter", "Prompt tokens asked for.", (double)c.cache_queries);
    value(&b, "prefix_cache_hits_total", "counter", "Prompt tokens found in a cache.", (double)c.cache_hits);
    value(&b, "slots_busy", "gauge", "Slots at work.", c.n_processing);
    speculation(&b, &c);
    head(&b, "requests_total", "counter", "Answers by class of status.");
    for (int i = 2; i <= 5; i++)
        if (i != 3)
            (void)td_buf_printf(&b, "llamacpp:requests_total{status=\"%dxx\"} %llu\n", i,
                                atomic_load(&s->requests[i - 1]));
    histogram(&b, "time_to_first_token_seconds", "Time to first token.", &s->ttft);
    histogram(&b, "inter_token_latency_seconds", "Mean time between tokens of a request.", &s->token);
    histogram(&b, "e2e_request_latency_seconds", "Time of a whole request.", &s->total);
    histogram(&b, "request_queue_time_seconds", "Time in the queue.", &s->queue);
    char started[32];
    snprintf(started, sizeof started, "%lld", (long long)s->started_s);
    http_add_header(x, "Process-Start-Time-Unix", started);
    http_turn t = answer_text(x, 200, "text/plain; version=0.0.4", b.data ? b.data : "", b.n_bytes);
    td_buf_free(&b);
    return t;
}
