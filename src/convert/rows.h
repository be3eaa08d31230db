/* Making a file's tensor data: rows are made in parallel, a chunk at a time, while the chunk before is written.
 *
 * Memory stays at two chunks whatever the size of the tensors. What a row holds never depends on the thread that made
 * it, so the file is the same for any number of threads. */
#ifndef TD_CONVERT_ROWS_H
#define TD_CONVERT_ROWS_H

#include "../base/pool.h"
#include "../base/progress.h"
#include "../file/gguf_write.h"
#include "../quant/types.h"

/* Writes rows [r0, r1) of the tensor to `dst` (row r0 first). False stops the stream; the function has noted why. */
typedef bool (*td_rows_fn)(void *arg, uint64_t r0, uint64_t r1, uint8_t *dst);

typedef struct td_rows {
    td_pool *pool;
    td_gguf_writer *writer;
    td_progress_fn progress; /* NULL: none */
    void *progress_user;
    const char *what; /* for the progress line */
    uint64_t done;    /* bytes of data written so far */
    uint64_t total;   /* for progress; 0: all data of the writer */
    uint8_t *buffer[2];
    size_t capacity;
} td_rows;

/* One tensor of n_rows rows of row_bytes. `after` (or NULL) is called when rows [0, r1) have been made, from one
 * thread, so that source pages can be given back. */
td_status td_rows_write(td_rows *s, uint64_t n_rows, size_t row_bytes, td_rows_fn fn, void *arg,
                        void (*after)(void *arg, uint64_t r1), td_error *err);
void td_rows_free(td_rows *s);

/* True if `type` can hold all of x: finite values, for f16 below its largest; f32 and bf16 hold anything. */
bool td_rows_fit(const float *x, uint64_t n, td_type type);

/* TD_ERR_IO when the disk of `out` lacks room for n_bytes: before an hour's work, not after it. */
td_status td_rows_check_room(const char *out, uint64_t n_bytes, td_error *err);

#endif
