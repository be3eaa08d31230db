/* Whole or absent: data goes to a file without a name in the same directory; commit syncs it, gives it a temporary
 * name, renames that over the final one, and syncs the directory, in that order. A crash at any point leaves the old
 * file or none, and an interrupted run leaves nothing to clean up. Where the file system knows no such files (or there
 * is no /proc to name them by) the temporary name is there from the start. */
#define _GNU_SOURCE /* O_TMPFILE */
#include "atomic_file.h"

#include "checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 1 << 20 };

struct td_atomic_file {
    char *path, *temp;
    int fd;
    bool unnamed;  /* `temp` does not exist yet */
    uint64_t size; /* appended so far, buffered bytes included */
    size_t n_buffer;
    unsigned char *buffer;
};

static void destroy(td_atomic_file *f) {
    if (f->fd >= 0) close(f->fd);
    free(f->path);
    free(f->temp);
    free(f->buffer);
    free(f);
}

/* mkstemp makes private files; a written model gets the mode any new file would get. */
static void apply_umask(int fd) {
    mode_t mask = umask(0);
    umask(mask);
    (void)fchmod(fd, 0666 & ~mask);
}

/* The folder of a path, to be freed; NULL: no memory. */
static char *directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

enum { PROC_NAME = 40 };

static const char *proc_name(int fd, char *out) {
    snprintf(out, PROC_NAME, "/proc/self/fd/%d", fd);
    return out;
}

/* True when f->fd is a file without a name that can be given one later; a name too long is told of now, not then. */
static bool open_unnamed(td_atomic_file *f) {
    if (access(f->temp, F_OK) != 0 && errno == ENAMETOOLONG) return false;
    char proc[PROC_NAME], *dir = directory_of(f->path);
    f->fd = dir != NULL ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666) : -1;
    free(dir);
    if (f->fd < 0) return false;
    if (access(proc_name(f->fd, proc), F_OK) == 0) return true;
    close(f->fd);
    return false;
}

static bool open_named(td_atomic_file *f) {
    f->fd = mkstemp(f->temp);
    if (f->fd < 0) return false;
    (void)fcntl(f->fd, F_SETFD, FD_CLOEXEC);
    apply_umask(f->fd);
    return true;
}

td_status td_atomic_open(td_atomic_file **out, const char *path, td_error *err) {
    *out = NULL;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: exists and is not a regular file", path);
    td_atomic_file *f = calloc(1, sizeof *f);
    if (f == NULL) return td_fail_errno(err, ENOMEM, "%s", path);
    f->fd = -1;
    size_t n_temp = strlen(path) + sizeof ".tmp-XXXXXX";
    f->path = strdup(path);
    f->temp = malloc(n_temp);
    f->buffer = malloc(BUFFER);
    if (f->path == NULL || f->temp == NULL || f->buffer == NULL) {
        destroy(f);
        return td_fail_errno(err, ENOMEM, "%s", path);
    }
    snprintf(f->temp, n_temp, "%s.tmp-XXXXXX", path);
    f->unnamed = open_unnamed(f);
    if (!f->unnamed && !open_named(f)) {
        int code = errno;
        destroy(f);
        return td_fail_errno(err, code, "%s: creating a temporary file beside it", path);
    }
    *out = f;
    return TD_OK;
}

static td_status write_all(td_atomic_file *f, const unsigned char *data, size_t n, td_error *err) {
    while (n > 0) {
        ssize_t done = write(f->fd, data, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return td_fail_errno(err, done < 0 ? errno : EIO, "%s: writing", f->path);
        data += done;
        n -= (size_t)done;
    }
    return TD_OK;
}

static td_status flush(td_atomic_file *f, td_error *err) {
    td_status status = write_all(f, f->buffer, f->n_buffer, err);
    f->n_buffer = 0;
    return status;
}

td_status td_atomic_write(td_atomic_file *f, const void *data, size_t n_bytes, td_error *err) {
    uint64_t size = 0;
    if (!td_add_u64(f->size, n_bytes, &size)) return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s: too large", f->path);
    if (n_bytes > BUFFER - f->n_buffer) {
        td_status status = flush(f, err);
        if (status != TD_OK) return status;
    }
    if (n_bytes >= BUFFER) {
        td_status status = write_all(f, data, n_bytes, err);
        if (status != TD_OK) return status;
    } else if (n_bytes > 0) {
        memcpy(f->buffer + f->n_buffer, data, n_bytes);
        f->n_buffer += n_bytes;
    }
    f->size = size;
    return TD_OK;
}

td_status td_atomic_write_at(td_atomic_file *f, uint64_t offset, const void *data, size_t n_bytes, td_error *err) {
    uint64_t end = 0;
    if (!td_add_u64(offset, n_bytes, &end) || end > f->size)
        return td_fail(err, TD_ERR_ARGUMENT, offset, "%s: writing over bytes that are not there yet", f->path);
    td_status status = flush(f, err);
    const unsigned char *p = data;
    while (status == TD_OK && n_bytes > 0) {
        ssize_t done = pwrite(f->fd, p, n_bytes, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return td_fail_errno(err, done < 0 ? errno : EIO, "%s: writing", f->path);
        p += done;
        offset += (uint64_t)done;
        n_bytes -= (size_t)done;
    }
    return status;
}

uint64_t td_atomic_size(const td_atomic_file *f) {
    return f->size;
}

/* Makes the rename itself durable. Some file systems refuse to sync directories; the data is safe by then. */
static td_status sync_directory(const char *path, td_error *err) {
    char *dir = directory_of(path);
    if (dir == NULL) return td_fail_errno(err, ENOMEM, "%s", path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (fd < 0) return td_fail_errno(err, errno, "%s: opening its directory", path);
    int failed = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    return failed != 0 ? td_fail_errno(err, failed, "%s: syncing its directory", path) : TD_OK;
}

/* Gives an unnamed file its temporary name; a link cannot replace what has the final one. */
static td_status name_file(td_atomic_file *f, td_error *err) {
    char proc[PROC_NAME], *digits = f->temp + strlen(f->temp) - 6;
    for (unsigned i = 0; f->unnamed && i < 1000000; i++) {
        snprintf(digits, 7, "%06u", ((unsigned)getpid() + i) % 1000000);
        if (linkat(AT_FDCWD, proc_name(f->fd, proc), AT_FDCWD, f->temp, AT_SYMLINK_FOLLOW) == 0)
            f->unnamed = false;
        else if (errno != EEXIST)
            break;
    }
    return f->unnamed ? td_fail_errno(err, errno, "%s: naming the finished file", f->path) : TD_OK;
}

td_status td_atomic_commit(td_atomic_file *f, td_error *err) {
    td_status status = flush(f, err);
    if (status == TD_OK && fsync(f->fd) != 0) status = td_fail_errno(err, errno, "%s: syncing", f->path);
    if (status == TD_OK) status = name_file(f, err);
    if (status == TD_OK) {
        int fd = f->fd;
        f->fd = -1;
        if (close(fd) != 0) status = td_fail_errno(err, errno, "%s: closing", f->path);
    }
    if (status == TD_OK && rename(f->temp, f->path) != 0)
        status = td_fail_errno(err, errno, "%s: renaming the finished file", f->path);
    if (status != TD_OK) {
        td_atomic_discard(f);
        return status;
    }
    status = sync_directory(f->path, err);
    destroy(f);
    return status;
}

void td_atomic_discard(td_atomic_file *f) {
    if (f == NULL) return;
    if (!f->unnamed) unlink(f->temp);
    destroy(f);
}
