/* Loads a target: opens the file, reads its shape, binds its tensors, packs its matrices. After this a model is
 * read-only; src/model/target.c runs it. */
#include "model.h"

#include "../base/checked.h"
#include "../base/log.h"
#include "../kv/kv.h"
#include "weights.h"

#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Ids that must never be sampled: ascending, inside the vocabulary, each once. */
static td_status read_suppressed(td_model *m, td_error *err) {
    td_gguf_array a = {0};
    td_status st = td_gguf_get_array(m->net.gguf, "tokenizer.ggml.suppress_tokens", &a, err);
    if (st || a.n == 0) return st;
    if (a.n > TD_MAX_VOCAB)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tokenizer.ggml.suppress_tokens has %llu entries",
                       (unsigned long long)a.n);
    int32_t *ids = td_arena_alloc(m->net.arena, (size_t)a.n, sizeof *ids);
    if (!ids) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the list of suppressed tokens");
    int n = 0;
    for (uint64_t i = 0; i < a.n; i++) {
        int64_t v = 0;
        if (!td_gguf_array_i64(&a, i, &v))
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tokenizer.ggml.suppress_tokens: entry %llu is no id",
                           (unsigned long long)i);
        if (v >= 0 && v < m->net.shape.n_vocab) ids[n++] = (int32_t)v;
    }
    qsort(ids, (size_t)n, sizeof *ids, ascending);
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (kept == 0 || ids[kept - 1] != ids[i]) ids[kept++] = ids[i];
    m->suppress = ids;
    m->n_suppress = kept;
    return TD_OK;
}

static td_status bind_tables(td_model *m, td_error *err) {
    td_net *net = &m->net;
    const td_shape *s = &net->shape;
    int64_t n_ple = (int64_t)s->n_layer * s->d_ple;
    bool tied = td_gguf_tensor_find(net->gguf, "output.weight") == NULL;
    td_status st = TD_OK;
    if (s->d_ple) {
        td_bind table = {.name = "per_layer_token_embd.weight", .n_rows = s->n_vocab, .k = n_ple, .file_only = true};
        td_bind proj = {.name = "per_layer_model_proj.weight", .n_rows = n_ple, .k = s->d_model};
        st = td_bind_matrix(net, &m->ple_embd, &table, err);
        if (!st) st = td_bind_matrix(net, &m->ple_proj, &proj, err);
        if (!st) st = td_bind_vector(net, &m->ple_norm, "per_layer_proj_norm.weight", s->d_ple, false, err);
    }
    td_bind embd = {.name = "token_embd.weight", .n_rows = s->n_vocab, .k = s->d_model, .file_only = !tied};
    td_bind head = {.name = "output.weight", .n_rows = s->n_vocab, .k = s->d_model};
    if (!st) st = td_bind_matrix(net, tied ? &net->head : &m->embd, &embd, err);
    if (!st && !tied) st = td_bind_matrix(net, &net->head, &head, err);
    if (!st) st = read_suppressed(m, err);
    return st;
}

td_status td_model_load(td_model **out, const td_model_options *o, td_error *err) {
    *out = NULL;
    if (!o->path || !*o->path) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no model file was given");
    td_model *m = td_calloc(1, sizeof *m);
    if (!m) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a model");
    td_status st = td_net_open(&m->net, o, false, err);
    if (!st) {
        st = bind_tables(m, err);
        if (!st) st = td_pack_run(&m->net.pack, m->net.gguf, o, err);
        if (st) td_error_prefix(err, "%s", o->path);
    }
    if (st) {
        td_model_free(m);
        return st;
    }
    if (!m->embd.n_rows) m->embd = m->net.head; /* tied: a row is taken out of the packed head */
    *out = m;
    return TD_OK;
}

void td_model_free(td_model *m) {
    if (!m) return;
    td_net_close(&m->net);
    free(m);
}

const td_shape *td_model_shape(const td_model *m) {
    return &m->net.shape;
}

const td_gguf *td_model_gguf(const td_model *m) {
    return m->net.gguf;
}

/* Weight bytes of one row's step through the layers: all experts count as the chosen ones. */
static uint64_t layer_bytes(const td_net *net) {
    uint64_t n = 0;
    for (int i = 0; i < net->pack.n_items; i++) {
        const td_matrix *m = net->pack.items[i].m;
        uint64_t b = td_matrix_file_bytes(m);
        n += m->n_expert > 1 ? b / (uint64_t)m->n_expert * (uint64_t)net->shape.n_expert_used : b;
    }
    return n;
}

/* Multiply-adds of one row with a matrix, experts as the chosen ones. */
static uint64_t matrix_macs(const td_net *net, const td_matrix *m) {
    return (uint64_t)m->n_rows * (uint64_t)m->k * (uint64_t)(m->n_expert > 1 ? net->shape.n_expert_used : 1);
}

static uint64_t layer_macs(const td_net *net, const td_layer *w) {
    const td_matrix *all[] = {&w->q,         &w->k,        &w->v,       &w->o,         &w->gate,
                              &w->up,        &w->down,     &w->router,  &w->gate_exps, &w->up_exps,
                              &w->down_exps, &w->ple_gate, &w->ple_proj};
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) n += matrix_macs(net, all[i]);
    return n;
}

/* Of a row that wants a result, and of one that leaves once its keys and values are stored (td_layers_run). */
static void count_macs(const td_model *m, uint64_t *whole, uint64_t *stored) {
    const td_net *net = &m->net;
    const uint64_t n_layer = (uint64_t)net->shape.n_layer, before = (uint64_t)net->shape.n_layer_kv - 1;
    const td_layer *last = &net->layers[before];
    *whole = matrix_macs(net, &m->ple_proj);
    *stored = *whole / n_layer * before + matrix_macs(net, &last->k) + matrix_macs(net, &last->v);
    for (uint64_t l = 0; l < n_layer; l++) {
        *whole += layer_macs(net, &net->layers[l]);
        if (l < before) *stored += layer_macs(net, &net->layers[l]);
    }
}

td_model_memory td_model_memory_use(const td_model *m) {
    const td_pack *p = &m->net.pack;
    td_model_memory u = {.file_bytes = td_gguf_file_bytes(m->net.gguf), .from_cache = p->from_cache};
    bool packed = p->memory != NULL || p->from_cache;
    if (packed) u.packed_bytes = p->n_bytes;
    for (int i = 0; !packed && i < p->n_items; i++) u.mapped_bytes += td_matrix_file_bytes(p->items[i].m);
    if (m->embd.data != m->net.head.data) u.mapped_bytes += td_matrix_file_bytes(&m->embd);
    if (m->ple_embd.n_rows) u.mapped_bytes += td_matrix_file_bytes(&m->ple_embd);
    u.step_bytes = layer_bytes(&m->net) + m->embd.row_bytes + m->ple_embd.row_bytes;
    count_macs(m, &u.result_macs, &u.token_macs);
    return u;
}

td_model_memory td_drafter_memory_use(const td_drafter *d) {
    const td_pack *p = &d->net.pack;
    td_model_memory u = {.file_bytes = td_gguf_file_bytes(d->net.gguf), .from_cache = p->from_cache};
    if (p->memory || p->from_cache)
        u.packed_bytes = p->n_bytes;
    else
        u.mapped_bytes = layer_bytes(&d->net);
    u.step_bytes = layer_bytes(&d->net) + d->target->embd.row_bytes;
    if (d->order) { /* only the candidates' rows of the head */
        const td_shape *s = &d->net.shape;
        uint64_t head = td_matrix_file_bytes(&d->net.head);
        u.step_bytes -= head - head / (uint64_t)s->n_centroid * (uint64_t)s->n_centroid_used;
    }
    return u;
}

/* ---- cache ---- */

td_status td_model_kv_create(td_kv **out, const td_model *m, td_kv_options *options, td_error *err) {
    const td_net *net = &m->net;
    const td_shape *s = &net->shape;
    size_t half = (size_t)s->max_d_head / 2;
    td_kv_layer *layers = td_calloc((size_t)s->n_layer_kv, sizeof *layers);
    float *freq = td_calloc(2 * half, sizeof *freq); /* [sliding][half] */
    td_status st = TD_ERR_MEMORY;
    *out = NULL;
    if (!layers || !freq) {
        td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the description of the cache");
        goto done;
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < net->rope[k].n_pairs; i++) freq[(size_t)k * half + (size_t)i] = (float)net->rope[k].freq[i];
    for (int l = 0; l < s->n_layer_kv; l++) {
        const td_layer_shape *y = &s->layers[l];
        const td_layer *w = &net->layers[l];
        layers[l] = (td_kv_layer){.sliding = y->sliding, .n_kv = (uint32_t)y->n_kv, .d_head = (uint32_t)y->d_head};
        layers[l].inv_freq = freq + (y->sliding ? half : 0);
        layers[l].k_eq_v = w->v.n_rows ? NULL : w->k_norm;
    }
    options->n_layer = (uint32_t)s->n_layer_kv;
    options->layer = layers;
    options->window = (uint32_t)s->window;
    st = td_kv_create(out, options, err);
    options->layer = NULL;
done:
    free(layers);
    free(freq);
    return st;
}
