/* The named mixtures against types worked out by hand from the published tables, and the fallback for odd rows. */
#include "convert/mix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static td_mix make(const char *ftype, int n_layer) {
    td_mix m = {.ftype = td_ftype_by_name(ftype), .n_v = n_layer, .n_layer = n_layer, .n_gqa = 2, .tied = true};
    assert_non_null(m.ftype);
    return m;
}

static const char *rule(td_mix *m, const char *name) {
    return td_type_of(td_mix_rule(m, name, 1024))->name;
}

static void test_names(void **state) {
    (void)state;
    assert_int_equal(td_ftype_by_name("Q4_K")->id, 15);
    assert_int_equal(td_ftype_by_name("q4_k_s")->id, 14);
    assert_int_equal(td_ftype_by_name("7")->type, TD_TYPE_Q8_0);
    assert_int_equal(td_ftype_by_name("TQ4_1S")->id, 44);
    assert_null(td_ftype_by_name("q9"));
    assert_null(td_ftype_by_name(""));
}

/* 16 layers: the first two and last two, and of the twelve between every third, counted from the second. */
static void test_q4_k_m(void **state) {
    (void)state;
    td_mix m = make("q4_K_M", 16);
    assert_string_equal(rule(&m, "token_embd.weight"), "q6_K");
    assert_string_equal(rule(&m, "per_layer_token_embd.weight"), "q6_K");
    for (int i = 0; i < 16; i++) {
        char name[64];
        bool high = i < 2 || i >= 14 || i == 4 || i == 7 || i == 10 || i == 13;
        snprintf(name, sizeof name, "blk.%d.attn_v.weight", i);
        assert_string_equal(rule(&m, name), high ? "q6_K" : "q4_K");
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", i);
        assert_string_equal(rule(&m, name), high ? "q6_K" : "q4_K");
        snprintf(name, sizeof name, "blk.%d.attn_q.weight", i);
        assert_string_equal(rule(&m, name), "q4_K");
    }
}

static void test_others(void **state) {
    (void)state;
    td_mix m = make("q4_0", 16);
    assert_string_equal(rule(&m, "token_embd.weight"), "q6_K");
    assert_string_equal(rule(&m, "blk.0.ffn_down.weight"), "q4_0");
    m.have_imatrix = true;
    assert_string_equal(rule(&m, "blk.1.ffn_down.weight"), "q4_1");
    assert_string_equal(rule(&m, "blk.2.ffn_down.weight"), "q4_0");
    m = make("q8_0", 16);
    assert_string_equal(rule(&m, "token_embd.weight"), "q8_0");
    m = make("q2_K", 16);
    assert_string_equal(rule(&m, "blk.0.attn_v.weight"), "q3_K");
    assert_string_equal(rule(&m, "blk.0.attn_output.weight"), "q3_K");
    m.n_gqa = 8;
    assert_string_equal(rule(&m, "blk.1.attn_v.weight"), "q4_K");
    m = make("q3_K_M", 32);
    assert_string_equal(rule(&m, "blk.0.attn_v.weight"), "q5_K");
    assert_string_equal(rule(&m, "blk.1.attn_v.weight"), "q5_K");
    assert_string_equal(rule(&m, "blk.2.attn_v.weight"), "q4_K");
    assert_string_equal(rule(&m, "blk.0.attn_output.weight"), "q4_K");
    assert_string_equal(rule(&m, "blk.0.ffn_gate.weight"), "q3_K");
    m = make("f16", 4);
    assert_string_equal(rule(&m, "token_embd.weight"), "f16");
    /* experts: the layer's number counts, not the order */
    m = make("q4_K_M", 16);
    m.n_expert = 128;
    assert_string_equal(rule(&m, "blk.2.ffn_down_exps.weight"), "q4_K");
    assert_string_equal(rule(&m, "blk.15.ffn_down_exps.weight"), "q6_K");
    /* a head row that the block does not divide */
    m = make("q4_K_M", 16);
    assert_int_equal(td_mix_rule(&m, "token_embd.weight", 96), TD_TYPE_Q8_0);
}

static void test_keeps(void **state) {
    (void)state;
    static const char *const kept[] = {"blk.0.attn_norm.weight",      "blk.3.ffn_gate_inp.weight",
                                       "per_layer_model_proj.weight", "mtp.token_ordering.weight",
                                       "masked_embd_ordering",        "blk.0.ffn_down_exps.scale"};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) assert_true(td_mix_keeps(kept[i], 2));
    assert_true(td_mix_keeps("blk.0.layer_output_scale.weight", 1));
    assert_false(td_mix_keeps("masked_embd_centroids.weight", 2));
    assert_false(td_mix_keeps("blk.0.ffn_gate.weight", 2));
    assert_false(td_mix_keeps("blk.0.inp_gate.weight", 2));
}

static void test_fallback(void **state) {
    (void)state;
    static const struct {
        td_type from;
        uint64_t ne0;
        td_type to;
    } cases[] = {
        {TD_TYPE_Q4_K, 2816, TD_TYPE_Q4_K},    {TD_TYPE_Q4_K, 2112, TD_TYPE_Q5_0}, {TD_TYPE_Q5_K, 704, TD_TYPE_Q5_1},
        {TD_TYPE_Q6_K, 704, TD_TYPE_Q8_0},     {TD_TYPE_Q2_K, 704, TD_TYPE_Q4_0},  {TD_TYPE_Q3_K, 704, TD_TYPE_Q4_0},
        {TD_TYPE_IQ4_XS, 704, TD_TYPE_IQ4_NL}, {TD_TYPE_Q6_K, 80, TD_TYPE_F16},    {TD_TYPE_F16, 81, TD_TYPE_F16}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        td_type out;
        bool fell_back;
        assert_int_equal(td_mix_fallback(cases[i].from, cases[i].ne0, "x", &out, &fell_back, NULL), TD_OK);
        assert_int_equal(out, cases[i].to);
        assert_int_equal(fell_back, cases[i].from != cases[i].to);
    }
    td_type out;
    bool fell_back;
    td_error err = {0};
    assert_int_equal(td_mix_fallback(TD_TYPE_Q4_0, 80, "blk.0.x", &out, &fell_back, &err), TD_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "blk.0.x"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_q4_k_m),
                                       cmocka_unit_test(test_others), cmocka_unit_test(test_keeps),
                                       cmocka_unit_test(test_fallback)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
