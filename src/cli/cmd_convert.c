/* `tandem convert`: a Hugging Face folder becomes one GGUF file. */
#include "commands.h"
#include "convert/convert.h"
#include "work.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef struct convert_values {
    const char *out, *type, *tokenizer, *name;
    int dialect;
    work_flags work;
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
    {.kind = TD_OPT_END}};

static td_status run(int n_args, char **args, void *values, td_error *err) {
    (void)n_args;
    const convert_values *v = values;
    if (!v->out) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no output: give -o FILE");
    td_convert_options o = {.dir = args[0], .tokenizer = v->tokenizer, .name = v->name, .old_dialect = v->dialect == 1};
    if (strcasecmp(v->type, "auto") != 0) {
        o.ftype = td_ftype_by_name(v->type);
        bool known = o.ftype && (!td_type_of(o.ftype->type)->is_quantised || o.ftype->type == TD_TYPE_Q8_0);
        if (!known) {
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "--type %s: convert writes f32, f16, bf16, q8_0 or auto; 'tandem quantize' makes the others",
                           v->type);
        }
    }
    work w;
    td_convert_report r = {0};
    td_status status = work_begin(&w, &v->work, err);
    o.pool = w.pool;
    o.progress = td_progress_bar;
    o.progress_user = &w.bar;
    if (status == TD_OK) status = td_convert(&o, v->out, &r, err);
    work_end(&w);
    if (status == TD_OK && !v->work.quiet) {
        printf("%s: %s, %s, %llu tensors, %.1f MB in %.1f s", v->out, r.arch, r.type, (unsigned long long)r.n_tensors,
               (double)r.n_bytes / 1e6, work_seconds(&w));
        if (r.n_skipped > 0) printf(" (%llu tensors left out)", (unsigned long long)r.n_skipped);
        putchar('\n');
    }
    return status;
}

int td_cmd_convert(int argc, char **argv) {
    convert_values v = {0};
    const td_option_set sets[] = {{convert_table, &v}, {work_options, &v.work}, {NULL, NULL}};
    const td_option_usage usage = {
        "convert", "DIR -o FILE [options]",
        "Turns a Hugging Face folder (config.json, safetensors, tokenizer.json) of a Gemma 4 model or of its MTP "
        "assistant into a GGUF file. Image and sound parts are left out.",
        1, 1};
    return td_command(&usage, sets, argc, argv, run);
}
