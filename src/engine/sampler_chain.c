/* Truncation and temperature on candidate lists. Lists are large (a whole vocabulary) only until the first truncation,
 * so order is made lazily: a link asks for as many sorted candidates as it needs. */
#include "sampler_chain.h"

#include <math.h>
#include <stdlib.h>

static bool before(const td_cand *a, const td_cand *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(td_cand *a, td_cand *b) {
    td_cand t = *a;
    *a = *b;
    *b = t;
}

/* Quickselect: afterwards the k first of [0, n) are the k that come before all others, unordered. */
static void select_first(td_cand *c, int n, int k) {
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (before(&c[mid], &c[lo])) swap(&c[mid], &c[lo]);
        if (before(&c[hi], &c[lo])) swap(&c[hi], &c[lo]);
        if (before(&c[hi], &c[mid])) swap(&c[hi], &c[mid]);
        td_cand pivot = c[mid];
        int i = lo, j = hi;
        while (i <= j) {
            while (before(&c[i], &pivot)) i++;
            while (before(&pivot, &c[j])) j--;
            if (i <= j) swap(&c[i++], &c[j--]);
        }
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            return;
    }
}

static int compare(const void *a, const void *b) {
    const td_cand *x = a, *y = b;
    return before(x, y) ? -1 : before(y, x) ? 1 : 0;
}

void td_cands_sort(td_cands *c, int n) {
    if (n > c->n) n = c->n;
    if (n <= c->n_sorted) return;
    if (n < c->n) select_first(c->at, c->n, n);
    qsort(c->at, (size_t)n, sizeof *c->at, compare);
    c->n_sorted = n;
}

static float max_logit(const td_cands *c) {
    if (c->n_sorted > 0) return c->at[0].logit;
    float m = c->at[0].logit;
    for (int i = 1; i < c->n; i++) m = c->at[i].logit > m ? c->at[i].logit : m;
    return m;
}

void td_cands_softmax(td_cands *c) {
    float m = max_logit(c);
    double sum = 0;
    for (int i = 0; i < c->n; i++) {
        c->at[i].p = m == -INFINITY ? 1.0f : expf(c->at[i].logit - m);
        sum += (double)c->at[i].p;
    }
    for (int i = 0; i < c->n; i++) c->at[i].p = (float)((double)c->at[i].p / sum);
}

static int at_least(int n, int min_keep) {
    return n < min_keep ? min_keep : n < 1 ? 1 : n;
}

static void cut(td_cands *c, int n) {
    if (n < c->n) c->n = n;
    if (c->n_sorted > c->n) c->n_sorted = c->n;
}

void td_chain_top_k(td_cands *c, int k, int min_keep) {
    if (k <= 0) return;
    k = at_least(k, min_keep);
    if (k >= c->n) return;
    td_cands_sort(c, k);
    cut(c, k);
}

void td_chain_top_p(td_cands *c, float p, int min_keep) {
    if (p >= 1.0f) return;
    td_cands_softmax(c);
    double sum = 0;
    int i = 0;
    /* Sorted in growing steps: the nucleus is usually a few hundred of 262,144. */
    for (int sorted = 0; i < c->n; i++) {
        if (i >= sorted) {
            sorted = sorted ? sorted * 8 : 128;
            td_cands_sort(c, sorted);
        }
        sum += (double)c->at[i].p;
        if (sum >= (double)p && i + 1 >= at_least(0, min_keep)) {
            i++;
            break;
        }
    }
    cut(c, i);
}

/* Candidates below a logit go; the others keep their order. */
static void drop_below(td_cands *c, float floor) {
    int k = 0, sorted = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->at[i].logit < floor) continue;
        if (i < c->n_sorted) sorted++;
        c->at[k++] = c->at[i];
    }
    c->n = k;
    c->n_sorted = sorted;
}

void td_chain_min_p(td_cands *c, float p, int min_keep) {
    if (p <= 0.0f) return;
    float floor = max_logit(c) + logf(p);
    int n = 0;
    for (int i = 0; i < c->n; i++) n += c->at[i].logit >= floor;
    if (n < at_least(0, min_keep)) {
        n = at_least(n, min_keep);
        td_cands_sort(c, n);
        cut(c, n);
        return;
    }
    drop_below(c, floor);
}

typedef struct scored {
    td_cand cand;
    float score;
} scored;

static int compare_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->cand.id < y->cand.id ? -1 : 1;
}

void td_chain_typical(td_cands *c, float p, int min_keep) {
    if (p >= 1.0f) return;
    td_cands_softmax(c);
    double entropy = 0;
    for (int i = 0; i < c->n; i++)
        if (c->at[i].p > 0) entropy -= (double)c->at[i].p * log((double)c->at[i].p);
    scored *s = malloc((size_t)c->n * sizeof *s);
    if (!s) return; /* without memory nothing is truncated: a wider choice, not a failure */
    for (int i = 0; i < c->n; i++) {
        double surprise = c->at[i].p > 0 ? -log((double)c->at[i].p) : 1e30;
        s[i] = (scored){c->at[i], (float)fabs(surprise - entropy)};
    }
    qsort(s, (size_t)c->n, sizeof *s, compare_score);
    double sum = 0;
    int n = 0;
    while (n < c->n) {
        sum += (double)s[n].cand.p;
        n++;
        if (sum > (double)p && n >= at_least(0, min_keep)) break;
    }
    for (int i = 0; i < n; i++) c->at[i] = s[i].cand;
    free(s);
    c->n = n;
    c->n_sorted = 0;
}

void td_chain_top_n_sigma(td_cands *c, float n_sigma) {
    if (n_sigma <= 0 || c->n <= 1) return;
    double sum = 0, squares = 0;
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->at[i].logit == -INFINITY) continue;
        sum += (double)c->at[i].logit;
        n++;
    }
    if (n == 0) return;
    double mean = sum / n;
    for (int i = 0; i < c->n; i++) {
        if (c->at[i].logit == -INFINITY) continue;
        double d = (double)c->at[i].logit - mean;
        squares += d * d;
    }
    float floor = max_logit(c) - n_sigma * (float)sqrt(squares / n);
    drop_below(c, floor);
}

void td_chain_xtc(td_cands *c, float threshold, int min_keep) {
    if (threshold > 0.5f || c->n < 2) return;
    td_cands_sort(c, c->n);
    td_cands_softmax(c);
    int n = 0; /* tokens at or above the threshold; all but the least likely of them go */
    while (n < c->n && c->at[n].p >= threshold) n++;
    if (n < 2 || c->n - (n - 1) < at_least(0, min_keep)) return;
    for (int i = n - 1; i < c->n; i++) c->at[i - (n - 1)] = c->at[i];
    c->n -= n - 1;
    c->n_sorted = c->n;
}

void td_chain_temperature(td_cands *c, float t) {
    if (t <= 0.0f) {
        td_cands_sort(c, 1);
        cut(c, 1);
        return;
    }
    for (int i = 0; i < c->n; i++) c->at[i].logit /= t;
}

void td_chain_dynatemp(td_cands *c, float t, float range, float exponent) {
    float lo = t - range > 0 ? t - range : 0, hi = t + range;
    if (c->n <= 1) return;
    td_cands_softmax(c);
    double entropy = 0, most = log((double)c->n);
    for (int i = 0; i < c->n; i++)
        if (c->at[i].p > 0) entropy -= (double)c->at[i].p * log((double)c->at[i].p);
    double share = most > 0 ? entropy / most : 0;
    td_chain_temperature(c, lo + (hi - lo) * (float)pow(share, (double)exponent));
}
