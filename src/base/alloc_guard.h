/* A step allocates nothing: in every build but the shipped one, an allocation between enter and leave on the same
 * thread is counted, and tests/identity and the engine's tests demand that the count stays 0.
 *
 * Each thread of a step enters for itself (td_pool_run does not do it: loading runs on the pool too). */
#ifndef TD_BASE_ALLOC_GUARD_H
#define TD_BASE_ALLOC_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#ifdef TD_ALLOC_GUARD
void td_alloc_guard_enter(void);
void td_alloc_guard_leave(void);
uint64_t td_alloc_guard_hits(void); /* allocations seen inside guards since the program began */
bool td_alloc_guard_active(void);   /* false where the allocator cannot be watched (sanitizers, other C libraries) */
#else
static inline void td_alloc_guard_enter(void) {}
static inline void td_alloc_guard_leave(void) {}
static inline uint64_t td_alloc_guard_hits(void) {
    return 0;
}
static inline bool td_alloc_guard_active(void) {
    return false;
}
#endif

#endif
