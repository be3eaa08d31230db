/* A model with everything it needs to run, for the tests of goldens and of identity. */
#ifndef TD_TEST_RIG_H
#define TD_TEST_RIG_H

#include "kv/kv.h"
#include "model/model.h"
#include "quant/types.h"

typedef struct rig_options {
    const char *target, *assistant;          /* assistant: NULL for none */
    int n_threads, max_rows, n_slots, n_ctx; /* 0: 1, 128, 1, 256 */
    bool no_pack;
    const char *pack_cache;
    td_head_kind head;
    int screen_rows; /* as in td_drafter_options */
    td_kv_type kv;   /* of keys and values, all layers */
} rig_options;

typedef struct rig {
    td_pool *pool;
    td_model *model;
    td_drafter *drafter;
    td_kv *kv;
    td_workspace *work;
    int n_vocab, d_model;
} rig;

/* Prints the error and returns false on failure; rig_close in either case. */
bool rig_open(rig *r, const rig_options *o);
void rig_close(rig *r);

/* Feeds tokens [from, to) of a sequence to a slot in steps of at most `chunk` rows; results of every row are copied to
 * logits [to - from][n_vocab] and hidden [to - from][d_model] where given. */
bool rig_feed(rig *r, int slot, const int32_t *tokens, int from, int to, int chunk, float *logits, float *hidden);

/* Writes a copy of a GGUF file with its weight matrices in another type, where their rows are whole blocks. */
bool rig_requantise(const char *from, const char *to, td_type type);
/* A path below $TMPDIR that no other test uses. */
void rig_temp(char *out, size_t n_bytes, const char *name);

#endif
