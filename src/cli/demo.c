#include "demo.h"

#include "../base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL_FILE "tandem-demo.gguf"
#define DRAFT_FILE "tandem-demo-assistant.gguf"

static bool try_folder(demo_pair *d, const char *folder, const char *below) {
    int n = snprintf(d->model, sizeof d->model, "%s%s/%s", folder, below, MODEL_FILE);
    int m = snprintf(d->draft, sizeof d->draft, "%s%s/%s", folder, below, DRAFT_FILE);
    return n > 0 && m > 0 && (size_t)n < sizeof d->model && (size_t)m < sizeof d->draft && access(d->model, R_OK) == 0;
}

static bool find(demo_pair *d) {
    const char *given = getenv("TANDEM_DEMO");
    if (given && *given) return try_folder(d, given, "");
    char exe[2048];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n > 0) {
        exe[n] = 0;
        char *slash = strrchr(exe, '/');
        if (slash) *slash = 0;
        if (try_folder(d, exe, "/../models/demo") || try_folder(d, exe, "/../share/tandem/demo")) return true;
    }
    return try_folder(d, ".", "/models/demo") || try_folder(d, TD_DATA_DIR, "/demo");
}

td_status demo_find(demo_pair *d, td_engine_flags *f, td_error *err) {
    if (!find(d))
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET,
                       "no model: give one with -m FILE, or the folder of the demo pair in TANDEM_DEMO");
    f->model = d->model;
    bool drafts = f->spec_type.n == 0;
    for (int i = 0; i < f->spec_type.n; i++)
        drafts |= strstr(f->spec_type.items[i], "mtp") || strstr(f->spec_type.items[i], "nextn");
    if (!f->draft && drafts && access(d->draft, R_OK) == 0) f->draft = d->draft;
    return TD_OK;
}
