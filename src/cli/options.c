/* Option tables: parsing. Printing (help, manual page, completion words) is options_print.c.
 *
 * getopt_long_only does the scanning; around it stand two rules it lacks: names match whole, never by prefix, so that a
 * new option cannot change the meaning of an old script; and `_` equals `-` in names. */
#define _GNU_SOURCE
#include "options.h"

#include "options_print.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_HELP = -2, ID_MAN = -3, ID_WORDS = -4 };

typedef struct name_entry {
    const char *name; /* without dashes, owned */
    const td_option *option;
    void *values;
    bool negative;
    int id; /* ID_* or index */
} name_entry;

typedef struct parser {
    const td_option_usage *usage;
    const td_option_set *sets;
    name_entry *names;
    int n_names, cap_names;
} parser;

/* ---- values ---- */

/* Is the `len` bytes at `word` equal to text? */
static bool word_is(const char *word, size_t len, const char *text) {
    return strlen(text) == len && memcmp(word, text, len) == 0;
}

/* Looks text up in "auto=-1 all=-2". */
static bool named_value(const char *words, const char *text, int64_t *out) {
    for (const char *w = words; w != NULL && *w != 0;) {
        size_t len = strcspn(w, " "), eq = strcspn(w, "=");
        if (eq < len && word_is(w, eq, text)) {
            *out = strtoll(w + eq + 1, NULL, 10);
            return true;
        }
        w += len + strspn(w + len, " ");
    }
    return false;
}

/* Index of text in "on off|no auto", -1 when absent. */
static int choice_index(const char *words, const char *text) {
    int index = 0;
    for (const char *w = words; w != NULL && *w != 0; index++) {
        size_t len = strcspn(w, " ");
        for (size_t at = 0; at < len;) {
            size_t n = strcspn(w + at, "| ");
            if (word_is(w + at, n, text)) return index;
            at += n + 1;
        }
        w += len + strspn(w + len, " ");
    }
    return -1;
}

static td_status parse_switch(const char *text, bool *out, td_error *err) {
    int i = choice_index("true|1|on|enabled|yes false|0|off|disabled|no", text);
    if (i < 0) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%s' is not on or off", text);
    *out = i == 0;
    return TD_OK;
}

static bool in_range(const td_option *o, double v) {
    return (o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max);
}

static td_status parse_int(const td_option *o, const char *text, int64_t *out, td_error *err) {
    if (named_value(o->words, text, out)) return TD_OK;
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end != 0 || errno == ERANGE)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%s' is not a whole number%s%s", text,
                       o->words != NULL ? " or one of " : "", o->words != NULL ? o->words : "");
    if (!in_range(o, (double)v))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%lld is out of range (%.0f to %.0f)", v, o->min, o->max);
    *out = v;
    return TD_OK;
}

static td_status parse_float(const td_option *o, const char *text, double *out, td_error *err) {
    char *end = NULL;
    double v = strtod(text, &end);
    if (end == text || *end != 0 || !isfinite(v))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%s' is not a number", text);
    if (!in_range(o, v))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%g is out of range (%g to %g)", v, o->min, o->max);
    *out = v;
    return TD_OK;
}

static td_status append_item(td_option_list *list, const char *text, td_error *err) {
    const char **items = realloc(list->items, (size_t)(list->n + 1) * sizeof *items);
    if (items == NULL) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "out of memory");
    list->items = items;
    list->items[list->n++] = text;
    return TD_OK;
}

/* `text` as a value of `o` into `field`. */
static td_status parse_value(const td_option *o, const char *text, void *field, td_error *err) {
    switch (o->kind) {
    case TD_OPT_SWITCH:
        return parse_switch(text, field, err);
    case TD_OPT_INT:
        return parse_int(o, text, field, err);
    case TD_OPT_FLOAT:
        return parse_float(o, text, field, err);
    case TD_OPT_STRING:
        *(const char **)field = text;
        return TD_OK;
    case TD_OPT_LIST:
        return append_item(field, text, err);
    case TD_OPT_CHOICE: {
        int i = choice_index(o->words, text);
        if (i < 0) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'%s' is not one of: %s", text, o->words);
        *(int *)field = i;
        return TD_OK;
    }
    default:
        return TD_OK;
    }
}

/* ---- names ---- */

static bool add_name(parser *p, const char *name, size_t len, const td_option *o, void *values, bool negative, int id) {
    if (p->n_names == p->cap_names) {
        int cap = p->cap_names == 0 ? 128 : p->cap_names * 2;
        name_entry *grown = realloc(p->names, (size_t)cap * sizeof *grown);
        if (grown == NULL) return false;
        p->names = grown;
        p->cap_names = cap;
    }
    while (len > 0 && *name == '-') {
        name++;
        len--;
    }
    char *copy = strndup(name, len);
    if (copy == NULL) return false;
    p->names[p->n_names] = (name_entry){copy, o, values, negative, id};
    p->n_names++;
    return true;
}

static bool add_names(parser *p, const char *names, const td_option *o, void *values, bool negative) {
    for (const char *w = names; w != NULL && *w != 0;) {
        size_t len = strcspn(w, " ");
        if (!add_name(p, w, len, o, values, negative, 0)) return false;
        w += len + strspn(w + len, " ");
    }
    return true;
}

static bool collect_names(parser *p) {
    for (const td_option_set *s = p->sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++) {
            if (!add_names(p, o->names, o, s->values, false)) return false;
            if (!add_names(p, o->negative, o, s->values, true)) return false;
        }
    return add_name(p, "help", 4, NULL, NULL, false, ID_HELP) && add_name(p, "h", 1, NULL, NULL, false, ID_HELP) &&
           add_name(p, "man-section", 11, NULL, NULL, false, ID_MAN) &&
           add_name(p, "completion-words", 16, NULL, NULL, false, ID_WORDS);
}

static const name_entry *find_name(const parser *p, const char *name, size_t len) {
    for (int i = 0; i < p->n_names; i++)
        if (word_is(name, len, p->names[i].name)) return &p->names[i];
    return NULL;
}

static void free_parser(parser *p) {
    for (int i = 0; i < p->n_names; i++) free((void *)p->names[i].name);
    free(p->names);
}

static int edit_distance(const char *a, const char *b) {
    enum { MAX = 48 };
    size_t na = strlen(a), nb = strlen(b);
    if (na > MAX || nb > MAX) return MAX;
    int row[MAX + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *td_option_nearest(const char *given, const char *const *names, int n) {
    const char *best = NULL;
    int limit = (int)strlen(given) / 3 + 1;
    for (int i = 0; i < n; i++) {
        int d = edit_distance(given, names[i]);
        if (d <= limit && strlen(names[i]) > 1) {
            best = names[i];
            limit = d - 1;
        }
    }
    return best;
}

/* ---- defaults, environment, command line ---- */

static int complain(const parser *p, const char *name, const td_error *err) {
    fprintf(stderr, "tandem %s: %s: %s\n", p->usage->command, name, err->text);
    return 1;
}

static void *field_of(const td_option *o, void *values) {
    return (char *)values + o->offset;
}

static const char *read_env(const char *prefix, const char *no, const char *name, char *key, size_t n_key) {
    snprintf(key, n_key, "%s%s%s", prefix, no, name);
    const char *value = getenv(key);
    return value != NULL && *value != 0 ? value : NULL;
}

static int apply_env(const parser *p, const td_option *o, void *values) {
    static const char *const prefixes[] = {"TANDEM_", "LLAMA_ARG_"};
    char key[96];
    for (int i = 0; i < 2; i++) {
        td_error err = {0};
        if (o->kind == TD_OPT_SWITCH && read_env(prefixes[i], "NO_", o->env, key, sizeof key) != NULL) {
            *(bool *)field_of(o, values) = false;
            return 0;
        }
        const char *value = read_env(prefixes[i], "", o->env, key, sizeof key);
        if (value == NULL) continue;
        if (parse_value(o, value, field_of(o, values), &err) != TD_OK) return complain(p, key, &err);
        return 0;
    }
    return 0;
}

static int apply_defaults(const parser *p) {
    for (const td_option_set *s = p->sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++) {
            td_error err = {0};
            if (o->kind == TD_OPT_GROUP || o->kind == TD_OPT_ACCEPT) continue;
            if (o->def != NULL && parse_value(o, o->def, field_of(o, s->values), &err) != TD_OK)
                return complain(p, o->names, &err);
            if (o->env != NULL && apply_env(p, o, s->values) != 0) return 1;
        }
    return 0;
}

static int apply_option(const parser *p, const name_entry *e, const char *value) {
    const td_option *o = e->option;
    td_error err = {0};
    if (o->note != NULL || o->kind == TD_OPT_ACCEPT)
        fprintf(stderr, "tandem %s: warning: --%s: %s\n", p->usage->command, e->name,
                o->note != NULL ? o->note : "accepted, without effect");
    if (o->kind == TD_OPT_ACCEPT) return 0;
    if (o->kind == TD_OPT_SWITCH) {
        *(bool *)field_of(o, e->values) = !e->negative;
        return 0;
    }
    if (parse_value(o, value, field_of(o, e->values), &err) != TD_OK) {
        char shown[64];
        snprintf(shown, sizeof shown, "%s%s", strlen(e->name) > 1 ? "--" : "-", e->name);
        return complain(p, shown, &err);
    }
    return 0;
}

/* `--ctx_size` becomes `--ctx-size` in place when that is an option's name and the word as given is not. */
static void normalise_names(const parser *p, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *a = argv[i];
        if (strcmp(a, "--") == 0) return;
        if (a[0] != '-') continue;
        a += 1 + (a[1] == '-');
        size_t len = strcspn(a, "=");
        if (len == 0 || len > 63 || find_name(p, a, len) != NULL) continue;
        char fixed[64];
        for (size_t j = 0; j < len; j++) fixed[j] = a[j] == '_' ? '-' : a[j];
        if (find_name(p, fixed, len) != NULL) memcpy(a, fixed, len);
    }
}

static td_options_outcome unknown_option(const parser *p, const char *word) {
    while (*word == '-') word++;
    char given[64];
    snprintf(given, sizeof given, "%.*s", (int)(strcspn(word, "=") < 63 ? strcspn(word, "=") : 63), word);
    const char **names = calloc((size_t)p->n_names, sizeof *names);
    const char *near = NULL;
    if (names != NULL) {
        for (int i = 0; i < p->n_names; i++) names[i] = p->names[i].name;
        near = td_option_nearest(given, names, p->n_names);
        free(names);
    }
    fprintf(stderr, "tandem %s: unknown option '%s%s'%s%s%s\n", p->usage->command, strlen(given) > 1 ? "--" : "-",
            given, near != NULL ? ", did you mean '--" : "", near != NULL ? near : "", near != NULL ? "'?" : "");
    return TD_OPTIONS_ERROR;
}

static bool takes_value(const name_entry *e) {
    if (e->option == NULL || e->option->kind == TD_OPT_SWITCH) return false;
    return e->option->kind != TD_OPT_ACCEPT || e->option->arg != NULL;
}

static struct option *make_long_options(const parser *p) {
    struct option *lo = calloc((size_t)p->n_names + 1, sizeof *lo);
    for (int i = 0; lo != NULL && i < p->n_names; i++)
        lo[i] = (struct option){p->names[i].name, takes_value(&p->names[i]) ? required_argument : no_argument, NULL, 0};
    return lo;
}

static td_options_outcome print_special(const parser *p, int id) {
    if (id == ID_HELP) td_options_print_help(p->usage, p->sets, stdout);
    if (id == ID_MAN) td_options_print_man(p->usage, p->sets, stdout);
    if (id == ID_WORDS) td_options_print_words(p->usage, p->sets, stdout);
    return TD_OPTIONS_DONE;
}

static td_options_outcome scan(const parser *p, const struct option *lo, int argc, char **argv) {
    optind = 0; /* starts afresh, also after another scan in this process */
    opterr = 0;
    for (;;) {
        int index = -1, got = getopt_long_only(argc, argv, ":", lo, &index);
        if (got == -1) return TD_OPTIONS_RUN;
        const char *word = argv[optind - 1];
        if (got == ':') {
            fprintf(stderr, "tandem %s: %s needs a value\n", p->usage->command, word);
            return TD_OPTIONS_ERROR;
        }
        if (got != 0 || index < 0) return unknown_option(p, word);
        const name_entry *e = &p->names[index];
        if (optarg != NULL && optarg == word && optind >= 2) word = argv[optind - 2];
        while (*word == '-') word++;
        if (!word_is(word, strcspn(word, "="), e->name)) return unknown_option(p, word);
        if (e->id != 0) return print_special(p, e->id);
        if (apply_option(p, e, optarg) != 0) return TD_OPTIONS_ERROR;
    }
}

static td_options_outcome check_args(const td_option_usage *u, int n) {
    if (n >= u->min_args && (u->max_args < 0 || n <= u->max_args)) return TD_OPTIONS_RUN;
    fprintf(stderr, "tandem %s: %s; usage: tandem %s %s\n", u->command,
            n < u->min_args ? "an argument is missing" : "too many arguments", u->command, u->synopsis);
    return TD_OPTIONS_ERROR;
}

td_options_outcome td_options_parse(const td_option_usage *usage, const td_option_set *sets, int argc, char **argv,
                                    int *n_args) {
    parser p = {.usage = usage, .sets = sets};
    struct option *lo = NULL;
    td_options_outcome outcome = TD_OPTIONS_ERROR;
    if (!collect_names(&p) || (lo = make_long_options(&p)) == NULL) {
        fprintf(stderr, "tandem %s: out of memory\n", usage->command);
        goto done;
    }
    if (apply_defaults(&p) != 0) goto done;
    normalise_names(&p, argc, argv);
    outcome = scan(&p, lo, argc, argv);
    if (outcome == TD_OPTIONS_RUN) {
        *n_args = argc - optind;
        memmove(argv, argv + optind, (size_t)*n_args * sizeof *argv);
        outcome = check_args(usage, *n_args);
    }
done:
    free(lo);
    free_parser(&p);
    return outcome;
}

void td_options_free(const td_option_set *sets) {
    for (const td_option_set *s = sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++)
            if (o->kind == TD_OPT_LIST) {
                td_option_list *list = field_of(o, s->values);
                free(list->items);
                *list = (td_option_list){0};
            }
}

int td_command(const td_option_usage *usage, const td_option_set *sets, int argc, char **argv, td_command_fn run) {
    int n = 0;
    td_options_outcome outcome = td_options_parse(usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    td_error err = {0};
    td_status status = run(n, argv, sets[0].values, &err);
    td_options_free(sets);
    if (status) fprintf(stderr, "tandem %s: %s\n", usage->command, err.text);
    return status ? 1 : 0;
}
