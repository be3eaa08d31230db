/* safetensors: sound files, shards, and headers made to hurt. */
#include "file/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[256];

static int make_dir(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/td-st-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    char command[512];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command);
}

static size_t make(unsigned char *out, const char *header, size_t n_data) {
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) out[i] = (unsigned char)(n >> (8 * i));
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < n_data; i++) out[8 + n + i] = (unsigned char)i;
    return 8 + n + n_data;
}

static td_status try_bytes(const unsigned char *data, size_t n, td_error *err, td_safetensors **keep) {
    unsigned char *copy = malloc(n != 0 ? n : 1);
    td_safetensors *s = NULL;
    memcpy(copy, data, n);
    td_status status = td_safetensors_open_memory(&s, copy, n, err);
    volatile unsigned sum = 0;
    for (size_t i = 0; s != NULL && i < td_safetensors_count(s); i++) {
        const td_st_tensor *t = td_safetensors_at(s, i);
        for (size_t j = 0; j < t->n_bytes; j++) sum += ((const unsigned char *)t->data)[j];
    }
    if (keep != NULL) { /* the caller reads from `data` offsets only */
        *keep = s;
        s = NULL;
    }
    td_safetensors_close(s);
    free(copy);
    return status;
}

static const char sound[] = "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_"
                            "offsets\":[4,16]},\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},\"e\":{"
                            "\"dtype\":\"I8\",\"shape\":[0,5],\"data_offsets\":[4,4]}}   ";

static void test_sound(void **state) {
    (void)state;
    unsigned char data[1024];
    td_safetensors *s = NULL;
    td_error err = {0};
    size_t n = make(data, sound, 16);
    assert_int_equal(try_bytes(data, n, &err, &s), TD_OK);
    assert_int_equal(td_safetensors_count(s), 3);
    assert_int_equal(td_safetensors_bytes(s), 16);
    const td_st_tensor *t = td_safetensors_find(s, "b");
    assert_non_null(t);
    assert_int_equal(t->dtype, TD_ST_BF16);
    assert_true(t->n_dims == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->n_bytes == 12);
    assert_true(t->offset == 8 + strlen(sound) + 4);
    assert_true(td_safetensors_find(s, "a")->n_dims == 0);
    assert_null(td_safetensors_find(s, "__metadata__"));
    td_safetensors_close(s);
    for (size_t cut = 0; cut < n; cut++) {
        td_error_clear(&err);
        assert_int_not_equal(try_bytes(data, cut, &err, NULL), TD_OK);
        assert_true(strlen(err.text) > 8);
    }
    for (size_t at = 0; at < n - 16; at++) {
        unsigned char old = data[at];
        for (unsigned v = 0; v < 256; v += 3) {
            data[at] = (unsigned char)v;
            (void)try_bytes(data, n, NULL, NULL);
        }
        data[at] = old;
    }
}

#define T(shape, range) "\"a\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" range "}"

static void test_attacks(void **state) {
    (void)state;
    static const struct {
        const char *header, *says;
    } attacks[] = {
        {"{" T("[4]", "[0,16]") "," T("[4]", "[0,16]") "}", "duplicate"},
        {"{" T("[4]", "[0,8]") "}", "disagree"},
        {"{" T("[4]", "[16,0]") "}", "outside the file"},
        {"{" T("[8]", "[0,32]") "}", "outside the file"},
        {"{" T("[2]", "[0,8]") "}", "belong to none"},
        {"{" T("[2]", "[8,16]") "}", "gap"},
        {"{" T("[-4]", "[0,16]") "}", "whole number"},
        {"{" T("[4.0]", "[0,16]") "}", "whole number"},
        {"{" T("[\"4\"]", "[0,16]") "}", "whole number"},
        {"{" T("[4294967296,4294967296]", "[0,0]") "}", "larger than any file"},
        {"{" T("[4611686018427387904]", "[0,0]") "}", "disagree"},
        {"{" T("[1,1,1,1,1,1,1,1,4]", "[0,16]") "}", "at most 8"},
        {"{" T("[4]", "[0,16,3]") "}", "pair"},
        {"{" T("[4]", "{}") "}", "pair"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "exactly"},
        {"{\"a\":{\"dtype\":3,\"shape\":[4],\"data_offsets\":[0,16]}}", "exactly"},
        {"{\"a\":[]}", "exactly"},
        {"{\"a\\u0000b\":1}", "JSON"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "name has 0 bytes"},
        {"[]", "not a safetensors file"},
        {"{\"a\":}", "JSON"},
        {"{}", "data without tensors"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[3],"
         "\"data_"
         "offsets\":[4,16]}}",
         "overlap"},
    };
    unsigned char data[2048];
    for (size_t i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
        td_error err = {0};
        size_t n = make(data, attacks[i].header, 16);
        td_status status = try_bytes(data, n, &err, NULL);
        if (status == TD_OK || strstr(err.text, attacks[i].says) == NULL)
            fail_msg("attack %zu: status %d, text '%s'", i, (int)status, err.text);
    }
    td_error err = {0};
    size_t n = make(data, "{}", 0);
    memset(data, 0xff, 8);
    assert_int_equal(try_bytes(data, n, &err, NULL), TD_ERR_FORMAT);
    assert_non_null(strstr(err.text, "claims 18446744073709551615"));
    static char deep[1 << 20]; /* nesting far beyond the parser's depth */
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof deep - 2] = '}';
    unsigned char *big = malloc(sizeof deep + 8);
    n = make(big, deep, 0);
    td_error_clear(&err);
    assert_int_equal(try_bytes(big, n, &err, NULL), TD_ERR_FORMAT);
    free(big);
}

static void put(const char *name, const void *data, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(data, 1, n, f);
    fclose(f);
}

static td_status open_dir(const char *index, td_error *err) {
    td_safetensors *s = NULL;
    put("model.safetensors.index.json", index, strlen(index));
    td_status status = td_safetensors_open(&s, dir, err);
    if (s != NULL) {
        assert_int_equal(td_safetensors_count(s), 2);
        assert_true(td_safetensors_find(s, "a")->file != td_safetensors_find(s, "b")->file);
        td_safetensors_release(s, td_safetensors_find(s, "b"));
    }
    td_safetensors_close(s);
    return status;
}

static void test_shards(void **state) {
    (void)state;
    unsigned char data[256];
    td_error err = {0};
    assert_int_equal(td_safetensors_open(&(td_safetensors *){NULL}, dir, &err), TD_ERR_NOT_FOUND);
    td_error_clear(&err);
    put("m1.safetensors", data, make(data, "{" T("[4]", "[0,16]") "}", 16));
    put("m2.safetensors", data, make(data, "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3));
    assert_int_equal(open_dir("{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":\"m2.safetensors\"}}", &err), TD_OK);
    static const struct {
        const char *index, *says;
    } faults[] = {
        {"{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":\"m1.safetensors\"}}", "'b' is not in 'm1.safetensors'"},
        {"{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":\"m2.safetensors\",\"c\":\"m2.safetensors\"}}",
         "'c' is not in"},
        {"{\"weight_map\":{\"a\":\"../m1.safetensors\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":7}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"m9.safetensors\"}}", "m9.safetensors: No such file"},
        {"{\"weight_map\":[]}", "no weight_map"},
        {"{}", "no weight_map"},
        {"{", "JSON"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        td_error_clear(&err);
        td_status status = open_dir(faults[i].index, &err);
        if (status == TD_OK || strstr(err.text, faults[i].says) == NULL)
            fail_msg("index %zu: status %d, text '%s'", i, (int)status, err.text);
    }
    put("m2.safetensors", data,
        make(data, "{" T("[4]", "[0,16]") ",\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[16,19]}}", 19));
    td_error_clear(&err);
    assert_int_not_equal(open_dir("{\"weight_map\":{\"a\":\"m1.safetensors\",\"b\":\"m2.safetensors\"}}", &err), TD_OK);
    assert_non_null(strstr(err.text, "in two files"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_attacks),
        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
