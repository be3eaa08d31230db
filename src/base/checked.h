/* Checked arithmetic on sizes. Every size that depends on a file, a request or a flag goes through these; true = fits.
 */
#ifndef TD_BASE_CHECKED_H
#define TD_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool td_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool td_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool td_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool td_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Rounds `n` up to a multiple of `align` (a power of two). */
static inline bool td_align_up_u64(uint64_t n, uint64_t align, uint64_t *out) {
    uint64_t t = 0;
    if (__builtin_add_overflow(n, align - 1, &t)) return false;
    *out = t & ~(align - 1);
    return true;
}

/* Memory from the heap, zeroed, n * size checked; NULL when it overflows or there is none. Free with free(). */
void *td_calloc(size_t n, size_t size);
void *td_reallocarray(void *p, size_t n, size_t size);
/* Aligned to `align` (power of two >= 64), advised for huge pages above 4 MiB; free with td_free_aligned(p, bytes). */
void *td_alloc_aligned(size_t bytes, size_t align);
void td_free_aligned(void *p, size_t bytes);

#endif
