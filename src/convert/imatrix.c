/* See imatrix.h. */
#include "imatrix.h"

#include "../base/checked.h"
#include "../base/cursor.h"
#include "../base/map.h"
#include "../file/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRIES = 1 << 20, MAX_NAME = 255 };

typedef struct entry {
    char name[MAX_NAME + 1];
    float *values;
    uint64_t n;
} entry;

struct td_imatrix {
    entry *entries;
    size_t n, cap;
    uint32_t chunks;
    char dataset[512];
};

static td_status add(td_imatrix *m, const char *name, size_t n_name, uint64_t n, entry **out, td_error *err) {
    if (n_name == 0 || n_name > MAX_NAME || m->n == MAX_ENTRIES) {
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "entry %zu: a name of %zu bytes", m->n, n_name);
    }
    if (m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 256;
        entry *e = td_reallocarray(m->entries, cap, sizeof *e);
        if (!e) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the importance matrix");
        m->entries = e;
        m->cap = cap;
    }
    entry *e = &m->entries[m->n];
    e->values = td_calloc(n ? n : 1, sizeof *e->values);
    if (!e->values) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the importance matrix");
    memcpy(e->name, name, n_name);
    e->name[n_name] = 0;
    e->n = n;
    m->n++;
    *out = e;
    return TD_OK;
}

static td_status check_values(const entry *e, td_error *err) {
    for (uint64_t i = 0; i < e->n; i++) {
        if (!isfinite(e->values[i]) || e->values[i] < 0) {
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: importance %llu is not a finite number from 0 up",
                           e->name, (unsigned long long)i);
        }
    }
    return TD_OK;
}

/* ---- the older form: count, then name, calls, values; then chunks and the data set's name ---- */

static td_status read_dat_entry(td_imatrix *m, td_cursor *c, td_error *err) {
    uint32_t n_name = 0, n_call = 0, n = 0;
    td_slice name = {0};
    td_cursor_u32(c, &n_name);
    td_cursor_bytes(c, n_name, &name);
    td_cursor_u32(c, &n_call);
    td_cursor_u32(c, &n);
    if (c->failed || (uint64_t)n * 4 > td_cursor_left(c)) {
        return td_fail(err, TD_ERR_FORMAT, td_cursor_offset(c), "the file ends inside entry %zu", m->n);
    }
    entry *e = NULL;
    td_status status = add(m, name.data, name.n_bytes, n, &e, err);
    for (uint32_t i = 0; i < n && status == TD_OK; i++) {
        td_cursor_f32(c, &e->values[i]);
        if (n_call > 0) e->values[i] /= (float)n_call;
    }
    return status == TD_OK ? check_values(e, err) : status;
}

static td_status read_dat(td_imatrix *m, const td_map *map, td_error *err) {
    td_cursor c = td_cursor_make(map->data, map->n_bytes, 0);
    uint32_t n = 0, n_name = 0;
    td_slice name = {0};
    if (!td_cursor_u32(&c, &n) || n == 0 || n > MAX_ENTRIES) {
        return td_fail(err, TD_ERR_FORMAT, 0, "neither a GGUF nor an older importance matrix");
    }
    td_status status = TD_OK;
    for (uint32_t i = 0; i < n && status == TD_OK; i++) status = read_dat_entry(m, &c, err);
    if (status == TD_OK && td_cursor_left(&c) >= 8) {
        td_cursor_u32(&c, &m->chunks);
        td_cursor_u32(&c, &n_name);
        if (td_cursor_bytes(&c, n_name, &name)) {
            snprintf(m->dataset, sizeof m->dataset, "%.*s", (int)(name.n_bytes < 500 ? name.n_bytes : 500), name.data);
        }
    }
    return status;
}

/* ---- GGUF: <name>.in_sum2 [ne0, n] and <name>.counts [1, n] ---- */

static float load_f32(const void *data, uint64_t i) {
    float v;
    memcpy(&v, (const uint8_t *)data + 4 * i, 4);
    return v;
}

static td_status read_gguf_entry(td_imatrix *m, const td_gguf *g, const td_gguf_tensor *sums, td_error *err) {
    static const char suffix[] = ".in_sum2";
    size_t n_name = strlen(sums->name) - (sizeof suffix - 1);
    char name[TD_GGUF_NAME + 16];
    snprintf(name, sizeof name, "%.*s.counts", (int)n_name, sums->name);
    const td_gguf_tensor *counts = td_gguf_tensor_find(g, name);
    uint64_t n_row = sums->ne[0], n_mat = sums->ne[1];
    if (!counts || counts->type->id != TD_TYPE_F32 || sums->type->id != TD_TYPE_F32 || counts->n_bytes != 4 * n_mat ||
        sums->n_bytes != 4 * n_row * n_mat) {
        return td_fail(err, TD_ERR_FORMAT, sums->offset, "%s has no F32 counts of its size beside it", sums->name);
    }
    entry *e = NULL;
    td_status status = add(m, sums->name, n_name, n_row * n_mat, &e, err);
    for (uint64_t j = 0; j < n_mat && status == TD_OK; j++) {
        float n = load_f32(counts->data, j);
        for (uint64_t i = 0; i < n_row; i++) {
            e->values[j * n_row + i] = n > 0 ? load_f32(sums->data, j * n_row + i) / n : 1.0f;
        }
    }
    return status == TD_OK ? check_values(e, err) : status;
}

static td_status read_gguf(td_imatrix *m, const char *path, td_error *err) {
    td_gguf *g = NULL;
    td_status status = td_gguf_open(&g, path, err);
    if (status != TD_OK) return status;
    td_slice type = {0};
    td_gguf_array names = {0};
    status = td_gguf_get_str(g, "general.type", &type, err);
    if (status == TD_OK && (type.n_bytes != 7 || memcmp(type.data, "imatrix", 7) != 0)) {
        status =
            td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: a GGUF file, but its general.type is not \"imatrix\"", path);
    }
    if (status == TD_OK) status = td_gguf_get_u32(g, "imatrix.chunk_count", 0, &m->chunks, err);
    if (status == TD_OK) status = td_gguf_get_array(g, "imatrix.datasets", &names, err);
    if (status == TD_OK && names.n > 0) {
        td_cursor c = td_gguf_array_strings(&names);
        td_slice s = {0};
        if (td_gguf_next_string(&c, &s)) {
            snprintf(m->dataset, sizeof m->dataset, "%.*s", (int)(s.n_bytes < 500 ? s.n_bytes : 500), s.data);
        }
    }
    for (size_t i = 0; i < td_gguf_n_tensors(g) && status == TD_OK; i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        size_t n = strlen(t->name);
        if (n > 8 && strcmp(t->name + n - 8, ".in_sum2") == 0) status = read_gguf_entry(m, g, t, err);
    }
    td_gguf_close(g);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

td_status td_imatrix_open(td_imatrix **out, const char *path, td_error *err) {
    *out = NULL;
    td_imatrix *m = td_calloc(1, sizeof *m);
    if (!m) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the importance matrix");
    td_map map;
    td_status status = td_map_open(&map, path, err);
    if (status == TD_OK) {
        bool gguf = map.n_bytes >= 4 && memcmp(map.data, "GGUF", 4) == 0;
        status = gguf ? read_gguf(m, path, err) : read_dat(m, &map, err);
        if (status != TD_OK && !gguf) td_error_prefix(err, "%s", path);
        td_map_close(&map);
    }
    if (status != TD_OK) {
        td_imatrix_close(m);
        return status;
    }
    qsort(m->entries, m->n, sizeof *m->entries, by_name);
    *out = m;
    return TD_OK;
}

void td_imatrix_close(td_imatrix *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) free(m->entries[i].values);
    free(m->entries);
    free(m);
}

td_imatrix_row td_imatrix_find(const td_imatrix *m, const char *tensor) {
    size_t lo = 0, hi = m->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(m->entries[mid].name, tensor);
        if (c == 0) return (td_imatrix_row){m->entries[mid].values, m->entries[mid].n};
        if (c < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return (td_imatrix_row){0};
}

size_t td_imatrix_count(const td_imatrix *m) {
    return m->n;
}

uint32_t td_imatrix_chunks(const td_imatrix *m) {
    return m->chunks;
}

const char *td_imatrix_dataset(const td_imatrix *m) {
    return m->dataset;
}
