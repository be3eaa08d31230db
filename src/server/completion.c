/* llama-server's /completion and OpenAI's /v1/completions. */
#include "app.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void send_event(task *t, const char *event, json_t *data) {
    char *text = json_dumps(data, JSON_FLAGS);
    json_decref(data);
    td_buf *out = http_out(t->x);
    if (event) (void)td_buf_printf(out, "event: %s\n", event);
    if (text) {
        (void)td_buf_add_str(out, "data: ");
        (void)td_buf_add_str(out, text);
        (void)td_buf_add_str(out, "\n\n");
    }
    free(text);
}

static double per_second(int n, double ms) {
    return ms > 0 ? 1e3 * n / ms : 0;
}

json_t *timings_json(const td_timings *t) {
    int np = t->prompt_n > 0 ? t->prompt_n : 1, ng = t->predicted_n > 0 ? t->predicted_n : 1;
    json_t *o =
        json_pack("{s:i,s:i,s:f,s:f,s:f,s:i,s:f,s:f,s:f,s:f,s:f}", "cache_n", t->cache_n, "prompt_n", t->prompt_n,
                  "prompt_ms", t->prompt_ms, "prompt_per_token_ms", t->prompt_ms / np, "prompt_per_second",
                  per_second(t->prompt_n, t->prompt_ms), "predicted_n", t->predicted_n, "predicted_ms", t->predicted_ms,
                  "predicted_per_token_ms", t->predicted_ms / ng, "predicted_per_second",
                  per_second(t->predicted_n, t->predicted_ms), "queue_ms", t->queue_ms, "ttft_ms", t->ttft_ms);
    if (t->draft_n == 0) return o;
    json_object_set_new(o, "draft_n", json_integer(t->draft_n));
    json_object_set_new(o, "draft_n_accepted", json_integer(t->draft_n_accepted));
    json_object_set_new(o, "draft_rounds", json_integer(t->draft_rounds));
    json_object_set_new(o, "draft_mean_len",
                        json_real(1.0 + (double)t->draft_n_accepted / (t->draft_rounds > 0 ? t->draft_rounds : 1)));
    return o;
}

static json_t *token_json(const server *s, uint32_t id, float logprob, bool post) {
    size_t n = 0;
    const char *text = id == TD_TOKEN_NONE ? "" : td_token_text(s->engine, id, true, &n);
    json_t *o = json_object(), *bytes = json_array(), *string = json_stringn(text, n);
    for (size_t i = 0; i < n; i++) json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    json_object_set_new(o, "id", json_integer(id));
    json_object_set_new(o, "token", string ? string : json_string("\xEF\xBF\xBD"));
    json_object_set_new(o, "bytes", bytes);
    double lp = logprob < -3.4e38f ? -3.4028234663852886e38 : (double)logprob;
    json_object_set_new(o, post ? "prob" : "logprob", json_real(post ? exp((double)logprob) : lp));
    return o;
}

json_t *probs_json(const server *s, const td_event *ev, int i, bool post) {
    const td_prob *row = ev->probs + (size_t)i * (size_t)(ev->n_probs + 1);
    json_t *o = token_json(s, row[0].token, row[0].logprob, post), *top = json_array();
    for (int k = 1; k <= ev->n_probs; k++)
        if (row[k].token != TD_TOKEN_NONE)
            json_array_append_new(top, token_json(s, row[k].token, row[k].logprob, post));
    json_object_set_new(o, post ? "top_probs" : "top_logprobs", top);
    return o;
}

json_t *usage_json(const task *t) {
    int generated = 0, cached = 0;
    for (int i = 0; i < t->f.n; i++) {
        generated += t->choices[i].timings.predicted_n;
        if (t->choices[i].timings.cache_n > cached) cached = t->choices[i].timings.cache_n;
    }
    return json_pack("{s:i,s:i,s:i,s:{s:i}}", "prompt_tokens", (int)t->ids.n, "completion_tokens", generated,
                     "total_tokens", (int)t->ids.n + generated, "prompt_tokens_details", "cached_tokens", cached);
}

static const char *stop_type(td_finish f) {
    return f == TD_FINISH_END                                                       ? "eos"
           : f == TD_FINISH_STOP                                                    ? "word"
           : f == TD_FINISH_LENGTH || f == TD_FINISH_CONTEXT || f == TD_FINISH_TIME ? "limit"
                                                                                    : "none";
}

static json_t *text_json(const char *text, size_t n) {
    json_t *s = json_stringn(text ? text : "", n);
    return s ? s : json_string("");
}

static json_t *oai_head(const task *t) {
    return json_pack("{s:s,s:s,s:I,s:s,s:s}", "id", t->head.id, "object", "text_completion", "created",
                     (json_int_t)time(NULL), "model", t->model, "system_fingerprint", "tandem-" TD_VERSION);
}

static json_t *oai_choice(const choice *c, json_t *text, json_t *probs, json_t *finish) {
    json_t *o = json_pack("{s:i,s:o,s:o}", "index", c->index, "text", text, "finish_reason", finish);
    json_object_set_new(o, "logprobs", probs ? json_pack("{s:o}", "content", probs) : json_null());
    return o;
}

void completion_event(task *t, choice *c, const td_event *ev) {
    json_t *probs = NULL;
    if (ev->probs) {
        probs = json_array();
        for (int i = 0; i < ev->n_tokens; i++)
            json_array_append_new(probs, probs_json(t->s, ev, i, t->f.job.post_sampling_probs));
    }
    c->n_seen += ev->n_tokens;
    if (!t->streaming) {
        (void)td_buf_add(&c->text, ev->text, ev->n_text);
        if (probs && !c->probs) c->probs = json_array();
        if (probs) json_array_extend(c->probs, probs);
        json_decref(probs);
        return;
    }
    json_t *o = NULL;
    if (t->api == API_COMPLETION) {
        json_t *ids = json_array();
        for (int i = 0; i < ev->n_tokens; i++) json_array_append_new(ids, json_integer(ev->tokens[i]));
        o = json_pack("{s:i,s:o,s:o,s:b,s:i,s:i,s:i}", "index", c->index, "content", text_json(ev->text, ev->n_text),
                      "tokens", ids, "stop", 0, "id_slot", ev->slot, "tokens_predicted", c->n_seen, "tokens_evaluated",
                      ev->prompt_total);
        if (probs) json_object_set(o, "completion_probabilities", probs);
    } else {
        o = oai_head(t);
        json_object_set_new(o, "choices",
                            json_pack("[o]", oai_choice(c, text_json(ev->text, ev->n_text),
                                                        probs ? json_incref(probs) : NULL, json_null())));
    }
    if (t->f.timings_per_token) json_object_set_new(o, "timings", timings_json(&ev->timings));
    json_decref(probs);
    send_event(t, NULL, o);
}

static json_t *native_final(task *t, choice *c) {
    json_t *ids = json_array(), *o = json_object();
    for (size_t i = 0; t->f.return_tokens && i < c->n_tokens; i++)
        json_array_append_new(ids, json_integer(c->tokens[i]));
    td_buf prompt = {0};
    (void)td_vocab_detokenize(t->s->vocab, t->ids.ids, t->ids.n, true, &prompt, NULL);
    json_object_set_new(o, "index", json_integer(c->index));
    json_object_set_new(o, "content", t->streaming ? json_string("") : text_json(c->text.data, c->text.n_bytes));
    json_object_set_new(o, "tokens", ids);
    json_object_set_new(o, "id_slot", json_integer(c->slot));
    json_object_set_new(o, "stop", json_true());
    json_object_set_new(o, "model", json_string(t->model));
    json_object_set_new(o, "tokens_predicted", json_integer(c->timings.predicted_n));
    json_object_set_new(o, "tokens_evaluated", json_integer(c->n_prompt));
    json_object_set_new(o, "generation_settings", fields_settings(t->s, &t->f.job));
    json_object_set_new(o, "prompt", text_json(prompt.data, prompt.n_bytes));
    json_object_set_new(o, "has_new_line", json_boolean(c->text.data && memchr(c->text.data, '\n', c->text.n_bytes)));
    json_object_set_new(o, "truncated", json_boolean(c->truncated || c->finish == TD_FINISH_CONTEXT));
    json_object_set_new(o, "stop_type", json_string(stop_type(c->finish)));
    json_object_set_new(o, "stopping_word", json_string(c->stop_word));
    json_object_set_new(o, "tokens_cached", json_integer(c->n_prompt + c->timings.predicted_n));
    json_object_set_new(o, "timings", timings_json(&c->timings));
    if (c->probs && !t->streaming) json_object_set(o, "completion_probabilities", c->probs);
    td_buf_free(&prompt);
    return o;
}

static json_t *finish_reason(td_finish f) {
    return json_string(f == TD_FINISH_END || f == TD_FINISH_STOP ? "stop" : "length");
}

void completion_end(task *t, choice *c) {
    if (!t->streaming) return;
    if (t->api == API_COMPLETION) {
        send_event(t, NULL, native_final(t, c));
        return;
    }
    json_t *o = oai_head(t);
    json_object_set_new(o, "choices", json_pack("[o]", oai_choice(c, json_string(""), NULL, finish_reason(c->finish))));
    bool last = true;
    for (int i = 0; i < t->f.n; i++) last &= t->choices[i].done;
    if (last && !t->f.include_usage) json_object_set_new(o, "timings", timings_json(&c->timings));
    send_event(t, NULL, o);
    if (!last) return;
    if (t->f.include_usage) {
        o = oai_head(t);
        json_object_set_new(o, "choices", json_array());
        json_object_set_new(o, "usage", usage_json(t));
        json_object_set_new(o, "timings", timings_json(&c->timings));
        send_event(t, NULL, o);
    }
    (void)td_buf_add_str(http_out(t->x), "data: [DONE]\n\n");
}

http_turn completion_answer(task *t) {
    if (t->api == API_COMPLETION) {
        if (t->f.n == 1) return answer_json(t->x, 200, native_final(t, &t->choices[0]));
        json_t *list = json_array();
        for (int i = 0; i < t->f.n; i++) json_array_append_new(list, native_final(t, &t->choices[i]));
        return answer_json(t->x, 200, list);
    }
    json_t *o = oai_head(t), *list = json_array();
    for (int i = 0; i < t->f.n; i++) {
        choice *c = &t->choices[i];
        td_buf text = {0};
        if (t->f.echo) (void)td_vocab_detokenize(t->s->vocab, t->ids.ids, t->ids.n, false, &text, NULL);
        (void)td_buf_add(&text, c->text.data ? c->text.data : "", c->text.n_bytes);
        json_array_append_new(list, oai_choice(c, text_json(text.data, text.n_bytes),
                                               c->probs ? json_incref(c->probs) : NULL, finish_reason(c->finish)));
        td_buf_free(&text);
    }
    json_object_set_new(o, "choices", list);
    json_object_set_new(o, "usage", usage_json(t));
    json_object_set_new(o, "timings", timings_json(&t->choices[0].timings));
    return answer_json(t->x, 200, o);
}
