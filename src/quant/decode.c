/* Decoding: from stored blocks to binary32, one function per type.
 *
 * Layouts and formulas are those of spec quant-formats.md 1.3 to 1.7. Every product is rounded in the order written
 * there, (d * sc) * q - (dmin * m), because tests compare bit for bit; this folder is compiled without contraction of
 * a * b + c. Fast paths live in src/kernels; these functions are their oracle and serve everything that is not hot. */
#include "codec.h"

#include "../base/half.h"

const int8_t td_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t td_fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float load_f16(const uint8_t *p) {
    return td_f16_to_f32(td_load_u16(p));
}

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void td_decode_f32(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * sizeof *dst);
}

/* What td_f16_to_f32 does, with masks for branches, so that the compiler makes vectors of it. */
void td_decode_f16(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i++) {
        uint32_t h = td_load_u16(b + 2 * i), e = h & 0x7c00;
        uint32_t is_small = 0u - (e == 0), is_special = 0u - (e == 0x7c00);
        uint32_t small = td_f32_bits((float)(int32_t)(h & 1023) * 0x1p-24f), rest = ((h & 0x7fff) << 13) + (112u << 23);
        rest |= is_special & 0x7f800000u;
        dst[i] = td_bits_f32((small & is_small) | (rest & ~is_small) | (h & 0x8000) << 16);
    }
}

void td_decode_bf16(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i++) dst[i] = td_bf16_to_f32(td_load_u16(b + 2 * i));
}

/* ---- 32-value blocks: byte j holds value j in its low nibble and value j + 16 in its high one ---- */

void td_decode_q4_0(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        float d = load_f16(b);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)((b[2 + j] & 15) - 8);
            dst[i + j + 16] = d * (float)((b[2 + j] >> 4) - 8);
        }
    }
}

void td_decode_q4_1(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 20) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)(b[4 + j] & 15) + m;
            dst[i + j + 16] = d * (float)(b[4 + j] >> 4) + m;
        }
    }
}

void td_decode_q5_0(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 22) {
        float d = load_f16(b);
        uint32_t h = load_u32(b + 2);
        for (int j = 0; j < 16; j++) {
            int lo = (b[6 + j] & 15) | (int)((h >> j) & 1) << 4, hi = b[6 + j] >> 4 | (int)((h >> (j + 16)) & 1) << 4;
            dst[i + j] = d * (float)(lo - 16);
            dst[i + j + 16] = d * (float)(hi - 16);
        }
    }
}

void td_decode_q5_1(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 24) {
        float d = load_f16(b), m = load_f16(b + 2);
        uint32_t h = load_u32(b + 4);
        for (int j = 0; j < 16; j++) {
            int lo = (b[8 + j] & 15) | (int)((h >> j) & 1) << 4, hi = b[8 + j] >> 4 | (int)((h >> (j + 16)) & 1) << 4;
            dst[i + j] = d * (float)lo + m;
            dst[i + j + 16] = d * (float)hi + m;
        }
    }
}

void td_decode_q8_0(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 34) {
        float d = load_f16(b);
        for (int j = 0; j < 32; j++) dst[i + j] = d * (float)(int8_t)b[2 + j];
    }
}

void td_decode_iq4_nl(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        float d = load_f16(b);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)td_iq4_values[b[2 + j] & 15];
            dst[i + j + 16] = d * (float)td_iq4_values[b[2 + j] >> 4];
        }
    }
}

float td_e8m0_half(uint8_t e) {
    return td_bits_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

void td_decode_mxfp4(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 17) {
        float d = td_e8m0_half(b[0]);
        for (int j = 0; j < 16; j++) {
            dst[i + j] = d * (float)td_fp4_values[b[1 + j] & 15];
            dst[i + j + 16] = d * (float)td_fp4_values[b[1 + j] >> 4];
        }
    }
}

float td_ue4m3_half(uint8_t x) {
    if (x == 0 || x == 0x7f) return 0;
    uint32_t e = (x >> 3) & 15u, m = x & 7u;
    float v = e == 0 ? (float)m * 0x1p-9f : (1.0f + (float)m / 8.0f) * td_bits_f32((e - 7 + 127) << 23);
    return v * 0.5f;
}

void td_decode_nvfp4(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 64, b += 36) {
        for (int s = 0; s < 4; s++) {
            float d = td_ue4m3_half(b[s]);
            const uint8_t *q = b + 4 + 8 * s;
            for (int j = 0; j < 8; j++) {
                dst[i + 16 * s + j] = d * (float)td_fp4_values[q[j] & 15];
                dst[i + 16 * s + j + 8] = d * (float)td_fp4_values[q[j] >> 4];
            }
        }
    }
}

/* ---- 256-value blocks ---- */

/* The six-bit scale and minimum of sub-block j (0..7) in the 12 bytes that Q4_K and Q5_K share. */
static void k_scale_min(int j, const uint8_t *b, uint8_t *scale, uint8_t *min) {
    if (j < 4) {
        *scale = b[j] & 63;
        *min = b[j + 4] & 63;
    } else {
        *scale = (uint8_t)((b[j + 4] & 15) | (b[j - 4] >> 6) << 4);
        *min = (uint8_t)(b[j + 4] >> 4 | (b[j] >> 6) << 4);
    }
}

/* 16 bytes of (scale, min) nibbles, 64 of codes, d, dmin. A half of 128 values has 32 bytes with four codes each. */
void td_decode_q2_k(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 84) {
        float d = load_f16(b + 80), dmin = load_f16(b + 82);
        for (int v = 0; v < 256; v++) {
            int half = v >> 7, plane = (v >> 5) & 3, l = v & 31;
            uint8_t sm = b[v >> 4];
            int q = b[16 + 32 * half + l] >> (2 * plane) & 3;
            dst[i + v] = (d * (float)(sm & 15)) * (float)q - dmin * (float)(sm >> 4);
        }
    }
}

/* 32 bytes of high bits, 64 of codes as in Q2_K, 12 of six-bit scales, d. */
void td_decode_q3_k(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 110) {
        const uint8_t *s = b + 96;
        float d = load_f16(b + 108), scale[16];
        for (int j = 0; j < 16; j++) {
            int lo = s[j & 7] >> (4 * (j >> 3)) & 15, hi = s[8 + (j & 3)] >> (2 * (j >> 2)) & 3;
            scale[j] = d * (float)((lo | hi << 4) - 32);
        }
        for (int v = 0; v < 256; v++) {
            int half = v >> 7, plane = (v >> 5) & 3, l = v & 31;
            int q = b[32 + 32 * half + l] >> (2 * plane) & 3;
            if (!(b[l] >> (v >> 5) & 1)) q -= 4;
            dst[i + v] = scale[v >> 4] * (float)q;
        }
    }
}

void td_decode_q4_k(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 144) {
        float d = load_f16(b), dmin = load_f16(b + 2);
        for (int j = 0; j < 8; j++) {
            uint8_t sc, m;
            k_scale_min(j, b + 4, &sc, &m);
            float ds = d * (float)sc, ms = dmin * (float)m;
            const uint8_t *q = b + 16 + 32 * (j >> 1);
            for (int l = 0; l < 32; l++) dst[i + 32 * j + l] = ds * (float)(q[l] >> (4 * (j & 1)) & 15) - ms;
        }
    }
}

void td_decode_q5_k(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 176) {
        float d = load_f16(b), dmin = load_f16(b + 2);
        for (int j = 0; j < 8; j++) {
            uint8_t sc, m;
            k_scale_min(j, b + 4, &sc, &m);
            float ds = d * (float)sc, ms = dmin * (float)m;
            const uint8_t *h = b + 16, *q = b + 48 + 32 * (j >> 1);
            for (int l = 0; l < 32; l++) {
                int v = (q[l] >> (4 * (j & 1)) & 15) | (h[l] >> j & 1) << 4;
                dst[i + 32 * j + l] = ds * (float)v - ms;
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 of high bits, 16 int8 scales, d. */
void td_decode_q6_k(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 210) {
        float d = load_f16(b + 208);
        for (int v = 0; v < 256; v++) {
            int half = v >> 7, r = v & 127;
            int lo = b[64 * half + (r & 63)] >> (4 * (r >> 6)) & 15;
            int hi = b[128 + 32 * half + (r & 31)] >> (2 * (r >> 5)) & 3;
            dst[i + v] = (d * (float)(int8_t)b[192 + (v >> 4)]) * (float)((lo | hi << 4) - 32);
        }
    }
}

/* d, 16 bits of high scale pairs, 4 bytes of low scale nibbles, 128 of codes. */
void td_decode_iq4_xs(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 256, b += 136) {
        float d = load_f16(b);
        uint32_t high = td_load_u16(b + 2);
        for (int j = 0; j < 8; j++) {
            int ls = (b[4 + (j >> 1)] >> (4 * (j & 1)) & 15) | (int)((high >> (2 * j)) & 3) << 4;
            float ds = d * (float)(ls - 32);
            const uint8_t *q = b + 8 + 16 * j;
            for (int l = 0; l < 16; l++) {
                dst[i + 32 * j + l] = ds * (float)td_iq4_values[q[l] & 15];
                dst[i + 32 * j + l + 16] = ds * (float)td_iq4_values[q[l] >> 4];
            }
        }
    }
}
