/* The prompt cache: conversations whose slot was taken for another one, kept until room is needed.
 *
 * They stay where they are, in host memory: a conversation is parked by exchanging its pages with those of a spare
 * sequence of the cache, and taken up again by sharing pages, checkpoints included. No byte is copied either way, so
 * text cannot depend on it (tests/identity). What the parked ones hold is bounded by td_engine_params.cache_ram. */
#ifndef TD_ENGINE_PARK_H
#define TD_ENGINE_PARK_H

#include <stdbool.h>
#include <stdint.h>

struct td_engine;
struct td_slot;

typedef struct td_parked {
    uint32_t kv_slot; /* the sequence of the cache that holds it */
    uint32_t *tokens; /* [n_tokens]; NULL: free */
    int n_tokens;
    char *cache_key;
    uint64_t n_bytes;
    int64_t t_used_ns;
} td_parked;

/* Makes room for parked conversations of n_bytes in all; `first` is the first spare sequence. */
bool td_park_create(struct td_engine *e, uint32_t first, int n, uint64_t n_bytes);
void td_park_destroy(struct td_engine *e);

/* Moves what the slot holds into the prompt cache and leaves the slot empty; NULL: it was not worth it or there is no
 * room. `spare` is not given up for it. */
td_parked *td_park(struct td_engine *e, struct td_slot *s, const td_parked *spare);
/* Gives up the one that was used longest ago; false: there is none. */
bool td_park_drop_oldest(struct td_engine *e, const td_parked *spare);
void td_park_count(struct td_engine *e); /* into the counters */

#endif
