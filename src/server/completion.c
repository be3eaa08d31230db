/* llama-server's /completion and OpenAI's /v1/completions. */
#include "app.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- probabilities ---- */

static json_t *text_json(const char *text, size_t n) {
    json_t *s = json_stringn(text ? text : "", n);
    return s ? s : json_string("\xEF\xBF\xBD");
}

static json_t *token_json(const server *s, uint32_t id, float logprob, bool post) {
    size_t n = 0;
    const char *text = id == TD_TOKEN_NONE ? "" : td_token_text(s->engine, id, true, &n);
    json_t *o = json_object(), *bytes = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    json_object_set_new(o, "id", json_integer(id));
    json_object_set_new(o, "token", text_json(text, n));
    json_object_set_new(o, "bytes", bytes);
    double lp = logprob < -3.4e38f ? -3.4028234663852886e38 : (double)logprob; /* JSON has no infinity */
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

/* OpenAI's older members, which evaluation programs read, beside the list of chat: made from that list. */
static json_t *oai_probs(json_t *content, size_t *offset) {
    json_t *tokens = json_array(), *logprobs = json_array(), *top = json_array(), *offsets = json_array(), *p, *q;
    size_t i, k;
    json_array_foreach(content, i, p) {
        json_t *text = json_object_get(p, "token"), *best = json_object();
        const char *value = json_object_get(p, "logprob") ? "logprob" : "prob";
        json_array_append(tokens, text);
        json_array_append(logprobs, json_object_get(p, value));
        json_t *list = json_object_get(p, value[0] == 'l' ? "top_logprobs" : "top_probs");
        json_array_foreach(list, k, q) {
            json_object_set(best, json_string_value(json_object_get(q, "token")), json_object_get(q, value));
        }
        json_array_append_new(top, best);
        json_array_append_new(offsets, json_integer((json_int_t)*offset));
        *offset += json_string_length(text);
    }
    return json_pack("{s:o,s:o,s:o,s:o,s:o}", "content", content, "tokens", tokens, "token_logprobs", logprobs,
                     "top_logprobs", top, "text_offset", offsets);
}

/* ---- parts of answers ---- */

json_t *progress_json(const td_event *ev) {
    return json_pack("{s:i,s:i,s:i,s:f}", "total", ev->prompt_total, "cache", ev->prompt_cached, "processed",
                     ev->prompt_done, "time_ms", ev->timings.prompt_ms);
}

static json_t *usage_json(const task *t) {
    msg_usage u = task_usage(t);
    return json_pack("{s:I,s:I,s:I,s:{s:I},s:{s:I,s:I,s:I}}", "prompt_tokens", (json_int_t)u.n_prompt,
                     "completion_tokens", (json_int_t)u.n_generated, "total_tokens",
                     (json_int_t)u.n_prompt + (json_int_t)u.n_generated, "prompt_tokens_details", "cached_tokens",
                     (json_int_t)u.n_cached, "completion_tokens_details", "reasoning_tokens", (json_int_t)u.n_reasoning,
                     "accepted_prediction_tokens", (json_int_t)u.n_draft_accepted, "rejected_prediction_tokens",
                     (json_int_t)u.n_draft_rejected);
}

static json_t *oai_head(const task *t) {
    return json_pack("{s:s,s:s,s:I,s:s,s:s}", "id", t->head.id, "object", "text_completion", "created",
                     (json_int_t)t->head.created, "model", t->model, "system_fingerprint", t->head.fingerprint);
}

static json_t *oai_choice(choice *c, json_t *text, json_t *probs, json_t *finish) {
    json_t *o = json_pack("{s:i,s:o,s:o}", "index", c->index, "text", text, "finish_reason", finish);
    json_object_set_new(o, "logprobs", probs ? oai_probs(probs, &c->text_offset) : json_null());
    return o;
}

static json_t *oai_chunk(task *t, choice *c, json_t *text, json_t *probs, json_t *finish) {
    json_t *o = oai_head(t);
    json_object_set_new(o, "choices", json_pack("[o]", oai_choice(c, text, probs, finish)));
    return o;
}

static json_t *native_chunk(const choice *c, json_t *text, json_t *ids, const td_event *ev) {
    return json_pack("{s:i,s:o,s:o,s:b,s:i,s:i,s:i}", "index", c->index, "content", text, "tokens", ids, "stop", 0,
                     "id_slot", ev ? ev->slot : c->slot, "tokens_predicted", c->n_seen, "tokens_evaluated",
                     (int)c->prompt->n);
}

static json_t *finish_reason(td_finish f) {
    return json_string(f == TD_FINISH_END || f == TD_FINISH_STOP ? "stop" : "length");
}

static json_t *prompt_json(const task *t, const choice *c, bool special) {
    td_buf text = {0};
    (void)td_vocab_detokenize(t->s->vocab, c->prompt->ids, c->prompt->n, special, &text, NULL);
    json_t *o = text_json(text.data, text.n_bytes);
    td_buf_free(&text);
    return o;
}

/* ---- streams ---- */

/* `echo`: the prompt comes before everything else. */
void completion_begin(task *t) {
    for (int i = 0; i < t->n_choices && t->f.echo; i++) {
        choice *c = &t->choices[i];
        json_t *text = prompt_json(t, c, false);
        c->text_offset = json_string_length(text);
        send_event(t, NULL,
                   t->api == API_COMPLETION ? native_chunk(c, text, json_array(), NULL)
                                            : oai_chunk(t, c, text, NULL, json_null()));
    }
}

void completion_progress(task *t, choice *c, const td_event *ev) {
    json_t *o = t->api == API_COMPLETION ? native_chunk(c, json_string(""), json_array(), ev)
                                         : oai_chunk(t, c, json_string(""), NULL, json_null());
    json_object_set_new(o, "prompt_progress", progress_json(ev));
    send_event(t, NULL, o);
}

void completion_event(task *t, choice *c, const td_event *ev) {
    json_t *probs = ev->probs ? json_array() : NULL, *o = NULL;
    for (int i = 0; i < ev->n_tokens && probs; i++)
        json_array_append_new(probs, probs_json(t->s, ev, i, t->f.job.post_sampling_probs));
    c->n_seen += ev->n_tokens;
    if (!t->streaming) {
        (void)td_buf_add(&c->text, ev->text, ev->n_text);
        if (probs && !c->probs) c->probs = json_array();
        if (probs) json_array_extend(c->probs, probs);
        json_decref(probs);
        return;
    }
    if (t->api == API_COMPLETION) {
        json_t *ids = json_array();
        for (int i = 0; i < ev->n_tokens; i++) json_array_append_new(ids, json_integer(ev->tokens[i]));
        o = native_chunk(c, text_json(ev->text, ev->n_text), ids, ev);
        if (probs) json_object_set_new(o, "completion_probabilities", probs);
    } else {
        o = oai_chunk(t, c, text_json(ev->text, ev->n_text), probs, json_null());
    }
    if (t->f.timings_per_token) json_object_set_new(o, "timings", timings_json(&ev->timings));
    send_event(t, NULL, o);
}

/* ---- whole answers, and the last chunk of a native stream ---- */

/* Only the members that the request names, each under its whole path. */
static json_t *selected(task *t, json_t *o) {
    const td_json *paths = t->f.response_fields;
    json_t *out = paths ? json_object() : o;
    for (const td_json *p = paths ? paths->first : NULL; p; p = p->next) {
        char *path = td_arena_strndup(t->arena, p->text.n_bytes ? p->text.data : "", p->text.n_bytes);
        char *parts = td_arena_strndup(t->arena, path ? path : "", path ? strlen(path) : 0), *save = NULL;
        json_t *at = parts && *parts ? o : NULL;
        for (char *name = at ? strtok_r(parts, "/", &save) : NULL; name && at; name = strtok_r(NULL, "/", &save))
            at = json_object_get(at, name);
        if (at) json_object_set(out, path, at);
    }
    if (paths) json_decref(o);
    return out;
}

static json_t *native_final(task *t, choice *c) {
    json_t *ids = json_array(), *o = json_object();
    for (size_t i = 0; t->f.return_tokens && i < c->n_tokens; i++)
        json_array_append_new(ids, json_integer(c->tokens[i]));
    td_buf text = {0};
    if (!t->streaming && t->f.echo)
        (void)td_vocab_detokenize(t->s->vocab, c->prompt->ids, c->prompt->n, false, &text, NULL);
    if (!t->streaming) (void)td_buf_add(&text, c->text.data ? c->text.data : "", c->text.n_bytes);
    json_object_set_new(o, "index", json_integer(c->index));
    json_object_set_new(o, "content", text_json(text.data, text.n_bytes));
    json_object_set_new(o, "tokens", ids);
    json_object_set_new(o, "id_slot", json_integer(c->slot));
    json_object_set_new(o, "stop", json_true());
    json_object_set_new(o, "model", json_string(t->model));
    json_object_set_new(o, "tokens_predicted", json_integer(c->timings.predicted_n));
    json_object_set_new(o, "tokens_evaluated", json_integer((json_int_t)c->prompt->n));
    json_object_set_new(o, "generation_settings", fields_settings(t->s, &t->f));
    json_object_set_new(o, "prompt", prompt_json(t, c, true));
    json_object_set_new(o, "has_new_line", json_boolean(c->has_new_line));
    json_object_set_new(o, "truncated", json_boolean(c->truncated || c->finish == TD_FINISH_CONTEXT));
    json_object_set_new(o, "stop_type", json_string(stop_type(c->finish)));
    json_object_set_new(o, "stopping_word", json_string(c->stop_word));
    /* The last token was never an input. */
    int n_held = (int)c->prompt->n + (c->timings.predicted_n > 0 ? c->timings.predicted_n - 1 : 0);
    json_object_set_new(o, "tokens_cached", json_integer(n_held));
    json_object_set_new(o, "timings", timings_json(&c->timings));
    if (c->probs && !t->streaming) json_object_set(o, "completion_probabilities", c->probs);
    td_buf_free(&text);
    return selected(t, o);
}

void completion_end(task *t, choice *c) {
    if (!t->streaming) return;
    if (t->api == API_COMPLETION) {
        send_event(t, NULL, native_final(t, c));
        return;
    }
    json_t *o = oai_chunk(t, c, json_string(""), NULL, finish_reason(c->finish));
    bool last = true;
    for (int i = 0; i < t->n_choices; i++) last &= t->choices[i].done;
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
    json_t *list = json_array();
    if (t->api == API_COMPLETION) {
        for (int i = 0; i < t->n_choices; i++) json_array_append_new(list, native_final(t, &t->choices[i]));
        if (t->n_choices > 1) return answer_json(t->x, 200, list);
        json_t *only = json_incref(json_array_get(list, 0));
        json_decref(list);
        return answer_json(t->x, 200, only);
    }
    json_t *o = oai_head(t);
    for (int i = 0; i < t->n_choices; i++) {
        choice *c = &t->choices[i];
        td_buf text = {0};
        if (t->f.echo) (void)td_vocab_detokenize(t->s->vocab, c->prompt->ids, c->prompt->n, false, &text, NULL);
        c->text_offset = text.n_bytes;
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
