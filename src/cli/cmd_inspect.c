/* `tandem inspect`: what a GGUF file holds. */
#include "commands.h"
#include "options.h"

#include <stdio.h>

typedef struct inspect_options {
    bool json;
} inspect_options;

static const td_option inspect_table[] = {{.kind = TD_OPT_GROUP, .help = "Output"},
                                          {.kind = TD_OPT_SWITCH,
                                           .names = "--json",
                                           .offset = offsetof(inspect_options, json),
                                           .help = "Print one JSON object"},
                                          {.kind = TD_OPT_END}};

int td_cmd_inspect(int argc, char **argv) {
    inspect_options o = {0};
    const td_option_set sets[] = {{inspect_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"inspect", "FILE [options]",
                                   "Prints what a GGUF file holds and whether it is sound.", 1, 1};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    fprintf(stderr, "tandem inspect: %s: not implemented yet\n", argv[0]);
    return 1;
}
