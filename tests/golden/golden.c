/* Reads goldens: JSON through jansson, compressed files through gzip(1), which every Debian system has. */
#include "golden.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

static json_t *load_json(const char *path) {
    char command[1200];
    json_error_t e;
    json_t *j = NULL;
    if (!ends_with(path, ".gz")) {
        j = json_load_file(path, 0, &e);
    } else if (!strchr(path, '\'')) {
        snprintf(command, sizeof command, "gzip -dc '%s'", path);
        FILE *f = popen(command, "r");
        if (!f) return NULL;
        j = json_loadf(f, 0, &e);
        pclose(f);
    }
    if (!j) fprintf(stderr, "%s: %s\n", path, e.text);
    return j;
}

/* A matrix of numbers; null is -infinity. */
static float *read_matrix(const json_t *j, int n_rows, int *n_cols) {
    *n_cols = (int)json_array_size(json_array_get(j, 0));
    float *m = calloc((size_t)n_rows * (size_t)*n_cols + 1, sizeof *m);
    for (int i = 0; m && i < n_rows; i++) {
        const json_t *row = json_array_get(j, (size_t)i);
        if ((int)json_array_size(row) != *n_cols) {
            free(m);
            return NULL;
        }
        for (int c = 0; c < *n_cols; c++) {
            const json_t *v = json_array_get(row, (size_t)c);
            m[(size_t)i * (size_t)*n_cols + (size_t)c] = json_is_null(v) ? -INFINITY : (float)json_number_value(v);
        }
    }
    return m;
}

static bool read_case(golden_case *c, const json_t *j) {
    const json_t *d = json_object_get(j, "drafts"), *t = json_object_get(j, "top");
    c->n = (int)json_integer_value(json_object_get(j, "n"));
    c->last = (int)json_integer_value(json_object_get(j, "last"));
    c->n_drafts = (int)json_array_size(d);
    c->drafts = calloc((size_t)c->n_drafts + 1, sizeof *c->drafts);
    c->top = json_is_array(t) ? calloc((size_t)c->n_drafts + 1, sizeof *c->top) : NULL;
    for (int i = 0; i < c->n_drafts; i++) {
        c->drafts[i] = (int)json_integer_value(json_array_get(d, (size_t)i));
        if (c->top) c->top[i] = (float)json_number_value(json_array_get(t, (size_t)i));
    }
    return c->n > 0 && c->n_drafts > 0;
}

static bool read_target(golden *g, const json_t *j) {
    const json_t *t = json_object_get(j, "tokens"), *h = json_object_get(j, "hidden");
    g->n_tok = (int)json_array_size(t);
    g->tokens = calloc((size_t)g->n_tok + 1, sizeof *g->tokens);
    for (int i = 0; i < g->n_tok; i++) g->tokens[i] = (int32_t)json_integer_value(json_array_get(t, (size_t)i));
    g->logits = read_matrix(json_object_get(j, "logits"), g->n_tok, &g->n_vocab);
    if (json_is_array(h)) g->hidden = read_matrix(h, g->n_tok, &g->d_model);
    return g->n_tok > 0 && g->n_vocab > 0 && g->logits && (!json_is_array(h) || g->hidden);
}

bool golden_read(golden *g, const char *path) {
    memset(g, 0, sizeof *g);
    json_t *j = load_json(path);
    if (!j) return false;
    size_t n = strlen(path) - strlen(ends_with(path, ".gz") ? ".json.gz" : ".json");
    snprintf(g->stem, sizeof g->stem, "%.*s", (int)n, path);
    snprintf(g->gguf, sizeof g->gguf, "%s.gguf", g->stem);
    const json_t *v = json_object_get(j, "tolerance"), *cases = json_object_get(j, "cases");
    g->tolerance = v ? json_number_value(v) : 2e-3;
    bool ok = true;
    if (json_is_array(cases)) {
        const char *slash = strrchr(path, '/'), *name = json_string_value(json_object_get(j, "target"));
        const char *head = json_string_value(json_object_get(j, "head"));
        snprintf(g->target, sizeof g->target, "%.*s/%s", (int)(slash ? slash - path : 1), slash ? path : ".", name);
        snprintf(g->head, sizeof g->head, "%s", head ? head : "");
        g->n_cases = (int)json_array_size(cases);
        g->cases = calloc((size_t)g->n_cases + 1, sizeof *g->cases);
        for (int i = 0; ok && i < g->n_cases; i++) ok = read_case(&g->cases[i], json_array_get(cases, (size_t)i));
        ok = ok && name && g->n_cases > 0;
    } else {
        ok = read_target(g, j);
    }
    if (!ok) fprintf(stderr, "%s: not a golden\n", path);
    json_decref(j);
    return ok;
}

void golden_free(golden *g) {
    for (int i = 0; i < g->n_cases; i++) {
        free(g->cases[i].drafts);
        free(g->cases[i].top);
    }
    free(g->cases);
    free(g->tokens);
    free(g->logits);
    free(g->hidden);
    memset(g, 0, sizeof *g);
}

int golden_find(const char *dir, bool assistants, golden **out) {
    struct dirent **names = NULL;
    int n = scandir(dir, &names, NULL, alphasort), found = 0;
    bool ok = true;
    *out = NULL;
    if (n < 0) return 0;
    *out = calloc((size_t)n + 1, sizeof **out);
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        if (ok && (ends_with(name, ".json") || ends_with(name, ".json.gz"))) {
            char path[1024];
            snprintf(path, sizeof path, "%s/%s", dir, name);
            golden *g = &(*out)[found];
            ok = golden_read(g, path);
            if (ok && (g->target[0] != 0) == assistants)
                found++;
            else
                golden_free(g);
        }
        free(names[i]);
    }
    free(names);
    return ok ? found : -1;
}
