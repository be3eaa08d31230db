/* What a KL comparison collects, and its report in llama-perplexity's words. */
#ifndef TD_CLI_EVAL_STATS_H
#define TD_CLI_EVAL_STATS_H

#include "../base/status.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct eval_stats {
    long n, n_same_top;
    double nll, nll2;          /* this run */
    double base, base2, cross; /* reference run; product */
    double kld, kld2;
    double dp, dp2, dp4; /* p - p_base of the text's token */
    float *klds, *dps;   /* [n] every value, for the quantiles */
    long cap;
} eval_stats;

/* The log-sum of a row of logits, and -log p of the text's next token. TD_ERR_FORMAT, with the position, where that is
 * not finite. */
td_status eval_nll(const float *logits, int n_vocab, int next, int pos, double *log_sum, double *nll, td_error *err);

/* logits of this run with their log-sum; base log-probabilities; the text's next token. False without memory. */
bool eval_stats_add(eval_stats *s, const float *logits, double log_sum, const float *base, int n_vocab, int next);
void eval_stats_line(const eval_stats *s, int chunk);
void eval_stats_report(eval_stats *s);
json_t *eval_stats_json(eval_stats *s);
void eval_stats_free(eval_stats *s);

#endif
