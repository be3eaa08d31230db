/* See hf_checkpoint.h. Names and fields are those of the released checkpoints (spec gemma4-target.md 6, gemma4-mtp.md
 * 2), written down apart from the converter's own table. */
#include "hf_checkpoint.h"

#include "file/gguf.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static const char *const names[][2] = {
    {"token_embd.weight", "embed_tokens.weight"},
    {"output_norm.weight", "norm.weight"},
    {"per_layer_token_embd.weight", "embed_tokens_per_layer.weight"},
    {"per_layer_model_proj.weight", "per_layer_model_projection.weight"},
    {"per_layer_proj_norm.weight", "per_layer_projection_norm.weight"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
    {"post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight"},
    {"pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight"},
    {"post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight"},
    {"ffn_gate_inp.weight", "router.proj.weight"},
    {"ffn_gate_inp.scale", "router.scale"},
    {"ffn_down_exps.scale", "router.per_expert_scale"},
    {"ffn_gate_up_exps.weight", "experts.gate_up_proj"},
    {"ffn_down_exps.weight", "experts.down_proj"},
    {"inp_gate.weight", "per_layer_input_gate.weight"},
    {"proj.weight", "per_layer_projection.weight"},
    {"post_norm.weight", "post_per_layer_input_norm.weight"},
    {"layer_output_scale.weight", "layer_scalar"},
};
static const char *const bare_names[][2] = {
    /* outside "model." */
    {"output.weight", "lm_head.weight"},
    {"nextn.pre_projection.weight", "pre_projection.weight"},
    {"nextn.post_projection.weight", "post_projection.weight"},
    {"masked_embd_centroids.weight", "masked_embedding.centroids.weight"},
    {"masked_embd_ordering", "masked_embedding.token_ordering"},
};

static td_gguf *open_file(const char *path) {
    td_gguf *g = NULL;
    td_error err = {0};
    if (td_gguf_open(&g, path, &err) != TD_OK) fail_msg("%s", err.text);
    return g;
}

static bool is_assistant(const td_gguf *g) {
    return strcmp(td_gguf_arch(g), "gemma4") != 0;
}

static void name_of(const td_gguf *g, const char *gguf, char *out, size_t n) {
    const char *prefix = is_assistant(g) ? "model." : "model.language_model.", *rest = gguf;
    int layer = -1, used = 0;
    for (size_t i = 0; i < sizeof bare_names / sizeof *bare_names; i++) {
        if (strcmp(gguf, bare_names[i][0]) == 0) {
            snprintf(out, n, "%s", bare_names[i][1]);
            return;
        }
    }
    if (sscanf(gguf, "blk.%d.%n", &layer, &used) == 1) rest = gguf + used;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(rest, names[i][0]) != 0) continue;
        if (layer < 0) {
            snprintf(out, n, "%s%s", prefix, names[i][1]);
        } else {
            snprintf(out, n, "%slayers.%d.%s", prefix, layer, names[i][1]);
        }
        return;
    }
    fail_msg("no name for %s", gguf);
}

static FILE *create(const char *dir, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) fail_msg("cannot write %s", path);
    return f;
}

static void write_json(const char *dir, const char *name, json_t *j) {
    assert_non_null(j);
    FILE *f = create(dir, name);
    assert_int_equal(json_dumpf(j, f, JSON_COMPACT), 0);
    assert_int_equal(fclose(f), 0);
    json_decref(j);
}

/* ---- config.json ---- */

static json_int_t number(const td_gguf *g, const char *key) {
    uint32_t v = 0;
    assert_int_equal(td_gguf_get_u32(g, key, 0, &v, NULL), TD_OK);
    return v;
}

enum { MAX_LAYERS = 64 };

static json_t *text_config(const td_gguf *g) {
    uint32_t n = (uint32_t)number(g, ".block_count"), kv[MAX_LAYERS], ff[MAX_LAYERS], sliding[MAX_LAYERS];
    assert_true(n > 0 && n <= MAX_LAYERS);
    td_gguf_get_u32_each(g, ".attention.head_count_kv", 0, kv, n, NULL);
    td_gguf_get_u32_each(g, ".feed_forward_length", 0, ff, n, NULL);
    td_gguf_get_u32_each(g, ".attention.sliding_window_pattern", 0, sliding, n, NULL);
    json_t *types = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(types, json_string(sliding[i] ? "sliding_attention" : "full_attention"));
    json_t *rope =
        json_pack("{s:{s:s,s:f,s:f},s:{s:s,s:f}}", "full_attention", "rope_type", "proportional", "rope_theta", 1e6,
                  "partial_rotary_factor", 0.25, "sliding_attention", "rope_type", "default", "rope_theta", 1e4);
    json_t *c = json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:f}", "vocab_size",
        (json_int_t)td_gguf_tensor_find(g, "token_embd.weight")->ne[1], "hidden_size", number(g, ".embedding_length"),
        "intermediate_size", (json_int_t)ff[0], "num_hidden_layers", (json_int_t)n, "num_attention_heads",
        number(g, ".attention.head_count"), "num_key_value_heads", (json_int_t)kv[0], "head_dim",
        number(g, ".attention.key_length_swa"), "global_head_dim", number(g, ".attention.key_length"), "sliding_window",
        number(g, ".attention.sliding_window"), "num_kv_shared_layers", number(g, ".attention.shared_kv_layers"),
        "hidden_size_per_layer_input", number(g, ".embedding_length_per_layer_input"), "max_position_embeddings",
        number(g, ".context_length"), "layer_types", types, "rope_parameters", rope, "rms_norm_eps", 1e-6);
    assert_non_null(c);
    if (kv[n - 1] != kv[0]) json_object_set_new(c, "num_global_key_value_heads", json_integer((json_int_t)kv[n - 1]));
    json_object_set_new(c, "use_double_wide_mlp", json_boolean(ff[n - 1] != ff[0]));
    return c;
}

/* True where the first full layer has no V of its own. */
static bool keys_are_values(const td_gguf *g) {
    uint32_t n = (uint32_t)number(g, ".block_count"), sliding[MAX_LAYERS];
    td_gguf_get_u32_each(g, ".attention.sliding_window_pattern", 0, sliding, n, NULL);
    for (uint32_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.attn_v.weight", i);
        if (!sliding[i]) return !td_gguf_tensor_find(g, name);
    }
    return false;
}

static void write_target_config(const td_gguf *g, const char *dir) {
    json_t *text = text_config(g);
    json_object_set_new(text, "tie_word_embeddings", json_false());
    json_object_set_new(text, "final_logit_softcapping", json_real(30));
    json_object_set_new(text, "attention_k_eq_v", json_boolean(keys_are_values(g)));
    if (number(g, ".expert_count")) {
        json_object_set_new(text, "enable_moe_block", json_true());
        json_object_set_new(text, "num_experts", json_integer(number(g, ".expert_count")));
        json_object_set_new(text, "top_k_experts", json_integer(number(g, ".expert_used_count")));
        json_object_set_new(text, "moe_intermediate_size", json_integer(number(g, ".expert_feed_forward_length")));
    }
    bool unified = keys_are_values(g) && !number(g, ".expert_count"); /* as the 12B's class */
    write_json(dir, "config.json",
               json_pack("{s:[s],s:o}", "architectures",
                         unified ? "Gemma4UnifiedForConditionalGeneration" : "Gemma4ForConditionalGeneration",
                         "text_config", text));
}

static void write_assistant_config(const td_gguf *g, const char *dir) {
    bool ordered = number(g, ".n_centroids") > 0;
    json_t *root =
        json_pack("{s:[s],s:I,s:b,s:o}", "architectures", "Gemma4AssistantForCausalLM", "backbone_hidden_size",
                  number(g, ".embedding_length_out"), "use_ordered_embeddings", ordered, "text_config", text_config(g));
    assert_non_null(root);
    if (ordered) {
        json_object_set_new(root, "num_centroids", json_integer(number(g, ".n_centroids")));
        json_object_set_new(root, "centroid_intermediate_top_k", json_integer(number(g, ".centroid_top_k")));
    }
    write_json(dir, "config.json", root);
}

/* ---- tokenizer.json ---- */

static void write_tokenizer(const td_gguf *g, const char *dir) {
    enum { CONTROL = 3, USER = 4 };
    td_gguf_array tokens, types;
    td_slice s;
    td_gguf_get_array(g, "tokenizer.ggml.tokens", &tokens, NULL);
    td_gguf_get_array(g, "tokenizer.ggml.token_type", &types, NULL);
    td_cursor c = td_gguf_array_strings(&tokens);
    json_t *vocab = json_object(), *added = json_array();
    for (uint64_t i = 0; i < tokens.n; i++) {
        int64_t type = 0;
        char text[256];
        assert_true(td_gguf_next_string(&c, &s) && s.n_bytes < sizeof text && td_gguf_array_i64(&types, i, &type));
        memcpy(text, s.data, s.n_bytes);
        text[s.n_bytes] = 0;
        json_object_set_new(vocab, text, json_integer((json_int_t)i));
        if (type == CONTROL || type == USER) {
            json_array_append_new(
                added, json_pack("{s:I,s:s,s:b}", "id", (json_int_t)i, "content", text, "special", type == CONTROL));
        }
    }
    write_json(dir, "tokenizer.json",
               json_pack("{s:s,s:o,s:{s:s,s:{s:s},s:s},s:{s:s,s:b,s:o,s:[[s,s]]}}", "version", "1.0", "added_tokens",
                         added, "normalizer", "type", "Replace", "pattern", "String", " ", "content", "\xe2\x96\x81",
                         "model", "type", "BPE", "byte_fallback", 1, "vocab", vocab, "merges", "\xe2\x96\x81", "t"));
}

/* ---- tensors ---- */

static const char *dtype_of(const td_gguf_tensor *t) {
    switch (t->type->id) {
    case TD_TYPE_F32:
        return "F32";
    case TD_TYPE_BF16:
        return "BF16";
    case TD_TYPE_I32:
        return "I64"; /* the ordering, as checkpoints have it */
    default:
        fail_msg("%s is %s", t->name, t->type->name);
        return NULL;
    }
}

static uint64_t bytes_of(const td_gguf_tensor *t) {
    return t->type->id == TD_TYPE_I32 ? 2 * t->n_bytes : t->n_bytes;
}

static void write_data(FILE *f, const td_gguf_tensor *t) {
    if (t->type->id != TD_TYPE_I32) {
        assert_int_equal(fwrite(t->data, 1, t->n_bytes, f), t->n_bytes);
        return;
    }
    for (uint64_t i = 0; i < t->ne[0]; i++) {
        int32_t id;
        memcpy(&id, (const char *)t->data + 4 * i, 4);
        assert_int_equal(fwrite(&(int64_t){id}, 8, 1, f), 1);
    }
}

/* Tensors [first, last) as one shard; `map` gets their names. rope_freqs is computed by the converter. */
static void write_shard(const td_gguf *g, const char *dir, const char *file, size_t first, size_t last, json_t *map) {
    json_t *header = json_object();
    uint64_t at = 0;
    for (size_t i = first; i < last; i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        char name[160];
        if (strcmp(t->name, "rope_freqs.weight") == 0) continue;
        name_of(g, t->name, name, sizeof name);
        json_t *shape = json_array();
        for (int k = t->n_dims - 1; k >= 0; k--) json_array_append_new(shape, json_integer((json_int_t)t->ne[k]));
        uint64_t end = at + bytes_of(t);
        json_object_set_new(header, name,
                            json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype_of(t), "shape", shape, "data_offsets",
                                      (json_int_t)at, (json_int_t)end));
        json_object_set_new(map, name, json_string(file));
        at = end;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    FILE *f = create(dir, file);
    uint64_t n = strlen(text);
    fwrite(&n, 8, 1, f);
    fwrite(text, 1, n, f);
    for (size_t i = first; i < last; i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        if (strcmp(t->name, "rope_freqs.weight") != 0) write_data(f, t);
    }
    assert_int_equal(fclose(f), 0);
    free(text);
    json_decref(header);
}

void hf_checkpoint_write(const char *gguf, const char *dir) {
    td_gguf *g = open_file(gguf);
    size_t n = td_gguf_n_tensors(g);
    json_t *map = json_object();
    assert_int_equal(mkdir(dir, 0700), 0);
    if (is_assistant(g)) {
        write_assistant_config(g, dir);
    } else {
        write_target_config(g, dir);
    }
    write_tokenizer(g, dir);
    write_shard(g, dir, "model-00001-of-00002.safetensors", 0, n / 2, map);
    write_shard(g, dir, "model-00002-of-00002.safetensors", n / 2, n, map);
    write_json(dir, "model.safetensors.index.json", json_pack("{s:o}", "weight_map", map));
    td_gguf_close(g);
}

/* ---- the way back ---- */

static void compare_key(const td_gguf *g, const td_gguf_value *a) {
    const td_gguf_value *b = td_gguf_find(g, a->key);
    if (!b) fail_msg("no key %s", a->key);
    bool same = a->kind == b->kind;
    if (same && a->kind == TD_GGUF_ARRAY) {
        same = a->as.array.n == b->as.array.n && a->as.array.bytes.n_bytes == b->as.array.bytes.n_bytes &&
               memcmp(a->as.array.bytes.data, b->as.array.bytes.data, a->as.array.bytes.n_bytes) == 0;
    } else if (same && a->kind == TD_GGUF_STRING) {
        same = a->as.str.n_bytes == b->as.str.n_bytes && memcmp(a->as.str.data, b->as.str.data, a->as.str.n_bytes) == 0;
    } else if (same) {
        same = a->as.u == b->as.u;
    }
    if (!same) fail_msg("the key %s differs", a->key);
}

void hf_checkpoint_compare(const char *original, const char *converted) {
    td_gguf *a = open_file(original), *b = open_file(converted);
    for (size_t i = 0; i < td_gguf_n_keys(a); i++) {
        const td_gguf_value *v = td_gguf_key_at(a, i);
        if (strcmp(v->key, "general.name") != 0) compare_key(b, v);
    }
    assert_int_equal(td_gguf_n_tensors(a), td_gguf_n_tensors(b));
    for (size_t i = 0; i < td_gguf_n_tensors(a); i++) {
        const td_gguf_tensor *x = td_gguf_tensor_at(a, i), *y = td_gguf_tensor_find(b, x->name);
        bool same = y && x->type == y->type && x->n_dims == y->n_dims && memcmp(x->ne, y->ne, sizeof x->ne) == 0 &&
                    memcmp(x->data, y->data, x->n_bytes) == 0;
        if (!same) fail_msg("%s: the tensor %s differs", converted, x->name);
    }
    td_gguf_close(a);
    td_gguf_close(b);
}
