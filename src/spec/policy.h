/* How many tokens to draft, for every slot of a step at once.
 *
 * Measured while running: T(rows), the time of a forward pass by its number of rows; D(m), the time of one drafter
 * pass for m slots; and for every slot how often its i-th draft is accepted when the i-1 before it were. The plan is
 * the set of depths with the largest expected tokens per second, zero included: drafts are added one at a time, the
 * most probable first, as long as the rate rises. A slot at depth zero is probed with one draft now and then, as often
 * as its cost on this machine allows for one percent of the time, so that a text that becomes predictable is noticed.
 */
#ifndef TD_SPEC_POLICY_H
#define TD_SPEC_POLICY_H

#include "../../include/tandem-types.h"

#define TD_POLICY_ROWS 96 /* T is kept per row count up to here and extended linearly beyond */

#include <stdint.h>

typedef struct td_policy_slot { /* acceptance of one slot; set by td_policy_slot_reset */
    float accept[TD_MAX_DRAFT]; /* measured share of draft i accepted when those before it were */
    float weight[TD_MAX_DRAFT]; /* observations behind it, forgotten exponentially */
    float prior;                /* of position 0 before anything is measured */
    float lately;               /* drafts of the last rounds, forgotten exponentially */
    int idle_rounds;            /* since the last draft of this slot */
    bool probing;               /* its present draft is a probe */
} td_policy_slot;

typedef struct td_policy {
    double t_ns[TD_POLICY_ROWS + 1];                                  /* [rows], 0: not measured */
    uint32_t n_seen[TD_POLICY_ROWS + 1], seen_at[TD_POLICY_ROWS + 1]; /* measurements; round of the last one */
    uint32_t round;
    double d_ns[TD_MAX_SLOTS + 1]; /* [drafting slots], 0: not measured */
    td_policy_slot all;            /* over all slots: where a new slot starts */
} td_policy;

typedef struct td_policy_ask {
    td_policy_slot *slot;
    int n_max; /* drafts this slot may have: request, budget and context considered */
    int depth; /* out */
} td_policy_ask;

void td_policy_init(td_policy *p);
void td_policy_slot_reset(const td_policy *p, td_policy_slot *s);

/* Chooses depths for `n` generating slots; `n_other` rows of slots that draft otherwise and `n_prompt` rows of prompts
 * share the pass. Without prompt rows the plan is zero for a round when the cost of a pass without drafts is not known
 * or was measured long ago: what drafts cost is only known against it. */
void td_policy_plan(td_policy *p, td_policy_ask *asks, int n, int n_other, int n_prompt);

/* After a forward pass of `rows` rows, without prompt rows; after a drafter pass for `slots` slots. */
void td_policy_saw_step(td_policy *p, int rows, int64_t t_ns);
void td_policy_saw_draft(td_policy *p, int slots, int64_t t_ns);
/* After acceptance: `drafted` were proposed by the assistant, the first `accepted` of them stood. */
void td_policy_saw_accept(td_policy *p, td_policy_slot *s, int drafted, int accepted);

double td_policy_step_ns(const td_policy *p, int rows); /* measured or estimated; 0 before any measurement */

#endif
