/* The table behind types.h. */
#include "types.h"

#include "codec.h"

#include <string.h>

#define FLOAT(ID, NAME, BYTES, FN)                                                                                     \
    { TD_TYPE_##ID, NAME, 1, BYTES, td_decode_##FN, td_encode_##FN, false, false, false }
#define CODED(ID, NAME, BLOCK, BYTES, FN, IMATRIX)                                                                     \
    { TD_TYPE_##ID, NAME, BLOCK, BYTES, td_decode_##FN, td_encode_##FN, IMATRIX, false, true }
/* Run-time formats: encoders exist for tests and tools, files never hold them. */
#define ACTIVATION(ID, NAME, BLOCK, BYTES, FN)                                                                         \
    { TD_TYPE_##ID, NAME, BLOCK, BYTES, NULL, td_encode_##FN, false, false, true }
/* Known by size only: a file that holds them can be described and refused for the right reason. */
#define FOREIGN(ID, NAME, BLOCK, BYTES)                                                                                \
    { TD_TYPE_##ID, NAME, BLOCK, BYTES, NULL, NULL, false, false, true }
#define INTEGER(ID, NAME, BYTES, IS_INT)                                                                               \
    { TD_TYPE_##ID, NAME, 1, BYTES, NULL, NULL, false, IS_INT, false }

static const td_type_info table[] = {
    FLOAT(F32, "f32", 4, f32),
    FLOAT(F16, "f16", 2, f16),
    CODED(Q4_0, "q4_0", 32, 18, q4_0, true),
    CODED(Q4_1, "q4_1", 32, 20, q4_1, true),
    CODED(Q5_0, "q5_0", 32, 22, q5_0, true),
    CODED(Q5_1, "q5_1", 32, 24, q5_1, true),
    CODED(Q8_0, "q8_0", 32, 34, q8_0, false),
    ACTIVATION(Q8_1, "q8_1", 32, 36, q8_1),
    CODED(Q2_K, "q2_K", 256, 84, q2_k, true),
    CODED(Q3_K, "q3_K", 256, 110, q3_k, true),
    CODED(Q4_K, "q4_K", 256, 144, q4_k, true),
    CODED(Q5_K, "q5_K", 256, 176, q5_k, true),
    CODED(Q6_K, "q6_K", 256, 210, q6_k, true),
    ACTIVATION(Q8_K, "q8_K", 256, 292, q8_k),
    FOREIGN(IQ2_XXS, "iq2_xxs", 256, 66),
    FOREIGN(IQ2_XS, "iq2_xs", 256, 74),
    FOREIGN(IQ3_XXS, "iq3_xxs", 256, 98),
    FOREIGN(IQ1_S, "iq1_s", 256, 50),
    CODED(IQ4_NL, "iq4_nl", 32, 18, iq4_nl, true),
    FOREIGN(IQ3_S, "iq3_s", 256, 110),
    FOREIGN(IQ2_S, "iq2_s", 256, 82),
    CODED(IQ4_XS, "iq4_xs", 256, 136, iq4_xs, true),
    INTEGER(I8, "i8", 1, true),
    INTEGER(I16, "i16", 2, true),
    INTEGER(I32, "i32", 4, true),
    INTEGER(I64, "i64", 8, true),
    INTEGER(F64, "f64", 8, false),
    FOREIGN(IQ1_M, "iq1_m", 256, 56),
    FLOAT(BF16, "bf16", 2, bf16),
    FOREIGN(TQ1_0, "tq1_0", 256, 54),
    FOREIGN(TQ2_0, "tq2_0", 256, 66),
    CODED(MXFP4, "mxfp4", 32, 17, mxfp4, false),
    CODED(NVFP4, "nvfp4", 64, 36, nvfp4, false),
    FOREIGN(Q1_0, "q1_0", 128, 18),
    FOREIGN(Q2_0, "q2_0", 64, 18),
    CODED(TQ3_1S, "tq3_1s", 32, 16, tq3_1s, false),
    CODED(TQ4_1S, "tq4_1s", 32, 20, tq4_1s, false),
    CODED(TURBO2, "turbo2", 128, 34, turbo2, false),
    CODED(TURBO3, "turbo3", 128, 50, turbo3, false),
    CODED(TURBO4, "turbo4", 128, 68, turbo4, false),
};

enum { N_TYPES = sizeof table / sizeof table[0] };

const td_type_info *td_type_of(td_type id) {
    for (int i = 0; i < N_TYPES; i++) {
        if (table[i].id == id) return &table[i];
    }
    return NULL;
}

const td_type_info *td_type_get(uint32_t id) {
    return id < TD_TYPE_TURBO2 ? td_type_of((td_type)id) : NULL;
}

static bool same_name(const char *a, const char *b) {
    for (; *a && *b; a++, b++) {
        char x = *a >= 'A' && *a <= 'Z' ? (char)(*a + 32) : *a, y = *b >= 'A' && *b <= 'Z' ? (char)(*b + 32) : *b;
        if (x != y) return false;
    }
    return *a == *b;
}

const td_type_info *td_type_by_name(const char *name) {
    for (int i = 0; i < N_TYPES; i++) {
        if (same_name(table[i].name, name)) return &table[i];
    }
    return NULL;
}

bool td_type_row_bytes(const td_type_info *type, uint64_t k, uint64_t *out) {
    return k % type->block == 0 && !__builtin_mul_overflow(k / type->block, (uint64_t)type->bytes, out);
}

uint32_t td_type_resolve(uint32_t id, uint64_t n_values, uint64_t room, uint64_t align) {
    if (id < 44 || id > 46 || n_values % 32 != 0) return id;
    uint64_t small = n_values / 32 * 16, large = n_values / 32 * 20;
    if (id != 46 && room >= small && room - small < align) return TD_TYPE_TQ3_1S;
    if (id != 44 && room >= large && room - large < align) return TD_TYPE_TQ4_1S;
    return id;
}
