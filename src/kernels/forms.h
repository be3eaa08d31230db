/* Packed forms: how each tensor type lies in a group of 16 rows, and what the inner loops ("tiles") get.
 *
 * A packed block holds the same block of 16 rows, each field interleaved: it is cut into units of 1, 2 or 4 bytes, unit
 * u of rows 0..15 side by side. So a 4-byte unit of codes of 16 rows is a line of 64 bytes, and a 2-byte scale of 16
 * rows half a line. Fields lie in the order in which a tile first touches them (scales, then codes), so that
 * lines are asked for in ascending order. A few fields change their bits as well (`op`), always reversibly. */
#ifndef TD_KERNELS_FORMS_H
#define TD_KERNELS_FORMS_H

#include "kernels.h"

typedef enum td_form_id {
    TD_FORM_F32,
    TD_FORM_F16,
    TD_FORM_BF16,
    TD_FORM_Q4_0,
    TD_FORM_Q4_1,
    TD_FORM_Q5_0,
    TD_FORM_Q5_1,
    TD_FORM_Q8_0,
    TD_FORM_IQ4_NL,
    TD_FORM_Q2_K,
    TD_FORM_Q3_K,
    TD_FORM_Q4_K,
    TD_FORM_Q5_K,
    TD_FORM_Q6_K,
    TD_FORM_IQ4_XS,
    TD_FORM_TQ3_1S,
    TD_FORM_TQ4_1S,
    TD_FORM_COUNT,
    TD_FORM_GENERIC = TD_FORM_COUNT /* any other type: rows stay as they are and are decoded to F32 at each use */
} td_form_id;

/* X(name) for each form: float values, blocks of 32 values, blocks of 256. */
#define TD_FLOAT_FORMS(X) X(F32) X(F16) X(BF16)
#define TD_BLOCK_FORMS(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(IQ4_NL) X(TQ3_1S) X(TQ4_1S)
#define TD_SUPER_FORMS(X) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_XS)

typedef enum td_field_op {
    TD_FIELD_COPY,
    TD_FIELD_FLIP,   /* i8 codes + 128, so that they are unsigned */
    TD_FIELD_MASKS,  /* u32 of fifth bits per row -> 8 masks of 64 bits: mask i, bit 4r + c = bit 4i + c of row r */
    TD_FIELD_HALVES, /* 16 bytes of adjacent nibbles -> byte j holds codes j and j + 16 */
    TD_FIELD_THREES  /* 12 bytes of 3-bit codes -> 8 bytes (codes l, l+8, l+16, l+24 at bits 0, 2, 4, 6) and masks */
} td_field_op;

typedef struct td_field {
    uint8_t offset, bytes, unit, op; /* where it is in the file's block */
    uint8_t at;                      /* the packed field starts at 16 * at */
} td_field;

struct td_form {
    td_form_id id;
    td_type type;
    uint16_t block, bytes; /* values and bytes of a block of one row */
    uint8_t acts;          /* parts of td_acts */
    uint8_t n_fields;
    td_field field[8];
};

const td_form *td_form_of(td_type type); /* GENERIC's when there is none */

/* One group times up to 8 activation rows (F32, F16, BF16: or TD_WIDE) over a range of blocks. All pointers are those
 * of the first block. */
typedef struct td_tile_args {
    const uint8_t *w; /* packed blocks */
    /* Pairs: the group whose results follow at y + 16. */
    const uint8_t *w2;
    /* Pairs: what to prefetch of both groups: `step` bytes a block, beginning `ahead` bytes from where they are, and
     * `skip` bytes further from block n_near on. */
    int64_t ahead, skip, n_near;
    int32_t step;
    int64_t n;        /* blocks of the form; F32, F16, BF16: values */
    const uint8_t *q; /* i8 or wht part: codes of row t at q + 32 t, block stride TD_I8_BLOCK */
    const uint8_t *d; /* in the same part: f32 scale of row t at d + 4 t, sum8 at d + 32 + 4 t */
    const uint8_t *x; /* i8x or whtx part: half8 at x + 4 t and + 32, dsum + 64, dhalf + 96 and + 128 */
    const float *f;   /* f32 part: value i of row t at f[(i / 32) * 256 + 32 t + i % 32] */
    size_t f_panel;   /* floats to the next panel (wide tiles) */
    float *y;         /* y[t * ldy + r] */
    int64_t ldy;
    bool resume; /* accumulators start from y, not from zero */
} td_tile_args;

enum { TD_I8_BLOCK = 320, TD_I8_SCALE = 256, TD_I8X_BLOCK = 160, TD_WIDE = 16 };

/* Many rows of activations: the weights of two groups are expanded once, over a piece of k that stays in the
 * first-level cache, and then multiply all rows by fours ("rectangles"; src/kernels/rect.h). */
enum { TD_RECT_ROWS = 2 * TD_GROUP, TD_RECT_TOK = 4, TD_RECT_BLOCKS = 16 };
#if defined(__aarch64__)
enum { TD_RECT_SCALES = 2 * TD_RECT_ROWS }; /* i8mm wants each twice */
#else
enum { TD_RECT_SCALES = TD_RECT_ROWS };
#endif

/* Up to TD_RECT_BLOCKS blocks of 32 values; 24 KB (AArch64: 32). With i8mm in the order that rect_mm.h says, else: */
typedef struct td_expanded {
    _Alignas(64) uint8_t codes[TD_RECT_BLOCKS][2][8][64]; /* [block][group][line]: four values of 16 rows */
    float scale[TD_RECT_BLOCKS][2][TD_RECT_SCALES];       /* [block][half: values 0, 16 on][row] */
    float min[TD_RECT_BLOCKS][2][TD_RECT_SCALES];
} td_expanded;

struct td_rect_args {
    const td_expanded *w;
    int64_t n;                /* blocks of 32 */
    const uint8_t *q, *d, *x; /* of the first row, as in td_tile_args */
    size_t q_panel, x_panel;  /* bytes to the next panel */
    bool second;              /* the first row is in the second half of its panel */
    int32_t n_tok;            /* fours of rows, each in one half of a panel; the last may be less */
    float *y;                 /* y[t * ldy + r], r < TD_RECT_ROWS */
    int64_t ldy;
    bool resume;
};

/* Tables of the IQ4 and TQ types as unsigned bytes (value + 128). TQ: the codebooks in steps of max / 127. */
extern const uint8_t td_table_iq4[16], td_table_tq3[16], td_table_tq4[16];
#define TD_TQ3_STEP (1.996684f / 127.0f)
#define TD_TQ4_STEP (2.732590f / 127.0f)

/* Packs one group of up to 16 rows; rows[r] NULL: zeros. dst: group_bytes. */
void td_form_pack_group(const td_form *f, uint8_t *dst, const uint8_t *const rows[TD_GROUP], int64_t n_blocks);
/* The file's bytes of lane r of a packed group, blocks [b0, b1). */
void td_form_unpack_row(const td_form *f, uint8_t *dst, const uint8_t *group, int r, int64_t b0, int64_t b1);

#endif
