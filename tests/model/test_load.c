/* Loading: each key and tensor that a target or an assistant needs, left out or made wrong one at a time, ends in one
 * error that names it; what is optional may be absent; the codes of attaching; nothing crashes on any of it. */
#include "../golden/rig.h"

#include "base/arena.h"
#include "file/gguf.h"
#include "file/gguf_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/golden/data/"

typedef enum change { DROP, SET_U32, SET_F32, SET_BOOL, SET_STR, SET_I32S, TENSOR, RESHAPE, NONE } change;

typedef struct edit {
    change what;
    const char *name; /* of the key (a dot in front: after the architecture) or tensor */
    double value;
    const char *str;
    int n; /* SET_I32S: that many entries of `value` */
} edit;

static bool is_key(const td_gguf *g, const char *name, const char *key) {
    size_t n = strlen(td_gguf_arch(g));
    if (name[0] != '.') return strcmp(name, key) == 0;
    return strncmp(key, td_gguf_arch(g), n) == 0 && strcmp(key + n, name) == 0;
}

static td_status put(td_gguf_writer *w, const char *key, const edit *e, td_error *err) {
    static int32_t ids[4096];
    for (int i = 0; i < e->n; i++) ids[i] = (int32_t)e->value;
    switch (e->what) {
    case SET_U32:
        return td_gguf_put_u32(w, key, (uint32_t)e->value, err);
    case SET_F32:
        return td_gguf_put_f32(w, key, (float)e->value, err);
    case SET_BOOL:
        return td_gguf_put_bool(w, key, e->value != 0, err);
    case SET_STR:
        return td_gguf_put_str(w, key, e->str, err);
    case SET_I32S:
        return td_gguf_put_array(w, key, TD_GGUF_I32, ids, (uint64_t)e->n, err);
    default:
        return TD_OK;
    }
}

static td_status copy_keys(td_gguf_writer *w, const td_gguf *g, const edit *e, td_error *err) {
    bool there = false;
    td_status st = TD_OK;
    for (size_t i = 0; !st && i < td_gguf_n_keys(g); i++) {
        const td_gguf_value *v = td_gguf_key_at(g, i);
        bool hit = e->what < TENSOR && is_key(g, e->name, v->key);
        there |= hit;
        st = hit ? put(w, v->key, e, err) : td_gguf_put_value(w, NULL, v, err);
    }
    if (st || there || e->what == DROP || e->what >= TENSOR) return st;
    char key[128];
    snprintf(key, sizeof key, "%s%s", e->name[0] == '.' ? td_gguf_arch(g) : "", e->name);
    return put(w, key, e, err);
}

/* A copy of `from` with one change. TENSOR leaves a tensor out, RESHAPE cuts its last dimension to `value`. */
static void make(const char *from, const char *to, const edit *e) {
    td_error err = {0};
    td_gguf *g = NULL;
    td_gguf_writer *w = NULL;
    td_status st = td_gguf_open(&g, from, &err);
    if (!st) st = td_gguf_writer_open(&w, to, &err);
    if (!st) st = copy_keys(w, g, e, &err);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; !st && i < td_gguf_n_tensors(g); i++) {
            const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
            bool hit = e->what >= TENSOR && e->what != NONE && strcmp(e->name, t->name) == 0;
            uint64_t ne[TD_GGUF_DIMS];
            if (hit && e->what == TENSOR) continue;
            memcpy(ne, t->ne, sizeof ne);
            size_t n = t->n_bytes;
            if (hit) {
                n = n / (size_t)ne[t->n_dims - 1] * (size_t)e->value;
                ne[t->n_dims - 1] = (uint64_t)e->value;
            }
            st = pass ? td_gguf_put_data(w, t->data, n, &err)
                      : td_gguf_put_tensor(w, t->name, t->type->id, t->n_dims, ne, &err);
        }
    }
    if (!st)
        st = td_gguf_writer_commit(w, &err);
    else if (w)
        td_gguf_writer_discard(w);
    td_gguf_close(g);
    if (st) fail_msg("%s", err.text);
}

/* Loads the edited copy; `says` must be in the message, NULL: it must load and run. */
static void try_target(const char *from, const edit *e, const char *says) {
    char path[512];
    td_error err = {0};
    td_model *m = NULL;
    rig_temp(path, sizeof path, "load.gguf");
    make(from, path, e);
    td_model_options o = {.path = path};
    td_status st = td_model_load(&m, &o, &err);
    if (says) {
        if (!st) fail_msg("%s: loaded, \"%s\" was expected", e->name, says);
        if (!strstr(err.text, says)) fail_msg("%s: \"%s\", \"%s\" was expected", e->name, err.text, says);
        assert_null(m);
    } else {
        if (st) fail_msg("%s: %s", e->name, err.text);
        static const int32_t tokens[40] = {2, 9, 8, 7};
        rig r;
        rig_options ro = {.target = path};
        assert_true(rig_open(&r, &ro));
        assert_true(rig_feed(&r, 0, tokens, 0, 40, 40, NULL, NULL));
        rig_close(&r);
    }
    td_model_free(m);
    unlink(path);
}

static void test_target_keys(void **state) {
    (void)state;
    static const struct {
        edit e;
        const char *says;
    } cases[] = {
        {{SET_STR, "general.architecture", 0, "gemma3", 0}, "architecture \"gemma3\" is not supported"},
        {{DROP, ".block_count", 0, NULL, 0}, "block_count"},
        {{SET_U32, ".block_count", 0, NULL, 0}, "block_count is 0"},
        {{SET_U32, ".block_count", 4e9, NULL, 0}, "block_count is 4000000000"},
        {{SET_U32, ".block_count", 8, NULL, 0}, "sliding_window_pattern has 9 entries"},
        {{SET_STR, ".block_count", 0, "9", 0}, "block_count"},
        {{DROP, ".context_length", 0, NULL, 0}, "context_length"},
        {{DROP, ".embedding_length", 0, NULL, 0}, "embedding_length"},
        {{SET_U32, ".embedding_length", 2e9, NULL, 0}, "embedding_length is 2000000000"},
        {{SET_U32, ".embedding_length", 32, NULL, 0}, "expected {32"},
        {{DROP, ".embedding_length_per_layer_input", 0, NULL, 0}, "embedding_length_per_layer_input"},
        {{SET_U32, ".embedding_length_per_layer_input", 1 << 19, NULL, 0}, "per-layer values are more than"},
        {{DROP, ".attention.head_count", 0, NULL, 0}, "attention.head_count"},
        {{SET_U32, ".attention.head_count", 0, NULL, 0}, "head_count of layer 0 is 0"},
        {{SET_U32, ".attention.head_count_kv", 3, NULL, 0}, "4 query heads are no multiple of 3 KV heads"},
        {{SET_I32S, ".attention.head_count_kv", 1, NULL, 3}, "head_count_kv"},
        {{SET_U32, ".attention.key_length", 60, NULL, 0}, "they must be equal"},
        {{DROP, ".attention.key_length_swa", 0, NULL, 0}, "key_length_swa"},
        {{SET_U32, ".attention.value_length_swa", 16, NULL, 0}, "they must be equal"},
        {{DROP, ".attention.layer_norm_rms_epsilon", 0, NULL, 0}, "layer_norm_rms_epsilon"},
        {{SET_F32, ".attention.layer_norm_rms_epsilon", -1, NULL, 0}, "layer_norm_rms_epsilon is -1"},
        {{DROP, ".attention.sliding_window", 0, NULL, 0}, "sliding_window"},
        {{SET_U32, ".attention.sliding_window", 0, NULL, 0}, "sliding_window is 0"},
        {{DROP, ".attention.sliding_window_pattern", 0, NULL, 0}, "sliding_window_pattern"},
        {{SET_BOOL, ".attention.sliding_window_pattern", 1, NULL, 0}, "is one boolean"},
        {{SET_I32S, ".attention.sliding_window_pattern", 2, NULL, 9}, "sliding_window_pattern of layer 0 is 2"},
        {{SET_U32, ".attention.shared_kv_layers", 9, NULL, 0}, "shared_kv_layers is 9"},
        {{SET_U32, ".attention.shared_kv_layers", 8, NULL, 0}, "full-attention layer before layer 1 owns any"},
        {{SET_F32, ".rope.freq_base", 0, NULL, 0}, "freq_base is 0"},
        {{SET_U32, ".rope.dimension_count_swa", 64, NULL, 0}, "64 rotated values"},
        {{SET_U32, ".rope.dimension_count", 31, NULL, 0}, "31 rotated values"},
        {{SET_U32, ".rope.dimension_count", 32, NULL, 0}, "rope_freqs.weight is {32}: expected {16}"},
        {{SET_STR, ".rope.scaling.type", 0, "yarn", 0}, "rope.scaling.type \"yarn\""},
        {{SET_F32, ".final_logit_softcapping", -1, NULL, 0}, "final_logit_softcapping is -1"},
        {{DROP, ".feed_forward_length", 0, NULL, 0}, "feed_forward_length"},
        {{SET_U32, ".feed_forward_length", 5, NULL, 0}, "expected {64, 5}"},
        {{SET_I32S, "tokenizer.ggml.tokens", 1, NULL, 599}, "tokenizer.ggml.tokens has 599 entries"},
        /* these load */
        {{DROP, ".final_logit_softcapping", 0, NULL, 0}, NULL},
        {{SET_F32, ".final_logit_softcapping", 0, NULL, 0}, NULL},
        {{DROP, ".rope.freq_base", 0, NULL, 0}, NULL},
        {{SET_STR, ".rope.scaling.type", 0, "none", 0}, NULL},
        {{SET_U32, ".attention.sliding_window", 4096, NULL, 0}, NULL},
        {{SET_U32, ".attention.sliding_window", 1, NULL, 0}, NULL},
        {{SET_I32S, "tokenizer.ggml.suppress_tokens", 7, NULL, 4}, NULL},
        {{SET_I32S, "tokenizer.ggml.suppress_tokens", -7, NULL, 4}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) try_target(DATA "e.gguf", &cases[i].e, cases[i].says);
}

static void test_expert_keys(void **state) {
    (void)state;
    edit e[] = {{SET_U32, ".expert_used_count", 0, NULL, 0},       {SET_U32, ".expert_used_count", 9, NULL, 0},
                {DROP, ".expert_feed_forward_length", 0, NULL, 0}, {SET_U32, ".expert_count", 7, NULL, 0},
                {SET_U32, ".expert_count", 4096, NULL, 0},         {DROP, ".expert_count", 0, NULL, 0}};
    const char *says[] = {"expert_used_count is 0",
                          "expert_used_count is 9",
                          "expert_feed_forward_length is missing",
                          "expected {",
                          "expert_count is 4096",
                          "key expert_count is missing or 0"};
    for (int i = 0; i < 6; i++) try_target(DATA "moe.gguf", &e[i], says[i]);
}

/* Every tensor left out, and every tensor with one row less. */
static void each_tensor(const char *from, const char *const *optional) {
    td_gguf *g = NULL;
    assert_int_equal(td_gguf_open(&g, from, NULL), TD_OK);
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        bool may = false;
        for (int k = 0; optional[k]; k++) may |= strstr(t->name, optional[k]) != NULL;
        edit drop = {TENSOR, t->name, 0, NULL, 0};
        try_target(from, &drop, may ? NULL : "is missing");
        if (t->ne[t->n_dims - 1] < 2) continue;
        edit cut = {RESHAPE, t->name, (double)t->ne[t->n_dims - 1] - 1, NULL, 0};
        try_target(from, &cut, strcmp(t->name, "token_embd.weight") == 0 ? "" : t->name);
    }
    td_gguf_close(g);
}

static void test_tensors(void **state) {
    (void)state;
    static const char *const e[] = {"layer_output_scale", "attn_v.weight", NULL};
    static const char *const moe[] = {"layer_output_scale", "ffn_down_exps.scale", "attn_v.weight", NULL};
    each_tensor(DATA "e.gguf", e);
    each_tensor(DATA "moe.gguf", moe);
}

/* ---- assistants ---- */

static void try_assistant(const td_model *target, const char *from, const edit *e, td_attach_code want,
                          const char *says) {
    char path[512];
    td_error err = {0};
    td_drafter *d = NULL;
    td_gguf *a = NULL;
    td_attach_code code = TD_ATTACH_NO_MODEL;
    rig_temp(path, sizeof path, "attach.gguf");
    make(from, path, e);
    td_drafter_options o = {.file.path = path};
    td_status st = td_drafter_load(&d, &o, target, &code, &err);
    if (code != want) fail_msg("%s: code %d, expected %d (%s)", e->name, code, want, err.text);
    assert_int_equal(st == TD_OK, want == TD_ATTACH_OK);
    if (says && !strstr(err.text, says)) fail_msg("%s: \"%s\", expected \"%s\"", e->name, err.text, says);
    assert_int_equal(td_gguf_open(&a, path, NULL), TD_OK);
    td_attach_code checked = td_attach_check(td_model_gguf(target), a, NULL);
    if (want != TD_ATTACH_FILE) assert_int_equal(checked, want); /* missing tensors: only loading sees them */
    td_gguf_close(a);
    td_drafter_free(d);
    unlink(path);
}

static void test_attach(void **state) {
    (void)state;
    td_error err = {0};
    td_model *m = NULL, *dense = NULL;
    td_model_options o = {.path = DATA "e.gguf"}, od = {.path = DATA "dense.gguf"};
    td_attach_code code = TD_ATTACH_OK;
    td_drafter *d = NULL;
    if (td_model_load(&m, &o, &err) || td_model_load(&dense, &od, &err)) fail_msg("%s", err.text);
    static const struct {
        const char *from;
        edit e;
        td_attach_code code;
        const char *says;
    } cases[] = {
        {DATA "assist-e.gguf", {NONE, "", 0, NULL, 0}, TD_ATTACH_OK, NULL},
        {DATA "assist-e-old.gguf", {NONE, "", 0, NULL, 0}, TD_ATTACH_OK, NULL},
        {DATA "e.gguf", {NONE, "", 0, NULL, 0}, TD_ATTACH_ARCH, "target model"},
        {DATA "assist-e-old.gguf", {SET_STR, ".requires_target_arch", 0, "llama", 0}, TD_ATTACH_REQUIRED_ARCH, "llama"},
        {DATA "assist-e-old.gguf", {SET_U32, ".n_embd_backbone", 96, NULL, 0}, TD_ATTACH_BACKBONE, "96"},
        {DATA "assist-e.gguf", {DROP, ".embedding_length_out", 0, NULL, 0}, TD_ATTACH_OK, NULL}, /* from the tensor */
        {DATA "assist-dense.gguf", {NONE, "", 0, NULL, 0}, TD_ATTACH_BACKBONE, "hidden size of 96"},
        {DATA "assist-e.gguf", {DROP, ".block_count", 0, NULL, 0}, TD_ATTACH_FILE, "block_count"},
        {DATA "assist-e.gguf", {TENSOR, "nextn.pre_projection.weight", 0, NULL, 0}, TD_ATTACH_FILE, "mtp."},
        {DATA "assist-e.gguf", {TENSOR, "blk.2.attn_q.weight", 0, NULL, 0}, TD_ATTACH_FILE, "mtp.blk.2.attn_q.weight"},
        {DATA "assist-e.gguf", {TENSOR, "rope_freqs.weight", 0, NULL, 0}, TD_ATTACH_OK, NULL},
        {DATA "assist-e-ordered.gguf", {TENSOR, "masked_embd_ordering", 0, NULL, 0}, TD_ATTACH_OK, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        try_assistant(m, cases[i].from, &cases[i].e, cases[i].code, cases[i].says);
    td_drafter_options none = {.file.path = ""}, absent = {.file.path = DATA "no-such-file.gguf"};
    assert_int_not_equal(td_drafter_load(&d, &none, m, &code, NULL), TD_OK);
    assert_int_equal(code, TD_ATTACH_NO_MODEL);
    assert_int_not_equal(td_drafter_load(&d, &absent, m, &code, NULL), TD_OK);
    assert_int_equal(code, TD_ATTACH_FILE);
    td_model_free(m);
    td_model_free(dense);
}

/* The first values of a tensor become NaN; for types whose blocks begin with an f16 scale, and f32. */
static void spoil(const char *path, const char *name) {
    td_error err = {0};
    td_gguf *g = NULL;
    if (td_gguf_open(&g, path, &err)) fail_msg("%s", err.text);
    const td_gguf_tensor *t = td_gguf_tensor_find(g, name);
    assert_non_null(t);
    static const uint8_t nan16[2] = {0x00, 0x7e}, nan32[4] = {0, 0, 0xc0, 0x7f};
    bool wide = t->type->id == TD_TYPE_F32;
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, (long)t->offset, SEEK_SET);
    assert_int_equal(fwrite(wide ? nan32 : nan16, wide ? 4 : 2, 1, f), 1);
    fclose(f);
    td_gguf_close(g);
}

/* Values that are not finite are looked for where it is asked for, in everything that target and assistant hold. */
static void test_check_tensors(void **state) {
    (void)state;
    static const struct {
        const char *from, *tensor;
    } cases[] = {{DATA "e.gguf", "blk.1.ffn_down.weight"},
                 {DATA "e.gguf", "per_layer_token_embd.weight"},
                 {DATA "moe.gguf", "blk.0.ffn_down_exps.weight"},
                 {DATA "assist-e.gguf", "blk.1.ffn_up.weight"}};
    td_model *target = NULL;
    td_error err = {0};
    if (td_model_load(&target, &(td_model_options){.path = DATA "e.gguf"}, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        rig_temp(path, sizeof path, "spoilt.gguf");
        make(cases[i].from, path, &(edit){NONE, "", 0, NULL, 0});
        spoil(path, cases[i].tensor);
        for (int check = 0; check < 2; check++) {
            td_model *m = NULL;
            td_drafter *d = NULL;
            td_error_clear(&err);
            td_drafter_options o = {.file = {.path = path, .check_tensors = check}};
            td_status st = strstr(cases[i].from, "assist") ? td_drafter_load(&d, &o, target, NULL, &err)
                                                           : td_model_load(&m, &o.file, &err);
            assert_int_equal(st, check ? TD_ERR_FORMAT : TD_OK);
            if (check) assert_non_null(strstr(err.text, cases[i].tensor));
            td_drafter_free(d);
            td_model_free(m);
        }
        unlink(path);
    }
    td_model_free(target);
}

static void test_assistant_as_target(void **state) {
    (void)state;
    td_error err = {0};
    td_model *m = NULL;
    td_model_options o = {.path = DATA "assist-e.gguf"};
    assert_int_equal(td_model_load(&m, &o, &err), TD_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "--model-draft"));
    o.path = DATA "no-such-file.gguf";
    td_error_clear(&err);
    assert_int_equal(td_model_load(&m, &o, &err), TD_ERR_NOT_FOUND);
}

/* A step that asks for what is not there is refused, and nothing is stored. */
static void test_bad_steps(void **state) {
    (void)state;
    rig r;
    rig_options o = {.target = DATA "e.gguf", .max_rows = 8, .n_ctx = 64};
    td_error err = {0};
    assert_true(rig_open(&r, &o));
    const td_row bad[] = {{600, 0, 0, 0}, {-1, 0, 0, 0}, {5, 1, 0, 0},  {5, -1, 0, 0},
                          {5, 64, 0, 0},  {5, 0, 1, 0},  {5, 0, -1, 0}, {5, 0, 0, TD_ROW_LOGITS | TD_ROW_ARGMAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        td_step s = {&bad[i], 1};
        td_error_clear(&err);
        if (td_target_forward(r.model, r.kv, &s, r.work, r.pool, &err) != TD_ERR_ARGUMENT)
            fail_msg("row %zu was taken", i);
        assert_int_equal(td_kv_n_pos(r.kv, 0), 0);
    }
    td_row rows[9] = {{0}};
    for (int i = 0; i < 9; i++) rows[i] = (td_row){5, i, 0, TD_ROW_HIDDEN};
    td_step many = {rows, 9}, empty = {rows, 0}, fits = {rows, 8};
    assert_int_equal(td_target_forward(r.model, r.kv, &many, r.work, r.pool, NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_target_forward(r.model, r.kv, &empty, r.work, r.pool, NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_target_forward(r.model, r.kv, &fits, r.work, r.pool, NULL), TD_OK);
    assert_int_equal(td_kv_n_pos(r.kv, 0), 8);
    rig_close(&r);
}

/* Bytes of the description turned over one by one, here and there: an error, or a model that runs; never a crash. */
static void test_flipped_bytes(void **state) {
    (void)state;
    static const char *const files[] = {DATA "e.gguf", DATA "moe.gguf"};
    uint32_t x = 3;
    for (int f = 0; f < 2; f++) {
        char path[512];
        FILE *in = fopen(files[f], "rb");
        assert_non_null(in);
        fseek(in, 0, SEEK_END);
        size_t n = (size_t)ftell(in), description = 40000;
        rewind(in);
        unsigned char *bytes = malloc(n);
        assert_int_equal(fread(bytes, 1, n, in), n);
        fclose(in);
        rig_temp(path, sizeof path, "flip.gguf");
        int loaded = 0;
        for (int i = 0; i < 250; i++) {
            x = x * 1664525u + 1013904223u;
            size_t at = i < 50 ? (size_t)i * 31 : (x >> 8) % description;
            unsigned char old = bytes[at];
            bytes[at] ^= (unsigned char)(1u << (x & 7));
            FILE *out = fopen(path, "wb");
            assert_non_null(out);
            assert_int_equal(fwrite(bytes, 1, n, out), n);
            fclose(out);
            bytes[at] = old;
            td_error err = {0};
            td_model *m = NULL;
            td_model_options o = {.path = path};
            if (td_model_load(&m, &o, &err)) {
                assert_true(err.text[0] != 0);
                continue;
            }
            td_model_free(m);
            static const int32_t tokens[3] = {2, 9, 8};
            rig r;
            rig_options ro = {.target = path, .n_ctx = 64};
            loaded += rig_open(&r, &ro) && rig_feed(&r, 0, tokens, 0, 3, 3, NULL, NULL);
            rig_close(&r);
        }
        printf("%s: %d of 250 changed files still run\n", files[f], loaded);
        unlink(path);
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_target_keys),   cmocka_unit_test(test_expert_keys),
                                       cmocka_unit_test(test_tensors),       cmocka_unit_test(test_assistant_as_target),
                                       cmocka_unit_test(test_attach),        cmocka_unit_test(test_bad_steps),
                                       cmocka_unit_test(test_flipped_bytes), cmocka_unit_test(test_check_tensors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
