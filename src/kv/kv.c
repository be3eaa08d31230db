/* The cache: creation, the step protocol, slots, prefixes, checkpoints, admission.
 *
 * Before a step the engine reserves positions (pages are taken, shared ones copied); the model stores and attends; the
 * engine commits what was accepted. Everything here is bookkeeping on page numbers except the copy of a shared page. */
#include "kv_internal.h"

#include "../base/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- pages -------------------------------------------------------------------------------------------------------- */

static void release_page(td_kv *kv, int kind, uint32_t page) {
    kv_pool *p = &kv->pool[kind];
    if (--p->refs[page] == 0) p->free[p->n_free++] = page;
}

static void drop_checkpoint(td_kv *kv, kv_checkpoint *c) {
    for (uint32_t i = 0; i < c->n_page; i++) release_page(kv, SLIDING, c->page[i]);
    c->used = false;
    c->n_page = 0;
}

static kv_checkpoint *oldest_checkpoint(const td_kv *kv) {
    kv_checkpoint *oldest = NULL;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        kv_checkpoint *c = &kv->checkpoint[i];
        if (c->used && (!oldest || c->stamp < oldest->stamp)) oldest = c;
    }
    return oldest;
}

void td_kv_drop_checkpoints(td_kv *kv, uint32_t slot, uint32_t beyond) {
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        kv_checkpoint *c = &kv->checkpoint[i];
        if (c->used && c->slot == slot && c->n > beyond) drop_checkpoint(kv, c);
    }
}

/* A free page; sliding: takes the oldest checkpoints'. */
static bool get_page(td_kv *kv, int kind, uint32_t *page) {
    kv_pool *p = &kv->pool[kind];
    while (p->n_free == 0) {
        kv_checkpoint *c = kind == SLIDING ? oldest_checkpoint(kv) : NULL;
        if (!c) return false;
        drop_checkpoint(kv, c);
    }
    *page = p->free[--p->n_free];
    p->refs[*page] = 1;
    return true;
}

/* Releases pages [begin, end) of a table where held, and narrows its bounds; the range must touch one of them. */
void td_kv_release_range(td_kv *kv, uint32_t slot, int kind, uint32_t begin, uint32_t end) {
    kv_table *t = &kv->slot[slot].table[kind];
    begin = begin > t->first ? begin : t->first;
    end = end < t->end ? end : t->end;
    if (begin >= end) return;
    for (uint32_t i = begin; i < end; i++) {
        if (t->page[i] == NO_PAGE) continue; /* between pages in the middle of td_kv_discard */
        release_page(kv, kind, t->page[i]);
        t->page[i] = NO_PAGE;
    }
    if (begin == t->first)
        t->first = end;
    else
        t->end = begin;
    if (t->first == t->end) t->first = t->end = 0;
}

bool td_kv_own_page(td_kv *kv, uint32_t slot, int kind, uint32_t at) {
    kv_table *t = &kv->slot[slot].table[kind];
    uint32_t page = NO_PAGE;
    if (t->page[at] == NO_PAGE) {
        if (!get_page(kv, kind, &page)) return false;
        t->page[at] = page;
        if (t->first == t->end) {
            t->first = at;
            t->end = at + 1;
        }
        t->first = at < t->first ? at : t->first;
        t->end = at + 1 > t->end ? at + 1 : t->end;
        return true;
    }
    if (kv->pool[kind].refs[t->page[at]] == 1) return true;
    if (!get_page(kv, kind, &page)) return false;
    if (kv->pool[kind].refs[t->page[at]] == 1) { /* taking a page dropped the checkpoint that shared this one */
        release_page(kv, kind, page);
        return true;
    }
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        if (kv->layer[i].kind != kind) continue;
        memcpy(td_kv_page(kv, i, page), td_kv_page(kv, i, t->page[at]), kv->layer[i].shape.page_bytes);
    }
    release_page(kv, kind, t->page[at]);
    t->page[at] = page;
    return true;
}

static uint32_t pages_of(uint32_t n_pos) {
    return (uint32_t)(((uint64_t)n_pos + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE);
}

/* --- creation ----------------------------------------------------------------------------------------------------- */

void td_kv_destroy(td_kv *kv) {
    if (!kv) return;
    for (uint32_t i = 0; kv->layer && i < kv->n_layer; i++) {
        free(kv->layer[i].fold);
        free(kv->layer[i].inv_freq);
        free(kv->layer[i].key_at);
        if (kv->layer[i].base) td_free_aligned(kv->layer[i].base, kv->layer[i].bytes);
    }
    for (uint32_t i = 0; kv->slot && i < kv->opt.n_slot; i++) {
        for (int kind = 0; kind < KINDS; kind++) free(kv->slot[i].table[kind].page);
    }
    for (uint32_t i = 0; kv->checkpoint && i < kv->opt.n_checkpoint; i++) free(kv->checkpoint[i].page);
    for (int kind = 0; kind < KINDS; kind++) {
        free(kv->pool[kind].refs);
        free(kv->pool[kind].free);
        free(kv->seq[kind]);
    }
    free(kv->layer);
    free(kv->slot);
    free(kv->checkpoint);
    free(kv);
}

/* K = V: the rotated pairs are stored as keys, made up to a multiple of 32 with pairs that are not rotated. */
static td_status split_keys(kv_layer *l, const td_kv_layer *in, uint32_t *d_key, td_error *err) {
    uint32_t d = in->d_head, half = d / 2, n_rotated = 0;
    for (uint32_t i = 0; i < half; i++) n_rotated += in->inv_freq && in->inv_freq[i] != 0.0f;
    uint32_t n_pair = (n_rotated + 15) / 16 * 16;
    if (n_pair == 0) n_pair = 16;
    *d_key = d;
    if (2 * n_pair >= d) return TD_OK; /* nothing to save */
    l->fold = td_calloc(d, sizeof *l->fold);
    l->key_at = td_calloc(d, sizeof *l->key_at);
    if (!l->fold || !l->key_at) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "cache: no memory");
    uint32_t n = 0, extra = n_pair - n_rotated;
    for (uint32_t i = 0; i < half; i++) {
        bool rotated = in->inv_freq && in->inv_freq[i] != 0.0f;
        if (rotated || extra > 0) {
            if (!rotated) extra--;
            l->key_at[n] = (uint16_t)i;
            l->key_at[n_pair + n++] = (uint16_t)(i + half);
        } else {
            l->fold[i] = in->k_eq_v[i];
            l->fold[i + half] = in->k_eq_v[i + half];
        }
    }
    *d_key = 2 * n_pair;
    return TD_OK;
}

/* Whether a full layer is among the first or last n_protect of them: what the earliest lose all later layers see, and
 * the last ones' errors nothing smooths. Layers that read another's cache do not count: they have none to protect. */
static bool is_protected(const td_kv_options *o, uint32_t index) {
    uint32_t before = 0, after = 0;
    for (uint32_t i = 0; i < o->n_layer; i++) {
        before += i < index && !o->layer[i].sliding;
        after += i > index && !o->layer[i].sliding;
    }
    return !o->layer[index].sliding && (before < o->n_protect || after < o->n_protect);
}

static td_kv_type type_of(td_kv_type wanted, bool is_protected_layer) {
    return is_protected_layer && wanted > TD_KV_Q8_0 ? TD_KV_Q8_0 : wanted;
}

static td_status make_layer(td_kv *kv, uint32_t index, const td_kv_options *o, td_error *err) {
    const td_kv_layer *in = &o->layer[index];
    kv_layer *l = &kv->layer[index];
    bool safe = is_protected(o, index);
    l->kind = in->sliding ? SLIDING : FULL;
    td_kv_type k = in->sliding ? o->type_k_sliding : type_of(o->type_k, safe);
    td_kv_type v = in->sliding ? o->type_v_sliding : type_of(o->type_v, safe);
    if (in->d_head == 0 || in->d_head > TD_ATTN_D_MAX || in->d_head % 32 != 0)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "cache: layer %u has heads of %u values", index, in->d_head);
    l->inv_freq = td_calloc(in->d_head / 2, sizeof *l->inv_freq);
    if (!l->inv_freq) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "cache: no memory");
    if (in->inv_freq) memcpy(l->inv_freq, in->inv_freq, in->d_head / 2 * sizeof *l->inv_freq);
    uint32_t d_key = in->d_head;
    /* Types of less than 8 bits are faster apart, and their keys would carry the values' error: turbo4 2.0 ms
     * against 4.1 (8,192 positions, 32 heads on 4, one core). */
    if (in->k_eq_v && k == v && k <= TD_KV_Q8_0) {
        td_status status = split_keys(l, in, &d_key, err);
        if (status) return status;
    }
    td_status status = td_attn_shape_init(&l->shape, k, v, in->n_kv, in->d_head, d_key, l->fold, l->key_at, err);
    if (status) return status;
    if (!td_mul_size(l->shape.page_bytes, kv->pool[l->kind].n_page, &l->bytes))
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "cache: layer %u is too large", index);
    l->base = td_alloc_aligned(l->bytes, 64);
    if (!l->base)
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "cache: no memory for %zu MiB of layer %u (context %u)",
                       l->bytes >> 20, index, kv->opt.n_ctx);
    return TD_OK;
}

static td_status check_options(const td_kv_options *o, td_error *err) {
    if (!o->layer || o->n_layer == 0 || o->n_layer > 4096 || o->n_slot == 0 || o->n_slot > 65536 || o->n_ctx == 0 ||
        o->n_ctx > 1u << 24 || o->n_batch == 0 || o->n_checkpoint > 65536)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "cache: %u layers, %u slots, context %u, batch %u are not acceptable", o->n_layer, o->n_slot,
                       o->n_ctx, o->n_batch);
    for (uint32_t i = 0; i < o->n_layer; i++) {
        if (o->layer[i].sliding && o->window == 0)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "cache: sliding layers with a window of 0");
    }
    return TD_OK;
}

/* Pages of each kind, and what one slot or one checkpoint can hold. */
static bool size_pools(td_kv *kv) {
    const td_kv_options *o = &kv->opt;
    kv->ctx_pages = pages_of(o->n_ctx);
    uint64_t window = pages_of(o->window ? o->window - 1 : 0) + 1u;
    uint64_t slot = ((uint64_t)o->window + o->n_back + o->n_batch + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE + 2;
    if (slot > kv->ctx_pages || o->sliding_full) slot = kv->ctx_pages;
    if (window > slot) window = slot;
    kv->window_pages = (uint32_t)window;
    kv->slot_pages = (uint32_t)slot;
    /* A page more per slot than it can fill: promised() counts a copy for every slot that shares its last page, while
     * the last of them will keep the original. Without it a job could be refused that fits (tests/engine/test_overlap).
     */
    uint64_t all = ((uint64_t)kv->ctx_pages + 1) * o->n_slot;
    uint64_t full = o->n_ctx_total ? pages_of(o->n_ctx_total) + (uint64_t)o->n_slot : all;
    if (full > all) full = all;
    uint64_t sliding = slot * o->n_slot + window * ((uint64_t)o->n_checkpoint + 1);
    if (full > UINT32_MAX / 2 || sliding > UINT32_MAX / 2) return false;
    kv->pool[FULL].n_page = (uint32_t)full;
    kv->pool[SLIDING].n_page = (uint32_t)sliding;
    return true;
}

static bool make_pool(kv_pool *p) {
    p->refs = td_calloc(p->n_page, sizeof *p->refs);
    p->free = td_calloc(p->n_page, sizeof *p->free);
    if (!p->refs || !p->free) return false;
    p->n_free = p->n_page;
    for (uint32_t i = 0; i < p->n_page; i++) p->free[i] = p->n_page - 1 - i; /* low numbers first */
    return true;
}

static bool make_slots(td_kv *kv) {
    const td_kv_options *o = &kv->opt;
    kv->slot = td_calloc(o->n_slot, sizeof *kv->slot);
    kv->checkpoint = td_calloc(o->n_checkpoint ? o->n_checkpoint : 1, sizeof *kv->checkpoint);
    if (!kv->slot || !kv->checkpoint) return false;
    for (int kind = 0; kind < KINDS; kind++) {
        kv->seq[kind] = td_calloc(o->n_slot, sizeof **kv->seq);
        if (!kv->seq[kind]) return false;
        for (uint32_t i = 0; i < o->n_slot; i++) {
            uint32_t *page = td_calloc(kv->ctx_pages, sizeof *page);
            if (!page) return false;
            memset(page, 0xff, kv->ctx_pages * sizeof *page);
            kv->slot[i].table[kind].page = page;
            kv->seq[kind][i] = (td_attn_seq){.page = page};
        }
    }
    for (uint32_t i = 0; i < o->n_checkpoint; i++) {
        kv->checkpoint[i].page = td_calloc(kv->window_pages, sizeof(uint32_t));
        if (!kv->checkpoint[i].page) return false;
    }
    return true;
}

td_status td_kv_create(td_kv **out, const td_kv_options *options, td_error *err) {
    *out = NULL;
    td_status status = check_options(options, err);
    if (status) return status;
    td_kv *kv = td_calloc(1, sizeof *kv);
    if (!kv) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "cache: no memory");
    kv->opt = *options;
    kv->opt.layer = NULL;
    kv->n_layer = options->n_layer;
    if (!size_pools(kv)) {
        status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "cache: too many pages");
        goto fail;
    }
    for (uint32_t i = 0; i < kv->n_layer; i++) kv->pool[options->layer[i].sliding ? SLIDING : FULL].n_layer++;
    kv->windowed = kv->pool[SLIDING].n_layer > 0 && !options->sliding_full;
    if (!kv->windowed) kv->opt.n_checkpoint = 0;
    kv->layer = td_calloc(kv->n_layer, sizeof *kv->layer);
    if (!kv->layer || !make_pool(&kv->pool[FULL]) || !make_pool(&kv->pool[SLIDING]) || !make_slots(kv)) {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "cache: no memory");
        goto fail;
    }
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        status = make_layer(kv, i, options, err);
        if (status) goto fail;
    }
    *out = kv;
    return TD_OK;
fail:
    td_kv_destroy(kv);
    return status;
}

/* --- a step ------------------------------------------------------------------------------------------------------- */

/* Full pages that promises still entitle slots to, leaving out slot `except`. */
static uint64_t promised(const td_kv *kv, uint32_t except) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < kv->opt.n_slot; i++) {
        const kv_slot *s = &kv->slot[i];
        const kv_table *t = &s->table[FULL];
        if (i == except || s->admitted <= t->end) continue;
        n += s->admitted - t->end;
        n += t->end > 0 && s->n_pos % TD_ATTN_PAGE != 0 && kv->pool[FULL].refs[t->page[t->end - 1]] > 1;
    }
    return n;
}

/* Forgets sliding pages that neither the window nor n_back can need again. */
static void slide(td_kv *kv, uint32_t slot) {
    kv_slot *s = &kv->slot[slot];
    uint64_t keep = (uint64_t)kv->opt.window - 1 + kv->opt.n_back;
    if (!kv->windowed || s->n_pos <= keep) return;
    uint32_t lo = (uint32_t)(s->n_pos - keep), first = lo / TD_ATTN_PAGE;
    td_kv_release_range(kv, slot, SLIDING, 0, first);
    if (s->lo < first * TD_ATTN_PAGE) s->lo = first * TD_ATTN_PAGE;
}

td_status td_kv_reserve(td_kv *kv, uint32_t slot, uint32_t n_new, td_error *err) {
    kv_slot *s = &kv->slot[slot];
    if (n_new == 0) return TD_OK;
    if (n_new > kv->opt.n_batch)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "cache: %u new positions, the batch holds %u", n_new,
                       kv->opt.n_batch);
    if (n_new > kv->opt.n_ctx - s->n_pos)
        return td_fail(err, TD_ERR_CONTEXT, TD_NO_OFFSET, "context full: %u positions and %u new ones, room for %u",
                       s->n_pos, n_new, kv->opt.n_ctx);
    uint32_t begin = s->n_pos / TD_ATTN_PAGE, end = pages_of(s->n_pos + n_new);
    if (kv->pool[FULL].n_layer && end > s->admitted) { /* beyond its promise: not at the expense of others' */
        uint64_t need = 0;
        for (uint32_t i = begin; i < end; i++) {
            uint32_t page = s->table[FULL].page[i];
            need += page == NO_PAGE || kv->pool[FULL].refs[page] > 1;
        }
        if (need + promised(kv, slot) > kv->pool[FULL].n_free)
            return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "the cache is full: %u pages free, %u promised to others",
                           kv->pool[FULL].n_free, (unsigned)promised(kv, slot));
    }
    slide(kv, slot);
    for (int kind = 0; kind < KINDS; kind++) {
        if (!kv->pool[kind].n_layer) continue;
        for (uint32_t i = begin; i < end; i++) {
            if (!td_kv_own_page(kv, slot, kind, i))
                return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "the cache is full: no page for position %u",
                               i * TD_ATTN_PAGE);
        }
    }
    return TD_OK;
}

void td_kv_store(td_kv *kv, uint32_t layer, uint32_t slot, uint32_t pos, const float *k, const float *v) {
    const kv_layer *l = &kv->layer[layer];
    uint32_t page = kv->slot[slot].table[l->kind].page[pos / TD_ATTN_PAGE];
    td_attn_store(&l->shape, td_kv_page(kv, layer, page), pos % TD_ATTN_PAGE, k, v);
}

void td_kv_commit(td_kv *kv, uint32_t slot, uint32_t n_new) {
    kv->slot[slot].n_pos += n_new;
}

void td_kv_attend(const td_kv *kv, uint32_t layer, td_attn_call *call) {
    const kv_layer *l = &kv->layer[layer];
    call->shape = &l->shape;
    call->base = l->base;
    call->seq = kv->seq[l->kind];
}

uint32_t td_kv_window_lo(const td_kv *kv, uint32_t pos) {
    return pos + 1 > kv->opt.window ? pos + 1 - kv->opt.window : 0;
}

bool td_kv_sliding(const td_kv *kv, uint32_t layer) {
    return kv->layer[layer].kind == SLIDING;
}

/* --- slots -------------------------------------------------------------------------------------------------------- */

uint32_t td_kv_n_pos(const td_kv *kv, uint32_t slot) {
    return kv->slot[slot].n_pos;
}

uint32_t td_kv_n_ctx(const td_kv *kv) {
    return kv->opt.n_ctx;
}

uint32_t td_kv_n_slot(const td_kv *kv) {
    return kv->opt.n_slot;
}

static void empty_slot(td_kv *kv, uint32_t slot) {
    kv_slot *s = &kv->slot[slot];
    for (int kind = 0; kind < KINDS; kind++) td_kv_release_range(kv, slot, kind, 0, kv->ctx_pages);
    td_kv_drop_checkpoints(kv, slot, 0);
    s->n_pos = s->lo = 0;
}

void td_kv_clear(td_kv *kv, uint32_t slot) {
    empty_slot(kv, slot);
    kv->slot[slot].admitted = 0;
}

/* Continuing at n reads positions [n - W + 1, n) of sliding layers. */
static bool window_held(const td_kv *kv, uint32_t lo, uint32_t n) {
    return lo <= td_kv_window_lo(kv, n);
}

/* Where [.., n) of a slot can be found: its own pages (checkpoint NULL) or a checkpoint's. n = 0: nowhere. */
typedef struct kv_source {
    uint32_t n;
    const kv_checkpoint *checkpoint;
} kv_source;

static kv_source find_source(const td_kv *kv, uint32_t slot, uint32_t n) {
    const kv_slot *s = &kv->slot[slot];
    kv_source best = {.n = n < s->n_pos ? n : s->n_pos};
    if (!kv->windowed || best.n == 0 || window_held(kv, s->lo, best.n)) return best;
    uint32_t want = best.n;
    best.n = 0;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        const kv_checkpoint *c = &kv->checkpoint[i];
        if (!c->used || c->slot != slot) continue;
        uint32_t at = c->n < want ? c->n : want;
        if (at > best.n && window_held(kv, c->lo, at)) best = (kv_source){.n = at, .checkpoint = c};
    }
    return best;
}

uint32_t td_kv_resumable(const td_kv *kv, uint32_t slot, uint32_t n) {
    return find_source(kv, slot, n).n;
}

/* Gives slot `to` (its sliding table empty) the pages of a source in slot `from`. */
static void take_window(td_kv *kv, uint32_t to, uint32_t from, kv_source source) {
    kv_slot *t = &kv->slot[to];
    const kv_slot *f = &kv->slot[from];
    const kv_checkpoint *c = source.checkpoint;
    uint32_t first = c ? c->first : f->table[SLIDING].first, end = pages_of(source.n);
    if (first >= end) return;
    for (uint32_t i = first; i < end; i++) {
        uint32_t page = c ? c->page[i - first] : f->table[SLIDING].page[i];
        kv->pool[SLIDING].refs[page]++;
        t->table[SLIDING].page[i] = page;
    }
    t->table[SLIDING].first = first;
    t->table[SLIDING].end = end;
    t->lo = c ? c->lo : f->lo;
}

uint32_t td_kv_truncate(td_kv *kv, uint32_t slot, uint32_t n) {
    kv_slot *s = &kv->slot[slot];
    kv_source source = find_source(kv, slot, n);
    if (source.n == 0) {
        empty_slot(kv, slot);
        return 0;
    }
    td_kv_release_range(kv, slot, FULL, pages_of(source.n), kv->ctx_pages);
    if (source.checkpoint) {
        td_kv_release_range(kv, slot, SLIDING, 0, kv->ctx_pages);
        take_window(kv, slot, slot, source);
    } else {
        td_kv_release_range(kv, slot, SLIDING, pages_of(source.n), kv->ctx_pages);
    }
    s->n_pos = source.n;
    td_kv_drop_checkpoints(kv, slot, source.n);
    return source.n;
}

static kv_checkpoint *free_checkpoint(td_kv *kv, bool take_oldest) {
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        if (!kv->checkpoint[i].used) return &kv->checkpoint[i];
    }
    kv_checkpoint *c = take_oldest ? oldest_checkpoint(kv) : NULL;
    if (c) drop_checkpoint(kv, c);
    return c;
}

uint32_t td_kv_n_checkpoint(const td_kv *kv, uint32_t slot) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) n += kv->checkpoint[i].used && kv->checkpoint[i].slot == slot;
    return n;
}

void td_kv_checkpoint(td_kv *kv, uint32_t slot) {
    const kv_slot *s = &kv->slot[slot];
    if (!kv->windowed || kv->opt.n_checkpoint == 0 || s->n_pos == 0) return;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        kv_checkpoint *c = &kv->checkpoint[i];
        if (!c->used || c->slot != slot || c->n != s->n_pos) continue;
        c->stamp = ++kv->stamp;
        return;
    }
    kv_checkpoint *c = free_checkpoint(kv, true);
    uint32_t lo = td_kv_window_lo(kv, s->n_pos), first = lo / TD_ATTN_PAGE;
    first = first > s->table[SLIDING].first ? first : s->table[SLIDING].first;
    c->used = true;
    c->slot = slot;
    c->n = s->n_pos;
    c->first = first;
    c->lo = s->lo > first * TD_ATTN_PAGE ? s->lo : first * TD_ATTN_PAGE;
    c->stamp = ++kv->stamp;
    c->n_page = 0;
    for (uint32_t i = first; i < pages_of(s->n_pos); i++) {
        c->page[c->n_page++] = s->table[SLIDING].page[i];
        kv->pool[SLIDING].refs[s->table[SLIDING].page[i]]++;
    }
}

static void copy_checkpoints(td_kv *kv, uint32_t to, uint32_t from, uint32_t n) {
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        const kv_checkpoint *f = &kv->checkpoint[i];
        if (!f->used || f->slot != from || f->n > n) continue;
        kv_checkpoint *t = free_checkpoint(kv, false);
        if (!t) return;
        uint32_t *page = t->page;
        *t = *f;
        t->page = page;
        t->slot = to;
        for (uint32_t k = 0; k < f->n_page; k++) {
            page[k] = f->page[k];
            kv->pool[SLIDING].refs[page[k]]++;
        }
    }
}

uint32_t td_kv_copy_prefix(td_kv *kv, uint32_t to, uint32_t from, uint32_t n) {
    if (to == from) return td_kv_truncate(kv, to, n);
    empty_slot(kv, to);
    kv_source source = find_source(kv, from, n);
    if (source.n == 0) return 0;
    kv_slot *t = &kv->slot[to];
    const kv_slot *f = &kv->slot[from];
    if (kv->pool[FULL].n_layer) {
        for (uint32_t i = 0; i < pages_of(source.n); i++) {
            t->table[FULL].page[i] = f->table[FULL].page[i];
            kv->pool[FULL].refs[t->table[FULL].page[i]]++;
        }
        t->table[FULL].end = pages_of(source.n);
    }
    if (kv->pool[SLIDING].n_layer) take_window(kv, to, from, source);
    t->n_pos = source.n;
    copy_checkpoints(kv, to, from, source.n);
    return source.n;
}

void td_kv_swap(td_kv *kv, uint32_t a, uint32_t b) {
    kv_slot old = kv->slot[a];
    kv->slot[a] = kv->slot[b];
    kv->slot[b] = old;
    for (int kind = 0; kind < KINDS; kind++) {
        kv->seq[kind][a].page = kv->slot[a].table[kind].page;
        kv->seq[kind][b].page = kv->slot[b].table[kind].page;
    }
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        kv_checkpoint *c = &kv->checkpoint[i];
        if (c->used && (c->slot == a || c->slot == b)) c->slot = c->slot == a ? b : a;
    }
}

static uint64_t page_bytes(const td_kv *kv, int kind) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < kv->n_layer; i++)
        if (kv->layer[i].kind == kind) n += kv->layer[i].shape.page_bytes;
    return n;
}

uint64_t td_kv_slot_bytes(const td_kv *kv, uint32_t slot) {
    const kv_slot *s = &kv->slot[slot];
    uint64_t n_pages[KINDS];
    for (int kind = 0; kind < KINDS; kind++) n_pages[kind] = s->table[kind].end - s->table[kind].first;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++)
        if (kv->checkpoint[i].used && kv->checkpoint[i].slot == slot) n_pages[SLIDING] += kv->checkpoint[i].n_page;
    return n_pages[FULL] * page_bytes(kv, FULL) + n_pages[SLIDING] * page_bytes(kv, SLIDING);
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

bool td_kv_can_grow(const td_kv *kv, uint32_t slot, uint32_t n_total) {
    const kv_slot *s = &kv->slot[slot];
    if (n_total > kv->opt.n_ctx) return false;
    if (!kv->pool[FULL].n_layer) return true;
    uint32_t pages = pages_of(n_total), held = s->table[FULL].end;
    uint64_t need = pages > held ? pages - held : 0;
    need += held > 0 && s->n_pos % TD_ATTN_PAGE != 0 && kv->pool[FULL].refs[s->table[FULL].page[held - 1]] > 1;
    return need + promised(kv, slot) <= kv->pool[FULL].n_free;
}

td_status td_kv_admit(td_kv *kv, uint32_t slot, uint32_t n_total, td_error *err) {
    if (n_total > kv->opt.n_ctx || (kv->pool[FULL].n_layer && pages_of(n_total) > kv->pool[FULL].n_page))
        return td_fail(err, TD_ERR_CONTEXT, TD_NO_OFFSET, "%u positions asked for, the context holds %u", n_total,
                       kv->opt.n_ctx);
    if (!td_kv_can_grow(kv, slot, n_total))
        return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "the cache has no room for %u positions now", n_total);
    kv->slot[slot].admitted = pages_of(n_total);
    return TD_OK;
}

void td_kv_dismiss(td_kv *kv, uint32_t slot) {
    kv->slot[slot].admitted = 0;
}

void td_kv_get_usage(const td_kv *kv, td_kv_usage *out) {
    uint64_t full = page_bytes(kv, FULL), sliding = page_bytes(kv, SLIDING);
    *out = (td_kv_usage){0};
    for (uint32_t i = 0; i < kv->n_layer; i++) out->bytes_reserved += kv->layer[i].bytes;
    uint64_t used[KINDS];
    for (int kind = 0; kind < KINDS; kind++) used[kind] = kv->pool[kind].n_page - kv->pool[kind].n_free;
    out->bytes_used = used[FULL] * full + used[SLIDING] * sliding;
    uint64_t growing = full + (kv->windowed ? 0 : sliding);
    out->bytes_per_token = (growing + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE;
    out->bytes_window = kv->slot_pages * sliding;
    for (uint32_t i = 0; i < kv->opt.n_checkpoint; i++) {
        out->n_checkpoint += kv->checkpoint[i].used;
        out->bytes_checkpoint += kv->checkpoint[i].n_page * sliding;
    }
    out->pages_full = kv->pool[FULL].n_page;
    out->pages_full_free = kv->pool[FULL].n_free;
    out->pages_sliding = kv->pool[SLIDING].n_page;
    out->pages_sliding_free = kv->pool[SLIDING].n_free;
}
