/* The types whose codes live behind a Walsh-Hadamard transform: TQ3_1S, TQ4_1S (weights) and turbo2/3/4 (cache).
 *
 * A signed, orthogonal Hadamard transform makes the coordinates of a group nearly Gaussian, so that one fixed code book
 * fits all groups (spec quant-formats.md 1.8 to 1.10). Decoding a TQ row gives the weights; decoding a turbo row gives
 * values in the rotated domain, where attention uses them: td_turbo_inverse takes them back.
 *
 * turbo2/3/4 here are the published formats with their published code books: what the quantisation vectors and
 * comparisons speak of. The cache does not use them: no file holds its blocks, so src/kernels/attention_page.c has code
 * books of less error for the same bits (tests/kv/test_coding_error compares the two on a model's keys and values). */
#include "rotate.h"

#include "codec.h"

#include "../base/half.h"

#include <math.h>

/* Bit i set: element i is negated. */
static const uint8_t turbo_s1[16] = {0x59, 0x03, 0x6a, 0xe4, 0x49, 0x59, 0xf8, 0x42,
                                     0xbb, 0x3b, 0xc6, 0xa4, 0xa9, 0x50, 0xf2, 0x49};
static const uint8_t turbo_s2[16] = {0x90, 0xee, 0xac, 0x16, 0xdc, 0x8f, 0x62, 0x3f,
                                     0x7a, 0x35, 0xa5, 0xb7, 0x62, 0x65, 0xa5, 0xbe};
static const uint8_t tq_signs[4] = {0x4a, 0x4b, 0x6b, 0x69};

static float sign_of(const uint8_t *mask, int i) {
    return mask[i >> 3] >> (i & 7) & 1 ? -1.0f : 1.0f;
}

static void butterflies(float *x, int n) {
    for (int h = 1; h < n; h *= 2) {
        for (int i = 0; i < n; i += 2 * h) {
            for (int j = i; j < i + h; j++) {
                float a = x[j], b = x[j + h];
                x[j] = a + b;
                x[j + h] = a - b;
            }
        }
    }
}

void td_turbo_forward(float *x) {
    for (int i = 0; i < 128; i++) x[i] *= sign_of(turbo_s1, i);
    butterflies(x, 128);
    for (int i = 0; i < 128; i++) x[i] *= 0.08838834764831845f * sign_of(turbo_s2, i);
}

void td_turbo_inverse(float *x) {
    for (int i = 0; i < 128; i++) x[i] *= sign_of(turbo_s2, i);
    butterflies(x, 128);
    for (int i = 0; i < 128; i++) x[i] *= 0.08838834764831845f * sign_of(turbo_s1, i);
}

/* In place on 32 values: the rotation of TQ3_1S and TQ4_1S. */
static void tq_forward(float *x) {
    for (int i = 0; i < 32; i++) x[i] *= sign_of(tq_signs, i);
    butterflies(x, 32);
    for (int i = 0; i < 32; i++) x[i] *= 0.17677669529663688f;
}

static void tq_inverse(float *x) {
    butterflies(x, 32);
    for (int i = 0; i < 32; i++) x[i] *= 0.17677669529663688f * sign_of(tq_signs, i);
}

/* Code books in ascending order, as published, and the limits between their values. */
static const float tq3_values[8] = {-1.996684f, -1.291398f, -0.740341f, -0.247508f,
                                    0.230106f,  0.725222f,  1.277503f,  1.988943f};
static const float tq4_values[16] = {-2.732590f, -2.069017f, -1.618046f, -1.256231f, -0.942340f, -0.656759f,
                                     -0.388048f, -0.128395f, 0.128395f,  0.388048f,  0.656759f,  0.942340f,
                                     1.256231f,  1.618046f,  2.069017f,  2.732590f};
static const float tq3_limits[7] = {-1.644041f, -1.015870f, -0.493925f, -0.008701f, 0.477664f, 1.001363f, 1.633223f};
static const float tq4_limits[15] = {-2.400804f, -1.843532f, -1.437139f, -1.099286f, -0.799550f,
                                     -0.522404f, -0.258222f, 0.0f,       0.258222f,  0.522404f,
                                     0.799550f,  1.099286f,  1.437139f,  1.843532f,  2.400804f};

static const float turbo2_values[4] = {-0.133462f, -0.039994f, 0.039994f, 0.133462f};
static const float turbo3_values[8] = {-0.190685f, -0.117832f, -0.065717f, -0.021460f,
                                       0.021460f,  0.065717f,  0.117832f,  0.190685f};
static const float turbo4_values[16] = {-0.173926f, -0.117195f, -0.089527f, -0.068756f, -0.051262f, -0.035597f,
                                        -0.020989f, -0.006938f, 0.006938f,  0.020989f,  0.035597f,  0.051262f,
                                        0.068756f,  0.089527f,  0.117195f,  0.173926f};
static const float turbo2_limits[3] = {-0.086728f, 0, 0.086728f};
static const float turbo3_limits[7] = {-0.154259f, -0.091775f, -0.043589f, 0, 0.043589f, 0.091775f, 0.154259f};
static const float turbo4_limits[15] = {-0.145560f, -0.103361f, -0.079142f, -0.060009f, -0.043430f,
                                        -0.028293f, -0.013963f, 0,          0.013963f,  0.028293f,
                                        0.043430f,  0.060009f,  0.079142f,  0.103361f,  0.145560f};

/* The number of limits that v is not below. */
static uint8_t code_of(float v, const float *limits, int n) {
    int c = 0;
    for (int i = 0; i < n; i++) c += !(v < limits[i]);
    return (uint8_t)c;
}

/* ---- TQ weights: 32 values, two scales ---- */

static uint32_t load_u24(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

void td_decode_tq3_1s(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 16) {
        for (int j = 0; j < 32; j++) {
            float d = td_f16_to_f32(td_load_u16(b + 2 * (j >> 4)));
            dst[i + j] = d * tq3_values[load_u24(b + 4 + 3 * (j >> 3)) >> (3 * (j & 7)) & 7];
        }
        tq_inverse(dst + i);
    }
}

void td_decode_tq4_1s(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 32, b += 20) {
        for (int j = 0; j < 32; j++) {
            float d = td_f16_to_f32(td_load_u16(b + 2 * (j >> 4)));
            dst[i + j] = d * tq4_values[b[4 + (j >> 1)] >> (4 * (j & 1)) & 15];
        }
        tq_inverse(dst + i);
    }
}

typedef struct book {
    const float *values, *limits;
    int n;
} book;

static float inverse_of(float d) {
    return d > 1e-10f ? 1.0f / d : 0.0f;
}

static float half_rms(const float *z) {
    float s = 0;
    for (int i = 0; i < 16; i++) s += z[i] * z[i];
    return sqrtf(s / 16.0f);
}

/* The two scales and the codes of one transformed group z[32]. */
static void search_tq(const float *z, book c, float d[2], uint8_t *code) {
    static const float factor[9] = {0.6f, 0.7f, 0.8f, 0.9f, 1.0f, 1.1f, 1.2f, 1.35f, 1.5f};
    float rms[2] = {half_rms(z), half_rms(z + 16)}, best = INFINITY;
    d[0] = rms[0];
    d[1] = rms[1];
    for (int f = 0; f < 9; f++) {
        float t[2] = {rms[0] * factor[f], rms[1] * factor[f]}, inv[2] = {inverse_of(t[0]), inverse_of(t[1])}, err = 0;
        for (int i = 0; i < 32; i++) {
            float e = z[i] - t[i >> 4] * c.values[code_of(z[i] * inv[i >> 4], c.limits, c.n - 1)];
            err += e * e;
        }
        if (err < best) {
            best = err;
            d[0] = t[0];
            d[1] = t[1];
        }
    }
    for (int pass = 0; pass < 6; pass++) {
        for (int h = 0; h < 2; h++) {
            float inv = inverse_of(d[h]), zc = 0, cc = 0;
            for (int i = 16 * h; i < 16 * h + 16; i++) {
                float v = c.values[code_of(z[i] * inv, c.limits, c.n - 1)];
                zc += z[i] * v;
                cc += v * v;
            }
            if (cc > 1e-10f) d[h] = zc / cc;
        }
    }
    for (int i = 0; i < 32; i++) code[i] = code_of(z[i] * inverse_of(d[i >> 4]), c.limits, c.n - 1);
}

static void encode_tq(const float *x, uint8_t *b, book c, uint8_t *code) {
    float z[32], d[2];
    memcpy(z, x, sizeof z);
    tq_forward(z);
    search_tq(z, c, d, code);
    td_store_u16(b, td_f32_to_f16(d[0]));
    td_store_u16(b + 2, td_f32_to_f16(d[1]));
}

void td_encode_tq3_1s(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 32, b += 16) {
        uint8_t code[32];
        encode_tq(src + i, b, (book){tq3_values, tq3_limits, 8}, code);
        for (int g = 0; g < 4; g++) {
            uint32_t v = 0;
            for (int j = 0; j < 8; j++) v |= (uint32_t)code[8 * g + j] << (3 * j);
            for (int j = 0; j < 3; j++) b[4 + 3 * g + j] = (uint8_t)(v >> (8 * j));
        }
    }
}

void td_encode_tq4_1s(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 32, b += 20) {
        uint8_t code[32];
        encode_tq(src + i, b, (book){tq4_values, tq4_limits, 16}, code);
        for (int j = 0; j < 16; j++) b[4 + j] = (uint8_t)(code[2 * j] | code[2 * j + 1] << 4);
    }
}

/* ---- turbo cache types: 128 values, one norm ---- */

static void encode_turbo(const float *x, uint8_t *b, book c, uint8_t *code) {
    float z[128], s = 0, r = 0;
    for (int i = 0; i < 128; i++) s += x[i] * x[i];
    float norm = sqrtf(s), inv = norm > 1e-10f ? 1.0f / norm : 0;
    for (int i = 0; i < 128; i++) z[i] = x[i] * inv;
    td_turbo_forward(z);
    for (int i = 0; i < 128; i++) {
        code[i] = code_of(z[i], c.limits, c.n - 1);
        r += c.values[code[i]] * c.values[code[i]];
    }
    r = sqrtf(r);
    td_store_u16(b, td_f32_to_f16(r > 1e-10f ? norm / r : norm));
}

static void pack_two_bits(const uint8_t *code, uint8_t *b) {
    for (int j = 0; j < 32; j++) {
        const uint8_t *c = code + 4 * j;
        b[j] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | (c[3] & 3) << 6);
    }
}

void td_encode_turbo2(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 128, b += 34) {
        uint8_t code[128];
        encode_turbo(src + i, b, (book){turbo2_values, turbo2_limits, 4}, code);
        pack_two_bits(code, b + 2);
    }
}

void td_encode_turbo3(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 128, b += 50) {
        uint8_t code[128];
        encode_turbo(src + i, b, (book){turbo3_values, turbo3_limits, 8}, code);
        pack_two_bits(code, b + 2);
        for (int j = 0; j < 16; j++) {
            int h = 0;
            for (int l = 0; l < 8; l++) h |= (code[8 * j + l] >> 2) << l;
            b[34 + j] = (uint8_t)h;
        }
    }
}

void td_encode_turbo4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 128, b += 68) {
        uint8_t code[128];
        encode_turbo(src + i, b, (book){turbo4_values, turbo4_limits, 16}, code);
        td_store_u16(b + 2, 0);
        for (int j = 0; j < 64; j++) b[4 + j] = (uint8_t)(code[2 * j] | code[2 * j + 1] << 4);
    }
}

void td_decode_turbo2(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 128, b += 34) {
        float norm = td_f16_to_f32(td_load_u16(b));
        for (int j = 0; j < 128; j++) dst[i + j] = norm * turbo2_values[b[2 + j / 4] >> (2 * (j & 3)) & 3];
    }
}

void td_decode_turbo3(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 128, b += 50) {
        float norm = td_f16_to_f32(td_load_u16(b));
        for (int j = 0; j < 128; j++) {
            int c = (b[2 + j / 4] >> (2 * (j & 3)) & 3) | (b[34 + j / 8] >> (j & 7) & 1) << 2;
            dst[i + j] = norm * turbo3_values[c];
        }
    }
}

void td_decode_turbo4(const void *src, float *dst, int64_t n) {
    const uint8_t *b = src;
    for (int64_t i = 0; i < n; i += 128, b += 68) {
        float norm = td_f16_to_f32(td_load_u16(b));
        for (int j = 0; j < 128; j++) dst[i + j] = norm * turbo4_values[b[4 + j / 2] >> (4 * (j & 1)) & 15];
    }
}
