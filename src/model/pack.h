/* Packing of a model's matrices at load, and the packed copy on disk.
 *
 * All matrices of a file share one block of memory, in file order, so that the copy on disk is the same block: a second
 * start maps it and packs nothing. */
#ifndef TD_MODEL_PACK_H
#define TD_MODEL_PACK_H

#include "../base/map.h"
#include "../file/gguf.h"
#include "../kernels/matrix.h"
#include "model.h"

typedef struct td_pack_item {
    td_matrix *m; /* stays where it is until td_pack_free */
    const td_gguf_tensor *t;
    int64_t row0, src_rows; /* first row and rows per expert in the tensor */
    uint64_t offset;        /* in the packed block */
} td_pack_item;

typedef struct td_pack {
    td_pack_item *items;
    int n_items, cap;
    uint64_t n_bytes; /* of the packed block */
    uint8_t *memory;  /* [n_bytes], owned; NULL with a cache or unpacked */
    td_map cache;     /* the mapped copy */
    bool from_cache;
} td_pack;

td_status td_pack_add(td_pack *p, td_matrix *m, const td_gguf_tensor *t, int64_t row0, int64_t src_rows, td_error *err);
/* Binds every matrix that was added: packs, or maps the cache, or binds the file's rows when o->no_pack. */
td_status td_pack_run(td_pack *p, const td_gguf *g, const td_model_options *o, td_error *err);
void td_pack_free(td_pack *p);

#endif
