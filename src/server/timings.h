/* A job's figures as JSON: `timings` of every answer, here and in `tandem run --json`. */
#ifndef TD_SERVER_TIMINGS_H
#define TD_SERVER_TIMINGS_H

#include "../../include/tandem.h"

#include <jansson.h>

json_t *timings_json(const td_timings *t);
double timings_per_second(int n, double ms);
/* Tokens that a round of speculation brought on average. */
double timings_mean_length(const td_timings *t);

#endif
