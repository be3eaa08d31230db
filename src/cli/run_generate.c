/* One generation for the terminal: submit, read events, print, stop on Ctrl-C. */
#include "run.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "../server/timings.h"
#include "../text/buf.h"
#include "../text/grammar.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupts;

static void on_sigint(int signal) {
    (void)signal;
    if (++interrupts >= 3) _exit(130); /* nothing answers any more */
}

void run_install_sigint(void) {
    struct sigaction a = {.sa_handler = on_sigint};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
}

bool run_interrupted(bool clear) {
    bool yes = interrupts > 0;
    if (clear) interrupts = 0;
    return yes;
}

/* ---- constraints ---- */

static td_status constraint(run *r, td_grammar **out, td_error *err) {
    const run_options *o = r->o;
    *out = NULL;
    bool schema = o->json_schema || o->json_schema_file;
    const char *text = schema ? o->json_schema : o->grammar;
    const char *path = schema ? o->json_schema_file : o->grammar_file;
    if (!text && !path) return TD_OK;
    td_buf buf = {0};
    td_status status = path ? run_read_path(path, &buf, err) : TD_OK;
    if (!status && !path && !td_buf_add_str(&buf, text))
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    td_schema_options options = {.strict = true};
    if (!status)
        status = schema ? td_grammar_compile_schema(out, r->vocab, buf.data, buf.n_bytes, &options, err)
                        : td_grammar_compile(out, r->vocab, buf.data, buf.n_bytes, "root", err);
    td_buf_free(&buf);
    return status;
}

/* ---- events ---- */

static bool keep_tokens(run_result *out, const td_event *ev) {
    uint32_t *p = td_reallocarray(out->tokens, (size_t)(out->n_tokens + ev->n_tokens) + 1, sizeof *p);
    if (!p) return false;
    out->tokens = p;
    if (ev->n_tokens) memcpy(p + out->n_tokens, ev->tokens, (size_t)ev->n_tokens * sizeof *p);
    out->n_tokens += ev->n_tokens;
    char *t = td_reallocarray(out->text, out->n_text + ev->n_text + 1, 1);
    if (!t) return false;
    out->text = t;
    memcpy(t + out->n_text, ev->text, ev->n_text);
    out->n_text += ev->n_text;
    t[out->n_text] = 0;
    return true;
}

static td_status read_events(td_job *j, const run_sink *sink, run_result *out) {
    bool cancelled = false;
    for (;;) {
        td_event ev;
        td_status status = td_job_read(j, &ev, 100);
        if (!cancelled && run_interrupted(false)) {
            td_job_cancel(j);
            cancelled = true;
        }
        if (status == TD_ERR_BUSY) continue;
        if (status) return status;
        if (ev.kind == TD_EVENT_TOKENS) {
            if (!keep_tokens(out, &ev)) return TD_ERR_MEMORY;
            if (sink && sink->tokens) sink->tokens(sink->user, &ev);
        }
        out->timings = ev.timings;
        if (ev.kind != TD_EVENT_DONE) continue;
        out->finish = ev.finish;
        if (ev.error) out->error = *ev.error;
        return ev.error ? ev.error->code : TD_OK;
    }
}

td_status run_generate(run *r, const uint32_t *ids, int n, const run_sink *sink, run_result *out) {
    memset(out, 0, sizeof *out);
    td_job_params p;
    td_job_params_init(r->e, &p);
    p.prompt = ids;
    p.n_prompt = n;
    p.n_predict = (int)r->o->n_predict;
    p.n_keep = (int)r->o->keep;
    p.sampling = r->sampling;
    p.special_text = r->o->special;
    p.max_ms = r->o->max_ms;
    p.stop = r->o->stop.items;
    p.n_stop = r->o->stop.n;
    out->n_prompt = n;
    td_status status = constraint(r, &p.grammar, &out->error);
    td_job *j = NULL;
    if (!status) status = td_job_submit(r->e, &p, &j, &out->error);
    if (!status) status = read_events(j, sink, out);
    td_job_close(j);
    return status;
}

void run_result_free(run_result *r) {
    free(r->tokens);
    free(r->text);
    json_decref(r->token_probs);
    memset(r, 0, sizeof *r);
}

/* ---- printing ---- */

/* Accepted drafts stand on a tinted ground. Tokens and text agree only at the end of an event, so colouring works
 * token by token where every token is whole characters, else the event's text is printed plainly. */
void run_print_tokens(run *r, FILE *f, const td_event *ev) {
    if (!r->o->verbose_spec || !r->o->color) {
        fwrite(ev->text, 1, ev->n_text, f);
        fflush(f);
        return;
    }
    size_t total = 0;
    for (int i = 0; i < ev->n_tokens; i++) {
        size_t n = 0;
        td_token_text(r->e, ev->tokens[i], r->o->special, &n);
        total += n;
    }
    size_t at = 0;
    for (int i = 0; i < ev->n_tokens && total == ev->n_text; i++) {
        size_t n = 0;
        td_token_text(r->e, ev->tokens[i], r->o->special, &n);
        if (n == 0) continue;
        if (ev->drafted[i]) fputs("\033[32m", f);
        fwrite(ev->text + at, 1, n, f);
        if (ev->drafted[i]) fputs("\033[0m", f);
        at += n;
    }
    fwrite(ev->text + at, 1, ev->n_text - at, f);
    fflush(f);
}

void run_print_timings(FILE *f, const td_timings *t) {
    fprintf(f, "[ Prompt: %.1f t/s | Generation: %.1f t/s", timings_per_second(t->prompt_n, t->prompt_ms),
            timings_per_second(t->predicted_n, t->predicted_ms));
    if (t->draft_n > 0)
        fprintf(f, " | Draft: %.0f%% of %d, %.2f tokens per round", 100.0 * t->draft_n_accepted / t->draft_n,
                t->draft_n, timings_mean_length(t));
    fputs(" ]\n", f);
}
