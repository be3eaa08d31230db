/* The members that every generating endpoint shares: one table names, types, limits and places them; the same table is
 * walked by tests/server. "clamp" members are silently limited, the others answer 400 with llama-server's text. */
#include "app.h"

#include "../base/status.h"
#include "../text/grammar.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum place { P_SAMPLING, P_JOB, P_FIELDS } place;

typedef struct row {
    field_info info;
    place where;
    size_t offset;
    const char *alias[2];
} row;

#define S(name, kind, lo, hi, clamp, field)                                                                            \
    {                                                                                                                  \
        {name, kind, lo, hi, clamp}, P_SAMPLING, offsetof(td_sampling, field), {                                       \
            NULL, NULL                                                                                                 \
        }                                                                                                              \
    }
#define J(name, kind, lo, hi, clamp, field)                                                                            \
    {                                                                                                                  \
        {name, kind, lo, hi, clamp}, P_JOB, offsetof(td_job_params, field), {                                          \
            NULL, NULL                                                                                                 \
        }                                                                                                              \
    }
#define F(name, kind, field)                                                                                           \
    {                                                                                                                  \
        {name, kind, 0, 1, false}, P_FIELDS, offsetof(request_fields, field), {                                        \
            NULL, NULL                                                                                                 \
        }                                                                                                              \
    }
#define BIG 2147483647.0

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
    {{"n_predict", 'i', -1, BIG, false},
     P_JOB,
     offsetof(td_job_params, n_predict),
     {"max_tokens", "max_completion_tokens"}},
    J("id_slot", 'i', -1, TD_MAX_SLOTS - 1, false, slot),
    J("cache_prompt", 'b', 0, 1, false, cache_prompt),
    J("n_keep", 'i', -1, BIG, false, n_keep),
    J("post_sampling_probs", 'b', 0, 1, false, post_sampling_probs),
    J("priority", 'i', -1000, 1000, true, priority),
    {{"n", 'i', 1, 64, false}, P_FIELDS, offsetof(request_fields, n), {"n_cmpl", NULL}},
    F("stream", 'b', stream),
    F("return_tokens", 'b', return_tokens),
    F("timings_per_token", 'b', timings_per_token),
    F("return_progress", 'b', return_progress),
    F("tandem", 'b', tandem),
    F("echo", 'b', echo),
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
    f->n = 1;
}

static td_status bad(char param[64], td_error *err, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static td_status bad(char param[64], td_error *err, const char *name, const char *format, ...) {
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    snprintf(param, 64, "%s", name);
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Field '%s': %s", name, text);
}

static td_status set(const row *r, const char *name, const td_json *v, void *at, char param[64], td_error *err) {
    if (r->info.kind == 'b') {
        if (!td_json_is(v, TD_JSON_TRUE) && !td_json_is(v, TD_JSON_FALSE))
            return bad(param, err, name, "must be true or false");
        *(bool *)at = v->kind == TD_JSON_TRUE;
        return TD_OK;
    }
    double x = 0;
    if (!td_json_double(v, &x)) return bad(param, err, name, "must be a number");
    int64_t n = 0;
    if (r->info.kind == 'i' && !td_json_int(v, &n)) return bad(param, err, name, "must be an integer");
    if (x < r->info.min || x > r->info.max) {
        if (!r->info.clamp)
            return bad(param, err, name, "Value must be between %g <= value <= %g, but got %g", r->info.min,
                       r->info.max, x);
        x = x < r->info.min ? r->info.min : r->info.max;
        n = (int64_t)x;
    }
    if (r->info.kind == 'i')
        *(int *)at = (int)n;
    else
        *(float *)at = (float)x;
    return TD_OK;
}

static td_status read_table(const td_json *body, request_fields *f, char param[64], td_error *err) {
    for (int i = 0; i < N_ROWS; i++) {
        const row *r = &rows[i];
        const char *name = r->info.name;
        const td_json *v = td_json_get(body, name);
        for (int k = 0; k < 2 && !td_json_present(v) && r->alias[k]; k++) v = td_json_get(body, name = r->alias[k]);
        if (!td_json_present(v)) continue;
        void *base = r->where == P_SAMPLING ? (void *)&f->job.sampling
                     : r->where == P_JOB    ? (void *)&f->job
                                            : (void *)f;
        td_status status = set(r, name, v, (char *)base + r->offset, param, err);
        if (status) return status;
    }
    return TD_OK;
}

/* ---- members of their own shape ---- */

static td_status read_seed(const td_json *body, request_fields *f, char param[64], td_error *err) {
    const td_json *v = td_json_get(body, "seed");
    int64_t n = 0;
    if (!td_json_present(v)) return TD_OK;
    if (!td_json_int(v, &n)) return bad(param, err, "seed", "must be an integer");
    f->job.sampling.seed = n < 0 || n == 0xFFFFFFFF ? UINT64_MAX : (uint64_t)n;
    return TD_OK;
}

static td_status one_bias(server *s, const td_json *key, td_slice name, const td_json *value, td_arena *a,
                          request_fields *f, int *cap, char param[64], td_error *err) {
    double bias = 0;
    if (td_json_is(value, TD_JSON_FALSE))
        bias = -INFINITY;
    else if (!td_json_double(value, &bias))
        return bad(param, err, "logit_bias", "a bias must be a number or false");
    td_tokens ids = {0};
    int64_t id = 0;
    td_status status = TD_OK;
    char number[24] = "", *end = number;
    if (name.n_bytes > 0 && name.n_bytes < sizeof number) memcpy(number, name.data, name.n_bytes);
    if (!key && number[0]) id = strtol(number, &end, 10);
    if (key ? td_json_int(key, &id) : number[0] && *end == 0) {
        if (id < 0 || id >= s->info.n_vocab)
            return bad(param, err, "logit_bias", "token %lld is outside the vocabulary", (long long)id);
        if (!td_tokens_add(&ids, (uint32_t)id)) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    } else if (key) {
        return bad(param, err, "logit_bias", "a token must be an integer or a string");
    } else {
        status = td_vocab_tokenize(s->vocab, name.data, name.n_bytes, TD_SPECIAL_ALL, false, &ids, err);
    }
    for (size_t i = 0; i < ids.n && !status; i++) {
        if (f->job.sampling.n_biases == *cap) {
            int more = *cap ? *cap * 2 : 16;
            td_logit_bias *p = td_arena_alloc(a, (size_t)more, sizeof *p);
            if (!p) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
            if (!p) break;
            if (*cap) memcpy(p, f->biases, (size_t)*cap * sizeof *p);
            f->biases = p;
            *cap = more;
        }
        f->biases[f->job.sampling.n_biases++] = (td_logit_bias){ids.ids[i], (float)bias};
    }
    td_tokens_free(&ids);
    return status;
}

static td_status read_bias(server *s, const td_json *body, td_arena *a, request_fields *f, char param[64],
                           td_error *err) {
    const td_json *v = td_json_get(body, "logit_bias");
    int cap = 0;
    td_status status = TD_OK;
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_ARRAY && v->kind != TD_JSON_OBJECT)
        return bad(param, err, "logit_bias", "must be an array of pairs or an object");
    for (const td_json *e = v->first; e && !status; e = e->next) {
        if (v->kind == TD_JSON_OBJECT)
            status = one_bias(s, NULL, e->key, e, a, f, &cap, param, err);
        else if (e->kind != TD_JSON_ARRAY || e->n != 2)
            status = bad(param, err, "logit_bias", "each entry must be [token, bias]");
        else
            status = one_bias(s, e->first->kind == TD_JSON_STRING ? NULL : e->first, e->first->text, e->last, a, f,
                              &cap, param, err);
    }
    f->job.sampling.biases = f->biases;
    return status;
}

static char *terminated(td_arena *a, td_slice s) {
    return td_arena_strndup(a, s.data ? s.data : "", s.n_bytes);
}

static td_status strings(const td_json *v, td_arena *a, const char *name, const char ***out, int *n, char param[64],
                         td_error *err) {
    *n = 0;
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_STRING && v->kind != TD_JSON_ARRAY)
        return bad(param, err, name, "must be a string or an array of strings");
    uint32_t count = v->kind == TD_JSON_STRING ? 1 : v->n;
    if (count > 1024) return bad(param, err, name, "at most 1024 strings");
    *out = td_arena_alloc(a, (size_t)count + 1, sizeof **out);
    if (!*out) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    for (const td_json *e = v->kind == TD_JSON_STRING ? v : v->first; e;
         e = v->kind == TD_JSON_STRING ? NULL : e->next) {
        if (e->kind != TD_JSON_STRING) return bad(param, err, name, "must be a string or an array of strings");
        if (e->text.n_bytes == 0) continue;
        if (!((*out)[(*n)++] = terminated(a, e->text))) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    }
    return TD_OK;
}

static td_sampler_kind sampler_named(td_slice s) {
    static const struct {
        const char *name;
        td_sampler_kind kind;
    } names[] = {{"penalties", TD_SAMPLER_PENALTIES},
                 {"dry", TD_SAMPLER_DRY},
                 {"top_n_sigma", TD_SAMPLER_TOP_N_SIGMA},
                 {"top_k", TD_SAMPLER_TOP_K},
                 {"typ_p", TD_SAMPLER_TYPICAL},
                 {"typical_p", TD_SAMPLER_TYPICAL},
                 {"typical", TD_SAMPLER_TYPICAL},
                 {"typ", TD_SAMPLER_TYPICAL},
                 {"top_p", TD_SAMPLER_TOP_P},
                 {"nucleus", TD_SAMPLER_TOP_P},
                 {"min_p", TD_SAMPLER_MIN_P},
                 {"xtc", TD_SAMPLER_XTC},
                 {"temperature", TD_SAMPLER_TEMPERATURE},
                 {"temp", TD_SAMPLER_TEMPERATURE},
                 {"top-k", TD_SAMPLER_TOP_K},
                 {"top-p", TD_SAMPLER_TOP_P},
                 {"min-p", TD_SAMPLER_MIN_P}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == s.n_bytes && memcmp(names[i].name, s.data, s.n_bytes) == 0) return names[i].kind;
    return TD_SAMPLER_END;
}

static td_status read_samplers(const td_json *body, request_fields *f, char param[64], td_error *err) {
    const td_json *v = td_json_get(body, "samplers");
    if (!td_json_present(v)) return TD_OK;
    uint8_t chain[16] = {0};
    int n = 0;
    if (v->kind == TD_JSON_STRING) {
        static const char letters[] = "edskypmxt";
        for (size_t i = 0; i < v->text.n_bytes; i++) {
            const char *at = v->text.data[i] ? strchr(letters, v->text.data[i]) : NULL;
            if (!at || n == 15) return bad(param, err, "samplers", "'%c' is no sampler", v->text.data[i]);
            chain[n++] = (uint8_t)(TD_SAMPLER_PENALTIES + (at - letters));
        }
    } else if (v->kind == TD_JSON_ARRAY) {
        for (const td_json *e = v->first; e; e = e->next) {
            td_sampler_kind kind = e->kind == TD_JSON_STRING ? sampler_named(e->text) : TD_SAMPLER_END;
            if (kind == TD_SAMPLER_END || n == 15)
                return bad(param, err, "samplers", "'%.*s' is no sampler",
                           (int)(e->text.n_bytes < 40 ? e->text.n_bytes : 40), e->text.data ? e->text.data : "");
            chain[n++] = (uint8_t)kind;
        }
    } else {
        return bad(param, err, "samplers", "must be a string of letters or an array of names");
    }
    memcpy(f->job.sampling.chain, chain, sizeof chain);
    return TD_OK;
}

/* speculative: false | {n_max, n_min, p_min}; the older flat members speculative.n_max … */
static td_status read_speculative(const td_json *body, request_fields *f, char param[64], td_error *err) {
    td_spec_params *s = &f->job.spec;
    const td_json *v = td_json_get(body, "speculative");
    int64_t n = 0;
    double p = 0;
    if (td_json_is(v, TD_JSON_FALSE))
        s->types = TD_SPEC_NONE;
    else if (td_json_present(v) && v->kind != TD_JSON_TRUE && v->kind != TD_JSON_OBJECT)
        return bad(param, err, "speculative", "must be true, false or an object");
    static const char *const flat[] = {"speculative.n_max", "speculative.n_min", "speculative.p_min"};
    for (int i = 0; i < 3; i++) {
        const td_json *m = td_json_get(body, flat[i]);
        if (!td_json_present(m) && td_json_is(v, TD_JSON_OBJECT)) m = td_json_get(v, flat[i] + 12);
        if (!td_json_present(m)) continue;
        if (i < 2 && (!td_json_int(m, &n) || n < 0 || n > TD_MAX_DRAFT))
            return bad(param, err, flat[i], "must be an integer of 0 to %d", TD_MAX_DRAFT);
        if (i == 2 && (!td_json_double(m, &p) || p < 0 || p > 1))
            return bad(param, err, flat[i], "must be a number of 0 to 1");
        if (i == 0) s->n_max = (int)n;
        if (i == 1) s->n_min = (int)n;
        if (i == 2) s->p_min = (float)p;
    }
    return TD_OK;
}

static td_status read_constraint(server *s, const td_json *body, request_fields *f, char param[64], td_error *err) {
    const td_json *g = td_json_get(body, "grammar"), *j = td_json_get(body, "json_schema");
    if (td_json_is(g, TD_JSON_STRING) && g->text.n_bytes == 0) g = NULL;
    if (td_json_present(g) && td_json_present(j))
        return bad(param, err, "grammar", "give either a grammar or a json_schema, not both");
    td_status status = TD_OK;
    if (td_json_present(g)) {
        if (g->kind != TD_JSON_STRING) return bad(param, err, "grammar", "must be a string");
        status = td_grammar_compile(&f->grammar, s->vocab, g->text.data, g->text.n_bytes, "root", err);
        if (status) snprintf(param, 64, "grammar");
    } else if (td_json_present(j)) {
        td_schema_options o = {.strict = true};
        status = td_grammar_compile_schema(&f->grammar, s->vocab, j->raw.data, j->raw.n_bytes, &o, err);
        if (status) snprintf(param, 64, "json_schema");
    }
    f->has_constraint = f->grammar != NULL;
    return status;
}

static td_status read_rest(const td_json *body, request_fields *f, char param[64], td_error *err) {
    const td_json *v = td_json_get(body, "n_probs");
    int64_t n = 0;
    if (!td_json_present(v) && !td_json_is(td_json_get(body, "logprobs"), TD_JSON_TRUE) &&
        !td_json_is(td_json_get(body, "logprobs"), TD_JSON_FALSE))
        v = td_json_get(body, "logprobs");
    if (td_json_present(v)) {
        if (!td_json_int(v, &n) || n < 0 || n > 1000)
            return bad(param, err, "n_probs", "must be an integer of 0 to 1000");
        f->job.n_probs = (int)n;
    }
    v = td_json_get(body, "t_max_predict_ms");
    if (td_json_present(v)) {
        if (!td_json_int(v, &n) || n < 0) return bad(param, err, "t_max_predict_ms", "must be an integer of 0 or more");
        f->job.max_ms = n;
    }
    v = td_json_get(td_json_get(body, "stream_options"), "include_usage");
    f->include_usage = td_json_is(v, TD_JSON_TRUE);
    return TD_OK;
}

td_status fields_read(server *s, const td_json *body, td_arena *a, request_fields *f, char param[64], td_error *err) {
    const char **breakers = NULL;
    int n_breakers = 0;
    td_status status = read_table(body, f, param, err);
    if (!status) status = read_seed(body, f, param, err);
    if (!status) status = read_bias(s, body, a, f, param, err);
    if (!status) status = strings(td_json_get(body, "stop"), a, "stop", &f->stop, &f->job.n_stop, param, err);
    if (!status)
        status = strings(td_json_get(body, "dry_sequence_breakers"), a, "dry_sequence_breakers", &breakers, &n_breakers,
                         param, err);
    if (!status) status = read_samplers(body, f, param, err);
    if (!status) status = read_speculative(body, f, param, err);
    if (!status) status = read_rest(body, f, param, err);
    if (!status) status = read_constraint(s, body, f, param, err);
    f->job.stop = f->stop;
    if (n_breakers > 0) {
        f->job.sampling.dry_breakers = breakers;
        f->job.sampling.n_dry_breakers = n_breakers;
    }
    if (!status && f->job.sampling.dry_base < 1) f->job.sampling.dry_base = 1.75f;
    return status;
}

json_t *fields_settings(const server *s, const td_job_params *p) {
    json_t *o = json_object();
    request_fields f = {.job = *p, .n = 1};
    for (int i = 0; i < N_ROWS; i++) {
        const row *r = &rows[i];
        if (r->where == P_FIELDS) continue;
        const void *at =
            r->where == P_SAMPLING ? (const char *)&f.job.sampling + r->offset : (const char *)&f.job + r->offset;
        json_object_set_new(o, r->info.name,
                            r->info.kind == 'b'   ? json_boolean(*(const bool *)at)
                            : r->info.kind == 'i' ? json_integer(*(const int *)at)
                                                  : json_real((double)*(const float *)at));
    }
    json_object_set_new(o, "max_tokens", json_integer(p->n_predict));
    json_object_set_new(o, "seed",
                        json_integer(p->sampling.seed == UINT64_MAX ? 4294967295 : (json_int_t)p->sampling.seed));
    json_object_set_new(o, "n_probs", json_integer(p->n_probs));
    json_object_set_new(o, "speculative.n_max", json_integer(p->spec.types ? p->spec.n_max : 0));
    json_object_set_new(o, "speculative.types",
                        json_string(p->spec.types & TD_SPEC_MTP && s->info.draft_path ? "draft-mtp" : "none"));
    return o;
}
