/* Writing a GGUF file as a stream: declare keys, declare tensors, then give the data in the order declared. The file
 * appears under its name only when td_gguf_writer_commit has written and synced all of it (td_atomic_file).
 *
 * Order of calls: open; key calls; tensor calls; data calls; commit or discard. Wrong order, a key or name given twice,
 * and data that does not fill a tensor exactly are TD_ERR_ARGUMENT. */
#ifndef TD_FILE_GGUF_WRITE_H
#define TD_FILE_GGUF_WRITE_H

#include "gguf.h"

typedef struct td_gguf_writer td_gguf_writer;

td_status td_gguf_writer_open(td_gguf_writer **out, const char *path, td_error *err);

/* Keys are written in the order given. general.alignment is the writer's own (32). */
td_status td_gguf_put_u16(td_gguf_writer *w, const char *key, uint16_t v, td_error *err); /* split.no, split.count */
td_status td_gguf_put_u32(td_gguf_writer *w, const char *key, uint32_t v, td_error *err);
td_status td_gguf_put_i32(td_gguf_writer *w, const char *key, int32_t v, td_error *err);
td_status td_gguf_put_u64(td_gguf_writer *w, const char *key, uint64_t v, td_error *err);
td_status td_gguf_put_f32(td_gguf_writer *w, const char *key, float v, td_error *err);
td_status td_gguf_put_bool(td_gguf_writer *w, const char *key, bool v, td_error *err);
td_status td_gguf_put_str(td_gguf_writer *w, const char *key, const char *s, td_error *err);
td_status td_gguf_put_bytes(td_gguf_writer *w, const char *key, td_slice s, td_error *err);
/* Arrays of numbers: `data` holds n elements in the machine's own layout (little-endian). Bools are uint8_t 0/1. */
td_status td_gguf_put_array(td_gguf_writer *w, const char *key, td_gguf_kind element, const void *data, uint64_t n,
                            td_error *err);
td_status td_gguf_put_strings(td_gguf_writer *w, const char *key, const td_slice *items, uint64_t n, td_error *err);
/* Any value as the reader found it, under the same or (key != NULL) another key. What belongs to the old file's layout
 * (general.alignment, split.*) is left out. */
td_status td_gguf_put_value(td_gguf_writer *w, const char *key, const td_gguf_value *v, td_error *err);

/* ne[0] is the row length, a multiple of the type's block. */
td_status td_gguf_put_tensor(td_gguf_writer *w, const char *name, td_type type, int n_dims, const uint64_t *ne,
                             td_error *err);
/* The next bytes of the tensor data, in the order of declaration, in pieces of any size; padding is added here. */
td_status td_gguf_put_data(td_gguf_writer *w, const void *data, size_t n_bytes, td_error *err);

uint64_t td_gguf_writer_data_bytes(const td_gguf_writer *w); /* of all declared tensors, for progress */
/* Both free w. Commit fails unless every tensor's data is complete. */
td_status td_gguf_writer_commit(td_gguf_writer *w, td_error *err);
void td_gguf_writer_discard(td_gguf_writer *w);

#endif
