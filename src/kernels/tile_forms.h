/* What a packed form holds, read with the vector types of an instruction set (vec_*.h): its codes as unsigned bytes,
 * its scales and minima as floats. `form` is a constant in every instance, so each becomes straight code. The loops
 * that use it are in tile.h, the layouts in forms.h. */
#ifndef TD_KERNELS_TILE_FORMS_H
#define TD_KERNELS_TILE_FORMS_H

#include "forms.h"

#define TD_INLINE static inline __attribute__((always_inline))
#define TD_UNROLL _Pragma("GCC unroll 16")

/* ---- constant properties of forms; the compiler folds them, as `form` is a constant in every instance ---- */

TD_INLINE bool form_halves(int form) { /* scales (and minima) change every 16 values, not every 32 */
    switch (form) {
    case TD_FORM_Q2_K:
    case TD_FORM_Q3_K:
    case TD_FORM_Q6_K:
    case TD_FORM_TQ3_1S:
    case TD_FORM_TQ4_1S:
        return true;
    default:
        return false;
    }
}

TD_INLINE bool form_has_min(int form) { /* a value is scale * code + minimum */
    switch (form) {
    case TD_FORM_Q4_1:
    case TD_FORM_Q5_1:
    case TD_FORM_Q2_K:
    case TD_FORM_Q4_K:
    case TD_FORM_Q5_K:
        return true;
    default:
        return false;
    }
}

/* Bits of the unsigned codes that the dot product sees, and what was added to make them unsigned (log2, 0: nothing). */
TD_INLINE int form_bits(int form) {
    switch (form) {
    case TD_FORM_Q2_K:
        return 2;
    case TD_FORM_Q3_K:
        return 3;
    case TD_FORM_Q4_0:
    case TD_FORM_Q4_1:
    case TD_FORM_Q4_K:
        return 4;
    case TD_FORM_Q5_0:
    case TD_FORM_Q5_1:
    case TD_FORM_Q5_K:
        return 5;
    case TD_FORM_Q6_K:
        return 6;
    default:
        return 8;
    }
}

TD_INLINE int form_zero_log2(int form) {
    return form_has_min(form) ? 0 : form_bits(form) - 1;
}

TD_INLINE int form_subs(int form) { /* sub-blocks of 32 values in a block */
    return form >= TD_FORM_Q2_K && form <= TD_FORM_IQ4_XS ? 8 : 1;
}

TD_INLINE int form_bytes(int form) { /* of a packed block */
    switch (form) {
    case TD_FORM_Q4_0:
    case TD_FORM_IQ4_NL:
        return 288;
    case TD_FORM_Q4_1:
    case TD_FORM_TQ4_1S:
        return 320;
    case TD_FORM_Q5_0:
        return 352;
    case TD_FORM_Q5_1:
        return 384;
    case TD_FORM_Q8_0:
        return 544;
    case TD_FORM_TQ3_1S:
        return 256;
    case TD_FORM_Q2_K:
        return 1344;
    case TD_FORM_Q3_K:
        return 1760;
    case TD_FORM_Q4_K:
        return 2304;
    case TD_FORM_Q5_K:
        return 2816;
    case TD_FORM_Q6_K:
        return 3360;
    default:
        return 2176; /* IQ4_XS */
    }
}

/* ---- codes: line i of eight of sub-block j (0 for blocks of 32) of the packed block w, rows from r on ---- */

/* Bits [at, at + n) of a line, moved to bit `to`. */
TD_INLINE vb bits_of(const uint8_t *line, int at, int n, int to) {
    vb c = vb_load(line);
    if (at > to) c = vb_shr(c, at - to);
    if (to > at) c = vb_shl(c, to - at);
    return vb_and(c, vb_set1(((1 << n) - 1) << to));
}

TD_INLINE vb nibble(const uint8_t *w, int i) { /* half packing: four lines of low nibbles, then of high ones */
    return bits_of(w + 64 * (i & 3), i & 4, 4, 0);
}

TD_INLINE vb code_line(int form, const uint8_t *w, int j, int r, int i) {
    const uint8_t *c = w + 4 * r, *line = c + 64 * i;
    const int q = 512 * (j >> 2), two = 2 * (j & 3); /* a quarter of a byte: four sub-blocks share its lines */
    switch (form) {
    case TD_FORM_Q4_0:
        return nibble(c + 32, i);
    case TD_FORM_Q4_1:
        return nibble(c + 64, i);
    case TD_FORM_Q5_0:
        return vb_or_masked(nibble(c + 96, i), w + 32 + 8 * i, r, 16);
    case TD_FORM_Q5_1:
        return vb_or_masked(nibble(c + 128, i), w + 64 + 8 * i, r, 16);
    case TD_FORM_Q8_0:
        return vb_load(line + 32);
    case TD_FORM_IQ4_NL:
        return vb_lookup(td_table_iq4, nibble(c + 32, i));
    case TD_FORM_IQ4_XS:
        return vb_lookup(td_table_iq4, nibble(c + 128 + 256 * j, i));
    case TD_FORM_TQ4_1S:
        return vb_lookup(td_table_tq4, nibble(c + 64, i));
    case TD_FORM_TQ3_1S:
        return vb_lookup(td_table_tq3,
                         vb_or_masked(bits_of(c + 64 + 64 * (i & 1), i & ~1, 2, 0), w + 192 + 8 * i, r, 4));
    case TD_FORM_Q2_K:
        return bits_of(line + 320 + q, two, 2, 0);
    case TD_FORM_Q3_K:
        return vb_or(bits_of(line + 736 + q, two, 2, 0), bits_of(line + 224, j, 1, 2));
    case TD_FORM_Q4_K:
        return bits_of(line + 256 + 512 * (j >> 1), 4 * (j & 1), 4, 0);
    case TD_FORM_Q5_K:
        return vb_or(bits_of(line + 768 + 512 * (j >> 1), 4 * (j & 1), 4, 0), bits_of(line + 256, j, 1, 4));
    default: /* Q6_K */
        return vb_or(bits_of(line + 288 + 3 * q + 1024 * (j & 1), 4 * (j >> 1 & 1), 4, 0),
                     bits_of(line + 800 + 3 * q, two, 2, 4));
    }
}

TD_INLINE void unpack(vb v[8], int form, const uint8_t *w, int j, int r) {
    TD_UNROLL
    for (int i = 0; i < 8; i++) v[i] = code_line(form, w, j, r, i);
}

/* ---- scales of a block of 256: bytes of 16 rows first, in a small array, then to f32 where they are used ---- */

TD_INLINE void super_scales(uint8_t *sc, uint8_t *mn, int form, const uint8_t *w) {
    switch (form) {
    case TD_FORM_Q4_K:
    case TD_FORM_Q5_K:
        for (int i = 0; i < 64; i++) { /* four sub-blocks of 16 rows at a time */
            uint8_t a = w[64 + i], b = w[128 + i], c = w[192 + i];
            sc[i] = a & 63;
            mn[i] = b & 63;
            sc[64 + i] = (uint8_t)((c & 15) | (a >> 2 & 48));
            mn[64 + i] = (uint8_t)(c >> 4 | (b >> 2 & 48));
        }
        break;
    case TD_FORM_Q2_K:
        for (int i = 0; i < 256; i++) {
            sc[i] = w[64 + i] & 15;
            mn[i] = w[64 + i] >> 4;
        }
        break;
    case TD_FORM_Q3_K: {
        const uint8_t *s = w + 32;
        for (int i = 0; i < 64; i++) {
            uint8_t a = s[i], b = s[64 + i], c = s[128 + i];
            sc[i] = (uint8_t)(((a & 15) | (c << 4 & 48)) - 32);
            sc[64 + i] = (uint8_t)(((b & 15) | (c << 2 & 48)) - 32);
            sc[128 + i] = (uint8_t)((a >> 4 | (c & 48)) - 32);
            sc[192 + i] = (uint8_t)((b >> 4 | (c >> 2 & 48)) - 32);
        }
        break;
    }
    case TD_FORM_IQ4_XS: {
        const uint8_t *l = w + 64;
        for (int r = 0; r < 16; r++) {
            unsigned h = w[32 + 2 * r] | (unsigned)w[33 + 2 * r] << 8;
            for (int j = 0; j < 8; j++)
                sc[16 * j + r] = (uint8_t)(((l[16 * (j / 2) + r] >> 4 * (j & 1) & 15) | (h >> 2 * j & 3) << 4) - 32);
        }
        break;
    }
    default:
        break; /* Q6_K: its bytes are used in place */
    }
}

/* Scales and minima of a block of 32, rows from r on. */
TD_INLINE void block_scales(vf s[2], vf m[2], int form, const uint8_t *w, int r) {
    s[0] = vf_f16(w + 2 * r);
    if (form_has_min(form)) m[0] = vf_f16(w + 32 + 2 * r);
    if (form_halves(form)) { /* the TQ types */
        vf step = vf_set1(form == TD_FORM_TQ3_1S ? TD_TQ3_STEP : TD_TQ4_STEP);
        s[0] = vf_mul(s[0], step);
        s[1] = vf_mul(vf_f16(w + 32 + 2 * r), step);
    }
}

/* Scales and minima of sub-block j of a block of 256, rows from r on. sc, mn: from super_scales. */
TD_INLINE void sub_scales(vf s[2], vf m[2], int form, const uint8_t *w, const uint8_t *sc, const uint8_t *mn, int j,
                          int r) {
    const bool has_min = form_has_min(form);
    const vf d = vf_f16(w + 2 * r), dmin = has_min ? vf_f16(w + 32 + 2 * r) : vf_zero();
    if (form == TD_FORM_Q6_K) {
        s[0] = vf_mul(d, vf_i8(w + 32 + 32 * j + r));
        s[1] = vf_mul(d, vf_i8(w + 32 + 32 * j + 16 + r));
    } else if (form_halves(form)) {
        for (int h = 0; h < 2; h++) {
            s[h] = vf_mul(d, has_min ? vf_u8(sc + 16 * (2 * j + h) + r) : vf_i8(sc + 16 * (2 * j + h) + r));
            if (has_min) m[h] = vf_neg(vf_mul(dmin, vf_u8(mn + 16 * (2 * j + h) + r)));
        }
    } else {
        s[0] = vf_mul(d, form == TD_FORM_IQ4_XS ? vf_i8(sc + 16 * j + r) : vf_u8(sc + 16 * j + r));
        if (has_min) m[0] = vf_neg(vf_mul(dmin, vf_u8(mn + 16 * j + r)));
    }
}

/* Codes, scales and minima of sub-block j of any block (a block of 32 is one, j 0), rows from r on. sc, mn: from
 * super_scales where the form has several. */
TD_INLINE void load_sub(vb v[8], vf s[2], vf m[2], int form, const uint8_t *w, const uint8_t *sc, const uint8_t *mn,
                        int j, int r) {
    if (form_subs(form) > 1)
        sub_scales(s, m, form, w, sc, mn, j, r);
    else
        block_scales(s, m, form, w, r);
    unpack(v, form, w, j, r);
}

/* ---- activations ---- */

/* Where a sub-block's activations are: the first row's, as in td_tile_args. */
typedef struct lane_ptrs {
    const uint8_t *q, *d, *x;
} lane_ptrs;

TD_INLINE lane_ptrs lane_at(lane_ptrs l, int j) {
    l.q += j * TD_I8_BLOCK;
    l.d += j * TD_I8_BLOCK;
    l.x += j * TD_I8X_BLOCK;
    return l;
}

/* ---- a sub-block of 32 values (h 0), or half h of one where scales change every 16, meets one row of activations:
 * d, x are that row's, as in td_tile_args ---- */

/* What vi_dot_start wants of the row. */
TD_INLINE const uint8_t *row_sum8(int form, const uint8_t *d, const uint8_t *x, int h) {
    return form_halves(form) ? x + 32 * h : d + 32;
}

/* What the row's values add up to, which a minimum is multiplied by. */
TD_INLINE const uint8_t *row_sum(int form, const uint8_t *x, int h) {
    return form_halves(form) ? x + 96 + 32 * h : x + 64;
}

/* acc + the dot product by both scales, + the minimum by the row's sum (*m: read where the form has one). */
TD_INLINE vf add_scaled(vf acc, int form, vi dot, vf s, const vf *m, const uint8_t *d, const uint8_t *x, int h) {
    acc = vf_fma(vf_from_vi(dot), vf_mul(s, vf_bcast(d)), acc);
    return form_has_min(form) ? vf_fma(*m, vf_bcast(row_sum(form, x, h)), acc) : acc;
}

#endif
