/* Every type against 240 vectors made by an independent model of the formats: encoders byte for byte, decoders bit for
 * bit. vectors.txt says what its lines hold; the inputs include zeros, outliers, ramps, tiny and huge values. */
#include "quant/codec.h"
#include "quant/rotate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_INPUTS = 16, MAX_LINE = 8192, ROW = 256 };

static struct {
    char name[32];
    float x[ROW];
} inputs[MAX_INPUTS];
static int n_inputs;
static float importance[ROW];
static int n_encoded, n_decoded, n_rotated;

static size_t from_hex(const char *s, void *out, size_t max) {
    uint8_t *b = out;
    size_t n = 0;
    unsigned v;
    for (; n < max && sscanf(s + 2 * n, "%2x", &v) == 1; n++) b[n] = (uint8_t)v;
    assert_int_equal(strlen(s), 2 * n);
    return n;
}

static const float *input_named(const char *name) {
    for (int i = 0; i < n_inputs; i++) {
        if (!strcmp(inputs[i].name, name)) return inputs[i].x;
    }
    fail_msg("no input %s", name);
    return NULL;
}

static const td_type_info *type_named(const char *name) {
    char t[32];
    snprintf(t, sizeof t, "%s", name);
    if (!strncmp(t, "TURBO", 5)) t[6] = 0; /* TURBO3_0 is called turbo3 */
    const td_type_info *type = td_type_by_name(t);
    if (!type) fail_msg("no type %s", t);
    return type;
}

static void check_vector(char *type, char *input, int imp, char *hex, char *decoded_hex) {
    uint8_t want[ROW * 4], got[ROW * 4];
    size_t n = from_hex(hex, want, sizeof want);
    memset(got, 0xaa, sizeof got);
    char *fast = strstr(type, ".fast");
    if (fast) *fast = 0;
    const td_type_info *t = type_named(type);
    uint64_t bytes;
    assert_true(td_type_row_bytes(t, ROW, &bytes));
    assert_int_equal(n, bytes);
    if (fast) {
        td_encode_iq4_nl_fast(input_named(input), got, ROW);
    } else {
        t->encode(input_named(input), got, ROW, 1, imp ? importance : NULL);
    }
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i])
            fail_msg("%s of %s (importance %d): byte %zu is %02x, want %02x", type, input, imp, i, got[i], want[i]);
    }
    assert_int_equal(got[n], 0xaa);
    n_encoded++;
    if (!strcmp(decoded_hex, "-")) return;
    float y[ROW + 1], ref[ROW];
    assert_int_equal(from_hex(decoded_hex, ref, sizeof ref), sizeof ref);
    y[ROW] = 12345;
    t->decode(want, y, ROW);
    for (int i = 0; i < ROW; i++) {
        if (memcmp(&y[i], &ref[i], 4))
            fail_msg("%s of %s: value %d is %.9g, want %.9g", type, input, i, (double)y[i], (double)ref[i]);
    }
    assert_true(y[ROW] == 12345);
    n_decoded++;
}

static void check_rotation(const char *name, const char *forward, const char *back) {
    float x[128] = {1}, z[128], want[128];
    if (strcmp(name, "e0")) memcpy(x, input_named(name), sizeof x);
    memcpy(z, x, sizeof z);
    td_turbo_forward(z);
    from_hex(forward, want, sizeof want);
    assert_memory_equal(z, want, sizeof want);
    td_turbo_inverse(strcmp(name, "e0") ? z : x);
    from_hex(back, want, sizeof want);
    assert_memory_equal(strcmp(name, "e0") ? z : x, want, sizeof want);
    n_rotated++;
}

static void test_all(void **state) {
    (void)state;
    FILE *f = fopen("tests/quant/data/vectors.txt", "r");
    assert_non_null(f);
    static char line[MAX_LINE], a[MAX_LINE], b[MAX_LINE];
    while (fgets(line, sizeof line, f)) {
        char type[32], input[32];
        int imp;
        if (sscanf(line, "input %31s %8191s", input, a) == 2) {
            assert_true(n_inputs < MAX_INPUTS);
            strcpy(inputs[n_inputs].name, input);
            assert_int_equal(from_hex(a, inputs[n_inputs++].x, sizeof importance), sizeof importance);
        } else if (sscanf(line, "importance %8191s", a) == 1) {
            assert_int_equal(from_hex(a, importance, sizeof importance), sizeof importance);
        } else if (sscanf(line, "vector %31s %31s %d %8191s %8191s", type, input, &imp, a, b) == 5) {
            check_vector(type, input, imp, a, b);
        } else if (sscanf(line, "rotation %31s %8191s %8191s", input, a, b) == 3) {
            check_rotation(input, a, b);
        } else {
            assert_int_equal(line[0], '#');
        }
    }
    fclose(f);
    assert_int_equal(n_encoded, 240);
    assert_int_equal(n_decoded, 224);
    assert_int_equal(n_rotated, 3);
}

/* Every half there is, against its definition. */
static void test_all_halves(void **state) {
    (void)state;
    static uint16_t h[65536];
    static float x[65536];
    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    td_decode_f16(h, x, 65536);
    for (int i = 0; i < 65536; i++) {
        int e = i >> 10 & 31, m = i & 1023;
        double v = e == 0 ? ldexp(m, -24) : e < 31 ? ldexp(1024 + m, e - 25) : m ? (double)NAN : HUGE_VAL;
        if (i & 0x8000) v = -v;
        bool same = isnan(v) ? isnan(x[i]) != 0 : (double)x[i] == v && !signbit(x[i]) == !signbit(v);
        if (!same) fail_msg("%04x is %g, not %g", (unsigned)i, (double)x[i], v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all), cmocka_unit_test(test_all_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
