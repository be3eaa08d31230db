#include "timings.h"

double timings_per_second(int n, double ms) {
    return ms > 0 ? 1e3 * n / ms : 0;
}

double timings_mean_length(const td_timings *t) {
    return 1.0 + (double)t->draft_n_accepted / (t->draft_rounds > 0 ? t->draft_rounds : 1);
}

static json_t *speculation(json_t *o, const td_timings *t) {
    json_t *at = json_array();
    for (int i = 0; i < TD_MAX_DRAFT && t->accepted_at[i] > 0; i++)
        json_array_append_new(at, json_integer(t->accepted_at[i]));
    json_object_set_new(o, "draft_n", json_integer(t->draft_n));
    json_object_set_new(o, "draft_n_accepted", json_integer(t->draft_n_accepted));
    json_object_set_new(o, "draft_rounds", json_integer(t->draft_rounds));
    json_object_set_new(o, "draft_mean_len", json_real(timings_mean_length(t)));
    json_object_set_new(o, "accepted_at", at);
    json_object_set_new(o, "draft_ms", json_real(t->draft_ms));
    json_object_set_new(o, "verify_ms", json_real(t->verify_ms));
    return o;
}

json_t *timings_json(const td_timings *t) {
    int np = t->prompt_n > 0 ? t->prompt_n : 1, ng = t->predicted_n > 0 ? t->predicted_n : 1;
    json_t *o =
        json_pack("{s:i,s:i,s:f,s:f,s:f,s:i,s:f,s:f,s:f,s:f,s:f}", "cache_n", t->cache_n, "prompt_n", t->prompt_n,
                  "prompt_ms", t->prompt_ms, "prompt_per_token_ms", t->prompt_ms / np, "prompt_per_second",
                  timings_per_second(t->prompt_n, t->prompt_ms), "predicted_n", t->predicted_n, "predicted_ms",
                  t->predicted_ms, "predicted_per_token_ms", t->predicted_ms / ng, "predicted_per_second",
                  timings_per_second(t->predicted_n, t->predicted_ms), "queue_ms", t->queue_ms, "ttft_ms", t->ttft_ms);
    return t->draft_n > 0 ? speculation(o, t) : o;
}

const char *stop_type(td_finish f) {
    switch (f) {
    case TD_FINISH_END:
        return "eos";
    case TD_FINISH_STOP:
        return "word";
    case TD_FINISH_LENGTH:
    case TD_FINISH_CONTEXT:
    case TD_FINISH_TIME:
        return "limit";
    default:
        return "none";
    }
}
