/* Binds tensors to the network (see weights.h). Every shape follows from the hyper-parameters; a tensor that is
 * missing, has another shape, or a type that cannot be computed with ends the load with its name. */
#include "weights.h"

#include "../base/checked.h"
#include "../base/log.h"
#include "../kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static td_status no_memory(td_error *err) {
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the description of the model");
}

static td_status wrong_shape(const td_net *net, const td_gguf_tensor *t, int n_dims, const int64_t *ne, td_error *err) {
    char has[96] = "", want[96] = "";
    size_t n = 0, w = 0;
    for (int i = 0; i < t->n_dims && n < sizeof has; i++)
        n += (size_t)snprintf(has + n, sizeof has - n, "%s%llu", i ? ", " : "", (unsigned long long)t->ne[i]);
    for (int i = 0; i < n_dims && w < sizeof want; i++)
        w += (size_t)snprintf(want + w, sizeof want - w, "%s%lld", i ? ", " : "", (long long)ne[i]);
    return td_fail(err, TD_ERR_FORMAT, t->offset, "tensor %s%s is {%s}: expected {%s}", net->prefix, t->name, has,
                   want);
}

static td_status find(td_net *net, const char *name, int n_dims, const int64_t *ne, bool optional,
                      const td_gguf_tensor **out, td_error *err) {
    *out = td_gguf_tensor_find(net->gguf, name);
    if (!*out) {
        if (optional) return TD_OK;
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor %s%s is missing", net->prefix, name);
    }
    net->n_bound++;
    for (int i = 0; i < TD_GGUF_DIMS; i++)
        if ((*out)->ne[i] != (i < n_dims ? (uint64_t)ne[i] : 1)) return wrong_shape(net, *out, n_dims, ne, err);
    return TD_OK;
}

td_status td_bind_vector(td_net *net, const float **out, const char *name, int64_t n, bool optional, td_error *err) {
    const td_gguf_tensor *t = NULL;
    *out = NULL;
    td_status st = find(net, name, 1, &n, optional, &t, err);
    if (st || !t) return st;
    if (!t->type->decode || t->type->is_quantised)
        return td_fail(err, TD_ERR_UNSUPPORTED, t->offset, "tensor %s%s has type %s: expected f32", net->prefix, name,
                       t->type->name);
    float *v = td_arena_alloc(net->arena, (size_t)n, sizeof *v);
    if (!v) return no_memory(err);
    t->type->decode(t->data, v, n);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return td_fail(err, TD_ERR_FORMAT, t->offset, "tensor %s%s: value %lld is not finite", net->prefix, name,
                           (long long)i);
    *out = v;
    return TD_OK;
}

/* Some files scale whole matrices (NVFP4); computing without the factor would be silently wrong. */
static td_status refuse_scale(const td_net *net, const char *name, td_error *err) {
    char scale[TD_GGUF_NAME + 8];
    const char *dot = strrchr(name, '.');
    if (!dot || strstr(name, "ffn_gate_inp") || strstr(name, "ffn_down_exps")) return TD_OK;
    snprintf(scale, sizeof scale, "%.*s.scale", (int)(dot - name), name);
    if (!td_gguf_tensor_find(net->gguf, scale)) return TD_OK;
    return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "tensor %s%s: scales of whole matrices are not supported",
                   net->prefix, scale);
}

td_status td_bind_matrix(td_net *net, td_matrix *m, const td_bind *b, td_error *err) {
    int64_t src_rows = b->src_rows ? b->src_rows : b->n_rows;
    int n_expert = b->n_expert ? b->n_expert : 1;
    int64_t ne[3] = {b->k, src_rows, n_expert};
    const td_gguf_tensor *t = NULL;
    memset(m, 0, sizeof *m);
    td_status st = find(net, b->name, b->n_expert ? 3 : 2, ne, b->optional, &t, err);
    if (st || !t) return st;
    st = refuse_scale(net, b->name, err);
    if (!st) st = td_matrix_init(m, (uint32_t)t->type->id, b->n_rows, b->k, n_expert, err);
    if (st) {
        td_error_prefix(err, "tensor %s%s", net->prefix, b->name);
        return st;
    }
    m->row_ids = b->row_ids;
    m->row_pos = b->row_pos;
    if (!b->file_only) return td_pack_add(&net->pack, m, t, b->row0, src_rows, err);
    td_matrix_bind_plain(m, t->data);
    return TD_OK;
}

/* ---- layers ---- */

typedef struct binder { /* names of one layer; the first failure sticks */
    td_net *net;
    int layer;
    td_status st;
    td_error *err;
    char name[TD_GGUF_NAME + 16];
} binder;

static const char *name_of(binder *b, const char *part) {
    snprintf(b->name, sizeof b->name, "blk.%d.%s", b->layer, part);
    return b->name;
}

static const float *vector(binder *b, const char *part, int64_t n, bool optional) {
    const float *v = NULL;
    if (!b->st) b->st = td_bind_vector(b->net, &v, name_of(b, part), n, optional, b->err);
    return v;
}

static void matrix(binder *b, td_matrix *m, const char *part, int64_t n_rows, int64_t k, bool optional) {
    td_bind d = {.name = name_of(b, part), .n_rows = n_rows, .k = k, .optional = optional};
    if (!b->st) b->st = td_bind_matrix(b->net, m, &d, b->err);
}

static void experts(binder *b, td_matrix *m, const char *part, int64_t n_rows, int64_t k, int64_t src_rows,
                    int64_t row0) {
    td_bind d = {.name = name_of(b, part), .n_rows = n_rows, .k = k, .src_rows = src_rows, .row0 = row0};
    d.n_expert = b->net->shape.n_expert;
    if (!b->st) b->st = td_bind_matrix(b->net, m, &d, b->err);
}

static void bind_attention(binder *b, td_layer *w) {
    const td_shape *s = &b->net->shape;
    const td_layer_shape *y = &s->layers[b->layer];
    int64_t n_q = (int64_t)y->n_head * y->d_head, n_kv = (int64_t)y->n_kv * y->d_head;
    w->attn_norm = vector(b, "attn_norm.weight", s->d_model, false);
    w->q_norm = vector(b, "attn_q_norm.weight", y->d_head, false);
    w->post_attn_norm = vector(b, "post_attention_norm.weight", s->d_model, false);
    matrix(b, &w->q, "attn_q.weight", n_q, s->d_model, false);
    if (b->layer < s->n_layer_kv) { /* what sharing layers carry is dead weight: not even looked at */
        w->k_norm = vector(b, "attn_k_norm.weight", y->d_head, false);
        matrix(b, &w->k, "attn_k.weight", n_kv, s->d_model, false);
        matrix(b, &w->v, "attn_v.weight", n_kv, s->d_model, true);
    }
    matrix(b, &w->o, "attn_output.weight", s->d_model, n_q, false);
}

static void bind_ffn(binder *b, td_layer *w) {
    const td_shape *s = &b->net->shape;
    int64_t d_ff = s->layers[b->layer].d_ff;
    w->ffn_norm = vector(b, "ffn_norm.weight", s->d_model, false);
    matrix(b, &w->gate, "ffn_gate.weight", d_ff, s->d_model, false);
    matrix(b, &w->up, "ffn_up.weight", d_ff, s->d_model, false);
    matrix(b, &w->down, "ffn_down.weight", s->d_model, d_ff, false);
    w->post_norm = vector(b, "post_ffw_norm.weight", s->d_model, false);
    const float *scale = vector(b, "layer_output_scale.weight", 1, true);
    w->scale = scale ? *scale : 1.0f;
}

static void bind_moe(binder *b, td_layer *w) {
    td_net *net = b->net;
    const td_shape *s = &net->shape;
    int64_t d = s->d_model, n = s->d_expert;
    w->post_norm_1 = vector(b, "post_ffw_norm_1.weight", d, false);
    w->pre_norm_2 = vector(b, "pre_ffw_norm_2.weight", d, false);
    w->post_norm_2 = vector(b, "post_ffw_norm_2.weight", d, false);
    matrix(b, &w->router, "ffn_gate_inp.weight", s->n_expert, d, false);
    const float *scale = vector(b, "ffn_gate_inp.scale", d, false);
    const float *each = vector(b, "ffn_down_exps.scale", s->n_expert, true);
    float *r = td_arena_alloc(net->arena, (size_t)d, sizeof *r);
    float *e = td_arena_alloc(net->arena, (size_t)s->n_expert, sizeof *e);
    if (!b->st && (!r || !e)) b->st = no_memory(b->err);
    if (b->st) return;
    float inv = 1.0f / sqrtf((float)d);
    for (int64_t i = 0; i < d; i++) r[i] = scale[i] * inv;
    for (int i = 0; i < s->n_expert; i++) e[i] = each ? each[i] : 1.0f;
    w->router_scale = r;
    w->expert_scale = e;
    if (td_gguf_tensor_find(net->gguf, name_of(b, "ffn_gate_up_exps.weight"))) {
        experts(b, &w->gate_exps, "ffn_gate_up_exps.weight", n, d, 2 * n, 0);
        experts(b, &w->up_exps, "ffn_gate_up_exps.weight", n, d, 2 * n, n);
    } else {
        experts(b, &w->gate_exps, "ffn_gate_exps.weight", n, d, 0, 0);
        experts(b, &w->up_exps, "ffn_up_exps.weight", n, d, 0, 0);
    }
    experts(b, &w->down_exps, "ffn_down_exps.weight", d, n, 0, 0);
}

/* Experts that no router leads to would be left out without a word. */
static void refuse_experts(binder *b) {
    if (!b->st && td_gguf_tensor_find(b->net->gguf, name_of(b, "ffn_down_exps.weight")))
        b->st = td_fail(b->err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor %s%s is there, but %s", b->net->prefix, b->name,
                        b->net->shape.n_expert ? "the layer's ffn_gate_inp.weight is missing"
                                               : "key expert_count is missing or 0");
}

static void bind_ple(binder *b, td_layer *w) {
    const td_shape *s = &b->net->shape;
    matrix(b, &w->ple_gate, "inp_gate.weight", s->d_ple, s->d_model, false);
    matrix(b, &w->ple_proj, "proj.weight", s->d_model, s->d_ple, false);
    w->ple_norm = vector(b, "post_norm.weight", s->d_model, false);
}

/* Angles of both attention types. Full layers divide each frequency by rope_freqs: 1 for the pairs that rotate, 1e30
 * for those that do not. An assistant's file may lack the tensor: an eighth of the span rotates then. */
static td_status bind_rope(td_net *net, td_error *err) {
    const td_shape *s = &net->shape;
    for (int l = 0; l < s->n_layer; l++) {
        const td_layer_shape *y = &s->layers[l];
        td_rope *r = &net->rope[y->sliding];
        int n = y->d_rope / 2;
        if (r->freq) continue;
        const float *factors = NULL;
        double *freq = td_arena_alloc(net->arena, (size_t)n, sizeof *freq);
        float *made = td_arena_alloc(net->arena, (size_t)n, sizeof *made);
        if (!freq || !made) return no_memory(err);
        if (!y->sliding) {
            td_status st = td_bind_vector(net, &factors, "rope_freqs.weight", n, s->assistant, err);
            if (st) return st;
            for (int i = 0; i < n; i++) made[i] = i < y->d_rope / 8 ? 1.0f : 1e30f;
            if (!factors) factors = made;
            for (int i = 0; i < n; i++)
                if (!(factors[i] > 0))
                    return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor %srope_freqs.weight: factor %d is not > 0",
                                   net->prefix, i);
        }
        td_rope_freqs(freq, n, y->d_rope, (double)y->rope_base, factors);
        /* Below 1e-18 the largest position turns by less than 2e-11: sin vanishes beside any float, cos is 1. */
        while (n > 0 && freq[n - 1] < 1e-18) n--;
        *r = (td_rope){y->d_rope, n, freq};
    }
    return TD_OK;
}

/* Finds and checks every tensor of the layers and the head. `net` has gguf, shape, arena and prefix. */
static td_status bind_net(td_net *net, td_error *err) {
    const td_shape *s = &net->shape;
    net->layers = td_arena_alloc(net->arena, (size_t)s->n_layer, sizeof *net->layers);
    if (!net->layers) return no_memory(err);
    for (int l = 0; l < s->n_layer; l++) {
        binder b = {.net = net, .layer = l, .st = TD_OK, .err = err};
        bind_attention(&b, &net->layers[l]);
        bind_ffn(&b, &net->layers[l]);
        if (s->layers[l].moe)
            bind_moe(&b, &net->layers[l]);
        else
            refuse_experts(&b);
        if (s->d_ple) bind_ple(&b, &net->layers[l]);
        if (b.st) return b.st;
    }
    td_status st = bind_rope(net, err);
    if (!st) st = td_bind_vector(net, &net->output_norm, "output_norm.weight", s->d_model, false, err);
    return st;
}

/* ---- open and close ---- */

/* Every value of every tensor is finite. */
static td_status check_values(const td_net *net, td_error *err) {
    enum { CHUNK = 4096 };
    float values[CHUNK];
    for (size_t i = 0; i < td_gguf_n_tensors(net->gguf); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(net->gguf, i);
        if (!t->type->decode) continue; /* integers */
        const uint8_t *at = t->data;
        size_t step = (size_t)(CHUNK / t->type->block) * t->type->bytes;
        for (size_t done = 0; done < t->n_bytes; done += step) {
            size_t n_bytes = t->n_bytes - done < step ? t->n_bytes - done : step;
            int64_t n = (int64_t)(n_bytes / t->type->bytes) * (int64_t)t->type->block;
            t->type->decode(at + done, values, n);
            for (int64_t k = 0; k < n; k++)
                if (!isfinite(values[k]))
                    return td_fail(err, TD_ERR_FORMAT, t->offset + done, "tensor %s%s holds a value that is not finite",
                                   net->prefix, t->name);
        }
    }
    return TD_OK;
}

td_status td_net_open(td_net *net, const td_model_options *o, bool assistant, td_error *err) {
    net->prefix = assistant ? "mtp." : "";
    net->arena = td_arena_create(0);
    if (!net->arena) return no_memory(err);
    td_status st = td_gguf_open(&net->gguf, o->path, err);
    if (st) return st;
    st = td_shape_read(&net->shape, net->gguf, assistant, err);
    if (!st) st = bind_net(net, err);
    if (!st && o->check_tensors) st = check_values(net, err);
    if (st) td_error_prefix(err, "%s", o->path);
    return st;
}

void td_net_close(td_net *net) {
    td_pack_free(&net->pack);
    td_shape_free(&net->shape);
    td_gguf_close(net->gguf);
    td_arena_destroy(net->arena);
    memset(net, 0, sizeof *net);
}
