/* `tandem synth`: writes a target and its assistant with random weights and a chosen acceptance. */
#include "base/cpu.h"
#include "commands.h"
#include "convert/synth.h"
#include "work.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct synth_values {
    const char *dir, *type, *assistant_type;
    double accept;
    int head, dialect;
    int64_t seed, n_vocab, n_layer;
    bool target_only, assistant_only;
    work_flags work;
} synth_values;

static const td_option synth_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Pair"},
    {.kind = TD_OPT_STRING,
     .names = "--output -o",
     .offset = offsetof(synth_values, dir),
     .arg = "DIR",
     .def = ".",
     .help = "Folder for the files, made if it is not there"},
    {.kind = TD_OPT_STRING,
     .names = "--type",
     .offset = offsetof(synth_values, type),
     .arg = "TYPE",
     .def = "q4_0",
     .help =
         "Type of the target's weights: f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl iq4_xs tq3_1s tq4_1s q6_K or a "
         "mixture such as q4_K_M"},
    {.kind = TD_OPT_STRING,
     .names = "--assistant-type",
     .offset = offsetof(synth_values, assistant_type),
     .arg = "TYPE",
     .help = "Type of the assistant's weights; by default q8_0 for head and projections, q4_0 for layers"},
    {.kind = TD_OPT_FLOAT,
     .names = "--accept",
     .offset = offsetof(synth_values, accept),
     .arg = "P",
     .def = "0.8",
     .min = 0,
     .max = 1,
     .help = "Share of drafted tokens that the target agrees with, one token at a time"},
    {.kind = TD_OPT_CHOICE,
     .names = "--head",
     .offset = offsetof(synth_values, head),
     .arg = "HEAD",
     .def = "auto",
     .words = "auto dense ordered",
     .help = "Head of the assistant: auto is ordered for the forms of e2b and e4b"},
    {.kind = TD_OPT_CHOICE,
     .names = "--dialect",
     .offset = offsetof(synth_values, dialect),
     .arg = "NAME",
     .def = "new",
     .words = "new old",
     .help = "Layout of the assistant: new is gemma4-assistant, old is gemma4_assistant"},
    {.kind = TD_OPT_INT,
     .names = "--seed",
     .offset = offsetof(synth_values, seed),
     .arg = "N",
     .def = "7",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "Seed of all weights; the same seed gives the same files"},
    {.kind = TD_OPT_INT,
     .names = "--vocab",
     .offset = offsetof(synth_values, n_vocab),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 1 << 24,
     .help = "Entries of the vocabulary, a multiple of 128; 0 is the size's own"},
    {.kind = TD_OPT_INT,
     .names = "--layers",
     .offset = offsetof(synth_values, n_layer),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 64,
     .help =
         "Layers of the target, whole periods of sliding and full ones: a large size that fits; 0 is the size's own"},
    {.kind = TD_OPT_SWITCH,
     .names = "--target-only",
     .offset = offsetof(synth_values, target_only),
     .help = "Write no assistant"},
    {.kind = TD_OPT_SWITCH,
     .names = "--assistant-only --assist-only",
     .offset = offsetof(synth_values, assistant_only),
     .help = "Write no target"},
    {.kind = TD_OPT_GROUP, .help = "Running"},
    {.kind = TD_OPT_END}};

typedef td_status (*write_fn)(const td_synth_options *o, const char *path, td_error *err);

static td_status write_one(const td_synth_options *o, const synth_values *v, td_progress *bar, bool assistant,
                           td_error *err) {
    char name[128], path[4096];
    (assistant ? td_synth_assistant_name : td_synth_target_name)(o, name, sizeof name);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", v->dir, name) >= sizeof path) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the path %.60s… is too long", v->dir);
    }
    write_fn fn = assistant ? td_synth_assistant : td_synth_target;
    td_status status = fn(o, path, err);
    td_progress_end(bar);
    if (status != TD_OK) {
        td_error_prefix(err, "%s", path);
        return status;
    }
    struct stat st;
    if (!v->work.quiet && stat(path, &st) == 0) printf("%s  %.1f MB\n", path, (double)st.st_size / 1e6);
    return TD_OK;
}

static td_status run(int n_args, char **args, void *values, td_error *err) {
    (void)n_args;
    const synth_values *v = values;
    td_synth_options o = {.size = args[0],
                          .accept = v->accept,
                          .head = (td_synth_head)v->head,
                          .old_dialect = v->dialect == 1,
                          .seed = (uint64_t)v->seed,
                          .n_vocab = (uint64_t)v->n_vocab,
                          .n_layer = (uint32_t)v->n_layer};
    o.ftype = td_ftype_by_name(v->type);
    if (v->assistant_type) o.assistant_ftype = td_ftype_by_name(v->assistant_type);
    if (!o.ftype || (v->assistant_type && !o.assistant_ftype)) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%s' is not a type; 'tandem synth --help' lists them",
                       o.ftype ? v->assistant_type : v->type);
    }
    if (mkdir(v->dir, 0777) != 0 && errno != EEXIST) return td_fail_errno(err, errno, "cannot make %s", v->dir);
    work w;
    td_status status = work_begin(&w, &v->work, err);
    o.pool = w.pool;
    o.progress = td_progress_bar;
    o.progress_user = &w.bar;
    if (status == TD_OK && !v->assistant_only) status = write_one(&o, v, &w.bar, false, err);
    if (status == TD_OK && !v->target_only) status = write_one(&o, v, &w.bar, true, err);
    work_end(&w);
    return status;
}

int td_cmd_synth(int argc, char **argv) {
    synth_values v = {0};
    const td_option_set sets[] = {{synth_table, &v}, {work_options, &v.work}, {NULL, NULL}};
    const td_option_usage usage = {
        "synth", "SIZE [options]",
        "Writes SIZE-TYPE.gguf and SIZE-assistant-….gguf: a target and an assistant of the real shape (e2b, e4b, 12b, "
        "26b, 31b) or of its form in small (tiny, tiny-e4b, tiny-12b, tiny-26b, tiny-31b) with random weights, whose "
        "greedy text is a known walk over the vocabulary and whose drafts are right for a chosen share of tokens. For "
        "measuring speed without the real weights.",
        1, 1};
    return td_command(&usage, sets, argc, argv, run);
}
