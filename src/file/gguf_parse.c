/* The header of one GGUF file, from untrusted bytes: counts are compared with the bytes that are left before anything
 * is allocated in proportion to them, names are copied (they need a terminator), values stay in the mapping.
 *
 * Parsing does not recurse (arrays of arrays are refused, as in the reference reader) and its time is linear in the
 * metadata but for the sorting of names. */
#include "gguf_internal.h"

#include "../base/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

size_t gguf_kind_bytes(td_gguf_kind kind) {
    static const uint8_t bytes[TD_GGUF_KINDS] = {
        [TD_GGUF_U8] = 1,  [TD_GGUF_I8] = 1,  [TD_GGUF_U16] = 2, [TD_GGUF_I16] = 2,
        [TD_GGUF_U32] = 4, [TD_GGUF_I32] = 4, [TD_GGUF_F32] = 4, [TD_GGUF_BOOL] = 1,
        [TD_GGUF_U64] = 8, [TD_GGUF_I64] = 8, [TD_GGUF_F64] = 8};
    return (unsigned)kind < TD_GGUF_KINDS ? bytes[kind] : 0;
}

const char *td_gguf_kind_name(td_gguf_kind kind) {
    static const char *const names[TD_GGUF_KINDS] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                     "bool", "string", "array", "u64", "i64", "f64"};
    return (unsigned)kind < TD_GGUF_KINDS ? names[kind] : "unknown";
}

/* ---- names ---- */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const gguf_name *)a)->name, ((const gguf_name *)b)->name);
}

td_status gguf_sort_names(gguf_name *names, size_t n, const char *what, td_error *err) {
    if (n > 1) qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1].name, names[i].name) == 0)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s '%.80s' is there twice", what, names[i].name);
    return TD_OK;
}

size_t gguf_find_name(const gguf_name *names, size_t n, const char *name) {
    const gguf_name wanted = {name, 0};
    const gguf_name *found = n != 0 ? bsearch(&wanted, names, n, sizeof *names, compare_names) : NULL;
    return found != NULL ? found->index : SIZE_MAX;
}

const td_gguf_value *gguf_find_key(const gguf_keys *keys, const char *key) {
    size_t i = gguf_find_name(keys->sorted, keys->n, key);
    return i != SIZE_MAX ? &keys->values[i] : NULL;
}

/* A name of printable ASCII, copied. `what` and `number` say which in messages. */
static td_status read_name(td_cursor *c, td_arena *arena, uint64_t max, const char *what, uint64_t number,
                           const char **out, td_error *err) {
    uint64_t n = 0, at = td_cursor_offset(c);
    td_slice s;
    if (!td_cursor_u64(c, &n))
        return td_fail(err, TD_ERR_FORMAT, at, "file ends in the name of %s %" PRIu64 " (byte %" PRIu64 ")", what,
                       number, at);
    if (n == 0 || n > max)
        return td_fail(err, TD_ERR_FORMAT, at,
                       "name of %s %" PRIu64 " has length %" PRIu64 ", expected 1 to %" PRIu64 " (byte %" PRIu64 ")",
                       what, number, n, max, at);
    if (!td_cursor_bytes(c, n, &s))
        return td_fail(err, TD_ERR_FORMAT, at, "file ends in the name of %s %" PRIu64 " (byte %" PRIu64 ")", what,
                       number, at);
    for (size_t i = 0; i < s.n_bytes; i++)
        if (s.data[i] < 0x20 || s.data[i] > 0x7e)
            return td_fail(err, TD_ERR_FORMAT, at + 8 + i,
                           "name of %s %" PRIu64 " holds byte 0x%02x, expected printable ASCII (byte %" PRIu64 ")",
                           what, number, (unsigned char)s.data[i], at + 8 + i);
    *out = td_arena_strndup(arena, s.data, s.n_bytes);
    return *out != NULL ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
}

/* ---- values ---- */

/* The length and bytes of one string. */
static bool read_string(td_cursor *c, td_slice *out) {
    uint64_t n = 0;
    *out = (td_slice){NULL, 0};
    return td_cursor_u64(c, &n) && n <= GGUF_MAX_STRING && td_cursor_bytes(c, n, out);
}

bool td_gguf_next_string(td_cursor *c, td_slice *out) {
    return td_cursor_left(c) != 0 && read_string(c, out);
}

static td_status read_array(td_cursor *c, const char *key, td_gguf_array *a, td_error *err) {
    uint32_t element = 0;
    uint64_t at = td_cursor_offset(c), n_bytes = 0;
    if (!td_cursor_u32(c, &element) || !td_cursor_u64(c, &a->n))
        return td_fail(err, TD_ERR_FORMAT, at, "file ends in the value of key '%s' (byte %" PRIu64 ")", key, at);
    if (element >= TD_GGUF_KINDS || element == TD_GGUF_ARRAY)
        return td_fail(err, TD_ERR_FORMAT, at, "key '%s' is an array of type %u, expected a scalar or string type", key,
                       element);
    a->element = (td_gguf_kind)element;
    size_t size = element == TD_GGUF_STRING ? 8 : gguf_kind_bytes(a->element); /* at least */
    if (a->n > GGUF_MAX_ARRAY || !td_mul_u64(a->n, size, &n_bytes) || n_bytes > td_cursor_left(c))
        return td_fail(err, TD_ERR_FORMAT, at,
                       "key '%s' claims an array of %" PRIu64 " values, but only %zu bytes are left in the file", key,
                       a->n, td_cursor_left(c));
    if (element != TD_GGUF_STRING) {
        (void)td_cursor_bytes(c, n_bytes, &a->bytes);
        for (size_t i = 0; element == TD_GGUF_BOOL && i < a->bytes.n_bytes; i++)
            if ((unsigned char)a->bytes.data[i] > 1)
                return td_fail(err, TD_ERR_FORMAT, at + 12 + i, "key '%s' holds a boolean that is neither 0 nor 1",
                               key);
        return TD_OK;
    }
    a->bytes.data = (const char *)c->at;
    for (uint64_t i = 0; i < a->n; i++) {
        td_slice s;
        uint64_t item_at = td_cursor_offset(c);
        if (!read_string(c, &s))
            return td_fail(err, TD_ERR_FORMAT, item_at,
                           "string %" PRIu64 " of key '%s' is longer than the file or 16 MiB (byte %" PRIu64 ")", i,
                           key, item_at);
    }
    a->bytes.n_bytes = (size_t)((const char *)c->at - a->bytes.data);
    return TD_OK;
}

/* A scalar: zero- or sign-extended, floats widened. */
static bool read_scalar(td_cursor *c, td_gguf_value *v) {
    td_slice s;
    if (!td_cursor_bytes(c, gguf_kind_bytes(v->kind), &s)) return false;
    td_gguf_array one = {.element = v->kind, .n = 1, .bytes = s};
    if (v->kind == TD_GGUF_F32 || v->kind == TD_GGUF_F64) return td_gguf_array_f64(&one, 0, &v->as.f);
    if (v->kind == TD_GGUF_U64) {
        td_cursor again = td_cursor_make(s.data, s.n_bytes, 0);
        return td_cursor_u64(&again, &v->as.u);
    }
    return td_gguf_array_i64(&one, 0, &v->as.i); /* the unsigned ones fit: as.u has the same bits */
}

static td_status read_value(td_cursor *c, td_gguf_value *v, td_error *err) {
    uint32_t kind = 0;
    uint64_t at = td_cursor_offset(c);
    bool ok = td_cursor_u32(c, &kind);
    if (ok && kind >= TD_GGUF_KINDS)
        return td_fail(err, TD_ERR_FORMAT, at, "key '%.80s' has value type %u, expected 0 to 12 (byte %" PRIu64 ")",
                       v->key, kind, at);
    v->kind = (td_gguf_kind)kind;
    if (ok && kind == TD_GGUF_ARRAY) return read_array(c, v->key, &v->as.array, err);
    if (ok) ok = kind == TD_GGUF_STRING ? read_string(c, &v->as.str) : read_scalar(c, v);
    if (!ok)
        return td_fail(err, TD_ERR_FORMAT, at, "the value of key '%.80s' is longer than the file%s (byte %" PRIu64 ")",
                       v->key, kind == TD_GGUF_STRING ? " or 16 MiB" : "", at);
    if (kind == TD_GGUF_BOOL && v->as.u > 1)
        return td_fail(err, TD_ERR_FORMAT, at, "key '%.80s' is a boolean that is neither 0 nor 1", v->key);
    return TD_OK;
}

static td_status read_keys(td_cursor *c, td_arena *arena, uint64_t n, gguf_keys *keys, td_error *err) {
    keys->values = td_arena_alloc(arena, (size_t)n, sizeof *keys->values);
    keys->sorted = td_arena_alloc(arena, (size_t)n, sizeof *keys->sorted);
    if (keys->values == NULL || keys->sorted == NULL)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        td_gguf_value *v = &keys->values[i];
        td_status status = read_name(c, arena, GGUF_MAX_KEY_BYTES, "key", i, &v->key, err);
        if (status == TD_OK) status = read_value(c, v, err);
        if (status != TD_OK) return status;
        keys->sorted[i] = (gguf_name){v->key, (size_t)i};
        keys->n = (size_t)i + 1;
    }
    return gguf_sort_names(keys->sorted, keys->n, "key", err);
}

/* ---- tensors ---- */

/* Dimensions and their product. */
static td_status check_dims(td_gguf_tensor *t, uint64_t at, uint64_t *n_values, td_error *err) {
    uint64_t n = 1;
    for (int i = 0; i < TD_GGUF_DIMS; i++) {
        if (i >= t->n_dims) t->ne[i] = 1;
        if (t->ne[i] == 0 || t->ne[i] > INT64_MAX)
            return td_fail(err, TD_ERR_FORMAT, at, "tensor '%s' has dimension %" PRIu64 ", expected 1 or more", t->name,
                           t->ne[i]);
        if (!td_mul_u64(n, t->ne[i], &n) || n > INT64_MAX)
            return td_fail(err, TD_ERR_FORMAT, at, "tensor '%s' has more than 2^63 elements", t->name);
    }
    *n_values = n;
    return TD_OK;
}

/* Type and size. `room` is what there is up to the next tensor: two types changed their numbers once, and only the size
 * tells which is meant (td_type_resolve). */
static td_status size_tensor(td_gguf_tensor *t, uint32_t id, uint64_t n_values, uint64_t room, uint64_t alignment,
                             td_error *err) {
    uint64_t n_bytes = 0;
    id = td_type_resolve(id, n_values, room, alignment);
    t->type = td_type_get(id);
    if (t->type == NULL || id == TD_TYPE_Q8_1 || id == TD_TYPE_Q8_K)
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "tensor '%s' has type %u, which no model file may use",
                       t->name, id);
    if (t->ne[0] % t->type->block != 0)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                       "tensor '%s' has rows of %" PRIu64 " values, type %s needs a multiple of %u", t->name, t->ne[0],
                       t->type->name, t->type->block);
    if (!td_mul_u64(n_values / t->type->block, t->type->bytes, &n_bytes) || n_bytes > SIZE_MAX)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tensor '%s' is larger than any file", t->name);
    t->n_bytes = (size_t)n_bytes;
    return TD_OK;
}

typedef struct tensor_note { /* what is needed of an info until its size is known */
    uint64_t n_values;
    uint32_t type;
} tensor_note;

static td_status read_tensor(td_cursor *c, td_arena *arena, uint64_t number, td_gguf_tensor *t, tensor_note *note,
                             td_error *err) {
    uint32_t n_dims = 0;
    td_status status = read_name(c, arena, TD_GGUF_NAME - 1, "tensor", number, &t->name, err);
    if (status != TD_OK) return status;
    uint64_t at = td_cursor_offset(c);
    (void)td_cursor_u32(c, &n_dims);
    if (n_dims > TD_GGUF_DIMS)
        return td_fail(err, TD_ERR_FORMAT, at,
                       "tensor '%s' has %u dimensions, at most 4 are possible (byte %" PRIu64 ")", t->name, n_dims, at);
    t->n_dims = (int)n_dims;
    for (uint32_t i = 0; i < n_dims; i++) (void)td_cursor_u64(c, &t->ne[i]);
    (void)td_cursor_u32(c, &note->type);
    if (!td_cursor_u64(c, &t->offset))
        return td_fail(err, TD_ERR_FORMAT, at, "file ends in the description of tensor '%s' (byte %" PRIu64 ")",
                       t->name, at);
    return check_dims(t, at, &note->n_values, err);
}

/* Offsets must be the running sum of padded sizes, as writers make them: no gaps, no overlaps, no order to guess. */
static td_status place_tensors(gguf_part *part, const tensor_note *notes, uint64_t infos_end, uint64_t alignment,
                               td_error *err) {
    uint64_t start = 0, next = 0;
    if (part->n_tensors == 0) return TD_OK;
    if (!td_align_up_u64(infos_end, alignment, &start) || start > part->n_bytes)
        return td_fail(err, TD_ERR_FORMAT, infos_end, "file ends before its tensor data");
    uint64_t left = part->n_bytes - start;
    for (size_t i = 0; i < part->n_tensors; i++) {
        td_gguf_tensor *t = &part->tensors[i];
        uint64_t after = i + 1 < part->n_tensors ? part->tensors[i + 1].offset : left;
        uint64_t room = after > t->offset ? after - t->offset : 0;
        td_status status = size_tensor(t, notes[i].type, notes[i].n_values, room, alignment, err);
        if (status != TD_OK) return status;
        if (t->offset != next)
            return td_fail(err, TD_ERR_FORMAT, start,
                           "tensor '%s' is at offset %" PRIu64 " of the data, expected %" PRIu64, t->name, t->offset,
                           next);
        if (t->offset > left || t->n_bytes > left - t->offset)
            return td_fail(err, TD_ERR_FORMAT, part->n_bytes,
                           "file ends before the end of tensor '%s' (%" PRIu64 " bytes needed after byte %" PRIu64
                           ", %" PRIu64 " are there): an incomplete download?",
                           t->name, (uint64_t)t->n_bytes, start + (t->offset < left ? t->offset : left),
                           t->offset < left ? left - t->offset : 0);
        if (!td_align_up_u64(t->offset + t->n_bytes, alignment, &next))
            return td_fail(err, TD_ERR_FORMAT, start, "tensor '%s' is larger than any file", t->name);
        t->offset += start;
        t->data = part->data + t->offset;
    }
    return TD_OK;
}

static td_status read_alignment(const gguf_keys *keys, uint64_t *out, td_error *err) {
    const td_gguf_value *v = gguf_find_key(keys, "general.alignment");
    int64_t a = GGUF_ALIGNMENT;
    if (v != NULL && (v->kind == TD_GGUF_BOOL || !gguf_value_i64(v, &a)))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key 'general.alignment' is of type %s, expected u32",
                       td_gguf_kind_name(v->kind));
    if (a < 8 || a > GGUF_MAX_ALIGNMENT || (a & (a - 1)) != 0)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                       "key 'general.alignment' is %" PRId64 ", expected a power of two from 8 to %d", a,
                       GGUF_MAX_ALIGNMENT);
    *out = (uint64_t)a;
    return TD_OK;
}

/* ---- header ---- */

static td_status read_header(td_cursor *c, gguf_part *part, uint64_t *n_tensors, uint64_t *n_keys, td_error *err) {
    td_slice magic;
    uint32_t version = 0;
    if (part->n_bytes < 24)
        return td_fail(err, TD_ERR_FORMAT, 0, "file has %zu bytes, a GGUF file has at least 24", part->n_bytes);
    (void)td_cursor_bytes(c, 4, &magic);
    (void)td_cursor_u32(c, &version);
    (void)td_cursor_u64(c, n_tensors);
    (void)td_cursor_u64(c, n_keys);
    if (memcmp(magic.data, "GGUF", 4) != 0)
        return td_fail(err, TD_ERR_FORMAT, 0, "not a GGUF file (it starts with %02x %02x %02x %02x)",
                       (unsigned char)magic.data[0], (unsigned char)magic.data[1], (unsigned char)magic.data[2],
                       (unsigned char)magic.data[3]);
    if (version != 0 && (version & 0xffff) == 0)
        return td_fail(err, TD_ERR_UNSUPPORTED, 4, "a big-endian GGUF file; only little-endian ones can be read");
    if (version != 2 && version != 3)
        return td_fail(err, TD_ERR_UNSUPPORTED, 4, "GGUF version %u; versions 2 and 3 can be read", version);
    part->version = (int)version;
    if (*n_keys > GGUF_MAX_KEYS || *n_keys > td_cursor_left(c) / GGUF_MIN_KEY)
        return td_fail(err, TD_ERR_FORMAT, 16, "header claims %" PRIu64 " keys, more than the file can hold (or 65536)",
                       *n_keys);
    if (*n_tensors > GGUF_MAX_TENSORS || *n_tensors > td_cursor_left(c) / GGUF_MIN_TENSOR)
        return td_fail(err, TD_ERR_FORMAT, 8,
                       "header claims %" PRIu64 " tensors, more than the file can hold (or 1048576)", *n_tensors);
    return TD_OK;
}

td_status gguf_parse(td_arena *arena, gguf_part *part, int file, td_error *err) {
    uint64_t n_tensors = 0, n_keys = 0, alignment = 0;
    td_cursor c = td_cursor_make(part->data, part->n_bytes, 0);
    td_status status = read_header(&c, part, &n_tensors, &n_keys, err);
    if (status == TD_OK) status = read_keys(&c, arena, n_keys, &part->keys, err);
    if (status == TD_OK) status = read_alignment(&part->keys, &alignment, err);
    if (status != TD_OK) return status;
    if (n_tensors > td_cursor_left(&c) / GGUF_MIN_TENSOR) /* again, now that the metadata's size is known */
        return td_fail(err, TD_ERR_FORMAT, 8, "header claims %" PRIu64 " tensors, more than the file can hold",
                       n_tensors);
    tensor_note *notes = td_arena_alloc(arena, (size_t)n_tensors, sizeof *notes);
    part->tensors = td_arena_alloc(arena, (size_t)n_tensors, sizeof *part->tensors);
    if (part->tensors == NULL || notes == NULL)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory for %" PRIu64 " tensors", n_tensors);
    for (uint64_t i = 0; i < n_tensors; i++) {
        status = read_tensor(&c, arena, i, &part->tensors[i], &notes[i], err);
        if (status != TD_OK) return status;
        part->tensors[i].file = file;
        part->n_tensors = (size_t)i + 1;
    }
    return place_tensors(part, notes, td_cursor_offset(&c), alignment, err);
}
