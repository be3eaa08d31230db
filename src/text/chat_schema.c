/* Corrections to the schemas of tools (X5). The templates understand one type per place and nothing else; clients send
 * unions, constants and references, which would come out as empty types or Python lists. Each such schema is rewritten
 * to the nearest one that the format can say. Work is bounded: references are followed 8 deep, and a schema that grows
 * beyond a fixed number of nodes keeps plain objects in place of further references. */
#include "chat_impl.h"

#include "../base/status.h"

#include <string.h>

enum { MAX_REFS = 8, MAX_DEPTH = 192, MAX_NODES = 50000, MAX_MEMBERS = 500 };

typedef struct cleaner {
    td_arena *a;
    const td_json *root;
    int n_refs, depth;
    size_t n_nodes;
    bool failed;
} cleaner;

static const td_json *clean(cleaner *c, const td_json *schema);

static td_json *make(cleaner *c, td_json_kind kind) {
    td_json *v = td_json_make(c->a, kind);
    c->n_nodes++;
    if (!v) c->failed = true;
    return v;
}

static void put(cleaner *c, td_json *object, const char *key, const td_json *value) {
    if (!object || !value || !td_json_put(c->a, object, chat_slice(key), value)) c->failed = true;
}

static void put_word(cleaner *c, td_json *object, const char *key, const char *word) {
    td_json *v = make(c, TD_JSON_STRING);
    if (v) v->text = chat_slice(word);
    put(c, object, key, v);
}

static const td_json *plain_object(cleaner *c) {
    td_json *v = make(c, TD_JSON_OBJECT);
    put_word(c, v, "type", "object");
    return v;
}

static bool key_in(const td_json *v, const char *const *names) {
    for (; *names; names++)
        if (v->key.n_bytes == strlen(*names) && memcmp(v->key.data, *names, v->key.n_bytes) == 0) return true;
    return false;
}

/* "#/$defs/x" in the root, with the escapes ~0 and ~1; NULL when it leads nowhere. */
static const td_json *follow(const cleaner *c, td_slice ref) {
    const td_json *v = c->root;
    if (ref.n_bytes < 1 || ref.data[0] != '#') return NULL;
    size_t i = 1;
    while (v && i < ref.n_bytes) {
        char name[256];
        size_t n = 0;
        if (ref.data[i] != '/') return NULL;
        for (i++; i < ref.n_bytes && ref.data[i] != '/'; i++) {
            char ch = ref.data[i];
            if (ch == '~' && i + 1 < ref.n_bytes) ch = ref.data[++i] == '1' ? '/' : '~';
            if (n == sizeof name) return NULL;
            name[n++] = ch;
        }
        v = td_json_get_slice(v, (td_slice){name, n});
    }
    return td_json_is(v, TD_JSON_OBJECT) ? v : NULL;
}

static bool is_null_schema(const td_json *v) {
    return td_json_is_string(td_json_get(v, "type"), "null") || td_json_is(td_json_get(v, "const"), TD_JSON_NULL);
}

/* The members of `outer` but those named, and then those of `inner` that are new: what a union or reference becomes. */
static td_json *overlay(cleaner *c, const td_json *outer, const char *const *without, const td_json *inner,
                        bool nullable) {
    td_json *v = make(c, TD_JSON_OBJECT), *yes = nullable ? make(c, TD_JSON_TRUE) : NULL;
    for (const td_json *m = outer->first; v && m; m = m->next)
        if (!key_in(m, without)) c->failed |= !td_json_put(c->a, v, m->key, m), c->n_nodes++;
    for (const td_json *m = inner ? inner->first : NULL; v && m && v->n < MAX_MEMBERS; m = m->next)
        if (!td_json_get_slice(v, m->key)) c->failed |= !td_json_put(c->a, v, m->key, m), c->n_nodes++;
    if (nullable && v && !td_json_get(v, "nullable")) put(c, v, "nullable", yes);
    return v;
}

/* One layer of $ref, anyOf, oneOf, allOf or const taken off; NULL when there is none. */
static const td_json *unwrap(cleaner *c, const td_json *s) {
    static const char *const ref_words[] = {"$ref", NULL}, *const const_words[] = {"const", "enum", "type", NULL};
    static const char *const unions[] = {"anyOf", "oneOf", "allOf", NULL};
    const td_json *ref = td_json_get(s, "$ref");
    if (td_json_is(ref, TD_JSON_STRING)) return overlay(c, s, ref_words, follow(c, ref->text), false);
    for (const char *const *u = unions; *u; u++) {
        const td_json *list = td_json_get(s, *u), *chosen = NULL, *typed = NULL;
        bool nullable = false;
        if (!td_json_is(list, TD_JSON_ARRAY)) continue;
        for (const td_json *m = list->first; m; m = m->next) {
            if (is_null_schema(m)) {
                nullable = true;
            } else if (td_json_is(m, TD_JSON_OBJECT)) {
                if (!chosen) chosen = m;
                if (!typed && (td_json_get(m, "type") || td_json_get(m, "$ref") || td_json_get(m, "enum") ||
                               td_json_get(m, "const") || td_json_get(m, "properties")))
                    typed = m;
            }
        }
        return overlay(c, s, unions, typed ? typed : chosen, nullable);
    }
    const td_json *constant = td_json_get(s, "const");
    if (!constant) return NULL;
    td_json *v = overlay(c, s, const_words, NULL, false), *values = make(c, TD_JSON_ARRAY);
    td_json *value = values ? td_json_put(c->a, values, (td_slice){NULL, 0}, constant) : NULL;
    if (!v || !value) {
        c->failed = true;
        return NULL;
    }
    if (constant->kind == TD_JSON_STRING) {
        put(c, v, "enum", values);
        put_word(c, v, "type", "string");
    } else if (constant->kind <= TD_JSON_TRUE) {
        put_word(c, v, "type", constant->kind == TD_JSON_NULL ? "null" : "boolean");
    } else if (constant->kind == TD_JSON_NUMBER) {
        int64_t i = 0;
        put_word(c, v, "type", td_json_int(constant, &i) ? "integer" : "number");
    }
    return v;
}

static const char *enum_type(const td_json *values) {
    bool all_whole = values->n > 0, all_numbers = values->n > 0;
    for (const td_json *v = values->first; v; v = v->next) {
        int64_t i = 0;
        all_numbers = all_numbers && v->kind == TD_JSON_NUMBER;
        all_whole = all_whole && td_json_int(v, &i);
    }
    return all_whole ? "integer" : all_numbers ? "number" : "string";
}

/* Sets the one type of `v`, which has none yet, from the `type` of the source (which may be a list) or from what else
 * is there. */
static void put_one_type(cleaner *c, td_json *v, const td_json *source) {
    const td_json *type = td_json_get(source, "type"), *values = td_json_get(source, "enum");
    if (td_json_is(type, TD_JSON_ARRAY)) {
        const td_json *one = NULL;
        bool nullable = false;
        for (const td_json *t = type->first; t; t = t->next) {
            if (td_json_is_string(t, "null"))
                nullable = true;
            else if (!one && t->kind == TD_JSON_STRING)
                one = t;
        }
        if (nullable && one && !td_json_get(v, "nullable")) put(c, v, "nullable", make(c, TD_JSON_TRUE));
        type = one ? one : nullable ? type->first : NULL;
    }
    if (td_json_is(type, TD_JSON_STRING)) {
        put(c, v, "type", type);
    } else if (td_json_is(td_json_get(source, "properties"), TD_JSON_OBJECT)) {
        put_word(c, v, "type", "object");
    } else if (td_json_get(source, "items")) {
        put_word(c, v, "type", "array");
    } else if (td_json_is(values, TD_JSON_ARRAY)) {
        put_word(c, v, "type", enum_type(values));
    }
}

static const td_json *clean_properties(cleaner *c, const td_json *properties) {
    td_json *v = make(c, TD_JSON_OBJECT);
    for (const td_json *p = properties->first; v && p && !c->failed; p = p->next) {
        const td_json *s = clean(c, p);
        if (!s || !td_json_put(c->a, v, p->key, s)) c->failed = true;
    }
    return v;
}

static const td_json *clean_object(cleaner *c, const td_json *s) {
    static const char *const handled[] = {"type", "properties", "items", "$defs", "definitions", NULL};
    const td_json *properties = td_json_get(s, "properties"), *items = td_json_get(s, "items");
    if (td_json_is(items, TD_JSON_ARRAY)) items = items->first; /* old tuple form */
    td_json *v = overlay(c, s, handled, NULL, false);
    if (!v) return NULL;
    put_one_type(c, v, s);
    if (td_json_is(properties, TD_JSON_OBJECT)) put(c, v, "properties", clean_properties(c, properties));
    if (items) put(c, v, "items", clean(c, items));
    return v;
}

static const td_json *clean(cleaner *c, const td_json *schema) {
    if (!td_json_is(schema, TD_JSON_OBJECT) || c->failed) return schema;
    if (c->depth >= MAX_DEPTH || c->n_nodes > MAX_NODES) return plain_object(c);
    int refs = c->n_refs;
    c->depth++;
    const td_json *s = schema;
    for (int layers = 0; s && layers < 16; layers++) {
        bool ref = td_json_is(td_json_get(s, "$ref"), TD_JSON_STRING);
        if (ref && ++c->n_refs > MAX_REFS) {
            s = plain_object(c);
            break;
        }
        const td_json *inner = unwrap(c, s);
        if (!inner) break;
        s = inner;
    }
    const td_json *v = s && !c->failed ? clean_object(c, s) : NULL;
    c->depth--;
    c->n_refs = refs;
    if (!v) c->failed = true;
    return v;
}

td_status td_chat_tools_clean(const td_chat_tool *tools, size_t n_tools, td_arena *a, td_chat_tool **out,
                              td_error *err) {
    td_chat_tool *t = td_arena_alloc(a, n_tools + 1, sizeof *t);
    *out = t;
    for (size_t i = 0; t && i < n_tools; i++) {
        cleaner c = {.a = a, .root = tools[i].parameters};
        t[i] = tools[i];
        if (!td_json_truthy(c.root) || c.root->kind != TD_JSON_OBJECT) continue;
        const td_json *v = clean(&c, c.root);
        if (v && !c.failed && !td_json_get(v, "type")) {
            static const char *const none[] = {NULL};
            td_json *typed = overlay(&c, v, none, NULL, false);
            put_word(&c, typed, "type", "object");
            v = typed;
        }
        if (!v || c.failed) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the schema of a tool");
        t[i].parameters = v;
    }
    return t ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the tools");
}
