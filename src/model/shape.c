/* Reads the hyper-parameters (see shape.h): each key once, with its default and range, then the relations between
 * them. First thing that looks at a model file after the container; the sizes it lets through are the ones that
 * weights.c checks every tensor against. */
#include "shape.h"

#include "../base/checked.h"
#include "../file/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    td_shape *s;
    const td_gguf *g;
    td_error *err;
} reader;

/* An integer in [lo, hi]; required when def < 0. */
static td_status get_int(const reader *r, const char *key, int64_t def, int64_t lo, int64_t hi, int *out) {
    int64_t v = 0;
    td_status st = def < 0 ? td_gguf_require(r->g, key, r->err) : TD_OK;
    if (!st) st = td_gguf_get_i64(r->g, key, def, &v, r->err);
    if (st) return st;
    if (v < lo || v > hi)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s%s is %lld: expected %lld to %lld", r->s->arch, key,
                       (long long)v, (long long)lo, (long long)hi);
    *out = (int)v;
    return TD_OK;
}

static td_status get_float(const reader *r, const char *key, float def, float lo, float hi, float *out) {
    td_status st = td_gguf_get_f32(r->g, key, def, out, r->err);
    if (st) return st;
    if (!(*out >= lo && *out <= hi))
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s%s is %g: expected %g to %g", r->s->arch, key,
                       (double)*out, (double)lo, (double)hi);
    return TD_OK;
}

/* One value per layer, given once or as an array; each in [lo, hi]. */
static td_status get_each(const reader *r, const char *key, int64_t def, uint32_t lo, uint32_t hi, uint32_t *out) {
    td_status st = def < 0 ? td_gguf_require(r->g, key, r->err) : TD_OK;
    if (!st) st = td_gguf_get_u32_each(r->g, key, def < 0 ? 0 : (uint32_t)def, out, (size_t)r->s->n_layer, r->err);
    for (int l = 0; !st && l < r->s->n_layer; l++)
        if (out[l] < lo || out[l] > hi)
            st = td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s%s of layer %d is %u: expected %u to %u", r->s->arch,
                         key, l, out[l], lo, hi);
    return st;
}

bool td_arch_is_assistant(const char *arch) {
    return strcmp(arch, "gemma4-assistant") == 0 || strcmp(arch, "gemma4_assistant") == 0;
}

static td_status check_arch(const reader *r) {
    const char *a = td_gguf_arch(r->g);
    bool old = strcmp(a, "gemma4_assistant") == 0, assistant = td_arch_is_assistant(a);
    if (!assistant && strcmp(a, "gemma4") != 0)
        return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "architecture \"%.40s\" is not supported: expected %s",
                       a, r->s->assistant ? "gemma4-assistant" : "gemma4");
    if (assistant && !r->s->assistant)
        return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "this is an assistant (draft model, %s): give the target model with -m and this file with "
                       "--model-draft",
                       a);
    if (!assistant && r->s->assistant)
        return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "this is a target model (gemma4): an assistant (gemma4-assistant) is expected");
    r->s->old_dialect = old;
    memcpy(r->s->arch, a, strlen(a) + 1);
    return TD_OK;
}

static td_status read_pattern(const reader *r, uint32_t *v) {
    static const char key[] = ".attention.sliding_window_pattern";
    td_shape *s = r->s;
    const td_gguf_value *p = td_gguf_find(r->g, key);
    if (!p && s->assistant) { /* older files: all sliding but the last */
        for (int l = 0; l < s->n_layer; l++) s->layers[l].sliding = l + 1 < s->n_layer;
        return TD_OK;
    }
    td_status st = td_gguf_require(r->g, key, r->err);
    if (st) return st;
    if (p->kind == TD_GGUF_BOOL)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s%s is one boolean: expected an array of %d", s->arch,
                       key, s->n_layer);
    if (p->kind == TD_GGUF_ARRAY && p->as.array.n != (uint64_t)s->n_layer)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s%s has %llu entries: expected %d", s->arch, key,
                       (unsigned long long)p->as.array.n, s->n_layer);
    st = get_each(r, key, -1, 0, 1, v);
    for (int l = 0; !st && l < s->n_layer; l++) s->layers[l].sliding = v[l] != 0;
    return st;
}

/* Head width and rotated span of both attention types. `d` and `rope` by sliding. */
static td_status read_heads(const reader *r, int d[2], int rope[2]) {
    static const char *const key[2] = {".attention.key_length", ".attention.key_length_swa"};
    static const char *const value[2] = {".attention.value_length", ".attention.value_length_swa"};
    static const char *const span[2] = {".rope.dimension_count", ".rope.dimension_count_swa"};
    const td_shape *s = r->s;
    int n_head = s->layers[0].n_head, v = 0;
    for (int k = 0; k < 2; k++) {
        int64_t def = k == 1 && !s->assistant ? -1 : k == 1 ? d[0] : n_head ? s->d_model / n_head : 0;
        td_status st = get_int(r, key[k], def, 1, TD_MAX_D_HEAD, &d[k]);
        if (!st) st = get_int(r, value[k], d[k], 1, TD_MAX_D_HEAD, &v);
        if (!st && v != d[k])
            st = td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "%s%s is %d and %s %d: they must be equal", s->arch,
                         key[k], d[k], value[k], v);
        if (!st) st = get_int(r, span[k], k == 0 ? d[0] : rope[0], 2, TD_MAX_D_HEAD, &rope[k]);
        if (st) return st;
    }
    return TD_OK;
}

static td_status check_layer(const reader *r, int l) {
    const td_shape *s = r->s;
    const td_layer_shape *y = &s->layers[l];
    if (y->n_head % y->n_kv)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "layer %d: %d query heads are no multiple of %d KV heads",
                       l, y->n_head, y->n_kv);
    if (y->d_head % 32)
        return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "layer %d: head width %d is no multiple of 32", l,
                       y->d_head);
    if (y->d_rope % 2 || y->d_rope > y->d_head)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET,
                       "layer %d: %d rotated values: expected an even number up to the head width %d", l, y->d_rope,
                       y->d_head);
    if (y->n_head * y->d_head > TD_MAX_WIDTH)
        return td_fail(r->err, TD_ERR_LIMIT, TD_NO_OFFSET, "layer %d: %d heads of %d are more than %d values", l,
                       y->n_head, y->d_head, TD_MAX_WIDTH);
    return TD_OK;
}

static td_status read_layers(const reader *r, uint32_t *v) {
    td_shape *s = r->s;
    int d[2] = {0}, rope[2] = {0};
    float base[2] = {0};
    td_status st = get_each(r, ".attention.head_count", -1, 1, TD_MAX_HEADS, v);
    for (int l = 0; !st && l < s->n_layer; l++) s->layers[l].n_head = (int)v[l];
    if (!st) st = get_each(r, ".attention.head_count_kv", s->layers[0].n_head, 1, TD_MAX_HEADS, v);
    for (int l = 0; !st && l < s->n_layer; l++) s->layers[l].n_kv = (int)v[l];
    if (!st) st = get_each(r, ".feed_forward_length", -1, 1, TD_MAX_WIDTH, v);
    for (int l = 0; !st && l < s->n_layer; l++) s->layers[l].d_ff = (int)v[l];
    if (!st) st = read_pattern(r, v);
    if (!st) st = read_heads(r, d, rope);
    if (!st) st = get_float(r, ".rope.freq_base", 10000.0f, 1.0f, 1e12f, &base[0]);
    if (!st) st = get_float(r, ".rope.freq_base_swa", 10000.0f, 1.0f, 1e12f, &base[1]);
    for (int l = 0; !st && l < s->n_layer; l++) {
        td_layer_shape *y = &s->layers[l];
        y->d_head = d[y->sliding];
        y->d_rope = rope[y->sliding];
        y->rope_base = base[y->sliding];
        y->kv_layer = -1;
        st = check_layer(r, l);
        if (y->d_head > s->max_d_head) s->max_d_head = y->d_head;
        if (y->n_head * y->d_head > s->max_q) s->max_q = y->n_head * y->d_head;
        if (y->n_kv * y->d_head > s->max_kv) s->max_kv = y->n_kv * y->d_head;
        if (y->d_ff > s->max_ff) s->max_ff = y->d_ff;
    }
    return st;
}

/* Layers that own no cache read that of the last owning layer of their type. */
static td_status find_donors(const reader *r) {
    td_shape *s = r->s;
    int shared = 0;
    td_status st = get_int(r, ".attention.shared_kv_layers", 0, 0, s->n_layer - 1, &shared);
    if (st) return st;
    s->n_layer_kv = s->n_layer - shared;
    for (int l = 0; l < s->n_layer; l++) {
        td_layer_shape *y = &s->layers[l];
        int donor = l < s->n_layer_kv ? l : s->n_layer_kv - 1;
        while (donor >= 0 && s->layers[donor].sliding != y->sliding) donor--;
        if (donor < 0)
            return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET,
                           "layer %d shares its keys and values, but no %s layer before layer %d owns any", l,
                           y->sliding ? "sliding" : "full-attention", s->n_layer_kv);
        if (s->layers[donor].n_kv != y->n_kv)
            return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "layer %d has %d KV heads, its donor layer %d has %d",
                           l, y->n_kv, donor, s->layers[donor].n_kv);
        y->kv_layer = donor;
    }
    return TD_OK;
}

static td_status read_experts(const reader *r) {
    td_shape *s = r->s;
    td_status st = get_int(r, ".expert_count", 0, 0, TD_MAX_EXPERTS, &s->n_expert);
    if (!st) st = get_int(r, ".expert_used_count", 0, 0, TD_MAX_EXPERTS, &s->n_expert_used);
    if (!st) st = get_int(r, ".expert_feed_forward_length", 0, 0, TD_MAX_WIDTH, &s->d_expert);
    if (st || s->n_expert == 0) return st;
    if (s->n_expert_used < 1 || s->n_expert_used > s->n_expert)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s.expert_used_count is %d: expected 1 to %d", s->arch,
                       s->n_expert_used, s->n_expert);
    if (s->d_expert < 1)
        return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s.expert_feed_forward_length is missing", s->arch);
    for (int l = 0; l < s->n_layer; l++) {
        char name[TD_GGUF_NAME];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_inp.weight", l);
        s->layers[l].moe = td_gguf_tensor_find(r->g, name) != NULL;
    }
    return TD_OK;
}

static td_status read_target(const reader *r) {
    td_shape *s = r->s;
    td_status st = get_int(r, ".embedding_length_per_layer_input", -1, 0, TD_MAX_WIDTH, &s->d_ple);
    if (!st) st = get_float(r, ".final_logit_softcapping", 30.0f, 0.0f, 1e30f, &s->softcap);
    if (!st) st = find_donors(r);
    if (!st) st = read_experts(r);
    if (!st && (int64_t)s->d_ple * s->n_layer > TD_MAX_WIDTH)
        st = td_fail(r->err, TD_ERR_LIMIT, TD_NO_OFFSET, "%d layers of %d per-layer values are more than %d",
                     s->n_layer, s->d_ple, TD_MAX_WIDTH);
    return st;
}

static td_status read_assistant(const reader *r) {
    td_shape *s = r->s;
    int ple = 0, n_nextn = s->n_layer;
    td_status st = get_int(r, ".embedding_length_out", 0, 0, TD_MAX_WIDTH, &s->d_backbone);
    if (!st && s->d_backbone == 0) st = get_int(r, ".n_embd_backbone", 0, 0, TD_MAX_WIDTH, &s->d_backbone);
    if (!st) st = get_float(r, ".final_logit_softcapping", 0.0f, 0.0f, 1e30f, &s->softcap);
    if (!st) st = get_int(r, ".embedding_length_per_layer_input", 0, 0, 0, &ple);
    if (!st) st = get_int(r, ".nextn_predict_layers", s->n_layer, s->n_layer, s->n_layer, &n_nextn);
    if (!st) st = get_int(r, ".centroid_top_k", 0, 0, TD_MAX_VOCAB, &s->n_centroid_used);
    return st;
}

/* User scaling of the positions is a property of no released model; a file that asks for it would run wrong. */
static td_status check_scaling(const reader *r) {
    td_slice type;
    td_status st = td_gguf_get_str(r->g, ".rope.scaling.type", &type, r->err);
    if (st || type.n_bytes == 0 || (type.n_bytes == 4 && memcmp(type.data, "none", 4) == 0)) return st;
    return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "%s.rope.scaling.type \"%.*s\" is not supported",
                   r->s->arch, (int)(type.n_bytes < 40 ? type.n_bytes : 40), type.data);
}

static td_status read_vocab_size(const reader *r) {
    const td_gguf_tensor *t = td_gguf_tensor_find(r->g, "token_embd.weight");
    td_gguf_array tokens = {0};
    if (!t) return td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor token_embd.weight is missing");
    if (t->n_dims != 2 || t->ne[1] < 1 || t->ne[1] > TD_MAX_VOCAB)
        return td_fail(r->err, TD_ERR_FORMAT, t->offset, "tensor token_embd.weight has %llu rows: expected 1 to %d",
                       (unsigned long long)t->ne[1], TD_MAX_VOCAB);
    r->s->n_vocab = (int)t->ne[1];
    td_status st = td_gguf_get_array(r->g, "tokenizer.ggml.tokens", &tokens, r->err);
    if (!st && tokens.n && tokens.n != t->ne[1])
        st = td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET,
                     "tokenizer.ggml.tokens has %llu entries, token_embd.weight %llu rows: they must be equal",
                     (unsigned long long)tokens.n, (unsigned long long)t->ne[1]);
    return st;
}

td_status td_shape_read(td_shape *s, const td_gguf *g, bool assistant, td_error *err) {
    reader r = {s, g, err};
    memset(s, 0, sizeof *s);
    s->assistant = assistant;
    td_status st = check_arch(&r);
    if (!st) st = get_int(&r, ".block_count", -1, 1, TD_MAX_LAYERS, &s->n_layer);
    if (!st) st = get_int(&r, ".embedding_length", -1, 1, TD_MAX_WIDTH, &s->d_model);
    if (!st) st = get_int(&r, ".context_length", -1, 1, INT32_MAX, &s->n_ctx_train);
    if (!st) st = get_int(&r, ".attention.sliding_window", -1, 1, INT32_MAX, &s->window);
    if (!st) st = td_gguf_require(g, ".attention.layer_norm_rms_epsilon", err);
    if (!st) st = get_float(&r, ".attention.layer_norm_rms_epsilon", 0, 0, 1, &s->eps);
    if (!st) st = check_scaling(&r);
    if (!st) st = read_vocab_size(&r);
    if (st) return st;
    if (s->n_ctx_train > TD_MAX_CONTEXT) s->n_ctx_train = TD_MAX_CONTEXT;
    s->layers = td_calloc((size_t)s->n_layer, sizeof *s->layers);
    uint32_t *v = td_calloc((size_t)s->n_layer, sizeof *v);
    if (!s->layers || !v) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %d layers", s->n_layer);
    if (!st) st = read_layers(&r, v);
    if (!st) st = assistant ? read_assistant(&r) : read_target(&r);
    free(v);
    return st;
}

void td_shape_free(td_shape *s) {
    free(s->layers);
    memset(s, 0, sizeof *s);
}

const char *td_shape_name(const td_shape *s) {
    static const struct {
        int n_layer, d_model;
        const char *name;
    } known[] = {{35, 1536, "E2B"}, {42, 2560, "E4B"}, {48, 3840, "12B"}, {30, 2816, "26B-A4B"}, {60, 5376, "31B"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (s->n_layer == known[i].n_layer && s->d_model == known[i].d_model) return known[i].name;
    return "gemma4";
}
