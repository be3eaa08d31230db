/* Tool declarations as the templates write them, oddities included: a parameter without a type has an empty one, an
 * object without properties shows its schema's own members as properties, the early templates misplace commas. What
 * should not look like that is rewritten before (chat_schema.c). */
#include "chat_impl.h"

#include <string.h>

static bool is_schema_word(td_slice key) {
    static const char *const words[] = {"description", "type", "properties", "required", "nullable"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (key.n_bytes == strlen(words[i]) && memcmp(key.data, words[i], key.n_bytes) == 0) return true;
    return false;
}

static bool key_is(const td_json *v, const char *name) {
    return v->key.n_bytes == strlen(name) && memcmp(v->key.data, name, v->key.n_bytes) == 0;
}

/* Does the type, as text in capitals, read `word`? */
static bool type_is(const td_json *type, const char *word) {
    if (!td_json_is(type, TD_JSON_STRING) || type->text.n_bytes != strlen(word)) return false;
    for (size_t i = 0; i < type->text.n_bytes; i++)
        if ((type->text.data[i] & ~0x20) != word[i]) return false;
    return true;
}

static void put_type(chat_writer *w, const td_json *type) {
    chat_put_text(w, "type:");
    chat_put_mark(w, TD_MARK_QUOTE);
    if (type) chat_put_python(w, type, true);
    chat_put_mark(w, TD_MARK_QUOTE);
}

/* The elements of a list of names, without its brackets. */
static void put_names(chat_writer *w, const td_json *list) {
    if (!td_json_is(list, TD_JSON_ARRAY)) return;
    for (const td_json *c = list->first; c; c = c->next) {
        chat_put_mark(w, TD_MARK_QUOTE);
        chat_put_python(w, c, false);
        chat_put_mark(w, TD_MARK_QUOTE);
        if (c->next) chat_put_text(w, ",");
    }
}

static void put_required(chat_writer *w, const td_json *list) {
    chat_put_text(w, "required:[");
    put_names(w, list);
    chat_put_text(w, "]");
}

static void put_properties(chat_writer *w, const td_json *properties, bool filter);

static void put_item(chat_writer *w, const td_json *v) {
    if (key_is(v, "properties")) {
        chat_put_text(w, "properties:{");
        put_properties(w, v, false);
        chat_put_text(w, "}");
    } else if (key_is(v, "required")) {
        put_required(w, v);
    } else if (!key_is(v, "type")) {
        chat_put_data(w, v->key);
        chat_put_text(w, ":");
        chat_put_value(w, v, true);
    } else if (v->kind != TD_JSON_ARRAY) {
        put_type(w, v);
    } else {
        chat_put_text(w, "type:[");
        for (const td_json *c = v->first; c; c = c->next) {
            chat_put_mark(w, TD_MARK_QUOTE);
            chat_put_python(w, c, true);
            chat_put_mark(w, TD_MARK_QUOTE);
            if (c->next) chat_put_text(w, ",");
        }
        chat_put_text(w, "]");
    }
}

static void put_items(chat_writer *w, const td_json *items) {
    const td_json **c = chat_sorted(w, items);
    bool any = false;
    chat_put_text(w, "items:{");
    for (uint32_t i = 0; c && i < items->n; i++) {
        if (c[i]->kind == TD_JSON_NULL) continue;
        if (any) chat_put_text(w, ",");
        any = true;
        put_item(w, c[i]);
    }
    chat_put_text(w, "}");
}

typedef struct property {
    const td_json *v, *type;
    bool comma; /* something was written */
} property;

/* Python's `value['items']` and the like: nothing for values that are no objects. */
static void separate(chat_writer *w, property *p) {
    if (p->comma) chat_put_text(w, ",");
    p->comma = true;
}

static void put_nullable(chat_writer *w, property *p) {
    if (!td_json_truthy(td_json_get(p->v, "nullable"))) return;
    separate(w, p);
    chat_put_text(w, "nullable:true");
}

static void put_enum(chat_writer *w, property *p) {
    const td_json *values = td_json_get(p->v, "enum");
    if (!type_is(p->type, "STRING") || !td_json_truthy(values)) return;
    separate(w, p);
    chat_put_text(w, "enum:");
    chat_put_value(w, values, true);
}

/* The declared items of an array, or NULL. */
static const td_json *array_items(const property *p) {
    const td_json *items = type_is(p->type, "ARRAY") ? td_json_get(p->v, "items") : NULL;
    return td_json_is(items, TD_JSON_OBJECT) && items->n ? items : NULL;
}

static void put_object_properties(chat_writer *w, property *p) {
    const td_json *own = td_json_get(p->v, "properties");
    chat_put_text(w, "properties:{");
    if (td_json_is(own, TD_JSON_OBJECT)) {
        put_properties(w, own, false);
    } else {
        put_properties(w, p->v, true);
    }
    chat_put_text(w, "}");
}

static void put_property(chat_writer *w, property *p) {
    const td_json *description = td_json_get(p->v, "description"), *required = td_json_get(p->v, "required");
    bool early = w->generation == TD_CHAT_G0 || w->generation == TD_CHAT_INTERLEAVED;
    if (td_json_truthy(description)) {
        chat_put_text(w, "description:");
        chat_put_mark(w, TD_MARK_QUOTE);
        chat_put_python(w, description, false);
        chat_put_mark(w, TD_MARK_QUOTE);
        p->comma = true;
    }
    if (early) put_nullable(w, p);
    put_enum(w, p);
    const td_json *items = array_items(p);
    if (items) {
        if (early) {
            chat_put_text(w, ",");
        } else {
            separate(w, p);
        }
        put_items(w, items);
    }
    if (!early) put_nullable(w, p);
    if (type_is(p->type, "OBJECT")) {
        if (early) {
            chat_put_text(w, ",");
        } else {
            separate(w, p);
        }
        put_object_properties(w, p);
        if (td_json_truthy(required)) {
            chat_put_text(w, ",");
            put_required(w, required);
        }
    }
    separate(w, p);
    put_type(w, p->type);
    chat_put_text(w, "}");
}

static void put_properties(chat_writer *w, const td_json *properties, bool filter) {
    if (!td_json_is(properties, TD_JSON_OBJECT)) return;
    const td_json **c = chat_sorted(w, properties);
    bool any = false;
    filter = filter || w->generation < TD_CHAT_G1B;
    for (uint32_t i = 0; c && i < properties->n; i++) {
        if (filter && is_schema_word(c[i]->key)) continue;
        if (any) chat_put_text(w, ",");
        any = true;
        chat_put_data(w, c[i]->key);
        chat_put_text(w, ":{");
        property p = {c[i], td_json_get(c[i], "type"), false};
        put_property(w, &p);
    }
}

static void put_parameters(chat_writer *w, const td_json *params) {
    const td_json *properties = td_json_get(params, "properties"), *required = td_json_get(params, "required");
    const td_json *type = td_json_get(params, "type");
    chat_put_text(w, ",parameters:{");
    if (td_json_truthy(properties)) {
        chat_put_text(w, "properties:{");
        put_properties(w, properties, false);
        chat_put_text(w, "},");
    }
    if (td_json_truthy(required)) {
        put_required(w, required);
        chat_put_text(w, ",");
    }
    if (td_json_truthy(type)) {
        put_type(w, type);
        chat_put_text(w, "}");
    }
}

void chat_put_declaration(chat_writer *w, const td_chat_tool *tool) {
    chat_put_text(w, "declaration:");
    chat_put_data(w, tool->name);
    chat_put_text(w, "{description:");
    chat_put_string(w, tool->description);
    if (td_json_truthy(tool->parameters)) put_parameters(w, tool->parameters);
    const td_json *type = td_json_get(tool->response, "type");
    if (tool->response && (w->strict || type_is(type, "OBJECT"))) {
        const td_json *description = td_json_get(tool->response, "description");
        chat_put_text(w, ",response:{");
        if (td_json_truthy(description)) {
            chat_put_text(w, "description:");
            chat_put_mark(w, TD_MARK_QUOTE);
            chat_put_python(w, description, false);
            chat_put_mark(w, TD_MARK_QUOTE);
            chat_put_text(w, ",");
        }
        if (type_is(type, "OBJECT")) {
            put_type(w, type);
            chat_put_text(w, "}");
        }
    }
    chat_put_text(w, "}");
}
