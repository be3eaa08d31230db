/* Shows what `tandem inspect` found, for people and as JSON. Text from the file is untrusted: it is made valid UTF-8
 * and control characters are shown escaped, so that a file cannot write to the terminal's controls. */
#include "inspect.h"

#include "text/buf.h"
#include "text/utf8.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES = 60, SHOWN_ITEMS = 6, JSON_ITEMS = 64 };

/* ---- text ---- */

/* `s` as valid UTF-8; cut to `max` bytes when max is not 0. */
static void clean_text(td_buf *out, td_slice s, size_t max) {
    td_utf8_stream stream = {0};
    size_t n = max != 0 && s.n_bytes > max ? max : s.n_bytes;
    td_buf_clear(out);
    if (!td_buf_reserve(out, 3 * (n + 2) + 1)) return;
    size_t m = td_utf8_stream_push(&stream, s.data, n, out->data);
    if (n == s.n_bytes) m += td_utf8_stream_finish(&stream, out->data + m); /* a cut inside a character shows nothing */
    out->n_bytes = m;
    out->data[m] = 0;
}

static void print_text(td_slice s, size_t max) {
    td_buf b = {0};
    clean_text(&b, s, max);
    for (size_t i = 0; i < b.n_bytes; i++) {
        unsigned char c = (unsigned char)b.data[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c < 0x20 || c == 0x7f)
            printf("\\x%02x", c);
        else if (c == 0xc2 && i + 1 < b.n_bytes && (unsigned char)b.data[i + 1] < 0xa0) /* C1 controls */
            printf("\\u%04x", (unsigned char)b.data[++i]);
        else
            putchar(c);
    }
    if (max != 0 && s.n_bytes > max) printf("… (%zu bytes)", s.n_bytes);
    td_buf_free(&b);
}

static void print_bytes(uint64_t n) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)n;
    int u = 0;
    while (v >= 1000 && u < 4) {
        v /= 1000;
        u++;
    }
    printf(u == 0 ? "%.0f %s" : "%.2f %s", v, units[u]);
}

/* ---- table ---- */

static void print_number(const td_gguf_array *a, uint64_t i) {
    int64_t v;
    double f;
    if (a->element == TD_GGUF_BOOL && td_gguf_array_i64(a, i, &v))
        fputs(v != 0 ? "true" : "false", stdout);
    else if (td_gguf_array_i64(a, i, &v))
        printf("%" PRId64, v);
    else if (td_gguf_array_f64(a, i, &f))
        printf("%g", f);
    else
        putchar('?');
}

static void print_array(const td_gguf_array *a) {
    td_cursor c = td_gguf_array_strings(a);
    putchar('[');
    for (uint64_t i = 0; i < a->n && i < SHOWN_ITEMS; i++) {
        td_slice s;
        if (i > 0) fputs(", ", stdout);
        if (a->element != TD_GGUF_STRING)
            print_number(a, i);
        else if (td_gguf_next_string(&c, &s)) {
            putchar('"');
            print_text(s, 24);
            putchar('"');
        }
    }
    fputs(a->n > SHOWN_ITEMS ? ", …]" : "]", stdout);
}

static void print_value(const td_gguf_value *v) {
    switch (v->kind) {
    case TD_GGUF_STRING:
        print_text(v->as.str, SHOWN_BYTES);
        break;
    case TD_GGUF_ARRAY:
        print_array(&v->as.array);
        break;
    case TD_GGUF_BOOL:
        fputs(v->as.u != 0 ? "true" : "false", stdout);
        break;
    case TD_GGUF_F32:
    case TD_GGUF_F64:
        printf("%.9g", v->as.f);
        break;
    case TD_GGUF_I8:
    case TD_GGUF_I16:
    case TD_GGUF_I32:
    case TD_GGUF_I64:
        printf("%" PRId64, v->as.i);
        break;
    default:
        printf("%" PRIu64, v->as.u);
        break;
    }
}

static void kind_text(const td_gguf_value *v, char *out, size_t n) {
    if (v->kind == TD_GGUF_ARRAY)
        snprintf(out, n, "%s[%" PRIu64 "]", td_gguf_kind_name(v->as.array.element), v->as.array.n);
    else
        snprintf(out, n, "%s", td_gguf_kind_name(v->kind));
}

static void shape_text(const td_gguf_tensor *t, char *out, size_t n) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < t->n_dims && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s%" PRIu64, i > 0 ? " x " : "", t->ne[i]);
}

static void print_keys(const td_gguf *g) {
    printf("\nMetadata: %zu keys\n", td_gguf_n_keys(g));
    for (size_t i = 0; i < td_gguf_n_keys(g); i++) {
        const td_gguf_value *v = td_gguf_key_at(g, i);
        char kind[40];
        kind_text(v, kind, sizeof kind);
        printf("  %-48s %-14s ", v->key, kind);
        print_value(v);
        putchar('\n');
    }
}

static void print_tensors(const td_gguf *g, bool attached) {
    printf("\n%s: %zu\n", attached ? "Tensors of the assistant" : "Tensors", td_gguf_n_tensors(g));
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        char shape[96], name[TD_TENSOR_NAME];
        shape_text(t, shape, sizeof shape);
        td_attach_name(t->name, attached, name, sizeof name);
        printf("  %-40s %-8s %-24s ", name, t->type->name, shape);
        print_bytes(t->n_bytes);
        putchar('\n');
    }
}

static void print_mix(const inspect_report *r) {
    printf("\nTypes\n");
    for (int i = 0; i < r->n_mix; i++) {
        const inspect_mix *m = &r->mix[i];
        printf("  %-8s %5" PRIu64 " tensors %14" PRIu64 " values  %6.2f bits  %5.1f %%  ", m->type->name, m->n_tensors,
               m->n_values, (double)m->n_bytes * 8 / (double)m->n_values,
               (double)m->n_bytes * 100 / (double)r->n_bytes);
        print_bytes(m->n_bytes);
        putchar('\n');
    }
    if (r->n_values == 0) return;
    printf("  all      %5zu tensors %14" PRIu64 " values  %6.2f bits           ", td_gguf_n_tensors(r->gguf),
           r->n_values, (double)r->n_bytes * 8 / (double)r->n_values);
    print_bytes(r->n_bytes);
    putchar('\n');
}

static int count_sliding(const td_shape *s) {
    int n = 0;
    for (int i = 0; i < s->n_layer; i++) n += s->layers[i].sliding;
    return n;
}

/* The layers of one attention type: they differ in d_ff at most. */
static void print_kind(const td_shape *s, bool sliding) {
    const td_layer_shape *first = NULL;
    int low = 0, high = 0;
    for (int i = 0; i < s->n_layer; i++) {
        const td_layer_shape *l = &s->layers[i];
        if (l->sliding != sliding) continue;
        if (first == NULL) first = l;
        if (first == l || l->d_ff < low) low = l->d_ff;
        if (first == l || l->d_ff > high) high = l->d_ff;
    }
    if (first == NULL) return;
    printf("              %s layers: %d query heads", sliding ? "sliding" : "full", first->n_head);
    if (!s->assistant) printf(", %d key/value heads", first->n_kv);
    printf(" of %d values, d_ff %d", first->d_head, low);
    if (high != low) printf(" to %d", high);
    printf(", RoPE base %g over %d\n", (double)first->rope_base, first->d_rope);
}

static void print_shape(const td_shape *s) {
    int sliding = count_sliding(s);
    printf(
        "Shape         %d layers (%d sliding over %d positions, %d full), d_model %d, vocabulary %d, trained context "
        "%d\n",
        s->n_layer, sliding, s->window, s->n_layer - sliding, s->d_model, s->n_vocab, s->n_ctx_train);
    print_kind(s, true);
    print_kind(s, false);
    if (!s->assistant && s->n_layer_kv < s->n_layer)
        printf("              the last %d layers share keys and values of earlier ones\n", s->n_layer - s->n_layer_kv);
    if (s->d_ple > 0) printf("              per-layer embeddings of %d values\n", s->d_ple);
    if (s->n_expert > 0)
        printf("              %d experts of d_ff %d, %d used\n", s->n_expert, s->d_expert, s->n_expert_used);
    if (s->softcap > 0) printf("              logits capped at %g\n", (double)s->softcap);
    if (s->assistant) {
        if (s->d_backbone > 0) printf("              for targets with d_model %d\n", s->d_backbone);
        if (s->n_centroid > 0)
            printf("              ordered head: %d clusters, %d looked at\n", s->n_centroid, s->n_centroid_used);
        else
            printf("              dense head\n");
    }
}

static void print_pair(const inspect_report *r) {
    printf("Assistant     %s: ", r->draft_path);
    if (r->code == TD_ATTACH_OK)
        printf("fits, %s head\n", r->ordered ? "ordered" : "dense");
    else
        printf("does not fit (code %d): %s\n", (int)r->code, r->draft_error.text);
}

void inspect_print_table(const inspect_report *r, bool metadata, bool tensors) {
    const td_gguf *g = r->gguf;
    printf("File          %s: GGUF version %d, %d file%s, ", td_gguf_path(g), td_gguf_version(g), td_gguf_n_files(g),
           td_gguf_n_files(g) == 1 ? "" : "s");
    print_bytes(td_gguf_file_bytes(g));
    printf("\nArchitecture  %s", td_gguf_arch(g)[0] != 0 ? td_gguf_arch(g) : "(not named)");
    if (r->has_shape && !r->assistant && strcmp(td_shape_name(&r->shape), td_gguf_arch(g)) != 0)
        printf(", %s", td_shape_name(&r->shape));
    if (r->assistant) printf(", an assistant (draft model)");
    putchar('\n');
    if (r->has_shape) print_shape(&r->shape);
    if (r->usable.code == TD_OK)
        printf("Usable        yes%s\n", r->assistant ? ", with a target that it fits (-md)" : "");
    else
        printf("Usable        no: %s\n", r->usable.text);
    if (r->model != NULL) {
        printf("One token     reads ");
        print_bytes(r->memory.step_bytes);
        printf(" of weights\n");
    }
    if (r->draft_path != NULL) print_pair(r);
    print_mix(r);
    if (metadata) print_keys(g);
    if (tensors) print_tensors(g, false);
    if (tensors && r->draft != NULL) print_tensors(r->draft, true);
}

/* ---- JSON ---- */

static json_t *json_text(td_slice s) {
    td_buf b = {0};
    clean_text(&b, s, 0);
    json_t *j = json_stringn(b.data != NULL ? b.data : "", b.n_bytes);
    td_buf_free(&b);
    return j;
}

static json_t *json_item(const td_gguf_array *a, uint64_t i) {
    int64_t v;
    double f;
    if (a->element == TD_GGUF_BOOL && td_gguf_array_i64(a, i, &v)) return json_boolean(v != 0);
    if (td_gguf_array_i64(a, i, &v)) return json_integer(v);
    json_t *real = td_gguf_array_f64(a, i, &f) ? json_real(f) : NULL; /* NULL also for NaN and infinities */
    return real != NULL ? real : json_null();
}

/* Short arrays whole; long ones as an object with their length and first values. */
static json_t *json_array_value(const td_gguf_array *a) {
    json_t *items = json_array();
    td_cursor c = td_gguf_array_strings(a);
    uint64_t shown = a->n <= JSON_ITEMS ? a->n : SHOWN_ITEMS;
    for (uint64_t i = 0; i < shown; i++) {
        td_slice s;
        if (a->element != TD_GGUF_STRING)
            json_array_append_new(items, json_item(a, i));
        else if (td_gguf_next_string(&c, &s))
            json_array_append_new(items, json_text(s));
    }
    if (a->n <= JSON_ITEMS) return items;
    return json_pack("{s:s, s:I, s:o}", "type", td_gguf_kind_name(a->element), "length", (json_int_t)a->n, "first",
                     items);
}

static json_t *json_value(const td_gguf_value *v) {
    json_t *real = NULL;
    switch (v->kind) {
    case TD_GGUF_STRING:
        return json_text(v->as.str);
    case TD_GGUF_ARRAY:
        return json_array_value(&v->as.array);
    case TD_GGUF_BOOL:
        return json_boolean(v->as.u != 0);
    case TD_GGUF_F32:
    case TD_GGUF_F64:
        real = json_real(v->as.f);
        return real != NULL ? real : json_null();
    case TD_GGUF_I8:
    case TD_GGUF_I16:
    case TD_GGUF_I32:
    case TD_GGUF_I64:
        return json_integer(v->as.i);
    default:
        return v->as.u <= INT64_MAX ? json_integer((json_int_t)v->as.u) : json_real((double)v->as.u);
    }
}

static void add_tensors(json_t *list, const td_gguf *g, bool attached) {
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        json_t *shape = json_array();
        char name[TD_TENSOR_NAME];
        td_attach_name(t->name, attached, name, sizeof name);
        for (int d = 0; d < t->n_dims; d++) json_array_append_new(shape, json_integer((json_int_t)t->ne[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:i, s:I}", "name", name, "type", t->type->name,
                                              "shape", shape, "bytes", (json_int_t)t->n_bytes, "file", t->file,
                                              "offset", (json_int_t)t->offset));
    }
}

static json_t *json_mix(const inspect_report *r) {
    json_t *types = json_object();
    for (int i = 0; i < r->n_mix; i++)
        json_object_set_new(types, r->mix[i].type->name,
                            json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)r->mix[i].n_tensors, "values",
                                      (json_int_t)r->mix[i].n_values, "bytes", (json_int_t)r->mix[i].n_bytes));
    return types;
}

static json_t *json_shape(const td_shape *s) {
    json_t *layers = json_array();
    for (int i = 0; i < s->n_layer; i++) {
        const td_layer_shape *l = &s->layers[i];
        json_array_append_new(layers,
                              json_pack("{s:b, s:b, s:i, s:i, s:i, s:i, s:i, s:f}", "sliding", l->sliding, "moe",
                                        l->moe, "n_head", l->n_head, "n_kv", l->n_kv, "d_head", l->d_head, "d_ff",
                                        l->d_ff, "kv_layer", l->kv_layer, "rope_base", (double)l->rope_base));
    }
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:i, s:i, s:o}", "name", td_shape_name(s),
                     "n_layer", s->n_layer, "n_layer_kv", s->n_layer_kv, "d_model", s->d_model, "n_vocab", s->n_vocab,
                     "n_ctx_train", s->n_ctx_train, "window", s->window, "d_ple", s->d_ple, "n_expert", s->n_expert,
                     "n_expert_used", s->n_expert_used, "softcap", (double)s->softcap, "d_backbone", s->d_backbone,
                     "n_centroid", s->n_centroid, "layers", layers);
}

static void set_text(json_t *o, const char *key, const char *text) {
    json_object_set_new(o, key, json_text((td_slice){text, strlen(text)}));
}

void inspect_print_json(const inspect_report *r, bool metadata, bool tensors) {
    const td_gguf *g = r->gguf;
    json_t *o = json_object();
    set_text(o, "file", td_gguf_path(g));
    json_object_set_new(o, "version", json_integer(td_gguf_version(g)));
    json_object_set_new(o, "files", json_integer(td_gguf_n_files(g)));
    json_object_set_new(o, "bytes", json_integer((json_int_t)td_gguf_file_bytes(g)));
    set_text(o, "architecture", td_gguf_arch(g));
    json_object_set_new(o, "assistant", json_boolean(r->assistant));
    json_object_set_new(o, "usable", json_boolean(r->usable.code == TD_OK));
    if (r->usable.code != TD_OK) set_text(o, "reason", r->usable.text);
    if (r->has_shape) json_object_set_new(o, "shape", json_shape(&r->shape));
    if (r->model != NULL) json_object_set_new(o, "step_bytes", json_integer((json_int_t)r->memory.step_bytes));
    if (r->draft_path != NULL) {
        json_t *d = json_pack("{s:b, s:i}", "fits", r->code == TD_ATTACH_OK, "code", (int)r->code);
        set_text(d, "file", r->draft_path);
        if (r->code != TD_ATTACH_OK)
            set_text(d, "reason", r->draft_error.text);
        else
            set_text(d, "head", r->ordered ? "ordered" : "dense");
        json_object_set_new(o, "draft", d);
    }
    json_object_set_new(o, "values", json_integer((json_int_t)r->n_values));
    json_object_set_new(o, "types", json_mix(r));
    if (metadata) {
        json_t *keys = json_object();
        for (size_t i = 0; i < td_gguf_n_keys(g); i++)
            json_object_set_new(keys, td_gguf_key_at(g, i)->key, json_value(td_gguf_key_at(g, i)));
        json_object_set_new(o, "metadata", keys);
    }
    if (tensors) {
        json_t *list = json_array();
        add_tensors(list, g, false);
        if (r->draft != NULL) add_tensors(list, r->draft, true);
        json_object_set_new(o, "tensors", list);
    }
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(o);
}
