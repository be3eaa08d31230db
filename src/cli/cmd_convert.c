/* `tandem convert`: a Hugging Face folder becomes one GGUF file. */
#include "base/clock.h"
#include "base/progress.h"
#include "commands.h"
#include "convert/convert.h"
#include "options.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef struct convert_values {
    const char *out, *type, *tokenizer, *name;
    int dialect;
    int64_t n_threads;
    bool quiet;
} convert_values;

static const td_option convert_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Conversion"},
    {.kind = TD_OPT_STRING,
     .names = "--output --outfile -o",
     .offset = offsetof(convert_values, out),
     .arg = "FILE",
     .help = "The GGUF file to write; it appears whole or not at all"},
    {.kind = TD_OPT_STRING,
     .names = "--type --outtype",
     .offset = offsetof(convert_values, type),
     .arg = "TYPE",
     .def = "auto",
     .help = "Type of the matrices: f32, f16, bf16, q8_0, or auto, which keeps the checkpoint's own"},
    {.kind = TD_OPT_CHOICE,
     .names = "--dialect",
     .offset = offsetof(convert_values, dialect),
     .arg = "NAME",
     .def = "new",
     .words = "new old",
     .help = "Layout of an assistant: new is gemma4-assistant, old is gemma4_assistant"},
    {.kind = TD_OPT_STRING,
     .names = "--tokenizer",
     .offset = offsetof(convert_values, tokenizer),
     .arg = "PATH",
     .help = "tokenizer.json or its folder, where the checkpoint has none of its own"},
    {.kind = TD_OPT_STRING,
     .names = "--model-name",
     .offset = offsetof(convert_values, name),
     .arg = "NAME",
     .help = "general.name in the file; by default the folder's name"},
    {.kind = TD_OPT_GROUP, .help = "Running"},
    {.kind = TD_OPT_INT,
     .names = "--threads -t",
     .offset = offsetof(convert_values, n_threads),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 512,
     .env = "THREADS",
     .help = "Threads; 0 is one per core"},
    {.kind = TD_OPT_SWITCH,
     .names = "--quiet -q",
     .offset = offsetof(convert_values, quiet),
     .help = "No progress and no report"},
    {.kind = TD_OPT_END}};

static td_status run(const char *dir, const convert_values *v, td_error *err) {
    if (!v->out) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no output: give -o FILE");
    td_convert_options o = {.dir = dir, .tokenizer = v->tokenizer, .name = v->name, .old_dialect = v->dialect == 1};
    if (strcasecmp(v->type, "auto") != 0) {
        o.ftype = td_ftype_by_name(v->type);
        bool known = o.ftype && (!td_type_of(o.ftype->type)->is_quantised || o.ftype->type == TD_TYPE_Q8_0);
        if (!known) {
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "--type %s: convert writes f32, f16, bf16, q8_0 or auto; 'tandem quantize' makes the others",
                           v->type);
        }
    }
    td_progress bar;
    td_progress_init(&bar, v->quiet, "B");
    o.progress = td_progress_bar;
    o.progress_user = &bar;
    int64_t start = td_clock_ns();
    td_convert_report r = {0};
    td_status status = td_pool_create(&o.pool, &(td_pool_options){.n_threads = (int)v->n_threads}, err);
    if (status == TD_OK) status = td_convert(&o, v->out, &r, err);
    td_progress_end(&bar);
    td_pool_destroy(o.pool);
    if (status == TD_OK && !v->quiet) {
        printf("%s: %s, %s, %llu tensors, %.1f MB in %.1f s", v->out, r.arch, r.type, (unsigned long long)r.n_tensors,
               (double)r.n_bytes / 1e6, (double)(td_clock_ns() - start) * 1e-9);
        if (r.n_skipped > 0) printf(" (%llu tensors left out)", (unsigned long long)r.n_skipped);
        putchar('\n');
    }
    return status;
}

int td_cmd_convert(int argc, char **argv) {
    convert_values v = {0};
    const td_option_set sets[] = {{convert_table, &v}, {NULL, NULL}};
    const td_option_usage usage = {
        "convert", "DIR -o FILE [options]",
        "Turns a Hugging Face folder (config.json, safetensors, tokenizer.json) of a Gemma 4 model or of its MTP "
        "assistant into a GGUF file. Image and sound parts are left out.",
        1, 1};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    td_error err = {0};
    td_status status = run(argv[0], &v, &err);
    td_options_free(sets);
    if (status == TD_OK) return 0;
    fprintf(stderr, "tandem convert: %s\n", err.text);
    return 1;
}
