/* See hf_config.h. Defaults are those of the configuration class in Hugging Face transformers. */
#include "hf_config.h"

#include "../base/map.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Whole numbers are read as reals: tokenizer_config.json holds 10^30, and sizes are far below 2^53. */
td_status td_hf_json(json_t **out, const char *path, uint64_t max_bytes, bool optional, td_error *err) {
    *out = NULL;
    struct stat st;
    if (optional && stat(path, &st) != 0) return TD_OK;
    td_map m;
    td_status status = td_map_open(&m, path, err);
    if (status != TD_OK) return status;
    json_error_t e;
    if (m.n_bytes > max_bytes) {
        status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s: %zu bytes of JSON, at most %llu are read", path,
                         m.n_bytes, (unsigned long long)max_bytes);
    } else if (m.n_bytes == 0) {
        status = td_fail(err, TD_ERR_FORMAT, 0, "%s: the file is empty", path);
    } else if (!(*out = json_loadb((const char *)m.data, m.n_bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL,
                                   &e))) {
        status = td_fail(err, TD_ERR_FORMAT, e.position >= 0 ? (uint64_t)e.position : TD_NO_OFFSET, "%s: line %d: %s",
                         path, e.line, e.text);
    } else if (!json_is_object(*out)) {
        status = td_fail(err, TD_ERR_FORMAT, 0, "%s: the document is not an object", path);
        json_decref(*out);
        *out = NULL;
    }
    td_map_close(&m);
    return status;
}

typedef struct reader { /* first error wins; later reads give the default */
    const json_t *text; /* the text model's object */
    const char *path;
    td_status status;
    td_error *err;
} reader;

static void bad(reader *r, const char *key, const char *want) {
    if (r->status == TD_OK) {
        r->status = td_fail(r->err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s: \"%s\" must be %s", r->path, key, want);
    }
}

enum { REQUIRED = -1 };

/* A whole number in [min, max]; null and absent give `def`. */
static uint32_t number(reader *r, const json_t *o, const char *key, int64_t def, int64_t min, int64_t max) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        if (def == REQUIRED) bad(r, key, "there");
        return def == REQUIRED ? (uint32_t)min : (uint32_t)def;
    }
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    int64_t n = x >= (double)min && x <= (double)max ? (int64_t)x : min - 1;
    if (n < min || (double)n != x) {
        char want[96];
        snprintf(want, sizeof want, "a whole number from %lld to %lld", (long long)min, (long long)max);
        bad(r, key, want);
        return (uint32_t)min;
    }
    return (uint32_t)n;
}

static float real(reader *r, const json_t *o, const char *key, double def, double min, double max) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return (float)def;
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(x >= min && x <= max)) bad(r, key, "a number in its range");
    return x >= min && x <= max ? (float)x : (float)def;
}

static bool flag(reader *r, const json_t *o, const char *key, bool def) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return def;
    if (!json_is_boolean(v)) bad(r, key, "true or false");
    return json_is_true(v);
}

static void read_class(reader *r, td_hf_config *c, const json_t *root) {
    const json_t *list = json_object_get(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (!name) name = type;
    if (!name || (strncmp(name, "Gemma4", 6) != 0 && strncmp(name, "gemma4", 6) != 0)) {
        if (r->status == TD_OK) {
            r->status = td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                                "%s: the model is '%.60s', not a Gemma 4 text "
                                "model or assistant",
                                r->path, name ? name : "unnamed");
        }
        return;
    }
    c->assistant = strstr(name, "Assistant") || strstr(name, "assistant");
    c->unified = strstr(name, "Unified") || strstr(name, "unified");
}

static void read_layer_types(reader *r, td_hf_config *c) {
    const json_t *list = json_object_get(r->text, "layer_types");
    if (!list || json_is_null(list)) { /* five sliding, one full */
        for (uint32_t i = 0; i < c->n_layer; i++) c->sliding[i] = (i + 1) % 6 != 0;
    } else if (json_array_size(list) != c->n_layer) {
        bad(r, "layer_types", "a list with one entry per layer");
    } else {
        for (uint32_t i = 0; i < c->n_layer; i++) {
            const char *s = json_string_value(json_array_get(list, i));
            bool sliding = s && strcmp(s, "sliding_attention") == 0;
            if (!sliding && !(s && strcmp(s, "full_attention") == 0)) {
                bad(r, "layer_types", "a list of \"sliding_attention\" and \"full_attention\"");
            }
            c->sliding[i] = sliding;
        }
    }
    c->sliding[c->n_layer - 1] = 0; /* the last layer is always a full one */
}

/* The newer form: {"4": {"head_dim": 512, "num_key_value_heads": 1}, …}; it must say the same of every full layer. */
static void read_per_layer(reader *r, td_hf_config *c) {
    const json_t *table = json_object_get(r->text, "per_layer_config");
    if (!table || json_is_null(table)) return;
    if (!json_is_object(table)) bad(r, "per_layer_config", "an object");
    bool first = true;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        const json_t *o = json_object_get(table, key);
        if (c->sliding[i]) {
            if (o && json_object_size(o) > 0) bad(r, "per_layer_config", "without entries for sliding layers");
            continue;
        }
        uint32_t d = number(r, o, "head_dim", c->d_head, 2, 65536),
                 kv = number(r, o, "num_key_value_heads", 0, 0, 65536);
        if (!first && (d != c->d_head_full || kv != c->n_kv_full))
            bad(r, "per_layer_config", "alike for all full layers");
        c->d_head_full = d;
        c->n_kv_full = kv;
        first = false;
    }
}

static void read_attention(reader *r, td_hf_config *c) {
    c->n_head = number(r, r->text, "num_attention_heads", 8, 1, 65536);
    c->n_kv = number(r, r->text, "num_key_value_heads", 4, 1, 65536);
    c->d_head = number(r, r->text, "head_dim", 256, 2, 65536);
    c->k_eq_v = flag(r, r->text, "attention_k_eq_v", false);
    c->d_head_full = number(r, r->text, "global_head_dim", 512, 2, 65536);
    c->n_kv_full = number(r, r->text, "num_global_key_value_heads", 0, 0, 65536);
    read_per_layer(r, c);
    c->window = number(r, r->text, "sliding_window", 512, 1, INT32_MAX);
    c->n_shared = number(r, r->text, "num_kv_shared_layers", c->assistant ? c->n_layer : 0, 0, c->n_layer);
    if (c->assistant && c->n_shared == 0) c->n_shared = c->n_layer;
    if (flag(r, r->text, "attention_bias", false))
        bad(r, "attention_bias", "false: biases are not part of this network");
    const json_t *rope = json_object_get(r->text, "rope_parameters");
    const json_t *full = json_object_get(rope, "full_attention"), *swa = json_object_get(rope, "sliding_attention");
    c->theta = real(r, full, "rope_theta", 1e6, 1, 1e12);
    c->theta_swa = real(r, swa, "rope_theta", 1e4, 1, 1e12);
    c->partial = real(r, full, "partial_rotary_factor", 0.25, 0, 1);
    const char *kind = json_string_value(json_object_get(full, "rope_type"));
    if (kind && strcmp(kind, "proportional") != 0) bad(r, "rope_type", "\"proportional\" for full attention");
    if (c->d_head % 2 || c->d_head_full % 2) bad(r, "head_dim", "even");
}

static void read_feed_forward(reader *r, td_hf_config *c) {
    c->d_ff = number(r, r->text, "intermediate_size", REQUIRED, 1, 1 << 24);
    c->double_wide = flag(r, r->text, "use_double_wide_mlp", false);
    /* The unified classes have no such field: absent means none there. */
    c->ple = number(r, r->text, "hidden_size_per_layer_input", c->assistant || c->unified ? 0 : 256, 0, 65536);
    if (flag(r, r->text, "enable_moe_block", json_object_get(r->text, "num_experts") != NULL)) {
        c->n_expert = number(r, r->text, "num_experts", 0, 0, 65536);
        c->n_used = number(r, r->text, "top_k_experts", 0, 0, c->n_expert);
        const char *key =
            json_object_get(r->text, "moe_intermediate_size") ? "moe_intermediate_size" : "expert_intermediate_size";
        c->ff_expert = number(r, r->text, key, 0, 0, 1 << 24);
        if (c->n_expert > 0 && (c->n_used == 0 || c->ff_expert == 0)) {
            bad(r, "top_k_experts", "given, as must \"moe_intermediate_size\", when there are experts");
        }
    }
}

static void read_all(reader *r, td_hf_config *c, const json_t *root) {
    c->n_layer = number(r, r->text, "num_hidden_layers", REQUIRED, 1, TD_HF_MAX_LAYERS);
    c->d_model = number(r, r->text, "hidden_size", REQUIRED, 1, 1 << 24);
    c->n_vocab = number(r, r->text, "vocab_size", 262144, 1, 1 << 24);
    c->context = number(r, r->text, "max_position_embeddings", 131072, 1, INT32_MAX);
    c->tied = flag(r, r->text, "tie_word_embeddings", flag(r, root, "tie_word_embeddings", true));
    c->eps = real(r, r->text, "rms_norm_eps", 1e-6, 0, 1);
    c->softcap = real(r, r->text, "final_logit_softcapping", 0, 0, 1e9);
    read_layer_types(r, c);
    read_attention(r, c);
    read_feed_forward(r, c);
    if (c->assistant) {
        c->backbone = number(r, root, "backbone_hidden_size", 1536, 1, 1 << 24);
        c->ordered = flag(r, root, "use_ordered_embeddings", false);
        c->n_centroids = number(r, root, "num_centroids", 2048, 1, 1 << 20);
        c->centroid_top_k = number(r, root, "centroid_intermediate_top_k", 32, 1, c->n_centroids);
    }
    const char *activation = json_string_value(json_object_get(r->text, "hidden_activation"));
    if (activation && strcmp(activation, "gelu_pytorch_tanh") != 0)
        bad(r, "hidden_activation", "\"gelu_pytorch_tanh\"");
}

td_status td_hf_config_read(td_hf_config *c, const char *path, td_error *err) {
    json_t *root = NULL;
    memset(c, 0, sizeof *c);
    td_status status = td_hf_json(&root, path, 16 << 20, false, err);
    if (status != TD_OK) return status;
    reader r = {.path = path, .err = err, .text = json_object_get(root, "text_config")};
    if (!json_is_object(r.text)) r.text = root;
    read_class(&r, c, root);
    if (r.status == TD_OK) read_all(&r, c, root);
    json_decref(root);
    return r.status;
}
