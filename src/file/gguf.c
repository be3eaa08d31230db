/* Opening GGUF files, single and split, and looking up their tensors.
 *
 * A split file's parts are found by the given path's own directory and prefix; nothing inside a file names another
 * file. The first part carries the metadata; the others repeat only the three split.* keys, whose agreement is checked.
 */
#include "gguf.h"

#include "gguf_internal.h"

#include "../base/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static td_gguf *create(int n_parts) {
    td_gguf *g = calloc(1, sizeof *g);
    if (g == NULL) return NULL;
    g->arena = td_arena_create(0);
    g->parts = td_calloc((size_t)n_parts, sizeof *g->parts);
    if (g->arena != NULL && g->parts != NULL) return g;
    td_gguf_close(g);
    return NULL;
}

void td_gguf_close(td_gguf *g) {
    if (g == NULL) return;
    for (int i = 0; i < g->n_parts; i++) td_map_close(&g->parts[i].map);
    free(g->parts);
    td_arena_destroy(g->arena);
    free(g);
}

static td_status set_arch(td_gguf *g, td_error *err) {
    td_slice s;
    td_status status = td_gguf_get_str(g, "general.architecture", &s, err);
    if (status != TD_OK) return status;
    bool ok = s.n_bytes <= GGUF_MAX_ARCH;
    for (size_t i = 0; ok && i < s.n_bytes; i++) ok = s.data[i] > 0x20 && s.data[i] <= 0x7e;
    if (!ok) return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key 'general.architecture' is not a short plain name");
    if (s.n_bytes != 0) memcpy(g->arch, s.data, s.n_bytes);
    return TD_OK;
}

/* One list of all parts' tensors, and the sorted names for lookup. */
static td_status join_tensors(td_gguf *g, td_error *err) {
    size_t n = 0;
    for (int i = 0; i < g->n_parts; i++) n += g->parts[i].n_tensors;
    g->tensors = td_arena_alloc(g->arena, n, sizeof *g->tensors);
    g->sorted = td_arena_alloc(g->arena, n, sizeof *g->sorted);
    if (g->tensors == NULL || g->sorted == NULL)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory for %zu tensors", n);
    for (int i = 0; i < g->n_parts; i++)
        for (size_t j = 0; j < g->parts[i].n_tensors; j++) {
            g->tensors[g->n_tensors] = g->parts[i].tensors[j];
            g->sorted[g->n_tensors] = (gguf_name){g->tensors[g->n_tensors].name, g->n_tensors};
            g->n_tensors++;
        }
    return gguf_sort_names(g->sorted, g->n_tensors, "tensor", err);
}

/* ---- split files ---- */

static td_status split_key(const gguf_keys *keys, const char *key, int64_t def, int64_t *out, td_error *err) {
    const td_gguf_value *v = gguf_find_key(keys, key);
    *out = def;
    if (v != NULL && (v->kind == TD_GGUF_BOOL || !gguf_value_i64(v, out)))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%s' is of type %s, expected an integer", key,
                       td_gguf_kind_name(v->kind));
    return TD_OK;
}

/* Length of the prefix before "-00001-of-NNNNN.gguf", or 0 when the name does not end like that. */
static size_t split_prefix(const char *path, int count) {
    char suffix[64];
    int n_suffix = snprintf(suffix, sizeof suffix, "-00001-of-%05d.gguf", count);
    size_t n = strlen(path);
    if (n_suffix <= 0 || n <= (size_t)n_suffix) return 0;
    return strcmp(path + n - (size_t)n_suffix, suffix) == 0 ? n - (size_t)n_suffix : 0;
}

/* What part `i` says about the split must be what the first part says. */
static td_status check_part(const gguf_part *part, int i, int64_t count, int64_t n_tensors, td_error *err) {
    int64_t no = 0, its_count = 0, its_tensors = 0;
    td_status status = split_key(&part->keys, "split.no", -1, &no, err);
    if (status == TD_OK) status = split_key(&part->keys, "split.count", -1, &its_count, err);
    if (status == TD_OK) status = split_key(&part->keys, "split.tensors.count", n_tensors, &its_tensors, err);
    if (status != TD_OK) return status;
    if (no != i) return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key 'split.no' is %" PRId64 ", expected %d", no, i);
    if (its_count != count || its_tensors != n_tensors)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                       "says it is one of %" PRId64 " parts with %" PRId64 " tensors, the first part says %" PRId64
                       " parts with %" PRId64,
                       its_count, its_tensors, count, n_tensors);
    return TD_OK;
}

static td_status open_part(td_gguf *g, int i, const char *path, td_error *err) {
    gguf_part *part = &g->parts[i];
    td_status status = td_map_open(&part->map, path, err);
    if (status != TD_OK) return status;
    g->n_parts = i + 1;
    part->data = part->map.data;
    part->n_bytes = part->map.n_bytes;
    status = gguf_parse(g->arena, part, i, err);
    if (status != TD_OK) td_error_prefix(err, "%s", path);
    return status;
}

static td_status open_siblings(td_gguf *g, const char *path, int count, int64_t n_tensors, td_error *err) {
    size_t n_prefix = split_prefix(path, count), n_name = n_prefix + 32;
    if (n_prefix == 0)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                       "%s: is the first of %d parts, so its name must end in -00001-of-%05d.gguf", path, count, count);
    gguf_part *grown = td_reallocarray(g->parts, (size_t)count, sizeof *grown);
    char *name = malloc(n_name);
    td_status status = TD_OK;
    if (grown != NULL) g->parts = grown;
    if (grown == NULL || name == NULL) {
        free(name);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    }
    for (int i = 1; i < count && status == TD_OK; i++) {
        g->parts[i] = (gguf_part){0};
        snprintf(name, n_name, "%.*s-%05d-of-%05d.gguf", (int)n_prefix, path, i + 1, count);
        status = open_part(g, i, name, err);
        if (status != TD_OK) break;
        status = check_part(&g->parts[i], i, count, n_tensors, err);
        if (status != TD_OK) td_error_prefix(err, "%s", name);
    }
    free(name);
    return status;
}

/* Opens the other parts when the first one says that there are some. */
static td_status open_split(td_gguf *g, const char *path, td_error *err) {
    int64_t count = 0, no = 0, n_tensors = -1;
    const gguf_keys *keys = &g->parts[0].keys;
    td_error inner = {0};
    td_status status = split_key(keys, "split.count", 0, &count, &inner);
    if (status == TD_OK) status = split_key(keys, "split.no", 0, &no, &inner);
    if (status == TD_OK) status = split_key(keys, "split.tensors.count", -1, &n_tensors, &inner);
    if (status == TD_OK && (count < 0 || count > GGUF_MAX_PARTS))
        status = td_fail(&inner, TD_ERR_FORMAT, TD_NO_OFFSET, "key 'split.count' is %" PRId64 ", expected 0 to %d",
                         count, GGUF_MAX_PARTS);
    if (status == TD_OK && count > 1 && no != 0)
        status = td_fail(&inner, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                         "is part %" PRId64 " of %" PRId64 "; give the first part (…-00001-of-%05" PRId64 ".gguf)",
                         no + 1, count, count);
    if (status == TD_OK && count > 1 && path == NULL)
        status = td_fail(&inner, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "one part of a split file; parts need names");
    if (status != TD_OK) {
        if (path != NULL) td_error_prefix(&inner, "%s", path);
        return td_fail(err, status, inner.offset, "%s", inner.text);
    }
    if (count <= 1) return TD_OK;
    status = open_siblings(g, path, (int)count, n_tensors, err);
    size_t n = 0;
    for (int i = 0; i < g->n_parts; i++) n += g->parts[i].n_tensors;
    if (status == TD_OK && n_tensors >= 0 && (uint64_t)n_tensors != n)
        status = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                         "%s: key 'split.tensors.count' is %" PRId64 ", the parts hold %zu", path, n_tensors, n);
    return status;
}

/* ---- opening ---- */

static td_status finish(td_gguf **out, td_gguf *g, td_status status, const char *path, td_error *err) {
    if (status == TD_OK) status = open_split(g, path, err);
    if (status == TD_OK) {
        td_error inner = {0};
        status = set_arch(g, &inner);
        if (status == TD_OK) status = join_tensors(g, &inner);
        if (status != TD_OK) {
            if (path != NULL) td_error_prefix(&inner, "%s", path);
            td_fail(err, status, inner.offset, "%s", inner.text);
        }
    }
    if (status != TD_OK) {
        td_gguf_close(g);
        return status;
    }
    *out = g;
    return TD_OK;
}

td_status td_gguf_open(td_gguf **out, const char *path, td_error *err) {
    *out = NULL;
    td_gguf *g = create(1);
    if (g == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    return finish(out, g, open_part(g, 0, path, err), path, err);
}

td_status td_gguf_open_memory(td_gguf **out, const void *data, size_t n_bytes, td_error *err) {
    *out = NULL;
    td_gguf *g = create(1);
    if (g == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    g->n_parts = 1;
    g->parts[0].data = data;
    g->parts[0].n_bytes = n_bytes;
    return finish(out, g, gguf_parse(g->arena, &g->parts[0], 0, err), NULL, err);
}

/* ---- questions ---- */

const char *td_gguf_path(const td_gguf *g) {
    return td_gguf_file_path(g, 0);
}

const char *td_gguf_file_path(const td_gguf *g, int i) {
    return i < g->n_parts && g->parts[i].map.path != NULL ? g->parts[i].map.path : "memory";
}

const char *td_gguf_arch(const td_gguf *g) {
    return g->arch;
}

int td_gguf_version(const td_gguf *g) {
    return g->parts[0].version;
}

int td_gguf_n_files(const td_gguf *g) {
    return g->n_parts;
}

uint64_t td_gguf_file_bytes(const td_gguf *g) {
    uint64_t n = 0;
    for (int i = 0; i < g->n_parts; i++) n += g->parts[i].n_bytes;
    return n;
}

size_t td_gguf_n_keys(const td_gguf *g) {
    return g->parts[0].keys.n;
}

const td_gguf_value *td_gguf_key_at(const td_gguf *g, size_t i) {
    return i < g->parts[0].keys.n ? &g->parts[0].keys.values[i] : NULL;
}

size_t td_gguf_n_tensors(const td_gguf *g) {
    return g->n_tensors;
}

const td_gguf_tensor *td_gguf_tensor_at(const td_gguf *g, size_t i) {
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const td_gguf_tensor *td_gguf_tensor_find(const td_gguf *g, const char *name) {
    size_t i = gguf_find_name(g->sorted, g->n_tensors, name);
    return i != SIZE_MAX ? &g->tensors[i] : NULL;
}

void td_gguf_release(const td_gguf *g, const td_gguf_tensor *t) {
    td_map_release(&g->parts[t->file].map, (size_t)t->offset, t->n_bytes);
}

void td_gguf_prefetch(const td_gguf *g, const td_gguf_tensor *t) {
    td_map_prefetch(&g->parts[t->file].map, (size_t)t->offset, t->n_bytes);
}
