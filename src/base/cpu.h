/* What this processor can do, with a mask to lower it in tests (environment TANDEM_CPU=ref|avx2|avxvnni|avx512|neon|…).
 */
#ifndef TD_BASE_CPU_H
#define TD_BASE_CPU_H

#include <stdbool.h>
#include <stdint.h>

typedef enum td_cpu_level { /* the instruction-set files of src/kernels/, in ascending order per architecture */
                            TD_CPU_REF = 0,
                            TD_CPU_AVX2 = 1,    /* AVX2 + FMA + F16C */
                            TD_CPU_AVXVNNI = 2, /* the same + AVX-VNNI (256-bit vpdpbusd) */
                            TD_CPU_AVX512 = 3,  /* AVX-512 F, BW, DQ, VL, VNNI */
                            TD_CPU_AVX512BF16 = 4,
                            TD_CPU_NEON = 8, /* AArch64 with dotprod */
                            TD_CPU_I8MM = 9
} td_cpu_level;

td_cpu_level td_cpu_detect(void);      /* what is there and enabled by the system */
td_cpu_level td_cpu_current(void);     /* td_cpu_detect lowered by td_cpu_limit or TANDEM_CPU */
bool td_cpu_has(td_cpu_level level);   /* there, and not above the limit: what a kernel file asks before it is used */
void td_cpu_limit(td_cpu_level level); /* tests only; set before kernels are chosen */
const char *td_cpu_level_name(td_cpu_level level);
int td_cpu_default_threads(void);             /* physical cores allowed by affinity and cgroup quota, at least 1 */
void td_cpu_describe(char *out, int n_bytes); /* model name and features, for bench */

#endif
