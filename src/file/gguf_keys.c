/* Questions about metadata: typed getters and array elements. Bytes were checked when the file was opened; here only
 * types and ranges are. */
#include "gguf_internal.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

bool td_gguf_array_i64(const td_gguf_array *a, uint64_t i, int64_t *out) {
    size_t size = gguf_kind_bytes(a->element);
    *out = 0;
    if (i >= a->n || size == 0 || a->element == TD_GGUF_F32 || a->element == TD_GGUF_F64) return false;
    const unsigned char *p = (const unsigned char *)a->bytes.data + i * size;
    uint64_t v = 0;
    for (size_t b = 0; b < size; b++) v |= (uint64_t)p[b] << (8 * b);
    bool is_signed = a->element == TD_GGUF_I8 || a->element == TD_GGUF_I16 || a->element == TD_GGUF_I32;
    if (is_signed && (p[size - 1] & 0x80) != 0) v |= UINT64_MAX << (8 * size);
    if (a->element == TD_GGUF_U64 && v > INT64_MAX) return false;
    memcpy(out, &v, sizeof v);
    return true;
}

bool td_gguf_array_f64(const td_gguf_array *a, uint64_t i, double *out) {
    int64_t integer = 0;
    *out = 0;
    if (i >= a->n) return false;
    size_t size = gguf_kind_bytes(a->element);
    td_cursor c = td_cursor_make(a->bytes.data, a->bytes.n_bytes, 0);
    if (a->element == TD_GGUF_F64) return td_cursor_skip(&c, i * size) && td_cursor_f64(&c, out);
    if (a->element == TD_GGUF_F32) {
        float f = 0;
        bool ok = td_cursor_skip(&c, i * size) && td_cursor_f32(&c, &f);
        *out = (double)f;
        return ok;
    }
    bool ok = a->element != TD_GGUF_BOOL && td_gguf_array_i64(a, i, &integer);
    *out = (double)integer;
    return ok;
}

td_cursor td_gguf_array_strings(const td_gguf_array *a) {
    bool strings = a->element == TD_GGUF_STRING;
    return td_cursor_make(strings ? a->bytes.data : NULL, strings ? a->bytes.n_bytes : 0, 0);
}

bool gguf_value_i64(const td_gguf_value *v, int64_t *out) {
    *out = 0;
    switch (v->kind) {
    case TD_GGUF_U8:
    case TD_GGUF_U16:
    case TD_GGUF_U32:
    case TD_GGUF_U64:
    case TD_GGUF_BOOL:
        if (v->as.u > INT64_MAX) return false;
        *out = (int64_t)v->as.u;
        return true;
    case TD_GGUF_I8:
    case TD_GGUF_I16:
    case TD_GGUF_I32:
    case TD_GGUF_I64:
        *out = v->as.i;
        return true;
    default:
        return false;
    }
}

/* A key that starts with a dot belongs to the architecture. */
const td_gguf_value *td_gguf_find(const td_gguf *g, const char *key) {
    char full[256];
    if (key[0] == '.') {
        int n = snprintf(full, sizeof full, "%s%s", g->arch, key);
        if (n < 0 || n >= (int)sizeof full) return NULL;
        key = full;
    }
    return gguf_find_key(&g->parts[0].keys, key);
}

static td_status wrong_type(const td_gguf_value *v, const char *expected, td_error *err) {
    return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' is of type %s, expected %s", v->key,
                   td_gguf_kind_name(v->kind), expected);
}

td_status td_gguf_get_i64(const td_gguf *g, const char *key, int64_t def, int64_t *out, td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    *out = def;
    if (v == NULL) return TD_OK;
    if (v->kind == TD_GGUF_U64 && v->as.u > INT64_MAX)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' is %" PRIu64 ", too large", v->key, v->as.u);
    if (v->kind == TD_GGUF_BOOL || !gguf_value_i64(v, out)) return wrong_type(v, "an integer", err);
    return TD_OK;
}

td_status td_gguf_get_u32(const td_gguf *g, const char *key, uint32_t def, uint32_t *out, td_error *err) {
    int64_t v = 0;
    *out = def;
    td_status status = td_gguf_get_i64(g, key, def, &v, err);
    if (status != TD_OK) return status;
    if (v < 0 || v > UINT32_MAX)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' is %" PRId64 ", expected 0 to %u", key, v,
                       UINT32_MAX);
    *out = (uint32_t)v;
    return TD_OK;
}

td_status td_gguf_get_f32(const td_gguf *g, const char *key, float def, float *out, td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    *out = def;
    if (v == NULL) return TD_OK;
    if (v->kind != TD_GGUF_F32 && v->kind != TD_GGUF_F64) return wrong_type(v, "f32", err);
    if (!isfinite(v->as.f) || fabs(v->as.f) > (double)FLT_MAX)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' is %g, expected a finite number", v->key,
                       v->as.f);
    *out = (float)v->as.f;
    return TD_OK;
}

td_status td_gguf_get_bool(const td_gguf *g, const char *key, bool def, bool *out, td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    *out = def;
    if (v == NULL) return TD_OK;
    if (v->kind != TD_GGUF_BOOL) return wrong_type(v, "bool", err);
    *out = v->as.u != 0;
    return TD_OK;
}

td_status td_gguf_get_str(const td_gguf *g, const char *key, td_slice *out, td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    *out = (td_slice){NULL, 0};
    if (v == NULL) return TD_OK;
    if (v->kind != TD_GGUF_STRING) return wrong_type(v, "string", err);
    *out = v->as.str;
    return TD_OK;
}

td_status td_gguf_get_array(const td_gguf *g, const char *key, td_gguf_array *out, td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    *out = (td_gguf_array){0};
    if (v == NULL) return TD_OK;
    if (v->kind != TD_GGUF_ARRAY) return wrong_type(v, "array", err);
    *out = v->as.array;
    return TD_OK;
}

static bool fits_u32(int64_t v) {
    return v >= 0 && v <= UINT32_MAX;
}

td_status td_gguf_get_u32_each(const td_gguf *g, const char *key, uint32_t def, uint32_t *out, size_t n,
                               td_error *err) {
    const td_gguf_value *v = td_gguf_find(g, key);
    int64_t one = def;
    if (v != NULL && v->kind == TD_GGUF_ARRAY) {
        const td_gguf_array *a = &v->as.array;
        if (a->n < n)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' has %" PRIu64 " entries, expected %zu",
                           v->key, a->n, n);
        for (size_t i = 0; i < n; i++) {
            if (!td_gguf_array_i64(a, i, &one) || !fits_u32(one))
                return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                               "entry %zu of key '%.80s' (%s) is not a whole number from 0 to %u", i, v->key,
                               td_gguf_kind_name(a->element), UINT32_MAX);
            out[i] = (uint32_t)one;
        }
        return TD_OK;
    }
    if (v != NULL && !gguf_value_i64(v, &one)) return wrong_type(v, "an integer or an array of integers", err);
    if (!fits_u32(one))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%.80s' is %" PRId64 ", expected 0 to %u", key, one,
                       UINT32_MAX);
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)one;
    return TD_OK;
}

td_status td_gguf_require(const td_gguf *g, const char *key, td_error *err) {
    if (td_gguf_find(g, key) != NULL) return TD_OK;
    return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key '%s%s' is missing", key[0] == '.' ? g->arch : "", key);
}
