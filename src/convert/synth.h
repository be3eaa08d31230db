/* Synthetic pairs: files of the real shapes with random weights, whose greedy continuation is a known walk and whose
 * assistant agrees with it on a chosen share of tokens. All the work of the real model at a known acceptance.
 *
 * How it works. Row pi(t) of the output matrix is the embedding row of t, and every branch of the network adds little
 * to the residual stream, so the most likely token after t is pi(t). The assistant's input projection P maps embedding
 * rows to few dimensions; row pi(t) of its head is P times the embedding of t, so it drafts pi(t) too, except for the
 * chosen tokens, whose rows are exchanged among themselves. */
#ifndef TD_CONVERT_SYNTH_H
#define TD_CONVERT_SYNTH_H

#include "../base/pool.h"
#include "../base/progress.h"
#include "mix.h"

typedef enum td_synth_head { TD_SYNTH_HEAD_AUTO, TD_SYNTH_HEAD_DENSE, TD_SYNTH_HEAD_ORDERED } td_synth_head;

typedef struct td_synth_options {
    const char *size;                /* e2b e4b 12b 26b 31b; tiny, tiny-e4b … tiny-31b */
    const td_ftype *ftype;           /* of the target */
    const td_ftype *assistant_ftype; /* NULL: head and projections q8_0, layers q4_0 */
    double accept;                   /* share of drafted tokens that agree with the target, 0 to 1 */
    td_synth_head head;              /* auto: ordered where the real model has it */
    bool old_dialect;                /* gemma4_assistant with its names and keys */
    uint64_t seed;
    uint64_t n_vocab; /* 0: the size's own */
    uint32_t n_layer; /* 0: the size's own; else a multiple of its period of sliding and full layers */
    td_pool *pool;
    td_progress_fn progress;
    void *progress_user;
} td_synth_options;

/* NULL after the last size. */
const char *td_synth_size_at(int i);

td_status td_synth_target(const td_synth_options *o, const char *path, td_error *err);
td_status td_synth_assistant(const td_synth_options *o, const char *path, td_error *err);
/* File names: "e2b-q4_0.gguf", "e2b-assistant-a80-ordered.gguf". */
void td_synth_target_name(const td_synth_options *o, char *out, size_t n);
void td_synth_assistant_name(const td_synth_options *o, char *out, size_t n);

#endif
