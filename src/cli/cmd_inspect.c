/* `tandem inspect FILE [-md ASSISTANT]`: what a GGUF holds, whether this program can use it, and whether an assistant
 * fits it. The model is bound without packing, so that every check of loading runs and nothing is read but headers,
 * norms and the vocabulary. inspect_print.c shows what is found here. */
#include "commands.h"
#include "inspect.h"
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct inspect_options {
    bool json, tensors, metadata;
    const char *model, *draft;
} inspect_options;

static const td_option inspect_table[] = {{.kind = TD_OPT_GROUP, .help = "Files"},
                                          {.kind = TD_OPT_STRING,
                                           .names = "--model -m",
                                           .offset = offsetof(inspect_options, model),
                                           .arg = "FILE",
                                           .env = "MODEL",
                                           .help = "The file, instead of the argument"},
                                          {.kind = TD_OPT_STRING,
                                           .names = "--model-draft -md --spec-draft-model --mtp-head",
                                           .offset = offsetof(inspect_options, draft),
                                           .arg = "FILE",
                                           .env = "SPEC_DRAFT_MODEL",
                                           .help = "An assistant: say whether it fits the target, and why not"},
                                          {.kind = TD_OPT_GROUP, .help = "Output"},
                                          {.kind = TD_OPT_SWITCH,
                                           .names = "--json",
                                           .offset = offsetof(inspect_options, json),
                                           .help = "Print one JSON object"},
                                          {.kind = TD_OPT_SWITCH,
                                           .names = "--tensors",
                                           .negative = "--no-tensors",
                                           .offset = offsetof(inspect_options, tensors),
                                           .def = "on",
                                           .help = "List every tensor"},
                                          {.kind = TD_OPT_SWITCH,
                                           .names = "--metadata",
                                           .negative = "--no-metadata",
                                           .offset = offsetof(inspect_options, metadata),
                                           .def = "on",
                                           .help = "List every key"},
                                          {.kind = TD_OPT_END}};

static int by_bytes(const void *a, const void *b) {
    const inspect_mix *x = a, *y = b;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? 1 : -1;
    return (int)x->type->id - (int)y->type->id;
}

/* Tensors, values and bytes per type, the largest share first. */
static void count_types(inspect_report *r) {
    for (size_t i = 0; i < td_gguf_n_tensors(r->gguf); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(r->gguf, i);
        int k = 0;
        while (k < r->n_mix && r->mix[k].type != t->type) k++;
        if (k == INSPECT_TYPES) continue;
        if (k == r->n_mix) r->mix[r->n_mix++] = (inspect_mix){.type = t->type};
        uint64_t n = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        r->mix[k].n_tensors++;
        r->mix[k].n_values += n;
        r->mix[k].n_bytes += t->n_bytes;
        r->n_values += n;
        r->n_bytes += t->n_bytes;
    }
    qsort(r->mix, (size_t)r->n_mix, sizeof r->mix[0], by_bytes);
}

/* Can this program use the file? A target is bound completely; an assistant alone has only its shape to check, because
 * the rest depends on its target. */
static void check_usable(inspect_report *r, const char *path) {
    r->assistant = td_arch_is_assistant(td_gguf_arch(r->gguf));
    td_status status = td_shape_read(&r->shape, r->gguf, r->assistant, &r->usable);
    r->has_shape = status == TD_OK;
    if (status != TD_OK || r->assistant) return;
    const td_model_options options = {.path = path, .no_pack = true};
    if (td_model_load(&r->model, &options, &r->usable) == TD_OK) r->memory = td_model_memory_use(r->model);
}

/* The codes and checks of attaching; td_drafter_load runs all of them, td_attach_check those that need no target's
 * weights. */
static void check_pair(inspect_report *r, const char *path) {
    r->draft_path = path;
    (void)td_gguf_open(&r->draft, path, NULL); /* for the list of its tensors; why it failed is said below */
    if (r->model != NULL) {
        td_drafter *d = NULL;
        const td_drafter_options options = {.file = {.path = path, .no_pack = true}};
        td_status status = td_drafter_load(&d, &options, r->model, &r->code, &r->draft_error);
        if (status == TD_OK) {
            r->ordered = td_drafter_is_ordered(d);
            r->draft_bytes = td_drafter_memory_use(d).file_bytes;
        } else if (r->code == TD_ATTACH_OK) {
            r->code = TD_ATTACH_FILE;
        }
        td_drafter_free(d);
        return;
    }
    td_gguf *a = NULL;
    if (td_gguf_open(&a, path, &r->draft_error) != TD_OK)
        r->code = TD_ATTACH_FILE;
    else
        r->code = td_attach_check(r->gguf, a, &r->draft_error);
    if (r->code == TD_ATTACH_OK) { /* the headers fit, but the target itself cannot be used */
        r->code = TD_ATTACH_NO_MODEL;
        r->draft_error = r->usable;
    }
    td_gguf_close(a);
}

int td_cmd_inspect(int argc, char **argv) {
    inspect_options o = {0};
    inspect_report r = {0};
    td_error err = {0};
    const td_option_set sets[] = {{inspect_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"inspect", "FILE [-md ASSISTANT] [options]",
                                   "Prints what a GGUF file holds, whether it is sound, and whether an assistant fits "
                                   "it. Exit code 1 when the file "
                                   "cannot be used or the assistant does not fit.",
                                   0, 1};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    const char *path = n > 0 ? argv[0] : o.model;
    if (path == NULL) {
        fprintf(stderr, "tandem inspect: a file is needed; usage: tandem inspect %s\n", usage.synopsis);
        return 1;
    }
    if (td_gguf_open(&r.gguf, path, &err) != TD_OK) {
        fprintf(stderr, "tandem inspect: %s\n", err.text);
        return 1;
    }
    count_types(&r);
    check_usable(&r, path);
    if (o.draft != NULL) check_pair(&r, o.draft);
    if (o.json)
        inspect_print_json(&r, o.metadata, o.tensors);
    else
        inspect_print_table(&r, o.metadata, o.tensors);
    bool bad = r.usable.code != TD_OK || r.code != TD_ATTACH_OK;
    td_model_free(r.model);
    td_shape_free(&r.shape);
    td_gguf_close(r.gguf);
    td_gguf_close(r.draft);
    return bad ? 1 : 0;
}
