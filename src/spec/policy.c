/* Depth policy: see policy.h. All estimates are exponential averages; a new machine or model needs a few steps. */
#include "policy.h"

#include <string.h>

/* Before anything is measured an extra row is taken to cost this share of the first one: low enough that depths are
 * tried, after which the measurement decides. */
#define PRIOR_ROW_COST   0.03
#define PRIOR_DRAFT_COST 0.03 /* of T(1), for one drafter pass */
#define PRIOR_ACCEPT     0.70f
#define PRIOR_WEIGHT     2.0f
#define DEEP_WEIGHT      2.0f   /* of the position before, in what is believed of the next one */
#define FORGET           0.93f  /* per observation: some 15 rounds of memory */
#define FORGET_PROBE     0.80f  /* while idle a few probes decide */
#define FORGET_UNSEEN    0.985f /* per round in which a position was not reached: it is tried again in time */
#define FORGET_ALL       0.99f
#define TIME_RATE        0.10
#define PROBE_LEAST      4
#define PROBE_SHARE      0.008 /* of the time may go into probes that fail */
#define LATELY           0.9f  /* per round: what counts of earlier drafts */
#define DEEPER           0.97f /* an unseen position is taken to be accepted like the one before, times this */
#define ALIKE            0.9f  /* slots whose next draft is so nearly as probable as the best take turns */
#define BASE_SEEN        2     /* measurements of a pass without drafts before the plan relies on it */
#define BASE_AGE         256   /* rounds after which it is measured again */
#define MARGIN           1.02  /* drafts must promise this much more than none: measurement noise is not a gain */
#define MARGIN_SLOT      0.01  /* and so much more for each further slot: the best of many noisy plans looks too good */
#define MARGIN_MOST      1.08

void td_policy_init(td_policy *p) {
    memset(p, 0, sizeof *p);
    p->all.prior = PRIOR_ACCEPT;
}

/* What is believed of position i: the measurement, while it is thin, filled up by the position before. */
static void believe(const td_policy_slot *s, float out[TD_MAX_DRAFT]) {
    float before = s->prior;
    for (int i = 0; i < TD_MAX_DRAFT; i++) {
        float w = s->weight[i], fill = i > 0 ? DEEP_WEIGHT : w < PRIOR_WEIGHT ? PRIOR_WEIGHT - w : 0;
        out[i] = (w * s->accept[i] + fill * before) / (w + fill);
        before = out[i] * DEEPER;
    }
}

void td_policy_slot_reset(const td_policy *p, td_policy_slot *s) {
    float all[TD_MAX_DRAFT];
    believe(&p->all, all);
    *s = (td_policy_slot){.prior = all[0]};
    for (int i = 0; i < TD_MAX_DRAFT; i++) {
        s->accept[i] = all[i];
        s->weight[i] = p->all.weight[i] > 0 ? PRIOR_WEIGHT : 0;
    }
}

/* The measured point nearest below and above, joined by a line; one point alone is extended by the prior slope. The
 * curve is flat while memory bounds it and steep after, so between two points the prior slope may be the better guess:
 * the lower one is taken, because a depth that is thought too dear is never tried, and one thought too cheap is
 * measured in a round. */
double td_policy_step_ns(const td_policy *p, int rows) {
    int n = rows < TD_POLICY_ROWS ? rows : TD_POLICY_ROWS;
    if (n < 1) n = 1;
    int lo = n, hi = n + 1;
    while (lo >= 1 && p->t_ns[lo] <= 0) lo--;
    while (hi <= TD_POLICY_ROWS && p->t_ns[hi] <= 0) hi++;
    double t = 0;
    if (lo == n)
        t = p->t_ns[n];
    else if (lo >= 1 && hi <= TD_POLICY_ROWS) {
        double line = p->t_ns[lo] + (p->t_ns[hi] - p->t_ns[lo]) * (n - lo) / (hi - lo);
        double prior = p->t_ns[lo] * (1 + PRIOR_ROW_COST * (n - lo));
        t = line < prior || 2 * (n - lo) > hi - lo ? line : prior;
    } else if (lo >= 1)
        t = p->t_ns[lo] * (1 + PRIOR_ROW_COST * (n - lo));
    else if (hi <= TD_POLICY_ROWS)
        t = p->t_ns[hi] / (1 + PRIOR_ROW_COST * (hi - n));
    if (rows > n) t += t / n * (rows - n);
    return t;
}

static double draft_ns(const td_policy *p, int slots) {
    if (slots < 1) return 0;
    if (slots > TD_MAX_SLOTS) slots = TD_MAX_SLOTS;
    if (p->d_ns[slots] > 0) return p->d_ns[slots];
    for (int d = 1; d < TD_MAX_SLOTS; d++) {
        if (slots - d >= 1 && p->d_ns[slots - d] > 0) return p->d_ns[slots - d] * slots / (slots - d);
        if (slots + d <= TD_MAX_SLOTS && p->d_ns[slots + d] > 0) return p->d_ns[slots + d];
    }
    return PRIOR_DRAFT_COST * td_policy_step_ns(p, 1);
}

/* A probe is one draft of one slot: its cost is one more row and one drafter pass, and `n` idle slots share the time
 * that may go into them. Where a draft for every slot would not pay though all were accepted, there is nothing to find.
 */
static bool probe_due(const td_policy *p, const td_policy_slot *s, int rows, int n) {
    double base = td_policy_step_ns(p, rows), cost = td_policy_step_ns(p, rows + 1) - base + draft_ns(p, 1);
    double every = base > 0 ? cost / base / PROBE_SHARE * n : 0;
    if (s->idle_rounds < (every > PROBE_LEAST ? every : PROBE_LEAST)) return false;
    return (rows + n) * base > rows * (td_policy_step_ns(p, rows + n) + draft_ns(p, n));
}

/* The slot whose next draft is accepted most probably; among those nearly as good, the one that drafted least lately:
 * one that is always a little luckier would end long before the others. -1: none. */
static int next_slot(const td_policy_ask *asks, const int *depth, const double *reach, int n) {
    double most = 0;
    int pick = -1;
    for (int i = 0; i < n; i++)
        if (depth[i] < asks[i].n_max && depth[i] < TD_MAX_DRAFT && reach[i] > most) most = reach[i];
    for (int i = 0; i < n && most > 0; i++) {
        bool may = depth[i] < asks[i].n_max && depth[i] < TD_MAX_DRAFT && reach[i] >= (double)ALIKE * most;
        if (may && (pick < 0 || asks[i].slot->lately + (float)depth[i] < asks[pick].slot->lately + (float)depth[pick]))
            pick = i;
    }
    return pick;
}

/* Cost of drafting so that drafting[i] slots take part in chain step i. */
static double chain_ns(const td_policy *p, const int *drafting, int depth) {
    double t = 0;
    for (int i = 0; i < depth; i++) t += draft_ns(p, drafting[i]);
    return t;
}

static bool base_unknown(const td_policy *p, int rows) {
    if (rows > TD_POLICY_ROWS) return false;
    return p->n_seen[rows] < BASE_SEEN || p->round - p->seen_at[rows] > BASE_AGE;
}

void td_policy_plan(td_policy *p, td_policy_ask *asks, int n, int n_other, int n_prompt) {
    double reach[TD_MAX_SLOTS]; /* probability that the next draft of the slot would be accepted */
    float belief[TD_MAX_SLOTS][TD_MAX_DRAFT];
    int drafting[TD_MAX_DRAFT] = {0}, depth[TD_MAX_SLOTS] = {0};
    if (n > TD_MAX_SLOTS) n = TD_MAX_SLOTS;
    for (int i = 0; i < n; i++) {
        asks[i].depth = 0;
        asks[i].slot->probing = false;
        believe(asks[i].slot, belief[i]);
        reach[i] = (double)belief[i][0];
    }
    p->round++;
    if (n_prompt == 0 && base_unknown(p, n + n_other)) return;
    int rows = n + n_other + n_prompt, deepest = 0;
    /* The time of the prompts' rows is the same for every plan. In it, drafts would look cheap against the step, and
     * the deep ones would take from the prompts the time that --prefill-ms gives them. */
    double prompts = td_policy_step_ns(p, rows) - td_policy_step_ns(p, n + n_other);
    double margin = MARGIN + MARGIN_SLOT * (n - 1);
    if (margin > MARGIN_MOST) margin = MARGIN_MOST;
    double tokens = n, best = margin * tokens / (td_policy_step_ns(p, rows) - prompts + 1e-9);
    for (;;) {
        int pick = next_slot(asks, depth, reach, n);
        if (pick < 0 || reach[pick] < 1e-3) break;
        drafting[depth[pick]]++;
        depth[pick]++;
        if (depth[pick] > deepest) deepest = depth[pick];
        tokens += reach[pick];
        rows++;
        if (depth[pick] < TD_MAX_DRAFT) reach[pick] *= (double)belief[pick][depth[pick]];
        double rate = tokens / (td_policy_step_ns(p, rows) - prompts + chain_ns(p, drafting, deepest) + 1e-9);
        if (rate > best) {
            best = rate;
            for (int i = 0; i < n; i++) asks[i].depth = depth[i];
        }
    }
    bool probing = false; /* one at a time */
    for (int i = 0; i < n; i++) {
        asks[i].slot->lately = LATELY * asks[i].slot->lately + (float)asks[i].depth;
        if (asks[i].depth > 0) {
            asks[i].slot->idle_rounds = 0;
            continue;
        }
        asks[i].slot->idle_rounds++;
        if (!probing && asks[i].n_max > 0 && probe_due(p, asks[i].slot, n + n_other + n_prompt, n)) {
            probing = true;
            asks[i].depth = 1;
            asks[i].slot->idle_rounds = 0;
            asks[i].slot->probing = true;
        }
    }
}

static void average(double *value, double sample) {
    if (*value <= 0) {
        *value = sample;
        return;
    }
    /* A step that was preempted says little about the machine: outliers count as twice the average at most. */
    if (sample > 2 * *value) sample = 2 * *value;
    *value += (sample < *value ? 3 * TIME_RATE : TIME_RATE) * (sample - *value);
}

void td_policy_saw_step(td_policy *p, int rows, int64_t t_ns) {
    if (rows < 1 || rows > TD_POLICY_ROWS || t_ns <= 0) return;
    average(&p->t_ns[rows], (double)t_ns);
    p->n_seen[rows]++;
    p->seen_at[rows] = p->round;
}

void td_policy_saw_draft(td_policy *p, int slots, int64_t t_ns) {
    if (slots >= 1 && slots <= TD_MAX_SLOTS && t_ns > 0) average(&p->d_ns[slots], (double)t_ns);
}

static void observe(td_policy_slot *s, int i, bool accepted, float forget) {
    s->weight[i] = s->weight[i] * forget + 1;
    s->accept[i] += ((accepted ? 1.0f : 0.0f) - s->accept[i]) / s->weight[i];
}

void td_policy_saw_accept(td_policy *p, td_policy_slot *s, int drafted, int accepted) {
    float forget = s->probing ? FORGET_PROBE : FORGET;
    for (int i = 0; i < drafted && i <= accepted && i < TD_MAX_DRAFT; i++) {
        observe(s, i, i < accepted, forget);
        observe(&p->all, i, i < accepted, FORGET_ALL);
    }
    for (int i = accepted + 1; i < TD_MAX_DRAFT; i++) s->weight[i] *= FORGET_UNSEEN;
}
