/* -ot and -otd: patterns of tensor names and the buffers they are wanted in. There is one buffer, CPU; what a pattern
 * matches is checked and said, so that a script written for several devices works and a mistyped name is noticed. */
#ifndef TD_CLI_PLACEMENT_H
#define TD_CLI_PLACEMENT_H

#include "../../include/tandem.h"
#include "options.h"

/* Every item is PATTERN=BUFFER, apart by commas; a pattern is a POSIX extended regular expression. */
td_status td_placement_check(const td_option_list *target, const td_option_list *draft, td_error *err);
/* Afterwards, on the loaded engine: a warning for each pattern without a tensor, or with a buffer that is not there. */
void td_placement_report(const td_option_list *target, const td_option_list *draft, const td_engine *e);

#endif
