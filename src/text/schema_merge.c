/* Two schemas that must both hold made into one: allOf, and what stands beside anyOf, oneOf or $ref. A keyword that
 * both have is joined where that is simple (the narrower bound, the union of properties); otherwise it is an error. */
#include "schema_impl.h"

#include "../base/status.h"

#include <string.h>

enum { MAX_MERGES = 20000, MAX_COMPARED = 4000000 };

static bool is_one_of(td_slice key, const char *const *names) {
    for (; *names; names++)
        if (strlen(*names) == key.n_bytes && memcmp(*names, key.data, key.n_bytes) == 0) return true;
    return false;
}

bool schema_is_annotation(td_slice key) {
    static const char *const names[] = {"title",       "description", "default", "examples",   "example",  "$schema",
                                        "$id",         "$comment",    "$anchor", "deprecated", "readOnly", "writeOnly",
                                        "definitions", "$defs",       "strict",  "name",       NULL};
    return is_one_of(key, names);
}

const td_json *schema_without(schema_ctx *c, const td_json *object, const char *const *names, int n) {
    td_json *out = td_json_make(c->arena, TD_JSON_OBJECT);
    for (const td_json *m = object->first; m && out; m = m->next) {
        bool drop = false;
        for (int i = 0; i < n; i++)
            drop |= strlen(names[i]) == m->key.n_bytes && memcmp(names[i], m->key.data, m->key.n_bytes) == 0;
        if (!drop && !td_json_put(c->arena, out, m->key, m)) out = NULL;
    }
    if (!out) c->tree->failed = true;
    return out;
}

static td_json *list_of(schema_ctx *c, const td_json *v) {
    td_json *out = td_json_make(c->arena, TD_JSON_ARRAY);
    for (const td_json *k = v->kind == TD_JSON_ARRAY ? v->first : v; k && out;
         k = v->kind == TD_JSON_ARRAY ? k->next : NULL)
        if (!td_json_put(c->arena, out, (td_slice){"", 0}, k)) out = NULL;
    if (!out) c->tree->failed = true;
    return out;
}

static bool holds(const td_json *list, const td_json *value) {
    for (const td_json *k = list->first; k; k = k->next)
        if (td_json_equal(k, value)) return true;
    return false;
}

/* `a` and b's elements together (keep: only those in both); types count as lists. "integer" lies within "number". */
static const td_json *join_lists(schema_ctx *c, const td_json *a, const td_json *b, bool common) {
    td_json *x = list_of(c, a), *y = list_of(c, b);
    if (!x || !y || (uint64_t)x->n * y->n > MAX_COMPARED) return NULL;
    td_json *out = td_json_make(c->arena, TD_JSON_ARRAY);
    for (const td_json *k = x->first; k && out; k = k->next)
        if ((!common || holds(y, k)) && !td_json_put(c->arena, out, (td_slice){"", 0}, k)) out = NULL;
    for (const td_json *k = y->first; k && out; k = k->next)
        if (!common && !holds(x, k) && !td_json_put(c->arena, out, (td_slice){"", 0}, k)) out = NULL;
    if (!out) c->tree->failed = true;
    return out;
}

static const td_json *narrower(const td_json *a, const td_json *b, bool largest) {
    double x = 0, y = 0;
    if (!td_json_double(a, &x) || !td_json_double(b, &y)) return NULL;
    return (x > y) == largest ? a : b;
}

static const td_json *merge_types(schema_ctx *c, const td_json *a, const td_json *b) {
    const td_json *both = join_lists(c, a, b, true);
    if (!both || both->n) return both;
    bool integer = (td_json_is_string(a, "integer") && td_json_is_string(b, "number")) ||
                   (td_json_is_string(b, "integer") && td_json_is_string(a, "number"));
    return integer ? (td_json_is_string(a, "integer") ? a : b) : both;
}

static const td_json *merge_properties(schema_ctx *c, const td_json *a, const td_json *b) {
    td_json *out = td_json_make(c->arena, TD_JSON_OBJECT);
    if (a->kind != TD_JSON_OBJECT || b->kind != TD_JSON_OBJECT || (uint64_t)a->n * b->n > MAX_COMPARED) return NULL;
    for (const td_json *m = a->first; m && out; m = m->next) {
        const td_json *other = td_json_get_slice(b, m->key), *value = other ? schema_merge(c, m, other) : m;
        if (!value || !td_json_put(c->arena, out, m->key, value)) out = NULL;
    }
    for (const td_json *m = b->first; m && out; m = m->next)
        if (!td_json_get_slice(a, m->key) && !td_json_put(c->arena, out, m->key, m)) out = NULL;
    return out;
}

/* One keyword that both schemas have; NULL: cannot be joined. */
static const td_json *merge_keyword(schema_ctx *c, td_slice key, const td_json *a, const td_json *b) {
    static const char *const largest[] = {"minimum",  "exclusiveMinimum", "minLength",
                                          "minItems", "minProperties",    NULL};
    static const char *const smallest[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                           "maxItems", "maxProperties",    NULL};
    if (schema_is_annotation(key) || td_json_equal(a, b)) return a;
    if (is_one_of(key, largest)) return narrower(a, b, true);
    if (is_one_of(key, smallest)) return narrower(a, b, false);
    if (td_slice_is(key, "type")) return merge_types(c, a, b);
    if (td_slice_is(key, "required")) return join_lists(c, a, b, false);
    if (td_slice_is(key, "enum")) return join_lists(c, a, b, true);
    if (td_slice_is(key, "properties")) return merge_properties(c, a, b);
    if (td_slice_is(key, "items")) return schema_merge(c, a, b);
    if (td_slice_is(key, "additionalProperties")) {
        if (a->kind == TD_JSON_FALSE || b->kind == TD_JSON_TRUE) return a;
        if (b->kind == TD_JSON_FALSE || a->kind == TD_JSON_TRUE) return b;
        return schema_merge(c, a, b);
    }
    return NULL;
}

const td_json *schema_merge(schema_ctx *c, const td_json *a, const td_json *b) {
    if (c->status || c->tree->failed) return NULL;
    if (++c->n_merges > MAX_MERGES || (uint64_t)a->n * b->n > MAX_COMPARED) {
        schema_fail(c, TD_ERR_LIMIT, b, "too many combinations of schemas");
        return NULL;
    }
    if (a->kind == TD_JSON_FALSE || b->kind == TD_JSON_TRUE) return a;
    if (b->kind == TD_JSON_FALSE || a->kind == TD_JSON_TRUE) return b;
    if (a->kind != TD_JSON_OBJECT || b->kind != TD_JSON_OBJECT) {
        schema_fail(c, TD_ERR_ARGUMENT, b, "expected a schema");
        return NULL;
    }
    td_json *out = td_json_make(c->arena, TD_JSON_OBJECT);
    for (const td_json *m = a->first; m && out; m = m->next) {
        const td_json *other = td_json_get_slice(b, m->key), *value = other ? merge_keyword(c, m->key, m, other) : m;
        if (!value && !c->status && !c->tree->failed)
            schema_fail(c, TD_ERR_ARGUMENT, m, "this keyword cannot be combined with another one of its name");
        if (!value) return NULL;
        if (!td_json_put(c->arena, out, m->key, value)) out = NULL;
    }
    for (const td_json *m = b->first; m && out; m = m->next)
        if (!td_json_get_slice(a, m->key) && !td_json_put(c->arena, out, m->key, m)) out = NULL;
    if (!out) c->tree->failed = true;
    return out;
}
