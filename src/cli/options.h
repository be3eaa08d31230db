/* The option table of a command: one row holds names, type, range, default, environment variable and help; the same row
 * parses the command line and prints --help, the manual page and the completion words.
 *
 * Rules (spec of the command line, 5.1): long names take one or two dashes, `_` equals `-`, `--name=value` works, later
 * wins, a flag beats the environment beats the default. TANDEM_X is read before LLAMA_ARG_X; for a switch,
 * LLAMA_ARG_NO_X or TANDEM_NO_X turn it off. */
#ifndef TD_CLI_OPTIONS_H
#define TD_CLI_OPTIONS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum td_option_kind {
    TD_OPT_END = 0, /* last row of a table */
    TD_OPT_GROUP,   /* a heading; `help` is its text */
    TD_OPT_SWITCH,  /* bool; `negative` names turn it off */
    TD_OPT_INT,     /* int64_t in [min, max]; `words` gives names to values: "auto=-1 all=-2" */
    TD_OPT_FLOAT,   /* double in [min, max] */
    TD_OPT_STRING,  /* const char *, borrowed from argv or the environment; NULL by default */
    TD_OPT_CHOICE,  /* int, index of the word in `words` ("on off auto"); a second spelling: "none|off" */
    TD_OPT_LIST,    /* td_option_list: may be repeated */
    TD_OPT_ACCEPT   /* taken with (`arg` != NULL) or without a value, warned about, without effect */
} td_option_kind;

typedef struct td_option_list {
    const char **items;
    int n;
} td_option_list;

typedef struct td_option {
    td_option_kind kind;
    const char *names;    /* with dashes, apart by spaces, the main name first: "--ctx-size -c" */
    size_t offset;        /* of the field in the values structure of the set */
    const char *arg;      /* how help calls the value: "N", "FILE" */
    const char *def;      /* default, parsed like a given value; NULL leaves the field as the caller set it */
    double min, max;      /* for numbers; both 0: no limit */
    const char *words;    /* see the kinds */
    const char *negative; /* switches: names that turn it off, "--no-mmap" */
    const char *env;      /* without prefix: "CTX_SIZE" */
    const char *help;     /* one sentence, no full stop needed */
    const char *note;     /* printed as a warning when the option is given (aliases that are going, no effect, …) */
} td_option;

/* A table and the structure that its offsets point into; commands share tables by listing the same one. */
typedef struct td_option_set {
    const td_option *options;
    void *values;
} td_option_set;

typedef struct td_option_usage {
    const char *command;    /* "inspect" */
    const char *synopsis;   /* "FILE [options]" */
    const char *about;      /* one paragraph */
    int min_args, max_args; /* positional arguments; max_args < 0: any number */
} td_option_usage;

typedef enum td_options_outcome {
    TD_OPTIONS_RUN,  /* go on */
    TD_OPTIONS_DONE, /* help or the like was printed: exit code 0 */
    TD_OPTIONS_ERROR /* a message was printed: exit code 1 */
} td_options_outcome;

/* Fills the values of all sets (last row of `sets` has options NULL). Afterwards argv[0 .. *n_args) are the positional
 * arguments. Prints help and errors itself. */
td_options_outcome td_options_parse(const td_option_usage *usage, const td_option_set *sets, int argc, char **argv,
                                    int *n_args);
/* Frees what lists own. */
void td_options_free(const td_option_set *sets);

/* The frame of a command: options, `run` with the positional arguments and the values of the first set, its error as
 * "tandem COMMAND: text". Returns the exit code. */
typedef td_status (*td_command_fn)(int n_args, char **args, void *values, td_error *err);
int td_command(const td_option_usage *usage, const td_option_set *sets, int argc, char **argv, td_command_fn run);

/* The nearest of `names` to `given` (edit distance), or NULL when none is near. */
const char *td_option_nearest(const char *given, const char *const *names, int n);

#endif
