/* Bump allocation in blocks that double; reset keeps the first block, so that a request that fits in it costs no call
 * to the allocator. */
#include "arena.h"

#include "checked.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, FIRST_BLOCK = 16 << 10, MAX_BLOCK = 16 << 20 };

typedef struct block {
    struct block *next; /* the one filled before */
    size_t size, used;
    _Alignas(ALIGN) unsigned char data[];
} block;

struct td_arena {
    block *head, *first;
    size_t limit, used;
};

td_arena *td_arena_create(size_t limit) {
    td_arena *a = calloc(1, sizeof *a);
    if (a != NULL) a->limit = limit != 0 ? limit : SIZE_MAX;
    return a;
}

static void free_blocks(block *b, const block *stop) {
    while (b != stop) {
        block *next = b->next;
        free(b);
        b = next;
    }
}

void td_arena_destroy(td_arena *a) {
    if (a == NULL) return;
    free_blocks(a->head, NULL);
    free(a);
}

void td_arena_reset(td_arena *a) {
    free_blocks(a->head, a->first);
    a->head = a->first;
    if (a->first != NULL) a->first->used = 0;
    a->used = 0;
}

static bool add_block(td_arena *a, size_t bytes) {
    size_t size = a->head == NULL ? FIRST_BLOCK : a->head->size * 2, total = 0;
    if (size > MAX_BLOCK) size = MAX_BLOCK;
    if (size < bytes) size = bytes;
    if (!td_add_size(size, sizeof(block), &total)) return false;
    block *b = malloc(total);
    if (b == NULL) return false;
    *b = (block){.next = a->head, .size = size};
    a->head = b;
    if (a->first == NULL) a->first = b;
    return true;
}

void *td_arena_alloc(td_arena *a, size_t n, size_t size) {
    size_t bytes = 0, total = 0;
    if (!td_mul_size(n, size, &bytes) || !td_add_size(bytes, ALIGN - 1, &bytes)) return NULL;
    bytes &= ~(size_t)(ALIGN - 1);
    if (bytes == 0) bytes = ALIGN;
    if (!td_add_size(a->used, bytes, &total) || total > a->limit) return NULL;
    if ((a->head == NULL || a->head->size - a->head->used < bytes) && !add_block(a, bytes)) return NULL;
    void *p = a->head->data + a->head->used;
    a->head->used += bytes;
    a->used = total;
    return memset(p, 0, bytes);
}

char *td_arena_strndup(td_arena *a, const char *s, size_t n_bytes) {
    size_t bytes = 0;
    if (!td_add_size(n_bytes, 1, &bytes)) return NULL;
    char *copy = td_arena_alloc(a, bytes, 1);
    if (copy != NULL && n_bytes != 0) memcpy(copy, s, n_bytes);
    return copy;
}

size_t td_arena_used(const td_arena *a) {
    return a->used;
}
