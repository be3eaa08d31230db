/* tokenizer.json: the real one written by this test and read back, both forms of merges, escapes, and damage of every
 * kind; the GGUF metadata of the golden models. */
#include "vocab_fixture.h"

#include "base/clock.h"
#include "file/gguf_write.h"
#include "text/vocab_file.h"
#include "text/vocab_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void add_json_string(td_buf *b, td_slice t) {
    td_buf_add_char(b, '"');
    for (size_t i = 0; i < t.n_bytes; i++) {
        uint8_t c = (uint8_t)t.data[i];
        if (c == '"' || c == '\\')
            td_buf_printf(b, "\\%c", c);
        else if (c < 0x20)
            td_buf_printf(b, "\\u%04X", c);
        else
            td_buf_add_char(b, (char)c);
    }
    td_buf_add_char(b, '"');
}

/* As the official file is laid out: two blanks of indentation, merges as pairs or as one text. */
static void write_json(td_buf *b, const td_vocab *v, bool pairs) {
    const vocab_pair **by_rank = calloc(td_vocab_n_merges(v) + 1, sizeof *by_rank);
    for (uint32_t i = 0; i <= v->pair_mask; i++)
        if (v->pairs[i].rank != UINT32_MAX) by_rank[v->pairs[i].rank] = &v->pairs[i];
    td_buf_add_str(b,
                   "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    uint32_t n = 0;
    const uint32_t *specials = td_vocab_specials(v, &n);
    for (uint32_t i = 0; i < n; i++) {
        td_buf_printf(b, "%s\n    {\n      \"id\": %u,\n      \"content\": ", i ? "," : "", specials[i]);
        add_json_string(b, td_vocab_text(v, specials[i]));
        td_buf_add_str(b, ",\n      \"single_word\": false,\n      \"special\": true\n    }");
    }
    td_buf_add_str(
        b, "\n  ],\n  \"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
           "\"\xE2\x96\x81\"},\n  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"a\": [1, -2.5e+3, {}]}, "
           "[]]},\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"byte_fallback\": true,\n"
           "    \"ignore_merges\": false,\n    \"vocab\": {");
    for (uint32_t id = 0; id < td_vocab_size(v); id++) {
        td_buf_add_str(b, id ? ",\n      " : "\n      ");
        add_json_string(b, td_vocab_text(v, id));
        td_buf_printf(b, ": %u", id);
    }
    td_buf_add_str(b, "\n    },\n    \"merges\": [");
    for (uint64_t i = 0; i < td_vocab_n_merges(v); i++) {
        td_slice l = td_vocab_text(v, by_rank[i]->left), r = td_vocab_text(v, by_rank[i]->right);
        td_buf_add_str(b, i ? ",\n" : "\n");
        if (pairs) {
            td_buf_add_str(b, "      [\n        ");
            add_json_string(b, l);
            td_buf_add_str(b, ",\n        ");
            add_json_string(b, r);
            td_buf_add_str(b, "\n      ]");
        } else {
            td_buf one = {0};
            td_buf_add(&one, l.data, l.n_bytes);
            td_buf_add_char(&one, ' ');
            td_buf_add(&one, r.data, r.n_bytes);
            add_json_string(b, (td_slice){one.data, one.n_bytes});
            td_buf_free(&one);
        }
    }
    td_buf_add_str(b, "\n    ]\n  }\n}");
    free(by_rank);
}

static void same_vocab(const td_vocab *a, const td_vocab *b) {
    assert_int_equal(td_vocab_size(a), td_vocab_size(b));
    assert_int_equal(td_vocab_n_merges(a), td_vocab_n_merges(b));
    assert_int_equal(td_vocab_bos(a), td_vocab_bos(b));
    assert_int_equal(td_vocab_eos(a), td_vocab_eos(b));
    for (uint32_t id = 0; id < td_vocab_size(a); id++) {
        td_slice x = td_vocab_text(a, id), y = td_vocab_text(b, id);
        assert_int_equal(x.n_bytes, y.n_bytes);
        assert_memory_equal(x.data, y.data, x.n_bytes);
        assert_int_equal(td_vocab_flags(a, id), td_vocab_flags(b, id));
    }
    for (uint32_t i = 0; i <= a->pair_mask; i++) {
        const vocab_pair *p = &a->pairs[i], *q = NULL;
        if (p->rank == UINT32_MAX) continue;
        q = vocab_find_pair(b, p->left, p->right);
        assert_non_null(q);
        assert_true(q->rank == p->rank && q->result == p->result);
    }
}

static void test_the_real_file(void **state) {
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++) {
        td_buf b = {0};
        td_vocab *v = NULL;
        td_error err = {0};
        write_json(&b, fixture_vocab(), pairs);
        int64_t start = td_clock_ns();
        td_vocab_json *j = NULL;
        td_status st = td_vocab_json_parse(&j, b.data, b.n_bytes, &err);
        if (!st) st = td_vocab_create(&v, td_vocab_json_source(j), &err);
        td_vocab_json_free(j);
        double ms = (double)(td_clock_ns() - start) * 1e-6;
        if (st) fail_msg("%s", err.text);
        print_message("tokenizer.json of %zu bytes loaded in %.0f ms\n", b.n_bytes, ms);
        same_vocab(fixture_vocab(), v);
        td_vocab_destroy(v);
        td_buf_free(&b);
    }
}

/* ---- GGUF -------------------------------------------------------------------------------------------------------- */

static char gguf_path[] = "/tmp/tandem-test-XXXXXX";

static td_gguf_writer *begin_gguf(void) {
    td_gguf_writer *w = NULL;
    strcpy(gguf_path + strlen(gguf_path) - 6, "XXXXXX");
    int fd = mkstemp(gguf_path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(td_gguf_writer_open(&w, gguf_path, NULL), TD_OK);
    assert_int_equal(td_gguf_put_str(w, "general.architecture", "gemma4", NULL), TD_OK);
    return w;
}

static td_status end_gguf(td_gguf_writer *w, td_vocab **v, td_error *err) {
    assert_int_equal(td_gguf_writer_commit(w, err), TD_OK);
    td_status st = td_vocab_open(v, gguf_path, err);
    unlink(gguf_path);
    return st;
}

static void test_gguf_round_trip(void **state) {
    (void)state;
    td_gguf_writer *w = begin_gguf();
    td_vocab *v = NULL;
    td_error err = {0};
    if (td_vocab_put_gguf(w, fixture_vocab(), &err)) fail_msg("%s", err.text);
    int64_t start = td_clock_ns();
    if (end_gguf(w, &v, &err)) fail_msg("%s", err.text);
    print_message("written and loaded in %.0f ms\n", (double)(td_clock_ns() - start) * 1e-6);
    same_vocab(fixture_vocab(), v);
    td_vocab_destroy(v);
}

static void test_golden_models(void **state) {
    (void)state;
    td_vocab *v = NULL;
    td_error err = {0};
    if (td_vocab_open(&v, "tests/golden/data/e.gguf", &err)) fail_msg("%s", err.text);
    assert_int_equal(td_vocab_size(v), 600);
    td_tokens t = {0};
    assert_int_equal(td_vocab_tokenize(v, "the win<|turn>", 14, TD_SPECIAL_ALL, true, &t, NULL), TD_OK);
    const uint32_t want[] = {2, 447, 460, 466, 463, 105};
    assert_int_equal(t.n, 6);
    assert_memory_equal(t.ids, want, sizeof want);
    td_tokens_free(&t);
    td_vocab_destroy(v);
}

/* One key of a good file replaced by a wrong one. */
static void refuse_gguf(int wrong, td_status code, const char *part) {
    static const td_slice words[] = {{"a", 1}, {"b", 1}};
    static const int32_t numbers[] = {1, 2, 3};
    td_gguf_writer *w = begin_gguf();
    td_vocab *v = NULL;
    td_error err = {0};
    if (wrong != 1) td_gguf_put_str(w, "tokenizer.ggml.model", wrong == 2 ? "llama" : "gemma4", NULL);
    if (wrong == 3) td_gguf_put_array(w, "tokenizer.ggml.tokens", TD_GGUF_I32, numbers, 3, NULL);
    if (wrong != 3 && wrong != 4) td_gguf_put_strings(w, "tokenizer.ggml.tokens", words, 2, NULL);
    if (wrong == 5) td_gguf_put_u32(w, "tokenizer.ggml.merges", 7, NULL);
    if (wrong != 5 && wrong != 6) td_gguf_put_strings(w, "tokenizer.ggml.merges", words, 2, NULL);
    if (wrong == 7) td_gguf_put_array(w, "tokenizer.ggml.token_type", TD_GGUF_I32, numbers, 1, NULL);
    if (wrong == 8) td_gguf_put_strings(w, "tokenizer.ggml.token_type", words, 2, NULL);
    if (wrong == 9) td_gguf_put_str(w, "tokenizer.ggml.bos_token_id", "2", NULL);
    assert_int_equal(end_gguf(w, &v, &err), code);
    assert_null(v);
    if (!strstr(err.text, part)) fail_msg("case %d: \"%s\" does not say \"%s\"", wrong, err.text, part);
}

static void test_wrong_gguf(void **state) {
    (void)state;
    refuse_gguf(1, TD_ERR_FORMAT, "tokenizer.ggml.model");
    refuse_gguf(2, TD_ERR_UNSUPPORTED, "\"llama\"");
    refuse_gguf(3, TD_ERR_FORMAT, "tokens");
    refuse_gguf(4, TD_ERR_FORMAT, "tokens");
    refuse_gguf(5, TD_ERR_FORMAT, "merges");
    refuse_gguf(6, TD_ERR_FORMAT, "merges");
    refuse_gguf(7, TD_ERR_FORMAT, "token_type");
    refuse_gguf(8, TD_ERR_FORMAT, "token_type");
    refuse_gguf(9, TD_ERR_FORMAT, "bos_token_id");
    refuse_gguf(0, TD_ERR_FORMAT, "byte token");
}

static td_status parse(const char *text, size_t n, td_error *err) {
    td_vocab_json *j = NULL;
    td_vocab *v = NULL;
    td_status st = td_vocab_json_parse(&j, text, n, err);
    if (!st) st = td_vocab_create(&v, td_vocab_json_source(j), err);
    td_vocab_destroy(v);
    td_vocab_json_free(j);
    return st;
}

static td_vocab *tiny(void) {
    static const char *const words[] = {"ab", "abc",
                                        "\xE2\x96\x81"
                                        "a",
                                        "\"\\", "\t"};
    td_vocab *v = fixture_tiny(words, 5);
    assert_non_null(v);
    return v;
}

/* Every prefix and every changed byte of a small file: an answer, never a crash; cut files are always refused. */
static void test_damage(void **state) {
    (void)state;
    td_vocab *v = tiny();
    td_buf b = {0};
    write_json(&b, v, true);
    td_error err = {0};
    if (parse(b.data, b.n_bytes, &err)) fail_msg("%s", err.text);
    for (size_t n = 0; n < b.n_bytes; n += n < 800 || n + 800 > b.n_bytes ? 1 : 7) {
        char *cut = malloc(n + 1); /* its own block, so that the sanitizer sees a read past the end */
        memcpy(cut, b.data, n);
        td_error_clear(&err);
        assert_int_not_equal(parse(cut, n, &err), TD_OK);
        assert_true(err.text[0] != 0);
        free(cut);
    }
    static const char bytes[] = {0, '"', '\\', '{', ']', ',', ':', '9', ' ', (char)0xFF};
    for (size_t i = 0; i < b.n_bytes; i += 3) {
        char was = b.data[i];
        b.data[i] = bytes[i / 3 % sizeof bytes];
        (void)parse(b.data, b.n_bytes, NULL);
        b.data[i] = was;
    }
    td_buf_free(&b);
    td_vocab_destroy(v);
}

static void refuse(const char *text, td_status code, const char *part) {
    td_error err = {0};
    assert_int_equal(parse(text, strlen(text), &err), code);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_refusals(void **state) {
    (void)state;
    char deep[200];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    memcpy(deep, "{\"x\":", 5);
    refuse("", TD_ERR_FORMAT, "an object");
    refuse("[]", TD_ERR_FORMAT, "an object");
    refuse("{}", TD_ERR_UNSUPPORTED, "not a Gemma 4");
    refuse("{} x", TD_ERR_FORMAT, "nothing more");
    refuse("{\"x\":1,}", TD_ERR_FORMAT, "a string");
    refuse("{\"x\":[1,]}", TD_ERR_FORMAT, "a value");
    refuse("{\"x\":\"\\ud800\"}", TD_ERR_FORMAT, "escape");
    refuse("{\"x\":\"\\u12\"}", TD_ERR_FORMAT, "escape");
    refuse("{\"x\":\"\n\"}", TD_ERR_FORMAT, "control");
    refuse("{\"x\":tru}", TD_ERR_FORMAT, "a value");
    refuse(deep, TD_ERR_FORMAT, "64 levels");
    refuse("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}", TD_ERR_FORMAT, "BPE");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4000000000}}}", TD_ERR_FORMAT, "without gaps");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0}}}", TD_ERR_FORMAT, "one text per");
    refuse("{\"model\":{\"vocab\":{\"a\":-1}}}", TD_ERR_FORMAT, "a number");
    refuse("{\"model\":{\"merges\":[\"a b\",[\"a\",\"b\"]]}}", TD_ERR_FORMAT, "one form");
    refuse("{\"model\":{\"merges\":[[\"a\"]]}}", TD_ERR_FORMAT, "two texts");
    refuse(
        "{\"normalizer\":{\"c\":\"\\u2581\"},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":1}}}",
        TD_ERR_FORMAT, "the id 0");
    refuse(
        "{\"normalizer\":{\"c\":\"\\u2581\"},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0}}}",
        TD_ERR_FORMAT, "byte token <0x00>");
}

static int done(void **state) {
    (void)state;
    fixture_release();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_real_file), cmocka_unit_test(test_gguf_round_trip),
        cmocka_unit_test(test_golden_models), cmocka_unit_test(test_wrong_gguf),
        cmocka_unit_test(test_damage),        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
