/* `tandem eval`: perplexity over a text, the distance of a configuration from a saved reference run (KL divergence,
 * same top token), and the importance matrix of a text for `tandem quantize`. Windows, scoring, output and base file
 * follow llama-perplexity, so that numbers can be compared. */
#include "commands.h"
#include "engine_options.h"
#include "eval_base.h"
#include "eval_imatrix.h"
#include "eval_lookup.h"
#include "eval_stats.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/status.h"
#include "../text/tokenizer.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_options {
    const char *file, *base, *imatrix;
    int64_t chunks, probes;
    int imatrix_format;
    bool kld, json, special, lookup;
} eval_options;

#define AT(field) .offset = offsetof(eval_options, field)

static const td_option eval_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Evaluation"},
    {.kind = TD_OPT_STRING, .names = "--file -f", AT(file), .arg = "FILE", .help = "Text to score"},
    {.kind = TD_OPT_INT,
     .names = "--chunks",
     AT(chunks),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1 << 24,
     .help = "Windows at most; -1: all"},
    {.kind = TD_OPT_SWITCH,
     .names = "--parse-special",
     AT(special),
     .help = "Control tokens written in the text are control tokens: for chats"},
    {.kind = TD_OPT_STRING,
     .names = "--kl-divergence-base --save-all-logits",
     AT(base),
     .arg = "FILE",
     .help = "Reference run: written here, or with --kl-divergence read"},
    {.kind = TD_OPT_SWITCH,
     .names = "--kl-divergence",
     AT(kld),
     .help = "Compare with the reference run; text and windows come from it"},
    {.kind = TD_OPT_STRING,
     .names = "--imatrix --output-file",
     AT(imatrix),
     .arg = "FILE",
     .help = "Collect an importance matrix over the windows and write it here"},
    {.kind = TD_OPT_CHOICE,
     .names = "--output-format",
     AT(imatrix_format),
     .arg = "gguf|dat",
     .words = "auto gguf dat",
     .def = "auto",
     .help = "Form of the importance matrix; auto: by the ending of FILE"},
    {.kind = TD_OPT_SWITCH,
     .names = "--lookup",
     AT(lookup),
     .help = "Ask for facts of a long text instead, by their distance, up to the context (-c)"},
    {.kind = TD_OPT_INT,
     .names = "--probes",
     AT(probes),
     .arg = "N",
     .def = "20",
     .min = 1,
     .max = 100000,
     .help = "Questions at each distance"},
    {.kind = TD_OPT_SWITCH,
     .names = "--json",
     AT(json),
     .help = "Print one JSON object at the end instead of the tables"},
    {.kind = TD_OPT_ACCEPT, .names = "--ppl-stride --ppl-output-type", .arg = "N", .help = "No effect"},
    {.kind = TD_OPT_END},
};

typedef struct eval {
    const eval_options *o;
    td_engine *e;
    int n_ctx, n_vocab, n_chunk, first;
    const uint32_t *tokens; /* of the window in hand */
    double nll, nll2;
    long n;
    td_atomic_file *out;
    uint16_t *buffer; /* one row of the base file */
    const eval_base *base;
    float *base_row;
    size_t row;
    eval_stats stats;
    td_error *err;
} eval;

static bool on_row(void *user, int pos, const float *logits) {
    eval *v = user;
    if (pos + 1 >= v->n_ctx) return true; /* nothing follows the last token of a window */
    int next = (int)v->tokens[pos + 1];
    double lse = 0, nll = 0;
    if (eval_nll(logits, v->n_vocab, next, pos, &lse, &nll, v->err)) return false;
    v->nll += nll;
    v->nll2 += nll * nll;
    v->n++;
    if (v->out && eval_base_add(v->out, logits, v->n_vocab, lse, v->buffer, v->err)) return false;
    if (!v->base) return true;
    eval_base_row(v->base, v->row++, v->base_row);
    return eval_stats_add(&v->stats, logits, lse, v->base_row, v->n_vocab, next);
}

static void show_window(const eval *v, int i, double seconds) {
    if (v->o->json) return;
    if (i == 0) {
        double left = seconds * v->n_chunk;
        printf("%.2f seconds per pass - ETA %.2f minutes\n", seconds, left / 60);
    }
    if (v->base)
        eval_stats_line(&v->stats, i + 1);
    else
        printf("[%d]%.4f,", i + 1, exp(v->nll / (double)v->n));
    fflush(stdout);
}

static td_status run_windows(eval *v, uint32_t *tokens, td_error *err) {
    td_status status = TD_OK;
    uint32_t bos = td_vocab_bos(td_engine_vocab(v->e));
    for (int i = 0; i < v->n_chunk && !status; i++) {
        uint32_t *window = tokens + (size_t)i * (size_t)v->n_ctx;
        uint32_t kept = window[0];
        if (bos != TD_TOKEN_NONE) window[0] = bos;
        v->tokens = window;
        int64_t t = td_clock_ns();
        status = td_engine_score(v->e, window, v->n_ctx, v->first, on_row, v, err);
        window[0] = kept;
        if (!status) show_window(v, i, (double)(td_clock_ns() - t) * 1e-9);
    }
    return status;
}

static void report(eval *v, int64_t t_ns) {
    double mean = v->nll / (double)v->n, var = v->nll2 / (double)v->n - mean * mean, ppl = exp(mean);
    double error = var > 0 && v->n > 1 ? sqrt(var / (double)(v->n - 1)) * ppl : 0;
    td_engine_info info;
    td_engine_get_info(v->e, &info);
    if (!v->o->json) {
        if (v->base)
            eval_stats_report(&v->stats);
        else
            printf("\nFinal estimate: PPL = %.4f +/- %.5f\n", ppl, error);
        printf("Cache: keys %s, values %s, %llu bytes per position\n", td_cache_type_name(info.type_k),
               td_cache_type_name(info.type_v), (unsigned long long)info.kv_token_bytes);
        return;
    }
    json_t *o = v->base ? eval_stats_json(&v->stats) : json_object();
    json_object_set_new(o, "model", json_string(info.model_path));
    json_object_set_new(o, "type_k", json_string(td_cache_type_name(info.type_k)));
    json_object_set_new(o, "type_v", json_string(td_cache_type_name(info.type_v)));
    json_object_set_new(o, "kv_token_bytes", json_integer((json_int_t)info.kv_token_bytes));
    json_object_set_new(o, "n_ctx", json_integer(v->n_ctx));
    json_object_set_new(o, "chunks", json_integer(v->n_chunk));
    json_object_set_new(o, "ppl", json_real(ppl));
    json_object_set_new(o, "ppl_error", json_real(error));
    json_object_set_new(o, "seconds", json_real((double)t_ns * 1e-9));
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(o);
}

/* ---- input ---- */

static td_status read_tokens(eval *v, td_tokens *ids, td_error *err) {
    td_map m = {0};
    td_status status = td_map_open(&m, v->o->file, err);
    if (status) return status;
    status = td_vocab_tokenize(td_engine_vocab(v->e), (const char *)m.data, m.n_bytes,
                               v->o->special ? TD_SPECIAL_ALL : TD_SPECIAL_USER, true, ids, err);
    td_map_close(&m);
    if (!status && ids->n < 2 * (size_t)v->n_ctx)
        status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                         "%s has %zu tokens; two windows of %d are needed: use a longer text or a smaller -c",
                         v->o->file, ids->n, v->n_ctx);
    if (!status) v->n_chunk = (int)(ids->n / (size_t)v->n_ctx);
    return status;
}

static td_status base_tokens(eval *v, td_tokens *ids, td_error *err) {
    const eval_base *b = v->base;
    if (b->n_vocab != v->n_vocab)
        return td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET, "the reference run has a vocabulary of %d, the model of %d",
                       b->n_vocab, v->n_vocab);
    v->n_chunk = b->n_chunk;
    for (size_t i = 0; i < (size_t)b->n_ctx * (size_t)b->n_chunk; i++) {
        uint32_t id = 0;
        memcpy(&id, b->tokens + 4 * i, 4);
        if (id >= (uint32_t)v->n_vocab)
            return td_fail(err, TD_ERR_FORMAT, 20 + 4 * i, "token %u of the reference run is outside the vocabulary",
                           id);
        if (!td_tokens_add(ids, id)) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the tokens");
    }
    return TD_OK;
}

enum { SHORTEST = 8 }; /* the later half of a window is scored */

static td_status evaluate(eval *v, td_error *err) {
    td_tokens ids = {0};
    if (v->n_ctx < SHORTEST)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "-c %d: a window needs at least %d tokens", v->n_ctx,
                       SHORTEST);
    td_status status = v->base ? base_tokens(v, &ids, err) : read_tokens(v, &ids, err);
    if (v->o->chunks > 0 && v->n_chunk > v->o->chunks) v->n_chunk = (int)v->o->chunks;
    v->buffer = td_calloc(1, eval_base_row_bytes(v->n_vocab));
    v->base_row = td_calloc((size_t)v->n_vocab, sizeof *v->base_row);
    if (!v->buffer || !v->base_row) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    if (!status && v->o->base && !v->base) {
        status = td_atomic_open(&v->out, v->o->base, err);
        if (!status) status = eval_base_begin(v->out, v->n_ctx, v->n_vocab, v->n_chunk, ids.ids, err);
    }
    int64_t t = td_clock_ns();
    if (!status) status = run_windows(v, ids.ids, err);
    if (!status) report(v, td_clock_ns() - t);
    if (!status && v->o->imatrix)
        status = eval_imatrix_write(v->e, v->o->imatrix, v->o->imatrix_format, v->o->file ? v->o->file : "", v->n_chunk,
                                    v->n_ctx, err);
    if (v->out && !status)
        status = td_atomic_commit(v->out, err);
    else if (v->out)
        td_atomic_discard(v->out);
    free(v->buffer);
    free(v->base_row);
    eval_stats_free(&v->stats);
    td_tokens_free(&ids);
    return status;
}

int td_cmd_eval(int argc, char **argv) {
    eval_options o = {0};
    td_engine_flags f;
    td_engine_flags_init(&f);
    f.check_tensors = true; /* steps take NaN for 0: the figure would be wrong and look like any other */
    const td_option_set sets[] = {{eval_table, &o}, {td_engine_options, &f}, {NULL, NULL}};
    const td_option_usage usage = {"eval", "-m MODEL.gguf -f TEXT [options]",
                                   "Perplexity of a text, KL divergence, importance matrix, look-up by distance.", 0,
                                   0};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    td_error err = {0};
    eval_base base = {0};
    eval v = {.o = &o, .err = &err};
    td_status status = TD_OK;
    if (!f.model || (!o.file && !o.kld && !o.lookup) || (o.kld && !o.base))
        status = td_fail(&err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                         "needs -m MODEL and -f TEXT, or --kl-divergence with --kl-divergence-base FILE, or --lookup");
    if (!status && o.kld) status = eval_base_open(&base, o.base, &err);
    if (!status) {
        if (o.kld) f.n_ctx = base.n_ctx;
        if (f.n_ctx == 0) f.n_ctx = 512;
        v.n_ctx = (int)f.n_ctx;
        f.n_ctx += 64; /* the engine keeps a little room */
        f.n_logit_rows = 64;
        f.importance = o.imatrix != NULL;
        if ((v.e = td_engine_from_flags("eval", &f))) {
            td_engine_info info;
            td_engine_get_info(v.e, &info);
            v.n_vocab = info.n_vocab;
            v.first = v.n_ctx / 2;
            v.base = o.kld ? &base : NULL;
            status = o.lookup ? eval_lookup(v.e, v.n_ctx, (int)o.probes, o.json, &err) : evaluate(&v, &err);
            td_engine_close(v.e);
        } else {
            status = TD_ERR_IO;
        }
    }
    if (status && err.text[0]) fprintf(stderr, "tandem eval: %s\n", err.text);
    eval_base_close(&base);
    td_options_free(sets);
    return status ? 1 : 0;
}
