/* Mapping and atomic writing: a file is whole or absent, and nothing but a regular file is touched. */
#define _GNU_SOURCE /* O_TMPFILE */
#include "base/atomic_file.h"
#include "base/map.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[256];

static int make_dir(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/td-files-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static const char *in_dir(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int n_entries(void) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static int drop_dir(void **state) {
    (void)state;
    unlink(in_dir("a"));
    unlink(in_dir("fifo"));
    return rmdir(dir);
}

static void test_commit_and_map(void **state) {
    (void)state;
    td_error err = {0};
    td_atomic_file *f = NULL;
    size_t n = (3 << 20) + 17;
    unsigned char *data = malloc(n);
    for (size_t i = 0; i < n; i++) data[i] = (unsigned char)(i * 131 >> 3);
    assert_int_equal(td_atomic_open(&f, in_dir("a"), &err), TD_OK);
    for (size_t at = 0, step = 1; at < n; at += step, step = step * 3 + 1) { /* pieces below and above the buffer */
        if (step > n - at) step = n - at;
        assert_int_equal(td_atomic_write(f, data + at, step, &err), TD_OK);
    }
    assert_true(td_atomic_size(f) == n);
    memcpy(data + 5, "patched", 7);
    assert_int_equal(td_atomic_write_at(f, 5, "patched", 7, &err), TD_OK);
    assert_int_equal(td_atomic_write_at(f, n - 3, "over", 4, NULL), TD_ERR_ARGUMENT);
    assert_int_not_equal(access(in_dir("a"), F_OK), 0); /* not there before commit */
    assert_int_equal(td_atomic_commit(f, &err), TD_OK);
    assert_int_equal(n_entries(), 1);

    td_map m;
    assert_int_equal(td_map_open(&m, in_dir("a"), &err), TD_OK);
    assert_true(m.n_bytes == n);
    assert_memory_equal(m.data, data, n);
    td_map_prefetch(&m, 0, n);
    td_map_release(&m, 100, n - 200);
    td_map_release(&m, 0, SIZE_MAX);
    assert_memory_equal(m.data, data, n); /* released pages come back from the file */
    td_map_close(&m);
    free(data);
}

static void test_discard_keeps_old(void **state) {
    (void)state;
    td_atomic_file *f = NULL;
    struct stat before, after;
    assert_int_equal(stat(in_dir("a"), &before), 0);
    assert_int_equal(td_atomic_open(&f, in_dir("a"), NULL), TD_OK);
    assert_int_equal(td_atomic_write(f, "x", 1, NULL), TD_OK);
    td_atomic_discard(f);
    assert_int_equal(stat(in_dir("a"), &after), 0);
    assert_true(before.st_size == after.st_size && before.st_ino == after.st_ino);
    assert_int_equal(n_entries(), 1);
}

/* A full disk, made with a limit on file size: an error, the old file untouched, no trace left. */
static void test_disk_full(void **state) {
    (void)state;
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    td_atomic_file *f = NULL;
    td_error err = {0};
    char *block = calloc(1, 700000);
    assert_int_equal(td_atomic_open(&f, in_dir("a"), &err), TD_OK);
    td_status status = TD_OK;
    for (int i = 0; i < 4 && status == TD_OK; i++) status = td_atomic_write(f, block, 700000, &err);
    if (status == TD_OK)
        status = td_atomic_commit(f, &err);
    else
        td_atomic_discard(f);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    free(block);
    assert_int_equal(status, TD_ERR_IO);
    assert_int_equal(n_entries(), 1);
    struct stat st;
    assert_int_equal(stat(in_dir("a"), &st), 0);
    assert_int_equal(st.st_size, (3 << 20) + 17);
}

/* A process killed while it writes leaves no file behind, where the file system has files without names. */
static void test_killed(void **state) {
    (void)state;
    int fd = open(dir, O_TMPFILE | O_RDWR, 0600), status = 0, n = n_entries();
    if (fd < 0) skip();
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        td_atomic_file *f = NULL;
        static char block[3 << 20];
        if (td_atomic_open(&f, in_dir("b"), NULL) == TD_OK && td_atomic_write(f, block, sizeof block, NULL) == TD_OK)
            raise(SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(n_entries(), n);
}

static void test_refusals(void **state) {
    (void)state;
    td_map m;
    td_error err = {0};
    td_atomic_file *f = NULL;
    assert_int_equal(td_map_open(&m, in_dir("missing"), &err), TD_ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "missing: No such file"));
    assert_int_equal(td_map_open(&m, dir, NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_map_open(&m, "/dev/null", NULL), TD_ERR_ARGUMENT);
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    assert_int_equal(td_map_open(&m, in_dir("fifo"), NULL), TD_ERR_ARGUMENT); /* and does not hang */
    assert_int_equal(td_atomic_open(&f, "/dev/null", NULL), TD_ERR_ARGUMENT);
    assert_int_equal(td_atomic_open(&f, in_dir("no/such/dir"), NULL), TD_ERR_NOT_FOUND);
    assert_null(f);
    char name[256];
    memset(name, 'n', sizeof name);
    name[250] = 0; /* with room for itself, not for the temporary name */
    assert_int_not_equal(td_atomic_open(&f, in_dir(name), &err), TD_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_and_map), cmocka_unit_test(test_discard_keeps_old),
        cmocka_unit_test(test_disk_full),      cmocka_unit_test(test_killed),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
