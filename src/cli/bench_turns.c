#include "bench_turns.h"

void bench_turns_init(bench_turns *t, int n) {
    *t = (bench_turns){.n = n};
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
}

void bench_turns_destroy(bench_turns *t) {
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
}

/* Under the lock: to the next that has not left, which is the same one again where it is the last. */
static void go_on(bench_turns *t) {
    for (int i = 1; i <= t->n; i++) {
        int next = (t->at + i) % t->n;
        if (t->left[next]) continue;
        t->at = next;
        break;
    }
    pthread_cond_broadcast(&t->changed);
}

static void await(bench_turns *t, int i) {
    while (t->at != i) pthread_cond_wait(&t->changed, &t->lock);
}

void bench_turns_wait(bench_turns *t, int i) {
    pthread_mutex_lock(&t->lock);
    await(t, i);
    pthread_mutex_unlock(&t->lock);
}

void bench_turns_pass(bench_turns *t, int i) {
    pthread_mutex_lock(&t->lock);
    go_on(t);
    await(t, i);
    pthread_mutex_unlock(&t->lock);
}

void bench_turns_leave(bench_turns *t, int i) {
    pthread_mutex_lock(&t->lock);
    t->left[i] = true;
    if (t->at == i) go_on(t);
    pthread_mutex_unlock(&t->lock);
}
