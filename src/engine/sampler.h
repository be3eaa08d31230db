/* Sampling of one slot: from a row of logits to a token.
 *
 * logit bias -> chain (penalties ... temperature) -> draw -> grammar check, in llama.cpp's order. The state (history,
 * random generator, mirostat's mu) advances only with emitted tokens, so that a draft that is rejected leaves no
 * trace: text with and without speculation is the same for the same seed. After the model's step, before spec/accept.
 */
#ifndef TD_ENGINE_SAMPLER_H
#define TD_ENGINE_SAMPLER_H

#include "../../include/tandem.h"

#include <stddef.h>

typedef struct td_cand {
    uint32_t id;
    float logit;
    float p; /* meaningful after normalisation */
} td_cand;

/* Scratch shared by all slots of an engine: the engine's thread samples one row at a time. */
typedef struct td_sampler_scratch {
    td_cand *cands; /* [n_vocab] */
    int *z;         /* [z_cap] DRY */
    int z_cap;
    int n_vocab;
    int n_last; /* candidates left by the last draw */
} td_sampler_scratch;

typedef struct td_sampler_env {
    int n_vocab;
    const uint32_t *end_tokens; /* masked by ignore_end; borrowed for the sampler's life */
    int n_end_tokens;
    int n_ctx;
    /* Writes the ids of `text` (no specials) for DRY's breakers; returns the count. */
    int (*tokenize)(void *user, const char *text, size_t n_bytes, uint32_t *out, int cap);
    void *user;
} td_sampler_env;

typedef struct td_sampler td_sampler;

bool td_sampler_scratch_init(td_sampler_scratch *s, int n_vocab, int n_ctx);
void td_sampler_scratch_free(td_sampler_scratch *s);

/* Checks the values (TD_ERR_ARGUMENT names the field) and copies what `s` points to. */
td_status td_sampler_create(td_sampler **out, const td_sampling *s, const td_sampler_env *env, td_error *err);
void td_sampler_destroy(td_sampler *s);

/* True when the token is the arg-max of the raw logits: no row of logits is needed then. */
bool td_sampler_is_argmax(const td_sampler *s);

/* The history that penalties see: prompt tokens first, then what was emitted. */
void td_sampler_prime(td_sampler *s, const uint32_t *tokens, int n);
void td_sampler_accept(td_sampler *s, uint32_t token);

/* Adds biases to a row, once, before td_sampler_draw or td_sampler_distribution. logits: [n_vocab] */
void td_sampler_bias(const td_sampler *s, float *logits);

/* Draws a token. `logits` is changed by the chain's penalties. `mask` ([n_vocab] bits, 1 = allowed) or NULL.
 * When `allowed` is given it is asked first about a draw without mask; only a refusal applies the mask, which `fill`
 * computes: the constrained path costs nothing while the model follows the grammar by itself. */
typedef struct td_sampler_constraint {
    bool (*allowed)(void *user, uint32_t token);
    const uint64_t *(*mask)(void *user);
    void *user;
} td_sampler_constraint;

uint32_t td_sampler_draw(td_sampler *s, td_sampler_scratch *scratch, float *logits, const td_sampler_constraint *c);

/* The distribution that td_sampler_draw draws from, as candidates with probabilities in scratch->cands (unsorted or
 * sorted); returns their number. */
int td_sampler_distribution(td_sampler *s, td_sampler_scratch *scratch, float *logits, const uint64_t *mask);
/* The distribution to draw a draft from: the assistant's logits under the request's own truncation and temperature,
 * without history; at most `cap` candidates, normalised. */
int td_sampler_draft_distribution(td_sampler *s, td_sampler_scratch *scratch, const float *logits, int cap);
/* out[0]: `token`, out[1..n]: the likeliest candidates of the last draw, with log-probabilities after the chain; ids
 * TD_TOKEN_NONE where there are fewer. */
void td_sampler_last_probs(td_sampler_scratch *scratch, uint32_t token, td_prob *out, int n);
/* Uniform in [0, 1), from the sampler's own generator. */
double td_sampler_uniform(td_sampler *s);
/* Draws from normalised candidates. */
uint32_t td_sampler_pick(td_sampler *s, const td_cand *cands, int n);

#endif
