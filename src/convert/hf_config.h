/* config.json of a Gemma 4 checkpoint: the fields that shape the text model or the assistant, read and checked once.
 *
 * Both ways of writing a shape are understood: `global_head_dim` and `num_global_key_value_heads`, and the per-layer
 * table that newer libraries save instead (spec gemma4-target.md 6.5). */
#ifndef TD_CONVERT_HF_CONFIG_H
#define TD_CONVERT_HF_CONFIG_H

#include "../base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t;

enum { TD_HF_MAX_LAYERS = 1024 };

typedef struct td_hf_config {
    bool assistant; /* an MTP assistant, not a target */
    bool unified;   /* the 12B family: generation_config.json names suppressed tokens */
    uint32_t n_layer, d_model, d_ff, n_head, n_kv, window, n_shared, ple, context, n_vocab;
    uint32_t d_head, d_head_full;
    uint32_t n_kv_full;                /* KV heads of full layers; 0: as the sliding ones */
    uint8_t sliding[TD_HF_MAX_LAYERS]; /* 1: sliding-window layer */
    bool double_wide, k_eq_v, tied;
    uint32_t n_expert, n_used, ff_expert;           /* 0 without experts */
    float eps, theta, theta_swa, partial;           /* partial: share of a full layer's head that is rotated */
    float softcap;                                  /* 0: none, or null in the file */
    uint32_t backbone, n_centroids, centroid_top_k; /* assistants */
    bool ordered;
} td_hf_config;

/* `path` names config.json. */
td_status td_hf_config_read(td_hf_config *c, const char *path, td_error *err);

/* Any small JSON document: at most `max_bytes`, no duplicate keys, an object at the top. Free with json_decref. A file
 * that is not there gives NULL and TD_OK when `optional`. */
td_status td_hf_json(struct json_t **out, const char *path, uint64_t max_bytes, bool optional, td_error *err);

#endif
