/* `tandem trace`: a speculation trace (--spec-trace) as a table and a picture. */
#include "commands.h"
#include "options.h"
#include "trace_svg.h"

#include "../base/status.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct trace_options {
    const char *svg;
    bool json;
} trace_options;

#define AT(field) .offset = offsetof(trace_options, field)

static const td_option trace_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Output"},
    {.kind = TD_OPT_STRING, .names = "--svg -o", AT(svg), .arg = "FILE", .help = "Draw the rounds into this file"},
    {.kind = TD_OPT_SWITCH, .names = "--json", AT(json), .help = "Print one JSON object instead of the table"},
    {.kind = TD_OPT_END},
};

/* ---- reading ---- */

static int integer(const json_t *o, const char *name, int def) {
    const json_t *v = json_object_get(o, name);
    return json_is_integer(v) && json_integer_value(v) >= INT32_MIN && json_integer_value(v) <= INT32_MAX
               ? (int)json_integer_value(v)
               : def;
}

static trace_round *add_round(trace_data *t) {
    if (t->n_rounds == t->cap_rounds) {
        int cap = t->cap_rounds ? t->cap_rounds * 2 : 1024;
        trace_round *p = realloc(t->rounds, (size_t)cap * sizeof *p);
        if (!p) return NULL;
        t->rounds = p;
        t->cap_rounds = cap;
    }
    trace_round *r = &t->rounds[t->n_rounds++];
    *r = (trace_round){.accepted = -1};
    return r;
}

/* The draft that an acceptance belongs to: the last one of the same slot and iteration that has none yet. */
static trace_round *find_draft(trace_data *t, int slot, int iter) {
    for (int i = t->n_rounds - 1; i >= 0 && i >= t->n_rounds - 4096; i--) {
        trace_round *r = &t->rounds[i];
        if (r->slot == slot && r->iter == iter && r->accepted < 0) return r;
    }
    return NULL;
}

static void add_draft(trace_data *t, const json_t *o) {
    trace_round *r = add_round(t);
    if (!r) return;
    const char *path = json_string_value(json_object_get(o, "path"));
    r->slot = integer(o, "seq_id", 0);
    r->iter = integer(o, "iter", 0);
    r->asked = integer(o, "n_steps", 0);
    r->skipped = path && strncmp(path, "skip", 4) == 0;
    r->drafted = (int)json_array_size(json_object_get(o, "drafts"));
    if (r->drafted > TRACE_MAX_DEPTH) r->drafted = TRACE_MAX_DEPTH;
    const json_t *ts = json_object_get(o, "ts_us");
    r->ts_us = json_is_integer(ts) ? json_integer_value(ts) : 0;
    const json_t *p = json_object_get(o, "p");
    for (int i = 0; i < r->drafted; i++) r->p[i] = (float)json_number_value(json_array_get(p, (size_t)i));
}

static void add_accept(trace_data *t, const json_t *o) {
    trace_round *r = find_draft(t, integer(o, "seq_id", 0), integer(o, "iter", 0));
    if (!r) return;
    r->accepted = integer(o, "n_accepted", 0);
    if (r->accepted > r->drafted) r->accepted = r->drafted;
    if (r->accepted < 0) r->accepted = 0;
    const json_t *ts = json_object_get(o, "ts_us");
    r->accept_us = json_is_integer(ts) ? json_integer_value(ts) : 0;
}

static td_status read_trace(const char *path, trace_data *t, td_error *err) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "the trace %s cannot be opened", path);
    char *line = NULL;
    size_t cap = 0;
    long number = 0;
    td_status status = TD_OK;
    for (ssize_t n; !status && (n = getline(&line, &cap, f)) >= 0;) {
        number++;
        if (n <= 1) continue;
        json_error_t e;
        json_t *o = json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, &e);
        const char *evt = json_string_value(json_object_get(o, "evt"));
        if (!o || !evt)
            status = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s, line %ld: not an event of a trace (%s)", path,
                             number, o ? "no \"evt\"" : e.text);
        else if (strcmp(evt, "mtp_draft") == 0)
            add_draft(t, o);
        else if (strcmp(evt, "mtp_accept") == 0)
            add_accept(t, o);
        json_decref(o);
    }
    free(line);
    if (f != stdin) fclose(f);
    if (!status && t->n_rounds == 0) status = td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%s holds no round", path);
    return status;
}

/* ---- figures ---- */

static void summarise(trace_data *t) {
    for (int i = 0; i < t->n_rounds; i++) {
        const trace_round *r = &t->rounds[i];
        if (r->slot + 1 > t->n_slots) t->n_slots = r->slot + 1;
        t->skipped += r->skipped;
        t->depth[0] += r->skipped;
        if (r->accepted < 0) continue;
        t->verified++;
        t->tokens += r->drafted;
        t->accepted += r->accepted;
        t->depth[r->drafted]++;
        for (int k = 0; k < r->drafted; k++) t->reached[k] += k <= r->accepted, t->stood[k] += k < r->accepted;
        if (r->accept_us > r->ts_us && r->ts_us > 0) t->verify_us += r->accept_us - r->ts_us;
    }
    /* One slot: from an acceptance to the next draft, and from a round without drafts to the next one. */
    for (int i = 1; i < t->n_rounds; i++) {
        const trace_round *r = &t->rounds[i], *before = r - 1;
        if (r->slot != before->slot || r->iter < before->iter) continue; /* another slot, or the next job */
        if (before->accept_us > 0 && r->ts_us > before->accept_us)
            t->draft_us += r->ts_us - before->accept_us;
        else if (before->skipped && before->ts_us > 0 && r->ts_us > before->ts_us)
            t->plain_us += r->ts_us - before->ts_us;
    }
}

static double share(double a, double b) {
    return b > 0 ? a / b : 0;
}

static void print_table(const trace_data *t) {
    printf("rounds      %d (%d verified, %d skipped) on %d slots\n", t->n_rounds, t->verified, t->skipped, t->n_slots);
    printf("drafts      %ld tokens, %ld accepted: %.3f\n", t->tokens, t->accepted,
           share((double)t->accepted, (double)t->tokens));
    printf("per round   %.2f tokens, %.2f where drafts were verified\n",
           1 + share((double)t->accepted, t->verified + t->skipped), 1 + share((double)t->accepted, t->verified));
    double all = (double)(t->verify_us + t->draft_us + t->plain_us);
    if (all > 0)
        printf("time        %.1f %% verifying, %.1f %% plain steps, %.1f %% drafting and the rest\n",
               100 * share((double)t->verify_us, all), 100 * share((double)t->plain_us, all),
               100 * share((double)t->draft_us, all));
    printf("\nposition    reached   accepted   of those reached   of all rounds\n");
    for (int k = 0; k < TRACE_MAX_DEPTH && t->reached[k] > 0; k++)
        printf("%8d %10ld %10ld %18.3f %15.3f\n", k + 1, t->reached[k], t->stood[k],
               share((double)t->stood[k], (double)t->reached[k]), share((double)t->stood[k], t->verified));
    printf("\ndepth       rounds      share\n");
    for (int d = 0; d <= TRACE_MAX_DEPTH; d++)
        if (t->depth[d] > 0)
            printf("%5d %12ld %10.3f\n", d, t->depth[d], share((double)t->depth[d], t->verified + t->skipped));
}

static void print_json(const trace_data *t) {
    json_t *o = json_object(), *at = json_array(), *depth = json_array();
    for (int k = 0; k < TRACE_MAX_DEPTH && t->reached[k] > 0; k++)
        json_array_append_new(at, json_real(share((double)t->stood[k], (double)t->reached[k])));
    for (int d = 0; d <= TRACE_MAX_DEPTH; d++) json_array_append_new(depth, json_integer(t->depth[d]));
    json_object_set_new(o, "rounds", json_integer(t->n_rounds));
    json_object_set_new(o, "verified", json_integer(t->verified));
    json_object_set_new(o, "skipped", json_integer(t->skipped));
    json_object_set_new(o, "draft_n", json_integer(t->tokens));
    json_object_set_new(o, "draft_n_accepted", json_integer(t->accepted));
    json_object_set_new(o, "tokens_per_round", json_real(1 + share((double)t->accepted, t->verified)));
    json_object_set_new(o, "accepted_at", at);
    json_object_set_new(o, "rounds_by_depth", depth);
    json_object_set_new(o, "verify_us", json_integer(t->verify_us));
    json_object_set_new(o, "draft_us", json_integer(t->draft_us));
    json_object_set_new(o, "plain_us", json_integer(t->plain_us));
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(o);
}

static td_status run(int n_args, char **args, void *values, td_error *err) {
    (void)n_args;
    const trace_options *o = values;
    trace_data *t = calloc(1, sizeof *t);
    td_status status = t ? read_trace(args[0], t, err) : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    if (!status) {
        summarise(t);
        if (o->json)
            print_json(t);
        else
            print_table(t);
        if (o->svg) status = trace_draw(t, o->svg, err);
    }
    if (t) free(t->rounds);
    free(t);
    return status;
}

int td_cmd_trace(int argc, char **argv) {
    trace_options o = {0};
    const td_option_set sets[] = {{trace_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"trace", "FILE [options]",
                                   "Turns a speculation trace, written by --spec-trace or LLAMA_MTP_ACC_TRACE, into a "
                                   "table and a picture. FILE may be - for standard input.",
                                   1, 1};
    return td_command(&usage, sets, argc, argv, run);
}
