/* What each cache type loses on a trained model's own keys and values (the demo pair's, over a story), beside the
 * published format of the same bits: the squared error must not be larger. Keys and values are read from an f32 cache,
 * keys after norm and rotation; the published formats are src/quant's, which the quantisation vectors hold byte for
 * byte. Normal vectors are in tests/kernel/test_attention. */
#include "../golden/rig.h"
#include "quant/rotate.h"
#include "text/tokenizer.h"
#include "text/vocab_file.h"

#include "kv/kv.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_POS = 512, D_MAX = 512, TURBO = 128 };

static const struct {
    td_kv_type ours;
    td_type published;
} pairs[] = {{TD_KV_F16, TD_TYPE_F16},       {TD_KV_Q8_0, TD_TYPE_Q8_0},     {TD_KV_Q4_0, TD_TYPE_Q4_0},
             {TD_KV_TURBO4, TD_TYPE_TURBO4}, {TD_KV_TURBO3, TD_TYPE_TURBO3}, {TD_KV_TURBO2, TD_TYPE_TURBO2}};
enum { N_PAIRS = sizeof pairs / sizeof *pairs };

typedef struct sums {
    double size, ours, published;
} sums;

static double squares(const float *x, const float *y, uint32_t n) {
    double s = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)x[i] - (y ? (double)y[i] : 0.0);
        s += d * d;
    }
    return s;
}

/* One vector through the published format; heads are padded to 128 values for the turbo types, as their origin does. */
static double published_error(td_type type, const float *x, uint32_t d) {
    const td_type_info *t = td_type_of(type);
    uint32_t n = (d + TURBO - 1) / TURBO * TURBO;
    float padded[D_MAX] = {0}, out[D_MAX];
    uint8_t block[D_MAX * 4];
    memcpy(padded, x, d * sizeof *x);
    t->encode(padded, block, n, 1, NULL);
    t->decode(block, out, n);
    for (uint32_t i = 0; type >= TD_TYPE_TURBO2 && i < n; i += TURBO) td_turbo_inverse(out + i);
    return squares(out, x, d);
}

/* One layer's position: ours through a page of the type. */
static void add(sums *k_sum, sums *v_sum, int pair, const float *k, const float *v, uint32_t d) {
    td_attn_shape s;
    static _Alignas(64) uint8_t page[1 << 20];
    float k_out[D_MAX], v_out[D_MAX];
    assert_int_equal(td_attn_shape_init(&s, pairs[pair].ours, pairs[pair].ours, 1, d, d, NULL, NULL, NULL), TD_OK);
    assert_true(s.page_bytes <= sizeof page);
    td_attn_store(&s, page, 0, k, v);
    td_attn_load(&s, page, 0, k_out, v_out);
    k_sum->size += squares(k, NULL, d);
    v_sum->size += squares(v, NULL, d);
    k_sum->ours += squares(k_out, k, d);
    v_sum->ours += squares(v_out, v, d);
    k_sum->published += published_error(pairs[pair].published, k, d);
    v_sum->published += published_error(pairs[pair].published, v, d);
}

static int read_story(const rig *r, int32_t *ids) {
    static char text[4096];
    FILE *f = fopen("tests/engine/data/importance.txt", "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    td_vocab *vocab = NULL;
    td_tokens t = {0};
    assert_int_equal(td_vocab_from_gguf(&vocab, td_model_gguf(r->model), NULL), TD_OK);
    assert_int_equal(td_vocab_tokenize(vocab, text, n, TD_SPECIAL_NONE, true, &t, NULL), TD_OK);
    int count = t.n < MAX_POS ? (int)t.n : MAX_POS;
    for (int i = 0; i < count; i++) ids[i] = (int32_t)t.ids[i];
    td_tokens_free(&t);
    td_vocab_destroy(vocab);
    return count;
}

static void test_demo_pair(void **state) {
    (void)state;
    static int32_t ids[MAX_POS];
    rig r;
    sums all[2][2][N_PAIRS] = {{{{0}}}}; /* sliding, value */
    const rig_options o = {.target = "models/demo/tandem-demo.gguf", .n_ctx = MAX_POS, .kv = TD_KV_F32};
    assert_true(rig_open(&r, &o));
    int n = read_story(&r, ids);
    assert_true(rig_feed(&r, 0, ids, 0, n, 64, NULL, NULL));
    const td_shape *shape = td_model_shape(r.model);
    for (uint32_t l = 0; l < (uint32_t)shape->n_layer_kv; l++) {
        bool sliding = td_kv_sliding(r.kv, l);
        int first = sliding ? (int)td_kv_window_lo(r.kv, (uint32_t)n - 1) : 0;
        td_attn_call c = {0};
        td_kv_attend(r.kv, l, &c);
        uint32_t d = c.shape->d_head;
        for (uint32_t p = (uint32_t)first; p < (uint32_t)n; p++) {
            float k[D_MAX], v[D_MAX];
            td_attn_load(c.shape, c.base + (size_t)c.seq[0].page[p / 64 - c.seq[0].first] * c.shape->page_bytes, p % 64,
                         k, v);
            for (int i = 0; i < N_PAIRS; i++) add(&all[sliding][0][i], &all[sliding][1][i], i, k, v, d);
        }
    }
    for (int sliding = 0; sliding < 2; sliding++) {
        for (int value = 0; value < 2; value++) {
            for (int i = 0; i < N_PAIRS; i++) {
                const sums *s = &all[sliding][value][i];
                print_message("%-7s %-6s of %s layers: squared error %.3g, published format %.3g\n",
                              td_kv_type_name(pairs[i].ours), value ? "values" : "keys", sliding ? "sliding" : "full",
                              s->ours / s->size, s->published / s->size);
            }
        }
    }
    for (int i = 0; i < 4 * N_PAIRS; i++) {
        const sums *s = &all[0][0][0] + i;
        assert_true(s->size > 0 && s->ours <= s->published);
    }
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_demo_pair)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
