/* Acceptance by rejection (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).
 *
 * The default of the engine is simpler: sample the target with the complete sampler and keep drafts while they are
 * equal. The rule here is for drafts that were themselves drawn from a distribution q: accept d with probability
 * min(1, p(d)/q(d)), and at the first refusal draw from max(0, p - q), normalised. The result follows p exactly. */
#ifndef TD_SPEC_ACCEPT_H
#define TD_SPEC_ACCEPT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct td_spec_prob {
    uint32_t token;
    float p;
} td_spec_prob;

/* One draft. p: target distribution after all processors, any order; q: the distribution `draft` was drawn from; a
 * greedy draft is q = {(draft, 1)}. u1, u2: independent uniforms in [0, 1). True: the draft stands; false: *out is the
 * replacement. */
bool td_accept_reject(const td_spec_prob *p, int n_p, const td_spec_prob *q, int n_q, uint32_t draft, double u1,
                      double u2, uint32_t *out);

#endif
