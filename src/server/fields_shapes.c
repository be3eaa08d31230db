/* Members of a request that are more than one number, switch or text: the table in fields.c names their readers. */
#include "fields.h"

#include "../base/status.h"
#include "../text/grammar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

td_status read_seed(field_call *c, const td_json *v) {
    int64_t n = 0;
    if (!td_json_int(v, &n)) return field_bad(c, "must be an integer");
    c->f->job.sampling.seed = n < 0 || n == 0xFFFFFFFF ? UINT64_MAX : (uint64_t)n;
    return TD_OK;
}

/* A number in the completion endpoints; chat has a switch of this name, which its own reader takes. */
td_status read_logprobs(field_call *c, const td_json *v) {
    int64_t n = 0;
    if (v->kind == TD_JSON_TRUE || v->kind == TD_JSON_FALSE) return TD_OK;
    if (!td_json_int(v, &n)) return field_bad(c, "must be an integer, true or false");
    if (n < 0 || n > 1000) return field_bad(c, "Value must be between 0 <= value <= 1000, but got %lld", (long long)n);
    if (!td_json_present(td_json_get(c->body, "n_probs"))) c->f->job.n_probs = (int)n;
    return TD_OK;
}

/* ---- logit_bias ---- */

static td_status bias_tokens(field_call *c, const td_json *key, td_slice name, td_tokens *ids) {
    int64_t id = 0;
    char number[24] = "", *end = number;
    if (name.n_bytes > 0 && name.n_bytes < sizeof number) memcpy(number, name.data, name.n_bytes);
    if (!key && number[0]) id = strtol(number, &end, 10);
    if (key ? td_json_int(key, &id) : number[0] && *end == 0) {
        if (id < 0 || id >= c->s->info.n_vocab)
            return field_bad(c, "token %lld is outside the vocabulary", (long long)id);
        return td_tokens_add(ids, (uint32_t)id) ? TD_OK : field_no_memory(c);
    }
    if (key) return field_bad(c, "a token must be an integer or a string");
    return td_vocab_tokenize(c->s->vocab, name.data, name.n_bytes, TD_SPECIAL_ALL, false, ids, c->err);
}

static td_status add_bias(field_call *c, int *cap, uint32_t token, double bias) {
    request_fields *f = c->f;
    if (f->job.sampling.n_biases == *cap) {
        int more = *cap ? *cap * 2 : 16;
        td_logit_bias *p = td_arena_alloc(c->a, (size_t)more, sizeof *p);
        if (!p) return field_no_memory(c);
        if (*cap) memcpy(p, f->biases, (size_t)*cap * sizeof *p);
        f->biases = p;
        *cap = more;
    }
    f->biases[f->job.sampling.n_biases++] = (td_logit_bias){token, (float)bias};
    return TD_OK;
}

static td_status one_bias(field_call *c, const td_json *key, td_slice name, const td_json *value, int *cap) {
    double bias = 0;
    if (td_json_is(value, TD_JSON_FALSE))
        bias = -INFINITY;
    else if (!td_json_double(value, &bias))
        return field_bad(c, "a bias must be a number or false");
    td_tokens ids = {0};
    td_status status = bias_tokens(c, key, name, &ids);
    for (size_t i = 0; i < ids.n && !status; i++) status = add_bias(c, cap, ids.ids[i], bias);
    td_tokens_free(&ids);
    return status;
}

td_status read_bias(field_call *c, const td_json *v) {
    int cap = 0;
    td_status status = TD_OK;
    if (v->kind != TD_JSON_ARRAY && v->kind != TD_JSON_OBJECT)
        return field_bad(c, "must be an array of pairs or an object");
    c->f->job.sampling.n_biases = 0;
    for (const td_json *e = v->first; e && !status; e = e->next) {
        if (v->kind == TD_JSON_OBJECT)
            status = one_bias(c, NULL, e->key, e, &cap);
        else if (e->kind != TD_JSON_ARRAY || e->n != 2)
            status = field_bad(c, "each entry must be [token, bias]");
        else
            status = one_bias(c, e->first->kind == TD_JSON_STRING ? NULL : e->first, e->first->text, e->last, &cap);
    }
    c->f->job.sampling.biases = c->f->biases;
    return status;
}

/* ---- lists of strings ---- */

static td_status strings(field_call *c, const td_json *v, const char ***out, int *n) {
    bool one = v->kind == TD_JSON_STRING;
    *n = 0;
    if (!one && v->kind != TD_JSON_ARRAY) return field_bad(c, "must be a string or an array of strings");
    uint32_t count = one ? 1 : v->n;
    if (count > 1024) return field_bad(c, "at most 1024 strings");
    *out = td_arena_alloc(c->a, (size_t)count + 1, sizeof **out);
    if (!*out) return field_no_memory(c);
    for (const td_json *e = one ? v : v->first; e; e = one ? NULL : e->next) {
        if (e->kind != TD_JSON_STRING) return field_bad(c, "must be a string or an array of strings");
        if (e->text.n_bytes == 0) continue;
        if (!((*out)[(*n)++] = td_arena_strndup(c->a, e->text.data, e->text.n_bytes))) return field_no_memory(c);
    }
    return TD_OK;
}

td_status read_stop(field_call *c, const td_json *v) {
    td_status status = strings(c, v, &c->f->stop, &c->f->job.n_stop);
    c->f->job.stop = c->f->stop;
    return status;
}

td_status read_breakers(field_call *c, const td_json *v) {
    const char **list = NULL;
    int n = 0;
    if (v->kind != TD_JSON_ARRAY || v->n == 0) return field_bad(c, "must be a non-empty array of strings");
    td_status status = strings(c, v, &list, &n);
    c->f->job.sampling.dry_breakers = list;
    c->f->job.sampling.n_dry_breakers = n;
    return status;
}

td_status read_response_fields(field_call *c, const td_json *v) {
    if (v->kind != TD_JSON_ARRAY) return field_bad(c, "must be an array of strings");
    for (const td_json *e = v->first; e; e = e->next)
        if (e->kind != TD_JSON_STRING) return field_bad(c, "must be an array of strings");
    if (v->n > 0) c->f->response_fields = v;
    return TD_OK;
}

/* ---- samplers ---- */

static bool is_adaptive(td_slice name) { /* switched on by adaptive_target, wherever it is named */
    static const char *const names[] = {"adaptive_p", "adaptive-p"};
    for (int i = 0; i < 2; i++)
        if (name.n_bytes == strlen(names[i]) && memcmp(name.data, names[i], name.n_bytes) == 0) return true;
    return false;
}

td_status read_samplers(field_call *c, const td_json *v) {
    uint8_t *chain = c->f->job.sampling.chain;
    memset(chain, TD_SAMPLER_END, 16);
    if (v->kind == TD_JSON_STRING) {
        for (size_t i = 0; i < v->text.n_bytes; i++)
            if (!td_sampler_chain_add(chain, v->text.data + i, 1))
                return field_bad(c, "'%c' is no sampler, or there are more than 15", v->text.data[i]);
        return TD_OK;
    }
    if (v->kind != TD_JSON_ARRAY) return field_bad(c, "must be a string of letters or an array of names");
    for (const td_json *e = v->first; e; e = e->next) {
        bool name = e->kind == TD_JSON_STRING && e->text.n_bytes > 1;
        if (name && is_adaptive(e->text)) continue;
        if (!name || !td_sampler_chain_add(chain, e->text.data, e->text.n_bytes))
            return field_bad(c, "'%.*s' is no sampler, or there are more than 15",
                             e->kind == TD_JSON_STRING && e->text.n_bytes < 40 ? (int)e->text.n_bytes : 0,
                             e->text.data ? e->text.data : "");
    }
    return TD_OK;
}

/* ---- speculation: false | {n_max, n_min, p_min}, or flat members ---- */

static td_status depth(field_call *c, const td_json *v, int *out) {
    int64_t n = 0;
    if (!td_json_int(v, &n) || n < 0 || n > TD_MAX_DRAFT)
        return field_bad(c, "must be an integer of 0 to %d", TD_MAX_DRAFT);
    *out = (int)n;
    return TD_OK;
}

td_status read_spec_max(field_call *c, const td_json *v) {
    return depth(c, v, &c->f->job.spec.n_max);
}

td_status read_spec_min(field_call *c, const td_json *v) {
    return depth(c, v, &c->f->job.spec.n_min);
}

td_status read_spec_p_min(field_call *c, const td_json *v) {
    double p = 0;
    if (!td_json_double(v, &p) || p < 0 || p > 1) return field_bad(c, "must be a number of 0 to 1");
    c->f->job.spec.p_min = (float)p;
    return TD_OK;
}

td_status read_speculative(field_call *c, const td_json *v) {
    static const struct {
        const char *name, *inner;
        field_reader *read;
    } parts[] = {{"speculative.n_max", "n_max", read_spec_max},
                 {"speculative.n_min", "n_min", read_spec_min},
                 {"speculative.p_min", "p_min", read_spec_p_min}};
    if (v->kind == TD_JSON_TRUE) return TD_OK;
    if (v->kind == TD_JSON_FALSE) {
        c->f->job.spec.types = TD_SPEC_NONE;
        return TD_OK;
    }
    if (v->kind != TD_JSON_OBJECT) return field_bad(c, "must be true, false or an object");
    td_status status = TD_OK;
    for (int i = 0; i < 3 && !status; i++) {
        const td_json *m = td_json_get(v, parts[i].inner);
        c->name = parts[i].name;
        if (td_json_present(m)) status = parts[i].read(c, m);
    }
    return status;
}

/* ---- the rest ---- */

td_status read_stream_options(field_call *c, const td_json *v) {
    if (v->kind != TD_JSON_OBJECT) return field_bad(c, "must be an object");
    const td_json *usage = td_json_get(v, "include_usage");
    if (!td_json_present(usage)) return TD_OK;
    c->name = "stream_options.include_usage";
    if (usage->kind != TD_JSON_TRUE && usage->kind != TD_JSON_FALSE) return field_bad(c, "must be true or false");
    c->f->include_usage = usage->kind == TD_JSON_TRUE;
    return TD_OK;
}

/* A grammar's own error, under the member's name. */
static td_status named(field_call *c, td_status status) {
    if (!status) return TD_OK;
    snprintf(c->param, 64, "%s", c->name);
    td_error_prefix(c->err, "Field '%s'", c->name);
    return status;
}

td_status read_grammar(field_call *c, const td_json *v) {
    if (v->kind != TD_JSON_STRING) return field_bad(c, "must be a string");
    if (v->text.n_bytes == 0) return TD_OK;
    if (td_json_present(td_json_get(c->body, "json_schema")))
        return field_bad(c, "give either a grammar or a json_schema, not both");
    c->f->grammar_text = v->text;
    return named(c, td_grammar_compile(&c->f->grammar, c->s->vocab, v->text.data, v->text.n_bytes, "root", c->err));
}

td_status read_schema(field_call *c, const td_json *v) {
    td_schema_options o = {.strict = true};
    return named(c, td_grammar_compile_schema(&c->f->grammar, c->s->vocab, v->raw.data, v->raw.n_bytes, &o, c->err));
}

td_status read_lora(field_call *c, const td_json *v) {
    if (v->kind != TD_JSON_ARRAY) return field_bad(c, "must be an array");
    return v->n == 0 ? TD_OK : field_bad(c, "this server has no LoRA adapters");
}
