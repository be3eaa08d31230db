/* `tandem eval --lookup`: how well a fact is found again, by the distance between it and the question. */
#ifndef TD_CLI_EVAL_LOOKUP_H
#define TD_CLI_EVAL_LOOKUP_H

#include "tandem.h"

/* n_probes questions at each distance 64, 128, … that fits n_ctx. Prints a table, or with `json` one object. */
td_status eval_lookup(td_engine *e, int n_ctx, int n_probes, bool json, td_error *err);

#endif
