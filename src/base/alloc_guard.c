/* The allocation guard: this file's malloc, calloc, realloc and memalign stand before glibc's in guarded builds, count
 * calls made inside a guard, and go on to the real ones. */
#include "alloc_guard.h"

#ifdef TD_ALLOC_GUARD

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Thread_local int depth;
static atomic_uint_fast64_t hits;

void td_alloc_guard_enter(void) {
    depth++;
}

void td_alloc_guard_leave(void) {
    depth--;
}

uint64_t td_alloc_guard_hits(void) {
    return atomic_load(&hits);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

bool td_alloc_guard_active(void) {
    return true;
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

/* A place for a debugger's breakpoint: who allocated inside a step. */
__attribute__((noinline)) static void hit(void) {
    atomic_fetch_add(&hits, 1);
}

static void watch(void) {
    if (depth != 0) hit();
}

void *malloc(size_t n) {
    watch();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size) {
    watch();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n) {
    watch();
    return __libc_realloc(p, n);
}

int posix_memalign(void **out, size_t align, size_t n) {
    watch();
    *out = __libc_memalign(align, n);
    return *out != NULL ? 0 : ENOMEM;
}

void *aligned_alloc(size_t align, size_t n) {
    watch();
    return __libc_memalign(align, n);
}

#else

bool td_alloc_guard_active(void) {
    return false;
}

#endif
#else
typedef int td_alloc_guard_is_off; /* a translation unit must not be empty */
#endif
