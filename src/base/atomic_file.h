/* A file that is whole or absent: written beside its final place, synced, renamed, and its directory synced. */
#ifndef TD_BASE_ATOMIC_FILE_H
#define TD_BASE_ATOMIC_FILE_H

#include "status.h"

#include <stddef.h>

typedef struct td_atomic_file td_atomic_file;

td_status td_atomic_open(td_atomic_file **out, const char *path, td_error *err);
/* Buffered append; a short write or a full disk is an error here or at commit. */
td_status td_atomic_write(td_atomic_file *f, const void *data, size_t n_bytes, td_error *err);
/* Writes over bytes already written (headers whose values are known at the end). */
td_status td_atomic_write_at(td_atomic_file *f, uint64_t offset, const void *data, size_t n_bytes, td_error *err);
uint64_t td_atomic_size(const td_atomic_file *f);
/* Commit makes it appear; without it, td_atomic_discard removes every trace. Both free f. */
td_status td_atomic_commit(td_atomic_file *f, td_error *err);
void td_atomic_discard(td_atomic_file *f);

#endif
