/* The vocabulary in the metadata of a GGUF file (spec A.4, A.5), and the choice of a reader by the file's content. */
#include "../base/checked.h"
#include "../base/map.h"
#include "../base/status.h"
#include "../file/gguf.h"
#include "buf.h"
#include "vocab_file.h"
#include "vocab_impl.h"

#include <stdlib.h>
#include <sys/stat.h>

#define KEY(name) "tokenizer.ggml." name

/* The strings of an array key as slices into the mapped file; NULL with *n = 0 when the key is absent. */
static td_status get_strings(const td_gguf *g, const char *key, uint64_t max, td_slice **out, uint64_t *n,
                             td_error *err) {
    td_gguf_array a;
    *out = NULL;
    *n = 0;
    td_status st = td_gguf_get_array(g, key, &a, err);
    if (st || a.n == 0) return st;
    if (a.element != TD_GGUF_STRING)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s: expected an array of strings, found one of %s", key,
                       td_gguf_kind_name(a.element));
    if (a.n > max)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "key %s: %llu entries, at most %llu", key,
                       (unsigned long long)a.n, (unsigned long long)max);
    td_slice *list = td_calloc((size_t)a.n, sizeof *list);
    if (!list) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
    td_cursor c = td_gguf_array_strings(&a);
    while (*n < a.n && td_gguf_next_string(&c, &list[*n])) ++*n;
    *out = list;
    if (*n == a.n) return TD_OK;
    return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s: ends after %llu of %llu strings", key,
                   (unsigned long long)*n, (unsigned long long)a.n);
}

/* An array of integers, at least `n_least` entries; NULL when absent. */
static td_status get_ints(const td_gguf *g, const char *key, uint64_t n_least, int32_t **out, uint32_t *n,
                          td_error *err) {
    td_gguf_array a;
    *out = NULL;
    *n = 0;
    td_status st = td_gguf_get_array(g, key, &a, err);
    if (st || a.n == 0) return st;
    if (a.n < n_least || a.n > TD_VOCAB_MAX_TOKENS)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s: %llu entries, expected %llu", key,
                       (unsigned long long)a.n, (unsigned long long)n_least);
    *out = td_calloc((size_t)a.n, sizeof **out);
    if (!*out) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
    for (uint64_t i = 0; i < a.n; i++) {
        int64_t v = 0;
        if (!td_gguf_array_i64(&a, i, &v))
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s: entry %llu is not an integer", key,
                           (unsigned long long)i);
        (*out)[i] = v < INT32_MIN || v > INT32_MAX ? -1 : (int32_t)v;
    }
    *n = (uint32_t)a.n;
    return TD_OK;
}

/* An id outside the vocabulary counts as unset, as in the reference. */
static td_status get_id(const td_gguf *g, const char *key, uint32_t n_tokens, uint32_t *out, td_error *err) {
    int64_t v = -1;
    td_status st = td_gguf_get_i64(g, key, -1, &v, err);
    *out = v >= 0 && v < (int64_t)n_tokens ? (uint32_t)v : TD_TOKEN_NONE;
    return st;
}

static td_status get_ids(const td_gguf *g, td_vocab_source *s, td_error *err) {
    const struct {
        const char *key;
        uint32_t *out;
    } ids[] = {{KEY("bos_token_id"), &s->bos},  {KEY("eos_token_id"), &s->eos},     {KEY("eot_token_id"), &s->eot},
               {KEY("eom_token_id"), &s->eom},  {KEY("unknown_token_id"), &s->unk}, {KEY("padding_token_id"), &s->pad},
               {KEY("mask_token_id"), &s->mask}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        td_status st = get_id(g, ids[i].key, s->n_tokens, ids[i].out, err);
        if (st) return st;
    }
    return td_gguf_get_bool(g, KEY("add_eos_token"), false, &s->add_eos, err);
}

static td_status check_model(const td_gguf *g, td_error *err) {
    td_slice model;
    td_status st = td_gguf_require(g, KEY("model"), err);
    if (!st) st = td_gguf_require(g, KEY("tokens"), err);
    if (!st) st = td_gguf_require(g, KEY("merges"), err);
    if (!st) st = td_gguf_get_str(g, KEY("model"), &model, err);
    if (st) return st;
    if (model.n_bytes == 6 && memcmp(model.data, "gemma4", 6) == 0) return TD_OK;
    char shown[33];
    size_t n = model.n_bytes < 32 ? model.n_bytes : 32;
    for (size_t i = 0; i < n; i++)
        shown[i] = (char)(model.data[i] >= 0x20 && model.data[i] < 0x7F ? model.data[i] : '.');
    shown[n] = 0;
    return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "key %s: the tokenizer is \"%s\", expected \"gemma4\"",
                   KEY("model"), shown);
}

td_status td_vocab_from_gguf(td_vocab **out, const struct td_gguf *g, td_error *err) {
    td_vocab_source s;
    td_slice *texts = NULL, *merges = NULL;
    int32_t *types = NULL, *suppress = NULL;
    uint64_t n = 0;
    uint32_t n_types = 0;
    *out = NULL;
    td_vocab_source_init(&s);
    td_status st = check_model(g, err);
    if (!st) st = get_strings(g, KEY("tokens"), TD_VOCAB_MAX_TOKENS, &texts, &n, err);
    s.n_tokens = (uint32_t)n;
    if (!st) st = get_strings(g, KEY("merges"), TD_VOCAB_MAX_MERGES, &merges, &s.n_merges, err);
    if (!st) st = get_ints(g, KEY("token_type"), n, &types, &n_types, err);
    if (!st) st = get_ints(g, KEY("suppress_tokens"), 0, &suppress, &s.n_suppress, err);
    if (!st) st = get_ids(g, &s, err);
    if (!st && !merges)
        st = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "key %s: expected an array of strings that is not empty",
                     KEY("merges"));
    s.texts = texts;
    s.types = types;
    s.merges = merges;
    s.suppress = suppress;
    if (!st) st = td_vocab_create(out, &s, err);
    free(texts);
    free(merges);
    free(types);
    free(suppress);
    return st;
}

static td_status open_json(td_vocab **out, const td_map *m, td_error *err) {
    td_vocab_json *j = NULL;
    td_status st = td_vocab_json_parse(&j, (const char *)m->data, m->n_bytes, err);
    if (!st) st = td_vocab_create(out, td_vocab_json_source(j), err);
    td_vocab_json_free(j);
    return st;
}

td_status td_vocab_open(td_vocab **out, const char *path, td_error *err) {
    td_map m = {0};
    td_buf inside = {0};
    struct stat info;
    *out = NULL;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        if (!td_buf_printf(&inside, "%s/tokenizer.json", path))
            return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a path");
        path = inside.data;
    }
    td_status st = td_map_open(&m, path, err); /* these two name the file themselves */
    bool gguf = !st && m.n_bytes >= 4 && memcmp(m.data, "GGUF", 4) == 0;
    td_gguf *g = NULL;
    if (gguf) st = td_gguf_open(&g, path, err);
    if (!st) {
        st = gguf ? td_vocab_from_gguf(out, g, err) : open_json(out, &m, err);
        if (st) td_error_prefix(err, "%s", path);
    }
    td_gguf_close(g);
    td_map_close(&m);
    td_buf_free(&inside);
    return st;
}
