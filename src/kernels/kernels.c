/* Which kernels run: one table per CPU level, filled in ascending order, the current one chosen once. */
#include "levels.h"

#include "../base/cpu.h"
#include "forms.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

enum { N_LEVELS = TD_CPU_I8MM + 1 };
static td_kernels tables[N_LEVELS];
static bool filled[N_LEVELS];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(const td_kernels *) current;

#if defined(__x86_64__)
static void fill_arch(td_kernels *k, td_cpu_level level) {
    if (level >= TD_CPU_AVX2) {
        td_avx2_tiles(k);
        td_avx2_tiles_k(k);
        td_avx2_rect(k);
        td_avx2_rows(k);
    }
    if (level == TD_CPU_AVXVNNI) {
        td_avxvnni_tiles(k);
        td_avxvnni_tiles_k(k);
        td_avxvnni_rect(k);
    }
    if (level >= TD_CPU_AVX512) {
        td_avx512_tiles(k);
        td_avx512_tiles_k(k);
        td_avx512_rect(k);
        td_avx512_pairs(k); /* after the rectangles, which then begin later */
        td_avx512_rows(k);
    }
}
#elif defined(__aarch64__)
static void fill_arch(td_kernels *k, td_cpu_level level) {
    if (level < TD_CPU_NEON) return;
    td_neon_tiles(k);
    td_neon_tiles_k(k);
    td_neon_rect(k);
    td_neon_rows(k);
    if (level < TD_CPU_I8MM) return;
    td_i8mm_tiles(k);
    td_i8mm_tiles_k(k);
    td_i8mm_rect(k);
}
#else
static void fill_arch(td_kernels *k, td_cpu_level level) {
    (void)k;
    (void)level;
}
#endif

static void fill_all(void) {
    for (int level = 0; level < N_LEVELS; level++) {
        if (level != TD_CPU_REF && !td_cpu_has((td_cpu_level)level)) continue;
        td_kernels *k = &tables[level];
        k->name = td_cpu_level_name((td_cpu_level)level);
        td_ref_tiles(k);
        td_ref_rows(k);
        fill_arch(k, (td_cpu_level)level);
        filled[level] = true;
    }
}

const td_kernels *td_kernels_for(int cpu_level) {
    pthread_once(&once, fill_all);
    return cpu_level >= 0 && cpu_level < N_LEVELS && filled[cpu_level] ? &tables[cpu_level] : NULL;
}

const td_kernels *td_kernels_get(void) {
    const td_kernels *k = atomic_load_explicit(&current, memory_order_acquire);
    if (k) return k;
    k = td_kernels_for((int)td_cpu_current());
    if (!k) k = td_kernels_for(TD_CPU_REF);
    atomic_store_explicit(&current, k, memory_order_release);
    return k;
}

void td_kernels_override(const td_kernels *k) {
    atomic_store_explicit(&current, k, memory_order_release);
}

void td_acts_norm(const td_acts *a, int32_t t, const float *x, const float *w, float eps) {
    const td_kernels *k = td_kernels_get();
    k->acts_set(a, t, x, w, k->rms_scale(x, a->k, eps), 0, a->n_blocks);
}

void td_rope_freqs(double *freq, int64_t n_pairs, int64_t d, double base, const float *factors) {
    for (int64_t i = 0; i < n_pairs; i++) {
        freq[i] = pow(base, -2.0 * (double)i / (double)d);
        if (factors) freq[i] /= (double)factors[i];
    }
}

void td_rope_table(float *cos_out, float *sin_out, const double *freq, int64_t n_pairs, int64_t pos) {
    for (int64_t i = 0; i < n_pairs; i++) {
        double angle = (double)pos * freq[i];
        cos_out[i] = (float)cos(angle);
        sin_out[i] = (float)sin(angle);
    }
}

/* Insertion into a list of k: for the small k of routers and centroids this beats a heap. */
void td_topk(const float *x, int64_t n, int64_t k, int32_t *idx, float *val) {
    int32_t local[256];
    int32_t *at = idx ? idx : local;
    int64_t have = 0;
    if (!idx && k > 256) k = 256;
    for (int64_t i = 0; i < n; i++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.ArraySubscript): k >= 1, and at is filled up to have */
        if (have == k && !(x[i] > x[at[k - 1]])) continue;
        int64_t j = have < k ? have++ : k - 1;
        for (; j > 0 && x[i] > x[at[j - 1]]; j--) at[j] = at[j - 1];
        at[j] = (int32_t)i;
    }
    for (int64_t j = 0; val && j < have; j++) val[j] = x[at[j]];
}
