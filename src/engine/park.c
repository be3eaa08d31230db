#include "park.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#define LEAST_TOKENS 64 /* a page: less is read again faster than it is looked after */

bool td_park_create(td_engine *e, uint32_t first, int n, uint64_t n_bytes) {
    e->parked = td_calloc((size_t)n + 1, sizeof *e->parked);
    if (!e->parked) return false;
    e->n_parked = n;
    e->park_limit = n_bytes;
    for (int i = 0; i < n; i++) e->parked[i].kv_slot = first + (uint32_t)i;
    return true;
}

static void drop(td_engine *e, td_parked *p) {
    td_async_drain(e);
    if (e->kv) td_kv_clear(e->kv, p->kv_slot);
    free(p->tokens);
    free(p->cache_key);
    *p = (td_parked){.kv_slot = p->kv_slot};
}

void td_park_destroy(td_engine *e) {
    for (int i = 0; i < e->n_parked; i++) drop(e, &e->parked[i]);
    free(e->parked);
    e->parked = NULL;
    e->n_parked = 0;
}

bool td_park_drop_oldest(td_engine *e, const td_parked *spare) {
    td_parked *oldest = NULL;
    for (int i = 0; i < e->n_parked; i++) {
        td_parked *p = &e->parked[i];
        if (p->tokens && p != spare && (!oldest || p->t_used_ns < oldest->t_used_ns)) oldest = p;
    }
    if (oldest) drop(e, oldest);
    return oldest != NULL;
}

static uint64_t bytes_in_use(const td_engine *e) {
    uint64_t n = 0;
    for (int i = 0; i < e->n_parked; i++) n += e->parked[i].n_bytes;
    return n;
}

static td_parked *free_entry(td_engine *e) {
    for (int i = 0; i < e->n_parked; i++)
        if (!e->parked[i].tokens) return &e->parked[i];
    return NULL;
}

static bool begins_with(const uint32_t *a, int n_a, const uint32_t *b, int n_b) {
    return n_a >= n_b && memcmp(a, b, (size_t)n_b * sizeof *b) == 0;
}

/* Entries that the slot's conversation goes on from are no longer needed. True: one holds all of it already. */
static bool already_there(td_engine *e, const td_slot *s, const td_parked *spare) {
    for (int i = 0; i < e->n_parked; i++) {
        td_parked *p = &e->parked[i];
        if (!p->tokens || !td_slot_same_key(p->cache_key, s->cache_key)) continue;
        if (begins_with(p->tokens, p->n_tokens, s->tokens, s->n_tokens)) {
            p->t_used_ns = td_clock_ns();
            return true;
        }
        if (p != spare && begins_with(s->tokens, s->n_tokens, p->tokens, p->n_tokens)) drop(e, p);
    }
    return false;
}

td_parked *td_park(td_engine *e, td_slot *s, const td_parked *spare) {
    uint64_t n_bytes = s->n_tokens >= LEAST_TOKENS ? td_kv_slot_bytes(e->kv, (uint32_t)s->id) : 0;
    uint64_t stays = spare ? spare->n_bytes : 0; /* without this room nothing is won by dropping others */
    if (n_bytes == 0 || n_bytes + stays > e->park_limit || already_there(e, s, spare)) return NULL;
    while (!free_entry(e) || bytes_in_use(e) + n_bytes > e->park_limit)
        if (!td_park_drop_oldest(e, spare)) return NULL;
    td_parked *p = free_entry(e);
    uint32_t *tokens = td_calloc((size_t)s->n_tokens, sizeof *tokens);
    char *key = s->cache_key ? strdup(s->cache_key) : NULL;
    if (!tokens || (s->cache_key && !key)) {
        free(tokens);
        free(key);
        return NULL;
    }
    memcpy(tokens, s->tokens, (size_t)s->n_tokens * sizeof *tokens);
    *p = (td_parked){.kv_slot = p->kv_slot,
                     .tokens = tokens,
                     .n_tokens = s->n_tokens,
                     .cache_key = key,
                     .n_bytes = n_bytes,
                     .t_used_ns = td_clock_ns()};
    td_kv_swap(e->kv, (uint32_t)s->id, p->kv_slot);
    s->n_tokens = s->n_checkpointed = 0;
    s->has_h = false;
    return p;
}

void td_park_count(td_engine *e) {
    e->counters.parked = 0;
    for (int i = 0; i < e->n_parked; i++) e->counters.parked += e->parked[i].tokens != NULL;
    e->counters.parked_bytes = bytes_in_use(e);
}
