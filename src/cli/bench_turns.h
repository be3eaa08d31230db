/* Turns of threads that measure one after the other, round and round: only one of them runs at a time. */
#ifndef TD_CLI_BENCH_TURNS_H
#define TD_CLI_BENCH_TURNS_H

#include <pthread.h>
#include <stdbool.h>

enum { BENCH_MAX_TURNS = 64 };

typedef struct bench_turns {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n, at; /* who takes part; whose turn it is */
    bool left[BENCH_MAX_TURNS];
} bench_turns;

void bench_turns_init(bench_turns *t, int n); /* 0 has the first turn */
void bench_turns_destroy(bench_turns *t);
void bench_turns_wait(bench_turns *t, int i);  /* for the turn of `i` */
void bench_turns_pass(bench_turns *t, int i);  /* to the next; returns when it comes back to `i` */
void bench_turns_leave(bench_turns *t, int i); /* for good, with or without the turn */

#endif
