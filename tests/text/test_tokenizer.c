/* The tokenizer against the reference's vectors, the derived ones, a naive implementation of the written rule, and its
 * own promises: round trip, inert text, independence of the parts around special tokens, bounded time. */
#include "vocab_fixture.h"

#include "base/clock.h"
#include "text/vocab_impl.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *load(const char *path) {
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j) fail_msg("%s: %s", path, e.text);
    return j;
}

static void check_ids(json_t *want, const td_tokens *got, const char *what) {
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++)
        same = got->ids[i] == (uint32_t)json_integer_value(json_array_get(want, i));
    if (same) return;
    for (size_t i = 0; i < got->n; i++) print_error("%u ", got->ids[i]);
    fail_msg("wrong ids for %s: expected %s", what, json_dumps(want, JSON_COMPACT));
}

static void check_encode(const char *text, size_t n, bool add_special, bool parse_special, json_t *ids) {
    td_tokens t = {0};
    td_special_mode mode = parse_special ? TD_SPECIAL_ALL : TD_SPECIAL_USER;
    assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, n, mode, add_special, &t, NULL), TD_OK);
    check_ids(ids, &t, text);
    td_tokens_free(&t);
}

static void test_reference_vectors(void **state) {
    (void)state;
    json_t *j = load("tests/text/data/tokenizer-cases.json"), *cases = json_object_get(j, "cases"), *c;
    size_t i;
    assert_int_equal(json_array_size(cases), 31);
    json_array_foreach(cases, i, c) {
        json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids"), *id;
        check_encode(json_string_value(text), json_string_length(text), false, false, ids);
        td_buf back = {0};
        size_t k;
        json_array_foreach(ids, k, id) {
            uint32_t one = (uint32_t)json_integer_value(id);
            assert_int_equal(td_vocab_detokenize(fixture_vocab(), &one, 1, false, &back, NULL), TD_OK);
        }
        assert_int_equal(back.n_bytes, json_string_length(text));
        assert_memory_equal(back.data, json_string_value(text), back.n_bytes);
        td_buf_free(&back);
    }
    json_decref(j);
}

static void test_derived_encode(void **state) {
    (void)state;
    json_t *j = load("tests/text/data/tokenizer-cases-derived.json"), *c;
    size_t i;
    json_array_foreach(json_object_get(j, "encode"), i, c) {
        json_t *text = json_object_get(c, "text");
        check_encode(json_string_value(text), json_string_length(text), json_is_true(json_object_get(c, "add_special")),
                     json_is_true(json_object_get(c, "parse_special")), json_object_get(c, "ids"));
    }
    assert_int_equal(i, 111);
    json_array_foreach(json_object_get(j, "encode_bytes"), i, c) {
        char bytes[256];
        size_t n = fixture_unhex(json_string_value(json_object_get(c, "bytes")), bytes, sizeof bytes);
        check_encode(bytes, n, json_is_true(json_object_get(c, "add_special")),
                     json_is_true(json_object_get(c, "parse_special")), json_object_get(c, "ids"));
    }
    assert_int_equal(i, 12);
    json_decref(j);
}

static void test_derived_decode_and_stream(void **state) {
    (void)state;
    json_t *j = load("tests/text/data/tokenizer-cases-derived.json"), *c, *id;
    size_t i, k;
    json_array_foreach(json_object_get(j, "decode"), i, c) {
        char want[1024];
        size_t n = fixture_unhex(json_string_value(json_object_get(c, "bytes")), want, sizeof want);
        td_buf got = {0};
        json_array_foreach(json_object_get(c, "ids"), k, id) {
            uint32_t one = (uint32_t)json_integer_value(id);
            bool special = json_is_true(json_object_get(c, "special"));
            assert_int_equal(td_vocab_detokenize(fixture_vocab(), &one, 1, special, &got, NULL), TD_OK);
        }
        assert_int_equal(got.n_bytes, n);
        if (n) assert_memory_equal(got.data, want, n);
        td_buf_free(&got);
    }
    assert_int_equal(i, 16);
    json_array_foreach(json_object_get(j, "stream"), i, c) {
        td_detok d;
        td_buf got = {0};
        td_detok_init(&d, fixture_vocab(), json_is_true(json_object_get(c, "special")));
        json_array_foreach(json_object_get(c, "ids"), k, id) {
            td_buf_clear(&got);
            assert_true(td_detok_push(&d, (uint32_t)json_integer_value(id), &got));
            assert_string_equal(got.data, json_string_value(json_array_get(json_object_get(c, "chunks"), k)));
        }
        td_buf_clear(&got);
        assert_true(td_detok_finish(&d, &got));
        assert_string_equal(got.data, json_string_value(json_object_get(c, "final")));
        td_buf_free(&got);
    }
    assert_int_equal(i, 9);
    json_decref(j);
}

/* ---- the written rule, naively ----------------------------------------------------------------------------------- */

/* Spec A.6 steps 2 and 3 over one text without special tokens: all pairs are looked at for every merge, no cutting. */
static void naive(const td_vocab *v, const char *text, size_t n_bytes, td_tokens *out) {
    char(*part)[128] = calloc(n_bytes + 1, sizeof *part);
    size_t n = 0;
    for (size_t i = 0; i < n_bytes;) {
        uint32_t cp = 0;
        int length = td_utf8_next(text + i, n_bytes - i, &cp);
        if (length <= 0) {
            length = 1;
            strcpy(part[n], "\xEF\xBF\xBD");
        } else if (cp == ' ') {
            strcpy(part[n], "\xE2\x96\x81");
        } else {
            memcpy(part[n], text + i, (size_t)length);
        }
        i += (size_t)length;
        n++;
    }
    for (;;) {
        size_t best = n;
        uint32_t rank = UINT32_MAX;
        for (size_t i = 0; i + 1 < n; i++) {
            if (!part[i][0] || !part[i + 1][0] || (part[i][0] == '\n') != (part[i + 1][0] == '\n')) continue;
            uint32_t a = td_vocab_find_str(v, part[i]), b = td_vocab_find_str(v, part[i + 1]);
            const vocab_pair *p = a == TD_TOKEN_NONE || b == TD_TOKEN_NONE ? NULL : vocab_find_pair(v, a, b);
            if (p && p->rank < rank) best = i, rank = p->rank;
        }
        if (best == n) break;
        memcpy(part[best] + strlen(part[best]), part[best + 1], strlen(part[best + 1]) + 1);
        memmove(part[best + 1], part[best + 2], (n - best - 2) * sizeof *part);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t id = td_vocab_find_str(v, part[i]);
        if (id != TD_TOKEN_NONE && part[i][0]) {
            td_tokens_add(out, id);
            continue;
        }
        size_t k = 0;
        do td_tokens_add(out, td_vocab_byte(v, (uint8_t)part[i][k]));
        while (part[i][++k]);
    }
    free(part);
}

/* Random text: pieces of the vocabulary, words cut anywhere, blanks, raw bytes. */
static size_t random_text(uint64_t *rng, char *out, size_t cap, bool raw_bytes) {
    const td_vocab *v = fixture_vocab();
    size_t n = 0, n_parts = 1 + fixture_random(rng) % 12;
    for (size_t i = 0; i < n_parts; i++) {
        uint64_t r = fixture_random(rng), kind = r % (raw_bytes ? 8 : 7);
        r >>= 8;
        if (kind < 4) {
            td_slice p = td_vocab_piece(v, kind == 0 ? 494 + (uint32_t)(r % 255000) : 494 + (uint32_t)(r % 3000), true);
            if (n + p.n_bytes > cap) break;
            memcpy(out + n, p.data, p.n_bytes);
            n += p.n_bytes;
        } else if (kind < 6) {
            char c = " \n\t<e>{1"[r % 8];
            for (size_t k = 0; k <= r / 8 % 7 && n < cap; k++) out[n++] = c;
        } else if (kind == 6) {
            if (n + 4 > cap) break;
            char utf8[4];
            int length = td_utf8_put((uint32_t)(r % 0x110000), utf8);
            memcpy(out + n, utf8, (size_t)length);
            n += (size_t)length;
        } else if (n < cap) {
            out[n++] = (char)r;
        }
    }
    return n;
}

static void cuts_change_nothing(void **state) {
    (void)state;
    uint64_t rng = 1;
    char text[512];
    for (int i = 0; i < 20000; i++) {
        size_t n = random_text(&rng, text, sizeof text, true);
        td_tokens want = {0}, got = {0};
        naive(fixture_vocab(), text, n, &want);
        assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, n, TD_SPECIAL_NONE, false, &got, NULL), TD_OK);
        if (got.n != want.n || (n && memcmp(got.ids, want.ids, got.n * sizeof *got.ids) != 0))
            fail_msg("case %d: %.*s", i, (int)n, text);
        td_tokens_free(&want);
        td_tokens_free(&got);
    }
}

static void test_round_trip(void **state) {
    (void)state;
    uint64_t rng = 2;
    char text[512];
    for (int i = 0; i < 20000; i++) {
        size_t n = random_text(&rng, text, sizeof text, false);
        td_tokens t = {0};
        td_buf back = {0}, streamed = {0};
        td_detok d;
        td_detok_init(&d, fixture_vocab(), true);
        td_special_mode mode = (td_special_mode)(i % 3);
        assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, n, mode, false, &t, NULL), TD_OK);
        assert_int_equal(td_vocab_detokenize(fixture_vocab(), t.ids, t.n, true, &back, NULL), TD_OK);
        for (size_t k = 0; k < t.n; k++) {
            assert_true(td_detok_push(&d, t.ids[k], &streamed));
            assert_true(td_utf8_valid(streamed.data, streamed.n_bytes));
        }
        assert_true(td_detok_finish(&d, &streamed));
        for (size_t k = 0, m = 0; k < n; k++, m++) { /* U+2581 comes back as a space */
            bool mark = n - k >= 3 && memcmp(text + k, "\xE2\x96\x81", 3) == 0;
            assert_int_equal(back.data[m], mark ? ' ' : text[k]);
            if (mark) k += 2;
        }
        assert_int_equal(streamed.n_bytes, back.n_bytes);
        if (back.n_bytes) assert_memory_equal(streamed.data, back.data, back.n_bytes);
        td_tokens_free(&t);
        td_buf_free(&back);
        td_buf_free(&streamed);
    }
}

/* encode(a + S + b) = encode(a) + [S] + encode(b), and nothing of it when the text is to be inert. */
static void test_special_tokens_stand_alone(void **state) {
    (void)state;
    const td_vocab *v = fixture_vocab();
    uint64_t rng = 3;
    uint32_t n_specials = 0;
    const uint32_t *specials = td_vocab_specials(v, &n_specials);
    assert_int_equal(n_specials, 24);
    for (int i = 0; i < 4000; i++) {
        char text[1200];
        uint32_t id = specials[(uint32_t)i % n_specials];
        size_t n_a = random_text(&rng, text, 512, true);
        td_slice s = td_vocab_text(v, id);
        memcpy(text + n_a, s.data, s.n_bytes);
        size_t n_b = random_text(&rng, text + n_a + s.n_bytes, 512, true), n = n_a + s.n_bytes + n_b;
        td_tokens want = {0}, got = {0}, inert = {0};
        td_vocab_tokenize(v, text, n_a, TD_SPECIAL_ALL, false, &want, NULL);
        td_tokens_add(&want, id);
        td_vocab_tokenize(v, text + n_a + s.n_bytes, n_b, TD_SPECIAL_ALL, false, &want, NULL);
        td_vocab_tokenize(v, text, n, TD_SPECIAL_ALL, false, &got, NULL);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.ids, want.ids, got.n * sizeof *got.ids);
        td_vocab_tokenize(v, text, n, TD_SPECIAL_NONE, false, &inert, NULL);
        for (size_t k = 0; k < inert.n; k++)
            assert_false(td_vocab_flags(v, inert.ids[k]) &
                         (TD_TOKEN_CONTROL | TD_TOKEN_USER_DEFINED | TD_TOKEN_UNKNOWN));
        td_tokens_free(&want);
        td_tokens_free(&got);
        td_tokens_free(&inert);
    }
}

static void test_long_runs_take_bounded_time(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "\t", "ab", "the", "<", "<|turn", "\xE4\xB8\xAD", "\xFF", "=-"};
    enum { N = 1 << 20 };
    char *text = malloc(N);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t n_unit = strlen(units[u]);
        for (size_t i = 0; i < N; i++) text[i] = units[u][i % n_unit];
        td_tokens t = {0};
        int64_t start = td_clock_ns();
        assert_int_equal(td_vocab_tokenize(fixture_vocab(), text, N, TD_SPECIAL_ALL, false, &t, NULL), TD_OK);
        double seconds = (double)(td_clock_ns() - start) * 1e-9;
        if (seconds > 5) fail_msg("1 MiB of \"%s\" took %.2f s", units[u], seconds);
        td_tokens_free(&t);
    }
    free(text);
}

/* Every token of the detokenizer's worst case, pushed without a reallocation. */
static void test_detok_reserve_is_enough(void **state) {
    (void)state;
    td_buf out = {0};
    td_detok d;
    td_detok_init(&d, fixture_vocab(), true);
    assert_true(td_buf_reserve(&out, td_detok_max(fixture_vocab())));
    const char *data = out.data;
    for (uint32_t id = 0; id < td_vocab_size(fixture_vocab()) + 2; id++) {
        td_buf_clear(&out);
        assert_true(td_detok_push(&d, id, &out));
        assert_ptr_equal(out.data, data);
    }
    td_buf_free(&out);
}

static void *tokenize_in_thread(void *arg) {
    uint64_t rng = (uint64_t)(uintptr_t)arg, sum = 0;
    char text[512];
    for (int i = 0; i < 3000; i++) {
        size_t n = random_text(&rng, text, sizeof text, true);
        td_tokens t = {0};
        if (td_vocab_tokenize(fixture_vocab(), text, n, TD_SPECIAL_ALL, true, &t, NULL)) return NULL;
        for (size_t k = 0; k < t.n; k++) sum = sum * 31 + t.ids[k];
        td_tokens_free(&t);
    }
    return (void *)(uintptr_t)(sum | 1);
}

static void test_threads_share_a_vocabulary(void **state) {
    (void)state;
    pthread_t a, b;
    void *ra = NULL, *rb = NULL;
    assert_non_null(fixture_vocab());
    assert_int_equal(pthread_create(&a, NULL, tokenize_in_thread, (void *)7), 0);
    assert_int_equal(pthread_create(&b, NULL, tokenize_in_thread, (void *)7), 0);
    pthread_join(a, &ra);
    pthread_join(b, &rb);
    assert_non_null(ra);
    assert_ptr_equal(ra, rb);
}

static int done(void **state) {
    (void)state;
    fixture_release();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_share_a_vocabulary), /* first: the vocabulary's notes are still empty */
        cmocka_unit_test(test_reference_vectors),
        cmocka_unit_test(test_derived_encode),
        cmocka_unit_test(test_derived_decode_and_stream),
        cmocka_unit_test(cuts_change_nothing),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_special_tokens_stand_alone),
        cmocka_unit_test(test_long_runs_take_bounded_time),
        cmocka_unit_test(test_detok_reserve_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
