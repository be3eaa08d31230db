/* Defaults of td_sampling, the names of samplers and of cache types: the value types of the public header. */
#include "../../include/tandem.h"

#include <string.h>

static const char *const cache_names[TD_CACHE_TYPE_COUNT] = {"auto", "f32",    "f16",    "bf16",  "q8_0",
                                                             "q4_0", "turbo2", "turbo3", "turbo4"};

const char *td_cache_type_name(td_cache_type type) {
    return (unsigned)type < TD_CACHE_TYPE_COUNT ? cache_names[type] : "unknown";
}

bool td_cache_type_parse(const char *name, td_cache_type *out) {
    for (int i = 0; i < TD_CACHE_TYPE_COUNT; i++) {
        if (strcmp(name, cache_names[i]) == 0) {
            *out = (td_cache_type)i;
            return true;
        }
    }
    return false;
}

static const struct {
    char letter;
    const char *names[4]; /* the first is what is printed */
} links[TD_SAMPLER_KIND_COUNT] = {
    [TD_SAMPLER_PENALTIES] = {'e', {"penalties"}},
    [TD_SAMPLER_DRY] = {'d', {"dry"}},
    [TD_SAMPLER_TOP_N_SIGMA] = {'s', {"top_n_sigma", "top-n-sigma", "top-nsigma"}},
    [TD_SAMPLER_TOP_K] = {'k', {"top_k", "top-k"}},
    [TD_SAMPLER_TYPICAL] = {'y', {"typ_p", "typical_p", "typical", "typ"}},
    [TD_SAMPLER_TOP_P] = {'p', {"top_p", "top-p", "nucleus"}},
    [TD_SAMPLER_MIN_P] = {'m', {"min_p", "min-p"}},
    [TD_SAMPLER_XTC] = {'x', {"xtc"}},
    [TD_SAMPLER_TEMPERATURE] = {'t', {"temperature", "temp"}},
};

static td_sampler_kind kind_named(const char *name, size_t n) {
    for (int kind = TD_SAMPLER_END + 1; kind < TD_SAMPLER_KIND_COUNT; kind++) {
        if (n == 1 && name[0] == links[kind].letter) return (td_sampler_kind)kind;
        for (int k = 0; k < 4 && links[kind].names[k]; k++)
            if (strlen(links[kind].names[k]) == n && memcmp(links[kind].names[k], name, n) == 0)
                return (td_sampler_kind)kind;
    }
    return TD_SAMPLER_END;
}

bool td_sampler_chain_add(uint8_t chain[16], const char *name, size_t n_bytes) {
    td_sampler_kind kind = kind_named(name, n_bytes);
    int n = 0;
    while (n < 15 && chain[n] != TD_SAMPLER_END) n++;
    if (kind == TD_SAMPLER_END || n == 15) return false;
    chain[n] = (uint8_t)kind;
    chain[n + 1] = TD_SAMPLER_END;
    return true;
}

const char *td_sampler_name(td_sampler_kind kind) {
    return kind > TD_SAMPLER_END && kind < TD_SAMPLER_KIND_COUNT ? links[kind].names[0] : "";
}

void td_sampling_init(td_sampling *s) {
    *s = (td_sampling){
        .chain = {TD_SAMPLER_PENALTIES, TD_SAMPLER_DRY, TD_SAMPLER_TOP_N_SIGMA, TD_SAMPLER_TOP_K, TD_SAMPLER_TYPICAL,
                  TD_SAMPLER_TOP_P, TD_SAMPLER_MIN_P, TD_SAMPLER_XTC, TD_SAMPLER_TEMPERATURE},
        .seed = UINT64_MAX,
        .temperature = 1.0f,
        .dynatemp_exponent = 1.0f,
        .top_k = 64,
        .top_p = 0.95f,
        .typical_p = 1.0f,
        .top_n_sigma = -1.0f,
        .xtc_threshold = 0.1f,
        .repeat_last_n = 64,
        .repeat_penalty = 1.0f,
        .dry_base = 1.75f,
        .dry_allowed_length = 2,
        .dry_last_n = -1,
        .mirostat_tau = 5.0f,
        .mirostat_eta = 0.1f,
        .adaptive_target = -1.0f,
        .adaptive_decay = 0.9f,
    };
}

void td_sampling_init_llama(td_sampling *s) {
    td_sampling_init(s);
    s->temperature = 0.8f;
    s->top_k = 40;
    s->min_p = 0.05f;
}
