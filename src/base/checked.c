/* Memory with checked sizes. Large aligned blocks ask for huge pages: packed weights are walked end to end on every
 * token, and with 4 KiB pages the address translation alone costs a noticeable part of the memory bandwidth. */
#include "checked.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_FROM = 4 << 20, HUGE_PAGE = 2 << 20 };

void *td_calloc(size_t n, size_t size) {
    size_t bytes = 0;
    if (!td_mul_size(n, size, &bytes)) return NULL;
    return calloc(1, bytes != 0 ? bytes : 1);
}

void *td_reallocarray(void *p, size_t n, size_t size) {
    size_t bytes = 0;
    if (!td_mul_size(n, size, &bytes)) return NULL;
    return realloc(p, bytes != 0 ? bytes : 1);
}

void *td_alloc_aligned(size_t bytes, size_t align) {
    bool huge = bytes >= HUGE_FROM;
    if (align < 64) align = 64;
    if ((align & (align - 1)) != 0) return NULL;
    if (huge && align < HUGE_PAGE) align = HUGE_PAGE;
    uint64_t rounded = 0;
    if (!td_align_up_u64(bytes != 0 ? bytes : 1, align, &rounded)) return NULL;
    void *p = NULL;
    if (posix_memalign(&p, align, (size_t)rounded) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    if (huge) (void)madvise(p, (size_t)rounded, MADV_HUGEPAGE); /* advice: refusal changes nothing but speed */
#endif
    return p;
}

void td_free_aligned(void *p, size_t bytes) {
    (void)bytes;
    free(p);
}
