/* The two 16-bit float formats, bit by bit: exact on every machine, without compiler extensions.
 *
 * Kernels use the machine's own conversions where it has them; these are what they are compared with, and what block
 * scales go through. Rounding is to nearest, ties to even (spec quant-formats.md 1.3). */
#ifndef TD_BASE_HALF_H
#define TD_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t td_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float td_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float td_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 1023u;
    if (e == 0) return td_bits_f32(sign | td_f32_bits((float)m * 0x1p-24f)); /* zero and subnormals: exact */
    if (e == 31) return td_bits_f32(sign | 0x7f800000u | m << 13);
    return td_bits_f32(sign | (e + 112u) << 23 | m << 13);
}

static inline uint16_t td_f32_to_f16(float x) {
    uint32_t u = td_f32_bits(x), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (u < 0x38800000u) {                                   /* below 2^-14: the sum's last place is 2^-24 */
        float t = td_bits_f32(u) + 0.5f;
        return (uint16_t)(sign | (td_f32_bits(t) - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - (112u << 23)) >> 13));
}

static inline float td_bf16_to_f32(uint16_t h) {
    return td_bits_f32((uint32_t)h << 16);
}

static inline uint16_t td_f32_to_bf16(float x) {
    uint32_t u = td_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 64u); /* stays a NaN, quiet */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* Little-endian 16-bit fields inside blocks, which need not be aligned. */
static inline uint16_t td_load_u16(const void *p) {
    const uint8_t *b = (const uint8_t *)p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline void td_store_u16(void *p, uint16_t v) {
    uint8_t *b = (uint8_t *)p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

#endif
