/* Time for measurements and limits: monotonic nanoseconds. */
#ifndef TD_BASE_CLOCK_H
#define TD_BASE_CLOCK_H
#include <stdint.h>
int64_t td_clock_ns(void);
#endif
