/* Defaults of td_sampling and the names of cache types: the value types of the public header. */
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
