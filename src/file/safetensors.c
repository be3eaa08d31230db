/* Reading safetensors files. The header is JSON (jansson, duplicates refused) of a size that is checked first; the
 * byte ranges must cover the rest of the file exactly, without gaps or overlaps, as the format's own library demands.
 */
#include "safetensors.h"

#include "../base/arena.h"
#include "../base/checked.h"
#include "../base/cursor.h"
#include "../base/log.h"
#include "../base/map.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_HEADER = 100000000, MAX_TENSORS = 1000000, MAX_NAME = 4096, MAX_FILES = 10000 };

typedef struct named { /* tensors sorted by name */
    const char *name;
    size_t index;
} named;

struct td_safetensors {
    td_arena *arena;
    td_map *maps;
    int n_maps;
    td_st_tensor *tensors;
    size_t n_tensors;
    named *sorted;
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [TD_ST_UNKNOWN] = {"unknown", 0}, [TD_ST_BOOL] = {"BOOL", 1},       [TD_ST_U8] = {"U8", 1},
    [TD_ST_I8] = {"I8", 1},           [TD_ST_F8_E5M2] = {"F8_E5M2", 1}, [TD_ST_F8_E4M3] = {"F8_E4M3", 1},
    [TD_ST_I16] = {"I16", 2},         [TD_ST_U16] = {"U16", 2},         [TD_ST_F16] = {"F16", 2},
    [TD_ST_BF16] = {"BF16", 2},       [TD_ST_I32] = {"I32", 4},         [TD_ST_U32] = {"U32", 4},
    [TD_ST_F32] = {"F32", 4},         [TD_ST_I64] = {"I64", 8},         [TD_ST_U64] = {"U64", 8},
    [TD_ST_F64] = {"F64", 8},
};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

size_t td_st_dtype_bytes(td_st_dtype d) {
    return (unsigned)d < N_DTYPES ? dtypes[d].bytes : 0;
}

/* ---- one tensor of the header ---- */

static bool whole_number(const json_t *j, uint64_t *out) {
    json_int_t v = json_integer_value(j);
    *out = (uint64_t)v;
    return json_is_integer(j) && v >= 0;
}

static td_status bad_tensor(td_error *err, const char *name, const char *what) {
    return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor '%.80s': %s", name, what);
}

static td_status read_shape(const json_t *shape, td_st_tensor *t, uint64_t *n_values, td_error *err) {
    size_t n = json_array_size(shape);
    if (!json_is_array(shape) || n > TD_ST_DIMS)
        return bad_tensor(err, t->name, "shape is not a list of at most 8 sizes");
    t->n_dims = (int)n;
    *n_values = 1;
    bool empty = false;
    for (size_t i = 0; i < n; i++) {
        if (!whole_number(json_array_get(shape, i), &t->shape[i]))
            return bad_tensor(err, t->name, "shape holds something that is not a whole number");
        if (t->shape[i] == 0)
            empty = true;
        else if (!td_mul_u64(*n_values, t->shape[i], n_values))
            return bad_tensor(err, t->name, "shape is larger than any file");
    }
    if (empty) *n_values = 0;
    return TD_OK;
}

/* dtype, shape, data_offsets: exactly these three. `size` is the length of the data. */
static td_status read_tensor(const json_t *j, td_st_tensor *t, uint64_t size, td_error *err) {
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    const json_t *range = json_object_get(j, "data_offsets");
    uint64_t n_values = 0, n_bytes = 0, begin = 0, end = 0;
    if (!json_is_object(j) || json_object_size(j) != 3 || dtype == NULL)
        return bad_tensor(err, t->name, "expected exactly dtype, shape and data_offsets");
    for (int i = 1; i < N_DTYPES; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) t->dtype = (td_st_dtype)i;
    snprintf(t->dtype_name, sizeof t->dtype_name, "%.15s", dtype);
    td_status status = read_shape(json_object_get(j, "shape"), t, &n_values, err);
    if (status != TD_OK) return status;
    if (!json_is_array(range) || json_array_size(range) != 2 || !whole_number(json_array_get(range, 0), &begin) ||
        !whole_number(json_array_get(range, 1), &end))
        return bad_tensor(err, t->name, "data_offsets is not a pair of whole numbers");
    if (begin > end || end > size) return bad_tensor(err, t->name, "data_offsets lie outside the file");
    if (t->dtype != TD_ST_UNKNOWN &&
        (!td_mul_u64(n_values, dtypes[t->dtype].bytes, &n_bytes) || n_bytes != end - begin))
        return bad_tensor(err, t->name, "shape and data_offsets disagree");
    t->offset = begin;
    t->n_bytes = (size_t)(end - begin);
    return TD_OK;
}

/* ---- one file ---- */

static int by_offset(const void *a, const void *b) {
    const td_st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes; /* empty ones first */
}

static td_status grow_tensors(td_safetensors *s, size_t more, td_error *err) {
    size_t need = 0;
    if (!td_add_size(s->n_tensors, more, &need) || need > MAX_TENSORS)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "more than %d tensors", MAX_TENSORS);
    td_st_tensor *grown = td_reallocarray(s->tensors, need, sizeof *grown);
    if (grown == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory for %zu tensors", need);
    s->tensors = grown;
    return TD_OK;
}

static td_status read_members(td_safetensors *s, const json_t *header, int file, uint64_t size, td_error *err) {
    const char *name;
    json_t *value;
    td_status status = grow_tensors(s, json_object_size(header), err);
    if (status != TD_OK) return status;
    json_object_foreach((json_t *)header, name, value) {
        if (strcmp(name, "__metadata__") == 0) continue;
        td_st_tensor t = {.file = file};
        size_t n = strlen(name);
        if (n == 0 || n > MAX_NAME)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "a tensor's name has %zu bytes, expected 1 to %d", n,
                           MAX_NAME);
        t.name = td_arena_strndup(s->arena, name, n);
        if (t.name == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
        status = read_tensor(value, &t, size, err);
        if (status != TD_OK) return status;
        s->tensors[s->n_tensors++] = t;
    }
    return TD_OK;
}

/* The ranges, sorted, must follow each other from 0 to the end of the data. */
static td_status check_cover(td_st_tensor *t, size_t n, const uint8_t *data, uint64_t data_start, uint64_t size,
                             td_error *err) {
    uint64_t at = 0;
    if (n > 1) qsort(t, n, sizeof *t, by_offset);
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset != at) return bad_tensor(err, t[i].name, "there is a gap or an overlap before its data");
        at += t[i].n_bytes;
        t[i].offset += data_start;
        t[i].data = data + t[i].offset;
    }
    if (at != size)
        return td_fail(err, TD_ERR_FORMAT, data_start + at, "%" PRIu64 " bytes after the last tensor belong to none",
                       size - at);
    return TD_OK;
}

static td_status parse_json(const char *text, size_t n, json_t **out, td_error *err) {
    json_error_t where;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
    if (*out == NULL)
        return td_fail(err, TD_ERR_FORMAT, (uint64_t)where.position, "JSON: %s (byte %d)", where.text, where.position);
    if (json_is_object(*out)) return TD_OK;
    json_decref(*out);
    *out = NULL;
    return td_fail(err, TD_ERR_FORMAT, 0, "JSON: expected an object");
}

static td_status parse_file(td_safetensors *s, const uint8_t *data, size_t n_bytes, int file, td_error *err) {
    uint64_t n_header = 0;
    json_t *header = NULL;
    td_cursor c = td_cursor_make(data, n_bytes, 0);
    if (!td_cursor_u64(&c, &n_header))
        return td_fail(err, TD_ERR_FORMAT, 0, "file has %zu bytes, a safetensors file has at least 8", n_bytes);
    if (n_header > MAX_HEADER || n_header > td_cursor_left(&c))
        return td_fail(err, TD_ERR_FORMAT, 0, "header claims %" PRIu64 " bytes, %zu are there (limit 100000000)",
                       n_header, td_cursor_left(&c));
    const char *text = (const char *)data + 8;
    size_t n_text = (size_t)n_header;
    while (n_text > 0 && text[n_text - 1] == ' ') n_text--;
    if (n_text < 2 || text[0] != '{' || text[n_text - 1] != '}')
        return td_fail(err, TD_ERR_FORMAT, 8, "not a safetensors file (its header is not a JSON object)");
    td_status status = parse_json(text, n_text, &header, err);
    if (status != TD_OK) return status;
    size_t first = s->n_tensors;
    uint64_t data_start = 8 + n_header, size = n_bytes - data_start;
    status = read_members(s, header, file, size, err);
    json_decref(header);
    if (status != TD_OK) return status;
    if (s->n_tensors == first)
        return size == 0 ? TD_OK : td_fail(err, TD_ERR_FORMAT, data_start, "data without tensors");
    return check_cover(s->tensors + first, s->n_tensors - first, data, data_start, size, err);
}

/* ---- all files ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static td_status sort_names(td_safetensors *s, td_error *err) {
    s->sorted = td_calloc(s->n_tensors, sizeof *s->sorted);
    if (s->sorted == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    for (size_t i = 0; i < s->n_tensors; i++) s->sorted[i] = (named){s->tensors[i].name, i};
    if (s->n_tensors > 1) qsort(s->sorted, s->n_tensors, sizeof *s->sorted, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (strcmp(s->sorted[i - 1].name, s->sorted[i].name) == 0)
            return bad_tensor(err, s->sorted[i].name, "is in two files");
    return TD_OK;
}

static td_status open_file(td_safetensors *s, const char *path, td_error *err) {
    td_map *grown = td_reallocarray(s->maps, (size_t)s->n_maps + 1, sizeof *grown);
    if (grown == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    s->maps = grown;
    td_status status = td_map_open(&s->maps[s->n_maps], path, err);
    if (status != TD_OK) return status;
    s->n_maps++;
    const td_map *m = &s->maps[s->n_maps - 1];
    status = parse_file(s, m->data, m->n_bytes, s->n_maps - 1, err);
    if (status != TD_OK) td_error_prefix(err, "%s", path);
    return status;
}

/* Only a plain name in the index's own directory. */
static bool plain_file_name(const char *name) {
    return name != NULL && name[0] != 0 && strlen(name) < 256 && strchr(name, '/') == NULL &&
           strchr(name, '\\') == NULL && strcmp(name, ".") != 0 && strstr(name, "..") == NULL;
}

static int shard_index(const td_safetensors *s, const char *path) {
    for (int i = 0; i < s->n_maps; i++)
        if (strcmp(s->maps[i].path, path) == 0) return i;
    return -1;
}

/* "dir/name" beside the index file. */
static char *beside(const char *index, const char *name) {
    const char *slash = strrchr(index, '/');
    size_t n_dir = slash != NULL ? (size_t)(slash + 1 - index) : 0, n = n_dir + strlen(name) + 1;
    char *path = malloc(n);
    if (path != NULL) snprintf(path, n, "%.*s%s", (int)n_dir, index, name);
    return path;
}

static td_status open_shards(td_safetensors *s, const json_t *map, const char *index, td_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        const char *shard = json_string_value(value);
        if (!plain_file_name(shard))
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                           "%s: tensor '%.80s' is in something that is not a plain file name", index, name);
        char *path = beside(index, shard);
        td_status status = TD_OK;
        if (path == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
        if (shard_index(s, path) < 0)
            status = s->n_maps < MAX_FILES ? open_file(s, path, err)
                                           : td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s: too many shards", index);
        free(path);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}

/* Every tensor is where the index says, and the index knows every tensor. */
static td_status check_index(const td_safetensors *s, const json_t *map, const char *index, td_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        const td_st_tensor *t = td_safetensors_find(s, name);
        const char *shard = json_string_value(value), *path = t != NULL ? s->maps[t->file].path : "";
        const char *slash = strrchr(path, '/');
        if (t == NULL || strcmp(slash != NULL ? slash + 1 : path, shard) != 0)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: tensor '%.80s' is not in '%.80s'", index, name,
                           shard);
    }
    if (json_object_size(map) != s->n_tensors)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: names %zu tensors, the files hold %zu", index,
                       json_object_size(map), s->n_tensors);
    return TD_OK;
}

static td_status open_index(td_safetensors *s, const char *path, td_error *err) {
    td_map m;
    json_t *root = NULL;
    td_status status = td_map_open(&m, path, err);
    if (status != TD_OK) return status;
    if (m.n_bytes > MAX_HEADER)
        status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s: larger than 100 MB", path);
    else
        status = parse_json((const char *)m.data, m.n_bytes, &root, err);
    if (status != TD_OK) td_error_prefix(err, "%s", path);
    const json_t *map = json_object_get(root, "weight_map");
    if (status == TD_OK && !json_is_object(map))
        status = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: has no weight_map", path);
    if (status == TD_OK) status = open_shards(s, map, path, err);
    if (status == TD_OK) status = sort_names(s, err);
    if (status == TD_OK) status = check_index(s, map, path, err);
    uint64_t total = 0;
    if (status == TD_OK && whole_number(json_object_get(json_object_get(root, "metadata"), "total_size"), &total) &&
        total != td_safetensors_bytes(s))
        td_log(TD_LOG_INFO, "%s: total_size is %" PRIu64 ", the tensors have %" PRIu64 " bytes", path, total,
               td_safetensors_bytes(s));
    json_decref(root);
    td_map_close(&m);
    return status;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static td_status open_any(td_safetensors *s, const char *path, td_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
        char full[4096];
        for (int i = 0; i < 2; i++) {
            if (snprintf(full, sizeof full, "%s/%s", path, names[i]) >= (int)sizeof full) break;
            if (stat(full, &st) == 0) return open_any(s, full, err);
        }
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "%s: holds neither %s nor %s", path, names[1], names[0]);
    }
    if (ends_with(path, ".json")) return open_index(s, path, err);
    td_status status = open_file(s, path, err);
    return status == TD_OK ? sort_names(s, err) : status;
}

static td_safetensors *create(void) {
    td_safetensors *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    s->arena = td_arena_create(0);
    if (s->arena != NULL) return s;
    free(s);
    return NULL;
}

td_status td_safetensors_open(td_safetensors **out, const char *path, td_error *err) {
    *out = NULL;
    td_safetensors *s = create();
    if (s == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    td_status status = open_any(s, path, err);
    if (status == TD_OK)
        *out = s;
    else
        td_safetensors_close(s);
    return status;
}

td_status td_safetensors_open_memory(td_safetensors **out, const void *data, size_t n_bytes, td_error *err) {
    *out = NULL;
    td_safetensors *s = create();
    if (s == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    td_status status = parse_file(s, data, n_bytes, 0, err);
    if (status == TD_OK) status = sort_names(s, err);
    if (status == TD_OK)
        *out = s;
    else
        td_safetensors_close(s);
    return status;
}

void td_safetensors_close(td_safetensors *s) {
    if (s == NULL) return;
    for (int i = 0; i < s->n_maps; i++) td_map_close(&s->maps[i]);
    free(s->maps);
    free(s->tensors);
    free(s->sorted);
    td_arena_destroy(s->arena);
    free(s);
}

/* ---- questions ---- */

size_t td_safetensors_count(const td_safetensors *s) {
    return s->n_tensors;
}

const td_st_tensor *td_safetensors_at(const td_safetensors *s, size_t i) {
    return i < s->n_tensors ? &s->tensors[i] : NULL;
}

const td_st_tensor *td_safetensors_find(const td_safetensors *s, const char *name) {
    const named wanted = {name, 0};
    const named *found = s->n_tensors != 0 ? bsearch(&wanted, s->sorted, s->n_tensors, sizeof wanted, by_name) : NULL;
    return found != NULL ? &s->tensors[found->index] : NULL;
}

void td_safetensors_release(const td_safetensors *s, const td_st_tensor *t) {
    if (s->n_maps > 0) td_map_release(&s->maps[t->file], (size_t)t->offset, t->n_bytes);
}

uint64_t td_safetensors_bytes(const td_safetensors *s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s->n_tensors; i++) n += s->tensors[i].n_bytes;
    return n;
}

const char *td_safetensors_path(const td_safetensors *s, int i) {
    return i < s->n_maps ? s->maps[i].path : NULL;
}
