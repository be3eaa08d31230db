#include "eval_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double log_of_sum(const float *logits, int n) {
    float most = logits[0];
    for (int i = 1; i < n; i++) most = logits[i] > most ? logits[i] : most;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)expf(logits[i] - most);
    /* cppcheck-suppress invalidFunctionArg ; the largest has added 1 */
    return (double)most + log(sum);
}

td_status eval_nll(const float *logits, int n_vocab, int next, int pos, double *log_sum, double *nll, td_error *err) {
    *log_sum = log_of_sum(logits, n_vocab);
    *nll = *log_sum - (double)logits[next];
    if (isfinite(*nll)) return TD_OK;
    return td_fail(
        err, TD_ERR_FORMAT, TD_NO_OFFSET,
        "position %d of a window: the model gives no finite probability; --check-tensors looks for the weight", pos);
}

bool eval_stats_add(eval_stats *s, const float *logits, double log_sum, const float *base, int n_vocab, int next) {
    if (s->n == s->cap) {
        long cap = s->cap ? s->cap * 2 : 4096;
        float *k = realloc(s->klds, (size_t)cap * sizeof *k);
        if (k) s->klds = k;
        float *d = realloc(s->dps, (size_t)cap * sizeof *d);
        if (d) s->dps = d;
        if (!k || !d) return false;
        s->cap = cap;
    }
    double kld = 0;
    int top = 0, base_top = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (logits[i] > logits[top]) top = i;
        if (base[i] > base[base_top]) base_top = i;
        if (base[i] > -16.0f) kld += exp((double)base[i]) * ((double)base[i] - ((double)logits[i] - log_sum));
    }
    double nll = log_sum - (double)logits[next], ref = -(double)base[next];
    double dp = exp(-nll) - exp(-ref);
    s->klds[s->n] = (float)kld;
    s->dps[s->n] = (float)dp;
    s->n++;
    s->n_same_top += top == base_top;
    s->nll += nll, s->nll2 += nll * nll;
    s->base += ref, s->base2 += ref * ref, s->cross += nll * ref;
    s->kld += kld, s->kld2 += kld * kld;
    s->dp += dp, s->dp2 += dp * dp, s->dp4 += dp * dp * dp * dp;
    return true;
}

typedef struct value {
    double mean, error;
} value;

static value mean(double sum, double squares, long n) {
    double m = sum / (double)n, v = squares / (double)n - m * m;
    return (value){m, v > 0 && n > 1 ? sqrt(v / (double)(n - 1)) : 0};
}

static double covariance(const eval_stats *s) {
    double n = (double)s->n;
    return s->n > 1 ? (s->cross / n - s->nll / n * (s->base / n)) / (n - 1) : 0;
}

typedef struct summary {
    value ppl, ppl_base, log_ratio, ratio, difference, kld, dp, rms, same;
    double correlation;
} summary;

static summary summarise(const eval_stats *s) {
    summary r;
    value a = mean(s->nll, s->nll2, s->n), b = mean(s->base, s->base2, s->n);
    double cov = covariance(s);
    r.ppl = (value){exp(a.mean), exp(a.mean) * a.error};
    r.ppl_base = (value){exp(b.mean), exp(b.mean) * b.error};
    r.correlation = a.error > 0 && b.error > 0 ? cov / (a.error * b.error) : 1;
    double v = a.error * a.error + b.error * b.error - 2 * cov;
    r.log_ratio = (value){a.mean - b.mean, v > 0 ? sqrt(v) : 0};
    r.ratio = (value){exp(r.log_ratio.mean), exp(r.log_ratio.mean) * r.log_ratio.error};
    double dv = r.ppl.mean * r.ppl.mean * a.error * a.error + r.ppl_base.mean * r.ppl_base.mean * b.error * b.error -
                2 * r.ppl.mean * r.ppl_base.mean * cov;
    r.difference = (value){r.ppl.mean - r.ppl_base.mean, dv > 0 ? sqrt(dv) : 0};
    r.kld = mean(s->kld, s->kld2, s->n);
    r.dp = mean(s->dp, s->dp2, s->n);
    value square = mean(s->dp2, s->dp4, s->n);
    double rms = sqrt(square.mean);
    r.rms = (value){rms, rms > 0 ? 0.5 / rms * square.error : 0};
    double p = (double)s->n_same_top / (double)s->n;
    r.same = (value){p, s->n > 1 ? sqrt(p * (1 - p) / (double)(s->n - 1)) : 0};
    return r;
}

void eval_stats_line(const eval_stats *s, int chunk) {
    summary r = summarise(s);
    if (chunk == 1)
        printf("\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS  "
               "          Same top p\n");
    printf("%4d   %10.4f ± %9.4f   %10.5f ± %10.5f   %10.5f ± %10.5f   %6.3f ± %6.3f %%   %6.3f ± %6.3f %%\n", chunk,
           r.ppl.mean, r.ppl.error, r.log_ratio.mean, r.log_ratio.error, r.kld.mean, r.kld.error, 100 * r.rms.mean,
           100 * r.rms.error, 100 * r.same.mean, 100 * r.same.error);
    fflush(stdout);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double quantile(const float *sorted, long n, double q) {
    double at = q * (double)(n - 1);
    long i = (long)at;
    if (i + 1 >= n) return (double)sorted[n - 1];
    return (double)sorted[i] + (at - (double)i) * ((double)sorted[i + 1] - (double)sorted[i]);
}

void eval_stats_report(eval_stats *s) {
    summary r = summarise(s);
    qsort(s->klds, (size_t)s->n, sizeof *s->klds, by_value);
    qsort(s->dps, (size_t)s->n, sizeof *s->dps, by_value);
    printf("\n====== Perplexity statistics ======\n");
    printf("Mean PPL(Q)                   : %10.6f ± %10.6f\n", r.ppl.mean, r.ppl.error);
    printf("Mean PPL(base)                : %10.6f ± %10.6f\n", r.ppl_base.mean, r.ppl_base.error);
    printf("Cor(ln(PPL(Q)), ln(PPL(base))): %6.2f%%\n", 100 * r.correlation);
    printf("Mean ln(PPL(Q)/PPL(base))     : %10.6f ± %10.6f\n", r.log_ratio.mean, r.log_ratio.error);
    printf("Mean PPL(Q)/PPL(base)         : %10.6f ± %10.6f\n", r.ratio.mean, r.ratio.error);
    printf("Mean PPL(Q)-PPL(base)         : %10.6f ± %10.6f\n", r.difference.mean, r.difference.error);
    printf("\n====== KL divergence statistics ======\n");
    printf("Mean    KLD: %10.6f ± %10.6f\n", r.kld.mean, r.kld.error);
    printf("Maximum KLD: %10.6f\n", (double)s->klds[s->n - 1]);
    static const double high[] = {0.999, 0.99, 0.95, 0.9}, low[] = {0.1, 0.05, 0.01, 0.001};
    for (int i = 0; i < 4; i++) printf("%4.1f%%   KLD: %10.6f\n", 100 * high[i], quantile(s->klds, s->n, high[i]));
    printf("Median  KLD: %10.6f\n", quantile(s->klds, s->n, 0.5));
    for (int i = 0; i < 4; i++) printf("%4.1f%%   KLD: %10.6f\n", 100 * low[i], quantile(s->klds, s->n, low[i]));
    printf("Minimum KLD: %10.6f\n", (double)s->klds[0]);
    printf("\n====== Token probability statistics ======\n");
    printf("Mean    Δp: %6.3f ± %5.3f %%\n", 100 * r.dp.mean, 100 * r.dp.error);
    printf("Maximum Δp: %6.3f%%\n", 100 * (double)s->dps[s->n - 1]);
    static const double points[] = {0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001};
    for (int i = 0; i < 11; i++) {
        if (i == 5)
            printf("Median  Δp: %6.3f%%\n", 100 * quantile(s->dps, s->n, 0.5));
        else
            printf("%4.1f%%   Δp: %6.3f%%\n", 100 * points[i], 100 * quantile(s->dps, s->n, points[i]));
    }
    printf("Minimum Δp: %6.3f%%\n", 100 * (double)s->dps[0]);
    printf("RMS Δp    : %6.3f ± %5.3f %%\n", 100 * r.rms.mean, 100 * r.rms.error);
    printf("Same top p: %6.3f ± %5.3f %%\n", 100 * r.same.mean, 100 * r.same.error);
}

json_t *eval_stats_json(eval_stats *s) {
    summary r = summarise(s);
    qsort(s->klds, (size_t)s->n, sizeof *s->klds, by_value);
    json_t *o = json_object();
    json_object_set_new(o, "n", json_integer(s->n));
    json_object_set_new(o, "ppl", json_real(r.ppl.mean));
    json_object_set_new(o, "ppl_error", json_real(r.ppl.error));
    json_object_set_new(o, "ppl_base", json_real(r.ppl_base.mean));
    json_object_set_new(o, "ln_ppl_ratio", json_real(r.log_ratio.mean));
    json_object_set_new(o, "kld_mean", json_real(r.kld.mean));
    json_object_set_new(o, "kld_error", json_real(r.kld.error));
    json_object_set_new(o, "kld_median", json_real(quantile(s->klds, s->n, 0.5)));
    json_object_set_new(o, "kld_99", json_real(quantile(s->klds, s->n, 0.99)));
    json_object_set_new(o, "kld_max", json_real((double)s->klds[s->n - 1]));
    json_object_set_new(o, "dp_rms", json_real(r.rms.mean));
    json_object_set_new(o, "same_top", json_real(r.same.mean));
    return o;
}

void eval_stats_free(eval_stats *s) {
    free(s->klds);
    free(s->dps);
    *s = (eval_stats){0};
}
