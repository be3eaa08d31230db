#include "ngram.h"

#include <stddef.h>

#define LONG_MATCH 64 /* a match this long cannot be improved on */

int td_ngram_draft(const uint32_t *tokens, int n, int n_match, uint32_t *out, int cap, int *match_length) {
    if (match_length) *match_length = 0;
    if (n_match < 1 || n <= n_match || cap <= 0) return 0;
    uint32_t last = tokens[n - 1];
    int best = n_match - 1, at = -1; /* at: index after the match */
    for (int i = n - 2; i >= n_match - 1; i--) {
        if (tokens[i] != last) continue;
        int k = 1;
        while (k <= i && k < LONG_MATCH && tokens[i - k] == tokens[n - 1 - k]) k++;
        if (k > best) {
            best = k;
            at = i + 1;
            if (k >= LONG_MATCH) break;
        }
    }
    if (at < 0) return 0;
    int m = 0;
    /* The continuation may run into the suffix itself: a repetition goes on repeating. */
    for (; m < cap; m++) out[m] = at + m < n ? tokens[at + m] : out[at + m - n];
    if (match_length) *match_length = best;
    return m;
}
