/* Processor features, and how many threads pay off.
 *
 * An instruction set counts only when the processor has it and the operating system saves its registers (XCR0 on x86:
 * bits 1-2 for AVX, 5-7 for AVX-512). Levels are separate bits, not a line: a processor with AVX-512 VNNI need not have
 * the 256-bit AVX-VNNI encodings. */
#define _GNU_SOURCE
#include "cpu.h"

#include "limits.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

static const struct {
    td_cpu_level level;
    const char *name;
} level_names[] = {{TD_CPU_REF, "ref"},
                   {TD_CPU_AVX2, "avx2"},
                   {TD_CPU_AVXVNNI, "avxvnni"},
                   {TD_CPU_AVX512, "avx512"},
                   {TD_CPU_AVX512BF16, "avx512bf16"},
                   {TD_CPU_NEON, "neon"},
                   {TD_CPU_I8MM, "i8mm"}};
enum { N_LEVELS = sizeof level_names / sizeof level_names[0] };

#if defined(__x86_64__)
static uint64_t read_xcr0(void) {
    uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static unsigned detect_mask(void) {
    unsigned a = 0, b = 0, c = 0, d = 0, b7 = 0, c7 = 0, a71 = 0;
    unsigned mask = 1u << TD_CPU_REF;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return mask;
    const unsigned need1 = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA, OSXSAVE, AVX, F16C */
    if ((c & need1) != need1) return mask;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return mask;
    if (a >= 1) (void)__get_cpuid_count(7, 1, &a71, &b, &c, &d);
    uint64_t xcr0 = read_xcr0();
    if ((xcr0 & 0x6) != 0x6 || (b7 & 1u << 5) == 0) return mask;
    mask |= 1u << TD_CPU_AVX2;
    if (a71 & 1u << 4) mask |= 1u << TD_CPU_AVXVNNI;
    const unsigned need512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((xcr0 & 0xe6) == 0xe6 && (b7 & need512) == need512 && (c7 & 1u << 11)) {
        mask |= 1u << TD_CPU_AVX512;
        if (a71 & 1u << 5) mask |= 1u << TD_CPU_AVX512BF16;
    }
    return mask;
}
#elif defined(__aarch64__)
static unsigned detect_mask(void) {
    unsigned mask = 1u << TD_CPU_REF;
    const unsigned long asimd = 1ul << 1, asimddp = 1ul << 20, i8mm = 1ul << 13; /* HWCAP, HWCAP, HWCAP2 */
    unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
    if ((caps & asimd) == 0 || (caps & asimddp) == 0) return mask;
    mask |= 1u << TD_CPU_NEON;
    if (caps2 & i8mm) mask |= 1u << TD_CPU_I8MM;
    return mask;
}
#else
static unsigned detect_mask(void) {
    return 1u << TD_CPU_REF;
}
#endif

static td_cpu_level highest(unsigned mask) {
    int level = 0;
    for (int i = 0; i < 32; i++)
        if (mask & 1u << i) level = i;
    return (td_cpu_level)level;
}

static atomic_int limit = -1; /* -1: not asked yet */

static int limit_from_env(void) {
    const char *name = getenv("TANDEM_CPU");
    for (int i = 0; name != NULL && i < N_LEVELS; i++)
        if (strcasecmp(name, level_names[i].name) == 0) return (int)level_names[i].level;
    return 31;
}

static unsigned current_mask(void) {
    int most = atomic_load(&limit);
    if (most < 0) {
        most = limit_from_env();
        atomic_store(&limit, most);
    }
    return detect_mask() & (unsigned)((UINT64_C(2) << most) - 1);
}

td_cpu_level td_cpu_detect(void) {
    return highest(detect_mask());
}

td_cpu_level td_cpu_current(void) {
    return highest(current_mask());
}

bool td_cpu_has(td_cpu_level level) {
    return (current_mask() & 1u << (unsigned)level) != 0;
}

void td_cpu_limit(td_cpu_level level) {
    atomic_store(&limit, (int)level);
}

const char *td_cpu_level_name(td_cpu_level level) {
    for (int i = 0; i < N_LEVELS; i++)
        if (level_names[i].level == level) return level_names[i].name;
    return "unknown";
}

/* ---- threads ---- */

/* The first processor that shares the core of `cpu` ("0,8" or "0-1"), or cpu itself when the system does not say. */
static int core_of(int cpu) {
    char path[96], line[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (f == NULL) return cpu;
    int first = fgets(line, sizeof line, f) != NULL ? atoi(line) : cpu;
    fclose(f);
    return first;
}

int td_cpu_default_threads(void) {
    cpu_set_t allowed, cores;
    int n = 1;
    CPU_ZERO(&allowed);
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        for (size_t i = 0; i < CPU_SETSIZE; i++) {
            if (!CPU_ISSET(i, &allowed)) continue;
            int core = core_of((int)i);
            if (core >= 0 && core < CPU_SETSIZE) CPU_SET((size_t)core, &cores);
        }
        n = CPU_COUNT(&cores);
    }
    double quota = td_limits_cpus(""); /* rounded down: a throttled thread stops all at the next barrier */
    if (quota > 0 && quota < n) n = (int)quota;
    return n > 0 ? n : 1;
}

static void model_name(char *out, size_t n) {
    char line[256];
    snprintf(out, n, "unknown processor");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "model name", 10) != 0) continue;
        char *colon = strchr(line, ':');
        if (colon == NULL) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, n, "%s", colon + 1 + strspn(colon + 1, " \t"));
        break;
    }
    if (f != NULL) fclose(f);
}

void td_cpu_describe(char *out, int n_bytes) {
    char name[128];
    if (n_bytes <= 0) return;
    model_name(name, sizeof name);
    int n = snprintf(out, (size_t)n_bytes, "%s, %d cores,", name, td_cpu_default_threads());
    unsigned mask = current_mask();
    for (int i = 0; i < N_LEVELS; i++)
        if (n > 0 && n < n_bytes && (mask & 1u << level_names[i].level))
            n += snprintf(out + n, (size_t)(n_bytes - n), " %s", level_names[i].name);
}
