/* See importance.h. */
#include "importance.h"

#include "../base/arena.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 3 };

typedef struct site {
    int n_mat; /* 0: the layer has no such product */
    int64_t k;
    double *sums;     /* [n_mat][k] */
    uint64_t *counts; /* [n_mat] */
} site;

typedef struct entry {
    const char *tensor;
    const site *site;
} entry;

struct td_importances {
    td_arena *arena;
    site *sites; /* [n_layer][TD_SITE_COUNT] */
    entry *entries;
    int n_entries;
};

/* What multiplies a site's activations: the names after "blk.N.", and their shape. */
typedef struct readers {
    const td_matrix *m;
    const char *names[MAX_NAMES];
} readers;

static readers readers_of(const td_net *net, int l, td_site s) {
    const td_layer *w = &net->layers[l];
    char merged[64];
    snprintf(merged, sizeof merged, "blk.%d.ffn_gate_up_exps.weight", l);
    switch (s) {
    case TD_SITE_QKV:
        return (readers){&w->q, {"attn_q", w->k.n_rows ? "attn_k" : NULL, w->v.n_rows ? "attn_v" : NULL}};
    case TD_SITE_OUT:
        return (readers){&w->o, {"attn_output"}};
    case TD_SITE_UP:
        return (readers){&w->gate, {"ffn_gate", "ffn_up"}};
    case TD_SITE_DOWN:
        return (readers){&w->down, {"ffn_down"}};
    case TD_SITE_ROUTER:
        return (readers){&w->router, {"ffn_gate_inp"}};
    case TD_SITE_EXPERT_UP:
        if (td_gguf_tensor_find(net->gguf, merged)) return (readers){&w->gate_exps, {"ffn_gate_up_exps"}};
        return (readers){&w->gate_exps, {"ffn_gate_exps", "ffn_up_exps"}};
    case TD_SITE_EXPERT_DOWN:
        return (readers){&w->down_exps, {"ffn_down_exps"}};
    case TD_SITE_PLE_GATE:
        return (readers){&w->ple_gate, {"inp_gate"}};
    case TD_SITE_PLE_PROJ:
        return (readers){&w->ple_proj, {"proj"}};
    case TD_SITE_COUNT:
        break;
    }
    return (readers){0};
}

static bool add_site(td_importances *m, const td_net *net, int l, td_site s) {
    readers r = readers_of(net, l, s);
    site *x = &m->sites[(size_t)l * TD_SITE_COUNT + s];
    if (!r.m || r.m->n_rows == 0) return true;
    size_t n_mat = (size_t)r.m->n_expert, k = (size_t)r.m->k;
    *x = (site){.n_mat = r.m->n_expert, .k = r.m->k};
    x->sums = td_arena_alloc(m->arena, n_mat * k, sizeof *x->sums);
    x->counts = td_arena_alloc(m->arena, n_mat, sizeof *x->counts);
    if (!x->sums || !x->counts) return false;
    for (int i = 0; i < MAX_NAMES; i++) {
        char name[64];
        if (!r.names[i]) continue;
        int n = snprintf(name, sizeof name, "blk.%d.%s.weight", l, r.names[i]);
        entry *e = &m->entries[m->n_entries++];
        *e = (entry){td_arena_strndup(m->arena, name, (size_t)n), x};
        if (!e->tensor) return false;
    }
    return true;
}

td_status td_importances_create(td_importances **out, const td_net *net, td_error *err) {
    *out = NULL;
    size_t n = (size_t)net->shape.n_layer * TD_SITE_COUNT;
    td_arena *arena = td_arena_create(0);
    td_importances *m = arena ? td_arena_alloc(arena, 1, sizeof *m) : NULL;
    bool ok = m != NULL;
    if (ok) {
        m->arena = arena;
        m->sites = td_arena_alloc(arena, n, sizeof *m->sites);
        m->entries = td_arena_alloc(arena, n * MAX_NAMES, sizeof *m->entries);
        ok = m->sites && m->entries;
    }
    for (int l = 0; ok && l < net->shape.n_layer; l++)
        for (int s = 0; ok && s < TD_SITE_COUNT; s++) ok = add_site(m, net, l, (td_site)s);
    if (!ok) {
        td_arena_destroy(arena);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for an importance matrix");
    }
    *out = m;
    return TD_OK;
}

void td_importances_free(td_importances *m) {
    if (m) td_arena_destroy(m->arena);
}

void td_importances_add(td_importances *m, int layer, td_site s, int expert, const td_acts *a, int row, int n_rows) {
    const site *x = &m->sites[(size_t)layer * TD_SITE_COUNT + s];
    double *sums = x->sums + (size_t)expert * (size_t)x->k;
    x->counts[expert] += (uint64_t)n_rows;
    for (int r = row; r < row + n_rows; r++) {
        const float *from = a->f32 + (size_t)(r / TD_PANEL) * (size_t)a->n_blocks * TD_PANEL * 32;
        for (int64_t b = 0; b < a->n_blocks; b++) {
            const float *v = from + ((size_t)b * TD_PANEL + (size_t)(r % TD_PANEL)) * 32;
            int64_t n = x->k - 32 * b < 32 ? x->k - 32 * b : 32;
            for (int64_t i = 0; i < n; i++) sums[32 * b + i] += (double)v[i] * (double)v[i];
        }
    }
}

bool td_importances_get(const td_importances *m, int i, td_importance *out) {
    if (i < 0 || i >= m->n_entries) return false;
    const entry *e = &m->entries[i];
    *out = (td_importance){e->tensor, e->site->n_mat, e->site->k, e->site->sums, e->site->counts};
    return true;
}
