/* Makes GGUF bytes field by field, for tests that need files no writer would write. Independent of src/file. */
#ifndef TESTS_FILE_GGUF_BUILD_H
#define TESTS_FILE_GGUF_BUILD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct gb {
    unsigned char data[1 << 16];
    size_t n;
} gb;

static inline void gb_raw(gb *b, const void *p, size_t n) {
    if (n > sizeof b->data - b->n) abort();
    memcpy(b->data + b->n, p, n);
    b->n += n;
}

static inline void gb_u8(gb *b, unsigned v) {
    unsigned char c = (unsigned char)v;
    gb_raw(b, &c, 1);
}

static inline void gb_u32(gb *b, uint32_t v) {
    for (int i = 0; i < 4; i++) gb_u8(b, v >> (8 * i) & 255);
}

static inline void gb_u64(gb *b, uint64_t v) {
    gb_u32(b, (uint32_t)v);
    gb_u32(b, (uint32_t)(v >> 32));
}

static inline void gb_str(gb *b, const char *s) {
    gb_u64(b, strlen(s));
    gb_raw(b, s, strlen(s));
}

static inline void gb_head(gb *b, uint64_t n_tensors, uint64_t n_keys) {
    b->n = 0;
    gb_raw(b, "GGUF", 4);
    gb_u32(b, 3);
    gb_u64(b, n_tensors);
    gb_u64(b, n_keys);
}

static inline void gb_key(gb *b, const char *key, uint32_t type) {
    gb_str(b, key);
    gb_u32(b, type);
}

static inline void gb_key_str(gb *b, const char *key, const char *value) {
    gb_key(b, key, 8);
    gb_str(b, value);
}

static inline void gb_key_u32(gb *b, const char *key, uint32_t value) {
    gb_key(b, key, 4);
    gb_u32(b, value);
}

static inline void gb_tensor(gb *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                             uint64_t offset) {
    gb_str(b, name);
    gb_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) gb_u64(b, ne[i]);
    gb_u32(b, type);
    gb_u64(b, offset);
}

static inline void gb_pad(gb *b, size_t align) {
    while (b->n % align != 0) gb_u8(b, 0);
}

/* A small sound file: five keys, two tensors. */
static inline void gb_sound(gb *b) {
    static const uint64_t ne[2] = {4, 3}, row[1] = {32};
    gb_head(b, 2, 5);
    gb_key_str(b, "general.architecture", "gemma4");
    gb_key_u32(b, "gemma4.block_count", 7);
    gb_key(b, "flag", 7);
    gb_u8(b, 1);
    gb_key(b, "list", 9);
    gb_u32(b, 5);
    gb_u64(b, 3);
    for (uint32_t i = 0; i < 3; i++) gb_u32(b, (uint32_t)-2 + i);
    gb_key(b, "words", 9);
    gb_u32(b, 8);
    gb_u64(b, 2);
    gb_str(b, "one");
    gb_str(b, "");
    gb_tensor(b, "a.weight", 2, ne, 0, 0);
    gb_tensor(b, "b.weight", 1, row, 8, 64);
    gb_pad(b, 32);
    for (unsigned i = 0; i < 48; i++) gb_u8(b, i);
    gb_pad(b, 32);
    for (unsigned i = 0; i < 34; i++) gb_u8(b, 200 + i);
}

#endif
