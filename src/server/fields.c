/* The members that every generating endpoint shares: one table names, types, limits and places them; the same table is
 * walked by tests/server. "clamp" members are silently limited, the others answer 400 with llama-server's text. Members
 * of a shape of their own are read by functions that the table names (fields_shapes.c). */
#include "fields.h"

#include "../base/status.h"

#include <stdio.h>
#include <string.h>

typedef enum place {
    P_SAMPLING,
    P_JOB,
    P_FIELDS,
    P_NONE /* checked, and without effect here */
} place;

typedef struct row {
    field_info info;
    place where;
    size_t offset;
    const char *alias[2];
    field_reader *read; /* kind x */
} row;

#define ROW(name, kind, lo, hi, clamp, where, offset)                                                                  \
    { {name, kind, lo, hi, clamp, NULL}, where, offset, {NULL, NULL}, NULL }
#define S(name, kind, lo, hi, clamp, field) ROW(name, kind, lo, hi, clamp, P_SAMPLING, offsetof(td_sampling, field))
#define J(name, kind, lo, hi, clamp, field) ROW(name, kind, lo, hi, clamp, P_JOB, offsetof(td_job_params, field))
#define F(name, kind, lo, hi, field)        ROW(name, kind, lo, hi, false, P_FIELDS, offsetof(request_fields, field))
#define X(name, types, read)                                                                                           \
    { {name, 'x', 0, 0, false, types}, P_NONE, 0, {NULL, NULL}, read }
#define SEEN(name, kind, lo, hi) ROW(name, kind, lo, hi, false, P_NONE, 0)
#define BIG                      2147483647.0

static const row rows[] = {
    S("temperature", 'f', 0, 1e6, true, temperature),
    S("dynatemp_range", 'f', 0, 1e6, true, dynatemp_range),
    S("dynatemp_exponent", 'f', 0, 1e6, true, dynatemp_exponent),
    S("top_k", 'i', 0, BIG, true, top_k),
    S("top_p", 'f', 0, 1, true, top_p),
    S("min_p", 'f', 0, 1, true, min_p),
    S("typical_p", 'f', 0, 1, true, typical_p),
    S("top_n_sigma", 'f', -1, 1e6, true, top_n_sigma),
    S("xtc_probability", 'f', 0, 1, true, xtc_probability),
    S("xtc_threshold", 'f', 0, 1, true, xtc_threshold),
    S("repeat_last_n", 'i', -1, BIG, false, repeat_last_n),
    S("repeat_penalty", 'f', 1e-6, 1e6, false, repeat_penalty),
    S("presence_penalty", 'f', -1e6, 1e6, false, presence_penalty),
    S("frequency_penalty", 'f', -1e6, 1e6, false, frequency_penalty),
    S("dry_multiplier", 'f', 0, 1e6, false, dry_multiplier),
    S("dry_base", 'f', 0, 1e6, false, dry_base),
    S("dry_allowed_length", 'i', 0, BIG, false, dry_allowed_length),
    S("dry_penalty_last_n", 'i', -1, BIG, false, dry_last_n),
    S("mirostat", 'i', 0, 2, true, mirostat),
    S("mirostat_tau", 'f', 0, 1e6, false, mirostat_tau),
    S("mirostat_eta", 'f', 0, 1e6, false, mirostat_eta),
    S("adaptive_target", 'f', -1, 1, true, adaptive_target),
    S("adaptive_decay", 'f', 0, 0.99, false, adaptive_decay),
    S("min_keep", 'i', 0, BIG, false, min_keep),
    S("ignore_eos", 'b', 0, 1, false, ignore_end),
    {{"n_predict", 'i', -1, BIG, false, NULL},
     P_JOB,
     offsetof(td_job_params, n_predict),
     {"max_tokens", "max_completion_tokens"},
     NULL},
    J("id_slot", 'i', -1, BIG, false, slot),
    J("cache_prompt", 'b', 0, 1, false, cache_prompt),
    J("n_cache_reuse", 'i', 0, BIG, false, cache_reuse),
    J("n_keep", 'i', -1, BIG, false, n_keep),
    J("n_discard", 'i', 0, BIG, false, n_discard),
    J("post_sampling_probs", 'b', 0, 1, false, post_sampling_probs),
    J("priority", 'i', -1000, 1000, true, priority),
    J("t_max_predict_ms", 'l', -1, 1e12, false, max_ms),
    J("n_probs", 'i', 0, 1000, false, n_probs),
    {{"n", 'i', 1, 64, false, NULL}, P_FIELDS, offsetof(request_fields, n), {"n_cmpl", NULL}, NULL},
    {{"reasoning_budget_tokens", 'i', -1, BIG, false, NULL},
     P_FIELDS,
     offsetof(request_fields, reasoning_budget),
     {"thinking_budget_tokens", "reasoning_budget"},
     NULL},
    F("reasoning_control", 'b', 0, 1, reasoning_control),
    F("stream", 'b', 0, 1, stream),
    F("return_tokens", 'b', 0, 1, return_tokens),
    F("timings_per_token", 'b', 0, 1, timings_per_token),
    F("return_progress", 'b', 0, 1, return_progress),
    F("tandem", 'b', 0, 1, tandem),
    F("echo", 'b', 0, 1, echo),
    F("sse_ping_interval", 'i', -1, 1e6, ping_s),
    F("reasoning_budget_message", 's', 0, 0, reasoning_message),
    X("seed", "n", read_seed),
    X("logprobs", "nb", read_logprobs),
    X("logit_bias", "ao", read_bias),
    X("stop", "sa", read_stop),
    X("dry_sequence_breakers", "a", read_breakers),
    X("samplers", "sa", read_samplers),
    X("speculative", "bo", read_speculative),
    X("speculative.n_max", "n", read_spec_max),
    X("speculative.n_min", "n", read_spec_min),
    X("speculative.p_min", "n", read_spec_p_min),
    X("stream_options", "o", read_stream_options),
    X("grammar", "s", read_grammar),
    X("json_schema", "obs", read_schema), /* after grammar */
    X("response_fields", "a", read_response_fields),
    X("lora", "a", read_lora),
    SEEN("n_indent", 'i', 0, BIG),
    SEEN("backend_sampling", 'b', 0, 1),
    SEEN("grammar_lazy", 'b', 0, 1),
    SEEN("grammar_triggers", 'a', 0, 0),
    SEEN("preserved_tokens", 'a', 0, 0),
    SEEN("parse_tool_calls", 'b', 0, 1),
    SEEN("reasoning_in_content", 'b', 0, 1),
    SEEN("generation_prompt", 's', 0, 0),
    SEEN("cache_key", 's', 0, 0),
    SEEN("prompt_cache_key", 's', 0, 0),
    SEEN("session_id", 's', 0, 0),
};
enum { N_ROWS = sizeof rows / sizeof *rows };

const field_info *fields_table(int *n) {
    static field_info table[N_ROWS];
    for (int i = 0; i < N_ROWS; i++) table[i] = rows[i].info;
    *n = N_ROWS;
    return table;
}

void fields_init(server *s, request_fields *f) {
    memset(f, 0, sizeof *f);
    td_job_params_init(s->engine, &f->job);
    f->job.sampling = s->o->sampling;
    f->job.cache_prompt = !s->o->no_cache_prompt;
    f->job.n_predict = s->o->n_predict;
    f->job.n_keep = s->o->n_keep;
    f->n = 1;
    f->ping_s = s->o->sse_ping_s;
    f->reasoning_budget = (int)s->o->reasoning_budget;
    f->reasoning_message = s->o->reasoning_message;
}

td_status field_bad(field_call *c, const char *format, ...) {
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    snprintf(c->param, 64, "%s", c->name);
    return td_fail(c->err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Field '%s': %s", c->name, text);
}

td_status field_no_memory(field_call *c) {
    return td_fail(c->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
}

static td_status set_number(field_call *c, const row *r, const td_json *v, void *at) {
    double x = 0;
    if (!td_json_double(v, &x)) return field_bad(c, "must be a number");
    int64_t n = 0;
    if (r->info.kind != 'f' && !td_json_int(v, &n)) return field_bad(c, "must be an integer");
    if (x < r->info.min || x > r->info.max) {
        if (!r->info.clamp)
            return field_bad(c, "Value must be between %g <= value <= %g, but got %g", r->info.min, r->info.max, x);
        x = x < r->info.min ? r->info.min : r->info.max;
        n = (int64_t)x;
    }
    if (!at) return TD_OK;
    if (r->info.kind == 'i')
        *(int *)at = (int)n;
    else if (r->info.kind == 'l')
        *(int64_t *)at = n;
    else
        *(float *)at = (float)x;
    return TD_OK;
}

static td_status set(field_call *c, const row *r, const td_json *v, void *at) {
    switch (r->info.kind) {
    case 'b':
        if (v->kind != TD_JSON_TRUE && v->kind != TD_JSON_FALSE) return field_bad(c, "must be true or false");
        if (at) *(bool *)at = v->kind == TD_JSON_TRUE;
        return TD_OK;
    case 'a':
        return v->kind == TD_JSON_ARRAY ? TD_OK : field_bad(c, "must be an array");
    case 's':
        if (v->kind != TD_JSON_STRING) return field_bad(c, "must be a string");
        if (!at) return TD_OK;
        *(const char **)at = td_arena_strndup(c->a, v->text.data ? v->text.data : "", v->text.n_bytes);
        return *(const char **)at ? TD_OK : field_no_memory(c);
    case 'x':
        return r->read(c, v);
    default:
        return set_number(c, r, v, at);
    }
}

static void *place_of(request_fields *f, const row *r) {
    switch (r->where) {
    case P_SAMPLING:
        return (char *)&f->job.sampling + r->offset;
    case P_JOB:
        return (char *)&f->job + r->offset;
    case P_FIELDS:
        return (char *)f + r->offset;
    default:
        return NULL;
    }
}

td_status fields_read(server *s, const td_json *body, td_arena *a, request_fields *f, char param[64], td_error *err) {
    td_status status = TD_OK;
    field_call c = {.s = s, .body = body, .a = a, .f = f, .param = param, .err = err};
    for (int i = 0; i < N_ROWS && !status; i++) {
        const row *r = &rows[i];
        const td_json *v = td_json_get(body, c.name = r->info.name);
        for (int k = 0; k < 2 && !td_json_present(v) && r->alias[k]; k++) v = td_json_get(body, c.name = r->alias[k]);
        if (td_json_present(v)) status = set(&c, r, v, place_of(f, r));
    }
    if (!status && f->job.sampling.dry_base < 1) f->job.sampling.dry_base = 1.75f;
    return status;
}

/* ---- the way back: /props, /slots, generation_settings ---- */

static json_t *strings(const char *const *list, int n) {
    json_t *o = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(o, json_string(list[i]));
    return o;
}

static json_t *biases(const td_sampling *s) {
    json_t *o = json_array();
    for (int i = 0; i < s->n_biases; i++) /* JSON has no infinity */
        json_array_append_new(
            o, json_pack("{s:I,s:f}", "token", (json_int_t)s->biases[i].token, "bias",
                         s->biases[i].bias < -3e38f ? -3.4028234663852886e38 : (double)s->biases[i].bias));
    return o;
}

static void add_rows(json_t *o, request_fields *f) {
    for (int i = 0; i < N_ROWS; i++) {
        const row *r = &rows[i];
        const void *at = place_of(f, r);
        if (!at || r->info.kind == 's') continue;
        json_object_set_new(o, r->info.name,
                            r->info.kind == 'b'   ? json_boolean(*(const bool *)at)
                            : r->info.kind == 'i' ? json_integer(*(const int *)at)
                            : r->info.kind == 'l' ? json_integer(*(const int64_t *)at)
                                                  : json_real((double)*(const float *)at));
    }
}

json_t *fields_settings(const server *s, const request_fields *given) {
    static const char *const breakers[] = {"\n", ":", "\"", "*"};
    request_fields f = *given;
    const td_job_params *p = &f.job;
    const td_sampling *q = &p->sampling;
    json_t *o = json_object(), *chain = json_array();
    add_rows(o, &f);
    for (int i = 0; q->chain[i] != TD_SAMPLER_END; i++)
        json_array_append_new(chain, json_string(td_sampler_name((td_sampler_kind)q->chain[i])));
    json_object_set_new(o, "samplers", chain);
    json_object_set_new(o, "max_tokens", json_integer(p->n_predict));
    json_object_set_new(o, "seed", json_integer(q->seed == UINT64_MAX ? 4294967295 : (json_int_t)q->seed));
    json_object_set_new(o, "dry_sequence_breakers",
                        q->dry_breakers ? strings(q->dry_breakers, q->n_dry_breakers) : strings(breakers, 4));
    json_object_set_new(o, "stop", strings(p->stop, p->n_stop));
    json_object_set_new(o, "logit_bias", biases(q));
    json_object_set_new(o, "grammar",
                        json_stringn(f.grammar_text.data ? f.grammar_text.data : "", f.grammar_text.n_bytes));
    json_object_set_new(o, "grammar_lazy", json_false());
    json_object_set_new(o, "grammar_triggers", json_array());
    json_object_set_new(o, "preserved_tokens", json_array());
    json_object_set_new(o, "lora", json_array());
    json_object_set_new(o, "chat_format", json_string(f.chat ? "gemma4" : "Content-only"));
    json_object_set_new(o, "reasoning_format", json_string(f.chat ? "deepseek" : "none"));
    json_object_set_new(o, "reasoning_in_content", json_false());
    json_object_set_new(o, "generation_prompt", json_string(""));
    json_object_set_new(o, "backend_sampling", json_false());
    json_object_set_new(o, "speculative.n_max", json_integer(p->spec.types ? p->spec.n_max : 0));
    json_object_set_new(o, "speculative.n_min", json_integer(p->spec.n_min));
    json_object_set_new(o, "speculative.p_min", json_real((double)p->spec.p_min));
    json_object_set_new(o, "speculative.types",
                        json_string(p->spec.types & TD_SPEC_MTP && s->info.draft_path ? "draft-mtp" : "none"));
    return o;
}
