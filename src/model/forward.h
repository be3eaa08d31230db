/* What the forward passes of target and assistant share: buffers, one thread's view of a step, the decoder layer.
 *
 * All threads of the pool walk a step together. Work that is heavy (a product with a weight matrix, attention) is cut
 * into units which threads take; a barrier ends the stage. Work that is light (norms, residuals, quantising a row) is
 * done in one of two ways. With at most TD_OWN_ROWS rows, every thread does it for all rows in memory of its own: some
 * thousand operations are cheaper than a barrier. With more, rows are split over the threads and a barrier follows.
 * Both give the same bits, because every thread runs the same code on the same numbers. */
#ifndef TD_MODEL_FORWARD_H
#define TD_MODEL_FORWARD_H

#include "../kernels/attention.h"
#include "../kernels/kernels.h"
#include "../kv/kv.h"
#include "importance.h"
#include "weights.h"

#include <math.h>

enum {
    TD_OWN_ROWS = 4,
    TD_KINDS = 8,        /* distinct (sliding, n_head, n_kv) in one network */
    TD_TOP = 10,         /* candidates a draft's probability is measured against */
    TD_SCREEN_KEEP = 64, /* candidates that a screened head looks at closely */
    TD_HEAD_GROUPS = 32  /* row groups of the head per unit: 512 logits, a tile that stays in the first-level cache */
};

typedef enum td_stage {
    TD_STAGE_EMBED,
    TD_STAGE_QKV,
    TD_STAGE_ROPE, /* norm, rotation, storing keys and values */
    TD_STAGE_ATTENTION,
    TD_STAGE_OUT,
    TD_STAGE_UP,
    TD_STAGE_DOWN,
    TD_STAGE_PLE,
    TD_STAGE_HEAD,
    TD_STAGE_DRAFT, /* projections of the assistant; its layers count above */
    TD_STAGE_COUNT
} td_stage;

typedef struct td_top { /* the `keep` largest values seen, best first; ties: lowest id first */
    int n, keep;
    float value[TD_SCREEN_KEEP];
    int32_t id[TD_SCREEN_KEEP];
} td_top;

/* The experts of a step's rows, grouped: entries [first[e], first[e + 1]) belong to expert e, rows ascending. */
typedef struct td_route {
    int32_t *pick;  /* [rows][n_expert_used] chosen experts of a row */
    float *weight;  /* [rows][n_expert_used] */
    int32_t *first; /* [n_expert + 1] */
    int32_t *slot;  /* [n_expert] first row of the expert's group in grouped activations, multiples of TD_PANEL */
    int32_t *row;   /* [entries] */
    float *share;   /* [entries] */
    float *prob;    /* [n_expert] */
} td_route;

/* One thread's own memory. Activations are raw: td_acts_init lays them out for the layer at hand. */
typedef struct td_thread_mem {
    float *x;                     /* [TD_OWN_ROWS][d_model] residual stream */
    float *q;                     /* [TD_OWN_ROWS][max_q] */
    float *row;                   /* [2][max(d_model, 2 d_backbone)] */
    uint8_t *in, *mid, *rt, *out; /* activations of TD_OWN_ROWS rows: k = d_model, d_model, d_model, max_q */
    float *tile;                  /* [max_rows][16 TD_HEAD_GROUPS] */
    float *table;                 /* [n_layer * d_ple] at most */
    int32_t *pos;                 /* [n_vocab / n_centroid] */
    uint8_t *scratch;             /* of the kernels */
    td_best *best;                /* [max_rows] */
    td_top *top, *near;           /* [max_rows] of logits, of a screened head's copy */
    td_route route;
} td_thread_mem;

/* Buffers of one network for at most max_rows rows. */
typedef struct td_bufs {
    const td_net *net;
    int max_rows, n_thread;
    uint8_t *memory;
    size_t n_bytes;
    float *x, *q, *k, *v, *att, *y,
        *y2;               /* [max_rows] of d_model, max_q, max_kv, max_kv, max_q, widest product, d_model */
    float *ple, *ple_gate; /* [max_rows] of n_layer * d_ple, d_ple */
    float *router;         /* [max_rows][n_expert] */
    uint8_t *in, *mid, *rt, *out, *ff, *pl, *ex_in, *ex_mid; /* activations */
    int32_t *pick;                                           /* [max_rows][n_expert_used], [max_rows][n_expert_used] */
    float *weight;
    float *cos[2], *sin[2]; /* [sliding][max_rows][n_pairs] */
    td_attn_row *att_rows[2];
    int n_kinds;
    struct td_kind {
        bool sliding;
        int n_head, n_kv;
        td_attn_plan *plan;
    } kind[TD_KINDS];
    uint8_t *layer_kind;   /* [n_layer] */
    td_thread_mem *thread; /* [n_thread] */
    /* results of a draft */
    float *h_next[2]; /* [max_rows][d_backbone], used in turn */
    float *scores;    /* [max_rows][n_centroid] */
    int32_t *chosen;  /* [max_rows][n_centroid_used] */
    float *z;         /* [max_rows][n_centroid_used * n_vocab / n_centroid] */
    td_top *near;     /* [max_rows] candidates of a screened head */
    int turn;
    td_importances *importances; /* NULL: not collected; borrowed */
    uint32_t watched_parts;      /* of all activations, for the above */
} td_bufs;

typedef struct td_clock_stages {
    bool on;
    int64_t last_ns, t_ns[TD_STAGE_COUNT];
    uint64_t n_bytes[TD_STAGE_COUNT];
} td_clock_stages;

struct td_workspace {
    const td_model *model;
    const td_drafter *drafter;
    td_bufs target, draft;
    int max_out, max_hidden;
    float *logits, *hidden;                   /* [max_out][n_vocab], [max_hidden][d_model] */
    int32_t *logits_at, *hidden_at, *best_at; /* [max_rows] place of a row's result, -1: none */
    int32_t *order;      /* [max_rows] the step's rows in the order they are computed: those that want a result first */
    int32_t *pos, *slot; /* [max_rows] of the rows, in that order */
    int32_t *out_row;    /* [max_rows] rows, in that order, that go through the head: logits rows, then arg-max rows */
    td_best *best;       /* [max_rows] */
    int n_rows, n_live, n_logits, n_best, n_hidden; /* of the last step; n_live: rows that want a result */
    td_clock_stages clock;
    td_importances *importances; /* of the target; NULL: not collected */
    uint64_t n_bytes;
};

/* Plans the attention of every kind of layer for the rows in b->att_rows, which the caller has set. */
td_status td_bufs_plan(td_bufs *b, int n_rows, td_error *err);
/* Plans it again for the first n_rows of them. */
void td_bufs_plan_first(td_bufs *b, int n_rows);

/* ---- one thread's view ---- */

typedef struct td_team {
    td_pool *pool;
    int ith, nth;
    const td_kernels *kn;
    const td_net *net;
    td_bufs *b;
    td_thread_mem *mem;
    td_kv *kv; /* written where a layer owns its keys, else read */
    td_clock_stages *clock;
    const int32_t *pos, *slot; /* [n_rows] */
    int n_rows;
    int n_live; /* the first rows: those that want a result, see td_layers_run */
    bool own;   /* light work: all rows in own memory */
    int r0, r1; /* rows of light work */
    float *x;   /* residual stream: own or shared */
    uint8_t *in, *mid, *rt, *out;
} td_team;

/* All of the n_rows want a result, until the caller sets n_live. */
void td_team_init(td_team *t, td_pool *pool, int ith, int nth, const td_net *net, td_bufs *b, int n_rows);
/* Only the first n_rows stay. Between two barriers, the attention's plan as yet unchanged. */
void td_team_keep(td_team *t, int n_rows);
/* Index of a row's first value. */
static inline size_t td_at(int row, int64_t width) {
    return (size_t)row * (size_t)width;
}
/* Unit i in [0, 2 * n_rows) of a step's angles: cos and sin of one row for one type of attention layers. */
void td_team_angles(const td_team *t, int64_t i);
/* Ends light work: a barrier only where rows are split. */
void td_team_rows_done(const td_team *t);
void td_team_barrier(const td_team *t, td_stage stage);
/* The part [*a, *b) of [begin, end) that falls into [at, at + n), relative to `at`; false when empty. For stages of
 * several jobs numbered one after the other. */
bool td_part(int64_t begin, int64_t end, int64_t at, int64_t n, int64_t *a, int64_t *b);
/* How many units to take at once: some pieces per thread, so that a slow core does not hold the stage. */
int64_t td_grain(const td_team *t, int64_t n_units);

typedef struct td_product { /* y = W x for the first n_rows */
    const td_matrix *m;
    const td_acts *a;
    int n_rows;
    float *y;
    int64_t ldy;
} td_product;
/* All products of one stage, without the barrier. */
void td_matmuls(const td_team *t, const td_product *products, int n);

/* All decoder layers on t->x. A row whose result nobody wants (most rows of a prompt) is there for its keys and values:
 * it leaves when the last layer that stores some has stored them. False: no row was left, all is done. */
bool td_layers_run(td_team *t);
/* Steps 8 to 8h of the MoE layer, from t->x: leaves the dense branch in b->y and the experts' sum in b->y2. */
void td_experts_run(td_team *t, int l);

/* Products write y[i * ldy + p] for rows p of the matrix: where y begins if `tile` is to hold rows from p0. */
float *td_tile(float *tile, int64_t p0);
/* Activations in `mem`, with the parts asked for and those that are watched. */
td_acts td_team_acts(const td_team *t, uint8_t *mem, int n_rows, int64_t k, uint32_t parts);
/* Counts the activations of all rows in the importance matrix, if one is collected. Between two barriers in which
 * nobody writes them. */
void td_team_watch(const td_team *t, int layer, td_site site, const td_acts *a);
void td_top_add(td_top *top, float value, int32_t id);
/* Values below it are not kept. */
static inline float td_top_least(const td_top *top) {
    return top->n == top->keep ? top->value[top->keep - 1] : -INFINITY;
}

#endif
