/* See hf_plan.h. */
#include "hf_plan.h"

#include "../base/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct builder {
    td_hf_plan *p;
    const td_hf_config *c;
    uint32_t n_vocab;
    bool old_dialect;
    int layer; /* -1: global */
    td_status status;
    td_error *err;
} builder;

static td_hf_tensor *add(builder *b, const char *name, const char *source, td_hf_kind kind, uint64_t ne0, uint64_t ne1,
                         uint64_t ne2) {
    static td_hf_tensor spare; /* takes writes after a failure */
    td_hf_plan *p = b->p;
    if (p->n == p->cap && b->status == TD_OK) {
        size_t cap = p->cap ? 2 * p->cap : 256;
        td_hf_tensor *t = td_reallocarray(p->tensors, cap, sizeof *t);
        if (t) {
            p->tensors = t;
            p->cap = cap;
        } else {
            b->status = td_fail(b->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the list of tensors");
        }
    }
    if (b->status != TD_OK) return &spare;
    td_hf_tensor *t = &p->tensors[p->n++];
    memset(t, 0, sizeof *t);
    if (b->layer < 0) {
        snprintf(t->name, sizeof t->name, "%s", name);
        snprintf(t->source, sizeof t->source, "%s", source);
    } else {
        snprintf(t->name, sizeof t->name, "blk.%d.%s", b->layer, name);
        snprintf(t->source, sizeof t->source, "layers.%d.%s", b->layer, source);
    }
    t->kind = kind;
    t->n_dims = ne2 ? 3 : ne1 ? 2 : 1;
    t->ne[0] = ne0;
    t->ne[1] = ne1 ? ne1 : 1;
    t->ne[2] = ne2 ? ne2 : 1;
    return t;
}

static void norm(builder *b, const char *name, const char *source, uint64_t n) {
    add(b, name, source, TD_HF_F32, n, 0, 0);
}

static td_hf_tensor *matrix(builder *b, const char *name, const char *source, uint64_t ne0, uint64_t ne1) {
    return add(b, name, source, TD_HF_MATRIX, ne0, ne1, 0);
}

static void add_attention(builder *b, bool sliding, bool owns) {
    const td_hf_config *c = b->c;
    uint64_t n = c->d_model, d = sliding ? c->d_head : c->d_head_full;
    uint64_t n_kv = !sliding && c->n_kv_full ? c->n_kv_full : c->n_kv;
    norm(b, "attn_norm.weight", "input_layernorm.weight", n);
    matrix(b, "attn_q.weight", "self_attn.q_proj.weight", n, d * c->n_head);
    norm(b, "attn_q_norm.weight", "self_attn.q_norm.weight", d);
    if (!c->assistant) { /* released E2B and E4B carry dead K and V weights in the sharing layers; others do not */
        matrix(b, "attn_k.weight", "self_attn.k_proj.weight", n, d * n_kv)->optional = !owns;
        add(b, "attn_k_norm.weight", "self_attn.k_norm.weight", TD_HF_F32, d, 0, 0)->optional = !owns;
        if (sliding || !c->k_eq_v) {
            matrix(b, "attn_v.weight", "self_attn.v_proj.weight", n, d * n_kv)->optional = !owns;
        }
    }
    matrix(b, "attn_output.weight", "self_attn.o_proj.weight", d * c->n_head, n);
    norm(b, "post_attention_norm.weight", "post_attention_layernorm.weight", n);
}

static void add_experts(builder *b) {
    const td_hf_config *c = b->c;
    uint64_t n = c->d_model;
    add(b, "ffn_gate_inp.weight", "router.proj.weight", TD_HF_F32, n, c->n_expert, 0);
    add(b, "ffn_gate_inp.scale", "router.scale", TD_HF_F32, n, 0, 0);
    norm(b, "pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight", n);
    norm(b, "post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight", n);
    norm(b, "post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight", n);
    add(b, "ffn_gate_up_exps.weight", "experts.gate_up_proj", TD_HF_MATRIX, n, 2 * (uint64_t)c->ff_expert, c->n_expert);
    add(b, "ffn_down_exps.weight", "experts.down_proj", TD_HF_MATRIX, c->ff_expert, n, c->n_expert);
    add(b, "ffn_down_exps.scale", "router.per_expert_scale", TD_HF_F32, c->n_expert, 0, 0);
}

static void add_layer(builder *b, uint32_t i) {
    const td_hf_config *c = b->c;
    bool owns = i < c->n_layer - c->n_shared;
    uint64_t n = c->d_model, ff = c->double_wide && !owns ? 2 * (uint64_t)c->d_ff : c->d_ff;
    b->layer = (int)i;
    add_attention(b, c->sliding[i], owns);
    norm(b, "ffn_norm.weight", "pre_feedforward_layernorm.weight", n);
    matrix(b, "ffn_gate.weight", "mlp.gate_proj.weight", n, ff);
    matrix(b, "ffn_up.weight", "mlp.up_proj.weight", n, ff);
    matrix(b, "ffn_down.weight", "mlp.down_proj.weight", ff, n);
    norm(b, "post_ffw_norm.weight", "post_feedforward_layernorm.weight", n);
    if (c->n_expert) add_experts(b);
    if (c->ple) {
        matrix(b, "inp_gate.weight", "per_layer_input_gate.weight", n, c->ple);
        matrix(b, "proj.weight", "per_layer_projection.weight", c->ple, n);
        norm(b, "post_norm.weight", "post_per_layer_input_norm.weight", n);
    }
    add(b, "layer_output_scale.weight", "layer_scalar", TD_HF_F32, 1, 0, 0)->optional = !c->assistant;
    b->layer = -1;
}

static void add_assistant_parts(builder *b) {
    const td_hf_config *c = b->c;
    bool old = b->old_dialect;
    uint64_t n = c->d_model, bb = c->backbone;
    matrix(b, old ? "mtp.pre_projection.weight" : "nextn.pre_projection.weight", "pre_projection.weight", 2 * bb, n);
    matrix(b, old ? "mtp.post_projection.weight" : "nextn.post_projection.weight", "post_projection.weight", n, bb);
    if (c->ordered) {
        matrix(b, old ? "mtp.centroids.weight" : "masked_embd_centroids.weight", "masked_embedding.centroids.weight", n,
               c->n_centroids);
        add(b, old ? "mtp.token_ordering.weight" : "masked_embd_ordering", "masked_embedding.token_ordering",
            TD_HF_ORDER, b->n_vocab, 0, 0);
    }
}

static void add_global(builder *b) {
    const td_hf_config *c = b->c;
    uint64_t n = c->d_model, width = (uint64_t)c->ple * c->n_layer;
    b->layer = -1;
    matrix(b, "token_embd.weight", "embed_tokens.weight", n, b->n_vocab)->cut_rows = true;
    if (!c->assistant && !c->tied) {
        td_hf_tensor *t = matrix(b, "output.weight", "lm_head.weight", n, b->n_vocab);
        t->optional = t->cut_rows = true;
    }
    norm(b, "output_norm.weight", "norm.weight", n);
    add(b, "rope_freqs.weight", "", TD_HF_FREQS, c->d_head_full / 2, 0, 0);
    if (c->assistant) add_assistant_parts(b);
    if (c->ple) {
        matrix(b, "per_layer_token_embd.weight", "embed_tokens_per_layer.weight", width, b->n_vocab)->cut_rows = true;
        add(b, "per_layer_model_proj.weight", "per_layer_model_projection.weight", TD_HF_KEEP, n, width, 0);
        norm(b, "per_layer_proj_norm.weight", "per_layer_projection_norm.weight", c->ple);
    }
}

/* ---- binding ---- */

static const char *const prefixes[] = {"model.language_model.", "model.", "language_model.model.", "language_model.",
                                       ""};
enum { N_PREFIXES = sizeof prefixes / sizeof prefixes[0] };

/* The tensor under any of the usual prefixes; two that fit are a defect of the checkpoint. */
static td_status find(const td_safetensors *s, const char *source, const td_st_tensor **out, td_error *err) {
    *out = NULL;
    for (int i = 0; i < N_PREFIXES; i++) {
        char name[160];
        snprintf(name, sizeof name, "%s%s", prefixes[i], source);
        const td_st_tensor *t = td_safetensors_find(s, name);
        if (!t || t == *out) continue;
        if (*out) {
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "the checkpoint has '%.100s' twice, also as '%.100s'",
                           t->name, (*out)->name);
        }
        *out = t;
    }
    return TD_OK;
}

static void shape_text(char *out, size_t n, const uint64_t *shape, int n_dims, bool reversed) {
    size_t at = (size_t)snprintf(out, n, "[");
    for (int i = 0; i < n_dims && at < n; i++) {
        at += (size_t)snprintf(out + at, n - at, "%s%llu", i ? ", " : "",
                               (unsigned long long)shape[reversed ? n_dims - 1 - i : i]);
    }
    if (at < n) snprintf(out + at, n - at, "]");
}

static td_status check_shape(const td_hf_tensor *t, const td_st_tensor *st, td_error *err) {
    bool same = st->n_dims == t->n_dims || (st->n_dims == 0 && t->n_dims == 1 && t->ne[0] == 1);
    for (int i = 0; same && i < st->n_dims; i++) {
        uint64_t have = st->shape[st->n_dims - 1 - i];
        same = have == t->ne[i] || (t->cut_rows && i == 1 && have > t->ne[i]);
    }
    if (same) return TD_OK;
    char have[96], want[96];
    shape_text(have, sizeof have, st->shape, st->n_dims, false);
    shape_text(want, sizeof want, t->ne, t->n_dims, true);
    return td_fail(err, TD_ERR_MISMATCH, st->offset,
                   "tensor '%.100s' has the shape %s, config.json and the tokenizer ask "
                   "for %s",
                   st->name, have, want);
}

static td_status check_dtype(const td_hf_tensor *t, const td_st_tensor *st, td_error *err) {
    bool number = st->dtype == TD_ST_F32 || st->dtype == TD_ST_F16 || st->dtype == TD_ST_BF16;
    bool id = st->dtype == TD_ST_I64 || st->dtype == TD_ST_I32;
    if (t->kind == TD_HF_ORDER ? id : number) return TD_OK;
    return td_fail(err, TD_ERR_UNSUPPORTED, st->offset, "tensor '%.100s' is %s; it must be %s", st->name,
                   st->dtype_name, t->kind == TD_HF_ORDER ? "I64 or I32" : "F32, F16 or BF16");
}

static td_status bind(td_hf_plan *p, const td_safetensors *s, td_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        td_hf_tensor *t = &p->tensors[i];
        if (t->kind == TD_HF_FREQS) continue;
        td_status status = find(s, t->source, &t->st, err);
        if (status == TD_OK && !t->st && !t->optional) {
            status = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "the checkpoint has no tensor 'model.%s'", t->source);
        }
        if (status == TD_OK && t->st) status = check_shape(t, t->st, err);
        if (status == TD_OK && t->st) status = check_dtype(t, t->st, err);
        if (status != TD_OK) return status;
    }
    size_t n = 0; /* drop what is optional and absent */
    for (size_t i = 0; i < p->n; i++) {
        if (p->tensors[i].st || p->tensors[i].kind == TD_HF_FREQS) p->tensors[n++] = p->tensors[i];
    }
    p->n = n;
    return TD_OK;
}

/* Towers for images and sound, and buffers that are computed, have no place in a text model. */
static bool is_foreign(const char *name) {
    static const char *const parts[] = {"vision",      "audio",    "multi_modal",      "multimodal",
                                        "rotary_emb.", "inv_freq", "masked_embedding."};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr(name, parts[i])) return true;
    }
    return false;
}

static int by_pointer(const void *a, const void *b) {
    const td_st_tensor *x = *(const td_st_tensor *const *)a, *y = *(const td_st_tensor *const *)b;
    return (x > y) - (x < y);
}

/* Every tensor of the checkpoint is used, or of a kind that is known to be left out. A tied lm_head is the embedding
 * once more. */
static td_status check_all_used(const td_hf_plan *p, const td_hf_config *c, const td_safetensors *s, td_error *err) {
    const td_st_tensor **used = td_calloc(p->n + 1, sizeof *used);
    if (!used) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the list of tensors");
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->tensors[i].st) used[n++] = p->tensors[i].st;
    }
    qsort(used, n, sizeof *used, by_pointer);
    td_status status = TD_OK;
    for (size_t i = 0; i < td_safetensors_count(s) && status == TD_OK; i++) {
        const td_st_tensor *t = td_safetensors_at(s, i);
        bool found = n > 0 && bsearch(&t, used, n, sizeof *used, by_pointer) != NULL;
        if (found || is_foreign(t->name) || ((c->assistant || c->tied) && strcmp(t->name, "lm_head.weight") == 0))
            continue;
        status = td_fail(err, TD_ERR_UNSUPPORTED, t->offset,
                         "tensor '%.120s' is not part of a Gemma 4 text model of this configuration", t->name);
    }
    free(used);
    return status;
}

/* Hugging Face uses num_global_key_value_heads only with attention_k_eq_v, the usual converter always; the shape of
 * the first full layer's K projection decides. */
static td_status settle_kv_heads(td_hf_config *c, const td_safetensors *s, td_error *err) {
    if (c->n_kv_full == 0 || c->n_kv_full == c->n_kv || c->assistant) return TD_OK;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        if (c->sliding[i]) continue;
        char name[64];
        const td_st_tensor *t = NULL;
        snprintf(name, sizeof name, "layers.%u.self_attn.k_proj.weight", i);
        td_status status = find(s, name, &t, err);
        if (status != TD_OK) return status;
        if (t && t->n_dims == 2 && t->shape[0] == (uint64_t)c->n_kv * c->d_head_full) c->n_kv_full = 0;
        break;
    }
    return TD_OK;
}

td_status td_hf_plan_make(td_hf_plan *p, td_hf_config *c, const td_safetensors *s, uint32_t n_vocab, bool old_dialect,
                          td_error *err) {
    memset(p, 0, sizeof *p);
    builder b = {.p = p, .c = c, .n_vocab = n_vocab, .old_dialect = old_dialect, .layer = -1, .err = err};
    td_status status = settle_kv_heads(c, s, err);
    if (status != TD_OK) return status;
    add_global(&b);
    for (uint32_t i = 0; i < c->n_layer; i++) add_layer(&b, i);
    status = b.status;
    if (status == TD_OK) status = bind(p, s, err);
    if (status == TD_OK) status = check_all_used(p, c, s, err);
    if (status != TD_OK) td_hf_plan_free(p);
    return status;
}

void td_hf_plan_free(td_hf_plan *p) {
    free(p->tensors);
    memset(p, 0, sizeof *p);
}
