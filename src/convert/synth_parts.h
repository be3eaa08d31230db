/* Parts of the pair generator; only src/convert/synth*.c includes this. */
#ifndef TD_CONVERT_SYNTH_PARTS_H
#define TD_CONVERT_SYNTH_PARTS_H

#include "synth.h"

#include "../file/gguf_write.h"

/* ---- random numbers: splitmix64 to seed, xoshiro256++ to draw ---- */

typedef struct td_rng {
    uint64_t s[4];
} td_rng;

uint64_t td_rng_mix(uint64_t a, uint64_t b); /* a hash of both */
void td_rng_seed(td_rng *r, uint64_t seed);
uint64_t td_rng_next(td_rng *r);
uint64_t td_rng_below(td_rng *r, uint64_t n); /* [0, n) */
double td_rng_unit(td_rng *r);                /* [0, 1) */

/* ---- random rows of any type ---- */

typedef struct td_filler { /* how a block of a type is made: random codes, constant scales */
    const td_type_info *type;
    uint8_t block[256]; /* scale fields in place */
    uint8_t mask[256];  /* 1 where block[] overrides the random byte */
    float rms;          /* floats: of the uniform distribution */
} td_filler;

/* Values of mean about 0 and the given root mean square. */
void td_filler_init(td_filler *f, const td_type_info *type, float rms);
void td_filler_row(const td_filler *f, uint64_t seed, uint64_t k, uint8_t *dst);

/* ---- the walk ---- */

typedef struct td_walk {
    uint64_t n_vocab;
    uint32_t first;       /* tokens below it are off the walk (special, bytes, characters) */
    uint32_t n;           /* tokens on the walk */
    uint32_t *order;      /* [n]: pi(order[i]) = order[i + 1], a single cycle */
    uint32_t *alias;      /* [n_vocab]: whose embedding row token t has; itself on the walk */
    uint32_t *target_row; /* [n_vocab]: row r of the output matrix is the embedding of this token; TD_NO_TOKEN: zeros */
    uint32_t *draft_row;  /* the same for the assistant's head */
    uint32_t n_wrong;     /* tokens after which the assistant drafts wrongly */
} td_walk;

#define TD_NO_TOKEN UINT32_MAX

/* True for ids that are never generated: special tokens, bytes, and what suppress_tokens names. */
bool td_synth_off_walk(uint64_t id);
td_status td_walk_make(td_walk *w, uint64_t n_vocab, uint64_t seed, double accept, td_error *err);
void td_walk_free(td_walk *w);

/* ---- the ordered head ---- */

typedef void (*td_row_fn)(void *arg, uint64_t id, float *row); /* the head's row of a token; NULL row: see below */

/* Distributes n_vocab head rows of `h` values over n_centroids clusters of equal size, each to one of the `n_best`
 * centroids that score highest with it. `row` is called from several threads; `is_zero` tells rows that go anywhere.
 * order[n_vocab]: the ids cluster by cluster. */
typedef struct td_cluster_job {
    uint64_t n_vocab, h, n_centroids, n_best;
    const float *centroids; /* [n_centroids][h] */
    td_row_fn row;
    bool (*is_zero)(void *arg, uint64_t id);
    void *arg;
    td_pool *pool;
    td_progress_fn progress;
    void *progress_user;
} td_cluster_job;

td_status td_cluster(const td_cluster_job *job, int32_t *order, uint64_t *n_misplaced, td_error *err);

/* ---- shapes ---- */

typedef struct td_synth_shape {
    const char *size;
    uint32_t n, n_layer, period, n_head, kv_swa, kv_full, ff, window, n_shared, ple;
    bool double_wide, k_eq_v;
    uint32_t n_expert, n_used, ff_expert;
    uint32_t a_n, a_head, a_ff; /* assistant */
    bool ordered;               /* the released assistant has the ordered head */
    uint32_t context;
    uint32_t n_vocab;
} td_synth_shape;

/* The shape of that name; n_layer: fewer or more layers of the same form, a multiple of `period`; 0: its own. */
td_status td_synth_shape_make(td_synth_shape *out, const char *size, uint32_t n_layer, td_error *err);

/* Keys shared by target and assistant; `arch` is the key prefix. */
td_status td_synth_put_keys(td_gguf_writer *w, const td_synth_shape *s, const char *arch, bool assistant,
                            uint32_t file_type, uint64_t n_vocab, td_error *err);
td_status td_synth_put_vocabulary(td_gguf_writer *w, uint64_t n_vocab, td_error *err);

#endif
