/* Where the bundled demo pair is: $TANDEM_DEMO, beside the program, in the source tree, or installed. */
#ifndef TD_CLI_DEMO_H
#define TD_CLI_DEMO_H

#include "engine_options.h"

typedef struct demo_pair {
    char model[4096], draft[4096];
} demo_pair;

/* Sets f->model and, unless -md was given, f->draft to strings in `d`. */
td_status demo_find(demo_pair *d, td_engine_flags *f, td_error *err);

#endif
