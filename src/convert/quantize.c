/* See quantize.h; order of work, rules and exceptions are those of spec quant-formats.md 3.1 to 3.4.
 *
 * Two deliberate differences from llama-quantize: tensors of integers are never touched, by rule rather than by luck,
 * and the centroids of an assistant's ordered head keep eight bits, because they are small and decide which tokens the
 * head can draft at all. */
#include "quantize.h"

#include "../base/checked.h"
#include "../base/map.h"
#include "../file/gguf_write.h"
#include "rows.h"

#include <ctype.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct item {
    const td_gguf_tensor *t;
    const td_type_info *to;
    const float *imatrix; /* [ne2][ne0] or NULL */
    uint64_t bytes;       /* of the result */
} item;

typedef struct work {
    const td_quantize_options *o;
    td_gguf *g;
    item *items;
    size_t n;
    regex_t *compiled;
    int n_compiled;
    td_mix mix;
    td_quantize_report *report;
    td_error *err;
} work;

/* ---- which type ---- */

/* Rules use the regular expressions of C++: of those, \d is the one that POSIX lacks. */
static td_status compile_rules(work *w) {
    const td_quantize_options *o = w->o;
    w->compiled = td_calloc((size_t)o->n_rules + 1, sizeof *w->compiled);
    if (!w->compiled) return td_fail(w->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the rules");
    for (int i = 0; i < o->n_rules; i++) {
        char text[1024];
        size_t n = 0;
        for (const char *p = o->rules[i].pattern; *p && n + 6 < sizeof text; p++) {
            if (p[0] == '\\' && p[1] == 'd') {
                memcpy(text + n, "[0-9]", 5);
                n += 5;
                p++;
            } else {
                bool escaped = p > o->rules[i].pattern && p[-1] == '\\';
                text[n++] = escaped ? *p : (char)tolower((unsigned char)*p);
            }
        }
        text[n] = 0;
        int code = regcomp(&w->compiled[i], text, REG_EXTENDED | REG_NOSUB);
        if (code != 0) {
            char why[128];
            regerror(code, &w->compiled[i], why, sizeof why);
            return td_fail(w->err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--tensor-type '%.200s': %s", o->rules[i].pattern,
                           why);
        }
        w->n_compiled++;
    }
    return TD_OK;
}

static const td_type_info *by_rule(const work *w, const char *name) {
    for (int i = 0; i < w->n_compiled; i++) {
        if (regexec(&w->compiled[i], name, 0, NULL, 0) == 0) return w->o->rules[i].type;
    }
    return NULL;
}

static bool is_centroids(const char *name) {
    return strstr(name, "centroids.weight") != NULL;
}

static td_status choose(work *w, const td_gguf_tensor *t, const td_type_info **to) {
    const td_quantize_options *o = w->o;
    const td_type_info *own = td_type_of(o->ftype->type);
    *to = t->type;
    bool output = strcmp(t->name, "output.weight") == 0;
    if (t->type->is_integer || td_mix_keeps(t->name, t->n_dims) || (output && o->leave_output)) return TD_OK;
    td_type type = own->id;
    const td_type_info *rule = by_rule(w, t->name);
    if (o->embedding_type && td_mix_is_embedding(t->name)) {
        type = o->embedding_type->id;
    } else if (o->output_type && output) {
        type = o->output_type->id;
    } else if (own->is_quantised && rule) {
        type = rule->id;
    } else if (own->is_quantised && is_centroids(t->name)) {
        type = TD_TYPE_Q8_0;
    } else if (own->is_quantised && !o->pure) {
        type = td_mix_rule(&w->mix, t->name, t->ne[0]);
    }
    bool fell_back = false;
    td_status status = td_mix_fallback(type, t->ne[0], t->name, &type, &fell_back, w->err);
    w->report->n_fell_back += fell_back;
    *to = td_type_of(type);
    if (status != TD_OK || *to == t->type) return status;
    if (!t->type->decode) {
        return td_fail(w->err, TD_ERR_UNSUPPORTED, t->offset, "%s: there is no decoder for %s", t->name, t->type->name);
    }
    if (t->type->is_quantised && !o->allow_requantize) {
        return td_fail(w->err, TD_ERR_ARGUMENT, t->offset,
                       "%s is %s already: quantising twice loses quality; use the original file, or --allow-requantize",
                       t->name, t->type->name);
    }
    return TD_OK;
}

static bool listed(const char *const *list, const char *name) {
    for (; *list; list++) {
        if (strstr(name, *list)) return true;
    }
    return false;
}

/* Two bits without minima of their own, as Q2_K_S spreads them everywhere, are of no use unguided. */
static bool needs_importance(const work *w, const item *it) {
    return w->o->ftype == td_ftype_by_name("q2_K_S") && it->to->id == TD_TYPE_Q2_K && it->to != it->t->type &&
           !td_mix_is_embedding(it->t->name) && strcmp(it->t->name, "output.weight") != 0;
}

static bool wants_importance(const work *w, const item *it) {
    const td_quantize_options *o = w->o;
    const char *name = it->t->name;
    return o->imatrix && it->to->uses_imatrix && it->to != it->t->type && (!o->include || listed(o->include, name)) &&
           (!o->exclude || !listed(o->exclude, name));
}

static td_status find_importance(work *w, item *it) {
    const td_gguf_tensor *t = it->t;
    bool wanted = wants_importance(w, it);
    td_imatrix_row row = wanted ? td_imatrix_find(w->o->imatrix, t->name) : (td_imatrix_row){0};
    if (wanted && !row.values) w->report->n_without_importance++;
    if (row.values && row.n == t->ne[0] * t->ne[2])
        it->imatrix = row.values;
    else if (row.values && !td_mix_is_embedding(t->name))
        return td_fail(w->err, TD_ERR_MISMATCH, TD_NO_OFFSET,
                       "the importance matrix has %llu values for %s, which needs %llu", (unsigned long long)row.n,
                       t->name, (unsigned long long)t->ne[0] * t->ne[2]);
    if (it->imatrix || !needs_importance(w, it)) return TD_OK;
    return td_fail(w->err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: q2_K_S needs its importance: --imatrix FILE", t->name);
}

/* ---- the list ---- */

static int by_layer_and_name(const void *a, const void *b) {
    const char *x = ((const item *)a)->t->name, *y = ((const item *)b)->t->name;
    int lx = td_mix_layer(x), ly = td_mix_layer(y);
    return lx != ly ? (lx > ly) - (lx < ly) : strcmp(x, y);
}

static int by_file_and_offset(const void *a, const void *b) {
    const td_gguf_tensor *x = ((const item *)a)->t, *y = ((const item *)b)->t;
    return x->file != y->file ? (x->file > y->file) - (x->file < y->file)
                              : (x->offset > y->offset) - (x->offset < y->offset);
}

static td_status init_mix(work *w) {
    const td_quantize_options *o = w->o;
    uint32_t n_layer = 0, n_expert = 0, heads[1] = {1}, kv[1] = {1};
    td_status status = td_gguf_get_u32(w->g, ".block_count", 0, &n_layer, w->err);
    if (status == TD_OK) status = td_gguf_get_u32(w->g, ".expert_count", 0, &n_expert, w->err);
    if (status == TD_OK) status = td_gguf_get_u32_each(w->g, ".attention.head_count", 1, heads, 1, w->err);
    if (status == TD_OK) status = td_gguf_get_u32_each(w->g, ".attention.head_count_kv", heads[0], kv, 1, w->err);
    w->mix = (td_mix){.ftype = o->ftype,
                      .n_layer = (int)n_layer,
                      .n_expert = (int)n_expert,
                      .tied = true,
                      .n_gqa = (int)(kv[0] ? heads[0] / kv[0] : 1),
                      .have_imatrix = o->imatrix != NULL,
                      .output_type = o->output_type};
    for (size_t i = 0; i < w->n; i++) {
        const char *name = w->items[i].t->name;
        if (strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight") || strstr(name, "attn_kv_b.weight"))
            w->mix.n_v++;
        if (strcmp(name, "output.weight") == 0) w->mix.tied = false;
    }
    return status;
}

static td_status plan(work *w) {
    w->n = td_gguf_n_tensors(w->g);
    w->items = td_calloc(w->n + 1, sizeof *w->items);
    if (!w->items) return td_fail(w->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the list of tensors");
    for (size_t i = 0; i < w->n; i++) w->items[i].t = td_gguf_tensor_at(w->g, i);
    qsort(w->items, w->n, sizeof *w->items, w->o->keep_split ? by_file_and_offset : by_layer_and_name);
    td_status status = init_mix(w);
    if (status == TD_OK) status = compile_rules(w);
    for (size_t i = 0; i < w->n && status == TD_OK; i++) {
        item *it = &w->items[i];
        uint64_t row = 0;
        status = choose(w, it->t, &it->to);
        if (status == TD_OK) status = find_importance(w, it);
        if (status != TD_OK) break;
        td_type_row_bytes(it->to, it->t->ne[0], &row);
        it->bytes = row * it->t->ne[1] * it->t->ne[2] * it->t->ne[3];
        w->report->n_tensors++;
        w->report->from_bytes += it->t->n_bytes;
        w->report->to_bytes += it->bytes;
        if (w->o->each) w->o->each(w->o->each_user, it->t->name, it->t->type, it->to, it->t->n_bytes, it->bytes);
    }
    return status;
}

/* ---- rows ---- */

typedef struct job {
    const work *w;
    const item *it;
    uint64_t k, from_row, to_row, n_rows, released;
    atomic_int_fast64_t bad_row; /* -1; -2: no memory */
} job;

/* Rows of one slice at a time, because each expert has its own importance row. */
static bool encode_rows(void *arg, uint64_t r0, uint64_t r1, uint8_t *dst) {
    job *j = arg;
    const td_gguf_tensor *t = j->it->t;
    const uint8_t *src = (const uint8_t *)t->data + r0 * j->from_row;
    if (j->it->to == t->type) {
        memcpy(dst, src, (size_t)((r1 - r0) * j->from_row));
        return true;
    }
    float *x = malloc((size_t)j->k * sizeof *x);
    int64_t bad = x ? -1 : -2;
    for (uint64_t r = r0; r < r1 && bad == -1; r++) {
        const float *imatrix = j->it->imatrix ? j->it->imatrix + r / t->ne[1] * j->k : NULL;
        const float *row = x;
        if (t->type->id == TD_TYPE_F32 && (uintptr_t)src % sizeof(float) == 0) {
            row = (const float *)(const void *)src; /* as it lies in the file */
        } else {
            t->type->decode(src, x, (int64_t)j->k);
        }
        if (!td_rows_fit(row, j->k, j->it->to->id)) bad = (int64_t)r;
        if (bad == -1) j->it->to->encode(row, dst, (int64_t)j->k, 1, imatrix);
        src += j->from_row;
        dst += j->to_row;
    }
    free(x);
    if (bad != -1) atomic_store(&j->bad_row, bad);
    return bad == -1;
}

static void release_rows(void *arg, uint64_t r1) {
    job *j = arg;
    td_gguf_tensor part = *j->it->t;
    uint64_t begin = j->released * j->from_row, end = r1 * j->from_row;
    part.data = (const uint8_t *)part.data + begin;
    part.offset += begin;
    part.n_bytes = (size_t)(end - begin);
    td_gguf_release(j->w->g, &part);
    j->released = r1;
}

static td_status write_item(work *w, td_rows *rows, const item *it) {
    const td_gguf_tensor *t = it->t;
    job j = {.w = w, .it = it, .k = t->ne[0], .n_rows = t->ne[1] * t->ne[2] * t->ne[3], .bad_row = -1};
    td_type_row_bytes(t->type, j.k, &j.from_row);
    td_type_row_bytes(it->to, j.k, &j.to_row);
    td_status status = td_rows_write(rows, j.n_rows, (size_t)j.to_row, encode_rows, &j, release_rows, w->err);
    int64_t bad = atomic_load(&j.bad_row);
    if (bad == -2) return td_fail(w->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a row of %s", t->name);
    if (bad >= 0) {
        return td_fail(w->err, TD_ERR_FORMAT, t->offset,
                       "%s: row %lld holds a value that %s cannot hold (not a number, infinite or too large)", t->name,
                       (long long)bad, it->to->name);
    }
    return status;
}

/* ---- metadata ---- */

static bool is_rewritten(const char *key) {
    static const char *const keys[] = {"general.file_type", "general.quantization_version",
                                       "general.alignment", "split.no",
                                       "split.count",       "split.tensors.count"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i]) == 0) return true;
    }
    return strncmp(key, "quantize.imatrix.", 17) == 0;
}

static td_status put_keys(const work *w, td_gguf_writer *out) {
    const td_quantize_options *o = w->o;
    td_status status = TD_OK;
    for (size_t i = 0; i < td_gguf_n_keys(w->g) && status == TD_OK; i++) {
        const td_gguf_value *v = td_gguf_key_at(w->g, i);
        if (!is_rewritten(v->key)) status = td_gguf_put_value(out, NULL, v, w->err);
    }
    if (status == TD_OK) status = td_gguf_put_u32(out, "general.quantization_version", 2, w->err);
    if (status == TD_OK) status = td_gguf_put_u32(out, "general.file_type", o->ftype->id, w->err);
    if (status != TD_OK || !o->imatrix) return status;
    status = td_gguf_put_str(out, "quantize.imatrix.file", o->imatrix_path ? o->imatrix_path : "", w->err);
    const char *dataset = td_imatrix_dataset(o->imatrix);
    if (status == TD_OK && *dataset) status = td_gguf_put_str(out, "quantize.imatrix.dataset", dataset, w->err);
    uint32_t n = (uint32_t)td_imatrix_count(o->imatrix), chunks = td_imatrix_chunks(o->imatrix);
    if (status == TD_OK) status = td_gguf_put_u32(out, "quantize.imatrix.entries_count", n, w->err);
    if (status == TD_OK && chunks) status = td_gguf_put_u32(out, "quantize.imatrix.chunks_count", chunks, w->err);
    return status;
}

static td_status put_split_keys(const work *w, td_gguf_writer *out, int i, int n) {
    td_status status = td_gguf_put_u16(out, "split.no", (uint16_t)i, w->err);
    if (status == TD_OK) status = td_gguf_put_u16(out, "split.count", (uint16_t)n, w->err);
    return status == TD_OK ? td_gguf_put_i32(out, "split.tensors.count", (int32_t)w->n, w->err) : status;
}

/* ---- files ---- */

static td_status part_name(char *path, size_t n, const char *out, int i, int n_parts, td_error *err) {
    size_t len = strlen(out), base = len > 5 && strcmp(out + len - 5, ".gguf") == 0 ? len - 5 : len;
    int k = n_parts == 1 ? snprintf(path, n, "%s", out)
                         : snprintf(path, n, "%.*s-%05d-of-%05d.gguf", (int)base, out, i + 1, n_parts);
    if (k > 0 && (size_t)k < n) return TD_OK;
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the path %.80s… is too long", out);
}

/* An output may be an earlier result, never the input, by whatever name. */
static td_status refuse_own_input(const work *w, const char *out, int n_parts) {
    char path[4096];
    for (int i = 0; i < n_parts; i++) {
        td_status status = part_name(path, sizeof path, out, i, n_parts, w->err);
        if (status != TD_OK) return status;
        for (int k = 0; k < td_gguf_n_files(w->g); k++) {
            if (!td_same_file(path, td_gguf_file_path(w->g, k))) continue;
            return td_fail(w->err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "%s is the input, %s: the output must be another file", path, td_gguf_file_path(w->g, k));
        }
    }
    return TD_OK;
}

/* Declares and fills part i; `writer` stays open, to be committed when all parts are there. */
static td_status write_part(work *w, const char *out, int i, int n_parts, td_gguf_writer **writer, uint64_t *done) {
    char path[4096];
    td_status status = part_name(path, sizeof path, out, i, n_parts, w->err);
    if (status == TD_OK) status = td_gguf_writer_open(writer, path, w->err);
    if (status != TD_OK) return status;
    if (i == 0) status = put_keys(w, *writer);
    if (status == TD_OK && n_parts > 1) status = put_split_keys(w, *writer, i, n_parts);
    for (size_t k = 0; k < w->n && status == TD_OK; k++) {
        const item *it = &w->items[k];
        if (n_parts > 1 && it->t->file != i) continue;
        status = td_gguf_put_tensor(*writer, it->t->name, it->to->id, it->t->n_dims, it->t->ne, w->err);
    }
    const char *slash = strrchr(path, '/');
    td_rows rows = {.pool = w->o->pool,
                    .writer = *writer,
                    .progress = w->o->progress,
                    .done = *done,
                    .progress_user = w->o->progress_user,
                    .what = slash ? slash + 1 : path,
                    .total = w->report->to_bytes};
    for (size_t k = 0; k < w->n && status == TD_OK; k++) {
        if (n_parts == 1 || w->items[k].t->file == i) status = write_item(w, &rows, &w->items[k]);
    }
    *done = rows.done;
    td_rows_free(&rows);
    return status;
}

static td_status write_files(work *w, const char *out) {
    int n = w->o->keep_split ? td_gguf_n_files(w->g) : 1;
    td_gguf_writer **writers = td_calloc((size_t)n, sizeof(td_gguf_writer *));
    if (!writers) return td_fail(w->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %d parts", n);
    uint64_t done = 0;
    td_status status = refuse_own_input(w, out, n);
    if (status == TD_OK) status = td_rows_check_room(out, w->report->to_bytes, w->err);
    for (int i = 0; i < n && status == TD_OK; i++) status = write_part(w, out, i, n, &writers[i], &done);
    for (int i = n - 1; i >= 0; i--) { /* the first part last: it is what a loader opens */
        if (status == TD_OK) {
            status = td_gguf_writer_commit(writers[i], w->err);
        } else if (writers[i]) {
            td_gguf_writer_discard(writers[i]);
        }
    }
    free(writers);
    w->report->n_files = n;
    return status;
}

td_status td_quantize(const char *in, const char *out, const td_quantize_options *o, td_quantize_report *report,
                      td_error *err) {
    work w = {.o = o, .report = report, .err = err};
    memset(report, 0, sizeof *report);
    td_status status = td_gguf_open(&w.g, in, err);
    if (status != TD_OK) return status;
    status = plan(&w);
    if (status == TD_OK && !o->dry_run) status = write_files(&w, out);
    for (int i = 0; i < w.n_compiled; i++) regfree(&w.compiled[i]);
    free(w.compiled);
    free(w.items);
    td_gguf_close(w.g);
    return status;
}
