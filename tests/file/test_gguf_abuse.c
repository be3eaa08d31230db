/* Files made to hurt: one builder per known attack, every cut of a sound file, every change of a header byte. Whatever
 * comes in, the reader answers with one line of text; run under the sanitizers, it also proves that it read nothing
 * outside the file. */
#include "file/gguf.h"
#include "gguf_build.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

/* Opens a copy of exactly n bytes on the heap, so that a read beyond the end is seen. Walks everything on success. */
static td_status try_bytes(const unsigned char *data, size_t n, td_error *err) {
    unsigned char *copy = malloc(n != 0 ? n : 1);
    assert_non_null(copy);
    if (n != 0) memcpy(copy, data, n);
    td_gguf *g = NULL;
    td_status status = td_gguf_open_memory(&g, copy, n, err);
    assert_true((status == TD_OK) == (g != NULL));
    volatile unsigned sum = 0;
    for (size_t i = 0; g != NULL && i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        const unsigned char *p = t->data;
        for (size_t j = 0; j < t->n_bytes; j++) sum += p[j];
        assert_ptr_equal(td_gguf_tensor_find(g, t->name), t);
    }
    for (size_t i = 0; g != NULL && i < td_gguf_n_keys(g); i++) {
        const td_gguf_value *v = td_gguf_key_at(g, i);
        uint32_t u;
        float f;
        (void)td_gguf_get_u32(g, v->key, 0, &u, NULL);
        (void)td_gguf_get_f32(g, v->key, 0, &f, NULL);
        if (v->kind != TD_GGUF_ARRAY) continue;
        td_cursor c = td_gguf_array_strings(&v->as.array);
        for (td_slice s; td_gguf_next_string(&c, &s);)
            for (size_t j = 0; j < s.n_bytes; j++) sum += (unsigned char)s.data[j];
    }
    td_gguf_close(g);
    free(copy);
    return status;
}

static void check_one_line(const td_error *err) {
    size_t n = strlen(err->text);
    assert_true(n > 10 && n < TD_ERROR_TEXT);
    for (size_t i = 0; i < n; i++) assert_true((unsigned char)err->text[i] >= 0x20 && err->text[i] != 0x7f);
}

static void test_every_cut(void **state) {
    (void)state;
    static gb b;
    gb_sound(&b);
    td_error err = {0};
    assert_int_equal(try_bytes(b.data, b.n, &err), TD_OK);
    for (size_t n = 0; n < b.n; n++) { /* even the last byte belongs to a tensor */
        td_error_clear(&err);
        assert_int_equal(try_bytes(b.data, n, &err), TD_ERR_FORMAT);
        check_one_line(&err);
    }
}

static void test_every_byte(void **state) {
    (void)state;
    static gb b;
    gb_sound(&b);
    for (size_t at = 0; at < b.n; at++) {
        unsigned char old = b.data[at];
        for (unsigned v = 0; v < 256; v++) {
            td_error err = {0};
            b.data[at] = (unsigned char)v;
            if (try_bytes(b.data, b.n, &err) != TD_OK) check_one_line(&err);
        }
        b.data[at] = old;
    }
}

/* Every aligned group of eight bytes of the header becomes each of the numbers that overflow something. */
static void test_every_count(void **state) {
    (void)state;
    static const uint64_t evil[] = {UINT64_MAX,         UINT64_MAX - 7,  INT64_MAX, (uint64_t)INT64_MAX + 1,
                                    UINT64_MAX / 4 + 1, UINT64_MAX / 18, 1u << 31,  (uint64_t)1 << 32,
                                    (uint64_t)1 << 61};
    static gb b;
    gb_sound(&b);
    for (size_t at = 0; at + 8 <= b.n; at++) {
        unsigned char old[8];
        memcpy(old, b.data + at, 8);
        for (size_t i = 0; i < sizeof evil / sizeof evil[0]; i++) {
            td_error err = {0};
            memcpy(b.data + at, &evil[i], 8);
            if (try_bytes(b.data, b.n, &err) != TD_OK) check_one_line(&err);
        }
        memcpy(b.data + at, old, 8);
    }
}

/* ---- one builder per attack ---- */

static const uint64_t eight[1] = {8};

static void key_only(gb *b, const char *key, uint32_t type) {
    gb_head(b, 0, 1);
    gb_key(b, key, type);
}

static void one_tensor(gb *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset) {
    gb_head(b, 1, 0);
    gb_tensor(b, name, n_dims, ne, type, offset);
    gb_pad(b, 32);
    for (int i = 0; i < 32; i++) gb_u8(b, 0);
}

static void big_endian(gb *b) {
    gb_sound(b);
    memcpy(b->data + 4, "\0\0\0\3", 4);
}
static void version_1(gb *b) {
    gb_sound(b);
    b->data[4] = 1;
}
static void many_keys(gb *b) {
    gb_head(b, 0, UINT64_MAX);
    gb_pad(b, 64);
}
static void many_tensors(gb *b) {
    gb_head(b, (uint64_t)1 << 40, 0);
    gb_pad(b, 64);
}
static void huge_string(gb *b) {
    key_only(b, "k", 8);
    gb_u64(b, UINT64_MAX);
    gb_pad(b, 64);
}
static void huge_key(gb *b) {
    gb_head(b, 0, 1);
    gb_u64(b, UINT64_MAX - 8);
    gb_pad(b, 64);
}
static void empty_key(gb *b) {
    gb_head(b, 0, 1);
    gb_str(b, "");
    gb_u32(b, 4);
    gb_u64(b, 0);
}
static void control_key(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "evil\033[2Jkey", 1);
}
static void key_twice(gb *b) {
    gb_head(b, 0, 2);
    gb_key_u32(b, "k", 1);
    gb_key_u32(b, "k", 2);
}
static void nul_in_key(gb *b) {
    gb_head(b, 0, 1);
    gb_u64(b, 3);
    gb_raw(b, "a\0b", 3);
    gb_u32(b, 4);
    gb_u32(b, 4);
}
static void value_type_13(gb *b) {
    key_only(b, "k", 13);
    gb_u64(b, 0);
}
static void bad_bool(gb *b) {
    key_only(b, "k", 7);
    gb_u8(b, 2);
}
static void bad_bool_array(gb *b) {
    key_only(b, "k", 9);
    gb_u32(b, 7);
    gb_u64(b, 2);
    gb_u8(b, 1);
    gb_u8(b, 9);
}
static void array_of_arrays(gb *b) {
    key_only(b, "k", 9);
    for (int i = 0; i < 1000; i++) {
        gb_u32(b, 9);
        gb_u64(b, 1);
    }
}
static void array_overflow(gb *b) { /* 2^61 + 1 elements of 8 bytes are 8 bytes modulo 2^64 */
    key_only(b, "k", 9);
    gb_u32(b, 10);
    gb_u64(b, ((uint64_t)1 << 61) + 1);
    gb_u64(b, 0);
}
static void array_too_long(gb *b) {
    key_only(b, "k", 9);
    gb_u32(b, 0);
    gb_u64(b, 1000);
    gb_u64(b, 0);
}
static void string_array_lies(gb *b) {
    key_only(b, "k", 9);
    gb_u32(b, 8);
    gb_u64(b, 2);
    gb_str(b, "ok");
    gb_u64(b, UINT64_MAX - 3);
}
static void arch_number(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "general.architecture", 1);
}
static void arch_control(gb *b) {
    gb_head(b, 0, 1);
    gb_key_str(b, "general.architecture", "a\nb");
}
static void alignment_string(gb *b) {
    gb_head(b, 0, 1);
    gb_key_str(b, "general.alignment", "x");
}
static void alignment_zero(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "general.alignment", 0);
}
static void alignment_33(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "general.alignment", 33);
}
static void alignment_huge(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "general.alignment", 1u << 31);
}
static void five_dims(gb *b) {
    static const uint64_t ne[5] = {1, 1, 1, 1, 1};
    one_tensor(b, "t", 5, ne, 0, 0);
}
static void zero_dim(gb *b) {
    static const uint64_t ne[2] = {8, 0};
    one_tensor(b, "t", 2, ne, 0, 0);
}
static void negative_dim(gb *b) {
    static const uint64_t ne[1] = {UINT64_MAX};
    one_tensor(b, "t", 1, ne, 0, 0);
}
static void dims_overflow(gb *b) { /* 2^32 * 2^32 is 0 modulo 2^64 */
    static const uint64_t ne[2] = {(uint64_t)1 << 32, (uint64_t)1 << 32};
    one_tensor(b, "t", 2, ne, 0, 0);
}
static void bytes_overflow(gb *b) { /* 2^62 values of 4 bytes */
    static const uint64_t ne[1] = {(uint64_t)1 << 62};
    one_tensor(b, "t", 1, ne, 0, 0);
}
static void removed_type(gb *b) {
    one_tensor(b, "t", 1, eight, 4, 0);
}
static void runtime_type(gb *b) {
    static const uint64_t ne[1] = {32};
    one_tensor(b, "t", 1, ne, 9, 0);
}
static void cache_type(gb *b) { /* the number turbo caches have inside the program */
    static const uint64_t ne[1] = {128};
    one_tensor(b, "t", 1, ne, 0x10000, 0);
}
static void odd_row(gb *b) {
    static const uint64_t ne[1] = {33};
    one_tensor(b, "t", 1, ne, 8, 0);
}
static void offset_odd(gb *b) {
    one_tensor(b, "t", 1, eight, 0, 4);
}
static void offset_outside(gb *b) {
    one_tensor(b, "t", 1, eight, 0, UINT64_MAX - 31);
}
static void tensors_overlap(gb *b) {
    gb_head(b, 2, 0);
    gb_tensor(b, "t", 1, eight, 0, 0);
    gb_tensor(b, "u", 1, eight, 0, 0);
    gb_pad(b, 32);
    for (int i = 0; i < 64; i++) gb_u8(b, 0);
}
static void tensors_gap(gb *b) {
    gb_head(b, 2, 0);
    gb_tensor(b, "t", 1, eight, 0, 0);
    gb_tensor(b, "u", 1, eight, 0, 64);
    gb_pad(b, 32);
    for (int i = 0; i < 128; i++) gb_u8(b, 0);
}
static void tensor_twice(gb *b) {
    gb_head(b, 2, 0);
    gb_tensor(b, "t", 1, eight, 0, 0);
    gb_tensor(b, "t", 1, eight, 0, 32);
    gb_pad(b, 32);
    for (int i = 0; i < 64; i++) gb_u8(b, 0);
}
static void long_tensor_name(gb *b) {
    one_tensor(b, "0123456789012345678901234567890123456789012345678901234567890123", 1, eight, 0, 0);
}
static void tensor_cut(gb *b) {
    static const uint64_t ne[1] = {1000};
    one_tensor(b, "t", 1, ne, 0, 0);
}
static void split_in_memory(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "split.count", 2);
}
static void split_count_string(gb *b) {
    gb_head(b, 0, 1);
    gb_key_str(b, "split.count", "2");
}
static void split_count_huge(gb *b) {
    gb_head(b, 0, 1);
    gb_key_u32(b, "split.count", UINT32_MAX);
}

static const struct {
    void (*make)(gb *b);
    td_status status;
    const char *says;
} attacks[] = {
    {big_endian, TD_ERR_UNSUPPORTED, "big-endian"},
    {version_1, TD_ERR_UNSUPPORTED, "GGUF version 1"},
    {many_keys, TD_ERR_FORMAT, "claims 18446744073709551615 keys"},
    {many_tensors, TD_ERR_FORMAT, "claims 1099511627776 tensors"},
    {huge_string, TD_ERR_FORMAT, "value of key 'k' is longer than the file"},
    {huge_key, TD_ERR_FORMAT, "name of key 0 has length 18446744073709551607"},
    {empty_key, TD_ERR_FORMAT, "name of key 0 has length 0"},
    {control_key, TD_ERR_FORMAT, "name of key 0 holds byte 0x1b"},
    {key_twice, TD_ERR_FORMAT, "key 'k' is there twice"},
    {nul_in_key, TD_ERR_FORMAT, "holds byte 0x00"},
    {value_type_13, TD_ERR_FORMAT, "value type 13"},
    {bad_bool, TD_ERR_FORMAT, "neither 0 nor 1"},
    {bad_bool_array, TD_ERR_FORMAT, "neither 0 nor 1"},
    {array_of_arrays, TD_ERR_FORMAT, "array of type 9"},
    {array_overflow, TD_ERR_FORMAT, "array of 2305843009213693953 values"},
    {array_too_long, TD_ERR_FORMAT, "array of 1000 values"},
    {string_array_lies, TD_ERR_FORMAT, "string 1 of key 'k'"},
    {arch_number, TD_ERR_FORMAT, "'general.architecture' is of type u32, expected string"},
    {arch_control, TD_ERR_FORMAT, "not a short plain name"},
    {alignment_string, TD_ERR_FORMAT, "'general.alignment' is of type string"},
    {alignment_zero, TD_ERR_FORMAT, "power of two"},
    {alignment_33, TD_ERR_FORMAT, "power of two"},
    {alignment_huge, TD_ERR_FORMAT, "power of two"},
    {five_dims, TD_ERR_FORMAT, "5 dimensions"},
    {zero_dim, TD_ERR_FORMAT, "dimension 0"},
    {negative_dim, TD_ERR_FORMAT, "dimension 18446744073709551615"},
    {dims_overflow, TD_ERR_FORMAT, "more than 2^63"},
    {bytes_overflow, TD_ERR_FORMAT, "larger than any file"},
    {removed_type, TD_ERR_UNSUPPORTED, "type 4"},
    {runtime_type, TD_ERR_UNSUPPORTED, "type 9"},
    {cache_type, TD_ERR_UNSUPPORTED, "type 65536"},
    {odd_row, TD_ERR_FORMAT, "multiple of 32"},
    {offset_odd, TD_ERR_FORMAT, "at offset 4 of the data, expected 0"},
    {offset_outside, TD_ERR_FORMAT, "expected 0"},
    {tensors_overlap, TD_ERR_FORMAT, "tensor 'u' is at offset 0 of the data, expected 32"},
    {tensors_gap, TD_ERR_FORMAT, "tensor 'u' is at offset 64 of the data, expected 32"},
    {tensor_twice, TD_ERR_FORMAT, "tensor 't' is there twice"},
    {long_tensor_name, TD_ERR_FORMAT, "name of tensor 0 has length 64"},
    {tensor_cut, TD_ERR_FORMAT, "file ends before the end of tensor 't' (4000 bytes needed"},
    {split_in_memory, TD_ERR_UNSUPPORTED, "split file"},
    {split_count_string, TD_ERR_FORMAT, "'split.count' is of type string"},
    {split_count_huge, TD_ERR_FORMAT, "'split.count' is 4294967295"},
};

static void test_attacks(void **state) {
    (void)state;
    static gb b;
    for (size_t i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
        td_error err = {0};
        attacks[i].make(&b);
        td_status status = try_bytes(b.data, b.n, &err);
        if (status != attacks[i].status || strstr(err.text, attacks[i].says) == NULL)
            fail_msg("attack %zu: status %d, text '%s', expected '%s'", i, (int)status, err.text, attacks[i].says);
        check_one_line(&err);
    }
}

/* Time must stay near linear: 65,536 keys with a long common prefix, within the test's own time limit. */
static void test_many_names(void **state) {
    (void)state;
    enum { N = 60000, EACH = 8 + 40 + 4 + 1 };
    unsigned char *data = malloc(24 + (size_t)N * EACH);
    static gb b;
    size_t n = 24;
    gb_head(&b, 0, N);
    memcpy(data, b.data, 24);
    for (int i = 0; i < N; i++) {
        char name[48];
        snprintf(name, sizeof name, "%034d%06d", 0, (i * 7919) % N);
        b.n = 0;
        gb_key(&b, name, 0);
        gb_u8(&b, 1);
        memcpy(data + n, b.data, b.n);
        n += b.n;
    }
    td_error err = {0};
    assert_int_equal(try_bytes(data, n, &err), TD_OK);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut), cmocka_unit_test(test_every_byte), cmocka_unit_test(test_every_count),
        cmocka_unit_test(test_attacks),   cmocka_unit_test(test_many_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
