/* Read-only mapping of a whole regular file. A file that another program shrinks while it is mapped ends this process
 * with a bus error: model files are replaced by rename, never rewritten in place (docs/pitfalls.md). */
#include "map.h"

#include "checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

td_status td_map_open(td_map *m, const char *path, td_error *err) {
    *m = (td_map){0};
    td_status status = TD_OK;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* does not wait for the writer of a pipe */
    if (fd < 0) return td_fail_errno(err, errno, "%s", path);
    if (fstat(fd, &st) != 0) {
        status = td_fail_errno(err, errno, "%s", path);
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: not a regular file", path);
        goto done;
    }
    if ((uint64_t)st.st_size > SIZE_MAX) {
        status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s: too large for this machine's address space", path);
        goto done;
    }
    m->path = strdup(path);
    if (m->path == NULL) {
        status = td_fail_errno(err, ENOMEM, "%s", path);
        goto done;
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            status = td_fail_errno(err, errno, "%s: mapping", path);
            td_map_close(m);
            goto done;
        }
        m->data = p;
        m->n_bytes = (size_t)st.st_size;
    }
done:
    close(fd);
    return status;
}

void td_map_close(td_map *m) {
    if (m->data != NULL) munmap((void *)m->data, m->n_bytes);
    free(m->path);
    *m = (td_map){0};
}

/* Advises the whole pages inside [offset, offset + n) (shrink) or all pages it touches. */
static void advise(const td_map *m, size_t offset, size_t n_bytes, int advice, bool shrink) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), end = 0;
    if (offset >= m->n_bytes || !td_add_size(offset, n_bytes, &end)) return;
    bool to_end = end >= m->n_bytes;
    if (to_end) end = m->n_bytes;
    size_t from = shrink ? (offset + page - 1) / page * page : offset / page * page;
    if (shrink && !to_end) end = end / page * page;
    if (from < end) (void)madvise((void *)(m->data + from), end - from, advice);
}

void td_map_release(const td_map *m, size_t offset, size_t n_bytes) {
    advise(m, offset, n_bytes, MADV_DONTNEED, true);
}

void td_map_prefetch(const td_map *m, size_t offset, size_t n_bytes) {
    advise(m, offset, n_bytes, MADV_WILLNEED, false);
}

bool td_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
