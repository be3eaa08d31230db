/* Checked arithmetic, aligned memory, the arena, the cursor, the allocation guard. */
#include "base/alloc_guard.h"
#include "base/arena.h"
#include "base/checked.h"
#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_checked(void **state) {
    (void)state;
    size_t s;
    uint64_t u;
    assert_false(td_add_size(SIZE_MAX, 1, &s));
    assert_false(td_mul_size(SIZE_MAX / 2 + 1, 2, &s));
    assert_true(td_mul_size(SIZE_MAX / 2, 2, &s));
    assert_false(td_mul_u64(UINT64_MAX, 2, &u));
    assert_true(td_align_up_u64(33, 32, &u) && u == 64);
    assert_true(td_align_up_u64(64, 32, &u) && u == 64);
    assert_false(td_align_up_u64(UINT64_MAX - 3, 32, &u));
    assert_null(td_calloc(SIZE_MAX / 2, 3));
    assert_null(td_reallocarray(NULL, SIZE_MAX / 2, 3));
    assert_null(td_alloc_aligned(SIZE_MAX - 10, 64));
    assert_null(td_alloc_aligned(64, 96)); /* not a power of two */
}

static void test_aligned(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 64, 4097, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = td_alloc_aligned(sizes[i], 128);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 128, 0);
        if (sizes[i] >= 4 << 20) assert_int_equal((uintptr_t)p % (2 << 20), 0);
        memset(p, 1, sizes[i]);
        td_free_aligned(p, sizes[i]);
    }
}

static void test_arena(void **state) {
    (void)state;
    td_arena *a = td_arena_create(1 << 20);
    unsigned char *seen[100];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 100; i++) {
            size_t n = 37 * i;
            seen[i] = td_arena_alloc(a, n, 1);
            assert_non_null(seen[i]);
            assert_int_equal((uintptr_t)seen[i] % 16, 0);
            for (size_t j = 0; j < n; j++) assert_int_equal(seen[i][j], 0);
            memset(seen[i], (int)i, n);
        }
        for (size_t i = 0; i < 100; i++)
            for (size_t j = 0; j < 37 * i; j++) assert_int_equal(seen[i][j], i);
        td_arena_reset(a);
        assert_int_equal(td_arena_used(a), 0);
    }
    assert_null(td_arena_alloc(a, (1 << 20) + 1, 1));
    assert_null(td_arena_alloc(a, SIZE_MAX, 2));
    assert_null(td_arena_alloc(a, SIZE_MAX, 1));
    assert_null(td_arena_strndup(a, "x", SIZE_MAX));
    assert_non_null(td_arena_alloc(a, 1000000, 1));
    assert_null(td_arena_alloc(a, 100000, 1)); /* the limit is on the sum */
    assert_string_equal(td_arena_strndup(a, "abcdef", 3), "abc");
    td_arena_destroy(a);
    td_arena_destroy(NULL);
}

static void test_cursor(void **state) {
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0x00, 0x00, 0x80, 0x3f};
    td_cursor c = td_cursor_make(bytes, sizeof bytes, 100);
    uint8_t a;
    uint64_t d;
    uint32_t u = 77;
    float f;
    td_slice s;
    assert_true(td_cursor_u8(&c, &a) && a == 1);
    assert_true(td_cursor_u64(&c, &d) && d == 0x0908070605040302u);
    assert_true(td_cursor_offset(&c) == 109);
    assert_true(td_cursor_f32(&c, &f) && f == 1.0f);
    assert_int_equal(td_cursor_left(&c), 0);
    assert_false(td_cursor_u32(&c, &u));
    assert_int_equal(u, 0);

    c = td_cursor_make(bytes, sizeof bytes, 0);
    assert_false(td_cursor_bytes(&c, UINT64_MAX, &s));
    assert_null(s.data);
    assert_false(td_cursor_u8(&c, &a)); /* the first failure stays */
    assert_int_equal(a, 0);
    assert_int_equal(td_cursor_left(&c), 0);

    c = td_cursor_make(NULL, 0, 0);
    assert_true(td_cursor_bytes(&c, 0, &s));
    assert_false(td_cursor_skip(&c, 1));
}

static void test_alloc_guard(void **state) {
    (void)state;
    if (!td_alloc_guard_active()) skip();
    uint64_t before = td_alloc_guard_hits();
    void *volatile p = malloc(10);
    assert_true(td_alloc_guard_hits() == before);
    td_alloc_guard_enter();
    void *volatile q = malloc(10);
    void *volatile r = td_calloc(3, 3);
    void *volatile t = td_alloc_aligned(100, 64);
    td_alloc_guard_leave();
    assert_true(td_alloc_guard_hits() == before + 3);
    free(p);
    free(q);
    free(r);
    td_free_aligned(t, 100);
    p = malloc(10);
    free(p);
    assert_true(td_alloc_guard_hits() == before + 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked), cmocka_unit_test(test_aligned),     cmocka_unit_test(test_arena),
        cmocka_unit_test(test_cursor),  cmocka_unit_test(test_alloc_guard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
