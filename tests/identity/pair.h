/* What the tests of whole answers share: a synthetic pair made for the run, an engine on it, and an answer as one
 * value that can be compared with another. */
#ifndef TD_TESTS_IDENTITY_PAIR_H
#define TD_TESTS_IDENTITY_PAIR_H

#include "../../include/tandem.h"

#include <stddef.h>
#include <stdint.h>

typedef struct pair { /* files of `tandem synth tiny` in a folder of their own */
    char folder[256], target[512], ordered[512], dense[512];
} pair;

/* A target and both kinds of assistant, right on a share `accept` of tokens. Fails the test when it cannot. */
void pair_make(pair *p, int n_vocab, double accept);
void pair_remove(const pair *p);

typedef struct pair_engine { /* what is not set keeps the engine's default */
    const char *target, *draft;
    td_engine *weights_of;
    int threads, batch, slots, n_ctx;
    td_cache_type type;
    bool shift;
    const char *trace;
} pair_engine;

/* Every source of drafts is on, up to eight a round. */
td_engine *pair_open(pair_engine c);

enum { ANSWER_IDS = 512, ANSWER_TEXT = 4096 };
typedef struct answer {
    uint32_t ids[ANSWER_IDS];
    uint8_t drafted[ANSWER_IDS];
    int n;
    char text[ANSWER_TEXT];
    size_t n_text;
    td_finish finish;
    char stop[64];
    bool truncated;
    int draft_n, accepted, rounds, reused;
} answer;

/* Reads a job to its end and closes it; an error of the engine fails the test. */
void answer_read(td_job *j, answer *out);
/* The same tokens, text, end and stop string; else the test fails and names `what` and `number`. */
void answer_same(const answer *a, const answer *b, const char *what, int number);

#endif
