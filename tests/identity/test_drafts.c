/* A draft does not depend on the other slots drafting in the same pass, nor on the number of threads; the full row of
 * logits, where one is asked for, agrees with the draft. For every assistant, dense and ordered. */
#include "../golden/golden.h"
#include "../golden/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SLOTS = 7, STEPS = 5, MAX_D = 256, MAX_VOCAB = 1024 };

typedef struct outcome {
    int32_t token[SLOTS][STEPS];
    float logit[SLOTS][STEPS], p[SLOTS][STEPS], h[SLOTS][MAX_D];
} outcome;

static void drafts(const char *target, const char *assistant, int n_threads, int at_once, bool rows_too, outcome *o) {
    static float z[SLOTS][MAX_VOCAB];
    rig r;
    rig_options ro = {.target = target, .assistant = assistant, .n_threads = n_threads, .n_slots = SLOTS};
    ro.kv = TD_KV_F16;
    td_error err = {0};
    int32_t tokens[128], last[SLOTS];
    assert_true(rig_open(&r, &ro));
    assert_true(r.d_model <= MAX_D && r.n_vocab <= MAX_VOCAB);
    for (int i = 0; i < 128; i++) tokens[i] = 5 + (i * 37 + 11) % (r.n_vocab - 5);
    for (int s = 0; s < SLOTS; s++) {
        float hidden[128 * MAX_D];
        int n = 1 + 17 * s;
        assert_true(rig_feed(&r, s, tokens + s, 0, n, 128, NULL, hidden));
        memcpy(o->h[s], hidden + (size_t)(n - 1) * (size_t)r.d_model, (size_t)r.d_model * sizeof(float));
        last[s] = tokens[s];
    }
    for (int step = 0; step < STEPS; step++) {
        for (int s0 = 0; s0 < SLOTS; s0 += at_once) {
            td_draft_row rows[SLOTS];
            td_draft out[SLOTS];
            int n = SLOTS - s0 < at_once ? SLOTS - s0 : at_once;
            for (int i = 0; i < n; i++)
                rows[i] =
                    (td_draft_row){s0 + i, last[s0 + i], 1 + 17 * (s0 + i), o->h[s0 + i], rows_too ? z[s0 + i] : NULL};
            if (td_drafter_forward(r.drafter, r.kv, rows, n, out, r.work, r.pool, &err)) fail_msg("%s", err.text);
            for (int i = 0; i < n; i++) {
                int s = s0 + i;
                o->token[s][step] = last[s] = out[i].token;
                o->logit[s][step] = out[i].logit;
                o->p[s][step] = out[i].p;
                memcpy(o->h[s], out[i].h_next, (size_t)r.d_model * sizeof(float));
                if (!rows_too) continue;
                int best = 0, n_candidates = 0;
                for (int k = 0; k < r.n_vocab; k++) {
                    if (z[s][k] > z[s][best]) best = k;
                    n_candidates += z[s][k] > -INFINITY;
                }
                assert_int_equal(best, out[i].token);
                assert_true(z[s][best] == out[i].logit);
                const td_shape *shape = td_drafter_shape(r.drafter);
                int used = shape->n_centroid ? r.n_vocab / shape->n_centroid * shape->n_centroid_used : r.n_vocab;
                assert_int_equal(n_candidates, used);
            }
        }
    }
    rig_close(&r);
}

static void test_drafts(void **state) {
    static outcome one, other;
    (void)state;
    golden *all = NULL;
    int n = golden_find("tests/golden/data", true, &all);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char target[600];
        snprintf(target, sizeof target, "%s.gguf", all[i].target);
        memset(&one, 0, sizeof one);
        drafts(target, all[i].gguf, 1, 1, false, &one);
        static const int cases[][2] = {{1, 3}, {1, SLOTS}, {2, 1}, {2, SLOTS}, {3, 5}}; /* threads, slots at once */
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            memset(&other, 0, sizeof other);
            drafts(target, all[i].gguf, cases[c][0], cases[c][1], cases[c][1] == 3, &other);
            if (memcmp(&one, &other, sizeof one) != 0)
                fail_msg("%s: %d slots at once, %d threads: other drafts", all[i].stem, cases[c][1], cases[c][0]);
        }
        golden_free(&all[i]);
    }
    free(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drafts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
