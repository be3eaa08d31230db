/* Inside attention: cache formats, and the operations that each instruction set provides.
 *
 * The driver (attention.c) and the codec (attention_page.c) speak of tiles: 16-bit integers [step][64 lanes], a step
 * being two dimensions of 32 positions for keys (lane 2 * position + dimension) and two positions of 32 dimensions for
 * values (lane 2 * dimension + position), so that one 32-bit lane holds the two factors that vpdpwssd adds. All sets
 * give the same bits: sums of integers are exact, and float operations are written in one order. */
#ifndef TD_KERNELS_ATTENTION_OPS_H
#define TD_KERNELS_ATTENTION_OPS_H

#include "attention.h"

#include <math.h>
#include <string.h>

enum {
    HALF = 32,                      /* positions of a key tile, dimensions of a value tile (a strip) */
    LANES = 64,                     /* 16-bit lanes of a step */
    PAIRS = TD_ATTN_PAGE / 2,       /* steps of a value strip in a page */
    Q_STRIDE = TD_ATTN_D_MAX,       /* a query row of integers or floats */
    W_STRIDE = TD_ATTN_CHUNK,       /* a row of scores or of weights */
    STRIP_MAX = TD_ATTN_D_MAX / 32, /* strips of a head */
    GROUP_ROWS = 8                  /* rows of one call of score and mix */
};

/* A vector is codes, one 15-bit factor per group of `group` values, and one f32 scale:
 * value = mulhrs(table[code], factor) * scale, mulhrs(a, b) = (a * b + 2^14) >> 15. 16 bits: value = code * scale. */
typedef struct attn_format {
    const char *name;
    uint8_t bits;         /* 32: floats; 16; 8; 4; 3; 2 */
    uint8_t rotate;       /* Hadamard transform of groups of up to 128 before coding */
    uint16_t group;       /* values with a common factor */
    const int16_t *table; /* [1 << bits] ascending; NULL for 32, 16 and 8 bits */
} attn_format;

const attn_format *td_attn_format(td_kv_type type);

/* A symmetric code book for the encoder: positive levels, and the magnitudes from which the next one is nearer. */
typedef struct attn_levels {
    float level[16], threshold[8]; /* [half]; [half - 1], then infinity */
    int32_t half;
} attn_levels;

/* Byte offsets inside the key or value block of one head of one page. */
typedef struct attn_block {
    uint32_t n;           /* values of a position */
    uint32_t group;       /* values with a common factor */
    size_t factor, scale; /* uint16_t [n / group][64], float [64]; unused ones are 0 */
    size_t bytes;
} attn_block;

/* Block of n values of a type; keys and values differ where the codes of a word run along the dimensions. */
attn_block td_attn_block(td_kv_type type, uint32_t n, bool value);

/* Values of a transform of n values: the largest power of two up to 128 that divides n. */
static inline uint32_t attn_rotation(uint32_t n) {
    uint32_t g = n & (~n + 1u);
    return g < 128 ? g : 128;
}

/* Scores of up to 8 rows. */
typedef struct attn_score_args {
    const void *q;        /* [n_row][Q_STRIDE] int16 (or float) */
    const float *q_scale; /* [n_row] */
    const void *tile;     /* [n_dim / 2][64] int16, or [n_dim][32] float */
    const float *scale;   /* [32] of the positions; NULL for floats */
    float *s;             /* [n_row][W_STRIDE], 32 written */
    uint32_t n_row, n_dim;
    bool add;         /* to what is there */
    const void *next; /* to fetch meanwhile: 2 KiB for every 32 dimensions, `jump` bytes apart; only a hint */
    size_t jump;
} attn_score_args;

/* Weighted sums of one strip of 32 dimensions over a chunk, folded into o: o = o * alpha + sum * w_scale * beta. Pages
 * are summed as integers, then added as floats in order: a weight among 256 equal ones keeps 11 bits that way. */
typedef struct attn_mix_args {
    const void *w;         /* [n_row][W_STRIDE] int16 (or float) */
    const void *strip[4];  /* per page of the chunk: [32][64] int16, or [64][32] float */
    uint32_t page0, page1; /* pages with visible positions */
    uint32_t begin, end;   /* floats: positions of the chunk that are stored */
    float *o;              /* [n_row], `ldo` apart, 32 values */
    size_t ldo;
    const float *w_scale;      /* [n_row] */
    const float *alpha, *beta; /* [n_row]; beta 0: the row is left alone */
    uint32_t n_row;
} attn_mix_args;

/* Maximum, exponentials and weights of one row of a chunk. */
typedef struct attn_soft {
    float m, l; /* maximum and sum of exponentials */
    float w_scale;
} attn_soft;

typedef struct attn_ops {
    const char *name;
    /* x [n] to 16-bit integers whose Euclidean norm is at most 46,312 (so that the product of two such vectors fits 32
     * bits, by Cauchy and Schwarz) and whose largest is at most `most`; returns their scale. Values that are not finite
     * count as 0. */
    float (*quantise)(const float *x, uint32_t n, float most, int16_t *q);
    /* In place: groups of g values: signs, then Hadamard / sqrt(g); inverse: the reverse. n a multiple of g. */
    void (*rotate)(float *x, uint32_t n, uint32_t g, bool inverse);
    /* x * inv to the nearest levels t: sums of x * t and t * t; or their codes. n a multiple of 16. */
    void (*match)(const float *x, uint32_t n, float inv, const attn_levels *l, float *xt, float *tt);
    void (*codes)(const float *x, uint32_t n, float inv, const attn_levels *l, int16_t *code);
    /* Squared error of x rounded to multiples of step = 1 / inv; the multiples, within +-127. */
    float (*error_8)(const float *x, uint32_t n, float step, float inv);
    void (*codes_8)(const float *x, uint32_t n, float inv, int16_t *code);
    /* Tiles from coded blocks: the keys of 32 positions `half` (0, 1) of a page, all n dimensions; the values of a
     * page, strips [strip0, strip1), each [32][64]; strip0 a multiple of 8. */
    void (*keys)(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half, int16_t *tile);
    void (*values)(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t strip0, uint32_t strip1,
                   int16_t *tile);
    /* Half of a value strip [32][64] as keys [16][64]. */
    void (*turn)(const int16_t *strip, uint32_t half, int16_t *tile);
    void (*score)(const attn_score_args *a);
    /* The same on coded pages, without tiles; false: not for these numbers of rows, use tiles. NULL: never. `tile` and
     * the pointers of `strip` (blocks of values here) are ignored or as said; the result is bit for bit that of tiles.
     */
    bool (*score_codes)(td_kv_type type, const attn_block *b, const uint8_t *block, uint32_t half,
                        const attn_score_args *a);
    bool (*mix_codes)(td_kv_type type, const attn_block *b, uint32_t strip, const attn_mix_args *a);
    void (*score_f32)(const attn_score_args *a);
    /* Scores s [256] of which [b, e) are visible (b < e); v_scale [256]; w [256] written whole. */
    attn_soft (*soft)(const float *s, uint32_t b, uint32_t e, const float *v_scale, int16_t *w);
    attn_soft (*soft_f32)(const float *s, uint32_t b, uint32_t e, float *w);
    void (*mix)(const attn_mix_args *a);
    void (*mix_f32)(const attn_mix_args *a);
    /* o = o * alpha + x * beta, and y = x * a. */
    void (*fold)(float *o, const float *x, uint32_t n, float alpha, float beta);
    void (*scale)(float *y, const float *x, uint32_t n, float a);
    float (*exp)(float x); /* e^x for x <= 0: at most 1 unit in the last place; 0 below -87 */
} attn_ops;

const attn_ops *td_attn_ops(void);           /* for td_cpu_current() */
const attn_ops *td_attn_ops_for(int level);  /* tests; NULL where the build or the processor lacks it */
void td_attn_ops_override(const attn_ops *); /* tests; NULL: back */
extern const attn_ops td_attn_ops_ref;
extern const attn_ops td_attn_ops_avx2, td_attn_ops_avxvnni, td_attn_ops_avx512, td_attn_ops_neon;

/* What all sets compute alike, in scalar form. */

static inline int32_t attn_round(float x) { /* nearest, ties to even; |x| < 2^22 */
    float t = x + 12582912.0f;
    int32_t i;
    memcpy(&i, &t, sizeof i);
    return i - 0x4b400000;
}

static inline int16_t attn_mulhrs(int32_t a, int32_t factor) { /* a: 16 bits; factor: as the instruction reads it */
    return (int16_t)((a * (int16_t)factor + 0x4000) >> 15);
}

/* Byte of a lane in a row of 64 codes of 8 bits: the order in which unpacking zeros and codes by 128-bit parts gives
 * lanes 0 .. 31 (low halves) and 32 .. 63 (high halves), each code in the high byte of its lane. */
static inline uint32_t attn_byte_of(uint32_t lane) {
    uint32_t l = lane % 32;
    return l / 8 * 16 + lane / 32 * 8 + l % 8;
}

/* e^x: x = n ln 2 + f, |f| <= 0.347; 1 + f + f^2 p(f) with the coefficients of Cephes' expf, times 2^n by the exponent
 * bits. tests/kernel/test_attention measures the bound over the range. */
#define ATTN_EXP_MIN (-87.0f)
#define ATTN_LOG2E   1.44269504f
#define ATTN_LN2_HI  0.693359375f
#define ATTN_LN2_LO  (-2.12194440e-4f)
#define ATTN_EXP_C0  1.9875691500e-4f
#define ATTN_EXP_C1  1.3981999507e-3f
#define ATTN_EXP_C2  8.3334519073e-3f
#define ATTN_EXP_C3  4.1665795894e-2f
#define ATTN_EXP_C4  1.6666665459e-1f
#define ATTN_EXP_C5  5.0000001201e-1f
#define ATTN_Q_NORM  46300.0f  /* 46,340 squared is 2^31 */
#define ATTN_Q_MAX   32700.0f  /* queries and keys */
#define ATTN_V_MAX   16370.0f  /* values, so that weights may be larger: */
#define ATTN_W_MAX   32700.0f  /* largest weight, */
#define ATTN_W_SUM   130500.0f /* and largest sum of the weights of a page; times 16,384, with rounding, below 2^31 */

/* Scale of the integer weights w [TD_ATTN_CHUNK] of a row, from the largest weight and the largest sum of a page's.
 * 0: they add nothing that f32 could hold, or are not numbers, and w is zeroed. */
static inline float attn_weight_scale(float top, float sum, int16_t *w) {
    sum *= 1.0f / ATTN_W_SUM;
    top *= 1.0f / ATTN_W_MAX;
    float scale = top > sum ? top : sum;
    if (scale > 1e-35f) return scale;
    memset(w, 0, TD_ATTN_CHUNK * sizeof *w);
    return 0.0f;
}

/* Scale of `quantise`: top is the largest magnitude, sum that of the squares of x / top. */
static inline float attn_query_scale(float top, float sum, float most) {
    float norm = sqrtf(sum) * (1.0f / ATTN_Q_NORM);
    return top * (norm * most > 1.0f ? norm : 1.0f / most);
}

#endif
