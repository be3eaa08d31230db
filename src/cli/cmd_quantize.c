/* `tandem quantize`: a GGUF file with smaller types. Arguments and flags are those of llama-quantize. */
#include "commands.h"
#include "convert/quantize.h"
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RULES = 1024, MAX_RULE_FILE = 1 << 20 };

typedef struct quantize_values {
    const char *output_type, *embedding_type, *imatrix, *rule_file;
    td_option_list rules, include, exclude;
    bool pure, leave_output, allow_requantize, keep_split, dry_run, verbose;
    work_flags work;
} quantize_values;

static const td_option quantize_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Types"},
    {.kind = TD_OPT_LIST,
     .names = "--tensor-type",
     .offset = offsetof(quantize_values, rules),
     .arg = "REGEX=TYPE",
     .help = "Type for tensors whose name the expression is found in; may be repeated, the first that fits wins"},
    {.kind = TD_OPT_STRING,
     .names = "--tensor-type-file",
     .offset = offsetof(quantize_values, rule_file),
     .arg = "FILE",
     .help = "A file of REGEX=TYPE, apart by blanks or lines"},
    {.kind = TD_OPT_STRING,
     .names = "--output-tensor-type",
     .offset = offsetof(quantize_values, output_type),
     .arg = "TYPE",
     .help = "Type of output.weight, or of the embedding where it is the output too"},
    {.kind = TD_OPT_STRING,
     .names = "--token-embedding-type",
     .offset = offsetof(quantize_values, embedding_type),
     .arg = "TYPE",
     .help = "Type of token_embd and per_layer_token_embd"},
    {.kind = TD_OPT_SWITCH,
     .names = "--pure",
     .offset = offsetof(quantize_values, pure),
     .help = "The type itself for all matrices instead of its mixture"},
    {.kind = TD_OPT_SWITCH,
     .names = "--leave-output-tensor",
     .offset = offsetof(quantize_values, leave_output),
     .help = "Keep output.weight as it is"},
    {.kind = TD_OPT_SWITCH,
     .names = "--allow-requantize",
     .offset = offsetof(quantize_values, allow_requantize),
     .help = "Accept a file that is quantised already; quality suffers"},
    {.kind = TD_OPT_GROUP, .help = "Importance"},
    {.kind = TD_OPT_STRING,
     .names = "--imatrix",
     .offset = offsetof(quantize_values, imatrix),
     .arg = "FILE",
     .help = "Importance matrix, GGUF or .dat"},
    {.kind = TD_OPT_LIST,
     .names = "--include-weights",
     .offset = offsetof(quantize_values, include),
     .arg = "NAME",
     .help = "Use importance only for tensors whose name contains this; may be repeated"},
    {.kind = TD_OPT_LIST,
     .names = "--exclude-weights",
     .offset = offsetof(quantize_values, exclude),
     .arg = "NAME",
     .help = "Use importance for all but these; may be repeated"},
    {.kind = TD_OPT_GROUP, .help = "Running"},
    {.kind = TD_OPT_SWITCH,
     .names = "--keep-split",
     .offset = offsetof(quantize_values, keep_split),
     .help = "Write as many parts as the input has"},
    {.kind = TD_OPT_SWITCH,
     .names = "--dry-run",
     .offset = offsetof(quantize_values, dry_run),
     .help = "Only tell types and sizes"},
    {.kind = TD_OPT_SWITCH,
     .names = "--verbose -v",
     .offset = offsetof(quantize_values, verbose),
     .help = "List all tensors"},
    {.kind = TD_OPT_END}};

static const td_type_info *writable_type(const char *name, td_error *err) {
    const td_type_info *t = td_type_by_name(name);
    if (!t) { /* names of mixtures stand for their main type here */
        const td_ftype *f = td_ftype_by_name(name);
        t = f ? td_type_of(f->type) : NULL;
    }
    if (t && t->encode && t->decode && t->id < TD_TYPE_TURBO2) return t;
    td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%.60s' is not a type that can be written", name);
    return NULL;
}

/* Splits "REGEX=TYPE" at its last '='; the text is changed. */
static td_status add_rule(char *text, td_quantize_rule *rules, int *n, td_error *err) {
    char *eq = strrchr(text, '=');
    if (!eq || eq == text || *n == MAX_RULES) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--tensor-type '%.80s': the form is REGEX=TYPE", text);
    }
    *eq = 0;
    const td_type_info *t = writable_type(eq + 1, err);
    if (!t) return TD_ERR_ARGUMENT;
    rules[(*n)++] = (td_quantize_rule){text, t};
    return TD_OK;
}

/* `store` receives the text that the patterns point into. */
static td_status read_rules(const quantize_values *v, td_quantize_rule *rules, int *n, char **store, td_error *err) {
    size_t total = 1;
    for (int i = 0; i < v->rules.n; i++) total += strlen(v->rules.items[i]) + 1;
    FILE *f = v->rule_file ? fopen(v->rule_file, "rb") : NULL;
    if (v->rule_file && !f) return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "cannot open %s", v->rule_file);
    char *at = *store = calloc(1, total + MAX_RULE_FILE);
    td_status status = at ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the rules");
    for (int i = 0; i < v->rules.n && status == TD_OK; i++) {
        char *text = at;
        size_t n_bytes = strlen(v->rules.items[i]) + 1;
        memcpy(at, v->rules.items[i], n_bytes);
        at += n_bytes;
        status = add_rule(text, rules, n, err);
    }
    if (f && status == TD_OK) {
        size_t got = fread(at, 1, MAX_RULE_FILE - 1, f);
        if (got == MAX_RULE_FILE - 1) status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%s is too long", v->rule_file);
        char *rest = NULL;
        for (char *w = strtok_r(at, " \t\r\n", &rest); w && status == TD_OK; w = strtok_r(NULL, " \t\r\n", &rest)) {
            status = add_rule(w, rules, n, err);
        }
    }
    if (f) fclose(f);
    return status;
}

static void print_tensor(void *user, const char *name, const td_type_info *from, const td_type_info *to,
                         uint64_t from_bytes, uint64_t to_bytes) {
    (void)user;
    printf("%-48s %-7s %10.2f MB -> %-7s %10.2f MB\n", name, from->name, (double)from_bytes / 1e6, to->name,
           (double)to_bytes / 1e6);
}

static void print_report(const quantize_values *v, const char *out, const td_quantize_report *r, double seconds) {
    printf("%s%s: %llu tensors, %.1f MB -> %.1f MB", v->dry_run ? "dry run, " : "", out,
           (unsigned long long)r->n_tensors, (double)r->from_bytes / 1e6, (double)r->to_bytes / 1e6);
    if (!v->dry_run) printf(" in %.1f s", seconds);
    putchar('\n');
    if (r->n_fell_back) {
        printf("%llu tensors have rows that the type's blocks do not divide; they got another type\n",
               (unsigned long long)r->n_fell_back);
    }
    if (r->n_without_importance) {
        printf("%llu tensors are not in the importance matrix\n", (unsigned long long)r->n_without_importance);
    }
}

/* A NULL-terminated copy of a list's pointers, or NULL when it is empty. */
static const char **terminated(const td_option_list *l) {
    if (l->n == 0) return NULL;
    const char **out = calloc((size_t)l->n + 1, sizeof *out);
    for (int i = 0; out && i < l->n; i++) out[i] = l->items[i];
    return out;
}

static td_status run_with(const char *in, const char *out, const quantize_values *v, const td_quantize_options *base,
                          td_error *err) {
    td_quantize_options own = *base, *o = &own;
    td_imatrix *m = NULL;
    work w;
    td_quantize_report r = {0};
    if (v->include.n && v->exclude.n) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "--include-weights and --exclude-weights exclude each other");
    }
    td_status status = work_begin(&w, &v->work, err);
    o->pool = w.pool;
    o->progress = td_progress_bar;
    o->progress_user = &w.bar;
    if (v->imatrix && status == TD_OK) status = td_imatrix_open(&m, v->imatrix, err);
    o->imatrix = m;
    o->imatrix_path = v->imatrix;
    const char **include = terminated(&v->include), **exclude = terminated(&v->exclude);
    o->include = include;
    o->exclude = exclude;
    if (v->verbose || v->dry_run) o->each = print_tensor;
    if (status == TD_OK) status = td_quantize(in, out, o, &r, err);
    work_end(&w);
    td_imatrix_close(m);
    free(include);
    free(exclude);
    if (status == TD_OK && !v->work.quiet) print_report(v, out, &r, work_seconds(&w));
    return status;
}

static td_status run(int n, char **args, void *values, td_error *err) {
    quantize_values *v = values;
    char given[4200], *end = NULL;
    /* IN [OUT] TYPE [THREADS] */
    if (n > 2 && strtol(args[n - 1], &end, 10) > 0 && *end == 0 && td_ftype_by_name(args[n - 2])) {
        v->work.n_threads = strtol(args[--n], NULL, 10);
    }
    if (n < 2 || n > 3) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the arguments are IN [OUT] TYPE [THREADS]");
    td_quantize_options o = {.ftype = td_ftype_by_name(args[n - 1]),
                             .pure = v->pure,
                             .leave_output = v->leave_output,
                             .allow_requantize = v->allow_requantize,
                             .keep_split = v->keep_split,
                             .dry_run = v->dry_run};
    if (!o.ftype) {
        char list[512] = "";
        for (int i = 0; td_ftype_at(i); i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), " %s", td_ftype_at(i)->name);
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%.40s' is not a type; there are%s", args[n - 1], list);
    }
    const char *out = n == 3 ? args[1] : given, *slash = strrchr(args[0], '/');
    snprintf(given, sizeof given, "%.*sggml-model-%s.gguf", slash ? (int)(slash - args[0] + 1) : 0, args[0],
             o.ftype->name);
    if (v->output_type && !(o.output_type = writable_type(v->output_type, err))) return TD_ERR_ARGUMENT;
    if (v->embedding_type && !(o.embedding_type = writable_type(v->embedding_type, err))) return TD_ERR_ARGUMENT;
    td_quantize_rule *rules = calloc(MAX_RULES, sizeof *rules);
    char *store = NULL;
    td_status status = rules ? read_rules(v, rules, &o.n_rules, &store, err)
                             : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the rules");
    o.rules = rules;
    if (status == TD_OK) status = run_with(args[0], out, v, &o, err);
    free(rules);
    free(store);
    return status;
}

int td_cmd_quantize(int argc, char **argv) {
    quantize_values v = {0};
    const td_option_set sets[] = {{quantize_table, &v}, {work_options, &v.work}, {NULL, NULL}};
    const td_option_usage usage = {
        "quantize", "[options] IN [OUT] TYPE [THREADS]",
        "Writes a GGUF file with smaller types for its matrices. TYPE is f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, "
        "q2_K, q2_K_S, q3_K_S, q3_K_M, q3_K_L, q4_K_S, q4_K_M, q5_K_S, q5_K_M, q6_K, iq4_nl, iq4_xs, tq3_1s or tq4_1s. "
        "Models and assistants alike.",
        2, 4};
    return td_command(&usage, sets, argc, argv, run);
}
