/* GGUF: what is written is read back; the reader agrees with bytes laid out by hand; split files. */
#include "file/gguf.h"
#include "file/gguf_write.h"
#include "gguf_build.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[256];

static int make_dir(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/td-gguf-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int drop_dir(void **state) {
    (void)state;
    char command[512];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command);
}

static const char *in_dir(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void test_by_hand(void **state) {
    (void)state;
    static gb b;
    td_gguf *g = NULL;
    td_error err = {0};
    uint32_t u = 0;
    bool flag = false;
    td_slice s;
    td_gguf_array a;
    int64_t v = 0;
    double d = 0;
    gb_sound(&b);
    assert_int_equal(td_gguf_open_memory(&g, b.data, b.n, &err), TD_OK);
    assert_string_equal(td_gguf_arch(g), "gemma4");
    assert_int_equal(td_gguf_n_keys(g), 5);
    assert_int_equal(td_gguf_version(g), 3);
    assert_int_equal(td_gguf_get_u32(g, ".block_count", 1, &u, &err), TD_OK);
    assert_int_equal(u, 7);
    assert_int_equal(td_gguf_get_u32(g, ".absent", 9, &u, &err), TD_OK);
    assert_int_equal(u, 9);
    assert_int_equal(td_gguf_get_bool(g, "flag", false, &flag, &err), TD_OK);
    assert_true(flag);
    assert_int_equal(td_gguf_get_array(g, "list", &a, &err), TD_OK);
    assert_int_equal(a.n, 3);
    assert_true(td_gguf_array_i64(&a, 0, &v) && v == -2);
    assert_true(td_gguf_array_f64(&a, 1, &d) && d == -1.0);
    assert_false(td_gguf_array_i64(&a, 3, &v));
    assert_int_equal(td_gguf_get_array(g, "words", &a, &err), TD_OK);
    td_cursor c = td_gguf_array_strings(&a);
    assert_true(td_gguf_next_string(&c, &s) && s.n_bytes == 3 && memcmp(s.data, "one", 3) == 0);
    assert_true(td_gguf_next_string(&c, &s) && s.n_bytes == 0);
    assert_false(td_gguf_next_string(&c, &s));
    assert_false(td_gguf_array_i64(&a, 0, &v));

    assert_int_equal(td_gguf_get_u32(g, "words", 0, &u, &err), TD_ERR_FORMAT);
    assert_string_equal(err.text, "key 'words' is of type array, expected an integer");
    td_error_clear(&err);
    assert_int_equal(td_gguf_get_str(g, "flag", &s, &err), TD_ERR_FORMAT);
    assert_int_equal(td_gguf_get_f32(g, "flag", 0, &(float){0}, NULL), TD_ERR_FORMAT);
    assert_int_equal(td_gguf_get_u32(g, "flag", 0, &u, NULL), TD_ERR_FORMAT);
    assert_int_equal(td_gguf_require(g, ".nothing", NULL), TD_ERR_FORMAT);

    uint32_t each[3];
    assert_int_equal(td_gguf_get_u32_each(g, ".block_count", 0, each, 3, NULL), TD_OK);
    assert_true(each[0] == 7 && each[2] == 7);
    assert_int_equal(td_gguf_get_u32_each(g, "list", 0, each, 3, NULL), TD_ERR_FORMAT); /* negative */
    assert_int_equal(td_gguf_get_u32_each(g, "list", 0, each, 4, NULL), TD_ERR_FORMAT); /* too short */

    const td_gguf_tensor *t = td_gguf_tensor_find(g, "b.weight");
    assert_non_null(t);
    assert_int_equal(t->type->id, TD_TYPE_Q8_0);
    assert_int_equal(t->n_bytes, 34);
    assert_int_equal(*(const unsigned char *)t->data, 200);
    assert_ptr_equal(t, td_gguf_tensor_at(g, 1));
    t = td_gguf_tensor_find(g, "a.weight");
    assert_true(t->ne[0] == 4 && t->ne[1] == 3 && t->ne[2] == 1 && t->n_dims == 2);
    assert_null(td_gguf_tensor_find(g, "c.weight"));
    assert_null(td_gguf_tensor_at(g, 2));
    td_gguf_close(g);
}

static void write_example(const char *path) {
    td_error err = {0};
    td_gguf_writer *w = NULL;
    static const float floats[3] = {1.5f, -2.25f, 1e-30f};
    static const td_slice words[3] = {{"a", 1}, {"", 0}, {"b\0c", 3}};
    assert_int_equal(td_gguf_writer_open(&w, path, &err), TD_OK);
    assert_int_equal(td_gguf_put_str(w, "general.architecture", "gemma4", &err), TD_OK);
    assert_int_equal(td_gguf_put_i32(w, "minus", -5, &err), TD_OK);
    assert_int_equal(td_gguf_put_u64(w, "big", UINT64_MAX, &err), TD_OK);
    assert_int_equal(td_gguf_put_f32(w, "eps", 1e-6f, &err), TD_OK);
    assert_int_equal(td_gguf_put_f32(w, "nan", nanf(""), &err), TD_OK);
    assert_int_equal(td_gguf_put_array(w, "floats", TD_GGUF_F32, floats, 3, &err), TD_OK);
    assert_int_equal(td_gguf_put_strings(w, "words", words, 3, &err), TD_OK);
    assert_int_equal(td_gguf_put_tensor(w, "x", TD_TYPE_F32, 2, (uint64_t[]){5, 3}, &err), TD_OK);
    assert_int_equal(td_gguf_put_tensor(w, "y", TD_TYPE_Q4_0, 2, (uint64_t[]){64, 2}, &err), TD_OK);
    unsigned char data[60 + 72];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 7);
    assert_int_equal(td_gguf_put_data(w, data, 50, &err), TD_OK);
    assert_int_equal(td_gguf_put_data(w, data + 50, 70, &err), TD_OK); /* crosses the border */
    assert_int_equal(td_gguf_put_data(w, data + 120, 12, &err), TD_OK);
    assert_int_equal(td_gguf_writer_commit(w, &err), TD_OK);
}

static void check_example(const td_gguf *g) {
    int64_t v = 0;
    float f = 0;
    double d = 0;
    td_gguf_array a;
    td_slice s;
    assert_int_equal(td_gguf_get_i64(g, "minus", 0, &v, NULL), TD_OK);
    assert_int_equal(v, -5);
    assert_int_equal(td_gguf_get_i64(g, "big", 0, &v, NULL), TD_ERR_FORMAT);
    assert_true(td_gguf_find(g, "big")->as.u == UINT64_MAX);
    assert_int_equal(td_gguf_get_f32(g, "eps", 0, &f, NULL), TD_OK);
    assert_true(f == 1e-6f);
    assert_int_equal(td_gguf_get_f32(g, "nan", 0, &f, NULL), TD_ERR_FORMAT);
    assert_int_equal(td_gguf_get_array(g, "floats", &a, NULL), TD_OK);
    assert_true(td_gguf_array_f64(&a, 1, &d) && d == -2.25);
    assert_int_equal(td_gguf_get_array(g, "words", &a, NULL), TD_OK);
    td_cursor c = td_gguf_array_strings(&a);
    assert_true(td_gguf_next_string(&c, &s) && td_gguf_next_string(&c, &s) && td_gguf_next_string(&c, &s));
    assert_int_equal(s.n_bytes, 3);
    assert_memory_equal(s.data, "b\0c", 3);
    const unsigned char *x = td_gguf_tensor_find(g, "x")->data, *y = td_gguf_tensor_find(g, "y")->data;
    assert_int_equal(td_gguf_tensor_find(g, "y")->n_bytes, 72);
    for (unsigned i = 0; i < 60; i++) assert_int_equal(x[i], (unsigned char)(i * 7));
    for (unsigned i = 0; i < 72; i++) assert_int_equal(y[i], (unsigned char)((60 + i) * 7));
}

static void test_round_trip(void **state) {
    (void)state;
    td_gguf *g = NULL, *copy = NULL;
    td_error err = {0};
    td_gguf_writer *w = NULL;
    char path[512];
    write_example(in_dir("w.gguf"));
    assert_int_equal(td_gguf_open(&g, in_dir("w.gguf"), &err), TD_OK);
    check_example(g);
    /* and once more through td_gguf_put_value */
    snprintf(path, sizeof path, "%s", in_dir("copy.gguf"));
    assert_int_equal(td_gguf_writer_open(&w, path, &err), TD_OK);
    for (size_t i = 0; i < td_gguf_n_keys(g); i++)
        assert_int_equal(td_gguf_put_value(w, NULL, td_gguf_key_at(g, i), &err), TD_OK);
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        assert_int_equal(td_gguf_put_tensor(w, t->name, t->type->id, t->n_dims, t->ne, &err), TD_OK);
    }
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        assert_int_equal(td_gguf_put_data(w, t->data, t->n_bytes, &err), TD_OK);
        td_gguf_release(g, t);
    }
    assert_int_equal(td_gguf_writer_commit(w, &err), TD_OK);
    assert_int_equal(td_gguf_open(&copy, path, &err), TD_OK);
    check_example(copy);
    assert_true(td_gguf_file_bytes(copy) == td_gguf_file_bytes(g));
    td_gguf_close(copy);
    td_gguf_close(g);
}

static void test_writer_misuse(void **state) {
    (void)state;
    td_gguf_writer *w = NULL;
    const char *path = in_dir("never.gguf");
    static const uint64_t odd[1] = {33}, none[1] = {0};
    struct {
        int what;
        td_status expected;
    } cases[] = {{0, TD_ERR_ARGUMENT}, {1, TD_ERR_ARGUMENT}, {2, TD_ERR_ARGUMENT}, {3, TD_ERR_ARGUMENT},
                 {4, TD_ERR_ARGUMENT}, {5, TD_ERR_ARGUMENT}, {6, TD_ERR_ARGUMENT}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        td_status s = TD_OK;
        assert_int_equal(td_gguf_writer_open(&w, path, NULL), TD_OK);
        if (cases[i].what == 0) s = td_gguf_put_u32(w, "", 1, NULL);
        if (cases[i].what == 1) s = td_gguf_put_u32(w, "general.alignment", 64, NULL);
        if (cases[i].what == 2) s = td_gguf_put_tensor(w, "t", TD_TYPE_Q8_0, 1, odd, NULL);
        if (cases[i].what == 3) s = td_gguf_put_tensor(w, "t", TD_TYPE_F32, 1, none, NULL);
        if (cases[i].what == 4) s = td_gguf_put_data(w, "x", 1, NULL); /* no tensor declared */
        if (cases[i].what == 5) {                                      /* a name twice shows at the first data */
            assert_int_equal(td_gguf_put_u32(w, "k", 1, NULL), TD_OK);
            assert_int_equal(td_gguf_put_u32(w, "k", 2, NULL), TD_OK);
        }
        if (cases[i].what == 6) { /* too little data shows at commit */
            assert_int_equal(td_gguf_put_tensor(w, "t", TD_TYPE_F32, 1, (uint64_t[]){8}, NULL), TD_OK);
            assert_int_equal(td_gguf_put_data(w, "xxxx", 4, NULL), TD_OK);
        }
        assert_int_equal(td_gguf_writer_commit(w, NULL), cases[i].expected);
        if (s != TD_OK) assert_int_equal(s, cases[i].expected);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

/* ---- split files ---- */

static void put_file(const char *name, const gb *b) {
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, b->n, f), b->n);
    fclose(f);
}

static void split_keys(gb *b, uint32_t no, uint32_t count, uint32_t tensors) {
    gb_key(b, "split.no", 2);
    gb_u8(b, no & 255);
    gb_u8(b, no >> 8);
    gb_key(b, "split.count", 2);
    gb_u8(b, count & 255);
    gb_u8(b, count >> 8);
    gb_key(b, "split.tensors.count", 5);
    gb_u32(b, tensors);
}

static void make_part(gb *b, uint32_t no, uint32_t count, uint32_t tensors, const char *tensor) {
    static const uint64_t ne[1] = {8};
    gb_head(b, 1, no == 0 ? 4 : 3);
    split_keys(b, no, count, tensors);
    if (no == 0) gb_key_str(b, "general.architecture", "gemma4");
    gb_tensor(b, tensor, 1, ne, 0, 0);
    gb_pad(b, 32);
    for (unsigned i = 0; i < 32; i++) gb_u8(b, no * 50 + i);
}

static td_status open_split(const char *first, td_error *err) {
    td_gguf *g = NULL;
    td_status status = td_gguf_open(&g, in_dir(first), err);
    td_gguf_close(g);
    return status;
}

static void test_split(void **state) {
    (void)state;
    static gb b;
    td_gguf *g = NULL;
    td_error err = {0};
    make_part(&b, 0, 2, 2, "one");
    put_file("m-00001-of-00002.gguf", &b);
    make_part(&b, 1, 2, 2, "two");
    put_file("m-00002-of-00002.gguf", &b);
    assert_int_equal(td_gguf_open(&g, in_dir("m-00001-of-00002.gguf"), &err), TD_OK);
    assert_int_equal(td_gguf_n_files(g), 2);
    assert_int_equal(td_gguf_n_tensors(g), 2);
    assert_int_equal(*(const unsigned char *)td_gguf_tensor_find(g, "one")->data, 0);
    assert_int_equal(*(const unsigned char *)td_gguf_tensor_find(g, "two")->data, 50);
    assert_int_equal(td_gguf_tensor_find(g, "two")->file, 1);
    td_gguf_close(g);

    assert_int_equal(open_split("m-00002-of-00002.gguf", &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "is part 2 of 2; give the first part"));
}

static void test_split_faults(void **state) {
    (void)state;
    static const struct {
        uint32_t no, count, tensors;
        const char *tensor, *says;
    } seconds[] = {{0, 2, 2, "two", "split.no"},
                   {1, 3, 2, "two", "says it is one of 3 parts"},
                   {1, 2, 3, "two", "with 3 tensors"},
                   {1, 2, 2, "one", "is there twice"}};
    static gb b;
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        td_error err = {0};
        make_part(&b, seconds[i].no, seconds[i].count, seconds[i].tensors, seconds[i].tensor);
        put_file("m-00002-of-00002.gguf", &b);
        assert_int_equal(open_split("m-00001-of-00002.gguf", &err), TD_ERR_FORMAT);
        assert_non_null(strstr(err.text, seconds[i].says));
    }
    td_error err = {0};
    unlink(in_dir("m-00002-of-00002.gguf"));
    assert_int_equal(open_split("m-00001-of-00002.gguf", &err), TD_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "m-00002-of-00002.gguf"));
    make_part(&b, 0, 2, 2, "one");
    put_file("badly-named.gguf", &b);
    td_error_clear(&err);
    assert_int_equal(open_split("badly-named.gguf", &err), TD_ERR_FORMAT);
    make_part(&b, 0, 2, 5, "one"); /* fewer tensors than promised */
    put_file("m-00001-of-00002.gguf", &b);
    make_part(&b, 1, 2, 5, "two");
    put_file("m-00002-of-00002.gguf", &b);
    td_error_clear(&err);
    assert_int_equal(open_split("m-00001-of-00002.gguf", &err), TD_ERR_FORMAT);
    assert_non_null(strstr(err.text, "the parts hold 2"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand), cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_writer_misuse),
        cmocka_unit_test(test_split),   cmocka_unit_test(test_split_faults),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
