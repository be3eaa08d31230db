/* What the control groups of this process leave it: processors and memory, versions 1 and 2 of the interface.
 * `root` is "" for the real system; tests point it at a directory with the same files. */
#ifndef TD_BASE_LIMITS_H
#define TD_BASE_LIMITS_H

#include <stdint.h>

double td_limits_cpus(const char *root);     /* quota / period, the smallest on the way up; 0: no limit */
uint64_t td_limits_memory(const char *root); /* bytes, the smallest on the way up; UINT64_MAX: no limit */
/* Bytes that can be used without swapping: MemAvailable, lowered by what the group's limit leaves. */
uint64_t td_limits_memory_available(const char *root);

#endif
