#include "peak.h"

#include "../base/cpu.h"

static uint64_t plain(int64_t n, uint64_t *sink) {
    int32_t acc[16] = {0};
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 16; k++) acc[k] += (int8_t)(i + k) * (int8_t)(i ^ k);
    for (int k = 0; k < 16; k++) *sink += (uint64_t)(uint32_t)acc[k];
    return (uint64_t)n * 16;
}

uint64_t td_peak_int8(int64_t n, uint64_t *sink) {
#if defined(__x86_64__)
    td_cpu_level level = td_cpu_current();
    if (level >= TD_CPU_AVX512) return td_peak_int8_avx512(n, sink);
    if (level >= TD_CPU_AVXVNNI) return td_peak_int8_avxvnni(n, sink);
    if (level >= TD_CPU_AVX2) return td_peak_int8_avx2(n, sink);
#endif
    return plain(n, sink);
}
