/* See search_lanes.h: one body (search_lanes_body.h), compiled for each instruction set, chosen at run time. */
#include "search_lanes.h"

#include "codec.h"
#include "search.h"

#include "../base/cpu.h"

#include <stdatomic.h>
#include <stddef.h>

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint8_t vb __attribute__((vector_size(16)));
typedef float vf_mem __attribute__((vector_size(64), aligned(4), may_alias)); /* as it lies in arrays */
typedef uint8_t vb_mem __attribute__((vector_size(16), aligned(1), may_alias));

/* Macros rather than functions: a vector wider than the machine's cannot be passed by value without a warning. */
#define ZERO         ((vf){0})
#define ONE          (ZERO + 1.0f)
#define LOAD(p, i)   ((vf)(*(const vf_mem *)(const void *)((p) + (i)*TD_LANES)))
#define STORE(p, v)  (*(vf_mem *)(void *)(p) = (v))
#define SEL(m, a, b) ((vf)(((m) & (vi)(a)) | (~(m) & (vi)(b))))
#define ABS(v)       ((vf)((vi)(v)&0x7fffffff))
#define RNE(v)       (((v) + 12582912.0f) - 12582912.0f) /* |v| < 2^22; what is larger or NaN gets clamped */
#define STORE_CODES(p, i, v)                                                                                           \
    (*(vb_mem *)((p) + (i)*TD_LANES) = __builtin_convertvector(__builtin_convertvector((v), vi), vb))
#define LOAD_CODES(p, i) __builtin_convertvector((vb)(*(const vb_mem *)((p) + (i)*TD_LANES)), vf)

/* Midpoints of td_iq4_values and the steps between its entries. */
static const float iq4_middle[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
                                     7,       19,     31.5f, 45.5f, 61,  79,     101};
static const float iq4_step[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};

#define LANE_TARGET
#define LANE_FN(name) any_##name
#include "search_lanes_body.h"
#undef LANE_TARGET
#undef LANE_FN

#if defined(__x86_64__)
#define LANE_TARGET   __attribute__((target("avx2")))
#define LANE_FN(name) avx2_##name
#include "search_lanes_body.h"
#undef LANE_TARGET
#undef LANE_FN

#define LANE_TARGET   __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define LANE_FN(name) avx512_##name
#include "search_lanes_body.h"
#undef LANE_TARGET
#undef LANE_FN
#endif

const td_lane_fns *td_lanes_of(int i) {
    static const td_lane_fns *const tables[] = {
        &any_table,
#if defined(__x86_64__)
        &avx2_table,
        &avx512_table,
#endif
    };
    return i >= 0 && i < (int)(sizeof tables / sizeof tables[0]) ? tables[i] : NULL;
}

/* Asked for every block, so chosen once: asking the processor takes as long as a search. */
const td_lane_fns *td_lanes(void) {
    static _Atomic(const td_lane_fns *) chosen;
    const td_lane_fns *fns = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (fns) return fns;
    fns = td_lanes_of(0);
#if defined(__x86_64__)
    if (td_cpu_has(TD_CPU_AVX2)) fns = &avx2_table;
    if (td_cpu_has(TD_CPU_AVX512)) fns = &avx512_table;
#endif
    atomic_store_explicit(&chosen, fns, memory_order_relaxed);
    return fns;
}
