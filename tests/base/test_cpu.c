/* Processor levels against /proc/cpuinfo, and control-group limits against made-up trees. */
#define _GNU_SOURCE
#include "base/cpu.h"
#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char root[256];

#if defined(__x86_64__)
/* What the kernel lists in /proc/cpuinfo: an independent reading of the same processor. */
static bool kernel_says(const char *flag) {
    static char line[1 << 16];
    char word[64];
    bool found = false;
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(word, sizeof word, " %s ", flag);
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0) continue;
        line[strcspn(line, "\n")] = ' ';
        found = strstr(line, word) != NULL;
    }
    if (f != NULL) fclose(f);
    return found;
}

#endif

static void test_levels(void **state) {
    (void)state;
    td_cpu_limit(TD_CPU_I8MM); /* the highest number: no limit */
#if defined(__x86_64__)
    bool avx2 = kernel_says("avx2") && kernel_says("fma") && kernel_says("f16c");
    assert_int_equal(td_cpu_has(TD_CPU_AVX2), avx2);
    assert_int_equal(td_cpu_has(TD_CPU_AVXVNNI), avx2 && kernel_says("avx_vnni"));
    assert_int_equal(td_cpu_has(TD_CPU_AVX512), kernel_says("avx512f") && kernel_says("avx512bw") &&
                                                    kernel_says("avx512dq") && kernel_says("avx512vl") &&
                                                    kernel_says("avx512_vnni"));
    assert_false(td_cpu_has(TD_CPU_NEON));
#endif
    assert_int_equal(td_cpu_current(), td_cpu_detect());
    td_cpu_limit(TD_CPU_REF);
    assert_int_equal(td_cpu_current(), TD_CPU_REF);
    assert_true(td_cpu_has(TD_CPU_REF));
    assert_false(td_cpu_has(TD_CPU_AVX2) || td_cpu_has(TD_CPU_NEON));
    assert_string_equal(td_cpu_level_name(TD_CPU_AVXVNNI), "avxvnni");
    char text[256];
    td_cpu_describe(text, sizeof text);
    assert_non_null(strstr(text, "cores"));
    td_cpu_describe(text, 8);
    assert_true(strlen(text) < 8);
    assert_true(td_cpu_default_threads() >= 1);
}

static void put(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *c = full + strlen(root) + 1; *c != 0; c++)
        if (*c == '/') {
            *c = 0;
            mkdir(full, 0700);
            *c = '/';
        }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void fresh_root(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/td-limits-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(root));
}

static void drop_root(void) {
    char command[512];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    assert_int_equal(system(command), 0);
}

static void test_cgroup_v2(void **state) {
    (void)state;
    fresh_root();
    assert_true(td_limits_cpus(root) == 0);
    assert_true(td_limits_memory(root) == UINT64_MAX);
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
    put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/memory.max", "4096000\n");
    put("/sys/fs/cgroup/a/memory.current", "3000000\n");
    put("/sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 1000000\n");
    assert_true(td_limits_cpus(root) == 2.5); /* the parent's quota binds */
    assert_true(td_limits_memory(root) == 4096000);
    assert_true(td_limits_memory_available(root) == 4096000 - 2000000);
    drop_root();
}

static void test_cgroup_v1(void **state) {
    (void)state;
    fresh_root();
    put("/proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n");
    put("/proc/meminfo", "MemAvailable: 100 kB\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n"); /* the container sees its group as the root */
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(td_limits_cpus(root) == 1.5);
    assert_true(td_limits_memory(root) == UINT64_MAX);
    assert_true(td_limits_memory_available(root) == 100 * 1024);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "50000\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "60000\n");
    assert_true(td_limits_memory(root) == 50000);
    assert_true(td_limits_memory_available(root) == 0);
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    assert_true(td_limits_cpus(root) == 0);
    drop_root();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_cgroup_v2),
        cmocka_unit_test(test_cgroup_v1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
