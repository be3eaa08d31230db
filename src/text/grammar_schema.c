/* JSON schemas to grammar trees: the keywords that llama.cpp's converter knows, and the meaning of the standard where
 * that costs nothing (patterns without anchors, what stands beside anyOf or $ref). What cannot be expressed is an error
 * or, without `strict`, dropped where llama.cpp drops it too; a schema never turns into free text. */
#include "grammar_schema.h"

#include "../base/status.h"
#include "schema_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 200, MAX_COMPARED = 4000000 };

static g_node *visit(schema_ctx *c, const td_json *s);

g_node *schema_fail(schema_ctx *c, td_status code, const td_json *at, const char *format, ...) {
    if (c->status) return NULL;
    char what[200], key[64] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (at && at->key.n_bytes)
        snprintf(key, sizeof key, ", \"%.*s\"", (int)(at->key.n_bytes < 40 ? at->key.n_bytes : 40), at->key.data);
    c->status = td_fail(c->err, code, TD_NO_OFFSET, "JSON schema%s: %s", key, what);
    return NULL;
}

/* An unsupported keyword: an error when strict. True when it may be dropped. */
static bool drop(schema_ctx *c, const td_json *keyword) {
    if (!c->options || !c->options->strict) return true;
    schema_fail(c, TD_ERR_ARGUMENT, keyword, "this keyword is not supported in a strict schema");
    return false;
}

/* ---- rules and references ---------------------------------------------------------------------------------------- */

/* A rule for the schema; UINT32_MAX after an error. */
static uint32_t rule_of(schema_ctx *c, const td_json *schema) {
    char name[48];
    int n = snprintf(name, sizeof name, " schema %u %u", c->name_prefix, c->n_rules_made++);
    uint32_t rule = g_rule_named(c->tree, name, (size_t)n, 0);
    g_node *node = rule == UINT32_MAX ? NULL : visit(c, schema);
    if (!node) return UINT32_MAX;
    c->tree->rules[rule].node = node;
    return rule;
}

static g_node *as_rule(schema_ctx *c, const td_json *schema) {
    uint32_t rule = rule_of(c, schema);
    return rule == UINT32_MAX ? NULL : g_rule_ref(c->tree, rule);
}

/* The next part of a JSON pointer, decoded (%41, ~0, ~1), into out[256]; false when it is malformed or too long. */
static bool pointer_part(const char **at, const char *end, char *out, size_t *n) {
    *n = 0;
    while (*at < end && **at != '/') {
        unsigned c = (uint8_t) * *at, v = 0;
        char hex[3] = {0};
        ++*at;
        if (c == '%' && end - *at >= 2) {
            memcpy(hex, *at, 2);
            if (sscanf(hex, "%2x", &v) != 1) return false;
            c = v;
            *at += 2;
        }
        if (c == '~') {
            if (*at == end || (**at != '0' && **at != '1')) return false;
            c = **at == '0' ? '~' : '/';
            ++*at;
        }
        if (*n == 255) return false;
        out[(*n)++] = (char)c;
    }
    return true;
}

static const td_json *follow(schema_ctx *c, const td_json *ref) {
    const td_json *v = c->root;
    const char *at = ref->text.data, *end = at + ref->text.n_bytes;
    char part[256];
    size_t n = 0;
    if (ref->kind != TD_JSON_STRING || at == end || *at++ != '#' || (at < end && *at != '/'))
        return schema_fail(c, TD_ERR_ARGUMENT, ref, "only references inside of the schema (#/...) are supported"), NULL;
    while (v && at < end) {
        at++; /* the slash */
        if (!pointer_part(&at, end, part, &n)) v = NULL;
        if (td_json_is(v, TD_JSON_ARRAY)) {
            uint32_t index = 0;
            for (size_t i = 0; i < n && i < 6; i++) index = index * 10 + (uint32_t)(part[i] - '0');
            for (v = n ? v->first : NULL; v && index > 0; index--) v = v->next;
        } else {
            v = td_json_get_slice(v, (td_slice){part, n});
        }
    }
    if (!v)
        schema_fail(c, TD_ERR_ARGUMENT, ref, "nothing is found at \"%.*s\"", (int)(ref->text.n_bytes & 0x7F),
                    ref->text.data);
    return v;
}

/* A reference is a rule of its own, so that schemas may contain themselves. */
static g_node *visit_ref(schema_ctx *c, const td_json *s, const td_json *ref) {
    static const char *const self[] = {"$ref"};
    const td_json *target = follow(c, ref), *rest = target ? schema_without(c, s, self, 1) : NULL;
    if (!rest) return NULL;
    for (const td_json *m = rest->first; m; m = m->next)
        if (!schema_is_annotation(m->key)) {
            const td_json *both = schema_merge(c, target, rest);
            return both ? visit(c, both) : NULL;
        }
    td_buf name = {0};
    bool ok = td_buf_printf(&name, " ref %u ", c->name_prefix) && td_buf_add(&name, ref->text.data, ref->text.n_bytes);
    uint32_t known = c->tree->n_rules, rule = ok ? g_rule_named(c->tree, name.data, name.n_bytes, 0) : UINT32_MAX;
    td_buf_free(&name);
    if (rule == UINT32_MAX) return c->tree->failed = true, NULL;
    if (rule == known) { /* new; while it is being made, references to it find it */
        g_node *node = visit(c, target);
        if (!node) return NULL;
        c->tree->rules[rule].node = node;
    }
    return g_rule_ref(c->tree, rule);
}

/* ---- combinations ------------------------------------------------------------------------------------------------ */

static g_node *visit_all_of(schema_ctx *c, const td_json *s, const td_json *list) {
    static const char *const self[] = {"allOf"};
    const td_json *all = schema_without(c, s, self, 1);
    if (list->kind != TD_JSON_ARRAY) return schema_fail(c, TD_ERR_ARGUMENT, list, "expected an array");
    for (const td_json *k = list->first; k && all; k = k->next) {
        const td_json *part = k;
        for (int hops = 0; part && td_json_get(part, "$ref");
             hops++) { /* what stands beside a reference is joined too */
            static const char *const ref[] = {"$ref"};
            const td_json *target = hops < 32 ? follow(c, td_json_get(part, "$ref")) : NULL;
            if (!target) return schema_fail(c, TD_ERR_ARGUMENT, k, "references go round in circles");
            const td_json *rest = schema_without(c, part, ref, 1);
            part = rest && rest->n ? schema_merge(c, target, rest) : target;
        }
        all = part ? schema_merge(c, all, part) : NULL;
    }
    return all ? visit(c, all) : NULL;
}

/* anyOf and oneOf: one of the alternatives together with what stands beside them. */
static g_node *visit_any_of(schema_ctx *c, const td_json *s, const td_json *list, const char *keyword) {
    const char *self[] = {keyword};
    const td_json *base = schema_without(c, s, self, 1);
    g_list l = {0};
    bool alone = true;
    if (list->kind != TD_JSON_ARRAY || !list->n)
        return schema_fail(c, TD_ERR_ARGUMENT, list, "expected an array of schemas");
    if (!base) return NULL;
    for (const td_json *m = base->first; m; m = m->next) alone &= schema_is_annotation(m->key);
    for (const td_json *k = list->first; k; k = k->next) {
        const td_json *one = k;
        if (!alone && td_json_get(k, "$ref")) {
            one = follow(c, td_json_get(k, "$ref"));
            if (!one) return NULL;
        }
        if (!alone) one = schema_merge(c, base, one);
        if (!one) return NULL;
        const td_json *types = td_json_get(one, "type");
        if (one->kind == TD_JSON_FALSE || (td_json_is(types, TD_JSON_ARRAY) && !types->n))
            continue; /* nothing fits both */
        g_list_add(c->tree, &l, as_rule(c, one));
        if (c->status || c->tree->failed) return NULL;
    }
    if (!l.n) return schema_fail(c, TD_ERR_ARGUMENT, list, "no alternative can be satisfied");
    return g_alt(c->tree, &l);
}

static bool of_type(const td_json *value, const td_json *type) {
    static const char *const names[] = {"null", "boolean", "boolean", "number", "string", "array", "object"};
    int64_t whole = 0;
    if (td_json_is(type, TD_JSON_ARRAY)) {
        for (const td_json *k = type->first; k; k = k->next)
            if (of_type(value, k)) return true;
        return false;
    }
    if (value->kind == TD_JSON_NUMBER && td_json_is_string(type, "integer")) return td_json_int(value, &whole);
    return !type || td_json_is_string(type, names[value->kind]);
}

static g_node *visit_enum(schema_ctx *c, const td_json *s, const td_json *list) {
    g_list l = {0};
    if (list->kind != TD_JSON_ARRAY || !list->n)
        return schema_fail(c, TD_ERR_ARGUMENT, list, "expected an array of values");
    for (const td_json *k = list->first; k && !c->tree->failed; k = k->next)
        if (of_type(k, td_json_get(s, "type"))) g_list_add(c->tree, &l, schema_constant(c, k));
    if (!l.n) return schema_fail(c, TD_ERR_ARGUMENT, list, "no value is of the type");
    return g_alt(c->tree, &l);
}

/* ---- types ------------------------------------------------------------------------------------------------------- */

static bool get_count(schema_ctx *c, const td_json *s, const char *name, uint32_t def, uint32_t *out) {
    const td_json *v = td_json_get(s, name);
    int64_t n = def;
    if (v && (!td_json_int(v, &n) || n < 0 || n > G_MAX_COUNT))
        return schema_fail(c, TD_ERR_ARGUMENT, v, "expected a whole number from 0 to %d", G_MAX_COUNT), false;
    *out = (uint32_t)n;
    return true;
}

static bool get_bounds(schema_ctx *c, const td_json *s, const char *min_name, const char *max_name, uint32_t *min,
                       uint32_t *max) {
    if (!get_count(c, s, min_name, 0, min) || !get_count(c, s, max_name, G_INF, max)) return false;
    if (*max >= *min) return true;
    return schema_fail(c, TD_ERR_ARGUMENT, td_json_get(s, max_name), "%s is below %s", max_name, min_name), false;
}

static g_node *visit_string(schema_ctx *c, const td_json *s) {
    uint32_t min = 0, max = 0;
    const td_json *pattern = td_json_get(s, "pattern"), *format = td_json_get(s, "format");
    bool bounded = td_json_get(s, "minLength") || td_json_get(s, "maxLength");
    if (!get_bounds(c, s, "minLength", "maxLength", &min, &max)) return NULL;
    if (pattern) {
        if (bounded &&
            !drop(c, td_json_get(s, "minLength") ? td_json_get(s, "minLength") : td_json_get(s, "maxLength")))
            return NULL;
        g_node *n = schema_pattern(c, pattern);
        return n ? schema_quoted(c, n) : NULL;
    }
    g_node *n = format ? schema_format(c, format) : NULL; /* other formats do not constrain, as the standard has it */
    if (n) return n;
    return bounded ? schema_string(c, min, max) : schema_shared(c, SHARED_STRING);
}

/* minimum and its kin as whole numbers; false when a bound is not a number. */
static bool int_bounds(schema_ctx *c, const td_json *s, int64_t *lo, int64_t *hi) {
    static const struct {
        const char *name;
        bool upper, exclusive;
    } keys[] = {{"minimum", false, false},
                {"exclusiveMinimum", false, true},
                {"maximum", true, false},
                {"exclusiveMaximum", true, true}};
    for (int i = 0; i < 4; i++) {
        const td_json *v = td_json_get(s, keys[i].name);
        double d = 0;
        if (!v) continue;
        bool exclusive = keys[i].exclusive;
        if (v->kind == TD_JSON_TRUE || v->kind == TD_JSON_FALSE) { /* draft 4: a flag beside minimum or maximum */
            const td_json *bound = td_json_get(s, keys[i].upper ? "maximum" : "minimum");
            if (v->kind == TD_JSON_FALSE || !bound) continue;
            v = bound;
        }
        if (!td_json_double(v, &d)) return schema_fail(c, TD_ERR_ARGUMENT, v, "expected a number"), false;
        int64_t whole = d > 1e17 ? (int64_t)1e17 : d < -1e17 ? (int64_t)-1e17 : (int64_t)d; /* towards zero */
        bool exact = (double)whole == d;
        if (keys[i].upper) {
            int64_t top = exact ? whole - exclusive : d < 0 ? whole - 1 : whole;
            if (top < *hi) *hi = top;
        } else {
            int64_t bottom = exact ? whole + exclusive : d > 0 ? whole + 1 : whole;
            if (bottom > *lo) *lo = bottom;
        }
    }
    return true;
}

static g_node *visit_integer(schema_ctx *c, const td_json *s) {
    const int64_t none = INT64_MAX / 4;
    int64_t lo = -none, hi = none;
    if (!int_bounds(c, s, &lo, &hi)) return NULL;
    return lo == -none && hi == none ? schema_shared(c, SHARED_INTEGER) : schema_int_range(c, lo, hi);
}

static g_node *visit_number(schema_ctx *c, const td_json *s) {
    static const char *const bounds[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    for (int i = 0; i < 4; i++)
        if (td_json_get(s, bounds[i]) && !drop(c, td_json_get(s, bounds[i]))) return NULL;
    return schema_shared(c, SHARED_NUMBER);
}

static g_node *visit_array(schema_ctx *c, const td_json *s) {
    g_tree *t = c->tree;
    const td_json *items = td_json_get(s, "items"), *prefix = td_json_get(s, "prefixItems");
    const td_json *more = prefix ? items : NULL;
    uint32_t min = 0, max = 0;
    if (!prefix && td_json_is(items, TD_JSON_ARRAY)) {
        prefix = items;
        more = td_json_get(s, "additionalItems");
    }
    if (!get_bounds(c, s, "minItems", "maxItems", &min, &max)) return NULL;
    g_list l = {0};
    if (prefix) { /* all places are filled, as in the reference */
        if (prefix->kind != TD_JSON_ARRAY)
            return schema_fail(c, TD_ERR_ARGUMENT, prefix, "expected an array of schemas");
        for (const td_json *k = prefix->first; k && !c->status && !t->failed; k = k->next) {
            if (k != prefix->first) g_list_add(t, &l, schema_comma(c));
            g_list_add(t, &l, as_rule(c, k));
        }
        if (c->status || t->failed) return NULL;
        if (max < prefix->n || (min > prefix->n && !(more && more->kind != TD_JSON_FALSE)))
            return schema_fail(c, TD_ERR_ARGUMENT, prefix, "minItems or maxItems does not fit the places");
        min = min > prefix->n ? min - prefix->n : 0;
        max = max == G_INF ? G_INF : max - prefix->n;
        if (!more || more->kind == TD_JSON_FALSE) max = 0;
    } else if (td_json_is(items, TD_JSON_FALSE)) {
        if (min) return schema_fail(c, TD_ERR_ARGUMENT, items, "minItems of an array that must be empty");
        max = 0;
    }
    if (max == 0) return schema_bracket(c, '[', l.n ? g_seq(t, &l) : NULL, false, ']');
    const td_json *of = prefix ? more : items;
    g_node *item = of ? as_rule(c, of) : schema_shared(c, SHARED_VALUE);
    if (!item) return NULL;
    g_node *next = g_seq_of(t, 2, schema_comma(c), item);
    if (l.n) {
        g_list_add(t, &l, g_repeat(t, next, min, max));
        return schema_bracket(c, '[', g_seq(t, &l), false, ']');
    }
    g_node *rest = g_repeat(t, next, min ? min - 1 : 0, max == G_INF ? G_INF : max - 1);
    return schema_bracket(c, '[', g_seq_of(t, 2, item, rest), min == 0, ']');
}

static bool is_required(const td_json *required, td_slice name) {
    for (const td_json *k = td_json_is(required, TD_JSON_ARRAY) ? required->first : NULL; k; k = k->next)
        if (k->kind == TD_JSON_STRING && k->text.n_bytes == name.n_bytes &&
            memcmp(k->text.data, name.data, name.n_bytes) == 0)
            return true;
    return false;
}

static bool add_member(schema_ctx *c, g_list *members, td_slice name, const td_json *schema) {
    g_node *value = schema ? as_rule(c, schema) : schema_shared(c, SHARED_VALUE);
    if (!value) return false;
    char rule_name[48];
    int n = snprintf(rule_name, sizeof rule_name, " member %u %u", c->name_prefix, c->n_rules_made++);
    uint32_t rule = g_rule_named(c->tree, rule_name, (size_t)n, 0);
    g_node *node = rule == UINT32_MAX ? NULL : g_seq_of(c->tree, 2, schema_key(c, name), value);
    if (!node) return false;
    c->tree->rules[rule].node = node;
    g_list_add(c->tree, members, g_rule_ref(c->tree, rule));
    return !c->tree->failed;
}

static g_node *visit_object(schema_ctx *c, const td_json *s) {
    const td_json *properties = td_json_get(s, "properties"), *required = td_json_get(s, "required");
    const td_json *additional = td_json_get(s, "additionalProperties");
    g_list members = {0};
    g_node *other = NULL;
    if (properties && properties->kind != TD_JSON_OBJECT)
        return schema_fail(c, TD_ERR_ARGUMENT, properties, "expected an object");
    if (required && required->kind != TD_JSON_ARRAY && required->kind != TD_JSON_TRUE &&
        required->kind != TD_JSON_FALSE)
        return schema_fail(c, TD_ERR_ARGUMENT, required, "expected an array of names");
    uint32_t n_properties = properties ? properties->n : 0,
             n_required = td_json_is(required, TD_JSON_ARRAY) ? required->n : 0;
    if (!n_properties && !n_required && (!additional || additional->kind == TD_JSON_TRUE))
        return schema_shared(c, SHARED_OBJECT);
    if ((uint64_t)n_properties * n_required > MAX_COMPARED)
        return schema_fail(c, TD_ERR_LIMIT, required, "too many properties");
    bool *flags = td_arena_alloc(c->arena, (size_t)n_properties + n_required + 1, sizeof *flags);
    if (!flags) return c->tree->failed = true, NULL;
    for (const td_json *p = n_properties ? properties->first : NULL; p; p = p->next) {
        bool must = is_required(required, p->key);
        if (p->kind == TD_JSON_FALSE && !must) continue; /* a member that must not be */
        flags[members.n] = must;
        if (!add_member(c, &members, p->key, p)) return NULL;
    }
    for (const td_json *k = n_required ? required->first : NULL; k; k = k->next) {
        if (k->kind != TD_JSON_STRING) return schema_fail(c, TD_ERR_ARGUMENT, required, "expected an array of names");
        if (td_json_get_slice(properties, k->text)) continue;
        if (td_json_is(additional, TD_JSON_FALSE))
            return schema_fail(c, TD_ERR_ARGUMENT, required, "a required name is not among the properties");
        flags[members.n] = true;
        if (!add_member(c, &members, k->text, td_json_is(additional, TD_JSON_OBJECT) ? additional : NULL)) return NULL;
    }
    /* Without additionalProperties, declared properties are all there are (as in the reference); with none declared the
     * object is free but for what is required. */
    bool open = additional ? additional->kind != TD_JSON_FALSE : n_properties == 0;
    if (open) {
        g_node *value =
            td_json_is(additional, TD_JSON_OBJECT) ? as_rule(c, additional) : schema_shared(c, SHARED_VALUE);
        g_node *name = value ? schema_other_key(c, properties) : NULL;
        other = name ? g_seq_of(c->tree, 2, name, value) : NULL;
        if (!other) return NULL;
    }
    return schema_object_of(c, &members, other, flags);
}

static g_node *visit_type(schema_ctx *c, const td_json *s, const td_json *type) {
    if (td_json_is_string(type, "object")) return visit_object(c, s);
    if (td_json_is_string(type, "array")) return visit_array(c, s);
    if (td_json_is_string(type, "string")) return visit_string(c, s);
    if (td_json_is_string(type, "integer")) return visit_integer(c, s);
    if (td_json_is_string(type, "number")) return visit_number(c, s);
    if (td_json_is_string(type, "boolean"))
        return g_alt_of(c->tree, 2, g_text(c->tree, "true"), g_text(c->tree, "false"));
    if (td_json_is_string(type, "null")) return g_text(c->tree, "null");
    return schema_fail(c, TD_ERR_ARGUMENT, type,
                       "expected one of object, array, string, integer, number, boolean, null");
}

/* A schema without a type: its keywords tell. */
static g_node *visit_untyped(schema_ctx *c, const td_json *s) {
    static const char *const of[4][7] = {{"properties", "required", "additionalProperties", NULL},
                                         {"items", "prefixItems", "minItems", "maxItems", NULL},
                                         {"pattern", "format", "minLength", "maxLength", NULL},
                                         {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", NULL}};
    g_node *(*const visitors[4])(schema_ctx *, const td_json *) = {visit_object, visit_array, visit_string,
                                                                   visit_number};
    for (int i = 0; i < 4; i++)
        for (const char *const *name = of[i]; *name; name++)
            if (td_json_get(s, *name)) return visitors[i](c, s);
    return schema_shared(c, SHARED_VALUE);
}

/* Keywords that constrain and are not supported: false after an error. */
static bool check_keywords(schema_ctx *c, const td_json *s) {
    static const char *const unsupported[] = {"not",
                                              "if",
                                              "contains",
                                              "patternProperties",
                                              "propertyNames",
                                              "dependentRequired",
                                              "dependentSchemas",
                                              "dependencies",
                                              "multipleOf",
                                              "minProperties",
                                              "maxProperties",
                                              "unevaluatedProperties",
                                              "unevaluatedItems",
                                              "$dynamicRef",
                                              "$recursiveRef"};
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        const td_json *v = td_json_get(s, unsupported[i]);
        if (v && v->kind != TD_JSON_TRUE && !drop(c, v)) return false;
    }
    const td_json *unique = td_json_get(s, "uniqueItems");
    return !td_json_is(unique, TD_JSON_TRUE) || drop(c, unique);
}

static g_node *visit_keywords(schema_ctx *c, const td_json *s) {
    const td_json *v = NULL;
    if ((v = td_json_get(s, "$ref"))) return visit_ref(c, s, v);
    if ((v = td_json_get(s, "allOf"))) return visit_all_of(c, s, v);
    if ((v = td_json_get(s, "anyOf"))) return visit_any_of(c, s, v, "anyOf");
    if ((v = td_json_get(s, "oneOf"))) return visit_any_of(c, s, v, "oneOf");
    if (!check_keywords(c, s)) return NULL;
    if ((v = td_json_get(s, "const"))) {
        if (of_type(v, td_json_get(s, "type"))) return schema_constant(c, v);
        return schema_fail(c, TD_ERR_ARGUMENT, v, "the value is not of the type");
    }
    if ((v = td_json_get(s, "enum"))) return visit_enum(c, s, v);
    v = td_json_get(s, "type");
    if (!v) return visit_untyped(c, s);
    if (v->kind != TD_JSON_ARRAY) return visit_type(c, s, v);
    g_list l = {0};
    for (const td_json *k = v->first; k && !c->status && !c->tree->failed; k = k->next)
        g_list_add(c->tree, &l, visit_type(c, s, k));
    if (!v->n) return schema_fail(c, TD_ERR_ARGUMENT, v, "no type satisfies all of it");
    return c->status ? NULL : g_alt(c->tree, &l);
}

static g_node *visit(schema_ctx *c, const td_json *s) {
    if (c->status || c->tree->failed) return NULL;
    if (s->kind == TD_JSON_TRUE) return schema_shared(c, SHARED_VALUE);
    if (s->kind == TD_JSON_FALSE) return schema_fail(c, TD_ERR_ARGUMENT, s, "nothing satisfies the schema false");
    if (s->kind != TD_JSON_OBJECT)
        return schema_fail(c, TD_ERR_ARGUMENT, s, "expected a schema: an object, true or false");
    if (++c->depth > MAX_DEPTH) return schema_fail(c, TD_ERR_LIMIT, s, "schemas are nested or refer too deep");
    g_node *n = visit_keywords(c, s);
    if (n && td_json_is(td_json_get(s, "nullable"), TD_JSON_TRUE)) n = g_alt_of(c->tree, 2, n, g_text(c->tree, "null"));
    c->depth--;
    return n;
}

td_status g_schema_build(g_tree *tree, const char *schema, size_t n_bytes, const td_schema_options *options,
                         uint32_t quote, uint32_t *root, td_error *err) {
    const td_json *json = NULL;
    if (n_bytes > 4u << 20)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "a JSON schema of %zu bytes, at most 4 MiB", n_bytes);
    td_arena *arena = td_arena_create(256u << 20);
    if (!arena) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    schema_ctx c = {.tree = tree, .arena = arena, .options = options, .err = err, .name_prefix = tree->n_rules};
    c.dialect = quote == TD_TOKEN_NONE ? G_JSON : G_CALL;
    c.quote = quote;
    td_status st = td_json_parse(&json, arena, schema, n_bytes, TD_JSON_LAST_WINS, err);
    if (st) {
        td_error_prefix(err, "JSON schema");
    } else {
        c.root = json;
        *root = rule_of(&c, json);
        st = c.status;
    }
    if (!st && (tree->failed || *root == UINT32_MAX))
        st = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar of the JSON schema is too large");
    td_arena_destroy(arena);
    return st;
}

td_status td_grammar_compile_schema(td_grammar **out, const td_vocab *v, const char *schema, size_t n_bytes,
                                    const td_schema_options *options, td_error *err) {
    g_tree tree;
    uint32_t root = 0;
    *out = NULL;
    td_status st = TD_OK;
    if (!g_tree_init(&tree)) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    if (!st) st = g_schema_build(&tree, schema, n_bytes, options, TD_TOKEN_NONE, &root, err);
    if (!st && options && options->thought != TD_THOUGHT_NONE)
        st = td_grammar_root(&tree, g_with_thought(&tree, v, options->thought, g_rule_ref(&tree, root), err), &root,
                             err);
    if (!st) st = td_grammar_from_tree(out, v, &tree, root, err);
    g_tree_free(&tree);
    return st;
}
