/* A job's figures and end in llama-server's words, for its answers and for `tandem run --json`. */
#ifndef TD_SERVER_TIMINGS_H
#define TD_SERVER_TIMINGS_H

#include "../../include/tandem.h"

#include <jansson.h>

json_t *timings_json(const td_timings *t); /* `timings` */
const char *stop_type(td_finish f);        /* eos, word, limit, none */
double timings_per_second(int n, double ms);
/* Tokens that a round of speculation brought on average. */
double timings_mean_length(const td_timings *t);

#endif
