/* See rig.h. */
#include "rig.h"

#include "base/checked.h"
#include "file/gguf.h"
#include "file/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int or_default(int v, int def) {
    return v ? v : def;
}

bool rig_open(rig *r, const rig_options *o) {
    td_error err = {0};
    int max_rows = or_default(o->max_rows, 128), n_slots = or_default(o->n_slots, 1);
    memset(r, 0, sizeof *r);
    td_pool_options po = {.n_threads = or_default(o->n_threads, 1)};
    td_status st = td_pool_create(&r->pool, &po, &err);
    td_model_options mo = {.path = o->target, .pool = r->pool, .no_pack = o->no_pack, .pack_cache = o->pack_cache};
    if (!st) st = td_model_load(&r->model, &mo, &err);
    td_drafter_options d = {.file = mo, .head = o->head, .screen_rows = o->screen_rows};
    d.file.path = o->assistant;
    if (!st && o->assistant) st = td_drafter_load(&r->drafter, &d, r->model, NULL, &err);
    td_kv_options ko = {.n_slot = (uint32_t)n_slots, .n_ctx = (uint32_t)or_default(o->n_ctx, 256)};
    ko.n_batch = (uint32_t)max_rows;
    ko.n_back = 16;
    ko.type_k = ko.type_v = ko.type_k_sliding = ko.type_v_sliding = o->kv;
    if (!st) st = td_model_kv_create(&r->kv, r->model, &ko, &err);
    td_workspace_options wo = {.max_rows = max_rows, .max_out = max_rows, .max_slots = n_slots};
    if (!st) st = td_workspace_create(&r->work, r->model, r->drafter, r->pool, &wo, &err);
    if (st) {
        fprintf(stderr, "%s: %s\n", o->target, err.text);
        return false;
    }
    r->n_vocab = td_model_shape(r->model)->n_vocab;
    r->d_model = td_model_shape(r->model)->d_model;
    return true;
}

void rig_close(rig *r) {
    td_workspace_free(r->work);
    if (r->kv) td_kv_destroy(r->kv);
    td_drafter_free(r->drafter);
    td_model_free(r->model);
    td_pool_destroy(r->pool);
    memset(r, 0, sizeof *r);
}

bool rig_feed(rig *r, int slot, const int32_t *tokens, int from, int to, int chunk, float *logits, float *hidden) {
    td_row rows[256];
    td_error err = {0};
    size_t v = (size_t)r->n_vocab, d = (size_t)r->d_model;
    for (int i = from, n; i < to; i += n) {
        n = to - i < chunk ? to - i : chunk;
        for (int j = 0; j < n; j++)
            rows[j] =
                (td_row){tokens[i + j], i + j, slot, (logits ? TD_ROW_LOGITS : 0u) | (hidden ? TD_ROW_HIDDEN : 0u)};
        td_step step = {rows, n};
        if (td_target_forward(r->model, r->kv, &step, r->work, r->pool, &err)) {
            fprintf(stderr, "forward: %s\n", err.text);
            return false;
        }
        for (int j = 0; j < n; j++) {
            size_t at = (size_t)(i + j - from);
            if (logits) memcpy(logits + at * v, td_workspace_logits(r->work, j), v * sizeof *logits);
            if (hidden) memcpy(hidden + at * d, td_workspace_hidden(r->work, j), d * sizeof *hidden);
        }
    }
    return true;
}

void rig_temp(char *out, size_t n_bytes, const char *name) {
    const char *dir = getenv("TMPDIR");
    snprintf(out, n_bytes, "%s/tandem-test-%ld-%s", dir ? dir : "/tmp", (long)getpid(), name);
}

static bool converts(const td_gguf_tensor *t, const td_type_info *to) {
    size_t n = strlen(t->name);
    return t->n_dims >= 2 && t->type->id == TD_TYPE_F32 && n > 7 && strcmp(t->name + n - 7, ".weight") == 0 &&
           !strstr(t->name, "ffn_gate_inp") && t->ne[0] % to->block == 0;
}

static td_status copy_tensor(td_gguf_writer *w, const td_gguf_tensor *t, const td_type_info *to, td_error *err) {
    if (!converts(t, to)) return td_gguf_put_data(w, t->data, t->n_bytes, err);
    int64_t k = (int64_t)t->ne[0], n = (int64_t)(t->ne[1] * t->ne[2] * t->ne[3]);
    size_t bytes = (size_t)n * (size_t)k / to->block * to->bytes;
    float *src = malloc(t->n_bytes);
    void *dst = malloc(bytes);
    memcpy(src, t->data, t->n_bytes); /* the file's data need not be aligned */
    if (to->id == TD_TYPE_F32)
        memcpy(dst, src, bytes);
    else
        to->encode(src, dst, k, n, NULL);
    td_status st = td_gguf_put_data(w, dst, bytes, err);
    free(src);
    free(dst);
    return st;
}

bool rig_requantise(const char *from, const char *to, td_type type) {
    td_error err = {0};
    td_gguf *g = NULL;
    td_gguf_writer *w = NULL;
    const td_type_info *info = td_type_of(type);
    td_status st = td_gguf_open(&g, from, &err);
    if (!st) st = td_gguf_writer_open(&w, to, &err);
    for (size_t i = 0; !st && i < td_gguf_n_keys(g); i++) st = td_gguf_put_value(w, NULL, td_gguf_key_at(g, i), &err);
    for (size_t i = 0; !st && i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        st = td_gguf_put_tensor(w, t->name, converts(t, info) ? type : t->type->id, t->n_dims, t->ne, &err);
    }
    for (size_t i = 0; !st && i < td_gguf_n_tensors(g); i++) st = copy_tensor(w, td_gguf_tensor_at(g, i), info, &err);
    if (!st)
        st = td_gguf_writer_commit(w, &err);
    else if (w)
        td_gguf_writer_discard(w);
    if (st) fprintf(stderr, "%s: %s\n", to, err.text);
    td_gguf_close(g);
    return !st;
}
