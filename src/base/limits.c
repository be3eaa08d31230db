/* Limits of control groups. /proc/self/cgroup gives the process's group; inside a container that path is often relative
 * to a root the container cannot see, so a missing directory falls back to its parents and finally the mount itself. */
#include "limits.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 1024 };

static bool read_line(const char *path, char *line, int n) {
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    bool ok = fgets(line, n, f) != NULL;
    fclose(f);
    if (ok) line[strcspn(line, "\n")] = 0;
    return ok;
}

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; *at != 0;) {
        size_t len = strcspn(at, ",");
        if (len == n && memcmp(at, word, n) == 0) return true;
        at += len + (at[len] == ',');
    }
    return false;
}

/* The group path of `controller` ("" : version 2) from /proc/self/cgroup lines "id:controllers:path". */
static bool group_path(const char *root, const char *controller, char *out, size_t n_out) {
    char path[PATH_BYTES], line[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    bool found = false;
    while (!found && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = 0;
        char *first = strchr(line, ':'), *second = first != NULL ? strchr(first + 1, ':') : NULL;
        if (second == NULL) continue;
        *second = 0;
        found = *controller == 0 ? first[1] == 0 : has_word(first + 1, controller);
        if (found) snprintf(out, n_out, "%s", strcmp(second + 1, "/") == 0 ? "" : second + 1);
    }
    fclose(f);
    return found;
}

typedef void (*visit_fn)(const char *dir, void *arg);

/* Calls visit for the group's directory and each parent up to the mount. */
static void walk_up(const char *root, const char *mount, const char *group, visit_fn visit, void *arg) {
    char dir[PATH_BYTES], rest[PATH_BYTES];
    snprintf(rest, sizeof rest, "%s", group);
    for (;;) {
        int n = snprintf(dir, sizeof dir, "%s%s%s", root, mount, rest);
        if (n > 0 && n < (int)sizeof dir - 64) visit(dir, arg);
        char *slash = strrchr(rest, '/');
        if (slash == NULL) return;
        *slash = 0;
    }
}

static bool read_file_in(const char *dir, const char *name, char *line, int n) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return read_line(path, line, n);
}

static void lower_cpus(double *best, double quota, double period) {
    if (quota > 0 && period > 0 && (*best == 0 || quota / period < *best)) *best = quota / period;
}

static void visit_cpu_v2(const char *dir, void *arg) {
    char line[128];
    double quota = 0, period = 0;
    if (read_file_in(dir, "cpu.max", line, sizeof line) && sscanf(line, "%lf %lf", &quota, &period) == 2)
        lower_cpus(arg, quota, period);
}

static void visit_cpu_v1(const char *dir, void *arg) {
    char quota[64], period[64];
    if (read_file_in(dir, "cpu.cfs_quota_us", quota, sizeof quota) &&
        read_file_in(dir, "cpu.cfs_period_us", period, sizeof period))
        lower_cpus(arg, strtod(quota, NULL), strtod(period, NULL));
}

double td_limits_cpus(const char *root) {
    static const char *const v1_mounts[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    char group[PATH_BYTES];
    double best = 0;
    if (group_path(root, "", group, sizeof group)) {
        walk_up(root, "/sys/fs/cgroup", group, visit_cpu_v2, &best);
        walk_up(root, "/sys/fs/cgroup/unified", group, visit_cpu_v2, &best);
    }
    if (group_path(root, "cpu", group, sizeof group))
        for (int i = 0; i < 2; i++) walk_up(root, v1_mounts[i], group, visit_cpu_v1, &best);
    return best;
}

typedef struct memory_state {
    uint64_t limit, available;
} memory_state;

static void lower_memory(memory_state *s, const char *limit_text, const char *used_text) {
    char *end = NULL;
    uint64_t limit = strtoull(limit_text, &end, 10), used = strtoull(used_text, NULL, 10);
    /* version 1 says "no limit" with a number near 2^63 */
    if (end == limit_text || limit >= (uint64_t)1 << 62) return;
    if (limit < s->limit) s->limit = limit;
    uint64_t left = limit > used ? limit - used : 0;
    if (left < s->available) s->available = left;
}

/* File cache counts as used by the group but is given back under pressure. */
static uint64_t reclaimable(const char *dir, const char *key) {
    char path[PATH_BYTES + 64], line[256];
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    uint64_t v = 0;
    size_t n = strlen(key);
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, key, n) == 0 && line[n] == ' ') v = strtoull(line + n, NULL, 10);
    if (f != NULL) fclose(f);
    return v;
}

static void visit_memory(const char *dir, memory_state *s, const char *limit_name, const char *used_name,
                         const char *cache_key) {
    char limit[64], used[64] = "0";
    if (!read_file_in(dir, limit_name, limit, sizeof limit)) return;
    (void)read_file_in(dir, used_name, used, sizeof used);
    uint64_t u = strtoull(used, NULL, 10), cache = reclaimable(dir, cache_key);
    snprintf(used, sizeof used, "%llu", (unsigned long long)(u > cache ? u - cache : 0));
    lower_memory(s, limit, used);
}

static void visit_memory_v2(const char *dir, void *arg) {
    visit_memory(dir, arg, "memory.max", "memory.current", "inactive_file");
}

static void visit_memory_v1(const char *dir, void *arg) {
    visit_memory(dir, arg, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
}

static memory_state memory_of(const char *root) {
    char group[PATH_BYTES];
    memory_state s = {UINT64_MAX, UINT64_MAX};
    if (group_path(root, "", group, sizeof group)) walk_up(root, "/sys/fs/cgroup", group, visit_memory_v2, &s);
    if (group_path(root, "memory", group, sizeof group))
        walk_up(root, "/sys/fs/cgroup/memory", group, visit_memory_v1, &s);
    return s;
}

uint64_t td_limits_memory(const char *root) {
    return memory_of(root).limit;
}

uint64_t td_limits_memory_available(const char *root) {
    char path[PATH_BYTES], line[256];
    uint64_t best = memory_of(root).available;
    unsigned long long kib = 0;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1 && kib * 1024 < best) best = kib * 1024;
    if (f != NULL) fclose(f);
    return best;
}
