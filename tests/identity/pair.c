#include "pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void run_command(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run_command(const char *format, ...) {
    char command[2048];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    if (system(command) != 0) fail_msg("%s", command);
}

void pair_make(pair *p, int n_vocab, double accept) {
    const char *tmp = getenv("TMPDIR"), *binary = getenv("TD_BINARY");
    if (!binary) binary = "build-dev/tandem";
    snprintf(p->folder, sizeof p->folder, "%s/td-identity-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(p->folder)) fail_msg("no folder %s", p->folder);
    const char *const heads[] = {"ordered", "dense"};
    for (int i = 0; i < 2; i++)
        run_command("%s synth tiny --type q4_0 --accept %.3f --vocab %d --head %s %s -q -o %s", binary, accept, n_vocab,
                    heads[i], i ? "--assistant-only" : "", p->folder);
    run_command("cd %s && mv tiny-q4_0.gguf target.gguf && mv *ordered*.gguf ordered.gguf && mv tiny-assist*.gguf "
                "dense.gguf",
                p->folder);
    snprintf(p->target, sizeof p->target, "%s/target.gguf", p->folder);
    snprintf(p->ordered, sizeof p->ordered, "%s/ordered.gguf", p->folder);
    snprintf(p->dense, sizeof p->dense, "%s/dense.gguf", p->folder);
}

void pair_remove(const pair *p) {
    run_command("rm -rf %s", p->folder);
}

td_engine *pair_open(pair_engine c) {
    td_engine_params p;
    td_engine_params_init(&p);
    p.model_path = c.target;
    p.draft_path = c.draft;
    p.weights_of = c.weights_of;
    p.n_threads = c.threads;
    p.n_ctx = c.n_ctx;
    p.type_k = p.type_v = c.type;
    p.context_shift = c.shift;
    p.spec_trace = c.trace;
    if (c.batch) p.n_batch = c.batch;
    if (c.slots) p.n_slots = c.slots;
    p.spec.n_max = 8;
    p.spec.types = TD_SPEC_MTP | TD_SPEC_NGRAM;
    td_engine *e = NULL;
    td_error err = {0};
    if (td_engine_open(&e, &p, &err)) fail_msg("%s", err.text);
    return e;
}

static void append(answer *a, const td_event *ev) {
    for (int i = 0; i < ev->n_tokens; i++) {
        assert_true(a->n < ANSWER_IDS);
        a->ids[a->n] = ev->tokens[i];
        a->drafted[a->n++] = ev->drafted[i];
    }
    assert_true(a->n_text + ev->n_text < ANSWER_TEXT);
    memcpy(a->text + a->n_text, ev->text, ev->n_text);
    a->n_text += ev->n_text;
}

void answer_read(td_job *j, answer *out) {
    memset(out, 0, sizeof *out);
    td_event ev;
    do {
        assert_int_equal(td_job_read(j, &ev, -1), TD_OK);
        append(out, &ev);
    } while (ev.kind != TD_EVENT_DONE);
    if (ev.finish == TD_FINISH_ERROR) fail_msg("%s", ev.error->text);
    out->finish = ev.finish;
    if (ev.stop_string) snprintf(out->stop, sizeof out->stop, "%s", ev.stop_string);
    out->truncated = ev.truncated;
    out->draft_n = ev.timings.draft_n;
    out->accepted = ev.timings.draft_n_accepted;
    out->rounds = ev.timings.draft_rounds;
    out->reused = ev.timings.cache_n;
    td_job_close(j);
}

void answer_same(const answer *a, const answer *b, const char *what, int number) {
    if (a->n != b->n || memcmp(a->ids, b->ids, (size_t)a->n * sizeof *a->ids) != 0)
        fail_msg("%s %d: other tokens (%d and %d)", what, number, a->n, b->n);
    if (a->n_text != b->n_text || memcmp(a->text, b->text, a->n_text) != 0)
        fail_msg("%s %d: '%.*s' and '%.*s'", what, number, (int)a->n_text, a->text, (int)b->n_text, b->text);
    if (a->finish != b->finish || strcmp(a->stop, b->stop) != 0 || a->truncated != b->truncated)
        fail_msg("%s %d: ends %d '%s' and %d '%s'", what, number, a->finish, a->stop, b->finish, b->stop);
}
