/* The thread pool: one team that walks a whole step together (single program, many threads).
 *
 * td_pool_run wakes the team once per step; inside, stages are separated by td_pool_barrier, which spins briefly and
 * then sleeps. Work inside a stage is split statically with td_pool_span or claimed in chunks with td_pool_take or
 * td_pool_share, so that a slow or busy core does not hold the step. Which thread computes what never changes a result.
 */
#ifndef TD_BASE_POOL_H
#define TD_BASE_POOL_H

#include "status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct td_pool td_pool;
typedef void (*td_pool_fn)(void *arg, int ith, int nth);

typedef struct td_pool_options {
    int n_threads;    /* 0: td_cpu_default_threads() */
    bool pin;         /* pin thread i to the i-th allowed core */
    uint32_t spin_ns; /* how long a barrier spins before it sleeps; 0: default */
} td_pool_options;

td_status td_pool_create(td_pool **out, const td_pool_options *options, td_error *err);
void td_pool_destroy(td_pool *p);
int td_pool_size(const td_pool *p);

/* Runs fn(arg, ith, nth) on all threads, the caller being thread 0; returns when all have returned. Not reentrant. */
void td_pool_run(td_pool *p, td_pool_fn fn, void *arg);

/* Only inside td_pool_run, by every thread. The next stage begins: all work can be claimed anew. */
void td_pool_barrier(td_pool *p, int ith);

/* Claims the next chunk of [0, n) of at most `grain` items within the current stage; false when all are taken. */
bool td_pool_take(td_pool *p, int64_t n, int64_t grain, int64_t *begin, int64_t *end);

/* Claims a run of [0, n) within the current stage, in whole `unit`s; n < 2^31. Each thread has a contiguous part, which
 * it takes in quarters of what is left, so that it reads memory as one stream; done with it, it helps the others with
 * theirs in the same way: no thread waits long for another, also not for one whose core is slow or busy elsewhere. */
bool td_pool_share(td_pool *p, int ith, int64_t n, int64_t unit, int64_t *begin, int64_t *end);

/* The ith of nth nearly equal parts of [0, n), boundaries rounded to multiples of `unit`. */
static inline void td_pool_span(int64_t n, int64_t unit, int ith, int nth, int64_t *begin, int64_t *end) {
    int64_t units = (n + unit - 1) / unit;
    int64_t b = units * ith / nth * unit, e = units * (ith + 1) / nth * unit;
    *begin = b < n ? b : n;
    *end = e < n ? e : n;
}

uint64_t td_pool_barriers(const td_pool *p); /* barriers passed since creation, for `tandem bench --stages` */

#endif
