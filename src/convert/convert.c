/* The conversion: configuration, tokenizer, list of tensors, then one stream through the checkpoint.
 *
 * Everything is opened and checked before the output is begun, so that a missing shard or a wrong shape costs seconds.
 * While data flows, source pages are given back as soon as their rows have been made. */
#include "convert.h"

#include "../base/checked.h"
#include "../base/half.h"
#include "../base/map.h"
#include "hf_keys.h"
#include "hf_plan.h"
#include "rows.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job { /* one tensor on its way */
    const td_hf_tensor *t;
    const td_safetensors *s;
    const td_type_info *from, *to;
    uint64_t k;                  /* row length */
    size_t from_row;             /* bytes */
    uint64_t released;           /* rows */
    atomic_int_fast64_t bad_row; /* first row that does not fit the type, -1 */
} job;

static const td_type_info *type_of_dtype(td_st_dtype d) {
    switch (d) {
    case TD_ST_F32:
        return td_type_of(TD_TYPE_F32);
    case TD_ST_F16:
        return td_type_of(TD_TYPE_F16);
    case TD_ST_BF16:
        return td_type_of(TD_TYPE_BF16);
    default:
        return NULL;
    }
}

enum { PART = 8192 }; /* values decoded at a time; a multiple of every block */

static bool convert_rows(void *arg, uint64_t r0, uint64_t r1, uint8_t *dst) {
    job *j = arg;
    const uint8_t *src = (const uint8_t *)j->t->st->data + r0 * j->from_row;
    if (j->from == j->to) {
        memcpy(dst, src, (size_t)(r1 - r0) * j->from_row);
        return true;
    }
    float x[PART];
    for (uint64_t r = r0; r < r1; r++) {
        for (uint64_t i = 0; i < j->k; i += PART) {
            uint64_t n = j->k - i < PART ? j->k - i : PART;
            j->from->decode(src, x, (int64_t)n);
            if (!td_rows_fit(x, n, j->to->id)) {
                atomic_store(&j->bad_row, (int64_t)r);
                return false;
            }
            j->to->encode(x, dst, (int64_t)n, 1, NULL);
            src += n * j->from->bytes;
            dst += n / j->to->block * j->to->bytes;
        }
    }
    return true;
}

static void release_rows(void *arg, uint64_t r1) {
    job *j = arg;
    td_st_tensor part = *j->t->st;
    uint64_t begin = j->released * j->from_row, end = r1 * j->from_row;
    part.data = (const uint8_t *)part.data + begin;
    part.offset += begin;
    part.n_bytes = (size_t)(end - begin);
    td_safetensors_release(j->s, &part);
    j->released = r1;
}

static uint64_t load_id(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* The ordering: every id once, as I32. */
static td_status write_order(td_gguf_writer *w, const td_hf_tensor *t, td_error *err) {
    uint64_t n = t->ne[0];
    size_t size = td_st_dtype_bytes(t->st->dtype);
    uint8_t *seen = td_calloc(n, 1);
    int32_t *ids = td_calloc(n, sizeof *ids);
    td_status status = TD_OK;
    if (!seen || !ids) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the ordering");
    for (uint64_t i = 0; i < n && status == TD_OK; i++) {
        uint64_t id = load_id((const uint8_t *)t->st->data + i * size, size);
        if (id >= n || seen[id]) {
            status = td_fail(err, TD_ERR_FORMAT, t->st->offset + i * size,
                             "tensor '%.100s' is not a permutation of the vocabulary: entry %llu", t->st->name,
                             (unsigned long long)i);
            break;
        }
        seen[id] = 1;
        ids[i] = (int32_t)id;
    }
    if (status == TD_OK) status = td_gguf_put_data(w, ids, (size_t)n * sizeof *ids, err);
    free(seen);
    free(ids);
    return status;
}

static td_status write_freqs(td_gguf_writer *w, const td_hf_config *c, td_error *err) {
    uint32_t n = c->d_head_full / 2, turn = (uint32_t)((float)c->d_head_full * c->partial / 2);
    td_status status = TD_OK;
    for (uint32_t i = 0; i < n && status == TD_OK; i++) {
        float v = i < turn ? 1.0f : 1e30f;
        status = td_gguf_put_data(w, &v, sizeof v, err);
    }
    return status;
}

static td_status write_tensor(td_rows *rows, const td_safetensors *s, const td_hf_tensor *t, const td_type_info *to,
                              td_error *err) {
    job j = {.t = t, .s = s, .from = type_of_dtype(t->st->dtype), .to = to, .k = t->ne[0], .bad_row = -1};
    uint64_t to_row = 0;
    td_type_row_bytes(to, j.k, &to_row);
    j.from_row = (size_t)j.k * j.from->bytes;
    td_status status = td_rows_write(rows, t->ne[1] * t->ne[2], (size_t)to_row, convert_rows, &j, release_rows, err);
    if (atomic_load(&j.bad_row) >= 0) {
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "tensor '%.100s' row %lld holds a value that %s cannot hold; try --type bf16 or f32",
                       t->st->name, (long long)atomic_load(&j.bad_row), to->name);
    }
    return status;
}

/* ---- the file ---- */

typedef struct conversion {
    const td_convert_options *o;
    td_hf_config config;
    td_hf_tokenizer *tokenizer;
    td_safetensors *s;
    td_hf_plan plan;
    const td_ftype *ftype;
} conversion;

/* `auto`: what the embedding is stored as. */
static const td_ftype *own_type(const td_hf_plan *p) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->tensors[i].kind == TD_HF_MATRIX) return td_ftype_by_name(type_of_dtype(p->tensors[i].st->dtype)->name);
    }
    return td_ftype_by_name("bf16");
}

static const td_type_info *target_type(const conversion *c, const td_hf_tensor *t) {
    const td_type_info *want = td_type_of(c->ftype->type);
    switch (t->kind) {
    case TD_HF_F32:
    case TD_HF_FREQS:
        return td_type_of(TD_TYPE_F32);
    case TD_HF_ORDER:
        return td_type_of(TD_TYPE_I32);
    case TD_HF_KEEP:
        return want->is_quantised ? type_of_dtype(t->st->dtype) : want;
    case TD_HF_MATRIX:
        break;
    }
    td_type type = want->id;
    bool fell_back = false;
    if (td_mix_fallback(type, t->ne[0], t->name, &type, &fell_back, NULL) == TD_OK) return td_type_of(type);
    return td_type_of(TD_TYPE_F16); /* q8_0 and a row that 32 does not divide */
}

static td_status open_all(conversion *c, td_error *err) {
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", c->o->dir) >= sizeof path) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the path %.80s… is too long", c->o->dir);
    }
    td_status status = td_hf_config_read(&c->config, path, err);
    if (status == TD_OK) status = td_safetensors_open(&c->s, c->o->dir, err);
    if (status == TD_OK) status = td_hf_tokenizer_open(&c->tokenizer, c->o->dir, c->o->tokenizer, err);
    if (status == TD_OK) {
        status =
            td_hf_plan_make(&c->plan, &c->config, c->s, td_hf_tokenizer_size(c->tokenizer), c->o->old_dialect, err);
    }
    if (status == TD_OK) c->ftype = c->o->ftype ? c->o->ftype : own_type(&c->plan);
    return status;
}

/* The output may be an earlier result, never a file of the checkpoint, by whatever name. */
static td_status refuse_own_input(const conversion *c, const char *out, td_error *err) {
    static const char *const others[] = {"config.json", "tokenizer.json", "model.safetensors.index.json"};
    char path[4096];
    const char *clash = NULL, *shard;
    for (size_t i = 0; i < sizeof others / sizeof others[0] && !clash; i++) {
        snprintf(path, sizeof path, "%s/%s", c->o->dir, others[i]);
        if (td_same_file(out, path)) clash = path;
    }
    for (int i = 0; !clash && (shard = td_safetensors_path(c->s, i)); i++) {
        if (td_same_file(out, shard)) clash = shard;
    }
    if (!clash) return TD_OK;
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                   "%s is part of the checkpoint, %s: the output must be another file", out, clash);
}

static const char *base_name(const char *path, char *out, size_t n) {
    char full[4096];
    snprintf(full, sizeof full, "%s", path);
    size_t len = strlen(full);
    while (len > 1 && full[len - 1] == '/') full[--len] = 0;
    const char *slash = strrchr(full, '/');
    snprintf(out, n, "%s", slash ? slash + 1 : full);
    return out;
}

static td_status write_all(conversion *c, td_gguf_writer *w, const char *arch, const char *out, td_error *err) {
    char name[256], label[256];
    td_status status =
        td_hf_put_model_keys(w, &c->config, arch, c->o->name ? c->o->name : base_name(c->o->dir, name, sizeof name),
                             c->ftype->id, c->o->old_dialect, err);
    if (status == TD_OK) status = td_hf_put_tokenizer(w, c->tokenizer, &c->config, err);
    for (size_t i = 0; i < c->plan.n && status == TD_OK; i++) {
        const td_hf_tensor *t = &c->plan.tensors[i];
        status = td_gguf_put_tensor(w, t->name, target_type(c, t)->id, t->n_dims, t->ne, err);
    }
    if (status == TD_OK) status = td_rows_check_room(out, td_gguf_writer_data_bytes(w), err);
    td_rows rows = {.pool = c->o->pool,
                    .writer = w,
                    .progress = c->o->progress,
                    .progress_user = c->o->progress_user,
                    .what = base_name(out, label, sizeof label)};
    for (size_t i = 0; i < c->plan.n && status == TD_OK; i++) {
        const td_hf_tensor *t = &c->plan.tensors[i];
        if (t->kind == TD_HF_ORDER) {
            status = write_order(w, t, err);
        } else if (t->kind == TD_HF_FREQS) {
            status = write_freqs(w, &c->config, err);
        } else {
            status = write_tensor(&rows, c->s, t, target_type(c, t), err);
        }
    }
    td_rows_free(&rows);
    return status;
}

td_status td_convert(const td_convert_options *o, const char *out, td_convert_report *report, td_error *err) {
    conversion *c = td_calloc(1, sizeof *c);
    if (!c) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the conversion");
    c->o = o;
    td_gguf_writer *w = NULL;
    td_status status = open_all(c, err);
    const char *arch = !c->config.assistant ? "gemma4" : o->old_dialect ? "gemma4_assistant" : "gemma4-assistant";
    if (status == TD_OK && o->old_dialect && !c->config.assistant) {
        status =
            td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s is a target; only assistants have an older layout", o->dir);
    }
    if (status == TD_OK) status = refuse_own_input(c, out, err);
    if (status == TD_OK) status = td_gguf_writer_open(&w, out, err);
    if (status == TD_OK) status = write_all(c, w, arch, out, err);
    if (status == TD_OK) {
        uint64_t n_used = 0;
        for (size_t i = 0; i < c->plan.n; i++) n_used += c->plan.tensors[i].st != NULL;
        *report = (td_convert_report){.arch = arch,
                                      .type = c->ftype->name,
                                      .n_tensors = c->plan.n,
                                      .n_bytes = td_gguf_writer_data_bytes(w),
                                      .n_skipped = td_safetensors_count(c->s) - n_used};
        status = td_gguf_writer_commit(w, err);
    } else if (w) {
        td_gguf_writer_discard(w);
    }
    td_hf_plan_free(&c->plan);
    td_hf_tokenizer_close(c->tokenizer);
    td_safetensors_close(c->s);
    free(c);
    return status;
}
