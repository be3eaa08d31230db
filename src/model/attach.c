/* Loads an assistant and attaches it to a target: whether the two fit, what its head is, and its tensors. Both GGUF
 * dialects are read; their differences end here. src/model/drafter.c runs it. */
#include "model.h"

#include "../base/checked.h"
#include "../base/log.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_COMPARED = 5 }; /* <pad> <eos> <bos> <unk> <mask> are named differently by some converters */

static bool slice_is(td_slice s, const char *text) {
    return s.n_bytes == strlen(text) && memcmp(s.data, text, s.n_bytes) == 0;
}

static const td_gguf_tensor *find_suffix(const td_gguf *g, const char *suffix) {
    size_t n = strlen(suffix);
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        size_t len = strlen(t->name);
        if (len >= n && strcmp(t->name + len - n, suffix) == 0) return t;
    }
    return NULL;
}

/* ---- checks ---- */

static td_attach_code check_vocabulary(const td_gguf *t, const td_gguf *a, const td_shape *ts, const td_shape *as,
                                       td_error *err) {
    td_gguf_array x = {0}, y = {0};
    if (ts->n_vocab != as->n_vocab) {
        td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "the assistant has %d tokens, the target %d", as->n_vocab,
                ts->n_vocab);
        return TD_ATTACH_VOCABULARY;
    }
    if (td_gguf_get_array(t, "tokenizer.ggml.tokens", &x, NULL) || x.n == 0) return TD_ATTACH_OK;
    if (td_gguf_get_array(a, "tokenizer.ggml.tokens", &y, NULL) || y.n == 0) return TD_ATTACH_OK;
    td_cursor cx = td_gguf_array_strings(&x), cy = td_gguf_array_strings(&y);
    for (uint64_t i = 0; i < x.n && i < y.n; i++) {
        td_slice p, q;
        if (!td_gguf_next_string(&cx, &p) || !td_gguf_next_string(&cy, &q)) break;
        if (i < FIRST_COMPARED || (p.n_bytes == q.n_bytes && memcmp(p.data, q.data, p.n_bytes) == 0)) continue;
        td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "token %llu is \"%.*s\" in the assistant, \"%.*s\" in the target",
                (unsigned long long)i, (int)(q.n_bytes < 60 ? q.n_bytes : 60), q.data,
                (int)(p.n_bytes < 60 ? p.n_bytes : 60), p.data);
        return TD_ATTACH_VOCABULARY;
    }
    return TD_ATTACH_OK;
}

/* Every layer of the assistant reads the cache of the target's last owning layer of its type. */
static td_attach_code check_geometry(const td_shape *ts, td_shape *as, td_error *err) {
    for (int l = 0; l < as->n_layer; l++) {
        td_layer_shape *y = &as->layers[l];
        int donor = ts->n_layer_kv - 1;
        while (donor >= 0 && ts->layers[donor].sliding != y->sliding) donor--;
        const td_layer_shape *d = donor >= 0 ? &ts->layers[donor] : NULL;
        if (!d || d->d_head != y->d_head || y->n_head % d->n_kv) {
            td_fail(
                err, TD_ERR_MISMATCH, TD_NO_OFFSET,
                "layer %d of the assistant reads keys of %d heads of %d values or a divisor: the target's %s layers "
                "have %d of %d",
                l, y->n_head, y->d_head, y->sliding ? "sliding" : "full-attention", d ? d->n_kv : 0, d ? d->d_head : 0);
            return TD_ATTACH_BACKBONE;
        }
        y->kv_layer = donor;
        y->n_kv = d->n_kv;
    }
    return TD_ATTACH_OK;
}

/* `as` gets its donors. The order of the checks is that of the codes. */
static td_attach_code check_pair(const td_gguf *t, const td_gguf *a, const td_shape *ts, td_shape *as, td_error *err) {
    td_slice want = {0};
    if (td_gguf_get_str(a, ".requires_target_arch", &want, err)) return TD_ATTACH_FILE;
    if (want.n_bytes && !slice_is(want, "gemma4")) {
        td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "the assistant is made for architecture \"%.*s\", not gemma4",
                (int)(want.n_bytes < 40 ? want.n_bytes : 40), want.data);
        return TD_ATTACH_REQUIRED_ARCH;
    }
    const td_gguf_tensor *pre = find_suffix(a, "pre_projection.weight");
    if (as->d_backbone == 0 && pre && pre->ne[0] <= 2 * (uint64_t)TD_MAX_WIDTH) as->d_backbone = (int)(pre->ne[0] / 2);
    if (as->d_backbone == 0 || as->d_backbone != ts->d_model) {
        td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "the assistant is made for a hidden size of %d, the target has %d",
                as->d_backbone, ts->d_model);
        return TD_ATTACH_BACKBONE;
    }
    td_attach_code code = check_geometry(ts, as, err);
    return code ? code : check_vocabulary(t, a, ts, as, err);
}

td_attach_code td_attach_check(const td_gguf *t, const td_gguf *a, td_error *err) {
    td_shape ts = {0}, as = {0};
    td_attach_code code = TD_ATTACH_OK;
    if (!t || !a) {
        td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a target and an assistant are needed");
        return TD_ATTACH_NO_MODEL;
    }
    td_status st = td_shape_read(&ts, t, false, err);
    if (st) {
        td_error_prefix(err, "target");
        code = strcmp(td_gguf_arch(t), "gemma4") != 0 ? TD_ATTACH_TARGET_ARCH : TD_ATTACH_NO_MODEL;
        goto done;
    }
    st = td_shape_read(&as, a, true, err);
    if (st) {
        td_error_prefix(err, "assistant");
        code = td_arch_is_assistant(td_gguf_arch(a)) ? TD_ATTACH_FILE : TD_ATTACH_ARCH;
        goto done;
    }
    code = check_pair(t, a, &ts, &as, err);
done:
    td_shape_free(&ts);
    td_shape_free(&as);
    return code;
}

/* ---- the ordered head ---- */

/* token_ordering as a permutation of the vocabulary and its inverse; NULL with a reason when it is none. */
static const char *read_order(td_drafter *d, const td_gguf_tensor *t, const int32_t **order, const int32_t **pos) {
    int n = d->net.shape.n_vocab;
    if (t->ne[0] != (uint64_t)n || t->n_dims != 1) return "the ordering has not one entry per token";
    if (t->type->id != TD_TYPE_I32 && t->type->id != TD_TYPE_I64) return "the ordering is not of type i32";
    int32_t *id = td_arena_alloc(d->net.arena, (size_t)n, sizeof *id);
    int32_t *at = td_arena_alloc(d->net.arena, (size_t)n, sizeof *at);
    if (!id || !at) return "there is no memory for it";
    for (int i = 0; i < n; i++) at[i] = -1;
    for (int i = 0; i < n; i++) {
        int64_t v = 0;
        int32_t v32 = 0;
        if (t->type->id == TD_TYPE_I64)
            memcpy(&v, (const uint8_t *)t->data + 8 * (size_t)i, 8);
        else
            memcpy(&v32, (const uint8_t *)t->data + 4 * (size_t)i, 4);
        v += v32;
        if (v < 0 || v >= n) return "the ordering names tokens outside the vocabulary";
        if (at[v] >= 0) return "the ordering names a token twice";
        id[i] = (int32_t)v;
        at[v] = i;
    }
    *order = id;
    *pos = at;
    return NULL;
}

/* NULL when the ordered head can be used, else why not. `centroids`, `ordering` are its tensors. */
static const char *check_ordered(td_drafter *d, const td_gguf_tensor **centroids, const int32_t **order,
                                 const int32_t **pos) {
    const td_gguf *g = d->net.gguf;
    td_shape *s = &d->net.shape;
    const td_gguf_tensor *c = td_gguf_tensor_find(g, "masked_embd_centroids.weight");
    const td_gguf_tensor *o = td_gguf_tensor_find(g, "masked_embd_ordering");
    bool use = true;
    if (!c) c = td_gguf_tensor_find(g, "mtp.centroids.weight");
    if (!o) o = td_gguf_tensor_find(g, "mtp.token_ordering.weight");
    if (!c || !o) return "its tensors are not in the file";
    if (td_gguf_get_bool(g, ".use_ordered_embeddings", true, &use, NULL) || !use) return "the file switches it off";
    if (c->n_dims != 2 || c->ne[0] != (uint64_t)s->d_model || c->ne[1] < 1 || c->ne[1] > (uint64_t)s->n_vocab ||
        (uint64_t)s->n_vocab % c->ne[1])
        return "the centroids have the wrong shape";
    s->n_centroid = (int)c->ne[1];
    if (s->n_centroid_used == 0) s->n_centroid_used = 32;
    if (s->n_centroid_used > s->n_centroid) return "more centroids are to be used than there are";
    *centroids = c;
    return read_order(d, o, order, pos);
}

/* A dense head is packed as a 4-bit copy, where that is much smaller, and read itself in the file (draft_head.c). */
static td_status bind_dense(td_drafter *d, const td_drafter_options *o, td_error *err) {
    td_net *net = &d->net;
    const td_shape *s = &net->shape;
    const td_gguf_tensor *t = td_gguf_tensor_find(net->gguf, "token_embd.weight");
    td_bind b = {.name = "token_embd.weight", .n_rows = s->n_vocab, .k = s->d_model};
    td_matrix copy = {0};
    int least = o->screen_rows ? o->screen_rows : 32768;
    bool fits = t && least > 0 && s->n_vocab >= least && !o->file.no_pack && s->d_model % 32 == 0;
    if (fits && td_matrix_init(&copy, TD_TYPE_Q4_0, s->n_vocab, s->d_model, 1, err)) return err->code;
    b.file_only = fits && 4 * t->n_bytes > 5 * (uint64_t)td_matrix_file_bytes(&copy);
    td_status st = td_bind_matrix(net, &net->head, &b, err);
    if (st || !b.file_only) return st;
    d->screen = copy;
    td_gguf_prefetch(net->gguf, t);
    return td_pack_add(&net->pack, &d->screen, t, 0, s->n_vocab, err);
}

static td_status bind_head(td_drafter *d, const td_drafter_options *o, td_error *err) {
    td_net *net = &d->net;
    td_shape *s = &net->shape;
    td_head_kind kind = o->head;
    const td_gguf_tensor *c = NULL;
    const int32_t *order = NULL, *pos = NULL;
    const char *why = kind == TD_HEAD_DENSE ? "it was not asked for" : check_ordered(d, &c, &order, &pos);
    if (why && kind == TD_HEAD_ORDERED)
        return td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "the ordered head cannot be used: %s", why);
    if (why) {
        td_log(c ? TD_LOG_WARN : TD_LOG_INFO, "the assistant's ordered head is not used: %s", why);
        s->n_centroid = s->n_centroid_used = 0;
        return bind_dense(d, o, err);
    }
    td_bind a = {.name = c->name, .n_rows = s->n_centroid, .k = s->d_model};
    td_status st = td_bind_matrix(net, &d->centroids, &a, err);
    if (st) return st;
    td_bind b = {.name = "token_embd.weight", .n_rows = s->n_vocab, .k = s->d_model, .row_ids = order, .row_pos = pos};
    d->order = order;
    return td_bind_matrix(net, &net->head, &b, err);
}

/* ---- loading ---- */

static td_status bind_projections(td_drafter *d, td_error *err) {
    td_net *net = &d->net;
    const td_shape *s = &net->shape;
    const td_gguf_tensor *pre = find_suffix(net->gguf, "pre_projection.weight");
    const td_gguf_tensor *post = find_suffix(net->gguf, "post_projection.weight");
    if (!pre || !post)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor mtp.%s_projection.weight is missing",
                       pre ? "post" : "pre");
    td_bind a = {.name = pre->name, .n_rows = s->d_model, .k = 2 * (int64_t)s->d_backbone};
    td_bind b = {.name = post->name, .n_rows = s->d_backbone, .k = s->d_model};
    td_status st = td_bind_matrix(net, &d->pre, &a, err);
    if (!st) st = td_bind_matrix(net, &d->post, &b, err);
    return st;
}

static td_attach_code load(td_drafter *d, const td_drafter_options *o, td_status *st, td_error *err) {
    *st = td_net_open(&d->net, &o->file, true, err);
    if (*st) {
        bool other = d->net.gguf && !td_arch_is_assistant(td_gguf_arch(d->net.gguf));
        return other ? TD_ATTACH_ARCH : TD_ATTACH_FILE;
    }
    const td_net *t = &d->target->net;
    td_attach_code code = check_pair(t->gguf, d->net.gguf, &t->shape, &d->net.shape, err);
    if (code) *st = err ? err->code : TD_ERR_MISMATCH;
    if (!code) *st = bind_projections(d, err);
    if (!*st) *st = bind_head(d, o, err);
    if (!*st) *st = td_pack_run(&d->net.pack, d->net.gguf, &o->file, err);
    if (*st) td_error_prefix(err, "%s", o->file.path);
    return *st && !code ? TD_ATTACH_FILE : code;
}

td_status td_drafter_load(td_drafter **out, const td_drafter_options *o, const td_model *target, td_attach_code *code,
                          td_error *err) {
    td_attach_code ignored;
    td_status st = TD_OK;
    if (!code) code = &ignored;
    *out = NULL;
    *code = TD_ATTACH_NO_MODEL;
    if (!target || !o->file.path || !*o->file.path)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "an assistant's file and a target to attach it to are needed");
    td_drafter *d = td_calloc(1, sizeof *d);
    if (!d) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for an assistant");
    d->target = target;
    *code = load(d, o, &st, err);
    if (st) {
        td_drafter_free(d);
        return st;
    }
    *out = d;
    return TD_OK;
}

void td_drafter_free(td_drafter *d) {
    if (!d) return;
    td_net_close(&d->net);
    free(d);
}

const td_shape *td_drafter_shape(const td_drafter *d) {
    return &d->net.shape;
}

const td_gguf *td_drafter_gguf(const td_drafter *d) {
    return d->net.gguf;
}

bool td_drafter_is_ordered(const td_drafter *d) {
    return d->order != NULL;
}

bool td_drafter_is_screened(const td_drafter *d) {
    return d->screen.n_rows > 0;
}

void td_attach_name(const char *name, bool attached, char *out, size_t n_bytes) {
    bool bare = attached && strncmp(name, "mtp.", 4) != 0;
    snprintf(out, n_bytes, "%s%s", bare ? "mtp." : "", name);
}
