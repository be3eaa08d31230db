/* The hyper-parameters of a Gemma 4 target or assistant, read from GGUF metadata and validated against each other.
 *
 * Nothing is hard-coded: a model with 64 values per row is as legal as one with 5376. What a file may not do is name
 * sizes that contradict each other or exceed the limits below, which keep every product of the engine inside 64 bits
 * and every row count inside an int. Facts: GGUF keys of `gemma4.` and `gemma4-assistant.` (docs/models.md). */
#ifndef TD_MODEL_SHAPE_H
#define TD_MODEL_SHAPE_H

#include "../base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct td_gguf td_gguf;

enum { /* limits: generous beside any released model */
       TD_MAX_LAYERS = 1024,
       TD_MAX_WIDTH = 1 << 20, /* d_model, d_ff, n_head * d_head, n_layer * d_ple */
       TD_MAX_HEADS = 1024,
       TD_MAX_D_HEAD = 4096,
       TD_MAX_VOCAB = 1 << 24,
       TD_MAX_EXPERTS = 1024,
       TD_MAX_CONTEXT = 1 << 24
};

typedef struct td_layer_shape {
    bool sliding;     /* sees the last `window` positions only */
    bool moe;         /* experts beside the dense FFN */
    int n_head, n_kv; /* query heads, key/value heads; n_head is a multiple of n_kv */
    int d_head;
    int d_rope; /* rotated span of a head, pairs (i, i + d_rope/2) */
    int d_ff;
    int kv_layer; /* the layer whose cache this one reads: itself where it owns one, its donor otherwise; in an
                   * assistant the target's layer, set when it is attached (-1 before) */
    float rope_base;
} td_layer_shape;

typedef struct td_shape {
    bool assistant;
    bool old_dialect; /* assistant spelt gemma4_assistant */
    char arch[24];    /* the prefix of the keys */
    int n_layer, d_model, n_vocab;
    int n_layer_kv; /* layers [0, n_layer_kv) own a cache, the rest borrow; 0 in an assistant */
    int n_ctx_train;
    int window;
    int d_ple;    /* width of the per-layer embedding, 0: none */
    int n_expert; /* 0: dense */
    int n_expert_used, d_expert;
    float eps;
    float softcap;                         /* 0: none */
    int d_backbone;                        /* assistant: the target's d_model */
    int n_centroid, n_centroid_used;       /* assistant: ordered head, 0: dense head */
    td_layer_shape *layers;                /* [n_layer], owned */
    int max_d_head, max_q, max_kv, max_ff; /* largest d_head, n_head*d_head, n_kv*d_head, d_ff over the layers */
} td_shape;

/* Reads and validates; `s` needs td_shape_free whatever is returned. `assistant` says which kind is wanted: the other
 * kind, and any other architecture, is TD_ERR_UNSUPPORTED with a text that says what the file is. */
td_status td_shape_read(td_shape *s, const td_gguf *g, bool assistant, td_error *err);
void td_shape_free(td_shape *s);
bool td_arch_is_assistant(const char *arch); /* general.architecture of either dialect */

/* "E2B", "E4B", "12B", "26B-A4B", "31B", or "gemma4" for any other size. */
const char *td_shape_name(const td_shape *s);

#endif
