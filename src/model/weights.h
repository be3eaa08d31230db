/* The weights of a network, bound to tensors of a GGUF file and checked against its shape.
 *
 * Vectors (norms, scales) are copied as f32. Matrices become td_matrix: packed into memory of our own, mapped from a
 * pack cache, or left in the mapped file (pack.h decides, after everything is bound). */
#ifndef TD_MODEL_WEIGHTS_H
#define TD_MODEL_WEIGHTS_H

#include "../base/arena.h"
#include "../file/gguf.h"
#include "../kernels/matrix.h"
#include "model.h"
#include "pack.h"
#include "shape.h"

/* One decoder layer. A matrix with n_rows 0 is absent; vectors are NULL where the layer has none. */
typedef struct td_layer {
    const float *attn_norm;                             /* [d_model] */
    const float *q_norm, *k_norm;                       /* [d_head] */
    const float *post_attn_norm, *ffn_norm, *post_norm; /* [d_model]; post_norm: after the whole FFN */
    td_matrix q, k, v, o;                               /* v absent: values come from the projection of k */
    td_matrix gate, up, down;
    float scale; /* multiplies the residual stream at the layer's end */
    /* experts */
    td_matrix router;                                    /* f32 [n_expert][d_model] */
    td_matrix gate_exps, up_exps, down_exps;             /* n_expert stacked */
    const float *router_scale;                           /* [d_model], times d_model^-1/2 */
    const float *expert_scale;                           /* [n_expert] */
    const float *post_norm_1, *pre_norm_2, *post_norm_2; /* [d_model] */
    /* per-layer embedding */
    td_matrix ple_gate, ple_proj; /* [d_ple][d_model], [d_model][d_ple] */
    const float *ple_norm;        /* [d_model] */
} td_layer;

typedef struct td_rope { /* one per attention type */
    int d, n_pairs;      /* rotated span; pairs beyond n_pairs have angle 0 */
    const double *freq;  /* [n_pairs] */
} td_rope;

typedef struct td_net {
    td_gguf *gguf;
    td_shape shape;
    td_arena *arena; /* vectors, layers, names */
    td_pack pack;
    const char *prefix; /* of tensor names in messages: "" or "mtp." */
    td_layer *layers;   /* [n_layer] */
    td_rope rope[2];    /* [sliding] */
    td_matrix head;     /* [n_vocab][d_model]; packed rows in the order of the clusters for an ordered head */
    const float *output_norm;
    uint64_t n_bound; /* tensors that were asked for */
} td_net;

struct td_model {
    td_net net;
    td_matrix embd;          /* rows of the token embedding: the head's matrix when they are tied */
    td_matrix ple_embd;      /* [n_vocab][n_layer * d_ple], always in the file */
    td_matrix ple_proj;      /* [n_layer * d_ple][d_model] */
    const float *ple_norm;   /* [d_ple] */
    const int32_t *suppress; /* [n_suppress] ascending */
    int n_suppress;
};

struct td_drafter {
    td_net net;
    const td_model *target;
    td_matrix pre, post;  /* [d_model][2 d_backbone], [d_backbone][d_model] */
    td_matrix centroids;  /* [n_centroid][d_model] */
    td_matrix screen;     /* 4-bit copy of a dense head, which then stays in the file; n_rows 0: none */
    const int32_t *order; /* [n_vocab] token of packed head row p; NULL: dense head */
};

td_status td_net_open(td_net *net, const td_model_options *o, bool assistant, td_error *err);
void td_net_close(td_net *net);

/* A matrix {k, n_rows} of a 2-D tensor (n_expert 1) or {k, src_rows, n_expert}, rows [row0, row0 + n_rows) of each;
 * registers it with net->pack unless `file_only`. Absent and not required: n_rows stays 0. */
typedef struct td_bind {
    const char *name;
    int64_t n_rows, k;
    int64_t src_rows, row0; /* 0: as n_rows, from 0 */
    int n_expert;           /* 0: 1 */
    bool optional, file_only;
    const int32_t *row_ids, *row_pos;
} td_bind;
td_status td_bind_matrix(td_net *net, td_matrix *m, const td_bind *b, td_error *err);
/* A vector of n values as f32, finite; NULL when absent and optional. */
td_status td_bind_vector(td_net *net, const float **out, const char *name, int64_t n, bool optional, td_error *err);

#endif
