#include "accept.h"

static double probability(const td_spec_prob *a, int n, uint32_t token) {
    for (int i = 0; i < n; i++)
        if (a[i].token == token) return (double)a[i].p;
    return 0;
}

/* The residual max(0, p - q): at most a few dozen entries each after truncation, so a scan per entry is cheap. */
static double residual(const td_spec_prob *p, int i, const td_spec_prob *q, int n_q) {
    double r = (double)p[i].p - probability(q, n_q, p[i].token);
    return r > 0 ? r : 0;
}

bool td_accept_reject(const td_spec_prob *p, int n_p, const td_spec_prob *q, int n_q, uint32_t draft, double u1,
                      double u2, uint32_t *out) {
    double pd = probability(p, n_p, draft), qd = probability(q, n_q, draft);
    if (qd > 0 && u1 * qd < pd) return true;
    double sum = 0;
    for (int i = 0; i < n_p; i++) sum += residual(p, i, q, n_q);
    /* p equal to q up to rounding leaves no residual: then any draw from p is right. */
    bool whole = sum <= 1e-12;
    if (whole)
        for (int i = 0; i < n_p; i++) sum += (double)p[i].p;
    double seen = 0, at = u2 * sum;
    *out = p[n_p - 1].token;
    for (int i = 0; i < n_p; i++) {
        double r = whole ? (double)p[i].p : residual(p, i, q, n_q);
        seen += r;
        if (at < seen && r > 0) {
            *out = p[i].token;
            break;
        }
    }
    return false;
}
