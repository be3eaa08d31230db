/* Quantised files against those of llama-quantize, whole file by whole file (data/expected.txt holds hashes of what it
 * wrote; data/make.py made them), and the rules and refusals that have no counterpart there. */
#include "convert/quantize.h"

#include "file/gguf_write.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/convert/data/"

static td_pool *pool;

static const char *temporary(const char *name) {
    static char path[4][512];
    static int next;
    char *p = path[next++ & 3];
    snprintf(p, sizeof path[0], "%s/test_quantize.%ld.%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (long)getpid(),
             name);
    return p;
}

static uint64_t hash_file(const char *path) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint64_t h = 14695981039346656037u;
    for (int c; (c = getc(f)) != EOF;) h = (h ^ (uint64_t)c) * 1099511628211u;
    fclose(f);
    return h;
}

static td_status quantize(const char *in, const char *out, td_quantize_options *o, td_quantize_report *r,
                          td_error *err) {
    td_quantize_report dummy;
    o->pool = pool;
    return td_quantize(in, out, o, r ? r : &dummy, err);
}

static void test_files_equal_llama_quantize(void **state) {
    (void)state;
    FILE *f = fopen(DATA "expected.txt", "r");
    assert_non_null(f);
    td_imatrix *m = NULL;
    assert_int_equal(td_imatrix_open(&m, DATA "importance.dat", NULL), TD_OK);
    char type[32];
    int with = 0, n = 0;
    unsigned long long want;
    const char *out = temporary("types.gguf");
    while (fscanf(f, "%31s %d %llx", type, &with, &want) == 3) {
        td_error err = {0};
        td_quantize_options o = {
            .ftype = td_ftype_by_name(type), .imatrix = with ? m : NULL, .imatrix_path = DATA "importance.dat"};
        assert_non_null(o.ftype);
        if (quantize(DATA "input.gguf", out, &o, NULL, &err) != TD_OK) fail_msg("%s: %s", type, err.text);
        if (hash_file(out) != want) fail_msg("%s (importance %d) differs", type, with);
        n++;
    }
    assert_int_equal(n, 40);
    fclose(f);
    td_imatrix_close(m);
    unlink(out);
}

/* ---- a file made here: an assistant with an ordering, integers, and odd rows ---- */

static void put(td_gguf_writer *w, const char *name, td_type type, int n_dims, uint64_t a, uint64_t b) {
    assert_int_equal(td_gguf_put_tensor(w, name, type, n_dims, (uint64_t[]){a, b}, NULL), TD_OK);
}

static void data(td_gguf_writer *w, size_t n_values, float broken) {
    for (size_t i = 0; i < n_values; i++) {
        float v = i == 77 && broken != 0 ? broken : (float)((int)(i * 37 % 101) - 50) / 16;
        assert_int_equal(td_gguf_put_data(w, &v, 4, NULL), TD_OK);
    }
}

static void make_assistant(const char *path, float broken) {
    td_gguf_writer *w = NULL;
    assert_int_equal(td_gguf_writer_open(&w, path, NULL), TD_OK);
    td_gguf_put_str(w, "general.architecture", "gemma4-assistant", NULL);
    td_gguf_put_u32(w, "gemma4-assistant.block_count", 4, NULL);
    td_gguf_put_u32(w, "general.file_type", 0, NULL);
    put(w, "masked_embd_centroids.weight", TD_TYPE_F32, 2, 256, 4);
    put(w, "masked_embd_ordering", TD_TYPE_I32, 1, 64, 1);
    put(w, "some.ids.weight", TD_TYPE_I32, 2, 32, 2);
    put(w, "token_embd.weight", TD_TYPE_F32, 2, 256, 4);
    put(w, "nextn.pre_projection.weight", TD_TYPE_F32, 2, 512, 2);
    put(w, "blk.0.ffn_up.weight", TD_TYPE_F32, 2, 96, 2);
    put(w, "blk.0.attn_norm.weight", TD_TYPE_F32, 1, 96, 1);
    data(w, 1024, 0);
    for (int32_t i = 0; i < 128; i++) td_gguf_put_data(w, &i, 4, NULL);
    data(w, 1024, broken);
    data(w, 1024, 0);
    data(w, 192, 0);
    data(w, 96, 0);
    assert_int_equal(td_gguf_writer_commit(w, NULL), TD_OK);
}

static const char *type_in(const char *path, const char *name) {
    td_gguf *g = NULL;
    assert_int_equal(td_gguf_open(&g, path, NULL), TD_OK);
    const td_gguf_tensor *t = td_gguf_tensor_find(g, name);
    assert_non_null(t);
    const char *type = t->type->name;
    if (t->type->id == TD_TYPE_I32) {
        for (int i = 0; i < 64; i++) assert_int_equal(((const int32_t *)t->data)[i], i + (t->n_dims == 2 ? 64 : 0));
    }
    td_gguf_close(g);
    return type;
}

static void test_assistant(void **state) {
    (void)state;
    const char *in = temporary("a.gguf"), *out = temporary("b.gguf");
    make_assistant(in, 0);
    td_quantize_report r;
    td_quantize_options o = {.ftype = td_ftype_by_name("q4_K_M")};
    assert_int_equal(quantize(in, out, &o, &r, NULL), TD_OK);
    assert_string_equal(type_in(out, "masked_embd_ordering"), "i32");
    assert_string_equal(type_in(out, "some.ids.weight"), "i32");
    assert_string_equal(type_in(out, "masked_embd_centroids.weight"), "q8_0");
    assert_string_equal(type_in(out, "token_embd.weight"), "q6_K");
    assert_string_equal(type_in(out, "nextn.pre_projection.weight"), "q4_K");
    assert_string_equal(type_in(out, "blk.0.ffn_up.weight"), "q5_0"); /* 96 is not a multiple of 256 */
    assert_string_equal(type_in(out, "blk.0.attn_norm.weight"), "f32");
    assert_int_equal(r.n_fell_back, 1);
    assert_int_equal(r.n_tensors, 7);

    /* the flags, strongest first: embedding type, rules, pure */
    td_quantize_rule rules[] = {{"PRE_proj\\w+", td_type_by_name("q5_K")},
                                {"blk\\.\\d\\.", td_type_by_name("q8_0")},
                                {"ffn_up", td_type_by_name("q4_0")}};
    o = (td_quantize_options){
        .ftype = td_ftype_by_name("q4_K_M"), .rules = rules, .n_rules = 3, .embedding_type = td_type_by_name("f16")};
    assert_int_equal(quantize(in, out, &o, &r, NULL), TD_OK);
    assert_string_equal(type_in(out, "token_embd.weight"), "f16");
    assert_string_equal(type_in(out, "nextn.pre_projection.weight"), "q5_K");
    assert_string_equal(type_in(out, "blk.0.ffn_up.weight"), "q8_0");
    o = (td_quantize_options){.ftype = td_ftype_by_name("q4_K_M"), .pure = true};
    assert_int_equal(quantize(in, out, &o, &r, NULL), TD_OK);
    assert_string_equal(type_in(out, "token_embd.weight"), "q4_K");
    o = (td_quantize_options){.ftype = td_ftype_by_name("q4_K_M"), .output_type = td_type_by_name("q5_0")};
    assert_int_equal(quantize(in, out, &o, &r, NULL), TD_OK);
    assert_string_equal(type_in(out, "token_embd.weight"), "q5_0"); /* tied: it is the output */
    unlink(in);
    unlink(out);
}

static void test_refusals(void **state) {
    (void)state;
    const char *in = temporary("c.gguf"), *q = temporary("d.gguf"), *out = temporary("e.gguf");
    td_error err = {0};
    make_assistant(in, NAN);
    td_quantize_options o = {.ftype = td_ftype_by_name("q8_0")};
    assert_int_equal(quantize(in, out, &o, NULL, &err), TD_ERR_FORMAT);
    assert_non_null(strstr(err.text, "token_embd.weight: row 0"));
    assert_int_not_equal(access(out, F_OK), 0);
    td_error_clear(&err);

    make_assistant(in, 0);
    assert_int_equal(quantize(in, q, &o, NULL, &err), TD_OK);
    o.ftype = td_ftype_by_name("q4_0");
    assert_int_equal(quantize(q, out, &o, NULL, &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "--allow-requantize"));
    assert_int_not_equal(access(out, F_OK), 0);
    td_error_clear(&err);
    o.allow_requantize = true;
    assert_int_equal(quantize(q, out, &o, NULL, &err), TD_OK);
    assert_string_equal(type_in(out, "nextn.pre_projection.weight"), "q4_0");
    unlink(out);

    o = (td_quantize_options){.ftype = td_ftype_by_name("q8_0"), .dry_run = true};
    td_quantize_report r;
    assert_int_equal(quantize(in, out, &o, &r, &err), TD_OK);
    assert_int_not_equal(access(out, F_OK), 0);
    assert_true(r.to_bytes > 0 && r.to_bytes < r.from_bytes);

    o = (td_quantize_options){.ftype = td_ftype_by_name("q2_K_S")};
    assert_int_equal(quantize(DATA "input.gguf", out, &o, NULL, &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "--imatrix"));
    assert_int_not_equal(access(out, F_OK), 0);
    td_error_clear(&err);

    td_quantize_rule bad = {"(", td_type_by_name("q8_0")};
    o = (td_quantize_options){.ftype = td_ftype_by_name("q8_0"), .rules = &bad, .n_rules = 1};
    assert_int_equal(quantize(in, out, &o, NULL, &err), TD_ERR_ARGUMENT);
    td_error_clear(&err);
    assert_int_not_equal(quantize("/nonexistent.gguf", out, &o, NULL, &err), TD_OK);
    td_error_clear(&err);

    o = (td_quantize_options){.ftype = td_ftype_by_name("q8_0")}; /* the input by another name */
    assert_int_equal(symlink(in, out), 0);
    assert_int_equal(quantize(in, out, &o, NULL, &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "is the input"));
    assert_int_equal(unlink(out), 0);
    assert_int_equal(quantize(in, out, &o, NULL, NULL), TD_OK);
    unlink(out);
    unlink(in);
    unlink(q);
}

/* The file may grow to 20,000 bytes only, as on a full disk: an error, and nothing is left, not even a part. */
static void test_full_disk(void **state) {
    (void)state;
    char dir[512], command[4096];
    const char *binary = getenv("TD_BINARY");
    snprintf(dir, sizeof dir, "%s", temporary("full"));
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(command, sizeof command,
             "ulimit -f 20; %s quantize -q %sinput.gguf %s/out.gguf q8_0 2>%s/message; test $? = 1 && "
             "grep -q 'out.gguf' %s/message && rm %s/message && rmdir %s",
             binary ? binary : "build-dev/tandem", DATA, dir, dir, dir, dir, dir);
    assert_int_equal(system(command), 0); /* the folder is empty */
}

/* ---- importance matrices ---- */

static void test_imatrix_gguf(void **state) {
    (void)state;
    const char *path = temporary("im.gguf");
    td_gguf_writer *w = NULL;
    assert_int_equal(td_gguf_writer_open(&w, path, NULL), TD_OK);
    td_gguf_put_str(w, "general.type", "imatrix", NULL);
    td_gguf_put_u32(w, "imatrix.chunk_count", 9, NULL);
    td_slice set = {"a.txt", 5};
    td_gguf_put_strings(w, "imatrix.datasets", &set, 1, NULL);
    put(w, "blk.0.x.weight.in_sum2", TD_TYPE_F32, 2, 3, 2);
    put(w, "blk.0.x.weight.counts", TD_TYPE_F32, 2, 1, 2);
    const float values[8] = {2, 4, 6, 8, 10, 12, 2, 0};
    td_gguf_put_data(w, values, sizeof values, NULL);
    assert_int_equal(td_gguf_writer_commit(w, NULL), TD_OK);
    td_imatrix *m = NULL;
    td_error err = {0};
    if (td_imatrix_open(&m, path, &err) != TD_OK) fail_msg("%s", err.text);
    td_imatrix_row row = td_imatrix_find(m, "blk.0.x.weight");
    assert_int_equal(row.n, 6);
    const float want[6] = {1, 2, 3, 1, 1, 1}; /* the second matrix was never used */
    for (int i = 0; i < 6; i++) assert_true(row.values[i] == want[i]);
    assert_null(td_imatrix_find(m, "blk.0.y.weight").values);
    assert_int_equal(td_imatrix_chunks(m), 9);
    assert_string_equal(td_imatrix_dataset(m), "a.txt");
    td_imatrix_close(m);
    unlink(path);
}

static void test_imatrix_broken(void **state) {
    (void)state;
    const char *path = temporary("im.dat");
    static uint8_t good[120000];
    FILE *f = fopen(DATA "importance.dat", "rb");
    size_t n = fread(good, 1, sizeof good, f);
    fclose(f);
    for (size_t cut = 0; cut < n; cut += cut < 200 ? 1 : 4999) {
        f = fopen(path, "wb");
        fwrite(good, 1, cut, f);
        fclose(f);
        td_imatrix *m = NULL;
        td_error err = {0};
        assert_int_not_equal(td_imatrix_open(&m, path, &err), TD_OK);
        assert_true(err.text[0] != 0);
    }
    /* what it does not name is counted: layer 5 and the embedding */
    td_imatrix *m = NULL;
    assert_int_equal(td_imatrix_open(&m, DATA "importance.dat", NULL), TD_OK);
    td_quantize_report r;
    td_quantize_options o = {.ftype = td_ftype_by_name("q4_K_M"), .imatrix = m, .dry_run = true};
    assert_int_equal(quantize(DATA "input.gguf", "", &o, &r, NULL), TD_OK);
    assert_int_equal(r.n_without_importance, 8 + 1);
    td_imatrix_close(m);
    unlink(path);
}

/* ---- split files ---- */

static void test_keep_split(void **state) {
    (void)state;
    char part[2][600], base[512];
    snprintf(base, sizeof base, "%s", temporary("split"));
    for (int i = 0; i < 2; i++) {
        snprintf(part[i], sizeof part[i], "%s-%05d-of-00002.gguf", base, i + 1);
        td_gguf_writer *w = NULL;
        assert_int_equal(td_gguf_writer_open(&w, part[i], NULL), TD_OK);
        if (i == 0) td_gguf_put_str(w, "general.architecture", "gemma4", NULL);
        td_gguf_put_u16(w, "split.no", (uint16_t)i, NULL);
        td_gguf_put_u16(w, "split.count", 2, NULL);
        td_gguf_put_i32(w, "split.tensors.count", 3, NULL);
        put(w, i ? "blk.1.ffn_up.weight" : "blk.0.ffn_up.weight", TD_TYPE_F32, 2, 64, 4);
        if (i == 1) put(w, "blk.0.ffn_gate.weight", TD_TYPE_F32, 2, 32, 8);
        data(w, i ? 512 : 256, 0);
        assert_int_equal(td_gguf_writer_commit(w, NULL), TD_OK);
    }
    td_error err = {0};
    td_quantize_report r;
    td_quantize_options o = {.ftype = td_ftype_by_name("q8_0"), .keep_split = true};
    const char *out = temporary("o.gguf");
    if (quantize(part[0], out, &o, &r, &err) != TD_OK) fail_msg("%s", err.text);
    assert_int_equal(r.n_files, 2);
    char result[2][600];
    for (int i = 0; i < 2; i++)
        snprintf(result[i], sizeof result[i], "%.*s-%05d-of-00002.gguf", (int)strlen(out) - 5, out, i + 1);
    td_gguf *g = NULL;
    if (td_gguf_open(&g, result[0], &err) != TD_OK) fail_msg("%s", err.text);
    assert_int_equal(td_gguf_n_files(g), 2);
    assert_int_equal(td_gguf_tensor_find(g, "blk.0.ffn_up.weight")->file, 0);
    assert_int_equal(td_gguf_tensor_find(g, "blk.0.ffn_gate.weight")->file, 1);
    assert_string_equal(td_gguf_tensor_find(g, "blk.1.ffn_up.weight")->type->name, "q8_0");
    td_gguf_close(g);
    char own[600]; /* a name whose parts are the input's */
    snprintf(own, sizeof own, "%s.gguf", base);
    assert_int_equal(quantize(part[0], own, &o, &r, &err), TD_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "is the input"));
    td_error_clear(&err);
    o.keep_split = false; /* joined */
    if (quantize(part[0], out, &o, &r, &err) != TD_OK) fail_msg("%s", err.text);
    assert_int_equal(td_gguf_open(&g, out, NULL), TD_OK);
    assert_int_equal(td_gguf_n_files(g), 1);
    assert_null(td_gguf_find(g, "split.count"));
    assert_int_equal(td_gguf_n_tensors(g), 3);
    td_gguf_close(g);
    for (int i = 0; i < 2; i++) {
        unlink(part[i]);
        unlink(result[i]);
    }
    unlink(out);
}

int main(void) {
    if (td_pool_create(&pool, &(td_pool_options){.n_threads = 2}, NULL) != TD_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files_equal_llama_quantize),
                                       cmocka_unit_test(test_assistant),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_imatrix_gguf),
                                       cmocka_unit_test(test_imatrix_broken),
                                       cmocka_unit_test(test_keep_split)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    td_pool_destroy(pool);
    return failed;
}
