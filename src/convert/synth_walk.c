/* The walk pi and the tokens after which the assistant errs.
 *
 * pi is one cycle over all ordinary tokens in random order, so that generation never repeats or ends. The wrong ones
 * are spread along it so that the measured acceptance is the chosen one within a few drafts per thousand, for every
 * draft depth: while walking, the loop of speculation is followed for several depths at once (which drafts are looked
 * at depends on the depth), and the chance of the next mistake leans against the deviation seen so far. */
#include "synth_parts.h"

#include "../base/checked.h"

#include <stdlib.h>
#include <string.h>

enum { OFF_WALK = 600, N_DEPTHS = 8 };

bool td_synth_off_walk(uint64_t id) {
    return id < OFF_WALK || (id >= 255999 && id <= 256000) || (id >= 258880 && id <= 258884);
}

void td_walk_free(td_walk *w) {
    free(w->order);
    free(w->alias);
    free(w->target_row);
    free(w->draft_row);
    memset(w, 0, sizeof *w);
}

static bool allocate(td_walk *w) {
    w->order = td_calloc(w->n_vocab, sizeof *w->order);
    w->alias = td_calloc(w->n_vocab, sizeof *w->alias);
    w->target_row = td_calloc(w->n_vocab, sizeof *w->target_row);
    w->draft_row = td_calloc(w->n_vocab, sizeof *w->draft_row);
    return w->order && w->alias && w->target_row && w->draft_row;
}

/* One loop of speculation at a fixed depth, followed along the walk. */
typedef struct follower {
    uint32_t depth, run; /* drafts accepted in this round */
    double deviation;    /* mistakes seen minus mistakes due */
} follower;

static bool looks(const follower *f) {
    return f->run < f->depth;
}

static void step(follower *f, bool wrong, double share) {
    if (!looks(f)) { /* all accepted: this token came from the target itself */
        f->run = 0;
        return;
    }
    f->deviation += (wrong ? 1.0 : 0.0) - share;
    f->run = wrong ? 0 : f->run + 1;
}

/* Marks the tokens order[i] after which the draft is wrong. */
static uint32_t mark_wrong(const td_walk *w, double share, td_rng *r, uint8_t *wrong) {
    follower f[N_DEPTHS];
    uint32_t n_wrong = 0;
    for (uint32_t d = 0; d < N_DEPTHS; d++) f[d] = (follower){d + 1, 0, 0};
    for (uint32_t i = 0; i < w->n; i++) {
        double lean = 0;
        int n = 0;
        for (int d = 0; d < N_DEPTHS; d++) {
            if (!looks(&f[d])) continue;
            lean += f[d].deviation;
            n++;
        }
        double p = share;
        if (share > 0 && share < 1 && n > 0) p -= 0.15 * lean / n;
        wrong[i] = share >= 1 || (share > 0 && td_rng_unit(r) < p);
        n_wrong += wrong[i];
        for (int d = 0; d < N_DEPTHS; d++) step(&f[d], wrong[i], share);
    }
    return n_wrong;
}

/* Among the wrong tokens, each gets the assistant's row of the one before. */
static void exchange_rows(td_walk *w, const uint8_t *wrong) {
    uint32_t last = TD_NO_TOKEN;
    for (uint32_t i = w->n; i-- > 0 && last == TD_NO_TOKEN;) {
        if (wrong[i]) last = w->order[i];
    }
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t next = w->order[(i + 1) % w->n];
        w->draft_row[next] = w->order[i];
        if (!wrong[i]) continue;
        w->draft_row[next] = w->n_wrong > 1 ? last : TD_NO_TOKEN;
        last = w->order[i];
    }
}

td_status td_walk_make(td_walk *w, uint64_t n_vocab, uint64_t seed, double accept, td_error *err) {
    memset(w, 0, sizeof *w);
    w->n_vocab = n_vocab;
    w->first = OFF_WALK;
    uint8_t *wrong = NULL;
    td_status status = TD_OK;
    td_rng r;
    td_rng_seed(&r, td_rng_mix(seed, 0x77616c6b));
    if (!allocate(w) || !(wrong = td_calloc(n_vocab, 1))) {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a walk over %llu tokens",
                         (unsigned long long)n_vocab);
        goto done;
    }
    for (uint64_t t = 0; t < n_vocab; t++) {
        if (!td_synth_off_walk(t)) w->order[w->n++] = (uint32_t)t;
        w->alias[t] = (uint32_t)t;
        w->target_row[t] = w->draft_row[t] = TD_NO_TOKEN;
    }
    if (w->n < 2) {
        status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                         "a vocabulary of %llu leaves no tokens to generate (%d are "
                         "special)",
                         (unsigned long long)n_vocab, OFF_WALK);
        goto done;
    }
    for (uint32_t i = w->n - 1; i > 0; i--) {
        uint32_t j = (uint32_t)td_rng_below(&r, i + 1u), t = w->order[i];
        w->order[i] = w->order[j];
        w->order[j] = t;
    }
    for (uint64_t t = 0; t < n_vocab; t++) {
        if (td_synth_off_walk(t)) w->alias[t] = w->order[td_rng_below(&r, w->n)];
    }
    for (uint32_t i = 0; i < w->n; i++) w->target_row[w->order[(i + 1) % w->n]] = w->order[i];
    w->n_wrong = mark_wrong(w, 1 - accept, &r, wrong);
    exchange_rows(w, wrong);
done:
    free(wrong);
    if (status != TD_OK) td_walk_free(w);
    return status;
}
