/* Products, the reference: one row and one activation row at a time, from the file's own bytes.
 *
 * This is the meaning of a product (matrix.h) in plain C, and the oracle of tests/kernel; it runs on any machine. It
 * takes each row out of its packed group again, so that it shares neither the layout nor the bit tricks of the other
 * instruction sets. */
#include "../forms.h"
#include "../levels.h"

#include "../../base/half.h"

#include <math.h>
#include <string.h>

/* A block as numbers: value i = scale[i / 16] * (code[i] - zero) + min[i / 16]. */
typedef struct block {
    int code[256], zero;
    float scale[16], min[16];
    bool halves; /* scales change every 16 values, not every 32 */
    bool has_min;
} block;

static float f16_at(const uint8_t *p) {
    return td_f16_to_f32(td_load_u16(p));
}

static void all_scales(block *o, float scale, float min) {
    for (int i = 0; i < 16; i++) {
        o->scale[i] = scale;
        o->min[i] = min;
    }
}

static void legacy(block *o, td_form_id id, const uint8_t *p) {
    bool five = id == TD_FORM_Q5_0 || id == TD_FORM_Q5_1, min = id == TD_FORM_Q4_1 || id == TD_FORM_Q5_1;
    all_scales(o, f16_at(p), min ? f16_at(p + 2) : 0.0f);
    p += min ? 4 : 2;
    uint32_t high = 0;
    if (five) {
        memcpy(&high, p, 4);
        p += 4;
    }
    for (int i = 0; i < 32; i++) o->code[i] = (p[i % 16] >> (i < 16 ? 0 : 4) & 15) | (int)(high >> i & 1u) << 4;
    o->has_min = min;
    o->zero = min ? 0 : five ? 16 : 8;
}

static void tables(block *o, td_form_id id, const uint8_t *p) {
    o->zero = 128;
    if (id == TD_FORM_IQ4_NL) {
        all_scales(o, f16_at(p), 0.0f);
        for (int i = 0; i < 32; i++) o->code[i] = td_table_iq4[p[2 + i % 16] >> (i < 16 ? 0 : 4) & 15];
        return;
    }
    float step = id == TD_FORM_TQ3_1S ? TD_TQ3_STEP : TD_TQ4_STEP;
    o->halves = true;
    o->scale[0] = f16_at(p) * step;
    o->scale[1] = f16_at(p + 2) * step;
    for (int i = 0; i < 32; i++) {
        if (id == TD_FORM_TQ4_1S) {
            o->code[i] = td_table_tq4[p[4 + i / 2] >> 4 * (i & 1) & 15];
        } else {
            const uint8_t *g = p + 4 + 3 * (i / 8);
            o->code[i] = td_table_tq3[(g[0] | g[1] << 8 | g[2] << 16) >> 3 * (i % 8) & 7];
        }
    }
}

static void q8_0(block *o, const uint8_t *p) {
    all_scales(o, f16_at(p), 0.0f);
    for (int i = 0; i < 32; i++) o->code[i] = (int8_t)p[2 + i]; /* NOLINT(bugprone-signed-char-misuse): a number */
}

static void q45_k(block *o, const uint8_t *p, bool five) {
    float d = f16_at(p), dmin = f16_at(p + 2);
    const uint8_t *b = p + 4, *h = p + 16, *q = five ? p + 48 : p + 16;
    o->has_min = true;
    for (int j = 0; j < 8; j++) {
        int sc = j < 4 ? b[j] & 63 : (b[j + 4] & 15) | (b[j - 4] >> 6) << 4;
        int m = j < 4 ? b[j + 4] & 63 : b[j + 4] >> 4 | (b[j] >> 6) << 4;
        o->scale[2 * j] = o->scale[2 * j + 1] = d * (float)sc;
        o->min[2 * j] = o->min[2 * j + 1] = -(dmin * (float)m);
        for (int i = 0; i < 32; i++) {
            o->code[32 * j + i] = q[32 * (j / 2) + i] >> 4 * (j & 1) & 15;
            if (five) o->code[32 * j + i] |= (h[i] >> j & 1) << 4;
        }
    }
}

static void q2_k(block *o, const uint8_t *p) {
    float d = f16_at(p + 80), dmin = f16_at(p + 82);
    o->has_min = o->halves = true;
    for (int j = 0; j < 16; j++) {
        o->scale[j] = d * (float)(p[j] & 15);
        o->min[j] = -(dmin * (float)(p[j] >> 4));
    }
    for (int i = 0; i < 256; i++) o->code[i] = p[16 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}

static void q3_k(block *o, const uint8_t *p) {
    float d = f16_at(p + 108);
    const uint8_t *s = p + 96;
    o->halves = true;
    o->zero = 4;
    for (int j = 0; j < 16; j++) {
        int sc = (s[j % 8] >> 4 * (j / 8) & 15) | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
        o->scale[j] = d * (float)(sc - 32);
    }
    for (int i = 0; i < 256; i++)
        o->code[i] = (p[32 + 32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3) | (p[i % 32] >> i / 32 & 1) << 2;
}

static void q6_k(block *o, const uint8_t *p) {
    float d = f16_at(p + 208);
    o->halves = true;
    o->zero = 32;
    for (int j = 0; j < 16; j++) o->scale[j] = d * (float)(int8_t)p[192 + j];
    for (int i = 0; i < 256; i++) {
        int half = i / 128, l = i % 128;
        o->code[i] = (p[64 * half + l % 64] >> 4 * (l / 64) & 15) | (p[128 + 32 * half + l % 32] >> 2 * (l / 32) & 3)
                                                                        << 4;
    }
}

static void iq4_xs(block *o, const uint8_t *p) {
    float d = f16_at(p);
    o->zero = 128;
    for (int j = 0; j < 8; j++) {
        int ls = (p[4 + j / 2] >> 4 * (j & 1) & 15) | (td_load_u16(p + 2) >> 2 * j & 3) << 4;
        o->scale[2 * j] = o->scale[2 * j + 1] = d * (float)(ls - 32);
        for (int i = 0; i < 32; i++)
            o->code[32 * j + i] = td_table_iq4[p[8 + 16 * j + i % 16] >> (i < 16 ? 0 : 4) & 15];
    }
}

static void decode(block *o, const td_form *f, const uint8_t *p) {
    o->zero = 0;
    o->halves = o->has_min = false;
    switch (f->id) {
    case TD_FORM_Q8_0:
        q8_0(o, p);
        break;
    case TD_FORM_Q2_K:
        q2_k(o, p);
        break;
    case TD_FORM_Q3_K:
        q3_k(o, p);
        break;
    case TD_FORM_Q4_K:
        q45_k(o, p, false);
        break;
    case TD_FORM_Q5_K:
        q45_k(o, p, true);
        break;
    case TD_FORM_Q6_K:
        q6_k(o, p);
        break;
    case TD_FORM_IQ4_XS:
        iq4_xs(o, p);
        break;
    case TD_FORM_IQ4_NL:
    case TD_FORM_TQ3_1S:
    case TD_FORM_TQ4_1S:
        tables(o, f->id, p);
        break;
    default:
        legacy(o, f->id, p);
        break;
    }
}

/* acc + 32 values of block o from value v on, times the activation codes q with scale dx. */
static float sub_block(float acc, const block *o, int v, const int8_t *q, float dx) {
    int width = o->halves ? 16 : 32;
    for (int h = 0; h < 32; h += width) {
        int dot = 0, sum = 0;
        for (int i = h; i < h + width; i++) {
            dot += (o->code[v + i] - o->zero) * q[i];
            sum += q[i];
        }
        acc = fmaf((float)dot, o->scale[(v + h) / 16] * dx, acc);
        if (o->has_min) acc = fmaf(o->min[(v + h) / 16], dx * (float)sum, acc);
    }
    return acc;
}

static void quantised(const td_tile_args *a, const td_form *f, int n_tok) {
    block o;
    uint8_t raw[256];
    for (int r = 0; r < TD_GROUP; r++) {
        float acc[TD_PANEL];
        for (int t = 0; t < n_tok; t++) acc[t] = a->resume ? a->y[t * a->ldy + r] : 0.0f;
        for (int64_t b = 0; b < a->n; b++) {
            td_form_unpack_row(f, raw, a->w, r, b, b + 1);
            decode(&o, f, raw);
            for (int v = 0; v < f->block; v += 32)
                for (int t = 0; t < n_tok; t++) {
                    size_t at = (size_t)(b * f->block + v) / 32 * TD_I8_BLOCK;
                    float dx;
                    memcpy(&dx, a->d + at + 4 * t, 4);
                    acc[t] = sub_block(acc[t], &o, v, (const int8_t *)a->q + at + 32 * t, dx);
                }
        }
        for (int t = 0; t < n_tok; t++) a->y[t * a->ldy + r] = acc[t];
    }
}

static void floats(const td_tile_args *a, const td_form *f, int n_tok) {
    for (int r = 0; r < TD_GROUP; r++)
        for (int t = 0; t < n_tok; t++) {
            float total = a->resume ? a->y[t * a->ldy + r] : 0.0f, acc = 0.0f;
            for (int64_t i = 0; i < a->n; i++) {
                float w;
                const uint8_t *p = a->w + (size_t)(i * TD_GROUP + r) * f->bytes;
                if (f->id == TD_FORM_F32)
                    memcpy(&w, p, 4);
                else
                    w = f->id == TD_FORM_F16 ? f16_at(p) : td_bf16_to_f32(td_load_u16(p));
                acc = fmaf(w, a->f[i / 32 * 256 + 32 * t + i % 32], acc);
                if (i % 32 == 31 || i == a->n - 1) { /* sums of 32 are added up */
                    total += acc;
                    acc = 0.0f;
                }
            }
            a->y[t * a->ldy + r] = total;
        }
}

static void run(const td_tile_args *a, td_type type, int n_tok) {
    const td_form *f = td_form_of(type);
    if (f->acts & TD_ACTS_F32)
        floats(a, f, n_tok);
    else
        quantised(a, f, n_tok);
}

#define TILE(T, N)                                                                                                     \
    static void tile_##T##_##N(const td_tile_args *a) {                                                                \
        run(a, TD_TYPE_##T, N);                                                                                        \
    }
#define FORM(T)                                                                                                        \
    TILE(T, 1)                                                                                                         \
    TILE(T, 2)                                                                                                         \
    TILE(T, 3)                                                                                                         \
    TILE(T, 4)                                                                                                         \
    TILE(T, 5)                                                                                                         \
    TILE(T, 6)                                                                                                         \
    TILE(T, 7)                                                                                                         \
    TILE(T, 8)                                                                                                         \
    static const td_tile_fn list_##T[TD_TILES] = {                                                                     \
        0,           tile_##T##_1, tile_##T##_2, tile_##T##_3, tile_##T##_4, tile_##T##_5, tile_##T##_6, tile_##T##_7, \
        tile_##T##_8};
TD_FLOAT_FORMS(FORM)
TD_BLOCK_FORMS(FORM)
TD_SUPER_FORMS(FORM)

#define ENTRY(T) memcpy(k->tile[TD_FORM_##T], list_##T, sizeof list_##T);

void td_ref_tiles(td_kernels *k) {
    TD_FLOAT_FORMS(ENTRY)
    TD_BLOCK_FORMS(ENTRY)
    TD_SUPER_FORMS(ENTRY)
}
