/* Inside the cache: pools of pages, page tables of slots, checkpoints. */
#ifndef TD_KV_INTERNAL_H
#define TD_KV_INTERNAL_H

#include "kv.h"

enum { FULL, SLIDING, KINDS };

#define NO_PAGE UINT32_MAX

typedef struct kv_pool {
    uint32_t n_layer; /* layers of the kind; 0: the pool is not used */
    uint32_t n_page, n_free;
    uint32_t *refs; /* [n_page] */
    uint32_t *free; /* [n_page] stack of free page numbers */
} kv_pool;

typedef struct kv_layer {
    int kind;
    td_attn_shape shape;
    float *fold, *inv_freq;
    uint16_t *key_at;
    uint8_t *base;
    size_t bytes;
} kv_layer;

typedef struct kv_table {
    uint32_t *page;      /* [pages of n_ctx] by position / 64; NO_PAGE where nothing is held */
    uint32_t first, end; /* held: [first, end) */
} kv_table;

typedef struct kv_slot {
    uint32_t n_pos;
    uint32_t lo;       /* sliding layers: positions [lo, n_pos) are held */
    uint32_t admitted; /* full pages promised */
    kv_table table[KINDS];
} kv_slot;

typedef struct kv_checkpoint {
    bool used;
    uint32_t slot, n; /* the window before position n of this slot */
    uint32_t lo, first, n_page;
    uint32_t *page; /* [window_pages] */
    uint64_t stamp;
} kv_checkpoint;

struct td_kv {
    td_kv_options opt; /* `layer` is not kept */
    uint32_t n_layer, ctx_pages, window_pages, slot_pages;
    bool windowed; /* there are sliding layers, and they forget */
    kv_layer *layer;
    kv_pool pool[KINDS];
    kv_slot *slot;
    td_attn_seq *seq[KINDS]; /* [n_slot], for attention calls */
    kv_checkpoint *checkpoint;
    uint64_t stamp;
};

void td_kv_release_range(td_kv *kv, uint32_t slot, int kind, uint32_t begin, uint32_t end);
/* Makes page `at` of the table present and unshared. */
bool td_kv_own_page(td_kv *kv, uint32_t slot, int kind, uint32_t at);
void td_kv_drop_checkpoints(td_kv *kv, uint32_t slot, uint32_t beyond); /* those with n > beyond */
static inline void *td_kv_page(const td_kv *kv, uint32_t layer, uint32_t page) {
    const kv_layer *l = &kv->layer[layer];
    return l->base + (size_t)page * l->shape.page_bytes;
}

#endif
