/* Packing of a model's matrices at load, and the packed copy on disk.
 *
 * All matrices of a file share one block of memory, in the order in which they are used, so that the copy on disk is
 * the same block: a second start maps it and packs nothing. */
#ifndef TD_MODEL_PACK_H
#define TD_MODEL_PACK_H

#include "../base/map.h"
#include "../file/gguf.h"
#include "../kernels/matrix.h"
#include "model.h"

typedef struct td_pack_item {
    td_matrix *m;            /* stays where it is until td_pack_free */
    const td_gguf_tensor *t; /* of m's type, or of one that is encoded again */
    int64_t row0, src_rows;  /* first row, and rows per expert in the tensor */
    uint64_t offset;         /* in the packed block */
} td_pack_item;

typedef struct td_pack {
    td_pack_item *items;
    int n_items, cap;
    uint64_t n_bytes; /* of the packed block */
    uint8_t *memory;  /* [n_bytes], owned; NULL with a cache or unpacked */
    td_map cache;     /* the mapped copy */
    bool from_cache;
} td_pack;

/* Registers rows [row0, row0 + m->n_rows) of each of the tensor's experts (src_rows rows each). A matrix of another
 * type than the tensor has no row_ids and one expert, and cannot be bound to the file (no_pack). */
td_status td_pack_add(td_pack *p, td_matrix *m, const td_gguf_tensor *t, int64_t row0, int64_t src_rows, td_error *err);
/* Binds every matrix that was added: packs, or maps the cache, or binds the file's rows when o->no_pack. */
td_status td_pack_run(td_pack *p, const td_gguf *g, const td_model_options *o, td_error *err);
void td_pack_free(td_pack *p);

/* ---- the copy on disk (pack_cache.c) ---- */

/* Maps the copy of exactly this file and layout, its content verified by hash; false when there is none. */
bool td_pack_cache_load(td_pack *p, const td_gguf *g, const td_model_options *o);
/* Writes it, whole or not at all; a failure is only logged: the model runs without. */
void td_pack_cache_save(const td_pack *p, const td_gguf *g, const td_model_options *o);

/* Runs fn(arg, i) for i in [0, n) on the pool's threads, or here when pool is NULL; thread 0 calls `tick` (may be NULL)
 * after each of its own. */
void td_pack_parallel(td_pool *pool, int64_t n, void (*fn)(void *arg, int64_t i), void (*tick)(void *arg), void *arg);

#endif
