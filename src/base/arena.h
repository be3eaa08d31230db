/* Bump allocation with one owner and one end: memory of a request or of a loaded description, freed all at once. */
#ifndef TD_BASE_ARENA_H
#define TD_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct td_arena td_arena;

/* `limit` bytes at most (0: none). NULL when there is no memory. */
td_arena *td_arena_create(size_t limit);
void td_arena_destroy(td_arena *a);
void td_arena_reset(td_arena *a); /* keeps the first block for reuse */
/* Zeroed, aligned to 16; NULL on overflow, at the limit, or without memory. */
void *td_arena_alloc(td_arena *a, size_t n, size_t size);
char *td_arena_strndup(td_arena *a, const char *s, size_t n_bytes);
size_t td_arena_used(const td_arena *a);

#endif
