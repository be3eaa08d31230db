/* Sampler state: history with counts, DRY, mirostat, adaptive-p, the random generator, and the chain's order. */
#include "sampler.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/status.h"
#include "sampler_chain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_BREAKERS     64
#define BREAKER_TOKENS   8
#define DRY_MAX_EXPONENT 40

struct td_sampler {
    td_sampling set;
    td_sampler_env env;
    td_logit_bias *biases; /* set.biases and the end tokens when they are masked */
    int n_biases;
    uint32_t *history; /* [n_history], everything the penalties may see */
    int n_history, cap_history;
    uint16_t *counts; /* [n_vocab] occurrences in the penalty window; NULL when penalties are off */
    uint8_t *breaker; /* [n_vocab] 1 = DRY breaker; NULL when DRY is off */
    int *longest;     /* [n_vocab] DRY: longest match by following token, zero between rows */
    uint64_t rng[4];
    float mu; /* mirostat */
    double adapt_sum, adapt_weight;
};

/* ---- random numbers: xoshiro256**, seeded through splitmix64 (Blackman and Vigna) ---- */

static uint64_t splitmix(uint64_t *x) {
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotl(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

static uint64_t rng_next(uint64_t *s) {
    uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double td_sampler_uniform(td_sampler *s) {
    return (double)(rng_next(s->rng) >> 11) * 0x1p-53;
}

/* ---- scratch ---- */

bool td_sampler_scratch_init(td_sampler_scratch *s, int n_vocab, int n_ctx) {
    *s = (td_sampler_scratch){.n_vocab = n_vocab, .z_cap = n_ctx};
    s->cands = td_calloc((size_t)n_vocab, sizeof *s->cands);
    s->z = td_calloc((size_t)n_ctx, sizeof *s->z);
    return s->cands && s->z;
}

void td_sampler_scratch_free(td_sampler_scratch *s) {
    free(s->cands);
    free(s->z);
    *s = (td_sampler_scratch){0};
}

/* ---- creation ---- */

typedef struct range {
    const char *name;
    double value, lo, hi;
} range;

static td_status check(const td_sampling *s, const td_sampler_env *env, td_error *err) {
    const range ranges[] = {
        {"temperature", (double)s->temperature, -INFINITY, 1e6},
        {"dynatemp_range", (double)s->dynatemp_range, 0, 1e6},
        {"dynatemp_exponent", (double)s->dynatemp_exponent, 0, 1e6},
        {"top_p", (double)s->top_p, 0, INFINITY},
        {"min_p", (double)s->min_p, -INFINITY, 1},
        {"typical_p", (double)s->typical_p, 0, INFINITY},
        {"top_n_sigma", (double)s->top_n_sigma, -INFINITY, INFINITY},
        {"xtc_probability", (double)s->xtc_probability, 0, 1},
        {"xtc_threshold", (double)s->xtc_threshold, 0, 1},
        {"repeat_penalty", (double)s->repeat_penalty, 1e-6, 1e6},
        {"presence_penalty", (double)s->presence_penalty, -1e6, 1e6},
        {"frequency_penalty", (double)s->frequency_penalty, -1e6, 1e6},
        {"repeat_last_n", s->repeat_last_n, -1, INT32_MAX},
        {"dry_multiplier", (double)s->dry_multiplier, 0, 1e6},
        {"dry_allowed_length", s->dry_allowed_length, 0, INT32_MAX},
        {"dry_penalty_last_n", s->dry_last_n, -1, INT32_MAX},
        {"mirostat", s->mirostat, 0, 2},
        {"mirostat_tau", (double)s->mirostat_tau, 0, 1e6},
        {"mirostat_eta", (double)s->mirostat_eta, 0, 1e6},
        {"adaptive_target", (double)s->adaptive_target, -INFINITY, 1},
        {"adaptive_decay", (double)s->adaptive_decay, 0, 0.99},
        {"min_keep", s->min_keep, 0, INT32_MAX},
        {"n_biases", s->n_biases, 0, env->n_vocab},
        {"n_dry_breakers", s->n_dry_breakers, 0, MAX_BREAKERS},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const range *r = &ranges[i];
        /* The limits as floats, as the values are: 0.99 is not above 0.99. Also catches NaN. */
        if (!(r->value >= (double)(float)r->lo && r->value <= (double)(float)r->hi))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "Field '%s': Value must be between %g <= value <= %g, but got %g", r->name, r->lo, r->hi,
                           r->value);
    }
    for (int i = 0; i < s->n_biases; i++) {
        if (s->biases[i].token >= (uint32_t)env->n_vocab)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "logit_bias: token %u is outside the vocabulary (0..%d)",
                           s->biases[i].token, env->n_vocab - 1);
        if (isnan(s->biases[i].bias))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "logit_bias: a bias must be a number");
    }
    for (size_t i = 0; i < sizeof s->chain && s->chain[i] != TD_SAMPLER_END; i++)
        if (s->chain[i] >= TD_SAMPLER_KIND_COUNT)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "samplers: link %zu is unknown", i);
    return TD_OK;
}

static bool in_chain(const td_sampling *s, td_sampler_kind kind) {
    for (size_t i = 0; i < sizeof s->chain && s->chain[i] != TD_SAMPLER_END; i++)
        if (s->chain[i] == kind) return true;
    return false;
}

static bool penalties_on(const td_sampling *s) {
    return in_chain(s, TD_SAMPLER_PENALTIES) && s->repeat_last_n != 0 &&
           (s->repeat_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f);
}

static bool dry_on(const td_sampling *s) {
    return in_chain(s, TD_SAMPLER_DRY) && s->dry_multiplier > 0.0f && s->dry_base >= 1.0f && s->dry_last_n != 0;
}

static bool set_breakers(td_sampler *s) {
    static const char *const usual[] = {"\n", ":", "\"", "*"};
    const char *const *texts = s->set.dry_breakers ? s->set.dry_breakers : usual;
    int n = s->set.dry_breakers ? s->set.n_dry_breakers : 4;
    s->breaker = td_calloc((size_t)s->env.n_vocab, 1);
    s->longest = td_calloc((size_t)s->env.n_vocab, sizeof *s->longest);
    if (!s->breaker || !s->longest) return false;
    for (int i = 0; i < n && s->env.tokenize; i++) {
        uint32_t ids[BREAKER_TOKENS];
        int k = s->env.tokenize(s->env.user, texts[i], strlen(texts[i]), ids, BREAKER_TOKENS);
        /* The first token of a breaker is where a repetition ends; longer breakers are matched by that start. */
        if (k > 0 && ids[0] < (uint32_t)s->env.n_vocab) s->breaker[ids[0]] = 1;
    }
    s->set.dry_breakers = NULL; /* not ours to keep */
    return true;
}

td_status td_sampler_create(td_sampler **out, const td_sampling *set, const td_sampler_env *env, td_error *err) {
    *out = NULL;
    td_status status = check(set, env, err);
    if (status) return status;
    td_sampler *s = td_calloc(1, sizeof *s);
    if (!s) goto no_memory;
    s->set = *set;
    s->env = *env;
    int n_end = set->ignore_end ? env->n_end_tokens : 0;
    s->n_biases = set->n_biases + n_end;
    s->biases = td_calloc((size_t)s->n_biases + 1, sizeof *s->biases);
    if (!s->biases) goto no_memory;
    for (int i = 0; i < set->n_biases; i++) s->biases[i] = set->biases[i];
    for (int i = 0; i < n_end; i++) s->biases[set->n_biases + i] = (td_logit_bias){env->end_tokens[i], -INFINITY};
    s->set.biases = NULL;
    if (penalties_on(set) && !(s->counts = td_calloc((size_t)env->n_vocab, sizeof *s->counts))) goto no_memory;
    if (dry_on(set) && !set_breakers(s)) goto no_memory;
    uint64_t seed = set->seed;
    if (seed == UINT64_MAX && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint64_t)td_clock_ns();
    for (int i = 0; i < 4; i++) s->rng[i] = splitmix(&seed);
    s->mu = 2.0f * set->mirostat_tau;
    double decay = (double)set->adaptive_decay;
    s->adapt_weight = 1.0 / (1.0 - decay);
    s->adapt_sum = (double)set->adaptive_target * s->adapt_weight;
    *out = s;
    return TD_OK;
no_memory:
    td_sampler_destroy(s);
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a sampler");
}

void td_sampler_destroy(td_sampler *s) {
    if (!s) return;
    free(s->biases);
    free(s->history);
    free(s->counts);
    free(s->breaker);
    free(s->longest);
    free(s);
}

bool td_sampler_is_argmax(const td_sampler *s) {
    return s->set.temperature <= 0.0f && in_chain(&s->set, TD_SAMPLER_TEMPERATURE) && s->set.dynatemp_range <= 0.0f &&
           s->n_biases == 0 && !s->counts && !s->breaker && s->set.mirostat == 0 && s->set.adaptive_target < 0.0f &&
           !(in_chain(&s->set, TD_SAMPLER_XTC) && s->set.xtc_probability > 0.0f);
}

/* ---- history ---- */

static bool keeps_history(const td_sampler *s) {
    return s->counts || s->breaker;
}

void td_sampler_accept(td_sampler *s, uint32_t token) {
    if (!keeps_history(s) || token >= (uint32_t)s->env.n_vocab) return;
    if (s->n_history == s->cap_history) {
        int cap = s->cap_history ? s->cap_history * 2 : 256;
        uint32_t *p = td_reallocarray(s->history, (size_t)cap, sizeof *p);
        if (!p) return; /* the penalties then see a shorter history */
        s->history = p;
        s->cap_history = cap;
    }
    s->history[s->n_history++] = token;
    if (!s->counts) return;
    if (s->counts[token] < UINT16_MAX) s->counts[token]++;
    int last_n = s->set.repeat_last_n < 0 ? s->env.n_ctx : s->set.repeat_last_n;
    if (s->n_history > last_n) {
        uint32_t old = s->history[s->n_history - 1 - last_n];
        if (s->counts[old] > 0) s->counts[old]--;
    }
}

void td_sampler_prime(td_sampler *s, const uint32_t *tokens, int n) {
    for (int i = 0; i < n; i++) td_sampler_accept(s, tokens[i]);
}

void td_sampler_bias(const td_sampler *s, float *logits) {
    for (int i = 0; i < s->n_biases; i++) logits[s->biases[i].token] += s->biases[i].bias;
}

static void penalise(const td_sampler *s, float *logits) {
    if (!s->counts) return;
    int last_n = s->set.repeat_last_n < 0 ? s->env.n_ctx : s->set.repeat_last_n;
    int begin = s->n_history > last_n ? s->n_history - last_n : 0;
    /* Each distinct token once: a count is processed at the first place where the token stands in the window. */
    for (int i = begin; i < s->n_history; i++) {
        uint32_t id = s->history[i];
        uint16_t count = s->counts[id];
        if (count & 0x8000u || count == 0) continue;
        float l = logits[id];
        l = l <= 0.0f ? l * s->set.repeat_penalty : l / s->set.repeat_penalty;
        logits[id] = l - (float)count * s->set.frequency_penalty - s->set.presence_penalty;
        s->counts[id] = (uint16_t)(count | 0x8000u);
    }
    for (int i = begin; i < s->n_history; i++) s->counts[s->history[i]] &= 0x7fffu;
}

/* DRY: for every earlier place where the current suffix also stood, the token that followed it there is penalised by
 * the length of the common suffix. Lengths come from a Z function over the reversed history: linear time. */
static void dry(const td_sampler *s, td_sampler_scratch *scratch, float *logits) {
    if (!s->breaker) return;
    int last_n = s->set.dry_last_n < 0 ? s->env.n_ctx : s->set.dry_last_n;
    int n = s->n_history < last_n ? s->n_history : last_n;
    if (n > scratch->z_cap) n = scratch->z_cap;
    const uint32_t *end = s->history + s->n_history - 1; /* end[-i]: the reversed history */
    int limit = 0;                                       /* the suffix must not cross a breaker */
    while (limit < n && !s->breaker[end[-limit]]) limit++;
    if (limit < s->set.dry_allowed_length || n < 2) return;
    int *z = scratch->z;
    z[0] = n;
    for (int i = 1, l = 0, r = 0; i < n; i++) {
        int k = i < r ? (z[i - l] < r - i ? z[i - l] : r - i) : 0;
        while (i + k < n && end[-k] == end[-(i + k)]) k++;
        z[i] = k;
        if (i + k > r) l = i, r = i + k;
    }
    /* Each following token is penalised once, by its longest match. */
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 1; i < n; i++) {
            uint32_t next = end[-(i - 1)];
            int len = z[i] < limit ? z[i] : limit;
            if (len < s->set.dry_allowed_length || len == 0 || s->breaker[next]) continue;
            if (pass == 0) {
                if (len > s->longest[next]) s->longest[next] = len;
            } else if (s->longest[next] > 0) {
                int exponent = s->longest[next] - s->set.dry_allowed_length;
                if (exponent > DRY_MAX_EXPONENT) exponent = DRY_MAX_EXPONENT;
                logits[next] -= s->set.dry_multiplier * powf(s->set.dry_base, (float)exponent);
                s->longest[next] = 0;
            }
        }
    }
}

/* ---- candidates ---- */

/* The k largest logits of a row without building a list of the whole vocabulary: a row is scanned against the
 * smallest kept value, which few entries pass. */
static int gather_top(td_cand *out, const float *logits, const uint64_t *mask, int n_vocab, int k) {
    int n = 0, cap = k * 4; /* kept in a buffer of 4k that is cut back to k when it is full */
    float floor = -INFINITY;
    for (int id = 0; id < n_vocab; id++) {
        float l = logits[id];
        if (!(l > floor) || (mask && !(mask[id / 64] >> (id % 64) & 1u))) continue;
        if (n == cap) {
            td_cands c = {out, n, 0};
            td_cands_sort(&c, k);
            n = k;
            floor = out[k - 1].logit;
            if (!(l > floor)) continue;
        }
        out[n++] = (td_cand){(uint32_t)id, l, 0};
    }
    return n;
}

static int gather_all(td_cand *out, const float *logits, const uint64_t *mask, int n_vocab) {
    int n = 0;
    for (int id = 0; id < n_vocab; id++)
        if (!mask || mask[id / 64] >> (id % 64) & 1u) out[n++] = (td_cand){(uint32_t)id, logits[id], 0};
    return n;
}

/* How many of the largest logits are certain to decide the outcome; 0: all of them. */
static int enough(const td_sampler *s) {
    if (s->set.mirostat || s->set.adaptive_target >= 0.0f) return 0;
    for (size_t i = 0; i < sizeof s->set.chain && s->set.chain[i] != TD_SAMPLER_END; i++) {
        switch ((td_sampler_kind)s->set.chain[i]) {
        case TD_SAMPLER_PENALTIES:
        case TD_SAMPLER_DRY:
            break; /* already applied to the row */
        case TD_SAMPLER_TOP_N_SIGMA:
            if (s->set.top_n_sigma > 0) return 0;
            break;
        case TD_SAMPLER_TOP_K:
            if (s->set.top_k > 0) return s->set.top_k > s->set.min_keep ? s->set.top_k : s->set.min_keep;
            break;
        case TD_SAMPLER_TEMPERATURE:
            if (s->set.temperature <= 0.0f && s->set.dynatemp_range <= 0.0f) return 1;
            break;
        default:
            return 0;
        }
    }
    return 0;
}

static void temperature(td_sampler *s, td_cands *c) {
    if (s->set.dynatemp_range > 0.0f)
        td_chain_dynatemp(c, s->set.temperature, s->set.dynatemp_range, s->set.dynatemp_exponent);
    else
        td_chain_temperature(c, s->set.temperature);
}

static void run_chain(td_sampler *s, td_cands *c) {
    int keep = s->set.min_keep;
    for (size_t i = 0; i < sizeof s->set.chain && s->set.chain[i] != TD_SAMPLER_END; i++) {
        switch ((td_sampler_kind)s->set.chain[i]) {
        case TD_SAMPLER_TOP_N_SIGMA:
            td_chain_top_n_sigma(c, s->set.top_n_sigma);
            break;
        case TD_SAMPLER_TOP_K:
            td_chain_top_k(c, s->set.top_k, keep);
            break;
        case TD_SAMPLER_TYPICAL:
            td_chain_typical(c, s->set.typical_p, keep);
            break;
        case TD_SAMPLER_TOP_P:
            td_chain_top_p(c, s->set.top_p, keep);
            break;
        case TD_SAMPLER_MIN_P:
            td_chain_min_p(c, s->set.min_p, keep);
            break;
        case TD_SAMPLER_XTC:
            if (s->set.xtc_probability > 0.0f && td_sampler_uniform(s) < (double)s->set.xtc_probability)
                td_chain_xtc(c, s->set.xtc_threshold, keep);
            break;
        case TD_SAMPLER_TEMPERATURE:
            temperature(s, c);
            break;
        default:
            break;
        }
    }
}

/* Mirostat (Basu et al., arXiv 2007.14966): version 1 estimates the exponent of Zipf's law from the 100 largest. */
static void mirostat_cut(td_sampler *s, td_cands *c) {
    temperature(s, c);
    td_cands_sort(c, c->n);
    td_cands_softmax(c);
    if (s->set.mirostat == 2) {
        int n = 0;
        while (n < c->n && -log2f(c->at[n].p) <= s->mu) n++;
        c->n = n > 0 ? n : 1;
    } else {
        double num = 0, den = 0;
        int m = c->n < 100 ? c->n : 100;
        for (int i = 0; i + 1 < m; i++) {
            double t = log((double)(i + 2) / (double)(i + 1));
            double b = log((double)c->at[i].p / (double)(c->at[i + 1].p > 0 ? c->at[i + 1].p : 1e-30f));
            num += t * b;
            den += t * t;
        }
        double zipf = den > 0 ? num / den : 1, eps = zipf - 1;
        double k = pow(eps * pow(2.0, (double)s->mu) / (1 - pow((double)s->env.n_vocab, -eps)), 1 / zipf);
        if (!(k >= 1)) k = 1;
        td_chain_top_k(c, k > (double)c->n ? c->n : (int)k, 1);
    }
    c->n_sorted = c->n;
}

/* Adaptive-p: candidates are weighed by a peak around a target probability, which follows what was drawn. Leaves p. */
static int adaptive_pick(td_sampler *s, td_cands *c) {
    const float width = 0.3f, peak = 5.0f, sharpness = 10.0f;
    float target = 2.0f * s->set.adaptive_target - (float)(s->adapt_sum / s->adapt_weight);
    target = target < 0 ? 0 : target > 1 ? 1 : target;
    double sum = 0;
    for (int i = 0; i < c->n; i++) {
        float d = (c->at[i].p - target) / width;
        c->at[i].logit = c->at[i].p > 0 ? expf(peak - sharpness * d * d / (1.0f + fabsf(d))) : 0;
        sum += (double)c->at[i].logit;
    }
    double u = td_sampler_uniform(s) * sum, seen = 0;
    int at = c->n - 1;
    for (int i = 0; i < c->n; i++) {
        seen += (double)c->at[i].logit;
        if (u < seen) {
            at = i;
            break;
        }
    }
    double decay = (double)s->set.adaptive_decay;
    s->adapt_sum = decay * s->adapt_sum + (double)c->at[at].p;
    s->adapt_weight = decay * s->adapt_weight + 1;
    return at;
}

static td_cands candidates(td_sampler *s, td_sampler_scratch *scratch, float *logits, const uint64_t *mask) {
    int k = enough(s);
    td_cands c = {scratch->cands, 0, 0};
    c.n = k > 0 && k <= s->env.n_vocab / 8 ? gather_top(c.at, logits, mask, s->env.n_vocab, k)
                                           : gather_all(c.at, logits, mask, s->env.n_vocab);
    return c;
}

static td_cands distribution(td_sampler *s, td_sampler_scratch *scratch, float *logits, const uint64_t *mask) {
    td_cands c = candidates(s, scratch, logits, mask);
    if (c.n == 0) return c;
    if (s->set.mirostat)
        mirostat_cut(s, &c);
    else
        run_chain(s, &c);
    td_cands_softmax(&c);
    scratch->n_last = c.n;
    return c;
}

int td_sampler_draft_distribution(td_sampler *s, td_sampler_scratch *scratch, const float *logits, int cap) {
    int keep = s->set.min_keep, k = s->set.top_k > 0 && s->set.top_k < cap ? s->set.top_k : cap;
    td_cands c = {scratch->cands, gather_top(scratch->cands, logits, NULL, s->env.n_vocab, k), 0};
    td_chain_top_k(&c, k, keep);
    for (size_t i = 0; i < sizeof s->set.chain && s->set.chain[i] != TD_SAMPLER_END; i++) {
        switch ((td_sampler_kind)s->set.chain[i]) {
        case TD_SAMPLER_TOP_P:
            td_chain_top_p(&c, s->set.top_p, keep);
            break;
        case TD_SAMPLER_MIN_P:
            td_chain_min_p(&c, s->set.min_p, keep);
            break;
        case TD_SAMPLER_TEMPERATURE:
            temperature(s, &c);
            break;
        default:
            break;
        }
    }
    td_cands_softmax(&c);
    return c.n;
}

void td_sampler_last_probs(td_sampler_scratch *scratch, uint32_t token, td_prob *out, int n) {
    td_cands c = {scratch->cands, scratch->n_last, 0};
    out[0] = (td_prob){token, -INFINITY};
    for (int i = 0; i < c.n; i++)
        if (c.at[i].id == token) out[0].logprob = logf(c.at[i].p);
    td_cands_sort(&c, n);
    for (int i = 0; i < n; i++)
        out[1 + i] = i < c.n ? (td_prob){c.at[i].id, logf(c.at[i].p)} : (td_prob){TD_TOKEN_NONE, -INFINITY};
}

int td_sampler_distribution(td_sampler *s, td_sampler_scratch *scratch, float *logits, const uint64_t *mask) {
    penalise(s, logits);
    dry(s, scratch, logits);
    return distribution(s, scratch, logits, mask).n;
}

static int pick(td_sampler *s, const td_cand *cands, int n) {
    if (n == 1) return 0; /* no draw: greedy text does not depend on the generator */
    double u = td_sampler_uniform(s), sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)cands[i].p;
        if (u < sum) return i;
    }
    return n - 1;
}

uint32_t td_sampler_pick(td_sampler *s, const td_cand *cands, int n) {
    return n > 0 ? cands[pick(s, cands, n)].id : TD_TOKEN_NONE;
}

/* One pass: candidates, chain, draw. What the adaptive samplers learn from is kept aside until the token is final,
 * because a grammar may refuse it. */
typedef struct draw {
    uint32_t token;
    float mu;
    double adapt_sum, adapt_weight;
} draw;

static draw draw_once(td_sampler *s, td_sampler_scratch *scratch, float *logits, const uint64_t *mask) {
    float mu = s->mu;
    double sum = s->adapt_sum, weight = s->adapt_weight;
    td_cands c = distribution(s, scratch, logits, mask);
    draw d = {TD_TOKEN_NONE, mu, sum, weight};
    if (c.n == 0) return d;
    bool adapts = s->set.adaptive_target >= 0.0f && !s->set.mirostat;
    int at = adapts ? adaptive_pick(s, &c) : pick(s, c.at, c.n);
    if (s->set.mirostat) {
        float surprise = c.at[at].p > 0 ? -log2f(c.at[at].p) : 0;
        d.mu = mu - s->set.mirostat_eta * (surprise - s->set.mirostat_tau);
    }
    if (adapts) d.adapt_sum = s->adapt_sum, d.adapt_weight = s->adapt_weight;
    s->adapt_sum = sum;
    s->adapt_weight = weight;
    d.token = c.at[at].id;
    return d;
}

uint32_t td_sampler_draw(td_sampler *s, td_sampler_scratch *scratch, float *logits, const td_sampler_constraint *c) {
    penalise(s, logits);
    dry(s, scratch, logits);
    draw d = draw_once(s, scratch, logits, NULL);
    if (c && (d.token == TD_TOKEN_NONE || !c->allowed(c->user, d.token)))
        d = draw_once(s, scratch, logits, c->mask(c->user));
    if (d.token == TD_TOKEN_NONE) return d.token;
    s->mu = d.mu;
    s->adapt_sum = d.adapt_sum;
    s->adapt_weight = d.adapt_weight;
    return d.token;
}
