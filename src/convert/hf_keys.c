/* See hf_keys.h. Keys and their types are those the usual converter writes (spec gemma4-target.md 2.2 and 6.5,
 * gemma4-mtp.md 2.1 and 2.2, tokenizer.md A.4), so that other engines load the file. */
#include "hf_keys.h"

#include "../base/checked.h"
#include "../base/map.h"
#include "../text/vocab_file.h"
#include "arch_keys.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- model keys ---- */

static void put_per_layer(arch_keys *k, const td_hf_config *c) {
    int32_t kv[TD_HF_MAX_LAYERS], ff[TD_HF_MAX_LAYERS];
    for (uint32_t i = 0; i < c->n_layer; i++) {
        kv[i] = (int32_t)(c->sliding[i] || !c->n_kv_full ? c->n_kv : c->n_kv_full);
        ff[i] = (int32_t)(c->double_wide && i >= c->n_layer - c->n_shared ? 2 * c->d_ff : c->d_ff);
    }
    if (c->n_kv_full) {
        arch_put_list(k, "attention.head_count_kv", TD_GGUF_I32, kv, c->n_layer);
    } else {
        arch_put_u32(k, "attention.head_count_kv", c->n_kv);
    }
    if (c->double_wide) {
        arch_put_list(k, "feed_forward_length", TD_GGUF_I32, ff, c->n_layer);
    } else {
        arch_put_u32(k, "feed_forward_length", c->d_ff);
    }
    arch_put_list(k, "attention.sliding_window_pattern", TD_GGUF_BOOL, c->sliding, c->n_layer);
}

static void put_assistant_keys(arch_keys *k, const td_hf_config *c, bool old_dialect) {
    if (old_dialect) {
        arch_put_u32(k, "n_embd_backbone", c->backbone);
        arch_put_str(k, "requires_target_arch", "gemma4");
        arch_put_bool(k, "attention.k_eq_v", c->k_eq_v);
    } else {
        arch_put_u32(k, "embedding_length_out", c->backbone);
        arch_put_u32(k, "nextn_predict_layers", c->n_layer);
    }
    arch_put_bool(k, "use_ordered_embeddings", c->ordered);
    if (c->ordered) {
        arch_put_u32(k, "n_centroids", c->n_centroids);
        arch_put_u32(k, "centroid_top_k", c->centroid_top_k);
    }
}

td_status td_hf_put_model_keys(td_gguf_writer *w, const td_hf_config *c, const char *arch, const char *name,
                               uint32_t file_type, bool old_dialect, td_error *err) {
    arch_keys k = {.w = w, .arch = arch, .err = err};
    arch_put_general(&k, name, file_type);
    arch_put_u32(&k, "block_count", c->n_layer);
    arch_put_u32(&k, "context_length", c->context);
    arch_put_u32(&k, "embedding_length", c->d_model);
    arch_put_u32(&k, "attention.head_count", c->n_head);
    put_per_layer(&k, c);
    arch_put_f32(&k, "rope.freq_base", c->theta);
    arch_put_f32(&k, "rope.freq_base_swa", c->theta_swa);
    arch_put_f32(&k, "attention.layer_norm_rms_epsilon", c->eps);
    arch_put_u32(&k, "attention.sliding_window", c->window);
    arch_put_u32(&k, "attention.shared_kv_layers", c->n_shared);
    arch_put_u32(&k, "embedding_length_per_layer_input", c->ple);
    arch_put_u32(&k, "attention.key_length", c->d_head_full);
    arch_put_u32(&k, "attention.value_length", c->d_head_full);
    arch_put_u32(&k, "attention.key_length_swa", c->d_head);
    arch_put_u32(&k, "attention.value_length_swa", c->d_head);
    arch_put_u32(&k, "rope.dimension_count", c->d_head_full);
    arch_put_u32(&k, "rope.dimension_count_swa", c->d_head);
    if (c->n_expert) {
        arch_put_u32(&k, "expert_count", c->n_expert);
        arch_put_u32(&k, "expert_used_count", c->n_used);
        arch_put_u32(&k, "expert_feed_forward_length", c->ff_expert);
    }
    /* Without the key a reader caps at 30; a target without a cap must say so. */
    if (!c->assistant || c->softcap > 0) arch_put_f32(&k, "final_logit_softcapping", c->softcap);
    if (c->assistant) put_assistant_keys(&k, c, old_dialect);
    return k.status;
}

/* ---- vocabulary ---- */

struct td_hf_tokenizer {
    td_map map, chat;
    td_vocab_json *vocab;
    const td_vocab_source *source; /* of vocab */
    json_t *config, *generation;   /* tokenizer_config.json, generation_config.json; NULL when absent */
    uint32_t eos;
};

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static td_status join(char *out, size_t n, const char *dir, const char *name, td_error *err) {
    if ((size_t)snprintf(out, n, "%s/%s", dir, name) < n) return TD_OK;
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the path %.80s… is too long", dir);
}

/* "eos_token": "<eos>" or {"content": "<eos>", …} */
static const char *token_text(const json_t *config, const char *name) {
    const json_t *v = json_object_get(config, name);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static uint32_t find_text(const td_vocab_source *s, const char *text) {
    size_t n = strlen(text);
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        if (s->texts[i].n_bytes == n && memcmp(s->texts[i].data, text, n) == 0) return i;
    }
    return TD_TOKEN_NONE;
}

static td_status open_parts(td_hf_tokenizer *t, const char *dir, const char *path, td_error *err) {
    char file[4096], name[4096];
    td_status status =
        is_folder(path) ? join(file, sizeof file, path, "tokenizer.json", err) : join(file, sizeof file, path, "", err);
    if (status != TD_OK) return status;
    if (!is_folder(path)) file[strlen(file) - 1] = 0; /* the slash */
    status = td_map_open(&t->map, file, err);
    if (status != TD_OK) return status;
    status = td_vocab_json_parse(&t->vocab, (const char *)t->map.data, t->map.n_bytes, err);
    if (status != TD_OK) {
        td_error_prefix(err, "%s", path); /* the parser names the file */
        return status;
    }
    t->source = td_vocab_json_source(t->vocab);
    if (is_folder(path)) dir = path;
    status = join(name, sizeof name, dir, "tokenizer_config.json", err);
    if (status == TD_OK) status = td_hf_json(&t->config, name, 16 << 20, true, err);
    if (status == TD_OK) status = join(name, sizeof name, dir, "chat_template.jinja", err);
    struct stat st;
    if (status == TD_OK && stat(name, &st) == 0) status = td_map_open(&t->chat, name, err);
    t->eos = t->source->eos;
    const char *eos = token_text(t->config, "eos_token");
    if (eos && find_text(t->source, eos) != TD_TOKEN_NONE) t->eos = find_text(t->source, eos);
    return status;
}

td_status td_hf_tokenizer_open(td_hf_tokenizer **out, const char *dir, const char *path, td_error *err) {
    char name[4096];
    *out = NULL;
    td_hf_tokenizer *t = td_calloc(1, sizeof *t);
    if (!t) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the tokenizer");
    td_status status = open_parts(t, dir, path ? path : dir, err);
    if (status == TD_OK) status = join(name, sizeof name, dir, "generation_config.json", err);
    if (status == TD_OK) status = td_hf_json(&t->generation, name, 16 << 20, true, err);
    if (status == TD_OK) {
        *out = t;
    } else {
        td_hf_tokenizer_close(t);
    }
    return status;
}

void td_hf_tokenizer_close(td_hf_tokenizer *t) {
    if (!t) return;
    td_vocab_json_free(t->vocab);
    td_map_close(&t->map);
    td_map_close(&t->chat);
    json_decref(t->config);
    json_decref(t->generation);
    free(t);
}

uint32_t td_hf_tokenizer_size(const td_hf_tokenizer *t) {
    return t->source->n_tokens;
}

static td_status put_merges(td_gguf_writer *w, const td_vocab_source *s, td_error *err) {
    if (s->merges) return td_gguf_put_strings(w, "tokenizer.ggml.merges", s->merges, s->n_merges, err);
    if (!s->pairs || s->n_merges == 0) {
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tokenizer.json has no merges");
    }
    uint64_t total = 0;
    for (uint64_t i = 0; i < 2 * s->n_merges; i++) total += s->pairs[i].n_bytes + 1;
    td_slice *items = td_calloc(s->n_merges, sizeof *items);
    char *text = malloc(total), *at = text;
    if (!items || !text) {
        free(items);
        free(text);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %llu merges", (unsigned long long)s->n_merges);
    }
    td_status status = TD_OK;
    for (uint64_t i = 0; i < s->n_merges && status == TD_OK; i++) {
        td_slice a = s->pairs[2 * i], b = s->pairs[2 * i + 1];
        if (memchr(a.data, ' ', a.n_bytes) || memchr(b.data, ' ', b.n_bytes)) {
            status = td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "merge %llu of tokenizer.json holds a space",
                             (unsigned long long)i);
        }
        items[i] = (td_slice){at, a.n_bytes + 1 + b.n_bytes};
        memcpy(at, a.data, a.n_bytes);
        at[a.n_bytes] = ' ';
        memcpy(at + a.n_bytes + 1, b.data, b.n_bytes);
        at += items[i].n_bytes;
    }
    if (status == TD_OK) status = td_gguf_put_strings(w, "tokenizer.ggml.merges", items, s->n_merges, err);
    free(items);
    free(text);
    return status;
}

/* Types as other engines expect them: what the vocabulary's own rules say of Gemma 4's special texts. */
static td_status put_tokens(td_gguf_writer *w, const td_vocab_source *s, td_error *err) {
    float *scores = td_calloc(s->n_tokens, sizeof *scores);
    int32_t *types = td_calloc(s->n_tokens, sizeof *types);
    td_status status = TD_OK;
    if (!scores || !types) {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %u tokens", s->n_tokens);
    } else {
        for (uint32_t i = 0; i < s->n_tokens; i++) {
            scores[i] = -1000;
            types[i] = s->types ? s->types[i] : TD_TOKEN_TYPE_NORMAL;
        }
    }
    if (status == TD_OK) status = td_gguf_put_strings(w, "tokenizer.ggml.tokens", s->texts, s->n_tokens, err);
    if (status == TD_OK) status = td_gguf_put_array(w, "tokenizer.ggml.scores", TD_GGUF_F32, scores, s->n_tokens, err);
    if (status == TD_OK)
        status = td_gguf_put_array(w, "tokenizer.ggml.token_type", TD_GGUF_I32, types, s->n_tokens, err);
    free(scores);
    free(types);
    return status;
}

static td_status put_suppressed(td_gguf_writer *w, const td_hf_tokenizer *t, td_error *err) {
    const json_t *list = json_object_get(t->generation, "suppress_tokens");
    int32_t ids[1024];
    size_t n = json_array_size(list);
    if (list && !json_is_array(list) && !json_is_null(list))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "generation_config.json: suppress_tokens is not a list");
    if (n == 0) return TD_OK;
    if (n > sizeof ids / sizeof ids[0]) {
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "generation_config.json suppresses %zu tokens, at most 1024",
                       n);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        double v = json_is_number(item) ? json_number_value(item) : -1;
        if (!(v >= 0 && v < t->source->n_tokens) || v != (double)(int32_t)v) {
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET,
                           "generation_config.json: suppress_tokens holds something that "
                           "is not a token id below %u",
                           t->source->n_tokens);
        }
        ids[i] = (int32_t)v;
    }
    return td_gguf_put_array(w, "tokenizer.ggml.suppress_tokens", TD_GGUF_I32, ids, n, err);
}

static td_status put_template(td_gguf_writer *w, const td_hf_tokenizer *t, td_error *err) {
    td_slice s = {(const char *)t->chat.data, t->chat.n_bytes};
    const json_t *v = json_object_get(t->config, "chat_template");
    if (s.n_bytes == 0 && json_is_string(v)) s = (td_slice){json_string_value(v), json_string_length(v)};
    return s.n_bytes == 0 ? TD_OK : td_gguf_put_bytes(w, "tokenizer.chat_template", s, err);
}

td_status td_hf_put_tokenizer(td_gguf_writer *w, const td_hf_tokenizer *t, const td_hf_config *c, td_error *err) {
    const td_vocab_source *s = t->source;
    td_status status = td_gguf_put_str(w, "tokenizer.ggml.model", "gemma4", err);
    if (status == TD_OK) status = put_tokens(w, s, err);
    if (status == TD_OK) status = put_merges(w, s, err);
    const struct {
        const char *key;
        uint32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", s->bos},
               {"tokenizer.ggml.eos_token_id", t->eos},
               {"tokenizer.ggml.unknown_token_id", s->unk},
               {"tokenizer.ggml.padding_token_id", s->pad},
               {"tokenizer.ggml.mask_token_id", s->mask}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0] && status == TD_OK; i++) {
        if (ids[i].id != TD_TOKEN_NONE) status = td_gguf_put_u32(w, ids[i].key, ids[i].id, err);
    }
    if (status == TD_OK && !c->assistant) status = put_suppressed(w, t, err);
    if (status == TD_OK) status = put_template(w, t, err);
    if (status == TD_OK) status = td_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false, err);
    return status == TD_OK ? td_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true, err) : status;
}
