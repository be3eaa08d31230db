/* The key/value cache of an engine: every layer that owns keys and values, every slot.
 *
 * Positions live in pages of 64. Full-attention layers keep all pages of a slot; sliding layers keep the window, the
 * largest batch and some positions to go back to. Pages are counted by reference: a slot copies another's prefix, and a
 * checkpoint keeps an old window, without copying a byte; writing to a page that others hold copies it first. A page
 * number stands for the same 64 positions in all layers of its kind, so bookkeeping does not grow with layers.
 *
 * Layers are numbered among those that own a cache, 0 .. n_layer-1; layers that share (and the drafter) pass the number
 * of the layer they read. One thread (the engine's) calls everything here except td_kv_store, which all threads of a
 * step call, and the attention kernel. */
#ifndef TD_KV_KV_H
#define TD_KV_KV_H

#include "../kernels/attention.h"

typedef struct td_kv td_kv;

typedef struct td_kv_layer {
    bool sliding;
    uint32_t n_kv, d_head;
    const float *inv_freq; /* [d_head/2] radians per position of pair (i, i + d_head/2), 0 = not rotated; copied */
    const float *k_eq_v;   /* [d_head] weight of k_norm where K and V come from one projection, else NULL; copied */
} td_kv_layer;

typedef struct td_kv_options {
    uint32_t n_layer;
    const td_kv_layer *layer;
    uint32_t window;           /* W of the sliding layers */
    uint32_t n_slot;           /* sequences */
    uint32_t n_ctx;            /* most positions of one slot */
    uint32_t n_ctx_total;      /* full-attention positions of all slots together; 0: n_slot * n_ctx */
    uint32_t n_batch;          /* most new positions of one slot in a step */
    uint32_t n_back;           /* sliding positions kept beyond the window, to go back to (drafts taken back) */
    uint32_t n_checkpoint;     /* windows that can be kept for going further back, all slots together */
    bool sliding_full;         /* sliding layers keep everything */
    td_kv_type type_k, type_v; /* full layers */
    td_kv_type type_k_sliding, type_v_sliding; /* sliding layers */
    uint32_t n_protect; /* first and last full layers, each, that hold 8 bits where fewer are asked */
} td_kv_options;

/* Reserves address space for everything; memory is touched as positions are stored. */
td_status td_kv_create(td_kv **out, const td_kv_options *options, td_error *err);
void td_kv_destroy(td_kv *kv);

/* --- a step ------------------------------------------------------------------------------------------------------ */

/* Makes positions n_pos .. n_pos + n_new - 1 of the slot writable. ERR_CONTEXT: beyond n_ctx; ERR_BUSY: no page free.
 */
td_status td_kv_reserve(td_kv *kv, uint32_t slot, uint32_t n_new, td_error *err);
/* Stores one reserved position of one layer: k, v [n_kv][d_head] f32 after norm and rotation. Any thread. */
void td_kv_store(td_kv *kv, uint32_t layer, uint32_t slot, uint32_t pos, const float *k, const float *v);
/* Counts n_new stored positions as part of the slot. */
void td_kv_commit(td_kv *kv, uint32_t slot, uint32_t n_new);

/* Fills shape, base and seq (indexed by slot) of an attention call. Valid until the next call below or td_kv_reserve.
 * Visible ranges: a row at pos sees [0, pos + 1) in full layers and [td_kv_window_lo(kv, pos), pos + 1) in sliding
 * ones; the drafter at position n sees [0, n) and [td_kv_window_lo(kv, n), n). */
void td_kv_attend(const td_kv *kv, uint32_t layer, td_attn_call *call);
uint32_t td_kv_window_lo(const td_kv *kv, uint32_t pos); /* max(0, pos - W + 1) */
bool td_kv_sliding(const td_kv *kv, uint32_t layer);

/* --- slots ------------------------------------------------------------------------------------------------------- */

uint32_t td_kv_n_pos(const td_kv *kv, uint32_t slot);
uint32_t td_kv_n_ctx(const td_kv *kv);
uint32_t td_kv_n_slot(const td_kv *kv);
void td_kv_clear(td_kv *kv, uint32_t slot); /* empties it and drops its checkpoints and its admission */

/* The largest n' <= n from which the slot can go on exactly: the window before n' is held, or kept by a checkpoint. */
uint32_t td_kv_resumable(const td_kv *kv, uint32_t slot, uint32_t n);
/* Cuts the slot to td_kv_resumable(n) and returns that; a window is brought back from a checkpoint where needed. */
uint32_t td_kv_truncate(td_kv *kv, uint32_t slot, uint32_t n);
/* Keeps the window at the present end of the slot; the oldest checkpoint of all slots goes when there is no room. */
void td_kv_checkpoint(td_kv *kv, uint32_t slot);
uint32_t td_kv_n_checkpoint(const td_kv *kv, uint32_t slot); /* that the slot can go back to */
/* Empties `to`, then gives it the first n' <= n positions of `from`, the most from which it can go on; returns n'. */
uint32_t td_kv_copy_prefix(td_kv *kv, uint32_t to, uint32_t from, uint32_t n);

/* Exchanges what two slots hold, checkpoints and promises included; no page moves. */
void td_kv_swap(td_kv *kv, uint32_t a, uint32_t b);
/* Pages that the slot and its checkpoints refer to; those that others share count in full. */
uint64_t td_kv_slot_bytes(const td_kv *kv, uint32_t slot);

/* Removes positions [begin, end) and moves what follows down, turning keys to their new positions. ERR_UNSUPPORTED,
 * with nothing changed, when a sliding layer no longer holds the window that would be needed. */
td_status td_kv_discard(td_kv *kv, uint32_t slot, uint32_t begin, uint32_t end, td_error *err);
bool td_kv_can_discard(const td_kv *kv, uint32_t slot, uint32_t begin, uint32_t end);

/* --- memory ------------------------------------------------------------------------------------------------------ */

/* Promises the slot room for n_total positions, so that no step of it fails: ERR_BUSY when other promises stand in the
 * way, ERR_CONTEXT when it can never fit. */
td_status td_kv_admit(td_kv *kv, uint32_t slot, uint32_t n_total, td_error *err);
/* Ends the promise; what the slot holds stays. */
void td_kv_dismiss(td_kv *kv, uint32_t slot);
/* Whether td_kv_admit would succeed. */
bool td_kv_can_grow(const td_kv *kv, uint32_t slot, uint32_t n_total);

typedef struct td_kv_usage {
    uint64_t bytes_reserved;  /* address space of all pages */
    uint64_t bytes_used;      /* pages held by slots and checkpoints */
    uint64_t bytes_per_token; /* growth per position: the full layers (all layers with sliding_full) */
    uint64_t bytes_window;    /* sliding layers, per slot */
    uint32_t pages_full, pages_full_free, pages_sliding, pages_sliding_free;
    uint32_t n_checkpoint; /* in use */
    uint64_t bytes_checkpoint;
} td_kv_usage;
void td_kv_get_usage(const td_kv *kv, td_kv_usage *out);

/* --- saving ------------------------------------------------------------------------------------------------------ */

/* A slot as one flat block, with a header naming shape and types. restore checks everything and leaves the slot empty
 * on failure. */
uint64_t td_kv_save_bytes(const td_kv *kv, uint32_t slot);
void td_kv_save(const td_kv *kv, uint32_t slot, void *out);
td_status td_kv_restore(td_kv *kv, uint32_t slot, const void *data, uint64_t n_bytes, td_error *err);

#endif
