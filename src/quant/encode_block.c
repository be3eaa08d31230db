/* Encoders of the formats that need no search: floats, the 32-value blocks, the activation formats and the FP4 pair.
 *
 * Bytes equal those of ggml's reference encoders (spec quant-formats.md 1.3, 1.4, 1.7): the reciprocal is taken of the
 * binary32 scale before that scale is rounded to f16. With an importance row the four 32-value formats of 4 and 5 bits
 * use the searches of search.h instead. */
#include "codec.h"
#include "search.h"

#include "../base/half.h"

#include <math.h>

void td_encode_f32(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    memcpy(dst, src, (size_t)(k * n_rows) * sizeof *src);
}

void td_encode_f16(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i++) td_store_u16(b + 2 * i, td_f32_to_f16(src[i]));
}

void td_encode_bf16(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i++) td_store_u16(b + 2 * i, td_f32_to_bf16(src[i]));
}

static void store_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static float reciprocal(float d) {
    return d != 0 ? 1.0f / d : 0.0f;
}

static int at_most(int v, int limit) {
    return v < limit ? v : limit;
}

/* The truncating casts below are on values bounded by construction; a NaN or infinity in a weight must not make the
 * cast undefined, so it is clamped first. The bounds are beyond what a finite block can reach. */
static int trunc_int(float v) {
    if (!(v > -1024.0f)) return -1024;
    return v < 1024.0f ? (int)v : 1024;
}

/* ---- importance: weights of one block, w = imp * sqrt(sigma2 + x^2) ---- */

static float mean_square(const float *x, int64_t k) {
    float s = 0;
    for (int64_t i = 0; i < k; i++) s += x[i] * x[i];
    return s / (float)k;
}

static void block_weights(const float *imatrix, const float *x, float sigma2, int n, float *w) {
    for (int i = 0; i < n; i++) w[i] = imatrix[i] * sqrtf(sigma2 + x[i] * x[i]);
}

static void pack_nibbles(const uint8_t *code, uint8_t *out) {
    for (int j = 0; j < 16; j++) out[j] = (uint8_t)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static uint32_t fifth_bits(const uint8_t *code) {
    uint32_t h = 0;
    for (int j = 0; j < 32; j++) h |= (uint32_t)(code[j] >> 4 & 1) << j;
    return h;
}

/* The smallest and largest of 32 values; eight lanes each, for the compiler's vectors. */
static void extremes(const float *x, float *min, float *max) {
    float hi[8], lo[8];
    for (int j = 0; j < 8; j++) hi[j] = lo[j] = x[j];
    for (int i = 8; i < 32; i += 8) {
        for (int j = 0; j < 8; j++) {
            hi[j] = x[i + j] > hi[j] ? x[i + j] : hi[j];
            lo[j] = x[i + j] < lo[j] ? x[i + j] : lo[j];
        }
    }
    *max = hi[0];
    *min = lo[0];
    for (int j = 1; j < 8; j++) {
        *max = hi[j] > *max ? hi[j] : *max;
        *min = lo[j] < *min ? lo[j] : *min;
    }
}

/* As signed_max; the extremes differ in magnitude but for a rare tie. */
static float signed_max_32(const float *x) {
    float min, max;
    extremes(x, &min, &max);
    return max > -min ? max : max < -min ? min : td_signed_max(x, 32);
}

/* code[j] = the whole part of (x[j] - m) * scale + shift, at most `limit`; a NaN must not reach the cast. */
static void codes_32(const float *x, float m, float scale, float shift, int limit, uint8_t *code) {
    for (int j = 0; j < 32; j++) {
        float v = (x[j] - m) * scale + shift;
        v = v > 0.0f ? v : 0.0f;
        v = v < (float)limit ? v : (float)limit;
        code[j] = (uint8_t)(int)v;
    }
}

/* Q4_0 and Q5_0: signed codes around 8 or 16. */
static void encode_signed(const float *x, uint8_t *b, int nmax, const float *imatrix, float sigma2) {
    uint8_t code[32];
    float d;
    if (imatrix) {
        float w[32];
        block_weights(imatrix, x, sigma2, 32, w);
        d = td_search_qx(x, 32, nmax, w, code);
    } else {
        d = signed_max_32(x) / (float)-nmax;
        codes_32(x, 0, reciprocal(d), (float)nmax + 0.5f, 2 * nmax - 1, code);
    }
    td_store_u16(b, td_f32_to_f16(d));
    if (nmax == 16) store_u32(b + 2, fifth_bits(code));
    pack_nibbles(code, b + (nmax == 16 ? 6 : 2));
}

/* Q4_1 and Q5_1: codes from a minimum. */
static void encode_offset(const float *x, uint8_t *b, int nmax, const float *imatrix, float sigma2) {
    uint8_t code[32];
    float d, m;
    if (imatrix) {
        float w[32];
        block_weights(imatrix, x, sigma2, 32, w);
        d = td_search_qkx(x, 32, nmax, w, -0.9f, 0.05f, 36, false, &m, code);
        m = -m;
    } else {
        float max;
        extremes(x, &m, &max);
        d = (max - m) / (float)nmax;
        codes_32(x, m, reciprocal(d), 0.5f, nmax, code);
    }
    td_store_u16(b, td_f32_to_f16(d));
    td_store_u16(b + 2, td_f32_to_f16(m));
    if (nmax == 31) store_u32(b + 4, fifth_bits(code));
    pack_nibbles(code, b + (nmax == 31 ? 8 : 4));
}

typedef void (*block_fn)(const float *x, uint8_t *b, int nmax, const float *imatrix, float sigma2);

static void encode_rows(const float *src, uint8_t *b, int64_t k, int64_t n_rows, const float *imatrix, int n_bytes,
                        block_fn fn, int nmax) {
    for (int64_t r = 0; r < n_rows; r++, src += k) {
        float sigma2 = imatrix ? mean_square(src, k) : 0;
        for (int64_t i = 0; i < k; i += 32, b += n_bytes) fn(src + i, b, nmax, imatrix ? imatrix + i : NULL, sigma2);
    }
}

void td_encode_q4_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    encode_rows(src, dst, k, n_rows, imatrix, 18, encode_signed, 8);
}

void td_encode_q4_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    encode_rows(src, dst, k, n_rows, imatrix, 20, encode_offset, 15);
}

void td_encode_q5_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    encode_rows(src, dst, k, n_rows, imatrix, 22, encode_signed, 16);
}

void td_encode_q5_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    encode_rows(src, dst, k, n_rows, imatrix, 24, encode_offset, 31);
}

/* Codes of Q8_0 and Q8_1 at `q`; returns the scale and the sum of the codes. Written for the compiler's vectors: the
 * largest magnitude is found on the bits, and rounding away from zero is a truncation after adding the float just below
 * one half, which is exact for |v| < 2^23. */
static float encode_int8(const float *x, uint8_t *q, int *sum) {
    int32_t bits = 0, total = 0;
    for (int j = 0; j < 32; j++) {
        int32_t b = (int32_t)(td_f32_bits(x[j]) & 0x7fffffffu);
        bits = b > bits ? b : bits;
    }
    float d = td_bits_f32((uint32_t)bits) / 127.0f, id = reciprocal(d);
    for (int j = 0; j < 32; j++) {
        float v = x[j] * id;
        v = v < 128.0f ? v : 128.0f; /* a NaN must not reach the cast */
        v = v > -128.0f ? v : -128.0f;
        int32_t c = (int32_t)(v + td_bits_f32(0x3effffffu | (td_f32_bits(v) & 0x80000000u)));
        q[j] = (uint8_t)c;
        total += c;
    }
    *sum = total;
    return d;
}

void td_encode_q8_0(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 32, b += 34) {
        int sum;
        td_store_u16(b, td_f32_to_f16(encode_int8(src + i, b + 2, &sum)));
    }
}

void td_encode_q8_1(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 32, b += 36) {
        int sum;
        float d = encode_int8(src + i, b + 4, &sum);
        td_store_u16(b, td_f32_to_f16(d));
        td_store_u16(b + 2, td_f32_to_f16((float)sum * d));
    }
}

void td_encode_q8_k(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 256, b += 292) {
        const float *x = src + i;
        float smax = td_signed_max(x, 256), s = smax != 0 ? -127.0f / smax : 0, d = smax != 0 ? 1.0f / s : 0;
        store_u32(b, td_f32_bits(d));
        for (int g = 0; g < 16; g++) {
            int sum = 0;
            for (int j = 16 * g; j < 16 * g + 16; j++) {
                int v = at_most(td_round_even(s * x[j]), 127);
                b[4 + j] = (uint8_t)v;
                sum += v;
            }
            td_store_u16(b + 260 + 2 * g, (uint16_t)sum);
        }
    }
}

/* ---- FP4 ---- */

static uint8_t nearest_fp4(float x, float d) {
    int best = 0;
    float best_err = fabsf((float)td_fp4_values[0] * d - x);
    for (int i = 1; i < 16; i++) {
        float err = fabsf((float)td_fp4_values[i] * d - x);
        if (err < best_err) {
            best = i;
            best_err = err;
        }
    }
    return (uint8_t)best;
}

static float abs_max(const float *x, int n) {
    float m = 0;
    for (int i = 0; i < n; i++) m = fabsf(x[i]) > m ? fabsf(x[i]) : m;
    return m;
}

void td_encode_mxfp4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 32, b += 17) {
        float amax = abs_max(src + i, 32);
        /* the logarithm in binary32, as the reference takes it: just below a power of two it may round up */
        b[0] = amax > 0 ? (uint8_t)((int)floorf(log2f(amax)) - 2 + 127) : 0;
        float d = td_e8m0_half(b[0]);
        for (int j = 0; j < 16; j++) {
            b[1 + j] = (uint8_t)(nearest_fp4(src[i + j], d) | nearest_fp4(src[i + j + 16], d) << 4);
        }
    }
}

static uint8_t encode_ue4m3(float x) {
    if (!(x > 0)) return 0;
    if (x > 448.0f) x = 448.0f;
    uint32_t u = td_f32_bits(x);
    int e = (int)(u >> 23) - 120, m = (int)(u >> 20 & 7);
    if (e <= 0) {
        m = at_most(trunc_int(512.0f * x + 0.5f), 7);
        return (uint8_t)(m < 1 ? 0 : m);
    }
    if (e >= 15) return 0x7e;
    m += (int)(u >> 19 & 1);
    if (m > 7) {
        m = 0;
        e++;
    }
    return e >= 15 ? 0x7e : (uint8_t)(e * 8 + m);
}

void td_encode_nvfp4(const float *src, void *dst, int64_t k, int64_t n_rows, const float *imatrix) {
    (void)imatrix;
    uint8_t *b = dst;
    for (int64_t i = 0; i < k * n_rows; i += 64, b += 36) {
        for (int s = 0; s < 4; s++) {
            const float *x = src + i + 16 * s;
            b[s] = encode_ue4m3(abs_max(x, 16) / 6.0f);
            float d = td_ue4m3_half(b[s]);
            for (int j = 0; j < 8; j++) {
                b[4 + 8 * s + j] = (uint8_t)(nearest_fp4(x[j], d) | nearest_fp4(x[j + 8], d) << 4);
            }
        }
    }
}
