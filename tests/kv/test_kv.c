/* The cache against a naive one: random appends with rejected tails, truncations, prefix copies, removals in the
 * middle, checkpoints, saves and restores, over two slots or more; after every operation each position that must be
 * held is decoded and compared with what recomputation at its position gives. */
#include "kv/kv.h"

#include "../share.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_SLOT = 4, N_LAYER = 4, D_MAX = 64, N_CTX = 700, WINDOW = 90, BATCH = 150, BACK = 8, HEADS = 2 };

static uint64_t seed = 1;

static uint32_t pick(uint32_t n) { /* 0 .. n-1 */
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* Vector of a token before rotation: a fixed function of token, layer, head, kind. */
static float element(uint32_t token, uint32_t layer, uint32_t i, uint32_t kind) {
    uint64_t h = (((uint64_t)token * 31 + layer) * 1031 + i) * 7 + kind;
    h ^= h >> 31;
    h *= 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    h ^= h >> 32;
    return (float)((double)(h >> 11) * 0x1p-53 - 0.5) * 3.0f;
}

typedef struct model {
    td_kv *kv;
    td_kv_layer layer[N_LAYER];
    float freq[N_LAYER][D_MAX / 2], weight[D_MAX];
    uint32_t token[N_SLOT][N_CTX], n[N_SLOT];
    uint32_t next_token;
    double tolerance;
} model;

/* What layer `l` must hold for a token at a position: [n_kv][d] keys (rotated) and values. */
static void expected(const model *m, uint32_t l, uint32_t token, uint32_t pos, float *k, float *v) {
    const td_kv_layer *in = &m->layer[l];
    uint32_t d = in->d_head;
    for (uint32_t h = 0; h < in->n_kv; h++) {
        double raw[D_MAX];
        for (uint32_t i = 0; i < d; i++) {
            v[h * d + i] = element(token, l, h * d + i, 1);
            raw[i] =
                in->k_eq_v ? (double)in->k_eq_v[i] * (double)v[h * d + i] : (double)element(token, l, h * d + i, 0);
        }
        for (uint32_t i = 0; i < d / 2; i++) {
            double a = (double)pos * (double)m->freq[l][i];
            k[h * d + i] = (float)(raw[i] * cos(a) - raw[i + d / 2] * sin(a));
            k[h * d + i + d / 2] = (float)(raw[i + d / 2] * cos(a) + raw[i] * sin(a));
        }
    }
}

static void model_make(model *m, td_kv_type full, td_kv_type sliding, double tolerance, bool sliding_full) {
    memset(m, 0, sizeof *m);
    m->tolerance = tolerance;
    m->next_token = 1;
    for (uint32_t i = 0; i < D_MAX; i++) m->weight[i] = 0.5f + (float)i / D_MAX;
    for (uint32_t l = 0; l < N_LAYER; l++) {
        td_kv_layer *in = &m->layer[l];
        in->sliding = l % 2 == 0;
        in->n_kv = in->sliding ? HEADS : 1;
        in->d_head = in->sliding ? 32 : 64;
        in->inv_freq = m->freq[l];
        in->k_eq_v = l == 3 ? m->weight : NULL; /* one layer stores keys and values together */
        for (uint32_t i = 0; i < in->d_head / 2; i++)
            m->freq[l][i] = in->sliding || i < 8 ? (float)pow(0.1, i / 8.0) : 0.0f;
    }
    td_kv_options o = {.n_layer = N_LAYER, .layer = m->layer, .window = WINDOW, .n_slot = N_SLOT, .n_ctx = N_CTX};
    o.n_batch = BATCH;
    o.n_back = BACK;
    o.n_checkpoint = 6;
    o.sliding_full = sliding_full;
    o.type_k = o.type_v = full;
    o.type_k_sliding = o.type_v_sliding = sliding;
    td_error err = {0};
    if (td_kv_create(&m->kv, &o, &err) != TD_OK) fail_msg("%s", err.text);
}

static void append(model *m, uint32_t slot, uint32_t n_new, uint32_t n_keep) {
    td_error err = {0};
    uint32_t n = m->n[slot];
    td_status status = td_kv_reserve(m->kv, slot, n_new, &err);
    if (n + n_new > N_CTX || n_new > BATCH) {
        assert_int_not_equal(status, TD_OK);
        return;
    }
    if (status != TD_OK) fail_msg("reserve: %s", err.text);
    for (uint32_t i = 0; i < n_new; i++) {
        uint32_t token = m->next_token++;
        if (i < n_keep) m->token[slot][n + i] = token;
        for (uint32_t l = 0; l < N_LAYER; l++) {
            float k[HEADS * D_MAX], v[HEADS * D_MAX];
            expected(m, l, token, n + i, k, v);
            td_kv_store(m->kv, l, slot, n + i, k, v);
        }
    }
    td_kv_commit(m->kv, slot, n_keep);
    m->n[slot] += n_keep;
}

/* Every position a next step could read. */
static void check_slot(const model *m, uint32_t slot, const char *after) {
    assert_int_equal(td_kv_n_pos(m->kv, slot), m->n[slot]);
    for (uint32_t l = 0; l < N_LAYER; l++) {
        td_attn_call call = {0};
        td_kv_attend(m->kv, l, &call);
        const td_kv_layer *in = &m->layer[l];
        uint32_t n = in->n_kv * in->d_head, lo = in->sliding ? td_kv_window_lo(m->kv, m->n[slot]) : 0;
        for (uint32_t p = lo; p < m->n[slot]; p++) {
            float k[HEADS * D_MAX], v[HEADS * D_MAX], wk[HEADS * D_MAX], wv[HEADS * D_MAX];
            const td_attn_seq *seq = &call.seq[slot];
            const uint8_t *page = call.base + (size_t)seq->page[p / 64 - seq->first] * call.shape->page_bytes;
            td_attn_load(call.shape, page, p % 64, k, v);
            expected(m, l, m->token[slot][p], p, wk, wv);
            double error = 0, size = 0;
            for (uint32_t i = 0; i < n; i++) {
                error += pow((double)k[i] - (double)wk[i], 2) + pow((double)v[i] - (double)wv[i], 2);
                size += pow((double)wk[i], 2) + pow((double)wv[i], 2);
            }
            if (error > m->tolerance * size)
                fail_msg("after %s: slot %u layer %u position %u of %u: error %g", after, slot, l, p, m->n[slot],
                         error / size);
        }
    }
}

static void do_truncate(model *m, uint32_t slot) {
    uint32_t n = pick(m->n[slot] + 1), can = td_kv_resumable(m->kv, slot, n);
    assert_true(can <= n);
    uint32_t got = td_kv_truncate(m->kv, slot, n);
    assert_int_equal(got, can);
    m->n[slot] = got;
}

static void do_copy(model *m, uint32_t slot) {
    uint32_t from = pick(N_SLOT), n = pick(m->n[from] + 2);
    uint32_t can = td_kv_resumable(m->kv, from, n), got = td_kv_copy_prefix(m->kv, slot, from, n);
    assert_int_equal(got, can);
    memmove(m->token[slot], m->token[from], got * sizeof m->token[slot][0]);
    m->n[slot] = got;
}

static void do_discard(model *m, uint32_t slot) {
    uint32_t n = m->n[slot], begin = pick(n + 1), end = begin + pick(n - begin + 1);
    bool can = td_kv_can_discard(m->kv, slot, begin, end);
    td_status status = td_kv_discard(m->kv, slot, begin, end, NULL);
    assert_int_equal(status, can ? TD_OK : TD_ERR_UNSUPPORTED);
    if (!can) return;
    memmove(m->token[slot] + begin, m->token[slot] + end, (n - end) * sizeof m->token[slot][0]);
    m->n[slot] = n - (end - begin);
}

static void do_restore(model *m, uint32_t slot) {
    uint32_t from = pick(N_SLOT);
    uint64_t n_bytes = td_kv_save_bytes(m->kv, from);
    uint8_t *data = malloc(n_bytes);
    td_kv_save(m->kv, from, data);
    uint32_t n = m->n[from];
    memmove(m->token[slot], m->token[from], n * sizeof m->token[slot][0]);
    td_error err = {0};
    if (pick(3) == 0) { /* cut off, or one byte too long: refused, and the slot is empty */
        td_status status = td_kv_restore(m->kv, slot, data, pick((uint32_t)n_bytes), NULL);
        assert_int_not_equal(status, TD_OK);
        n = 0;
    } else if (td_kv_restore(m->kv, slot, data, n_bytes, &err) != TD_OK) {
        fail_msg("restore: %s", err.text);
    }
    m->n[slot] = n;
    free(data);
}

static void walk(td_kv_type full, td_kv_type sliding, double tolerance, bool sliding_full, uint32_t n_step) {
    model m;
    model_make(&m, full, sliding, tolerance, sliding_full);
    n_step = (uint32_t)test_share((int)n_step, 40);
    static const char *const names[] = {"append",  "append",     "draft",   "truncate", "copy",
                                        "discard", "checkpoint", "restore", "clear"};
    for (uint32_t step = 0; step < n_step; step++) {
        uint32_t slot = pick(N_SLOT), op = pick(30);
        op = op < 9 ? 0 : op < 18 ? 2 : op < 21 ? 3 : op < 23 ? 4 : op < 25 ? 5 : op < 28 ? 6 : op < 29 ? 7 : 8;
        switch (op) {
        case 0: {
            uint32_t n_new = 1 + pick(pick(4) ? 40 : BATCH + 4);
            append(&m, slot, n_new, n_new);
            break;
        }
        case 2: {
            uint32_t n_new = 1 + pick(9);
            append(&m, slot, n_new, 1 + pick(n_new));
            break;
        }
        case 3:
            do_truncate(&m, slot);
            break;
        case 4:
            do_copy(&m, slot);
            break;
        case 5:
            do_discard(&m, slot);
            break;
        case 6:
            td_kv_checkpoint(m.kv, slot);
            break;
        case 7:
            do_restore(&m, slot);
            break;
        default:
            td_kv_clear(m.kv, slot);
            m.n[slot] = 0;
        }
        /* Tokens that moved carry the error of every move: only types without such errors are walked for long. */
        for (uint32_t s = 0; s < N_SLOT; s++) check_slot(&m, s, names[op]);
    }
    for (uint32_t s = 0; s < N_SLOT; s++) td_kv_clear(m.kv, s);
    td_kv_usage u;
    td_kv_get_usage(m.kv, &u);
    assert_int_equal(u.pages_full, u.pages_full_free);
    assert_int_equal(u.pages_sliding, u.pages_sliding_free);
    td_kv_destroy(m.kv);
}

static void test_walk_f32(void **state) {
    (void)state;
    for (uint32_t i = 1; i <= 6; i++) {
        seed = i;
        walk(TD_KV_F32, TD_KV_F32, 1e-10, i == 6, 300);
    }
}

static void test_walk_types(void **state) {
    (void)state;
    seed = 77;
    walk(TD_KV_F16, TD_KV_F16, 1e-6, false, 200);
    walk(TD_KV_Q8_0, TD_KV_F16, 1e-3, false, 150);
    walk(TD_KV_TURBO4, TD_KV_Q8_0, 0.15, false, 100);
}

/* Going back further than n_back works where a checkpoint was made, and nowhere else. */
static void test_checkpoints(void **state) {
    (void)state;
    model m;
    model_make(&m, TD_KV_F32, TD_KV_F32, 1e-10, false);
    append(&m, 0, 150, 150);
    append(&m, 0, 50, 50);
    td_kv_checkpoint(m.kv, 0);
    append(&m, 0, 150, 150);
    append(&m, 0, 150, 150);
    append(&m, 0, 1, 1);
    assert_int_equal(td_kv_resumable(m.kv, 0, 501), 501);
    assert_int_equal(td_kv_resumable(m.kv, 0, 501 - BACK), 501 - BACK);
    assert_int_equal(td_kv_resumable(m.kv, 0, 300), 200);
    assert_int_equal(td_kv_resumable(m.kv, 0, 200), 200);
    assert_int_equal(td_kv_resumable(m.kv, 0, 100), 0);
    assert_int_equal(td_kv_copy_prefix(m.kv, 1, 0, 300), 200);
    memcpy(m.token[1], m.token[0], sizeof m.token[0]);
    m.n[1] = 200;
    check_slot(&m, 1, "copy");
    append(&m, 1, 30, 30);
    check_slot(&m, 1, "append to copy");
    check_slot(&m, 0, "append to copy");
    assert_int_equal(td_kv_truncate(m.kv, 0, 300), 200);
    m.n[0] = 200;
    check_slot(&m, 0, "truncate");
    append(&m, 0, 100, 100);
    check_slot(&m, 0, "append");
    check_slot(&m, 1, "append");
    td_kv_destroy(m.kv);
}

/* Promises: what is admitted can be stored whatever others do; more is refused in time. */
static void test_admission(void **state) {
    (void)state;
    model m;
    model_make(&m, TD_KV_F32, TD_KV_F32, 1e-10, false);
    td_kv_destroy(m.kv);
    td_kv_options o = {.n_layer = N_LAYER, .layer = m.layer, .window = WINDOW, .n_slot = N_SLOT, .n_ctx = N_CTX};
    o.n_batch = BATCH;
    o.n_ctx_total = 14 * 64; /* and a page per slot */
    o.type_k = o.type_v = o.type_k_sliding = o.type_v_sliding = TD_KV_F32;
    assert_int_equal(td_kv_create(&m.kv, &o, NULL), TD_OK);
    assert_int_equal(td_kv_admit(m.kv, 0, N_CTX + 1, NULL), TD_ERR_CONTEXT);
    assert_int_equal(td_kv_admit(m.kv, 0, 640, NULL), TD_OK);
    assert_int_equal(td_kv_admit(m.kv, 1, 640, NULL), TD_ERR_BUSY);
    assert_false(td_kv_can_grow(m.kv, 1, 640));
    assert_int_equal(td_kv_admit(m.kv, 1, 400, NULL), TD_OK);
    for (int i = 0; i < 3; i++) append(&m, 2, 10, 10); /* one page left for a slot that was promised nothing */
    assert_int_equal(td_kv_reserve(m.kv, 2, 64, NULL), TD_ERR_BUSY);
    for (int i = 0; i < 4; i++) append(&m, 1, 100, 100);
    for (int i = 0; i < 6; i++) append(&m, 0, 100, 100);
    append(&m, 0, 40, 40);
    for (uint32_t s = 0; s < 3; s++) check_slot(&m, s, "admission");
    td_kv_clear(m.kv, 1);
    assert_int_equal(td_kv_reserve(m.kv, 2, 64, NULL), TD_OK);
    /* A promise that was not used up ends: what is held stays, the room is free again. */
    td_kv_clear(m.kv, 0);
    m.n[0] = 0;
    assert_int_equal(td_kv_admit(m.kv, 0, 640, NULL), TD_OK);
    append(&m, 0, 100, 100);
    assert_false(td_kv_can_grow(m.kv, 1, 640));
    td_kv_dismiss(m.kv, 0);
    check_slot(&m, 0, "dismissed");
    assert_true(td_kv_can_grow(m.kv, 1, 640));
    td_kv_destroy(m.kv);
}

/* A restored block whose bytes are wrong in any place must not do harm; its header is checked. */
static void test_bad_state(void **state) {
    (void)state;
    model m;
    model_make(&m, TD_KV_Q8_0, TD_KV_Q8_0, 1e-3, false);
    append(&m, 0, 100, 100);
    uint64_t n = td_kv_save_bytes(m.kv, 0);
    uint8_t *data = malloc(n), *copy = malloc(n);
    td_kv_save(m.kv, 0, data);
    for (uint32_t i = 0; i < 36; i++) {
        for (uint32_t bit = 0; bit < 8; bit++) {
            memcpy(copy, data, n);
            copy[i] ^= (uint8_t)(1u << bit);
            td_error err = {0};
            if (td_kv_restore(m.kv, 1, copy, n, &err) == TD_OK) { /* a length that fits the pages is not known wrong */
                if (i < 12 || i >= 20) fail_msg("byte %u bit %u was accepted", i, bit);
                assert_true(td_kv_n_pos(m.kv, 1) <= 128);
                continue;
            }
            assert_true(err.text[0] != 0);
            assert_int_equal(td_kv_n_pos(m.kv, 1), 0);
        }
    }
    free(data);
    free(copy);
    td_kv_destroy(m.kv);
}

/* The shift: recomputation against decode, turn, encode, for every type; and against leaving keys alone, which is what
 * the fork does for its rotated types. */
static void test_shift(void **state) {
    (void)state;
    static const td_kv_type types[] = {TD_KV_F32,  TD_KV_F16,    TD_KV_BF16,   TD_KV_Q8_0,
                                       TD_KV_Q4_0, TD_KV_TURBO4, TD_KV_TURBO3, TD_KV_TURBO2};
    static const double coding[] = {1e-11, 5e-8, 5e-8, 4e-5, 0.009, 0.012, 0.04, 0.14};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        model m;
        model_make(&m, types[t], types[t], 1, true);
        append(&m, 0, 150, 150);
        append(&m, 0, 150, 150);
        double before = 0, after = 0, skipped = 0, size = 0;
        for (int pass = 0; pass < 2; pass++) {
            uint32_t moved = pass ? 100 : 0;
            for (uint32_t p = 150; p < 300; p++) { /* token p, now at p - moved */
                for (uint32_t l = 0; l < N_LAYER; l++) {
                    td_attn_call call = {0};
                    td_kv_attend(m.kv, l, &call);
                    uint32_t at = p - moved, n = m.layer[l].n_kv * m.layer[l].d_head;
                    float k[HEADS * D_MAX], v[HEADS * D_MAX], wk[HEADS * D_MAX], wv[HEADS * D_MAX], old[HEADS * D_MAX];
                    td_attn_load(call.shape, call.base + (size_t)call.seq[0].page[at / 64] * call.shape->page_bytes,
                                 at % 64, k, v);
                    expected(&m, l, m.token[0][p], at, wk, wv);
                    expected(&m, l, m.token[0][p], p, old, wv);
                    for (uint32_t i = 0; i < n; i++) {
                        double e = pow((double)k[i] - (double)wk[i], 2);
                        if (pass)
                            after += e;
                        else
                            before += e;
                        if (!pass) continue;
                        skipped += pow((double)old[i] - (double)wk[i], 2);
                        size += pow((double)wk[i], 2);
                    }
                }
            }
            if (!pass) assert_int_equal(td_kv_discard(m.kv, 0, 20, 120, NULL), TD_OK);
        }
        print_message("%-7s squared error of keys: stored %.3g, shifted %.3g, not turned (the fork) %.3g\n",
                      td_kv_type_name(types[t]), before / size, after / size, skipped / size);
        assert_true(before / size <= coding[t] && after / size <= 2.6 * coding[t]);
        assert_true(skipped / size > 0.5); /* the test can tell */
        td_kv_destroy(m.kv);
    }
}

/* Full layers at both ends keep 8 bits; wide types and sliding layers stay as they are. */
static void test_protect(void **state) {
    (void)state;
    td_kv_layer layer[8];
    for (uint32_t l = 0; l < 8; l++) layer[l] = (td_kv_layer){.sliding = l % 2 == 0, .n_kv = 1, .d_head = 128};
    td_kv_options o = {.n_layer = 8, .layer = layer, .window = 64, .n_slot = 1, .n_ctx = 256, .n_batch = 16};
    o.type_k = TD_KV_F16;
    o.type_v = o.type_v_sliding = TD_KV_TURBO3;
    for (o.n_protect = 0; o.n_protect < 4; o.n_protect++) {
        td_kv *kv = NULL;
        assert_int_equal(td_kv_create(&kv, &o, NULL), TD_OK);
        for (uint32_t l = 0; l < 8; l++) {
            td_attn_call call = {0};
            td_kv_attend(kv, l, &call);
            bool safe = l % 2 && (l / 2 < o.n_protect || 3 - l / 2 < o.n_protect);
            assert_int_equal(call.shape->type_v, safe ? TD_KV_Q8_0 : TD_KV_TURBO3);
            if (l % 2) assert_int_equal(call.shape->type_k, TD_KV_F16);
        }
        td_kv_destroy(kv);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_f32),  cmocka_unit_test(test_walk_types), cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_admission), cmocka_unit_test(test_bad_state),  cmocka_unit_test(test_shift),
        cmocka_unit_test(test_protect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
