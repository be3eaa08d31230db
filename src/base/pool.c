/* The thread pool. Three words carry the team: `start` counts runs, `phase` counts stages, `running` counts the
 * workers still inside a run. A thread that waits for a word to change spins for a while, because the stages of a step
 * are microseconds apart, and then sleeps on it with a futex, because a server may be idle for hours.
 *
 * Lost wake-ups: a sleeper first adds itself to the word's count of sleepers and then sleeps only if the word still has
 * the old value; a waker first changes the word and then looks at the count. Both orders are sequentially consistent,
 * so one of the two sees the other. tests/base/test_pool.c hammers this under ThreadSanitizer. */
#define _GNU_SOURCE
#include "pool.h"

#include "checked.h"
#include "clock.h"
#include "cpu.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Longer than the gap between two stages, far shorter than what a person or another process would notice. */
enum { SPIN_NS = 50000, MAX_THREADS = 1024 };

/* Each word has a cache line of its own (two, for the pair prefetcher): waiters read it without disturbing others. */
typedef struct wait_word {
    _Alignas(128) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} wait_word;

typedef struct worker {
    td_pool *pool;
    pthread_t thread;
    int ith;
    _Alignas(128) _Atomic uint64_t shared; /* phase << 32 | items taken of this thread's part of the stage */
} worker;

struct td_pool {
    wait_word start, phase, running;
    _Alignas(128) _Atomic uint32_t arrived;
    _Alignas(128) _Atomic int64_t taken;
    _Alignas(128) td_pool_fn fn;
    void *arg;
    bool stop;
    int n_threads;
    uint32_t spin_ns;
    worker *workers; /* [n_threads], the first is the caller and has no thread */
    int n_started;
    uint64_t n_barriers; /* written by the last to arrive, inside the barrier */
};

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t old) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Returns when the word no longer has the value `old`. */
static void wait_change(wait_word *w, uint32_t old, uint32_t spin_ns) {
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&w->value, memory_order_acquire) != old) return;
            cpu_relax();
        }
        int64_t now = td_clock_ns();
        if (end == 0) end = now + spin_ns;
        if (now >= end) break;
    }
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == old) futex_wait(&w->value, old);
    atomic_fetch_sub(&w->sleepers, 1);
}

static void wake_changed(wait_word *w) {
    if (atomic_load(&w->sleepers) != 0) futex_wake_all(&w->value);
}

static void *worker_main(void *arg) {
    worker *me = arg;
    td_pool *p = me->pool;
    for (uint32_t seen = 0;; seen++) {
        wait_change(&p->start, seen, p->spin_ns);
        if (p->stop) return NULL;
        p->fn(p->arg, me->ith, p->n_threads);
        if (atomic_fetch_sub(&p->running.value, 1) == 1) wake_changed(&p->running);
    }
}

/* Worker i runs on the i-th allowed processor. The caller's thread is not ours to pin. */
static void pin_worker(const worker *w) {
    cpu_set_t allowed, one;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0) return;
    int skip = w->ith % CPU_COUNT(&allowed);
    for (size_t i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &allowed) || skip-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        (void)pthread_setaffinity_np(w->thread, sizeof one, &one);
        return;
    }
}

static int allowed_processors(void) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

td_status td_pool_create(td_pool **out, const td_pool_options *options, td_error *err) {
    *out = NULL;
    int n = options->n_threads > 0 ? options->n_threads : td_cpu_default_threads();
    if (n > MAX_THREADS)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%d threads asked for, at most %d are possible", n,
                       MAX_THREADS);
    td_pool *p = NULL;
    if (posix_memalign((void **)&p, 128, sizeof *p) != 0) return td_fail_errno(err, ENOMEM, "thread pool");
    *p = (td_pool){.n_threads = n, .spin_ns = options->spin_ns != 0 ? options->spin_ns : SPIN_NS, .n_started = 1};
    /* With more threads than processors a spinning thread holds up the one it waits for. */
    if (n > allowed_processors()) p->spin_ns = 0;
    if (posix_memalign((void **)&p->workers, 128, (size_t)n * sizeof *p->workers) != 0) {
        free(p);
        return td_fail_errno(err, ENOMEM, "thread pool");
    }
    for (int i = 0; i < n; i++) p->workers[i] = (worker){.pool = p, .ith = i};
    for (int i = 1; i < n; i++) {
        int code = pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]);
        if (code != 0) {
            td_pool_destroy(p);
            return td_fail_errno(err, code, "starting thread %d of %d", i + 1, n);
        }
        p->n_started++;
        if (options->pin) pin_worker(&p->workers[i]);
    }
    *out = p;
    return TD_OK;
}

void td_pool_destroy(td_pool *p) {
    if (p == NULL) return;
    p->stop = true;
    atomic_fetch_add(&p->start.value, 1);
    wake_changed(&p->start);
    for (int i = 1; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
}

int td_pool_size(const td_pool *p) {
    return p->n_threads;
}

/* By one thread, while no other is inside a stage: everything is there to be taken again. */
static void begin_stage(td_pool *p) {
    atomic_store_explicit(&p->taken, 0, memory_order_relaxed);
    atomic_fetch_add(&p->phase.value, 1);
}

void td_pool_run(td_pool *p, td_pool_fn fn, void *arg) {
    begin_stage(p);
    if (p->n_threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->running.value, (uint32_t)p->n_threads - 1);
    atomic_fetch_add(&p->start.value, 1);
    wake_changed(&p->start);
    fn(arg, 0, p->n_threads);
    for (uint32_t left; (left = atomic_load(&p->running.value)) != 0;) wait_change(&p->running, left, p->spin_ns);
}

void td_pool_barrier(td_pool *p, int ith) {
    (void)ith;
    if (p->n_threads == 1) {
        begin_stage(p);
        p->n_barriers++;
        return;
    }
    uint32_t phase = atomic_load_explicit(&p->phase.value, memory_order_acquire);
    if (atomic_fetch_add(&p->arrived, 1) + 1 < (uint32_t)p->n_threads) {
        wait_change(&p->phase, phase, p->spin_ns);
        return;
    }
    atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
    p->n_barriers++;
    begin_stage(p);
    wake_changed(&p->phase);
}

bool td_pool_take(td_pool *p, int64_t n, int64_t grain, int64_t *begin, int64_t *end) {
    /* The check first keeps the counter from growing while threads poll a finished stage. */
    if (atomic_load_explicit(&p->taken, memory_order_relaxed) >= n) return false;
    int64_t b = atomic_fetch_add_explicit(&p->taken, grain, memory_order_relaxed);
    if (b >= n) return false;
    *begin = b;
    *end = n - b < grain ? n : b + grain;
    return true;
}

/* Takes a quarter of what is left of the `n` items of thread `of`, in whole units. A word of an earlier phase says that
 * none is taken yet, so that no one has to reset the words between stages. */
static bool take_part(td_pool *p, int of, int64_t n, int64_t unit, int64_t *begin, int64_t *end) {
    _Atomic uint64_t *word = &p->workers[of].shared;
    uint64_t phase = atomic_load_explicit(&p->phase.value, memory_order_relaxed),
             old = atomic_load_explicit(word, memory_order_relaxed);
    int64_t taken = 0, size = 0;
    do {
        taken = old >> 32 == phase ? (int64_t)(uint32_t)old : 0;
        if (taken >= n) return false;
        size = p->n_threads == 1 ? n : (n - taken) / 4 / unit * unit;
        if (size < unit) size = unit;
        if (size > n - taken) size = n - taken;
    } while (!atomic_compare_exchange_weak_explicit(word, &old, phase << 32 | (uint64_t)(taken + size),
                                                    memory_order_relaxed, memory_order_relaxed));
    *begin = taken;
    *end = taken + size;
    return true;
}

bool td_pool_share(td_pool *p, int ith, int64_t n, int64_t unit, int64_t *begin, int64_t *end) {
    for (int i = 0; i < p->n_threads; i++) {
        int of = ith + i < p->n_threads ? ith + i : ith + i - p->n_threads;
        int64_t b, e;
        td_pool_span(n, unit, of, p->n_threads, &b, &e);
        if (!take_part(p, of, e - b, unit, begin, end)) continue;
        *begin += b;
        *end += b;
        return true;
    }
    return false;
}

uint64_t td_pool_barriers(const td_pool *p) {
    return p->n_barriers;
}
