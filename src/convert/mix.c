/* The rules behind mix.h, in the order in which they are asked. */
#include "mix.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { /* general.file_type values that have rules of their own */
       Q4_0 = 2,
       Q5_0 = 8,
       Q2_K = 10,
       Q3_K_S = 11,
       Q3_K_M = 12,
       Q3_K_L = 13,
       Q4_K_S = 14,
       Q4_K_M = 15,
       Q5_K_S = 16,
       Q5_K_M = 17,
       Q2_K_S = 21,
       IQ4_NL = 25,
       IQ4_XS = 30
};

static const td_ftype ftypes[] = {
    {"f32", 0, TD_TYPE_F32},
    {"f16", 1, TD_TYPE_F16},
    {"bf16", 32, TD_TYPE_BF16},
    {"q8_0", 7, TD_TYPE_Q8_0},
    {"q4_0", Q4_0, TD_TYPE_Q4_0},
    {"q4_1", 3, TD_TYPE_Q4_1},
    {"q5_0", Q5_0, TD_TYPE_Q5_0},
    {"q5_1", 9, TD_TYPE_Q5_1},
    {"q2_K", Q2_K, TD_TYPE_Q2_K},
    {"q2_K_S", Q2_K_S, TD_TYPE_Q2_K},
    {"q3_K_S", Q3_K_S, TD_TYPE_Q3_K},
    {"q3_K_M", Q3_K_M, TD_TYPE_Q3_K},
    {"q3_K_L", Q3_K_L, TD_TYPE_Q3_K},
    {"q4_K_S", Q4_K_S, TD_TYPE_Q4_K},
    {"q4_K_M", Q4_K_M, TD_TYPE_Q4_K},
    {"q5_K_S", Q5_K_S, TD_TYPE_Q5_K},
    {"q5_K_M", Q5_K_M, TD_TYPE_Q5_K},
    {"q6_K", 18, TD_TYPE_Q6_K},
    {"iq4_nl", IQ4_NL, TD_TYPE_IQ4_NL},
    {"iq4_xs", IQ4_XS, TD_TYPE_IQ4_XS},
    {"tq3_1s", 43, TD_TYPE_TQ3_1S},
    {"tq4_1s", 44, TD_TYPE_TQ4_1S},
};
enum { N_FTYPES = sizeof ftypes / sizeof ftypes[0] };

const td_ftype *td_ftype_at(int i) {
    return i >= 0 && i < N_FTYPES ? &ftypes[i] : NULL;
}

const td_ftype *td_ftype_by_name(const char *name) {
    static const char *const alias[][2] = {{"q3_k", "q3_K_M"}, {"q4_k", "q4_K_M"}, {"q5_k", "q5_K_M"}};
    for (size_t i = 0; i < sizeof alias / sizeof alias[0]; i++) {
        if (strcasecmp(name, alias[i][0]) == 0) name = alias[i][1];
    }
    char *end = NULL;
    long id = strtol(name, &end, 10);
    bool number = end != name && *end == 0;
    for (int i = 0; i < N_FTYPES; i++) {
        if (number ? id == (long)ftypes[i].id : strcasecmp(name, ftypes[i].name) == 0) return &ftypes[i];
    }
    return NULL;
}

static bool contains(const char *name, const char *part) {
    return strstr(name, part) != NULL;
}

bool td_mix_keeps(const char *name, int n_dims) {
    static const char *const kept[] = {"_norm.weight", "ffn_gate_inp.weight", "per_layer_model_proj", "altup",
                                       "laurel",       "token_ordering",      "masked_embd_ordering"};
    size_t n = strlen(name);
    if (n_dims < 2 || n < 6 || strcmp(name + n - 6, "weight") != 0) return true;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        if (contains(name, kept[i])) return true;
    }
    return false;
}

bool td_mix_is_embedding(const char *name) {
    return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0;
}

int td_mix_layer(const char *name) {
    if (strncmp(name, "blk.", 4) != 0) return -1;
    char *end = NULL;
    long n = strtol(name + 4, &end, 10);
    return end != name + 4 && *end == '.' && n >= 0 && n < 1000000 ? (int)n : -1;
}

/* The layers that a _M mixture gives more bits: the first and last eighth and every third between. */
static bool more(int i, int n) {
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

static td_type rule_v(td_mix *m, td_type type) {
    int i = m->i_v++;
    bool grouped = m->n_gqa >= 4;
    switch (m->ftype->id) {
    case Q4_K_M:
    case Q5_K_M:
        type = more(i, m->n_v) ? TD_TYPE_Q6_K : type;
        break;
    case Q4_K_S:
        type = i < 4 ? TD_TYPE_Q5_K : type;
        break;
    case Q3_K_M:
        type = i < 2 ? TD_TYPE_Q5_K : TD_TYPE_Q4_K;
        break;
    case Q3_K_L:
        type = TD_TYPE_Q5_K;
        break;
    case Q2_K:
        type = grouped ? TD_TYPE_Q4_K : TD_TYPE_Q3_K;
        break;
    case Q2_K_S:
        type = grouped ? TD_TYPE_Q4_K : type;
        break;
    case IQ4_NL:
    case IQ4_XS:
        type = grouped ? TD_TYPE_Q5_K : type;
        break;
    default:
        break;
    }
    return m->n_expert == 8 ? TD_TYPE_Q8_0 : type;
}

static td_type rule_down(td_mix *m, const char *name, td_type type) {
    int i = m->n_expert > 1 ? td_mix_layer(name) : m->i_down, n = m->n_layer;
    m->i_down++;
    switch (m->ftype->id) {
    case Q4_K_M:
    case Q5_K_M:
        return more(i, n) ? TD_TYPE_Q6_K : type;
    case Q4_K_S:
        return i < n / 8 ? TD_TYPE_Q5_K : type;
    case Q4_0:
        return i < n / 8 && m->have_imatrix ? TD_TYPE_Q4_1 : type;
    case Q5_0:
        return i < n / 8 && m->have_imatrix ? TD_TYPE_Q5_1 : type;
    case Q2_K:
        return TD_TYPE_Q3_K;
    case Q2_K_S:
        return i < n / 8 ? TD_TYPE_Q4_K : type;
    case Q3_K_M:
        return i < n / 16 ? TD_TYPE_Q5_K : TD_TYPE_Q4_K;
    case Q3_K_L:
        return TD_TYPE_Q5_K;
    case IQ4_NL:
    case IQ4_XS:
        return i < n / 8 && !m->have_imatrix ? TD_TYPE_Q5_K : type;
    default:
        return type;
    }
}

static td_type rule_attn_output(const td_mix *m, td_type type) {
    uint32_t f = m->ftype->id;
    if (m->n_expert == 8) {
        bool raised =
            f == Q2_K || f == Q3_K_S || f == Q3_K_M || f == Q4_K_S || f == Q4_K_M || f == IQ4_NL || f == IQ4_XS;
        return raised ? TD_TYPE_Q5_K : type;
    }
    return f == Q2_K ? TD_TYPE_Q3_K : f == Q3_K_M ? TD_TYPE_Q4_K : f == Q3_K_L ? TD_TYPE_Q5_K : type;
}

td_type td_mix_rule(td_mix *m, const char *name, uint64_t ne0) {
    td_type type = m->ftype->type;
    if (!td_type_of(type)->is_quantised) return type;
    bool output = strcmp(name, "output.weight") == 0, embedding = td_mix_is_embedding(name);
    if (output || (embedding && m->tied)) {
        if (m->output_type) return m->output_type->id;
        return type == TD_TYPE_Q8_0 || ne0 % td_type_of(type)->block != 0 ? TD_TYPE_Q8_0 : TD_TYPE_Q6_K;
    }
    if (embedding) return type;
    if (contains(name, "attn_v.weight") || contains(name, "attn_qkv.weight") || contains(name, "attn_kv_b.weight")) {
        return rule_v(m, type);
    }
    if (contains(name, "attn_k.weight")) return m->n_expert == 8 ? TD_TYPE_Q8_0 : type;
    if (contains(name, "attn_q.weight")) return type;
    if (contains(name, "attn_output.weight")) return rule_attn_output(m, type);
    if (contains(name, "ffn_down")) return rule_down(m, name, type);
    return type;
}

td_status td_mix_fallback(td_type type, uint64_t ne0, const char *name, td_type *out, bool *fell_back, td_error *err) {
    const td_type_info *t = td_type_of(type);
    *out = type;
    *fell_back = false;
    if (ne0 % t->block == 0) return TD_OK;
    switch (type) {
    case TD_TYPE_IQ4_XS:
        *out = TD_TYPE_IQ4_NL;
        break;
    case TD_TYPE_Q2_K:
    case TD_TYPE_Q3_K:
        *out = TD_TYPE_Q4_0;
        break;
    case TD_TYPE_Q4_K:
        *out = TD_TYPE_Q5_0;
        break;
    case TD_TYPE_Q5_K:
        *out = TD_TYPE_Q5_1;
        break;
    case TD_TYPE_Q6_K:
        *out = TD_TYPE_Q8_0;
        break;
    default:
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "%s: rows of %llu values do not divide into %s blocks of %u", name, (unsigned long long)ne0,
                       t->name, t->block);
    }
    *fell_back = true;
    if (ne0 % td_type_of(*out)->block != 0) *out = TD_TYPE_F16;
    return TD_OK;
}
