/* Tandem: Gemma 4 from GGUF files, with its MTP assistant as a built-in speculative decoder.
 *
 * An engine holds a target model, optionally an assistant, and a fixed number of slots. A job is one generation: the
 * caller gives the whole prompt as token ids and the engine decides what of it is already in a cache. One thread of
 * the engine runs every step; jobs are submitted from any thread and read through a queue of events.
 *
 * Every function that can fail returns td_status and fills `err` when it is not NULL. No function aborts, exits or
 * prints. Pointers in parameter structs are borrowed for the duration of the call unless stated otherwise. */
#ifndef TANDEM_H
#define TANDEM_H

#include "tandem-types.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TD_VERSION "0.1.0"

typedef struct td_engine td_engine;
typedef struct td_job td_job;
typedef struct td_vocab td_vocab;     /* src/text/vocab.h inside the program; opaque outside */
typedef struct td_grammar td_grammar; /* src/text/grammar.h inside the program; opaque outside */

/* ---- parameters of an engine ------------------------------------------------------------------------------------ */

typedef void (*td_load_progress)(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct td_engine_params {
    const char *model_path;
    const char *draft_path; /* NULL: no assistant */
    td_engine *weights_of;  /* NULL, or an engine of the same files that is closed later: its weights are used */
    int n_threads;          /* 0: physical cores this process may use */
    bool pin_threads;
    int n_ctx;                            /* positions per slot; 0: the model's context */
    int n_slots;                          /* default 1 */
    int n_batch;                          /* rows of a prompt in one step at most; default 512 */
    int prefill_ms;                       /* bound of a prompt chunk while other slots generate; default 100 */
    td_cache_type type_k, type_v;         /* full-attention layers */
    td_cache_type type_k_swa, type_v_swa; /* sliding layers; TD_CACHE_AUTO: f16 */
    int n_cache_protect; /* first and last full-attention layers, each, with a q8_0 cache where fewer bits are asked */
    int64_t cache_ram;   /* bytes for checkpoints and cached prompts; -1 unlimited */
    int n_checkpoints;   /* per slot; default 32 */
    int cache_reuse;     /* smallest chunk moved by position shift, 0 off */
    int n_logit_rows;    /* rows with a whole row of logits in one step at least; for td_engine_score */
    bool context_shift;  /* a full context drops its oldest half instead of ending the job */
    bool pack;           /* default true: weights interleaved for this processor at load */
    const char *pack_cache; /* NULL: none; "": beside the model; else a directory */
    bool check_tensors;     /* look for NaN and infinities while loading */
    bool importance;        /* collect an importance matrix (td_engine_importance): slower */
    td_spec_params spec;    /* defaults of jobs, and ceilings of what a job may ask */
    const char *spec_trace; /* NDJSON of every round; NULL: LLAMA_MTP_ACC_TRACE decides */
    td_load_progress progress;
    void *progress_user;
} td_engine_params;

TD_API void td_engine_params_init(td_engine_params *p); /* the defaults above */

/* Loads and starts; on failure nothing is left behind. Codes: TD_ERR_NOT_FOUND, TD_ERR_FORMAT, TD_ERR_UNSUPPORTED,
 * TD_ERR_MISMATCH (the assistant does not fit), TD_ERR_MEMORY, TD_ERR_ARGUMENT. */
TD_API td_status td_engine_open(td_engine **out, const td_engine_params *params, td_error *err);
/* Waits for the step in progress, then frees. Every job must have been closed before. */
TD_API void td_engine_close(td_engine *e);

typedef struct td_engine_info {
    const char *model_path, *draft_path; /* owned by the engine */
    char model_name[64];                 /* general.name, or the file's name */
    char size_label[16];                 /* "E2B", "31B", "tiny" */
    char file_type[32];                  /* quantisation mix, "Q4_0" */
    char draft_head[16];                 /* "dense", "ordered" or "" */
    uint64_t n_params, file_bytes, draft_bytes;
    int n_vocab, n_ctx, n_ctx_train, n_slots, n_batch, n_threads, n_layer, d_model;
    bool per_layer_inputs; /* E2B, E4B */
    td_cache_type type_k, type_v;
    uint64_t weight_bytes, kv_bytes, work_bytes; /* resident */
    uint64_t kv_token_bytes;                     /* growth of the cache per position, everything counted */
    uint64_t park_bytes;                         /* the prompt cache's limit */
    int64_t load_ns;
    char cpu[96];
} td_engine_info;

TD_API void td_engine_get_info(const td_engine *e, td_engine_info *out);
TD_API const td_vocab *td_engine_vocab(const td_engine *e);
/* A text of the model file's metadata ("tokenizer.chat_template"), borrowed, not terminated; NULL when absent. */
TD_API const char *td_engine_metadata(const td_engine *e, const char *key, size_t *n_bytes);
/* Names of the weights: the target's, then an attached assistant's as mtp.<name>. False beyond the last. */
TD_API bool td_engine_tensor_name(const td_engine *e, size_t i, char *out, size_t n_bytes);

/* ---- text ------------------------------------------------------------------------------------------------------- */

enum {
    TD_TOKENIZE_BOS = 1,    /* begin with <bos> */
    TD_TOKENIZE_SPECIAL = 2 /* control tokens written in the text are recognised; without it they are plain text */
};

/* Writes at most `cap` ids and stores the full count in *n; TD_ERR_LIMIT when cap is too small. */
TD_API td_status td_tokenize(const td_engine *e, const char *text, size_t n_bytes, unsigned flags, uint32_t *out,
                             size_t cap, size_t *n, td_error *err);
/* Bytes of one token as text (control tokens print their name when `special`), not terminated; borrowed. */
TD_API const char *td_token_text(const td_engine *e, uint32_t token, bool special, size_t *n_bytes);
TD_API bool td_token_is_end(const td_engine *e, uint32_t token);

/* ---- sampling --------------------------------------------------------------------------------------------------- */

TD_API void td_sampling_init(td_sampling *s);       /* Gemma's recommendation: 1.0 / 64 / 0.95 */
TD_API void td_sampling_init_llama(td_sampling *s); /* llama.cpp's generic values: 0.8 / 40 / 0.95 / 0.05 */

/* ---- jobs ------------------------------------------------------------------------------------------------------- */

typedef enum td_finish {
    TD_FINISH_NONE = 0, /* still running */
    TD_FINISH_END,      /* an end token */
    TD_FINISH_STOP,     /* a stop string */
    TD_FINISH_LENGTH,   /* n_predict reached */
    TD_FINISH_CONTEXT,  /* the context is full */
    TD_FINISH_TIME,     /* max_ms passed */
    TD_FINISH_CANCELLED,
    TD_FINISH_ERROR
} td_finish;

typedef struct td_prob {
    uint32_t token;
    float logprob; /* natural logarithm */
} td_prob;

typedef struct td_job_params {
    const uint32_t *prompt; /* [n_prompt] ids, copied */
    int n_prompt;
    int n_predict;         /* -1: until an end or the context is full; 0: only fill the cache */
    int slot;              /* -1: the engine chooses by saved work */
    bool cache_prompt;     /* default true: reuse what a slot already holds */
    const char *cache_key; /* reuse only entries of this key (one API key does not see another's cache); NULL: shared */
    int cache_reuse;       /* smallest chunk moved by position shift, 0 off; default: the engine's */
    int n_keep, n_discard; /* context shift: first tokens kept, -1 the whole prompt; tokens dropped, 0 half */
    td_sampling sampling;  /* arrays inside are copied */
    td_spec_params spec;   /* clamped to the engine's */
    td_reasoning_params reasoning;
    const char *const *stop; /* stop strings; text is held back while it may begin one */
    int n_stop;
    td_grammar *grammar; /* NULL: free text; taken over by the job */
    uint32_t
        grammar_trigger;  /* the grammar's first token: text is free until it comes; TD_TOKEN_NONE: from the start */
    bool grammar_repeats; /* with a trigger: behind a whole sentence of the grammar text is free again */
    int n_probs;          /* candidates reported per token, 0 none */
    bool post_sampling_probs;
    bool special_text;            /* control tokens appear in the text */
    int64_t max_ms;               /* 0: no limit */
    bool max_ms_at_line;          /* the limit holds once a newline was generated */
    int priority;                 /* lower runs first */
    void (*on_ready)(void *user); /* called by the engine's thread when events wait; must not block; may be NULL */
    void *user;
} td_job_params;

typedef struct td_timings {
    int cache_n;  /* prompt tokens reused */
    int prompt_n; /* prompt tokens computed */
    double prompt_ms;
    int predicted_n, reasoning_n; /* generated; of them inside thoughts */
    double predicted_ms;
    int draft_n, draft_n_accepted, draft_rounds;
    double draft_ms, verify_ms;
    double queue_ms, ttft_ms;
    int accepted_at[TD_MAX_DRAFT]; /* rounds in which more than i drafts were accepted */
} td_timings;

typedef enum td_event_kind {
    TD_EVENT_PROGRESS, /* part of the prompt was computed */
    TD_EVENT_TOKENS,   /* one round's tokens and their text */
    TD_EVENT_DONE      /* the last event of every job */
} td_event_kind;

/* Borrowed until the next td_job_read or td_job_close of the same job. */
typedef struct td_event {
    td_event_kind kind;
    int prompt_total, prompt_cached, prompt_done; /* PROGRESS; every kind fills them */
    const uint32_t *tokens;                       /* TOKENS: [n_tokens] */
    const uint8_t *drafted; /* [n_tokens] 1 where the token was proposed by a draft and accepted */
    const td_prob *probs;   /* [n_tokens][n_probs + 1]: the token itself, then the best candidates; NULL without */
    int n_tokens, n_probs;
    const char *text; /* complete UTF-8 characters; never part of a stop string */
    size_t n_text;
    td_finish finish;        /* DONE */
    const char *stop_string; /* DONE after TD_FINISH_STOP */
    const td_error *error;   /* DONE after TD_FINISH_ERROR */
    int slot;
    bool truncated, has_new_line; /* the context was shifted; the tokens so far hold a newline */
    const char *cache_note;       /* why no more of the prompt was reused; "" when all was */
    td_timings timings;           /* complete at DONE, running before */
} td_event;

TD_API void td_job_params_init(const td_engine *e, td_job_params *p);

/* Queues a job. TD_ERR_CONTEXT when the prompt does not fit a slot, TD_ERR_ARGUMENT for a bad token id or value,
 * TD_ERR_BUSY when the queue is full. */
TD_API td_status td_job_submit(td_engine *e, const td_job_params *p, td_job **out, td_error *err);
/* The next event; waits up to timeout_ms (-1: for ever). TD_ERR_BUSY when none came in time. After DONE:
 * TD_ERR_NOT_FOUND. */
TD_API td_status td_job_read(td_job *j, td_event *out, int timeout_ms);
/* Stops at the next step boundary; a DONE event with TD_FINISH_CANCELLED follows. Any thread. */
TD_API void td_job_cancel(td_job *j);
/* Ends the thought that the job is in, or its next one. Any thread. */
TD_API void td_job_end_reasoning(td_job *j);
/* Cancels if it still runs, and frees. */
TD_API void td_job_close(td_job *j);
TD_API int td_job_id(const td_job *j);

/* The next three need an idle slot: TD_ERR_BUSY where a job runs or a draft is in flight. Pointers to figures may be
 * NULL. */

/* Removes what the slot holds. */
TD_API td_status td_slot_erase(td_engine *e, int slot, int *n_erased, td_error *err);
/* Writes what it holds; the file is whole or absent and names its model by hash. */
TD_API td_status td_slot_save(td_engine *e, int slot, const char *path, int *n_tokens, uint64_t *n_bytes,
                              td_error *err);
/* Reads it back. Jobs with the same cache_key (td_job_params) may go on from it; NULL: those without a key. Codes:
 * TD_ERR_FORMAT, TD_ERR_MISMATCH (another model), TD_ERR_CONTEXT (more tokens than a slot has). */
TD_API td_status td_slot_restore(td_engine *e, int slot, const char *path, const char *cache_key, int *n_tokens,
                                 uint64_t *n_bytes, td_error *err);

typedef struct td_slot_info {
    int id, job, last_job; /* job -1: idle; then what follows n_tokens is about last_job, -1: none */
    int n_ctx, n_tokens;   /* held in the cache */
    bool prompt_phase, generating, speculative;
    int n_prompt, n_prompt_done, n_prompt_cached, n_decoded, n_remain;
    int draft_n, draft_n_accepted, depth;
    int n_checkpoints; /* windows kept to come back to */
    bool has_new_line; /* among the generated tokens */
} td_slot_info;

/* Never waits for a step. Returns the number of slots; fills at most cap. */
TD_API int td_slots_get(const td_engine *e, td_slot_info *out, int cap);

TD_API void td_counters_get(const td_engine *e, td_counters *out);

/* ---- asynchronous drafting -------------------------------------------------------------------------------------- */

/* One request in flight per slot. From submit to wait the target may append to the slot's cache; every operation that
 * removes or moves cells waits for the draft first. `last` is the token not yet decoded; its position follows the
 * slot's cached tokens. For drivers that bring their own loop on a slot no job runs on; the engine uses the same path.
 * Until the drafts are taken or given up no job starts on the slot. */
TD_API td_status td_draft_submit(td_engine *e, int slot, uint32_t last, int n_steps, td_error *err);
/* Waits and takes the drafts: [n_steps] ids; TD_ERR_NOT_FOUND when nothing is in flight. */
TD_API td_status td_draft_wait(td_engine *e, int slot, uint32_t *drafts, int cap, int *n, td_error *err);
TD_API void td_draft_cancel(td_engine *e, int slot); /* gives them up */

/* ---- measuring (tandem bench) ----------------------------------------------------------------------------------- */

typedef struct td_stage {
    const char *name;
    int64_t ns;
    uint64_t n_bytes; /* weights touched */
} td_stage;

typedef struct td_measured {
    int64_t ns[64];       /* [min(n_reps, 64)] */
    uint64_t step_bytes;  /* weight bytes of one decode step */
    uint64_t token_macs;  /* multiply-adds with weights of a prompt token, which ends with its last keys and values */
    uint64_t result_macs; /* of a token whose result is wanted, as a prompt's last: all layers, without the head */
    uint64_t barriers;    /* thread barriers of the last run */
    td_stage stages[16];
    int n_stages;
} td_measured;

/* Uses slots 0 .. n_slots-1, which must be idle, and empties them. */
TD_API td_status td_engine_measure(td_engine *e, const td_measure *what, td_measured *out, td_error *err);
/* Called for every scored position, in order: `pos` in [0, n), logits [n_vocab] f32, borrowed. False stops. */
typedef bool (*td_score_fn)(void *user, int pos, const float *logits);
/* Computes tokens [n] from an empty slot 0, in steps of n_batch, and hands out the logits of positions first .. n-1
 * (td_engine_params.n_logit_rows of them in one step at most). Empties the slot. TD_ERR_CANCELLED when fn stopped. */
TD_API td_status td_engine_score(td_engine *e, const uint32_t *tokens, int n, int first, td_score_fn fn, void *user,
                                 td_error *err);
/* Tensor i of the importance matrix of all rows since the start; false beyond the last. Borrowed; no job may run. */
TD_API bool td_engine_importance(const td_engine *e, int i, td_importance *out);
/* The machine's own limits with the engine's threads: read bandwidth in bytes per second, 8-bit multiply-adds per
 * second with the widest instructions in use. */
TD_API void td_engine_limits(td_engine *e, double *read_bytes, double *int8_macs);

TD_API const char *td_version(void);

#ifdef __cplusplus
}
#endif
#endif
