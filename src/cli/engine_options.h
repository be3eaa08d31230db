/* Options that every command with an engine shares: model, context, threads, caches, speculation, sampling. */
#ifndef TD_CLI_ENGINE_OPTIONS_H
#define TD_CLI_ENGINE_OPTIONS_H

#include "../../include/tandem.h"
#include "../base/progress.h"
#include "options.h"

typedef struct td_engine_flags {
    const char *model, *draft;
    int64_t n_ctx, n_batch, n_ubatch, n_threads, n_threads_batch, n_slots, prefill_ms;
    bool pin, pack, check_tensors, context_shift, quiet;
    const char *pack_cache;
    const char *type_k, *type_v, *type_k_swa, *type_v_swa;
    int64_t cache_protect, cache_ram_mib, n_checkpoints, cache_reuse;
    int flash_attn;
    td_option_list spec_type;
    td_option_list placement, draft_placement; /* -ot, -otd */
    int64_t spec_n_max, spec_n_min, block_size, legacy_max, ngram_n, ngram_m, skip_streak;
    double spec_p_min;
    bool spec_fixed, spec_default;
    int spec_accept;
    const char *spec_trace;
    int64_t log_verbosity;
    int n_logit_rows;      /* set by the command */
    bool importance;       /* set by the command */
    td_engine *weights_of; /* set by the command */
    bool verbose;
    td_progress progress;
} td_engine_flags;

typedef struct td_sampling_flags {
    int profile; /* gemma, llama */
    const char *samplers, *sampler_seq;
    int64_t seed, top_k, repeat_last_n, dry_allowed_length, dry_last_n, mirostat, min_keep;
    double temperature, dynatemp_range, dynatemp_exponent, top_p, min_p, typical_p, top_n_sigma, xtc_probability,
        xtc_threshold, repeat_penalty, presence_penalty, frequency_penalty, dry_multiplier, dry_base, mirostat_tau,
        mirostat_eta, adaptive_target, adaptive_decay;
    td_option_list dry_breakers, logit_bias;
    bool ignore_eos;
    td_logit_bias *biases; /* made by td_sampling_from_flags */
} td_sampling_flags;

extern const td_option td_engine_options[];
extern const td_option td_sampling_options[];

void td_engine_flags_init(td_engine_flags *f);
void td_sampling_flags_init(td_sampling_flags *f);

td_status td_cache_type_from_flag(const char *flag, const char *name, td_cache_type *out, td_error *err);

/* Turns the flags into parameters; the strings are borrowed from `f`. Prints nothing. */
td_status td_engine_params_from_flags(td_engine_flags *f, td_engine_params *p, td_error *err);
td_status td_sampling_from_flags(td_sampling_flags *f, td_sampling *s, td_error *err);

/* -v, -lv, -q: what is logged from now on. */
void td_log_level_from_flags(const td_engine_flags *f);
/* Opens the engine with a progress bar on a terminal; prints the error ("tandem run: …"). NULL on failure. */
td_engine *td_engine_from_flags(const char *command, td_engine_flags *f);

#endif
