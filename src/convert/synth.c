/* Plans the tensors of a synthetic target or assistant and streams them out; see synth.h for how the pair works.
 *
 * Nothing big is ever held: embedding row t is made from its own seed wherever it is needed, in the embedding, in the
 * output matrix at pi(t), and projected in the assistant's head. */
#include "synth_parts.h"

#include "../base/checked.h"
#include "rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 2048, MAX_WIDTH = 8192, CLUSTER = 128 };

/* Branches add little to the residual stream, keys are short: attention looks everywhere, and the walk survives. */
static const float BRANCH_GAIN = 0.02f, KEY_GAIN = 0.06f, HIDDEN_GAIN = 0.02f;

typedef enum fill {
    FILL_RANDOM, /* rms `a` */
    FILL_CONST,  /* `a` */
    FILL_FREQS,
    FILL_EMBED,
    FILL_HEAD,
    FILL_DRAFT_HEAD,
    FILL_PRE,
    FILL_ORDER
} fill;

typedef struct plan {
    char name[TD_GGUF_NAME];
    const td_type_info *type;
    int n_dims;
    uint64_t ne[3];
    fill fill;
    float a;
} plan;

typedef struct maker { /* one file */
    const td_synth_options *o;
    td_synth_shape shape;
    const td_synth_shape *s; /* &shape */
    uint64_t n_vocab;
    td_walk walk;
    td_filler embed; /* of the target's embedding, in both files */
    uint64_t embed_seed;
    plan *plans;
    int n_plans;
    td_mix mix;
    bool pure;        /* no mixture rules: one type for all matrices */
    uint16_t *bucket; /* [n]: the projection P adds +-e[j] to output bucket[j] */
    float *sign;      /* [n] */
    int32_t *order;   /* [n_vocab], ordered head */
    uint64_t n_centroids, top_k, n_misplaced;
    td_status status;
    td_error *err;
    /* the tensor being made */
    const plan *now;
    td_filler filler;
    uint64_t now_seed;
} maker;

static uint64_t seed_of(const maker *m, const char *name) {
    uint64_t h = m->o->seed;
    for (const char *p = name; *p; p++) h = td_rng_mix(h, (uint8_t)*p);
    return h;
}

/* ---- planning ---- */

static plan *add(maker *m, const char *name, td_type type, fill f, float a, uint64_t ne0, uint64_t ne1, uint64_t ne2) {
    if (m->status != TD_OK) return NULL;
    if (m->n_plans == MAX_TENSORS) {
        m->status = td_fail(m->err, TD_ERR_INTERNAL, TD_NO_OFFSET, "more than %d tensors", MAX_TENSORS);
        return NULL;
    }
    plan *p = &m->plans[m->n_plans++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->type = td_type_of(type);
    p->n_dims = ne2 ? 3 : ne1 ? 2 : 1;
    p->ne[0] = ne0;
    p->ne[1] = ne1 ? ne1 : 1;
    p->ne[2] = ne2 ? ne2 : 1;
    p->fill = f;
    p->a = a;
    return p;
}

/* A matrix of the file's type, or of the type that its rule or its width asks for. */
static plan *add_matrix(maker *m, const char *name, fill f, float rms, uint64_t ne0, uint64_t ne1, uint64_t ne2) {
    td_type type = m->pure ? m->mix.ftype->type : td_mix_rule(&m->mix, name, ne0);
    bool fell_back = false;
    if (m->status == TD_OK) m->status = td_mix_fallback(type, ne0, name, &type, &fell_back, m->err);
    return add(m, name, type, f, rms, ne0, ne1, ne2);
}

static const char *layer_name(uint32_t i, const char *suffix) {
    static _Thread_local char name[TD_GGUF_NAME];
    snprintf(name, sizeof name, "blk.%u.%s", i, suffix);
    return name;
}

static void add_layer_const(maker *m, uint32_t i, const char *suffix, float v, uint64_t n) {
    add(m, layer_name(i, suffix), TD_TYPE_F32, FILL_CONST, v, n, 0, 0);
}

static void add_layer_matrix(maker *m, uint32_t i, const char *suffix, uint64_t ne0, uint64_t ne1, uint64_t ne2) {
    add_matrix(m, layer_name(i, suffix), FILL_RANDOM, 1.0f / sqrtf((float)ne0), ne0, ne1, ne2);
}

/* Matrices that are kept at 16 bits or more in quantised files. */
static td_type float_type(const maker *m) {
    const td_type_info *t = td_type_of(m->mix.ftype->type);
    return t->is_quantised ? TD_TYPE_BF16 : t->id;
}

/* What target and assistant layers share: attention without K and V, and the dense feed-forward. */
static void add_block(maker *m, uint32_t i, uint64_t n, uint64_t n_head, uint64_t d_head, uint64_t ff) {
    add_layer_const(m, i, "attn_norm.weight", 1, n);
    add_layer_matrix(m, i, "attn_q.weight", n, n_head * d_head, 0);
    add_layer_const(m, i, "attn_q_norm.weight", 1, d_head);
    add_layer_matrix(m, i, "attn_output.weight", n_head * d_head, n, 0);
    add_layer_const(m, i, "post_attention_norm.weight", BRANCH_GAIN, n);
    add_layer_const(m, i, "ffn_norm.weight", 1, n);
    add_layer_matrix(m, i, "ffn_gate.weight", n, ff, 0);
    add_layer_matrix(m, i, "ffn_up.weight", n, ff, 0);
    add_layer_matrix(m, i, "ffn_down.weight", ff, n, 0);
    add_layer_const(m, i, "post_ffw_norm.weight", BRANCH_GAIN, n);
    add_layer_const(m, i, "layer_output_scale.weight", 1, 1);
}

static void add_experts(maker *m, uint32_t i) {
    const td_synth_shape *s = m->s;
    add(m, layer_name(i, "ffn_gate_inp.weight"), TD_TYPE_F32, FILL_RANDOM, 0.3f, s->n, s->n_expert, 0);
    add_layer_const(m, i, "ffn_gate_inp.scale", 30, s->n);
    add_layer_const(m, i, "pre_ffw_norm_2.weight", 1, s->n);
    add_layer_const(m, i, "post_ffw_norm_1.weight", 1, s->n);
    add_layer_const(m, i, "post_ffw_norm_2.weight", 1, s->n);
    add_layer_matrix(m, i, "ffn_gate_up_exps.weight", s->n, 2 * s->ff_expert, s->n_expert);
    add_layer_matrix(m, i, "ffn_down_exps.weight", s->ff_expert, s->n, s->n_expert);
    add_layer_const(m, i, "ffn_down_exps.scale", 1, s->n_expert);
}

static void plan_target(maker *m) {
    const td_synth_shape *s = m->s;
    float row = 1.0f / sqrtf((float)s->n);
    add_matrix(m, "token_embd.weight", FILL_EMBED, row, s->n, m->n_vocab, 0);
    add_matrix(m, "output.weight", FILL_HEAD, row, s->n, m->n_vocab, 0);
    add(m, "output_norm.weight", TD_TYPE_F32, FILL_CONST, 1, s->n, 0, 0);
    add(m, "rope_freqs.weight", TD_TYPE_F32, FILL_FREQS, 0, 256, 0, 0);
    if (s->ple) {
        uint64_t width = (uint64_t)s->ple * s->n_layer;
        add_matrix(m, "per_layer_token_embd.weight", FILL_RANDOM, 1.0f / sqrtf((float)s->ple), width, m->n_vocab, 0);
        add(m, "per_layer_model_proj.weight", float_type(m), FILL_RANDOM, row, s->n, width, 0);
        add(m, "per_layer_proj_norm.weight", TD_TYPE_F32, FILL_CONST, 1, s->ple, 0, 0);
    }
    for (uint32_t i = 0; i < s->n_layer; i++) {
        bool swa = (i + 1) % s->period != 0, owns = i < s->n_layer - s->n_shared;
        uint64_t d = swa ? 256 : 512, n_kv = swa ? s->kv_swa : s->kv_full;
        add_block(m, i, s->n, s->n_head, d, s->double_wide && !owns ? 2 * s->ff : s->ff);
        if (owns) {
            add_layer_matrix(m, i, "attn_k.weight", s->n, n_kv * d, 0);
            add_layer_const(m, i, "attn_k_norm.weight", KEY_GAIN, d);
            if (swa || !s->k_eq_v) add_layer_matrix(m, i, "attn_v.weight", s->n, n_kv * d, 0);
        }
        if (s->n_expert) add_experts(m, i);
        if (s->ple) {
            add_layer_matrix(m, i, "inp_gate.weight", s->n, s->ple, 0);
            add_layer_matrix(m, i, "proj.weight", s->ple, s->n, 0);
            add_layer_const(m, i, "post_norm.weight", BRANCH_GAIN, s->n);
        }
    }
}

/* The head and what belongs to it keep 8 bits unless a type was asked for. */
static plan *add_head_matrix(maker *m, const char *name, fill f, float rms, uint64_t ne0, uint64_t ne1) {
    if (m->o->assistant_ftype) return add_matrix(m, name, f, rms, ne0, ne1, 0);
    return add(m, name, TD_TYPE_Q8_0, f, rms, ne0, ne1, 0);
}

static void plan_assistant(maker *m) {
    const td_synth_shape *s = m->s;
    bool old = m->o->old_dialect;
    uint64_t n = s->a_n;
    add_head_matrix(m, "token_embd.weight", FILL_DRAFT_HEAD, 0, n, m->n_vocab);
    add(m, "output_norm.weight", TD_TYPE_F32, FILL_CONST, 1, n, 0, 0);
    add(m, "rope_freqs.weight", TD_TYPE_F32, FILL_FREQS, 0, 256, 0, 0);
    add_head_matrix(m, old ? "mtp.pre_projection.weight" : "nextn.pre_projection.weight", FILL_PRE, 0, 2 * s->n, n);
    add_head_matrix(m, old ? "mtp.post_projection.weight" : "nextn.post_projection.weight", FILL_RANDOM,
                    1.0f / sqrtf((float)n), n, s->n);
    if (m->n_centroids) {
        add_head_matrix(m, old ? "mtp.centroids.weight" : "masked_embd_centroids.weight", FILL_RANDOM,
                        1.0f / sqrtf((float)n), n, m->n_centroids);
        add(m, old ? "mtp.token_ordering.weight" : "masked_embd_ordering", TD_TYPE_I32, FILL_ORDER, 0, m->n_vocab, 0,
            0);
    }
    for (uint32_t i = 0; i < 4; i++) add_block(m, i, n, s->a_head, i == 3 ? 512 : 256, s->a_ff);
}

/* ---- rows ---- */

static void embedding_row(const maker *m, uint64_t token, uint8_t *dst) {
    td_filler_row(&m->embed, td_rng_mix(m->embed_seed, m->walk.alias[token]), m->s->n, dst);
}

/* Row `id` of the assistant's head: P times an embedding row, f32 [a_n]. */
static void draft_row(void *arg, uint64_t id, float *row) {
    const maker *m = arg;
    uint8_t bytes[MAX_WIDTH * 4];
    float e[MAX_WIDTH];
    embedding_row(m, m->walk.draft_row[id], bytes);
    m->embed.type->decode(bytes, e, (int64_t)m->s->n);
    for (uint32_t i = 0; i < m->s->a_n; i++) row[i] = 0;
    for (uint32_t j = 0; j < m->s->n; j++) row[m->bucket[j]] += m->sign[j] * e[j];
}

static bool draft_row_is_zero(void *arg, uint64_t id) {
    const maker *m = arg;
    return m->walk.draft_row[id] == TD_NO_TOKEN;
}

/* Row i of [P ; H]: inputs are the embedding times sqrt(n) and the hidden state, both of rms 1; P's output has rms 1
 * too, H adds little. */
static void pre_row(const maker *m, uint64_t i, uint8_t *dst) {
    float x[2 * MAX_WIDTH];
    uint32_t n = m->s->n;
    float scale = sqrtf((float)m->s->a_n / (float)n), small = HIDDEN_GAIN * 1.7320508f / sqrtf((float)n);
    td_rng r;
    td_rng_seed(&r, td_rng_mix(m->now_seed, i));
    for (uint32_t j = 0; j < n; j++) {
        x[j] = m->bucket[j] == i ? m->sign[j] * scale : 0;
        x[n + j] = small * (float)(2 * td_rng_unit(&r) - 1);
    }
    m->now->type->encode(x, dst, 2 * n, 1, NULL);
}

static void const_row(const plan *p, uint8_t *dst) {
    for (uint64_t i = 0; i < p->ne[0]; i++) {
        float v = p->fill == FILL_CONST ? p->a : i < 64 ? 1.0f : 1e30f;
        memcpy(dst + 4 * i, &v, 4);
    }
}

static void make_row(maker *m, uint64_t r, uint8_t *dst, size_t row_bytes) {
    const plan *p = m->now;
    switch (p->fill) {
    case FILL_RANDOM:
        td_filler_row(&m->filler, td_rng_mix(m->now_seed, r), p->ne[0], dst);
        break;
    case FILL_CONST:
    case FILL_FREQS:
        const_row(p, dst);
        break;
    case FILL_EMBED:
        embedding_row(m, r, dst);
        break;
    case FILL_HEAD:
        if (m->walk.target_row[r] == TD_NO_TOKEN) {
            memset(dst, 0, row_bytes);
        } else {
            embedding_row(m, m->walk.target_row[r], dst);
        }
        break;
    case FILL_DRAFT_HEAD: {
        float row[MAX_WIDTH] = {0};
        if (m->walk.draft_row[r] != TD_NO_TOKEN) draft_row(m, r, row);
        p->type->encode(row, dst, (int64_t)p->ne[0], 1, NULL);
        break;
    }
    case FILL_PRE:
        pre_row(m, r, dst);
        break;
    case FILL_ORDER:
        memcpy(dst, m->order, row_bytes);
        break;
    }
}

static bool make_rows(void *arg, uint64_t r0, uint64_t r1, uint8_t *dst) {
    maker *m = arg;
    uint64_t bytes = 0;
    td_type_row_bytes(m->now->type, m->now->ne[0], &bytes);
    for (uint64_t r = r0; r < r1; r++, dst += bytes) make_row(m, r, dst, (size_t)bytes);
    return true;
}

/* ---- one file ---- */

static void begin(maker *m, const plan *p) {
    m->now = p;
    m->now_seed = seed_of(m, p->name);
    if (p->fill == FILL_RANDOM) td_filler_init(&m->filler, p->type, p->a);
}

/* The centroids as the file holds them decide the clusters. */
static td_status make_clusters(maker *m) {
    uint64_t h = m->s->a_n, bytes = 0;
    float *centroids = td_calloc(m->n_centroids, h * sizeof *centroids);
    uint8_t row[MAX_WIDTH * 4];
    m->order = td_calloc(m->n_vocab, sizeof *m->order);
    if (!centroids || !m->order) {
        free(centroids);
        return td_fail(m->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %llu centroids",
                       (unsigned long long)m->n_centroids);
    }
    for (int i = 0; i < m->n_plans; i++) {
        if (!strstr(m->plans[i].name, "centroids")) continue;
        begin(m, &m->plans[i]);
        td_type_row_bytes(m->now->type, h, &bytes);
        for (uint64_t c = 0; c < m->n_centroids; c++) {
            make_row(m, c, row, (size_t)bytes);
            m->now->type->decode(row, centroids + c * h, (int64_t)h);
        }
    }
    td_cluster_job job = {.n_vocab = m->n_vocab,
                          .h = h,
                          .n_centroids = m->n_centroids,
                          .n_best = m->top_k / 2,
                          .centroids = centroids,
                          .row = draft_row,
                          .is_zero = draft_row_is_zero,
                          .arg = m,
                          .pool = m->o->pool,
                          .progress = m->o->progress,
                          .progress_user = m->o->progress_user};
    td_status status = td_cluster(&job, m->order, &m->n_misplaced, m->err);
    free(centroids);
    return status;
}

static td_status write_file(maker *m, const char *path, const char *arch, bool assistant,
                            td_status (*extra)(maker *, td_gguf_writer *)) {
    td_gguf_writer *w = NULL;
    td_rows s = {.pool = m->o->pool, .progress = m->o->progress, .progress_user = m->o->progress_user, .what = path};
    const char *slash = strrchr(path, '/');
    if (slash) s.what = slash + 1;
    td_status status = td_gguf_writer_open(&w, path, m->err);
    if (status != TD_OK) return status;
    s.writer = w;
    status = td_synth_put_keys(w, m->s, arch, assistant, m->mix.ftype->id, m->n_vocab, m->err);
    if (status == TD_OK && extra) status = extra(m, w);
    if (status == TD_OK) status = td_synth_put_vocabulary(w, m->n_vocab, m->err);
    for (int i = 0; i < m->n_plans && status == TD_OK; i++) {
        const plan *p = &m->plans[i];
        status = td_gguf_put_tensor(w, p->name, p->type->id, p->n_dims, p->ne, m->err);
    }
    for (int i = 0; i < m->n_plans && status == TD_OK; i++) {
        const plan *p = &m->plans[i];
        uint64_t bytes = 0;
        td_type_row_bytes(p->type, p->ne[0], &bytes);
        begin(m, p);
        status = td_rows_write(&s, p->ne[1] * p->ne[2], (size_t)bytes, make_rows, m, NULL, m->err);
    }
    td_rows_free(&s);
    if (status == TD_OK) return td_gguf_writer_commit(w, m->err);
    td_gguf_writer_discard(w);
    return status;
}

static td_status assistant_keys(maker *m, td_gguf_writer *w) {
    const char *arch = m->o->old_dialect ? "gemma4_assistant" : "gemma4-assistant";
    char k[96];
    td_status status = TD_OK;
#define PUT(kind, name, value)                                                                                         \
    do {                                                                                                               \
        snprintf(k, sizeof k, "%s.%s", arch, name);                                                                    \
        if (status == TD_OK) status = td_gguf_put_##kind(w, k, value, m->err);                                         \
    } while (0)
    if (m->o->old_dialect) {
        PUT(u32, "n_embd_backbone", m->s->n);
        PUT(str, "requires_target_arch", "gemma4");
        PUT(bool, "attention.k_eq_v", m->s->k_eq_v);
    } else {
        PUT(u32, "embedding_length_out", m->s->n);
        PUT(u32, "nextn_predict_layers", 4);
    }
    PUT(bool, "use_ordered_embeddings", m->n_centroids > 0);
    if (m->n_centroids) {
        PUT(u32, "n_centroids", (uint32_t)m->n_centroids);
        PUT(u32, "centroid_top_k", (uint32_t)m->top_k);
    }
#undef PUT
    return status;
}

static bool is_ordered(const td_synth_options *o, const td_synth_shape *s) {
    return o->head == TD_SYNTH_HEAD_ORDERED || (o->head == TD_SYNTH_HEAD_AUTO && s->ordered);
}

/* Files of one plain type have it throughout; K and I types follow the mixture rules. */
static bool is_pure(const td_ftype *f) {
    const td_type_info *t = td_type_of(f->type);
    return t->block != 256 && f->type != TD_TYPE_IQ4_NL;
}

static void set_mix(maker *m, const td_ftype *f, uint32_t n_layer) {
    const td_synth_shape *s = m->s;
    m->pure = is_pure(f);
    m->mix = (td_mix){.ftype = f,
                      .n_layer = (int)n_layer,
                      .n_v = (int)n_layer,
                      .n_expert = (int)s->n_expert,
                      .n_gqa = (int)(s->n_head / s->kv_swa),
                      .tied = true};
    if (!s->k_eq_v) {
        m->mix.n_v = (int)(s->n_layer - s->n_shared);
    } else {
        m->mix.n_v = (int)(s->n_layer - s->n_layer / s->period);
    }
}

static td_status maker_init(maker *m, const td_synth_options *o, td_error *err) {
    memset(m, 0, sizeof *m);
    m->o = o;
    m->err = err;
    td_status status = td_synth_shape_make(&m->shape, o->size, o->n_layer, err);
    if (status != TD_OK) return status;
    m->s = &m->shape;
    if (!(o->accept >= 0 && o->accept <= 1)) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the accepted share is %g, it must be 0 to 1", o->accept);
    }
    m->n_vocab = o->n_vocab ? o->n_vocab : m->s->n_vocab;
    if (m->n_vocab < 1024 || m->n_vocab > 1u << 24 || m->n_vocab % CLUSTER != 0) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "a vocabulary of %llu is not a multiple of %d between 1024 and 16777216",
                       (unsigned long long)m->n_vocab, CLUSTER);
    }
    status = td_walk_make(&m->walk, m->n_vocab, o->seed, o->accept, err);
    if (status != TD_OK) return status;
    m->plans = td_calloc(MAX_TENSORS, sizeof *m->plans);
    m->bucket = td_calloc(m->s->n, sizeof *m->bucket);
    m->sign = td_calloc(m->s->n, sizeof *m->sign);
    if (!m->plans || !m->bucket || !m->sign) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the plan");
    td_rng r;
    td_rng_seed(&r, seed_of(m, "projection"));
    for (uint32_t j = 0; j < m->s->n; j++) m->bucket[j] = (uint16_t)(j % m->s->a_n);
    for (uint32_t j = m->s->n - 1; j > 0; j--) {
        uint32_t k = (uint32_t)td_rng_below(&r, j + 1u);
        uint16_t t = m->bucket[j];
        m->bucket[j] = m->bucket[k];
        m->bucket[k] = t;
    }
    for (uint32_t j = 0; j < m->s->n; j++) m->sign[j] = td_rng_next(&r) & 1 ? 1.0f : -1.0f;
    /* the embedding is made in both files: the assistant's head is its projection */
    set_mix(m, o->ftype, m->s->n_layer);
    td_type type = m->pure ? o->ftype->type : td_mix_rule(&m->mix, "token_embd.weight", m->s->n);
    td_filler_init(&m->embed, td_type_of(type), 1.0f / sqrtf((float)m->s->n));
    m->embed_seed = seed_of(m, "token_embd.weight of the target");
    return TD_OK;
}

static void maker_free(maker *m) {
    td_walk_free(&m->walk);
    free(m->plans);
    free(m->bucket);
    free(m->sign);
    free(m->order);
}

td_status td_synth_target(const td_synth_options *o, const char *path, td_error *err) {
    maker m;
    td_status status = maker_init(&m, o, err);
    if (status == TD_OK) {
        plan_target(&m);
        status = m.status;
    }
    if (status == TD_OK) status = write_file(&m, path, "gemma4", false, NULL);
    maker_free(&m);
    return status;
}

td_status td_synth_assistant(const td_synth_options *o, const char *path, td_error *err) {
    maker m;
    td_status status = maker_init(&m, o, err);
    if (status == TD_OK) {
        if (is_ordered(o, m.s)) {
            m.n_centroids = m.n_vocab / CLUSTER;
            m.top_k = m.n_centroids / 64 > 8 ? m.n_centroids / 64 : 8;
            if (m.top_k > 32) m.top_k = 32;
        }
        set_mix(&m, o->assistant_ftype ? o->assistant_ftype : td_ftype_by_name("q4_0"), 4);
        plan_assistant(&m);
        status = m.status;
    }
    if (status == TD_OK && m.n_centroids) status = make_clusters(&m);
    if (status == TD_OK) {
        status = write_file(&m, path, o->old_dialect ? "gemma4_assistant" : "gemma4-assistant", true, assistant_keys);
    }
    maker_free(&m);
    return status;
}

static const char *size_name(const td_synth_options *o, char *out, size_t n) {
    if (!o->n_layer) return o->size;
    snprintf(out, n, "%s-%ul", o->size, o->n_layer);
    return out;
}

void td_synth_target_name(const td_synth_options *o, char *out, size_t n) {
    char size[32];
    snprintf(out, n, "%s-%s.gguf", size_name(o, size, sizeof size), o->ftype->name);
}

void td_synth_assistant_name(const td_synth_options *o, char *out, size_t n) {
    char size[32];
    td_synth_shape s;
    bool ordered = td_synth_shape_make(&s, o->size, 0, NULL) == TD_OK && is_ordered(o, &s);
    /* the target's type is in the name because the assistant's head is the projection of that very embedding */
    snprintf(out, n, "%s-assistant-%s-a%d%s%s%s%s.gguf", size_name(o, size, sizeof size), o->ftype->name,
             (int)(o->accept * 100 + 0.5), ordered ? "-ordered" : "-dense", o->assistant_ftype ? "-" : "",
             o->assistant_ftype ? o->assistant_ftype->name : "", o->old_dialect ? "-old" : "");
}
