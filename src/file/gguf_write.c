/* The GGUF writer. Metadata and tensor infos are collected in memory, because counts stand before them; the data then
 * streams straight to the file, so that a model of any size is written in constant memory. */
#include "gguf_write.h"

#include "../base/atomic_file.h"
#include "../base/checked.h"
#include "gguf_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes { /* a growing buffer */
    unsigned char *data;
    size_t n, cap;
} bytes;

struct td_gguf_writer {
    td_atomic_file *file;
    td_arena *names;
    bytes keys, infos;
    uint64_t n_keys, n_tensors;
    gguf_name *sorted; /* keys and tensor names with a mark before them, for the check for duplicates */
    size_t n_names, cap_names;
    uint64_t *sizes; /* [n_tensors] bytes of each tensor without padding */
    size_t cap_sizes;
    uint64_t next_offset; /* of the next declared tensor */
    bool data_started, failed;
    uint64_t current, current_done; /* tensor that is being written */
};

static const unsigned char zeros[GGUF_ALIGNMENT];

static bool append(bytes *b, const void *data, size_t n) {
    size_t need = 0;
    if (!td_add_size(b->n, n, &need)) return false;
    if (need > b->cap) {
        size_t cap = b->cap != 0 ? b->cap : 4096;
        while (cap < need)
            if (!td_mul_size(cap, 2, &cap)) return false;
        unsigned char *grown = realloc(b->data, cap);
        if (grown == NULL) return false;
        b->data = grown;
        b->cap = cap;
    }
    if (n != 0) memcpy(b->data + b->n, data, n);
    b->n = need;
    return true;
}

static bool append_uint(bytes *b, uint64_t v, int n) {
    unsigned char le[8];
    for (int i = 0; i < 8; i++) le[i] = (unsigned char)(v >> (8 * i));
    return append(b, le, (size_t)n);
}

static bool append_string(bytes *b, const char *s, size_t n) {
    return append_uint(b, n, 8) && append(b, s, n);
}

static td_status no_memory(td_gguf_writer *w, td_error *err) {
    w->failed = true;
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
}

static td_status misuse(td_gguf_writer *w, td_error *err, const char *what, const char *name) {
    w->failed = true;
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "writing GGUF: %s: '%.80s'", what, name);
}

td_status td_gguf_writer_open(td_gguf_writer **out, const char *path, td_error *err) {
    *out = NULL;
    td_gguf_writer *w = calloc(1, sizeof *w);
    if (w == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    w->names = td_arena_create(0);
    td_status status = w->names != NULL ? td_atomic_open(&w->file, path, err) : no_memory(w, err);
    if (status != TD_OK) {
        td_gguf_writer_discard(w);
        return status;
    }
    *out = w;
    return TD_OK;
}

static bool plain_name(const char *s, size_t max) {
    size_t n = strlen(s);
    if (n == 0 || n > max) return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] > 0x7e) return false;
    return true;
}

/* Remembers a name; duplicates are found at once by a sort when the header is written. */
static bool remember(td_gguf_writer *w, char mark, const char *name) {
    if (w->n_names == w->cap_names) {
        size_t cap = w->cap_names != 0 ? w->cap_names * 2 : 256;
        gguf_name *grown = td_reallocarray(w->sorted, cap, sizeof *grown);
        if (grown == NULL) return false;
        w->sorted = grown;
        w->cap_names = cap;
    }
    size_t n = strlen(name);
    char *copy = td_arena_alloc(w->names, n + 2, 1);
    if (copy == NULL) return false;
    copy[0] = mark;
    memcpy(copy + 1, name, n);
    w->sorted[w->n_names++] = (gguf_name){copy, 0};
    return true;
}

/* Starts a key/value entry. */
static td_status begin_key(td_gguf_writer *w, const char *key, td_gguf_kind kind, td_error *err) {
    if (w->failed || w->data_started) return misuse(w, err, "a key after the data began", key);
    if (!plain_name(key, GGUF_MAX_KEY_BYTES)) return misuse(w, err, "not a usable key", key);
    if (strcmp(key, "general.alignment") == 0) return misuse(w, err, "this key is the writer's own", key);
    if (!remember(w, 'k', key) || !append_string(&w->keys, key, strlen(key)) ||
        !append_uint(&w->keys, (uint64_t)kind, 4))
        return no_memory(w, err);
    w->n_keys++;
    return TD_OK;
}

static td_status put_scalar(td_gguf_writer *w, const char *key, td_gguf_kind kind, uint64_t bits, td_error *err) {
    td_status status = begin_key(w, key, kind, err);
    if (status == TD_OK && !append_uint(&w->keys, bits, (int)gguf_kind_bytes(kind))) status = no_memory(w, err);
    return status;
}

td_status td_gguf_put_u16(td_gguf_writer *w, const char *key, uint16_t v, td_error *err) {
    return put_scalar(w, key, TD_GGUF_U16, v, err);
}

td_status td_gguf_put_u32(td_gguf_writer *w, const char *key, uint32_t v, td_error *err) {
    return put_scalar(w, key, TD_GGUF_U32, v, err);
}

td_status td_gguf_put_i32(td_gguf_writer *w, const char *key, int32_t v, td_error *err) {
    return put_scalar(w, key, TD_GGUF_I32, (uint32_t)v, err);
}

td_status td_gguf_put_u64(td_gguf_writer *w, const char *key, uint64_t v, td_error *err) {
    return put_scalar(w, key, TD_GGUF_U64, v, err);
}

td_status td_gguf_put_f32(td_gguf_writer *w, const char *key, float v, td_error *err) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return put_scalar(w, key, TD_GGUF_F32, bits, err);
}

td_status td_gguf_put_bool(td_gguf_writer *w, const char *key, bool v, td_error *err) {
    return put_scalar(w, key, TD_GGUF_BOOL, v, err);
}

td_status td_gguf_put_str(td_gguf_writer *w, const char *key, const char *s, td_error *err) {
    return td_gguf_put_bytes(w, key, (td_slice){s, strlen(s)}, err);
}

td_status td_gguf_put_bytes(td_gguf_writer *w, const char *key, td_slice s, td_error *err) {
    td_status status = begin_key(w, key, TD_GGUF_STRING, err);
    if (status == TD_OK && s.n_bytes > GGUF_MAX_STRING) return misuse(w, err, "a string above 16 MiB", key);
    if (status == TD_OK && !append_string(&w->keys, s.data, s.n_bytes)) status = no_memory(w, err);
    return status;
}

static td_status begin_array(td_gguf_writer *w, const char *key, td_gguf_kind element, uint64_t n, td_error *err) {
    td_status status = begin_key(w, key, TD_GGUF_ARRAY, err);
    if (status != TD_OK) return status;
    if (n > GGUF_MAX_ARRAY || (gguf_kind_bytes(element) == 0 && element != TD_GGUF_STRING))
        return misuse(w, err, "not a usable array", key);
    return append_uint(&w->keys, (uint64_t)element, 4) && append_uint(&w->keys, n, 8) ? TD_OK : no_memory(w, err);
}

td_status td_gguf_put_array(td_gguf_writer *w, const char *key, td_gguf_kind element, const void *data, uint64_t n,
                            td_error *err) {
    size_t n_bytes = 0;
    if (element == TD_GGUF_STRING || !td_mul_size((size_t)n, gguf_kind_bytes(element), &n_bytes))
        return misuse(w, err, "not an array of numbers", key);
    td_status status = begin_array(w, key, element, n, err);
    if (status == TD_OK && !append(&w->keys, data, n_bytes)) status = no_memory(w, err);
    return status;
}

td_status td_gguf_put_strings(td_gguf_writer *w, const char *key, const td_slice *items, uint64_t n, td_error *err) {
    td_status status = begin_array(w, key, TD_GGUF_STRING, n, err);
    for (uint64_t i = 0; status == TD_OK && i < n; i++)
        if (!append_string(&w->keys, items[i].data, items[i].n_bytes)) status = no_memory(w, err);
    return status;
}

td_status td_gguf_put_value(td_gguf_writer *w, const char *key, const td_gguf_value *v, td_error *err) {
    if (key == NULL) key = v->key;
    uint64_t bits = v->as.u;
    if (strcmp(key, "general.alignment") == 0 || strncmp(key, "split.", 6) == 0) return TD_OK;
    if (v->kind == TD_GGUF_STRING) return td_gguf_put_bytes(w, key, v->as.str, err);
    if (v->kind == TD_GGUF_ARRAY) { /* the bytes are already as a file has them, strings included */
        td_status status = begin_array(w, key, v->as.array.element, v->as.array.n, err);
        if (status == TD_OK && !append(&w->keys, v->as.array.bytes.data, v->as.array.bytes.n_bytes))
            status = no_memory(w, err);
        return status;
    }
    if (v->kind == TD_GGUF_F32) return td_gguf_put_f32(w, key, (float)v->as.f, err);
    if (v->kind == TD_GGUF_F64) memcpy(&bits, &v->as.f, sizeof bits);
    return put_scalar(w, key, v->kind, bits, err);
}

td_status td_gguf_put_tensor(td_gguf_writer *w, const char *name, td_type type, int n_dims, const uint64_t *ne,
                             td_error *err) {
    const td_type_info *info = td_type_get((uint32_t)type);
    uint64_t n = 1, n_bytes = 0;
    if (w->failed || w->data_started) return misuse(w, err, "a tensor after the data began", name);
    bool ok = info != NULL && n_dims >= 0 && n_dims <= TD_GGUF_DIMS && plain_name(name, TD_GGUF_NAME - 1);
    for (int i = 0; ok && i < n_dims; i++) ok = ne[i] != 0 && td_mul_u64(n, ne[i], &n);
    ok = ok && (n_dims > 0 ? ne[0] : 1) % info->block == 0 && td_mul_u64(n / info->block, info->bytes, &n_bytes);
    if (!ok) return misuse(w, err, "not a usable name, type or shape of a tensor", name);
    if (w->n_tensors == w->cap_sizes) {
        size_t cap = w->cap_sizes != 0 ? w->cap_sizes * 2 : 256;
        uint64_t *grown = td_reallocarray(w->sizes, cap, sizeof *grown);
        if (grown == NULL) return no_memory(w, err);
        w->sizes = grown;
        w->cap_sizes = cap;
    }
    ok = remember(w, 't', name) && append_string(&w->infos, name, strlen(name)) &&
         append_uint(&w->infos, (uint64_t)n_dims, 4);
    for (int i = 0; ok && i < n_dims; i++) ok = append_uint(&w->infos, ne[i], 8);
    ok = ok && append_uint(&w->infos, (uint64_t)type, 4) && append_uint(&w->infos, w->next_offset, 8);
    if (!ok) return no_memory(w, err);
    w->sizes[w->n_tensors++] = n_bytes;
    if (!td_add_u64(w->next_offset, n_bytes, &w->next_offset) ||
        !td_align_up_u64(w->next_offset, GGUF_ALIGNMENT, &w->next_offset))
        return misuse(w, err, "larger than any file", name);
    return TD_OK;
}

static td_status pad(td_gguf_writer *w, td_error *err) {
    uint64_t size = td_atomic_size(w->file), padded = 0;
    (void)td_align_up_u64(size, GGUF_ALIGNMENT, &padded);
    return td_atomic_write(w->file, zeros, (size_t)(padded - size), err);
}

/* Everything before the data, once all of it is known. */
static td_status write_header(td_gguf_writer *w, td_error *err) {
    bytes head = {0};
    td_status status = gguf_sort_names(w->sorted, w->n_names, "writing GGUF: name", err);
    if (status != TD_OK) return misuse(w, err, "a name", "given twice");
    bool ok = append(&head, "GGUF", 4) && append_uint(&head, 3, 4) && append_uint(&head, w->n_tensors, 8) &&
              append_uint(&head, w->n_keys, 8);
    status = ok ? td_atomic_write(w->file, head.data, head.n, err) : no_memory(w, err);
    free(head.data);
    if (status == TD_OK) status = td_atomic_write(w->file, w->keys.data, w->keys.n, err);
    if (status == TD_OK) status = td_atomic_write(w->file, w->infos.data, w->infos.n, err);
    if (status == TD_OK && w->n_tensors != 0) status = pad(w, err);
    w->data_started = true;
    if (status != TD_OK) w->failed = true;
    return status;
}

td_status td_gguf_put_data(td_gguf_writer *w, const void *data, size_t n_bytes, td_error *err) {
    const unsigned char *p = data;
    td_status status = TD_OK;
    if (w->failed) return misuse(w, err, "data after an error", "");
    if (!w->data_started) status = write_header(w, err);
    while (status == TD_OK && n_bytes > 0) {
        if (w->current == w->n_tensors) return misuse(w, err, "more data than tensors", "");
        uint64_t left = w->sizes[w->current] - w->current_done;
        size_t part = n_bytes < left ? n_bytes : (size_t)left;
        status = td_atomic_write(w->file, p, part, err);
        p += part;
        n_bytes -= part;
        w->current_done += part;
        if (status == TD_OK && w->current_done == w->sizes[w->current]) {
            status = pad(w, err);
            w->current++;
            w->current_done = 0;
        }
    }
    if (status != TD_OK) w->failed = true;
    return status;
}

uint64_t td_gguf_writer_data_bytes(const td_gguf_writer *w) {
    return w->next_offset;
}

td_status td_gguf_writer_commit(td_gguf_writer *w, td_error *err) {
    td_status status = TD_OK;
    if (!w->data_started && !w->failed) status = write_header(w, err);
    if (status == TD_OK && w->failed) status = misuse(w, err, "an earlier call failed", "");
    if (status == TD_OK && w->current != w->n_tensors)
        status =
            td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                    "writing GGUF: data for %" PRIu64 " of %" PRIu64 " tensors was given", w->current, w->n_tensors);
    if (status == TD_OK) {
        td_atomic_file *file = w->file;
        w->file = NULL;
        status = td_atomic_commit(file, err);
    }
    td_gguf_writer_discard(w);
    return status;
}

void td_gguf_writer_discard(td_gguf_writer *w) {
    if (w == NULL) return;
    td_atomic_discard(w->file);
    td_arena_destroy(w->names);
    free(w->keys.data);
    free(w->infos.data);
    free(w->sorted);
    free(w->sizes);
    free(w);
}
