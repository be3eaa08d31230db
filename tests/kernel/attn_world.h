/* A small cache of one layer filled with known vectors, and attention over it in double precision: the oracle shares no
 * code with the kernels. */
#ifndef TESTS_ATTN_WORLD_H
#define TESTS_ATTN_WORLD_H

#include "base/checked.h"
#include "kernels/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct world {
    td_attn_shape shape;
    uint32_t n_pos, n_kv, d;
    uint8_t *pages; /* end at a page that must not be touched */
    uint8_t *map;
    size_t map_bytes;
    uint32_t *table;
    td_attn_seq seq;
    float *k, *v;   /* as given [n_pos][n_kv][d] */
    float *kd, *vd; /* as stored, decoded again */
    float *fold;
    uint16_t *key_at;
} world;

static uint64_t world_seed = 88172645463325252u;

static inline double world_uniform(void) {
    world_seed ^= world_seed << 13;
    world_seed ^= world_seed >> 7;
    world_seed ^= world_seed << 17;
    return (double)(world_seed >> 11) * 0x1p-53;
}

static inline double world_normal(void) {
    double u = world_uniform() + 1e-300;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * world_uniform());
}

/* `rotated` pairs > 0: the layer has K = V, k = w * v except at that many rotated pairs. */
static inline void world_make(world *w, td_kv_type tk, td_kv_type tv, uint32_t n_kv, uint32_t d, uint32_t n_pos,
                              uint32_t rotated) {
    memset(w, 0, sizeof *w);
    w->n_pos = n_pos;
    w->n_kv = n_kv;
    w->d = d;
    uint32_t d_key = d;
    if (rotated) {
        d_key = 2 * rotated;
        w->fold = calloc(d, sizeof(float));
        w->key_at = calloc(d, sizeof(uint16_t));
        for (uint32_t i = 0; i < d; i++)
            w->fold[i] = i % (d / 2) < rotated ? 0.0f : 0.2f + 0.2f * (float)world_uniform();
        for (uint32_t i = 0; i < rotated; i++) {
            w->key_at[i] = (uint16_t)i;
            w->key_at[rotated + i] = (uint16_t)(d / 2 + i);
        }
    }
    td_attn_shape_init(&w->shape, tk, tv, n_kv, d, d_key, w->fold, w->key_at, NULL);
    uint32_t n_page = (n_pos + 63) / 64;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = n_page * w->shape.page_bytes;
    w->map_bytes = (bytes + page - 1) / page * page + 2 * page;
    w->map = mmap(NULL, w->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->map == MAP_FAILED) abort();
    mprotect(w->map, page, PROT_NONE);
    mprotect(w->map + w->map_bytes - page, page, PROT_NONE);
    w->pages = w->map + w->map_bytes - page - bytes;
    memset(w->pages, 0x5a, n_page * w->shape.page_bytes); /* places that are not stored hold rubbish */
    w->table = calloc(n_page + 1, sizeof(uint32_t));
    for (uint32_t i = 0; i < n_page; i++) w->table[i] = (i * 7 + 3) % n_page; /* any order, if 7 does not divide */
    if (n_page % 7 == 0) {
        for (uint32_t i = 0; i < n_page; i++) w->table[i] = n_page - 1 - i;
    }
    w->seq = (td_attn_seq){.page = w->table, .first = 0};
    size_t n = (size_t)n_pos * n_kv * d;
    w->k = malloc(n * sizeof(float));
    w->v = malloc(n * sizeof(float));
    w->kd = malloc(n * sizeof(float));
    w->vd = malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        w->v[i] = (float)world_normal();
        w->k[i] = w->fold && w->fold[i % d] != 0.0f ? w->fold[i % d] * w->v[i] : 0.3f * (float)world_normal();
    }
    for (uint32_t p = 0; p < n_pos; p++) {
        uint8_t *to = w->pages + w->table[p / 64] * w->shape.page_bytes;
        size_t at = (size_t)p * n_kv * d;
        td_attn_store(&w->shape, to, p % 64, w->k + at, w->v + at);
    }
    for (uint32_t p = 0; p < n_pos; p++) {
        const uint8_t *from = w->pages + w->table[p / 64] * w->shape.page_bytes;
        size_t at = (size_t)p * n_kv * d;
        td_attn_load(&w->shape, from, p % 64, w->kd + at, w->vd + at);
    }
}

static inline void world_free(world *w) {
    munmap(w->map, w->map_bytes);
    free(w->table);
    free(w->k);
    free(w->v);
    free(w->kd);
    free(w->vd);
    free(w->fold);
    free(w->key_at);
}

/* Attention of one head over positions [lo, hi), from the vectors k, v given. */
static inline void world_oracle(const world *w, const float *k, const float *v, const float *q, uint32_t kv_head,
                                uint32_t lo, uint32_t hi, double *out) {
    double *s = malloc((hi > lo ? hi - lo : 1) * sizeof(double)), top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < w->d; i++) out[i] = 0;
    for (uint32_t p = lo; p < hi; p++) {
        const float *key = k + ((size_t)p * w->n_kv + kv_head) * w->d;
        double x = 0;
        for (uint32_t i = 0; i < w->d; i++) x += (double)q[i] * (double)key[i];
        s[p - lo] = x;
        if (x > top) top = x;
    }
    for (uint32_t p = lo; p < hi; p++) {
        const float *value = v + ((size_t)p * w->n_kv + kv_head) * w->d;
        double e = exp(s[p - lo] - top);
        sum += e;
        for (uint32_t i = 0; i < w->d; i++) out[i] += e * (double)value[i];
    }
    for (uint32_t i = 0; i < w->d && sum > 0; i++) out[i] /= sum;
    free(s);
}

/* All units and merges, on one thread, units in reverse order if asked. */
static inline void world_attend(td_attn_plan *plan, const world *w, uint32_t n_head, const td_attn_row *rows,
                                uint32_t n_rows, const float *q, float *out, bool reverse) {
    size_t ld = (size_t)n_head * w->d;
    td_attn_call call = {
        .shape = &w->shape, .base = w->pages, .seq = &w->seq, .q = q, .out = out, .ldq = ld, .ldo = ld};
    if (td_attn_plan_set(plan, n_head, w->n_kv, rows, n_rows, NULL) != TD_OK) abort();
    uint32_t n = td_attn_units(plan);
    for (uint32_t i = 0; i < n; i++) td_attn_unit(plan, &call, reverse ? n - 1 - i : i, 0);
    for (uint32_t i = 0; i < td_attn_merges(plan); i++) td_attn_merge(plan, &call, i, 0);
}

#endif
