/* The vocabulary: facts of the real one, and every way in which a source may be wrong. */
#include "vocab_fixture.h"

#include "text/vocab_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_facts(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    assert_non_null(v);
    assert_int_equal(td_vocab_size(v), 262144);
    assert_int_equal(td_vocab_n_merges(v), 514906);
    assert_int_equal(td_vocab_max_text(v), 93);
    assert_int_equal(td_vocab_find(v, "\n", 1), 107);
    assert_int_equal(td_vocab_byte(v, 0xFF), 493);
    assert_int_equal(td_vocab_special(v, "<|turn>"), 105);
    assert_int_equal(td_vocab_special(v, "<table>"), TD_TOKEN_NONE);
    assert_int_equal(td_vocab_special(v, ""), TD_TOKEN_NONE);
    uint32_t n = 0;
    const uint32_t *ends = td_vocab_ends(v, &n);
    assert_int_equal(n, 3);
    assert_true(ends[0] == 1 && ends[1] == 50 && ends[2] == 106);
    size_t pieces = 0;
    for (uint32_t id = 0; id < 262144; id++) pieces += td_vocab_piece(v, id, true).n_bytes;
    assert_int_equal(pieces, 2039001);
    assert_int_equal(td_vocab_piece(v, 262144, true).n_bytes, 0);
    assert_int_equal(td_vocab_text(v, UINT32_MAX).n_bytes, 0);
    assert_false(td_vocab_is_end(v, 212)); /* </s> */
}

/* The official merges.txt as ids, "left right\n" in order of rank: 514,906 lines whose FNV-1a hash is known. */
static void test_derived_merges_are_the_official_ones(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    const vocab_pair **by_rank = calloc(514906, sizeof *by_rank);
    for (uint32_t i = 0; i <= v->pair_mask; i++)
        if (v->pairs[i].rank != UINT32_MAX) by_rank[v->pairs[i].rank] = &v->pairs[i];
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < 514906; i++) {
        char line[32];
        int n = snprintf(line, sizeof line, "%u %u\n", by_rank[i]->left, by_rank[i]->right);
        for (int k = 0; k < n; k++) h = (h ^ (uint8_t)line[k]) * 0x100000001b3u;
    }
    free(by_rank);
    assert_true(h == 0xcee4ca3bfce1ae60u);
}

/* Types left out: Gemma 4's texts decide, with the same result. */
static void test_types_from_texts(void **state) {
    (void)state;
    fixture_source f;
    td_vocab *v = NULL;
    assert_true(fixture_source_load(&f));
    f.s.types = NULL;
    assert_int_equal(td_vocab_create(&v, &f.s, NULL), TD_OK);
    for (uint32_t id = 0; id < 262144; id++)
        assert_int_equal(td_vocab_flags(v, id), td_vocab_flags(fixture_vocab(), id));
    td_vocab_destroy(v);
    fixture_source_free(&f);
}

/* ---- wrong sources ----------------------------------------------------------------------------------------------- */

enum { N = 280 };
static char byte_text[256][8];
static td_slice texts[N];
static int32_t types[N];
static td_slice merges[4];

static td_slice str(const char *s) {
    return (td_slice){s, strlen(s)};
}

static td_vocab_source small(void) {
    static const char *const more[] = {
        "<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "ab", "abb", "<turn|>", "\n", "\xE2\x96\x81", "c", "d", "e",
        "f",     "g",     "h",     "i",     "j", "k", "l",  "m",   "n",       "o"};
    td_vocab_source s;
    td_vocab_source_init(&s);
    for (int i = 0; i < 256; i++) {
        snprintf(byte_text[i], 8, "<0x%02X>", i);
        texts[i] = str(byte_text[i]);
        types[i] = TD_TOKEN_TYPE_BYTE;
    }
    for (int i = 256; i < N; i++) texts[i] = str(more[i - 256]), types[i] = TD_TOKEN_TYPE_NORMAL;
    types[256 + 8] = types[256 + 1] = types[256 + 2] = TD_TOKEN_TYPE_CONTROL;
    merges[0] = str("a b");
    merges[1] = str("ab b");
    s.texts = texts;
    s.n_tokens = N;
    s.types = types;
    s.merges = merges;
    s.n_merges = 2;
    return s;
}

static void refuse(const td_vocab_source *s, td_status code, const char *part) {
    td_vocab *v = NULL;
    td_error err = {0};
    assert_int_equal(td_vocab_create(&v, s, &err), code);
    assert_null(v);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_wrong_sources_are_refused(void **state) {
    (void)state;
    td_vocab *v = NULL;
    td_error err = {0};
    td_vocab_source s = small();
    if (td_vocab_create(&v, &s, &err)) fail_msg("%s", err.text);
    td_vocab_destroy(v);

    s = small(), texts[270].n_bytes = 0;
    refuse(&s, TD_ERR_FORMAT, "token 270");
    s = small(), texts[270] = str("\xC0\x80");
    refuse(&s, TD_ERR_FORMAT, "UTF-8");
    s = small(), texts[270] = str("\xE2\x96");
    refuse(&s, TD_ERR_FORMAT, "UTF-8");
    s = small(), texts[270] = str("ab");
    refuse(&s, TD_ERR_FORMAT, "same text");
    s = small(), texts[17] = str("<0x1Z>");
    refuse(&s, TD_ERR_FORMAT, "<0x11>");
    s = small(), types[270] = TD_TOKEN_TYPE_BYTE;
    refuse(&s, TD_ERR_FORMAT, "type of a byte");
    s = small(), s.n_tokens = 0;
    refuse(&s, TD_ERR_LIMIT, "0 tokens");
    s = small(), s.merges = NULL;
    refuse(&s, TD_ERR_FORMAT, "no merges");
    s = small(), merges[1] = str("ab");
    refuse(&s, TD_ERR_FORMAT, "merge 1");
    s = small(), merges[1] = str("ab ");
    refuse(&s, TD_ERR_FORMAT, "merge 1");
    s = small(), merges[1] = str(" ab");
    refuse(&s, TD_ERR_FORMAT, "merge 1");
    s = small(), texts[270] = str("<turn"), texts[271] = str("|>"), merges[1] = str("<turn |>");
    refuse(&s, TD_ERR_FORMAT, "control");
    static char big[TD_VOCAB_MAX_TEXT + 1];
    memset(big, 'x', sizeof big);
    s = small(), texts[270] = (td_slice){big, sizeof big};
    refuse(&s, TD_ERR_FORMAT, "4097 bytes");
}

/* A merge that names no token is dropped, the others stay in force. */
static void test_unusable_merges_are_dropped(void **state) {
    (void)state;
    const char *const unusable[] = {"ab zz", "b a"};
    for (int i = 0; i < 2; i++) {
        td_vocab *whole = NULL, *less = NULL;
        td_vocab_source s = small();
        assert_int_equal(td_vocab_create(&whole, &s, NULL), TD_OK);
        s = small(), merges[1] = str(unusable[i]);
        assert_int_equal(td_vocab_create(&less, &s, NULL), TD_OK);
        assert_int_equal(td_vocab_n_merges(less), td_vocab_n_merges(whole) - 1);
        td_vocab_destroy(whole);
        td_vocab_destroy(less);
    }
}

static void test_small_vocabulary_works(void **state) {
    (void)state;
    td_vocab *v = NULL;
    td_vocab_source s = small();
    int32_t suppress[] = {-5, 3, 400, 279};
    s.suppress = suppress;
    s.n_suppress = 4;
    s.bos = 256 + 2;
    s.eos = 100000; /* outside: dropped */
    s.types = types;
    merges[2] = str("a b"); /* the first of a pair counts */
    s.n_merges = 3;
    assert_int_equal(td_vocab_create(&v, &s, NULL), TD_OK);
    assert_int_equal(td_vocab_n_merges(v), 2);
    assert_int_equal(td_vocab_eos(v), TD_TOKEN_NONE);
    uint32_t n = 0;
    const uint32_t *ids = td_vocab_suppressed(v, &n);
    assert_true(n == 2 && ids[0] == 3 && ids[1] == 279);
    td_tokens t = {0};
    assert_int_equal(td_vocab_tokenize(v, "abbz ab", 7, TD_SPECIAL_ALL, true, &t, NULL), TD_OK);
    const uint32_t want[] = {258, 263, 'z', 266, 262};
    assert_int_equal(t.n, 5);
    assert_memory_equal(t.ids, want, sizeof want);
    uint32_t wrong = N;
    assert_int_equal(td_vocab_detokenize(v, &wrong, 1, true, &(td_buf){0}, NULL), TD_ERR_ARGUMENT);
    td_tokens_free(&t);
    td_vocab_destroy(v);
}

/* 60,000 special texts that begin alike: matching stays near-linear. */
static void test_many_specials(void **state) {
    (void)state;
    enum { M = 60000 };
    td_slice *many = calloc(M + 256, sizeof *many);
    int32_t *kinds = calloc(M + 256, sizeof *kinds);
    char(*names)[16] = calloc(M, sizeof *names);
    td_vocab_source s = small();
    for (int i = 0; i < 256; i++) many[i] = texts[i], kinds[i] = TD_TOKEN_TYPE_BYTE;
    for (int i = 0; i < M; i++) {
        snprintf(names[i], 16, "<<<<%d", i);
        many[256 + i] = str(names[i]);
        kinds[256 + i] = TD_TOKEN_TYPE_CONTROL;
    }
    s.texts = many;
    s.types = kinds;
    s.n_tokens = M + 256;
    s.n_merges = 0;
    td_vocab *v = NULL;
    assert_int_equal(td_vocab_create(&v, &s, NULL), TD_OK);
    char *text = malloc(1 << 18);
    memset(text, '<', 1 << 18);
    memcpy(text + 1000, "<<<<59999", 9);
    td_tokens t = {0};
    assert_int_equal(td_vocab_tokenize(v, text, 1 << 18, TD_SPECIAL_ALL, false, &t, NULL), TD_OK);
    assert_int_equal(t.n, (1 << 18) - 8);
    assert_int_equal(t.ids[1000], 256 + 59999);
    td_tokens_free(&t);
    td_vocab_destroy(v);
    free(text);
    free(many);
    free(kinds);
    free(names);
}

static int done(void **state) {
    (void)state;
    fixture_release();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_derived_merges_are_the_official_ones),
        cmocka_unit_test(test_types_from_texts),
        cmocka_unit_test(test_wrong_sources_are_refused),
        cmocka_unit_test(test_unusable_merges_are_dropped),
        cmocka_unit_test(test_small_vocabulary_works),
        cmocka_unit_test(test_many_specials),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
