/* Moving a slot's content: to lower positions (context shift, reuse of a later part of a prompt), and to and from a
 * flat block (session files).
 *
 * A stored key contains the rotation of the position it was written at, in every type: the Hadamard transform of the
 * rotated types is orthogonal but does not commute with RoPE. So keys that move are decoded, turned by the distance,
 * and coded again; values move byte for byte (tests/kv/test_kv.c, which also shows what leaving keys alone does). */
#include "kv_internal.h"

#include "../base/checked.h"
#include "../base/cursor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool td_kv_can_discard(const td_kv *kv, uint32_t slot, uint32_t begin, uint32_t end) {
    const kv_slot *s = &kv->slot[slot];
    if (begin > end || end > s->n_pos) return false;
    if (!kv->windowed || begin == end) return true;
    uint32_t n = s->n_pos - (end - begin), lo = td_kv_window_lo(kv, n);
    return lo >= begin ? s->lo <= lo + (end - begin) : s->lo <= lo;
}

/* Positions [from, n_pos) move down by `by` in all layers of a kind; pages are owned already. */
static void move_down(td_kv *kv, uint32_t slot, int kind, uint32_t from, uint32_t by) {
    const kv_slot *s = &kv->slot[slot];
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        const kv_layer *l = &kv->layer[i];
        if (l->kind != kind) continue;
        float cos_sin[TD_ATTN_D_MAX];
        for (uint32_t k = 0; k < l->shape.d_head / 2; k++) {
            double angle = -(double)by * (double)l->inv_freq[k];
            cos_sin[2 * k] = (float)cos(angle);
            cos_sin[2 * k + 1] = (float)sin(angle);
        }
        for (uint32_t p = from; p < s->n_pos; p++) {
            uint32_t to = p - by;
            td_attn_move(&l->shape, td_kv_page(kv, i, s->table[kind].page[to / TD_ATTN_PAGE]), to % TD_ATTN_PAGE,
                         td_kv_page(kv, i, s->table[kind].page[p / TD_ATTN_PAGE]), p % TD_ATTN_PAGE, cos_sin);
        }
    }
}

/* Owns the pages that moved positions land in. */
static bool own_targets(td_kv *kv, uint32_t slot, int kind, uint32_t lo, uint32_t n) {
    for (uint32_t at = lo / TD_ATTN_PAGE; n > lo && at <= (n - 1) / TD_ATTN_PAGE; at++) {
        if (!td_kv_own_page(kv, slot, kind, at)) return false;
    }
    return true;
}

td_status td_kv_discard(td_kv *kv, uint32_t slot, uint32_t begin, uint32_t end, td_error *err) {
    kv_slot *s = &kv->slot[slot];
    if (begin > end || end > s->n_pos)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "positions %u to %u of %u cannot be removed", begin, end,
                       s->n_pos);
    if (!td_kv_can_discard(kv, slot, begin, end))
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "positions %u to %u cannot be removed: sliding layers hold %u to %u only", begin, end, s->lo,
                       s->n_pos);
    uint32_t by = end - begin, n = s->n_pos - by;
    if (by == 0) return TD_OK;
    td_kv_drop_checkpoints(kv, slot, begin);
    uint32_t from = s->lo > end ? s->lo : end; /* first position that moves in sliding layers */
    uint32_t lo = s->lo <= begin ? s->lo : from - by;
    if ((kv->pool[FULL].n_layer && !own_targets(kv, slot, FULL, begin, n)) ||
        (kv->pool[SLIDING].n_layer && !own_targets(kv, slot, SLIDING, from - by, n)))
        goto full;
    for (int kind = 0; kind < KINDS; kind++) {
        if (!kv->pool[kind].n_layer) continue;
        move_down(kv, slot, kind, kind == FULL ? end : from, by);
        td_kv_release_range(kv, slot, kind, (n + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE, kv->ctx_pages);
    }
    s->n_pos = n;
    s->lo = kv->windowed ? lo : 0;
    if (n == 0) s->lo = 0;
    return TD_OK;
full:
    td_kv_release_range(kv, slot, SLIDING, 0, s->lo / TD_ATTN_PAGE);
    return td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "the cache is full: no page to move positions to");
}

/* --- flat blocks -------------------------------------------------------------------------------------------------- */

#define STATE_MAGIC   0x31564b54u /* "TKV1" */
#define STATE_VERSION 1u

typedef struct state_header {
    uint32_t magic, version, n_layer, n_pos, lo, full_pages, sliding_first, sliding_pages;
} state_header;

/* One number for what must be equal to read a page: kinds, types, sizes. */
static uint32_t shape_sum(const td_kv *kv) {
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        const td_attn_shape *s = &kv->layer[i].shape;
        uint32_t part[] = {(uint32_t)kv->layer[i].kind,
                           (uint32_t)s->type_k,
                           (uint32_t)s->type_v,
                           s->n_kv,
                           s->d_head,
                           s->d_key,
                           kv->opt.window};
        for (size_t k = 0; k < sizeof part / sizeof *part; k++) h = (h ^ part[k]) * 16777619u;
    }
    return h;
}

static state_header header_of(const td_kv *kv, uint32_t slot) {
    const kv_slot *s = &kv->slot[slot];
    uint32_t end = (s->n_pos + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE;
    state_header h = {.magic = STATE_MAGIC, .version = STATE_VERSION, .n_layer = kv->n_layer, .n_pos = s->n_pos};
    h.lo = s->lo;
    h.full_pages = kv->pool[FULL].n_layer ? end : 0;
    h.sliding_first = kv->pool[SLIDING].n_layer ? s->lo / TD_ATTN_PAGE : 0;
    h.sliding_pages = kv->pool[SLIDING].n_layer ? end - h.sliding_first : 0;
    return h;
}

uint64_t td_kv_save_bytes(const td_kv *kv, uint32_t slot) {
    state_header h = header_of(kv, slot);
    uint64_t n = sizeof h + sizeof(uint32_t);
    for (uint32_t i = 0; i < kv->n_layer; i++)
        n += (uint64_t)kv->layer[i].shape.page_bytes * (kv->layer[i].kind == FULL ? h.full_pages : h.sliding_pages);
    return n;
}

void td_kv_save(const td_kv *kv, uint32_t slot, void *out) {
    state_header h = header_of(kv, slot);
    uint32_t sum = shape_sum(kv);
    uint8_t *to = out;
    memcpy(to, &h, sizeof h);
    memcpy(to + sizeof h, &sum, sizeof sum);
    to += sizeof h + sizeof sum;
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        const kv_layer *l = &kv->layer[i];
        uint32_t first = l->kind == FULL ? 0 : h.sliding_first, n = l->kind == FULL ? h.full_pages : h.sliding_pages;
        for (uint32_t at = first; at < first + n; at++, to += l->shape.page_bytes) {
            memcpy(to, td_kv_page(kv, i, kv->slot[slot].table[l->kind].page[at]), l->shape.page_bytes);
            /* Places outside the slot's positions may hold what another slot left there. */
            static const float zero[TD_ATTN_D_MAX];
            for (uint32_t p = at * TD_ATTN_PAGE; p < (at + 1) * TD_ATTN_PAGE; p++) {
                if (p < h.n_pos && (l->kind == FULL || p >= h.lo)) continue;
                td_attn_shape one = l->shape;
                one.n_kv = 1;
                for (uint32_t k = 0; k < l->shape.n_kv; k++)
                    td_attn_store(&one, to + k * one.head_bytes, p % TD_ATTN_PAGE, zero, zero);
            }
        }
    }
}

static td_status check_header(const td_kv *kv, const state_header *h, uint32_t sum, td_error *err) {
    if (h->magic != STATE_MAGIC || h->version != STATE_VERSION)
        return td_fail(err, TD_ERR_FORMAT, 0, "saved cache: not of this version");
    if (h->n_layer != kv->n_layer || sum != shape_sum(kv))
        return td_fail(err, TD_ERR_MISMATCH, 0, "saved cache: made by another model or with other cache types");
    uint32_t end = h->n_pos <= kv->opt.n_ctx ? (h->n_pos + TD_ATTN_PAGE - 1) / TD_ATTN_PAGE : 0;
    if (h->n_pos > kv->opt.n_ctx)
        return td_fail(err, TD_ERR_CONTEXT, 0, "saved cache: %u positions, the context holds %u", h->n_pos,
                       kv->opt.n_ctx);
    bool sliding = kv->pool[SLIDING].n_layer > 0, full = kv->pool[FULL].n_layer > 0;
    if (h->lo > h->n_pos || (kv->windowed && h->lo > td_kv_window_lo(kv, h->n_pos)) || (!kv->windowed && h->lo > 0) ||
        h->full_pages != (full ? end : 0) || h->sliding_first != (sliding ? h->lo / TD_ATTN_PAGE : 0) ||
        h->sliding_pages != (sliding ? end - h->sliding_first : 0))
        return td_fail(err, TD_ERR_FORMAT, 0, "saved cache: its header contradicts itself");
    return TD_OK;
}

static bool own_range(td_kv *kv, uint32_t slot, int kind, uint32_t first, uint32_t n) {
    for (uint32_t at = first; at < first + n; at++) {
        if (!td_kv_own_page(kv, slot, kind, at)) return false;
    }
    return true;
}

td_status td_kv_restore(td_kv *kv, uint32_t slot, const void *data, uint64_t n_bytes, td_error *err) {
    td_kv_truncate(kv, slot, 0);
    if (n_bytes > SIZE_MAX) return td_fail(err, TD_ERR_LIMIT, 0, "saved cache: too large");
    td_cursor c = td_cursor_make(data, (size_t)n_bytes, 0);
    state_header h;
    td_slice head, pages;
    uint32_t sum = 0;
    if (!td_cursor_bytes(&c, sizeof h, &head) || !td_cursor_u32(&c, &sum))
        return td_fail(err, TD_ERR_FORMAT, 0, "saved cache: cut off in its header");
    memcpy(&h, head.data, sizeof h);
    td_status status = check_header(kv, &h, sum, err);
    if (status) return status;
    if (h.sliding_pages > kv->slot_pages || !own_range(kv, slot, FULL, 0, h.full_pages) ||
        !own_range(kv, slot, SLIDING, h.sliding_first, h.sliding_pages)) {
        status = td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "saved cache: no free pages for %u positions", h.n_pos);
        goto fail;
    }
    for (uint32_t i = 0; i < kv->n_layer; i++) {
        const kv_layer *l = &kv->layer[i];
        uint32_t first = l->kind == FULL ? 0 : h.sliding_first, n = l->kind == FULL ? h.full_pages : h.sliding_pages;
        for (uint32_t at = first; at < first + n; at++) {
            if (!td_cursor_bytes(&c, l->shape.page_bytes, &pages)) {
                status = td_fail(err, TD_ERR_FORMAT, td_cursor_offset(&c), "saved cache: cut off in layer %u", i);
                goto fail;
            }
            memcpy(td_kv_page(kv, i, kv->slot[slot].table[l->kind].page[at]), pages.data, pages.n_bytes);
        }
    }
    if (td_cursor_left(&c) != 0) {
        status =
            td_fail(err, TD_ERR_FORMAT, td_cursor_offset(&c), "saved cache: %zu bytes too many", td_cursor_left(&c));
        goto fail;
    }
    kv->slot[slot].n_pos = h.n_pos;
    kv->slot[slot].lo = h.lo;
    return TD_OK;
fail:
    td_kv_release_range(kv, slot, FULL, 0, kv->ctx_pages);
    td_kv_release_range(kv, slot, SLIDING, 0, kv->ctx_pages);
    kv->slot[slot].n_pos = kv->slot[slot].lo = 0;
    return status;
}
