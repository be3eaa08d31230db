/* Random weights without an encoder: random codes under constant scales, at the speed of the random numbers.
 *
 * The scale of a type is found by decoding random blocks with a scale of one and measuring, so that nothing here
 * repeats a type's formula. Each row has a seed of its own: any row can be made alone, by any thread, twice. */
#include "synth_parts.h"

#include "../base/half.h"

#include <math.h>
#include <string.h>

uint64_t td_rng_mix(uint64_t a, uint64_t b) {
    uint64_t z = a + 0x9e3779b97f4a7c15u * (b + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void td_rng_seed(td_rng *r, uint64_t seed) {
    for (uint64_t i = 0; i < 4; i++) r->s[i] = td_rng_mix(seed, i);
}

static uint64_t rotl(uint64_t x, int k) {
    return x << k | x >> (64 - k);
}

uint64_t td_rng_next(td_rng *r) {
    uint64_t *s = r->s, out = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

uint64_t td_rng_below(td_rng *r, uint64_t n) {
    return (uint64_t)(((unsigned __int128)td_rng_next(r) * n) >> 64);
}

double td_rng_unit(td_rng *r) {
    return (double)(td_rng_next(r) >> 11) * 0x1p-53;
}

static void set(td_filler *f, size_t at, const void *bytes, size_t n) {
    memcpy(f->block + at, bytes, n);
    memset(f->mask + at, 1, n);
}

static void set_f16(td_filler *f, size_t at, float v) {
    uint8_t b[2];
    td_store_u16(b, td_f32_to_f16(v));
    set(f, at, b, 2);
}

/* Writes the scale fields for a main scale of d; minima centre the codes on zero. */
static void set_scales(td_filler *f, float d) {
    uint8_t b[16];
    switch (f->type->id) {
    case TD_TYPE_Q4_1:
        set_f16(f, 0, d);
        set_f16(f, 2, -7.5f * d);
        break;
    case TD_TYPE_Q5_1:
        set_f16(f, 0, d);
        set_f16(f, 2, -15.5f * d);
        break;
    case TD_TYPE_Q2_K: /* scale 8, minimum 12: 8 * 1.5 */
        memset(b, 0xc8, 16);
        set(f, 0, b, 16);
        set_f16(f, 80, d);
        set_f16(f, 82, d);
        break;
    case TD_TYPE_Q3_K: /* every scale 33, that is 1 */
        memset(b, 0x11, 8);
        memset(b + 8, 0xaa, 4);
        set(f, 96, b, 12);
        set_f16(f, 108, d);
        break;
    case TD_TYPE_Q4_K:
    case TD_TYPE_Q5_K: /* scales and minima 32 in the first four sub-blocks and, by their upper bits, in the others */
        memset(b, 32 | 2 << 6, 8);
        memset(b + 8, 0, 4);
        set(f, 4, b, 12);
        set_f16(f, 0, d);
        set_f16(f, 2, d * (f->type->id == TD_TYPE_Q4_K ? 7.5f : 15.5f));
        break;
    case TD_TYPE_Q6_K:
        memset(b, 64, 16);
        set(f, 192, b, 16);
        set_f16(f, 208, d);
        break;
    case TD_TYPE_IQ4_XS: /* every scale 33, that is 1 */
        set_f16(f, 0, d);
        memset(b, 0xaa, 2);
        memset(b + 2, 0x11, 4);
        set(f, 2, b, 6);
        break;
    case TD_TYPE_TQ3_1S:
    case TD_TYPE_TQ4_1S:
        set_f16(f, 0, d);
        set_f16(f, 2, d);
        break;
    default:
        set_f16(f, 0, d);
        break; /* Q4_0 Q5_0 Q8_0 IQ4_NL */
    }
}

static void random_bytes(td_rng *r, uint8_t *dst, size_t n) {
    for (; n >= 8; n -= 8, dst += 8) {
        uint64_t v = td_rng_next(r);
        memcpy(dst, &v, 8);
    }
    uint64_t v = td_rng_next(r);
    memcpy(dst, &v, n);
}

void td_filler_init(td_filler *f, const td_type_info *type, float rms) {
    enum { BLOCKS = 256 };
    memset(f, 0, sizeof *f);
    f->type = type;
    f->rms = rms;
    if (!type->is_quantised) return;
    set_scales(f, 1.0f / 64);
    td_rng r;
    td_rng_seed(&r, 1);
    double sum = 0;
    for (int i = 0; i < BLOCKS; i++) {
        uint8_t b[256];
        float x[256];
        random_bytes(&r, b, type->bytes);
        for (uint32_t j = 0; j < type->bytes; j++) b[j] = f->mask[j] ? f->block[j] : b[j];
        type->decode(b, x, type->block);
        for (uint32_t j = 0; j < type->block; j++) sum += (double)x[j] * (double)x[j];
    }
    double unit = sqrt(sum / ((double)BLOCKS * type->block)) * 64;
    set_scales(f, (float)((double)rms / unit));
}

/* Floats: uniform in +-sqrt(3) rms, 16 random bits each. */
static void fill_floats(const td_filler *f, td_rng *r, uint64_t k, uint8_t *dst) {
    float scale = f->rms * 1.7320508f / 32768.0f;
    for (uint64_t i = 0; i < k; i += 4) {
        uint64_t bits = td_rng_next(r);
        float x[4];
        for (int j = 0; j < 4; j++, bits >>= 16) x[j] = ((float)(int16_t)(uint16_t)bits + 0.5f) * scale;
        uint64_t n = k - i < 4 ? k - i : 4;
        f->type->encode(x, dst + i * f->type->bytes, (int64_t)n, 1, NULL);
    }
}

void td_filler_row(const td_filler *f, uint64_t seed, uint64_t k, uint8_t *dst) {
    td_rng r;
    td_rng_seed(&r, seed);
    if (!f->type->is_quantised) {
        fill_floats(f, &r, k, dst);
        return;
    }
    uint32_t n = f->type->bytes;
    uint64_t n_blocks = k / f->type->block;
    random_bytes(&r, dst, n_blocks * n);
    uint32_t first = 0, last = n; /* the masked bytes lie at the block's ends or in one run; copy only that range */
    while (first < n && !f->mask[first]) first++;
    while (last > first && !f->mask[last - 1]) last--;
    for (uint64_t i = 0; i < n_blocks; i++, dst += n) {
        for (uint32_t j = first; j < last; j++) {
            if (f->mask[j]) dst[j] = f->block[j];
        }
    }
}
