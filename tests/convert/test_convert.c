/* Conversion of small checkpoints made here: every tensor under its GGUF name with its values, the keys, and one clear
 * error for each way in which a checkpoint can be broken, without leaving a file behind. */
#include "convert/convert.h"

#include "file/gguf.h"
#include "hf_folder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static td_pool *pool;

/* Source name, GGUF name, shape as in the checkpoint; layers are written with %d. */
typedef struct row {
    const char *source, *name;
    uint64_t a, b, c;
} row;

enum { N = 64, P = 32, FF = 96, V = 320, E = 4, FFE = 32, LAYERS = 3 };

static const char target_config[] =
    "{\"architectures\":[\"Gemma4ForConditionalGeneration\"],\"text_config\":{\"vocab_size\":320,\"hidden_size\":64,"
    "\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"num_global_key_value_heads\":1,\"head_dim\":32,\"global_head_dim\":64,\"attention_k_eq_v\":true,"
    "\"sliding_window\":16,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"],"
    "\"num_kv_shared_layers\":1,\"use_double_wide_mlp\":true,\"hidden_size_per_layer_input\":32,"
    "\"enable_moe_block\":true,\"num_experts\":4,\"top_k_experts\":2,\"moe_intermediate_size\":32,"
    "\"max_position_embeddings\":512,\"final_logit_softcapping\":30.0,\"rope_parameters\":{\"full_attention\":"
    "{\"rope_type\":\"proportional\",\"rope_theta\":1000000.0,\"partial_rotary_factor\":0.25},\"sliding_attention\":"
    "{\"rope_type\":\"default\",\"rope_theta\":10000.0}}}}";

static const row global_rows[] = {
    {"model.language_model.embed_tokens.weight", "token_embd.weight", V, N, 0},
    {"model.language_model.norm.weight", "output_norm.weight", N, 0, 0},
    {"model.language_model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", V, P *LAYERS, 0},
    {"model.language_model.per_layer_model_projection.weight", "per_layer_model_proj.weight", P *LAYERS, N, 0},
    {"model.language_model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", P, 0, 0},
};

/* These sizes stand for the head dimension and the width of the feed-forward, which differ by layer. */
enum { D = 100001, W, Q, KV };
static const row layer_rows[] = {
    {"input_layernorm.weight", "attn_norm.weight", N, 0, 0},
    {"self_attn.q_proj.weight", "attn_q.weight", Q, N, 0},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", D, 0, 0},
    {"self_attn.k_proj.weight", "attn_k.weight", KV, N, 0},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", D, 0, 0},
    {"self_attn.v_proj.weight", "attn_v.weight", KV, N, 0},
    {"self_attn.o_proj.weight", "attn_output.weight", N, Q, 0},
    {"post_attention_layernorm.weight", "post_attention_norm.weight", N, 0, 0},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight", N, 0, 0},
    {"mlp.gate_proj.weight", "ffn_gate.weight", W, N, 0},
    {"mlp.up_proj.weight", "ffn_up.weight", W, N, 0},
    {"mlp.down_proj.weight", "ffn_down.weight", N, W, 0},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", N, 0, 0},
    {"post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight", N, 0, 0},
    {"pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight", N, 0, 0},
    {"post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight", N, 0, 0},
    {"router.proj.weight", "ffn_gate_inp.weight", E, N, 0},
    {"router.scale", "ffn_gate_inp.scale", N, 0, 0},
    {"router.per_expert_scale", "ffn_down_exps.scale", E, 0, 0},
    {"experts.gate_up_proj", "ffn_gate_up_exps.weight", E, 2 * FFE, N},
    {"experts.down_proj", "ffn_down_exps.weight", E, N, FFE},
    {"per_layer_input_gate.weight", "inp_gate.weight", P, N, 0},
    {"per_layer_projection.weight", "proj.weight", N, P, 0},
    {"post_per_layer_input_norm.weight", "post_norm.weight", N, 0, 0},
    {"layer_scalar", "layer_output_scale.weight", 1, 0, 0},
};
enum { N_GLOBAL = sizeof global_rows / sizeof global_rows[0], N_LAYER = sizeof layer_rows / sizeof layer_rows[0] };

static uint64_t size_of(uint64_t s, int layer) {
    uint64_t d = layer == 0 ? 32 : 64, kv = layer == 0 ? 2 : 1;
    return s == D ? d : s == W ? (layer == 2 ? 2 * FF : FF) : s == Q ? 4 * d : s == KV ? kv * d : s;
}

static bool exists(const row *r, int layer) {
    if (layer == 2 && strstr(r->source, ".k_")) return false;                 /* shares the KV of layer 1 */
    return !(layer > 0 && strcmp(r->source, "self_attn.v_proj.weight") == 0); /* V is K in full layers */
}

static void make_target(hf_folder *f, const char *name) {
    hf_begin(f, name);
    for (int i = 0; i < N_GLOBAL; i++) hf_add(f, global_rows[i].source, "BF16", global_rows[i].a, global_rows[i].b, 0);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < N_LAYER; i++) {
            const row *r = &layer_rows[i];
            char source[96];
            snprintf(source, sizeof source, "model.language_model.layers.%d.%s", l, r->source);
            if (exists(r, l)) hf_add(f, source, "BF16", size_of(r->a, l), size_of(r->b, l), size_of(r->c, l));
        }
    }
    hf_add(f, "model.vision_tower.encoder.layers.0.x.weight", "F32", 4, 4, 0);
    hf_write_text(f, "config.json", target_config);
    hf_write_text(f, "tokenizer_config.json",
                  "{\"eos_token\":{\"content\":\"<eos>\"},\"model_max_length\":1"
                  "000000000000000019884624838656,\"chat_template\":\"T{{x}}\"}");
    hf_write_text(f, "generation_config.json", "{\"suppress_tokens\":[7,300],\"eos_token_id\":[1,106]}");
    hf_write_tokenizer(f);
}

static td_status convert(const hf_folder *f, const char *type, bool old, char *out, size_t n, td_error *err) {
    hf_path(f, "out.gguf", out, n);
    td_convert_options o = {
        .dir = f->dir, .ftype = type ? td_ftype_by_name(type) : NULL, .old_dialect = old, .pool = pool};
    td_convert_report report;
    return td_convert(&o, out, &report, err);
}

static void check_tensor(td_gguf *g, const char *source, const char *name, int n_dims, const uint64_t *shape) {
    const td_gguf_tensor *t = td_gguf_tensor_find(g, name);
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->n_dims, n_dims);
    uint64_t n = 1;
    for (int i = 0; i < n_dims; i++) {
        assert_int_equal(t->ne[i], shape[n_dims - 1 - i]);
        n *= t->ne[i];
    }
    float *x = malloc(n * sizeof *x);
    t->type->decode(t->data, x, (int64_t)n);
    for (uint64_t i = 0; i < n; i++) {
        double want = (double)hf_value(source, i), limit = t->type->is_quantised ? 0.005 : 0;
        if (fabs((double)x[i] - want) > limit) fail_msg("%s[%llu] is %g", name, (unsigned long long)i, (double)x[i]);
    }
    free(x);
}

static void check_target(const char *path, const char *matrix_type) {
    td_gguf *g = NULL;
    td_error err = {0};
    if (td_gguf_open(&g, path, &err) != TD_OK) fail_msg("%s", err.text);
    size_t n = 1; /* rope_freqs */
    for (int i = 0; i < N_GLOBAL; i++, n++) {
        uint64_t shape[2] = {global_rows[i].a, global_rows[i].b};
        check_tensor(g, global_rows[i].source, global_rows[i].name, global_rows[i].b ? 2 : 1, shape);
    }
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < N_LAYER; i++) {
            const row *r = &layer_rows[i];
            if (!exists(r, l)) continue;
            char source[96], name[96];
            snprintf(source, sizeof source, "model.language_model.layers.%d.%s", l, r->source);
            snprintf(name, sizeof name, "blk.%d.%s", l, r->name);
            uint64_t shape[3] = {size_of(r->a, l), size_of(r->b, l), size_of(r->c, l)};
            check_tensor(g, source, name, r->c ? 3 : r->b ? 2 : 1, shape);
            n++;
        }
    }
    assert_int_equal(td_gguf_n_tensors(g), n);
    assert_string_equal(td_gguf_tensor_find(g, "blk.1.ffn_up.weight")->type->name, matrix_type);
    assert_string_equal(td_gguf_tensor_find(g, "blk.1.ffn_gate_inp.weight")->type->name, "f32");
    assert_string_equal(td_gguf_tensor_find(g, "blk.1.attn_norm.weight")->type->name, "f32");
    const td_gguf_tensor *freqs = td_gguf_tensor_find(g, "rope_freqs.weight");
    assert_int_equal(freqs->ne[0], 32);
    const float *v = freqs->data;
    for (int i = 0; i < 32; i++) assert_true(v[i] == (i < 8 ? 1.0f : 1e30f));
    td_gguf_close(g);
}

static void check_target_keys(const char *path) {
    static const struct {
        const char *key;
        uint32_t want;
    } numbers[] = {{".block_count", 3},
                   {".context_length", 512},
                   {".embedding_length", N},
                   {".attention.head_count", 4},
                   {".attention.key_length", 64},
                   {".attention.value_length_swa", 32},
                   {".rope.dimension_count", 64},
                   {".rope.dimension_count_swa", 32},
                   {".attention.sliding_window", 16},
                   {".attention.shared_kv_layers", 1},
                   {".embedding_length_per_layer_input", 32},
                   {".expert_count", 4},
                   {".expert_used_count", 2},
                   {".expert_feed_forward_length", 32},
                   {"tokenizer.ggml.bos_token_id", 2},
                   {"tokenizer.ggml.eos_token_id", 1},
                   {"tokenizer.ggml.padding_token_id", 0},
                   {"tokenizer.ggml.unknown_token_id", 3}};
    td_gguf *g = NULL;
    assert_int_equal(td_gguf_open(&g, path, NULL), TD_OK);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uint32_t v = 0;
        assert_int_equal(td_gguf_require(g, numbers[i].key, NULL), TD_OK);
        assert_int_equal(td_gguf_get_u32(g, numbers[i].key, 0, &v, NULL), TD_OK);
        if (v != numbers[i].want) fail_msg("%s is %u", numbers[i].key, v);
    }
    uint32_t kv[3], ff[3], swa[3];
    td_gguf_get_u32_each(g, ".attention.head_count_kv", 0, kv, 3, NULL);
    td_gguf_get_u32_each(g, ".feed_forward_length", 0, ff, 3, NULL);
    td_gguf_get_u32_each(g, ".attention.sliding_window_pattern", 0, swa, 3, NULL);
    assert_true(kv[0] == 2 && kv[1] == 1 && kv[2] == 1 && ff[0] == FF && ff[2] == 2 * FF && swa[0] == 1 && swa[1] == 0);
    td_slice s;
    td_gguf_get_str(g, "tokenizer.chat_template", &s, NULL);
    assert_int_equal(s.n_bytes, 6);
    td_gguf_array a;
    td_gguf_get_array(g, "tokenizer.ggml.tokens", &a, NULL);
    assert_int_equal(a.n, V);
    td_gguf_get_array(g, "tokenizer.ggml.suppress_tokens", &a, NULL);
    int64_t id = 0;
    assert_true(td_gguf_array_i64(&a, 1, &id) && id == 300);
    td_gguf_get_array(g, "tokenizer.ggml.merges", &a, NULL);
    td_cursor c = td_gguf_array_strings(&a);
    assert_true(td_gguf_next_string(&c, &s) && s.n_bytes == 3 && memcmp(s.data, "a b", 3) == 0);
    td_gguf_close(g);
}

static void test_target(void **state) {
    (void)state;
    hf_folder f;
    char out[512];
    td_error err = {0};
    make_target(&f, "target");
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    static const char *const types[][2] = {
        {"f32", "f32"}, {"f16", "f16"}, {"bf16", "bf16"}, {"q8_0", "q8_0"}, {NULL, "bf16"}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (convert(&f, types[i][0], false, out, sizeof out, &err) != TD_OK) fail_msg("%s", err.text);
        check_target(out, types[i][1]);
        check_target_keys(out);
    }
    assert_int_equal(convert(&f, "f32", true, out, sizeof out, &err), TD_ERR_ARGUMENT); /* a target has no old layout */
    hf_delete(&f);
}

static void write_index(const hf_folder *f, int cut) {
    static char text[1 << 15];
    size_t at = (size_t)snprintf(text, sizeof text, "{\"weight_map\":{");
    for (int i = 0; i < f->n; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "%s\"%s\":\"model-0000%d-of-00002.safetensors\"",
                               i ? "," : "", f->tensors[i].name, i < cut ? 1 : 2);
    }
    snprintf(text + at, sizeof text - at, "}}");
    hf_write_text(f, "model.safetensors.index.json", text);
    hf_write_tensors(f, "model-00001-of-00002.safetensors", 0, cut);
    hf_write_tensors(f, "model-00002-of-00002.safetensors", cut, f->n);
}

/* The configuration in the newer form, and the tensors in two shards. */
static void test_shards_and_new_config(void **state) {
    (void)state;
    hf_folder f;
    char out[512], path[512];
    td_error err = {0};
    make_target(&f, "shards");
    write_index(&f, 30);
    char config[2048];
    snprintf(config, sizeof config, "%s", target_config);
    char *p = strstr(config, "\"global_head_dim\":64,"), *q = strstr(config, "\"num_global_key_value_heads\":1,");
    memset(p, ' ', strlen("\"global_head_dim\":64,"));
    memset(q, ' ', strlen("\"num_global_key_value_heads\":1,"));
    char *end = strstr(config, "\"max_position");
    char rest[1024];
    snprintf(rest, sizeof rest, "%s", end);
    snprintf(end, sizeof config - (size_t)(end - config),
             "\"per_layer_config\":{\"1\":{\"head_dim\":64,\"num_key_value_heads\":1},\"2\":{\"head_dim\":64,"
             "\"num_key_value_heads\":1}},%s",
             rest);
    hf_write_text(&f, "config.json", config);
    if (convert(&f, "f32", false, out, sizeof out, &err) != TD_OK) fail_msg("%s", err.text);
    check_target(out, "f32");
    check_target_keys(out);
    unlink(out);
    hf_path(&f, "model-00002-of-00002.safetensors", path, sizeof path);
    unlink(path);
    assert_int_not_equal(convert(&f, "f32", false, out, sizeof out, &err), TD_OK);
    assert_non_null(strstr(err.text, "model-00002-of-00002.safetensors"));
    assert_int_not_equal(access(out, F_OK), 0);
    hf_delete(&f);
}

static void make_assistant(hf_folder *f, const char *name) {
    static const row rows[] = {{"model.embed_tokens.weight", "", V, 32, 0},
                               {"model.norm.weight", "", 32, 0, 0},
                               {"pre_projection.weight", "", 32, 2 * N, 0},
                               {"post_projection.weight", "", N, 32, 0},
                               {"masked_embedding.centroids.weight", "", 10, 32, 0}};
    hf_begin(f, name);
    for (int i = 0; i < 5; i++) hf_add(f, rows[i].source, "F32", rows[i].a, rows[i].b, 0);
    hf_add(f, "masked_embedding.token_ordering", "I64", V, 0, 0);
    for (int l = 0; l < 2; l++) {
        static const row layer[] = {
            {"input_layernorm.weight", "", 32, 0, 0},          {"self_attn.q_proj.weight", "", Q, 32, 0},
            {"self_attn.q_norm.weight", "", D, 0, 0},          {"self_attn.o_proj.weight", "", 32, Q, 0},
            {"post_attention_layernorm.weight", "", 32, 0, 0}, {"pre_feedforward_layernorm.weight", "", 32, 0, 0},
            {"mlp.gate_proj.weight", "", 64, 32, 0},           {"mlp.up_proj.weight", "", 64, 32, 0},
            {"mlp.down_proj.weight", "", 32, 64, 0},           {"post_feedforward_layernorm.weight", "", 32, 0, 0}};
        char source[96];
        for (int i = 0; i < 10; i++) {
            snprintf(source, sizeof source, "model.layers.%d.%s", l, layer[i].source);
            hf_add(f, source, "F32", size_of(layer[i].a, l), size_of(layer[i].b, l), 0);
        }
        snprintf(source, sizeof source, "model.layers.%d.layer_scalar", l);
        hf_add(f, source, "F32", 1, 0, 0);
    }
    hf_write_text(
        f, "config.json",
        "{\"architectures\":[\"Gemma4AssistantForCausalLM\"],\"backbone_hidden_size\":64,\"use_ordered_embeddings\":"
        "true,\"num_centroids\":10,\"centroid_intermediate_top_k\":3,\"text_config\":{\"vocab_size\":320,"
        "\"hidden_size\":32,\"intermediate_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":1,\"head_dim\":32,\"global_head_dim\":64,\"sliding_window\":16,\"layer_types\":["
        "\"sliding_attention\",\"full_attention\"],\"hidden_size_per_layer_input\":0}}");
    hf_write_tokenizer(f);
}

static void test_assistant(void **state) {
    (void)state;
    hf_folder f;
    char out[512];
    make_assistant(&f, "assistant");
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    for (int old = 0; old < 2; old++) {
        td_error err = {0};
        if (convert(&f, "f32", old, out, sizeof out, &err) != TD_OK) fail_msg("%s", err.text);
        td_gguf *g = NULL;
        assert_int_equal(td_gguf_open(&g, out, &err), TD_OK);
        assert_string_equal(td_gguf_arch(g), old ? "gemma4_assistant" : "gemma4-assistant");
        assert_int_equal(td_gguf_n_tensors(g), 29);
        check_tensor(g, "pre_projection.weight", old ? "mtp.pre_projection.weight" : "nextn.pre_projection.weight", 2,
                     (uint64_t[]){32, 2 * N});
        check_tensor(g, "masked_embedding.centroids.weight",
                     old ? "mtp.centroids.weight" : "masked_embd_centroids.weight", 2, (uint64_t[]){10, 32});
        const td_gguf_tensor *t = td_gguf_tensor_find(g, old ? "mtp.token_ordering.weight" : "masked_embd_ordering");
        assert_non_null(t);
        assert_int_equal(t->type->id, TD_TYPE_I32);
        for (int i = 0; i < V; i++) assert_int_equal(((const int32_t *)t->data)[i], V - 1 - i);
        uint32_t v = 0;
        bool ordered = false;
        td_gguf_get_u32(g, old ? ".n_embd_backbone" : ".embedding_length_out", 0, &v, NULL);
        assert_int_equal(v, 64);
        td_gguf_get_u32(g, ".n_centroids", 0, &v, NULL);
        assert_int_equal(v, 10);
        td_gguf_get_u32(g, ".centroid_top_k", 0, &v, NULL);
        assert_int_equal(v, 3);
        td_gguf_get_bool(g, ".use_ordered_embeddings", false, &ordered, NULL);
        assert_true(ordered);
        td_gguf_get_u32(g, ".attention.shared_kv_layers", 0, &v, NULL);
        assert_int_equal(v, 2);
        td_gguf_close(g);
    }
    hf_delete(&f);
}

/* ---- broken checkpoints ---- */

static void expect_error(const hf_folder *f, const char *type, const char *part) {
    char out[512];
    td_error err = {0};
    assert_int_not_equal(convert(f, type, false, out, sizeof out, &err), TD_OK);
    if (!strstr(err.text, part)) fail_msg("'%s' does not speak of '%s'", err.text, part);
    assert_null(strchr(err.text, '\n'));
    assert_int_not_equal(access(out, F_OK), 0);
}

static void test_broken(void **state) {
    (void)state;
    hf_folder f;
    char path[512];
    make_target(&f, "broken");
    hf_folder good = f;
#define TENSORS() hf_write_tensors(&f, "model.safetensors", 0, f.n)
    hf_remove(&f, "model.language_model.layers.1.mlp.up_proj.weight");
    TENSORS();
    expect_error(&f, "f32", "layers.1.mlp.up_proj.weight");
    f = good;
    f.tensors[0].dtype = "U8";
    TENSORS();
    expect_error(&f, "f32", "U8");
    f = good;
    f.tensors[0].shape[1] = 96;
    TENSORS();
    expect_error(&f, "f32", "[320, 96]");
    f = good;
    hf_add(&f, "model.language_model.layers.0.mlp.extra.weight", "F32", 4, 4, 0);
    TENSORS();
    expect_error(&f, "f32", "mlp.extra");
    f = good;
    hf_add(&f, "model.norm.weight", "BF16", N, 0, 0); /* the final norm under a second prefix */
    TENSORS();
    expect_error(&f, "f32", "twice");
    f = good;
    TENSORS();
    hf_path(&f, "model.safetensors", path, sizeof path);
    assert_int_equal(truncate(path, 100000), 0);
    expect_error(&f, "f32", "model.safetensors");
    assert_int_equal(truncate(path, 40), 0);
    expect_error(&f, "f32", "model.safetensors");
    TENSORS();
    hf_write_text(&f, "config.json", "{\"architectures\":[\"LlamaForCausalLM\"]}");
    expect_error(&f, "f32", "LlamaForCausalLM");
    hf_write_text(&f, "config.json", "{\"a\":1,\"a\":2}");
    expect_error(&f, "f32", "config.json");
    hf_write_text(&f, "config.json",
                  "{\"architectures\":[\"Gemma4ForCausalLM\"],\"num_hidden_layers\":1e300,\"hidden_size\":4}");
    expect_error(&f, "f32", "num_hidden_layers");
    hf_write_text(&f, "config.json", "[[[[[[");
    expect_error(&f, "f32", "config.json");
    hf_write_text(&f, "config.json", target_config);
    hf_write_text(&f, "generation_config.json", "{\"suppress_tokens\":[1e18]}");
    expect_error(&f, "f32", "suppress_tokens");
    hf_write_text(&f, "generation_config.json", "{\"suppress_tokens\":\"7\"}");
    expect_error(&f, "f32", "not a list");
    hf_write_text(&f, "generation_config.json", "");
    expect_error(&f, "f32", "empty");
    hf_write_text(&f, "generation_config.json", "{}");
    hf_write_text(&f, "tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
    expect_error(&f, "f32", "tokenizer.json");
    hf_path(&f, "tokenizer.json", path, sizeof path);
    unlink(path);
    expect_error(&f, "f32", "tokenizer.json");
    hf_delete(&f);
}

/* A value that f16 cannot hold is told, not turned into infinity. */
static void test_overflow(void **state) {
    (void)state;
    hf_folder f;
    char path[512], out[512];
    td_error err = {0};
    make_target(&f, "overflow");
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    hf_path(&f, "model.safetensors", path, sizeof path);
    FILE *file = fopen(path, "r+b");
    uint64_t n = 0;
    assert_int_equal(fread(&n, 8, 1, file), 1);
    fseek(file, (long)(8 + n) + 2 * 5000, SEEK_SET); /* value 5000 of the embedding, row 78 */
    fwrite("\xff\x7e", 1, 2, file);                  /* 1.7e38 as bf16 */
    fclose(file);
    assert_int_not_equal(convert(&f, "f16", false, out, sizeof out, &err), TD_OK);
    assert_non_null(strstr(err.text, "row 78"));
    assert_int_not_equal(access(out, F_OK), 0);
    td_error_clear(&err);
    assert_int_equal(convert(&f, "bf16", false, out, sizeof out, &err), TD_OK);
    hf_delete(&f);
}

/* A checkpoint is never written over, by whatever name. */
static void test_own_input(void **state) {
    (void)state;
    static const char *const files[] = {"model.safetensors", "config.json", "tokenizer.json", "out.gguf"};
    hf_folder f;
    char path[512], out[512];
    make_target(&f, "own");
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    hf_path(&f, "out.gguf", out, sizeof out);
    hf_path(&f, "model.safetensors", path, sizeof path);
    assert_int_equal(link(path, out), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        td_error err = {0};
        td_convert_options o = {.dir = f.dir, .pool = pool};
        td_convert_report report;
        hf_path(&f, files[i], path, sizeof path);
        assert_int_equal(td_convert(&o, path, &report, &err), TD_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, "part of the checkpoint"));
    }
    unlink(out);
    td_error err = {0};
    if (convert(&f, "f32", false, out, sizeof out, &err) != TD_OK) fail_msg("%s", err.text); /* nothing was harmed */
    hf_delete(&f);
}

static void test_bad_ordering(void **state) {
    (void)state;
    hf_folder f;
    make_assistant(&f, "ordering");
    f.tensors[5].shape[0] = V - 1; /* ids 318..0: too short */
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    expect_error(&f, "f32", "token_ordering");
    f.tensors[5].shape[0] = V;
    f.tensors[5].dtype = "F32"; /* not ids at all */
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    expect_error(&f, "f32", "I64 or I32");
    f.tensors[5].dtype = "I64";
    hf_write_tensors(&f, "model.safetensors", 0, f.n);
    char path[512];
    hf_path(&f, "model.safetensors", path, sizeof path);
    FILE *file = fopen(path, "r+b");
    uint64_t n = 0, at = 0, id = 5; /* the first id becomes 5, which comes again later */
    assert_int_equal(fread(&n, 8, 1, file), 1);
    for (int i = 0; i < 5; i++) at += 4 * f.tensors[i].shape[0] * (f.tensors[i].n_dims > 1 ? f.tensors[i].shape[1] : 1);
    fseek(file, (long)(8 + n + at), SEEK_SET);
    fwrite(&id, 8, 1, file);
    fclose(file);
    expect_error(&f, "f32", "permutation");
    hf_delete(&f);
}

int main(void) {
    if (td_pool_create(&pool, &(td_pool_options){.n_threads = 2}, NULL) != TD_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_target),    cmocka_unit_test(test_shards_and_new_config),
                                       cmocka_unit_test(test_assistant), cmocka_unit_test(test_broken),
                                       cmocka_unit_test(test_overflow),  cmocka_unit_test(test_bad_ordering),
                                       cmocka_unit_test(test_own_input)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    td_pool_destroy(pool);
    return failed;
}
