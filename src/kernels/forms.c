/* Packing: the file's rows to groups of 16 and back, byte moves only (forms.h says how; matrix.c calls it at load). */
#include "forms.h"

#include <string.h>

const uint8_t td_table_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
/* round(c / 1.996684 * 127) + 128 of the codebook in quant-formats.md 1.10; entries 8..15 repeat for 4-bit look-ups */
const uint8_t td_table_tq3[16] = {1, 46, 81, 112, 143, 174, 209, 255, 1, 46, 81, 112, 143, 174, 209, 255};
const uint8_t td_table_tq4[16] = {1, 32, 53, 70, 84, 97, 110, 122, 134, 146, 159, 172, 186, 203, 224, 255};

enum { I8 = TD_ACTS_I8, I8X = TD_ACTS_I8 | TD_ACTS_I8X, WHT = TD_ACTS_WHT };
enum { COPY = TD_FIELD_COPY, FLIP = TD_FIELD_FLIP, MASKS = TD_FIELD_MASKS };

/* clang-format off */
static const td_form forms[] = {
    {TD_FORM_F32, TD_TYPE_F32, 1, 4, TD_ACTS_F32, 1, {{0, 4, 4, COPY, 0}}},
    {TD_FORM_F16, TD_TYPE_F16, 1, 2, TD_ACTS_F32, 1, {{0, 2, 2, COPY, 0}}},
    {TD_FORM_BF16, TD_TYPE_BF16, 1, 2, TD_ACTS_F32, 1, {{0, 2, 2, COPY, 0}}},
    {TD_FORM_Q4_0, TD_TYPE_Q4_0, 32, 18, I8, 2, {{0, 2, 2, COPY, 0}, {2, 16, 4, COPY, 2}}},
    {TD_FORM_Q4_1, TD_TYPE_Q4_1, 32, 20, I8X, 2, {{0, 4, 2, COPY, 0}, {4, 16, 4, COPY, 4}}},
    {TD_FORM_Q5_0, TD_TYPE_Q5_0, 32, 22, I8, 3, {{0, 2, 2, COPY, 0}, {2, 4, 4, MASKS, 2}, {6, 16, 4, COPY, 6}}},
    {TD_FORM_Q5_1, TD_TYPE_Q5_1, 32, 24, I8X, 3, {{0, 4, 2, COPY, 0}, {4, 4, 4, MASKS, 4}, {8, 16, 4, COPY, 8}}},
    {TD_FORM_Q8_0, TD_TYPE_Q8_0, 32, 34, I8, 2, {{0, 2, 2, COPY, 0}, {2, 32, 4, FLIP, 2}}},
    {TD_FORM_IQ4_NL, TD_TYPE_IQ4_NL, 32, 18, I8, 2, {{0, 2, 2, COPY, 0}, {2, 16, 4, COPY, 2}}},
    {TD_FORM_Q2_K, TD_TYPE_Q2_K, 256, 84, I8X, 3, {{80, 4, 2, COPY, 0}, {0, 16, 1, COPY, 4}, {16, 64, 4, COPY, 20}}},
    {TD_FORM_Q3_K, TD_TYPE_Q3_K, 256, 110, I8X, 3, {{108, 2, 2, COPY, 0}, {96, 12, 1, COPY, 2}, {0, 96, 4, COPY, 14}}},
    {TD_FORM_Q4_K, TD_TYPE_Q4_K, 256, 144, I8X, 3, {{0, 4, 2, COPY, 0}, {4, 12, 1, COPY, 4}, {16, 128, 4, COPY, 16}}},
    {TD_FORM_Q5_K, TD_TYPE_Q5_K, 256, 176, I8X, 3, {{0, 4, 2, COPY, 0}, {4, 12, 1, COPY, 4}, {16, 160, 4, COPY, 16}}},
    {TD_FORM_Q6_K, TD_TYPE_Q6_K, 256, 210, I8X, 8, {{208, 2, 2, COPY, 0}, {192, 16, 1, COPY, 2}, {0, 32, 4, COPY, 18}, {128, 32, 4, COPY, 50}, {32, 32, 4, COPY, 82}, {64, 32, 4, COPY, 114}, {160, 32, 4, COPY, 146}, {96, 32, 4, COPY, 178}}},
    {TD_FORM_IQ4_XS, TD_TYPE_IQ4_XS, 256, 136, I8, 3, {{0, 4, 2, COPY, 0}, {4, 4, 1, COPY, 4}, {8, 128, 4, COPY, 8}}},
    {TD_FORM_TQ3_1S, TD_TYPE_TQ3_1S, 32, 16, WHT, 2, {{0, 4, 2, COPY, 0}, {4, 12, 4, TD_FIELD_THREES, 4}}},
    {TD_FORM_TQ4_1S, TD_TYPE_TQ4_1S, 32, 20, WHT, 2, {{0, 4, 2, COPY, 0}, {4, 16, 4, TD_FIELD_HALVES, 4}}},
};
/* clang-format on */
static const td_form generic = {.id = TD_FORM_GENERIC, .acts = TD_ACTS_F32};

const td_form *td_form_of(td_type type) {
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (forms[i].type == type) return &forms[i];
    return &generic;
}

static uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* The codes of one row's block, changed so that units of 4 bytes hold what a line wants. Its own inverse for FLIP. */
static void recode(uint8_t *dst, const uint8_t *src, const td_field *f) {
    if (f->op == TD_FIELD_FLIP) {
        /* A FLIP field has no masks: unpack_field fills all of it. */
        /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult) */
        for (int i = 0; i < f->bytes; i++) dst[i] = src[i] ^ 0x80;
    } else if (f->op == TD_FIELD_HALVES) {
        for (int j = 0; j < 16; j++) {
            int lo = src[j / 2] >> 4 * (j & 1) & 15, hi = src[8 + j / 2] >> 4 * (j & 1) & 15;
            dst[j] = (uint8_t)(lo | hi << 4);
        }
    } else if (f->op == TD_FIELD_THREES) {
        memset(dst, 0, 12);
        for (int j = 0; j < 32; j++) {
            const uint8_t *g = src + 3 * (j / 8);
            uint32_t code = ((uint32_t)g[0] | (uint32_t)g[1] << 8 | (uint32_t)g[2] << 16) >> 3 * (j % 8) & 7u;
            dst[j % 8] = (uint8_t)(dst[j % 8] | (code & 3u) << 2 * (j / 8));
            dst[8 + j / 8] = (uint8_t)(dst[8 + j / 8] | (code >> 2) << (j % 8));
        }
    } else {
        memcpy(dst, src, f->bytes);
    }
}

static void recode_back(uint8_t *dst, const uint8_t *src, const td_field *f) {
    if (f->op == TD_FIELD_HALVES) {
        for (int j = 0; j < 8; j++) {
            /* A HALVES field has 16 bytes in whole units, all of them filled. */
            /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult) */
            dst[j] = (uint8_t)((src[2 * j] & 15) | (src[2 * j + 1] & 15) << 4);
            dst[8 + j] = (uint8_t)(src[2 * j] >> 4 | (src[2 * j + 1] >> 4) << 4);
        }
    } else if (f->op == TD_FIELD_THREES) {
        for (int g = 0; g < 4; g++) {
            uint32_t bits = 0;
            for (int i = 0; i < 8; i++) {
                uint32_t code = (src[i] >> 2 * g & 3u) | (uint32_t)(src[8 + g] >> i & 1u) << 2;
                bits |= code << 3 * i;
            }
            for (int i = 0; i < 3; i++) dst[3 * g + i] = (uint8_t)(bits >> 8 * i);
        }
    } else {
        recode(dst, src, f);
    }
}

/* u32 of each of 16 rows <-> 8 masks of 64 bits. */
static void masks_from_rows(uint8_t *dst, const uint32_t h[TD_GROUP]) {
    for (int i = 0; i < 8; i++) {
        uint64_t m = 0;
        for (int r = 0; r < TD_GROUP; r++) m |= (uint64_t)(h[r] >> 4 * i & 15u) << 4 * r;
        memcpy(dst + 8 * i, &m, 8);
    }
}

static uint32_t row_from_masks(const uint8_t *src, int r) {
    uint32_t h = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t m;
        memcpy(&m, src + 8 * i, 8);
        h |= (uint32_t)(m >> 4 * r & 15u) << 4 * i;
    }
    return h;
}

static void interleave(uint8_t *dst, const uint8_t *const src[TD_GROUP], int bytes, int unit) {
    if (unit == 4) {
        for (int u = 0; u < bytes / 4; u++)
            for (int r = 0; r < TD_GROUP; r++) memcpy(dst + 64 * u + 4 * r, src[r] + 4 * u, 4);
    } else if (unit == 2) {
        for (int u = 0; u < bytes / 2; u++)
            for (int r = 0; r < TD_GROUP; r++) memcpy(dst + 32 * u + 2 * r, src[r] + 2 * u, 2);
    } else {
        for (int u = 0; u < bytes; u++)
            for (int r = 0; r < TD_GROUP; r++) dst[16 * u + r] = src[r][u];
    }
}

static void pack_field(uint8_t *dst, const uint8_t *const src[TD_GROUP], const td_field *f) {
    uint8_t tmp[TD_GROUP][32];
    const uint8_t *p[TD_GROUP];
    if (f->op == TD_FIELD_COPY) {
        interleave(dst, src, f->bytes, f->unit);
        return;
    }
    for (int r = 0; r < TD_GROUP; r++) {
        recode(tmp[r], src[r], f);
        p[r] = tmp[r];
    }
    int plain = f->op == TD_FIELD_MASKS ? 0 : f->op == TD_FIELD_THREES ? 8 : f->bytes;
    interleave(dst, p, plain, f->unit);
    if (plain == f->bytes) return;
    uint32_t h[TD_GROUP];
    for (int r = 0; r < TD_GROUP; r++) h[r] = load32(tmp[r] + plain);
    masks_from_rows(dst + 16 * plain, h);
}

void td_form_pack_group(const td_form *f, uint8_t *dst, const uint8_t *const rows[TD_GROUP], int64_t n_blocks) {
    static const uint8_t zeros[256];
    const uint8_t *src[TD_GROUP];
    for (int64_t b = 0; b < n_blocks; b++, dst += (size_t)TD_GROUP * f->bytes)
        for (int i = 0; i < f->n_fields; i++) {
            const td_field *e = &f->field[i];
            for (int r = 0; r < TD_GROUP; r++) src[r] = rows[r] ? rows[r] + (size_t)b * f->bytes + e->offset : zeros;
            pack_field(dst + 16 * e->at, src, e);
        }
}

static void unpack_field(uint8_t *dst, const uint8_t *src, int r, const td_field *f) {
    uint8_t tmp[256];
    int plain = f->op == TD_FIELD_MASKS ? 0 : f->op == TD_FIELD_THREES ? 8 : f->bytes;
    for (int u = 0; u < plain / f->unit; u++) memcpy(tmp + u * f->unit, src + (16 * u + r) * f->unit, f->unit);
    if (plain < f->bytes) {
        uint32_t h = row_from_masks(src + 16 * plain, r);
        memcpy(tmp + plain, &h, 4);
    }
    if (f->op == TD_FIELD_COPY || f->op == TD_FIELD_MASKS)
        memcpy(dst, tmp, f->bytes);
    else
        recode_back(dst, tmp, f);
}

void td_form_unpack_row(const td_form *f, uint8_t *dst, const uint8_t *group, int r, int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; b++)
        for (int i = 0; i < f->n_fields; i++) {
            const td_field *e = &f->field[i];
            unpack_field(dst + (size_t)(b - b0) * f->bytes + e->offset,
                         group + (size_t)b * TD_GROUP * f->bytes + 16 * e->at, r, e);
        }
}
