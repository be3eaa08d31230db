/* The truncating links of the chain, on a list of candidates. Each keeps at least `min_keep`, at least one. */
#ifndef TD_ENGINE_SAMPLER_CHAIN_H
#define TD_ENGINE_SAMPLER_CHAIN_H

#include "sampler.h"

typedef struct td_cands {
    td_cand *at; /* [n] */
    int n;
    int n_sorted; /* the first n_sorted are the largest, in descending order of logit, ties by id */
} td_cands;

void td_cands_sort(td_cands *c, int n); /* makes the first n sorted */
void td_cands_softmax(td_cands *c);     /* fills p over the candidates that are left */

void td_chain_top_k(td_cands *c, int k, int min_keep);
void td_chain_top_p(td_cands *c, float p, int min_keep);
void td_chain_min_p(td_cands *c, float p, int min_keep);
void td_chain_typical(td_cands *c, float p, int min_keep);
void td_chain_top_n_sigma(td_cands *c, float n);
void td_chain_xtc(td_cands *c, float threshold, int min_keep);
void td_chain_temperature(td_cands *c, float t);
void td_chain_dynatemp(td_cands *c, float t, float range, float exponent);

#endif
