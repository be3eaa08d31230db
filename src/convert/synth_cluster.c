/* Clusters of equal size for the ordered head: which of the centroids each head row belongs to.
 *
 * A row must lie in a cluster that the head will select, that is, one of the best centroids for it; and every cluster
 * holds exactly n_vocab / n_centroids rows. That is a matching: each row has n_best places it may go, each centroid so
 * many seats. Rows take the best free seat in turn; when none of a row's centroids has one, a breadth-first search
 * finds a chain of rows that move over by one. With random rows this places all of them.
 *
 * Scores are sums over the row in order, one lane per centroid, so that they are the same at any vector width. */
#include "synth_parts.h"

#include "../base/checked.h"
#include "../base/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 4, LANES = 32, MAX_BEST = 16 };

typedef float lane16 __attribute__((vector_size(64), aligned(4)));

/* scores[TILE][n_c] of rows[TILE][h]; ct: centroids transposed, [h][n_c]. Four rows times two vectors of centroids stay
 * in registers. */
static inline __attribute__((always_inline)) void score_body(const float *rows, uint64_t h, const float *ct,
                                                             uint64_t n_c, float *scores) {
    const float *r0 = rows, *r1 = rows + h, *r2 = rows + 2 * h, *r3 = rows + 3 * h;
    for (uint64_t c = 0; c < n_c; c += LANES) {
        lane16 a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, c0 = {0}, c1 = {0}, d0 = {0}, d1 = {0};
        const float *p = ct + c;
        for (uint64_t i = 0; i < h; i++, p += n_c) {
            lane16 x = *(const lane16 *)(const void *)p, y = *(const lane16 *)(const void *)(p + 16);
            a0 += x * r0[i];
            a1 += y * r0[i];
            b0 += x * r1[i];
            b1 += y * r1[i];
            c0 += x * r2[i];
            c1 += y * r2[i];
            d0 += x * r3[i];
            d1 += y * r3[i];
        }
        lane16 *out[TILE] = {(lane16 *)(void *)(scores + c), (lane16 *)(void *)(scores + n_c + c),
                             (lane16 *)(void *)(scores + 2 * n_c + c), (lane16 *)(void *)(scores + 3 * n_c + c)};
        out[0][0] = a0, out[0][1] = a1;
        out[1][0] = b0, out[1][1] = b1;
        out[2][0] = c0, out[2][1] = c1;
        out[3][0] = d0, out[3][1] = d1;
    }
}

static void score_any(const float *rows, uint64_t h, const float *ct, uint64_t n_c, float *scores) {
    score_body(rows, h, ct, n_c, scores);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void score_avx2(const float *rows, uint64_t h, const float *ct, uint64_t n_c,
                                                       float *scores) {
    score_body(rows, h, ct, n_c, scores);
}

__attribute__((target("avx512f"))) static void score_avx512(const float *rows, uint64_t h, const float *ct,
                                                            uint64_t n_c, float *scores) {
    score_body(rows, h, ct, n_c, scores);
}
#endif

typedef void (*score_fn)(const float *rows, uint64_t h, const float *ct, uint64_t n_c, float *scores);

static score_fn choose_score(void) {
#if defined(__x86_64__)
    if (td_cpu_has(TD_CPU_AVX512)) return score_avx512;
    if (td_cpu_has(TD_CPU_AVX2)) return score_avx2;
#endif
    return score_any;
}

typedef struct scoring {
    const td_cluster_job *job;
    score_fn score;
    float *ct;      /* [h][n_c padded] */
    uint64_t n_c;   /* padded to LANES */
    uint16_t *best; /* [n_vocab][n_best] */
    float *scratch; /* per thread: rows[TILE][h], scores[TILE][n_c] */
    size_t per_thread;
    atomic_uint_fast64_t n_done;
} scoring;

/* The n_best largest, first index first on ties; insertion into a short sorted list. */
static void pick_best(const float *scores, uint64_t n, uint64_t n_best, uint16_t *out) {
    float top[MAX_BEST];
    uint64_t have = 0;
    for (uint64_t c = 0; c < n; c++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): n_best >= 1, checked in td_cluster */
        if (have == n_best && !(scores[c] > top[have - 1])) continue;
        uint64_t at = have < n_best ? have++ : have - 1;
        for (; at > 0 && scores[c] > top[at - 1]; at--) {
            top[at] = top[at - 1];
            out[at] = out[at - 1];
        }
        top[at] = scores[c];
        out[at] = (uint16_t)c;
    }
}

static void score_rows(void *arg, int ith, int nth) {
    scoring *s = arg;
    const td_cluster_job *j = s->job;
    (void)nth;
    float *rows = s->scratch + (size_t)ith * s->per_thread, *scores = rows + TILE * j->h;
    int64_t begin, end;
    while (td_pool_take(j->pool, (int64_t)j->n_vocab, 64, &begin, &end)) {
        for (uint64_t t = (uint64_t)begin; t < (uint64_t)end; t += TILE) {
            uint64_t n = (uint64_t)end - t < TILE ? (uint64_t)end - t : TILE;
            for (uint64_t i = 0; i < TILE; i++) {
                if (i < n && !j->is_zero(j->arg, t + i)) {
                    j->row(j->arg, t + i, rows + i * j->h);
                } else {
                    memset(rows + i * j->h, 0, j->h * sizeof *rows);
                }
            }
            s->score(rows, j->h, s->ct, s->n_c, scores);
            for (uint64_t i = 0; i < n; i++) {
                pick_best(scores + i * s->n_c, j->n_centroids, j->n_best, s->best + (t + i) * j->n_best);
            }
        }
        uint64_t done = atomic_fetch_add(&s->n_done, (uint64_t)(end - begin)) + (uint64_t)(end - begin);
        if (ith == 0 && j->progress) j->progress(j->progress_user, "clusters", done, j->n_vocab);
    }
}

static td_status find_best(const td_cluster_job *j, uint16_t *best, td_error *err) {
    uint64_t n_c = (j->n_centroids + LANES - 1) / LANES * LANES;
    scoring s = {.job = j, .score = choose_score(), .n_c = n_c, .best = best};
    s.per_thread = TILE * (j->h + n_c);
    s.ct = td_calloc(j->h, n_c * sizeof *s.ct);
    s.scratch = td_calloc((size_t)td_pool_size(j->pool), s.per_thread * sizeof *s.scratch);
    td_status status = TD_OK;
    if (s.ct && s.scratch) {
        for (uint64_t c = 0; c < j->n_centroids; c++) {
            for (uint64_t i = 0; i < j->h; i++) s.ct[i * n_c + c] = j->centroids[c * j->h + i];
        }
        td_pool_run(j->pool, score_rows, &s);
    } else {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the centroids of the ordered head");
    }
    free(s.ct);
    free(s.scratch);
    return status;
}

/* ---- the matching ---- */

typedef struct seating {
    const td_cluster_job *job;
    const uint16_t *best;
    uint64_t seats;     /* per centroid */
    uint32_t *taken;    /* [n_c] */
    int32_t *order;     /* [n_c][seats] */
    uint32_t *from_row; /* [n_c]: search: the row that would move into this centroid */
    uint32_t *from_c;   /* [n_c]: and the centroid it would leave; TD_NO_TOKEN: it has none yet */
    uint32_t *queue, *seen;
    uint32_t search;
} seating;

static void seat(seating *s, uint64_t c, uint64_t id) {
    s->order[c * s->seats + s->taken[c]++] = (int32_t)id;
}

static bool seat_directly(seating *s, uint64_t id) {
    for (uint64_t k = 0; k < s->job->n_best; k++) {
        uint64_t c = s->best[id * s->job->n_best + k];
        if (s->taken[c] < s->seats) {
            seat(s, c, id);
            return true;
        }
    }
    return false;
}

/* Moves rows along the chain that ends at centroid c with a free seat. */
static void shift_chain(seating *s, uint32_t c) {
    for (;;) {
        uint32_t row = s->from_row[c], left = s->from_c[c];
        seat(s, c, row);
        if (left == TD_NO_TOKEN) return;
        int32_t *members = s->order + left * s->seats;
        for (uint64_t k = 0; k < s->taken[left]; k++) {
            if (members[k] == (int32_t)row) {
                members[k] = members[--s->taken[left]];
                break;
            }
        }
        c = left;
    }
}

static bool reach(seating *s, uint32_t row, uint32_t from, uint32_t *n_queue) {
    for (uint64_t k = 0; k < s->job->n_best; k++) {
        uint32_t c = s->best[row * s->job->n_best + k];
        if (s->seen[c] == s->search) continue;
        s->seen[c] = s->search;
        s->from_row[c] = row;
        s->from_c[c] = from;
        if (s->taken[c] < s->seats) {
            shift_chain(s, c);
            return true;
        }
        s->queue[(*n_queue)++] = c;
    }
    return false;
}

static bool seat_by_search(seating *s, uint64_t id) {
    uint32_t n_queue = 0;
    s->search++;
    if (reach(s, (uint32_t)id, TD_NO_TOKEN, &n_queue)) return true;
    for (uint32_t q = 0; q < n_queue; q++) {
        uint32_t c = s->queue[q];
        for (uint64_t k = 0; k < s->seats; k++) {
            if (reach(s, (uint32_t)s->order[c * s->seats + k], c, &n_queue)) return true;
        }
    }
    return false;
}

static uint64_t seat_all(seating *s) {
    const td_cluster_job *j = s->job;
    uint64_t n_misplaced = 0, c = 0;
    for (uint64_t id = 0; id < j->n_vocab; id++) {
        if (j->is_zero(j->arg, id) || seat_directly(s, id) || seat_by_search(s, id)) continue;
        n_misplaced++; /* no chain: any seat, and the head will miss this token */
        while (s->taken[c] == s->seats) c++;
        seat(s, c, id);
    }
    c = 0;
    for (uint64_t id = 0; id < j->n_vocab; id++) {
        if (!j->is_zero(j->arg, id)) continue;
        while (s->taken[c] == s->seats) c++;
        seat(s, c, id);
    }
    return n_misplaced;
}

td_status td_cluster(const td_cluster_job *j, int32_t *order, uint64_t *n_misplaced, td_error *err) {
    if (j->n_best < 1 || j->n_best > MAX_BEST || j->n_best > j->n_centroids || j->n_centroids > UINT16_MAX ||
        j->n_vocab % j->n_centroids != 0 || j->n_vocab > INT32_MAX) {
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a vocabulary of %llu does not divide into %llu clusters",
                       (unsigned long long)j->n_vocab, (unsigned long long)j->n_centroids);
    }
    uint16_t *best = td_calloc(j->n_vocab, j->n_best * sizeof *best);
    uint32_t *words = td_calloc(j->n_centroids, 5 * sizeof *words);
    td_status status = TD_OK;
    if (!best || !words) {
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for clusters of %llu tokens",
                         (unsigned long long)j->n_vocab);
        goto done;
    }
    status = find_best(j, best, err);
    if (status != TD_OK) goto done;
    uint64_t n = j->n_centroids;
    seating s = {.job = j,
                 .best = best,
                 .seats = j->n_vocab / n,
                 .order = order,
                 .taken = words,
                 .from_row = words + n,
                 .from_c = words + 2 * n,
                 .queue = words + 3 * n,
                 .seen = words + 4 * n};
    *n_misplaced = seat_all(&s);
done:
    free(best);
    free(words);
    return status;
}
