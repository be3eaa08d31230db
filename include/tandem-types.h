/* Value types of the public interface that the lower layers share: cache types, speculation and sampling settings,
 * measurements. */
#ifndef TANDEM_TYPES_H
#define TANDEM_TYPES_H

#include "tandem-status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TD_API __attribute__((visibility("default")))
#else
#define TD_API
#endif

#define TD_MAX_DRAFT  32 /* drafts in one round, whatever the source */
#define TD_MAX_SLOTS  256
#define TD_TOKEN_NONE UINT32_MAX

typedef enum td_cache_type {
    TD_CACHE_AUTO = 0, /* f16 */
    TD_CACHE_F32,
    TD_CACHE_F16,
    TD_CACHE_BF16,
    TD_CACHE_Q8_0,
    TD_CACHE_Q4_0,
    TD_CACHE_TURBO2,
    TD_CACHE_TURBO3,
    TD_CACHE_TURBO4,
    TD_CACHE_TYPE_COUNT
} td_cache_type;

TD_API const char *td_cache_type_name(td_cache_type type);             /* "q8_0" */
TD_API bool td_cache_type_parse(const char *name, td_cache_type *out); /* llama.cpp's names */

/* Sources of drafts, a set. */
enum {
    TD_SPEC_NONE = 0,
    TD_SPEC_MTP = 1,    /* the assistant: draft-mtp, mtp, nextn */
    TD_SPEC_NGRAM = 2,  /* prompt look-up: ngram-simple and its relatives */
    TD_SPEC_GRAMMAR = 4 /* tokens that a grammar forces; on whenever there is a grammar and speculation is on */
};

typedef enum td_spec_accept { TD_ACCEPT_SAMPLE, TD_ACCEPT_REJECTION } td_spec_accept;

typedef struct td_spec_params {
    uint32_t types; /* TD_SPEC_* set; an engine without assistant drops TD_SPEC_MTP */
    int n_max;      /* drafts per round at most, 0..TD_MAX_DRAFT; default 3 */
    int n_min;      /* a shorter draft is dropped; default 0 */
    float p_min;    /* drafting stops below this probability; default 0 */
    bool fixed;     /* false: the depth policy chooses 0..n_max by measured cost and acceptance */
    td_spec_accept accept;
    int ngram_n, ngram_m; /* look-up: length of the match, longest draft; defaults 12 and 48, draft capped by n_max */
    int skip_streak;      /* 1..32: after so many fruitless rounds one plain step; 0 off */
} td_spec_params;

typedef struct td_importance { /* one tensor's part of an importance matrix */
    const char *tensor;        /* "blk.0.attn_q.weight" */
    int n_mat;                 /* 1, or the number of experts */
    int64_t n_values;          /* of an input row */
    const double *sums;        /* [n_mat][n_values] of squared inputs */
    const uint64_t *counts;    /* [n_mat] rows that were added */
} td_importance;

/* ---- measuring (td_engine_measure) ---- */

typedef enum td_measure_kind {
    TD_MEASURE_PREFILL, /* n prompt tokens in steps of n_batch */
    TD_MEASURE_DECODE,  /* n single-token steps, on each of n_slots slots */
    TD_MEASURE_VERIFY,  /* one step of n rows of one slot, all of them with an arg-max */
    TD_MEASURE_DRAFT    /* one chain of n drafts */
} td_measure_kind;

typedef struct td_measure {
    td_measure_kind kind;
    int n, n_slots;       /* n_slots 0: 1 */
    int depth;            /* positions in the cache before; computed once */
    int n_reps, n_warmup; /* runs that are measured; runs before them that are not */
    uint64_t seed;        /* of the random tokens */
    bool stages;          /* also time the stages of a step */
    /* NULL, or called by the engine's thread before each run: `rep` counts from -n_warmup to n_reps - 1. It may wait,
     * so that several engines can take turns. */
    void (*before)(void *user, int rep);
    void *user;
} td_measure;

typedef struct td_logit_bias {
    uint32_t token;
    float bias; /* -INFINITY forbids */
} td_logit_bias;

typedef enum td_sampler_kind { /* links of the chain, in llama.cpp's default order */
                               TD_SAMPLER_END = 0,
                               TD_SAMPLER_PENALTIES,   /* e */
                               TD_SAMPLER_DRY,         /* d */
                               TD_SAMPLER_TOP_N_SIGMA, /* s */
                               TD_SAMPLER_TOP_K,       /* k */
                               TD_SAMPLER_TYPICAL,     /* y */
                               TD_SAMPLER_TOP_P,       /* p */
                               TD_SAMPLER_MIN_P,       /* m */
                               TD_SAMPLER_XTC,         /* x */
                               TD_SAMPLER_TEMPERATURE, /* t */
                               TD_SAMPLER_KIND_COUNT
} td_sampler_kind;

/* Appends a link by its name in llama.cpp ("top_k", "typical_p", …) or its letter; false: unknown, or there are 15. */
TD_API bool td_sampler_chain_add(uint8_t chain[16], const char *name, size_t n_bytes);
TD_API const char *td_sampler_name(td_sampler_kind kind); /* "top_k" */

typedef struct td_sampling {
    uint8_t chain[16]; /* td_sampler_kind, ended by TD_SAMPLER_END */
    uint64_t seed;     /* UINT64_MAX: random */
    float temperature; /* 1.0; <= 0 greedy */
    float dynatemp_range, dynatemp_exponent;
    int top_k;         /* 64; <= 0 off */
    float top_p;       /* 0.95; >= 1 off */
    float min_p;       /* 0; <= 0 off */
    float typical_p;   /* 1 */
    float top_n_sigma; /* -1 off */
    float xtc_probability, xtc_threshold;
    int repeat_last_n; /* 64; -1 whole context, 0 off */
    float repeat_penalty, presence_penalty, frequency_penalty;
    float dry_multiplier, dry_base;
    int dry_allowed_length, dry_last_n;
    const char *const *dry_breakers; /* NULL: \n : " * */
    int n_dry_breakers;
    int mirostat; /* 0, 1, 2 */
    float mirostat_tau, mirostat_eta;
    float adaptive_target, adaptive_decay; /* target < 0 off */
    int min_keep;
    const td_logit_bias *biases;
    int n_biases;
    bool ignore_end; /* end tokens are masked */
} td_sampling;

typedef struct td_reasoning_params { /* thoughts: <|channel>thought ... <channel|> */
    int budget;                      /* tokens; then the thought is ended; -1: no limit */
    bool open;                       /* the prompt ends inside a thought */
    uint32_t begin, end;             /* its markers; begin TD_TOKEN_NONE: thoughts are not watched */
    uint32_t call;                   /* <|tool_call>, which ends one too */
    const uint32_t *closing;         /* [n_closing] forced before `end` when the engine ends one; copied */
    int n_closing;
} td_reasoning_params;

typedef struct td_spec_counters { /* since start */
    uint64_t calls_begin, calls_draft, calls_accept;
    uint64_t drafts, drafts_accepted, tokens, tokens_accepted; /* generated / accepted */
    uint64_t accepted_at[TD_MAX_DRAFT];
    uint64_t ns_begin, ns_draft, ns_accept;
} td_spec_counters;

typedef struct td_counters { /* since start */
    uint64_t prompt_tokens, prompt_ns, predicted_tokens, predicted_ns;
    uint64_t steps, rows, slot_steps;   /* forward passes; rows in them; busy slots summed over them */
    uint64_t cache_queries, cache_hits; /* prompt tokens asked for; found */
    int n_processing, n_deferred, n_tokens_max;
    uint64_t kv_bytes_used, kv_bytes_total, kv_tokens, checkpoint_bytes, n_checkpoints;
    uint64_t parked, parked_bytes, parked_hits, parked_hit_tokens; /* prompt cache: entries, size; uses of it */
    uint64_t reprocessed, resampled; /* prompts read again for want of a window; draws that a grammar sent back */
    td_spec_counters mtp, ngram, grammar;
    uint64_t depth_chosen[TD_MAX_DRAFT + 1]; /* rounds by the depth that the policy chose */
} td_counters;

#ifdef __cplusplus
}
#endif
#endif
