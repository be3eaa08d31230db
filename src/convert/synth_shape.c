/* The released shapes, and what a synthetic file says about itself: model keys and a vocabulary of placeholders. */
#include "synth_parts.h"

#include "../base/checked.h"
#include "arch_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* tiny is E2B's form in small, tiny-… the others': sharing layers, K = V, experts whose rows are no multiple of 256. */
static const td_synth_shape shapes[] = {
    {.size = "tiny",
     .n = 256,
     .n_layer = 9,
     .period = 3,
     .n_head = 4,
     .kv_swa = 1,
     .kv_full = 1,
     .ff = 512,
     .window = 64,
     .n_shared = 3,
     .ple = 128,
     .double_wide = true,
     .a_n = 128,
     .a_head = 4,
     .a_ff = 256,
     .ordered = true,
     .context = 131072,
     .n_vocab = 8192},
    {.size = "tiny-e4b",
     .n = 256,
     .n_layer = 12,
     .period = 3,
     .n_head = 4,
     .kv_swa = 2,
     .kv_full = 2,
     .ff = 512,
     .window = 64,
     .n_shared = 6,
     .ple = 96,
     .a_n = 128,
     .a_head = 4,
     .a_ff = 256,
     .ordered = true,
     .context = 131072,
     .n_vocab = 8192},
    {.size = "tiny-12b",
     .n = 256,
     .n_layer = 6,
     .period = 3,
     .n_head = 4,
     .kv_swa = 2,
     .kv_full = 1,
     .ff = 768,
     .window = 64,
     .k_eq_v = true,
     .a_n = 128,
     .a_head = 4,
     .a_ff = 256,
     .context = 262144,
     .n_vocab = 8192},
    {.size = "tiny-26b",
     .n = 256,
     .n_layer = 6,
     .period = 3,
     .n_head = 4,
     .kv_swa = 2,
     .kv_full = 1,
     .ff = 352,
     .window = 64,
     .k_eq_v = true,
     .n_expert = 16,
     .n_used = 4,
     .ff_expert = 96,
     .a_n = 128,
     .a_head = 4,
     .a_ff = 256,
     .context = 262144,
     .n_vocab = 8192},
    {.size = "tiny-31b",
     .n = 256,
     .n_layer = 6,
     .period = 3,
     .n_head = 8,
     .kv_swa = 4,
     .kv_full = 2,
     .ff = 1024,
     .window = 64,
     .k_eq_v = true,
     .a_n = 128,
     .a_head = 8,
     .a_ff = 256,
     .context = 262144,
     .n_vocab = 8192},
    {.size = "e2b",
     .n = 1536,
     .n_layer = 35,
     .period = 5,
     .n_head = 8,
     .kv_swa = 1,
     .kv_full = 1,
     .ff = 6144,
     .window = 512,
     .n_shared = 20,
     .ple = 256,
     .double_wide = true,
     .a_n = 256,
     .a_head = 4,
     .a_ff = 2048,
     .ordered = true,
     .context = 131072,
     .n_vocab = 262144},
    {.size = "e4b",
     .n = 2560,
     .n_layer = 42,
     .period = 6,
     .n_head = 8,
     .kv_swa = 2,
     .kv_full = 2,
     .ff = 10240,
     .window = 512,
     .n_shared = 18,
     .ple = 256,
     .a_n = 256,
     .a_head = 4,
     .a_ff = 2048,
     .ordered = true,
     .context = 131072,
     .n_vocab = 262144},
    {.size = "12b",
     .n = 3840,
     .n_layer = 48,
     .period = 6,
     .n_head = 16,
     .kv_swa = 8,
     .kv_full = 1,
     .ff = 15360,
     .window = 1024,
     .k_eq_v = true,
     .a_n = 1024,
     .a_head = 16,
     .a_ff = 8192,
     .context = 262144,
     .n_vocab = 262144},
    {.size = "26b",
     .n = 2816,
     .n_layer = 30,
     .period = 6,
     .n_head = 16,
     .kv_swa = 8,
     .kv_full = 2,
     .ff = 2112,
     .window = 1024,
     .k_eq_v = true,
     .n_expert = 128,
     .n_used = 8,
     .ff_expert = 704,
     .a_n = 1024,
     .a_head = 16,
     .a_ff = 8192,
     .context = 262144,
     .n_vocab = 262144},
    {.size = "31b",
     .n = 5376,
     .n_layer = 60,
     .period = 6,
     .n_head = 32,
     .kv_swa = 16,
     .kv_full = 4,
     .ff = 21504,
     .window = 1024,
     .k_eq_v = true,
     .a_n = 1024,
     .a_head = 32,
     .a_ff = 8192,
     .context = 262144,
     .n_vocab = 262144},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], MAX_LAYERS = 64 };

const char *td_synth_size_at(int i) {
    return i >= 0 && i < N_SHAPES ? shapes[i].size : NULL;
}

/* Fewer layers of the same form: whole periods, so that the last layer keeps its full attention, and the share of
 * layers that read another's cache stays near the original's. */
static td_status cut(td_synth_shape *s, uint32_t n_layer, td_error *err) {
    if (n_layer > MAX_LAYERS || n_layer % s->period != 0) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%u layers of %s: a multiple of %u up to %d is needed",
                       n_layer, s->size, s->period, MAX_LAYERS);
    }
    uint32_t n_period = n_layer / s->period, owning = n_period * (s->n_layer - s->n_shared) / s->n_layer;
    s->n_shared = (n_period - (owning ? owning : 1)) * s->period;
    s->n_layer = n_layer;
    return TD_OK;
}

td_status td_synth_shape_make(td_synth_shape *out, const char *size, uint32_t n_layer, td_error *err) {
    for (int i = 0; i < N_SHAPES; i++) {
        if (strcmp(shapes[i].size, size) != 0) continue;
        *out = shapes[i];
        return n_layer ? cut(out, n_layer, err) : TD_OK;
    }
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no shape is called '%s'", size);
}

/* Lists with one entry per layer, written as such only where the layers differ, as the usual converter does. */
static void put_per_layer(arch_keys *k, const td_synth_shape *s, bool assistant, uint32_t n_layer) {
    int32_t kv[MAX_LAYERS], ff[MAX_LAYERS];
    uint8_t swa[MAX_LAYERS];
    for (uint32_t i = 0; i < n_layer; i++) {
        swa[i] = assistant ? i + 1 < n_layer : (i + 1) % s->period != 0;
        kv[i] = (int32_t)(swa[i] ? s->kv_swa : s->kv_full);
        ff[i] = (int32_t)(s->double_wide && i >= n_layer - s->n_shared ? 2 * s->ff : s->ff);
    }
    arch_put_list(k, "attention.sliding_window_pattern", TD_GGUF_BOOL, swa, n_layer);
    if (s->kv_swa == s->kv_full) {
        arch_put_u32(k, "attention.head_count_kv", s->kv_swa);
    } else {
        arch_put_list(k, "attention.head_count_kv", TD_GGUF_I32, kv, n_layer);
    }
    if (assistant || !s->double_wide) {
        arch_put_u32(k, "feed_forward_length", assistant ? s->a_ff : s->ff);
    } else {
        arch_put_list(k, "feed_forward_length", TD_GGUF_I32, ff, n_layer);
    }
}

td_status td_synth_put_keys(td_gguf_writer *w, const td_synth_shape *s, const char *arch, bool assistant,
                            uint32_t file_type, uint64_t n_vocab, td_error *err) {
    arch_keys k = {.w = w, .arch = arch, .err = err};
    char name[64];
    uint32_t n_layer = assistant ? 4 : s->n_layer;
    snprintf(name, sizeof name, "synthetic Gemma 4 %s%s", s->size, assistant ? " assistant" : "");
    arch_put_general(&k, name, file_type);
    arch_put_u32(&k, "context_length", s->context);
    arch_put_u32(&k, "block_count", n_layer);
    arch_put_u32(&k, "embedding_length", assistant ? s->a_n : s->n);
    arch_put_u32(&k, "attention.head_count", assistant ? s->a_head : s->n_head);
    put_per_layer(&k, s, assistant, n_layer);
    arch_put_f32(&k, "attention.layer_norm_rms_epsilon", 1e-6f);
    arch_put_u32(&k, "attention.sliding_window", s->window);
    arch_put_u32(&k, "attention.key_length", 512);
    arch_put_u32(&k, "attention.value_length", 512);
    arch_put_u32(&k, "attention.key_length_swa", 256);
    arch_put_u32(&k, "attention.value_length_swa", 256);
    arch_put_u32(&k, "attention.shared_kv_layers", assistant ? n_layer : s->n_shared);
    arch_put_f32(&k, "rope.freq_base", 1e6f);
    arch_put_f32(&k, "rope.freq_base_swa", 1e4f);
    arch_put_u32(&k, "rope.dimension_count", 512);
    arch_put_u32(&k, "rope.dimension_count_swa", 256);
    arch_put_u32(&k, "embedding_length_per_layer_input", assistant ? 0 : s->ple);
    if (!assistant) {
        arch_put_f32(&k, "final_logit_softcapping", 30);
        if (s->n_expert) {
            arch_put_u32(&k, "expert_count", s->n_expert);
            arch_put_u32(&k, "expert_used_count", s->n_used);
            arch_put_u32(&k, "expert_feed_forward_length", s->ff_expert);
        }
        static const int32_t suppress[2] = {258883, 258882};
        if (k.status == TD_OK && strcmp(s->size, "12b") == 0 && n_vocab > 258883) {
            k.status = td_gguf_put_array(w, "tokenizer.ggml.suppress_tokens", TD_GGUF_I32, suppress, 2, err);
        }
    }
    return k.status;
}

/* ---- vocabulary ---- */

enum { NORMAL = 1, CONTROL = 3, USER = 4, BYTE = 6 };

static const struct {
    uint32_t id;
    int32_t type;
    const char *text;
} special[] = {{0, CONTROL, "<pad>"},
               {1, CONTROL, "<eos>"},
               {2, CONTROL, "<bos>"},
               {3, CONTROL, "<unk>"},
               {4, CONTROL, "<mask>"},
               {5, NORMAL, "[multimodal]"},
               {46, CONTROL, "<|tool>"},
               {47, CONTROL, "<tool|>"},
               {48, USER, "<|tool_call>"},
               {49, USER, "<tool_call|>"},
               {50, USER, "<|tool_response>"},
               {51, USER, "<tool_response|>"},
               {52, USER, "<|\"|>"},
               {98, CONTROL, "<|think|>"},
               {100, USER, "<|channel>"},
               {101, USER, "<channel|>"},
               {105, CONTROL, "<|turn>"},
               {106, CONTROL, "<turn|>"},
               {107, NORMAL, "\n"},
               {494, NORMAL, "\xe2\x96\x81t"},
               {495, NORMAL, "\xe2\x96\x81"},
               {255999, CONTROL, "<|image>"},
               {256000, CONTROL, "<|audio>"},
               {258880, CONTROL, "<|image|>"},
               {258881, CONTROL, "<|audio|>"},
               {258882, CONTROL, "<image|>"},
               {258883, CONTROL, "<audio|>"},
               {258884, CONTROL, "<|video|>"}};

enum { TEXT = 24, FIRST_BYTE = 238, FIRST_CHAR = 496 };

/* The text of token `id` in out[TEXT]; returns its type. */
static int32_t token_text(uint32_t id, char *out) {
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++) {
        if (special[i].id == id) {
            snprintf(out, TEXT, "%s", special[i].text);
            return special[i].type;
        }
    }
    if (id >= FIRST_BYTE && id < FIRST_BYTE + 256) {
        snprintf(out, TEXT, "<0x%02X>", id - FIRST_BYTE);
        return BYTE;
    }
    if (id >= FIRST_CHAR && id < FIRST_CHAR + 94) { /* the printable ASCII characters from '!' */
        snprintf(out, TEXT, "%c", (char)(33 + id - FIRST_CHAR));
    } else if (td_synth_off_walk(id)) {
        snprintf(out, TEXT, "<unused%u>", id);
    } else {
        snprintf(out, TEXT, "\xe2\x96\x81t%u", id);
    }
    return NORMAL;
}

static td_status put_token_keys(td_gguf_writer *w, td_error *err) {
    static const struct {
        const char *key;
        uint32_t id;
    } ids[] = {{"bos", 2}, {"eos", 1}, {"unknown", 3}, {"padding", 0}, {"mask", 4}};
    td_status status = TD_OK;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0] && status == TD_OK; i++) {
        char name[64];
        snprintf(name, sizeof name, "tokenizer.ggml.%s_token_id", ids[i].key);
        status = td_gguf_put_u32(w, name, ids[i].id, err);
    }
    if (status == TD_OK) status = td_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false, err);
    return status == TD_OK ? td_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true, err) : status;
}

td_status td_synth_put_vocabulary(td_gguf_writer *w, uint64_t n_vocab, td_error *err) {
    static const char merge[] = "\xe2\x96\x81 t";
    td_slice *items = td_calloc(n_vocab, sizeof *items), merges[1] = {{merge, sizeof merge - 1}};
    char(*texts)[TEXT] = td_calloc(n_vocab, TEXT);
    float *scores = td_calloc(n_vocab, sizeof *scores);
    int32_t *types = td_calloc(n_vocab, sizeof *types);
    td_status status = TD_OK;
    if (!items || !texts || !scores || !types) {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a vocabulary of %llu",
                         (unsigned long long)n_vocab);
        goto done;
    }
    for (uint64_t i = 0; i < n_vocab; i++) {
        types[i] = token_text((uint32_t)i, texts[i]);
        items[i] = (td_slice){texts[i], strlen(texts[i])};
        scores[i] = -1000;
    }
    status = td_gguf_put_str(w, "tokenizer.ggml.model", "gemma4", err);
    if (status == TD_OK) status = td_gguf_put_strings(w, "tokenizer.ggml.tokens", items, n_vocab, err);
    if (status == TD_OK) status = td_gguf_put_array(w, "tokenizer.ggml.scores", TD_GGUF_F32, scores, n_vocab, err);
    if (status == TD_OK) status = td_gguf_put_array(w, "tokenizer.ggml.token_type", TD_GGUF_I32, types, n_vocab, err);
    if (status == TD_OK) status = td_gguf_put_strings(w, "tokenizer.ggml.merges", merges, 1, err);
    if (status == TD_OK) status = put_token_keys(w, err);
done:
    free(items);
    free(texts);
    free(scores);
    free(types);
    return status;
}
