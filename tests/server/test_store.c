/* Stored responses: whose they are, what they hold, and what has to go when there are too many or too much. */
#include "server/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const alice = "alice's key", *const bob = "bob's key";

static int make(void **state) {
    td_error err = {0};
    return store_create((store **)state, &err);
}

static int drop(void **state) {
    store_destroy(*state);
    return 0;
}

/* A response whose answer is `text`, or n_bytes of it over and over. */
static void put(store *s, const char *owner, const char *id, const char *text, size_t n_bytes) {
    td_error err = {0};
    td_arena *a = td_arena_create(0);
    static const char input[] = "{\"input\":\"hello\"}";
    msg_request r = {0};
    msg_writer w = {0};
    assert_int_equal(td_json_parse(&r.body, a, input, sizeof input - 1, TD_JSON_REJECT, &err), TD_OK);
    assert_true(td_buf_printf(&w.items, "{\"text\":\"%s\"}", text));
    assert_true(td_buf_printf(&w.object, "{\"answer\":\"%s", text));
    for (size_t n = strlen(text); n < n_bytes; n += 1 << 16) {
        char piece[1 << 16];
        memset(piece, 'x', sizeof piece);
        assert_true(td_buf_add(&w.object, piece, sizeof piece));
    }
    assert_true(td_buf_add_str(&w.object, "\"}"));
    assert_int_equal(store_put(s, owner, id, &r, &w, &err), TD_OK);
    td_buf_free(&w.items);
    td_buf_free(&w.object);
    td_arena_destroy(a);
}

static td_slice slice(const char *text) {
    return (td_slice){text, strlen(text)};
}

static bool has(store *s, const char *owner, const char *id) {
    td_buf out = {0};
    td_error err = {0};
    td_status status = store_object(s, owner, slice(id), &out, &err);
    if (status) assert_int_equal(status, TD_ERR_NOT_FOUND);
    td_buf_free(&out);
    return status == TD_OK;
}

static void test_content(void **state) {
    td_arena *a = td_arena_create(0);
    td_buf out = {0};
    td_error err = {0};
    const td_json *items = NULL;
    put(*state, alice, "resp_1", "one", 0);
    assert_int_equal(store_object(*state, alice, slice("resp_1"), &out, &err), TD_OK);
    assert_int_equal(out.n_bytes, 16);
    assert_memory_equal(out.data, "{\"answer\":\"one\"}", 16);
    assert_int_equal(store_items(*state, alice, slice("resp_1"), a, &items, &err), TD_OK);
    assert_int_equal(items->n, 2); /* the request's input, then the answer */
    assert_true(td_json_is_string(td_json_get(items->first, "content"), "hello"));
    assert_true(td_json_is_string(td_json_get(items->first->next, "text"), "one"));
    td_buf_free(&out);
    td_arena_destroy(a);
}

static void test_owners(void **state) {
    td_arena *a = td_arena_create(0);
    td_error err = {0};
    const td_json *items = NULL;
    put(*state, alice, "resp_1", "one", 0);
    put(*state, NULL, "resp_2", "two", 0);
    assert_true(has(*state, alice, "resp_1") && !has(*state, bob, "resp_1") && !has(*state, NULL, "resp_1"));
    assert_true(has(*state, NULL, "resp_2") && !has(*state, alice, "resp_2"));
    assert_int_equal(store_items(*state, bob, slice("resp_1"), a, &items, &err), TD_ERR_ARGUMENT);
    assert_false(store_remove(*state, bob, slice("resp_1")));
    assert_true(store_remove(*state, alice, slice("resp_1")));
    assert_false(has(*state, alice, "resp_1"));
    td_arena_destroy(a);
}

static void test_count(void **state) {
    char id[32];
    for (int i = 0; i < 258; i++) {
        snprintf(id, sizeof id, "resp_%d", i);
        put(*state, NULL, id, "x", 0);
    }
    assert_false(has(*state, NULL, "resp_0") || has(*state, NULL, "resp_1"));
    assert_true(has(*state, NULL, "resp_2") && has(*state, NULL, "resp_257"));
}

/* The oldest give way to what is new; what can never fit takes nothing else with it. */
static void test_bytes(void **state) {
    enum { MIB = 1 << 20 };
    put(*state, NULL, "resp_old", "old", 30 * MIB);
    put(*state, NULL, "resp_mid", "mid", 30 * MIB);
    assert_true(has(*state, NULL, "resp_old") && has(*state, NULL, "resp_mid"));
    put(*state, NULL, "resp_new", "new", 10 * MIB);
    assert_true(!has(*state, NULL, "resp_old") && has(*state, NULL, "resp_mid") && has(*state, NULL, "resp_new"));
    put(*state, NULL, "resp_huge", "huge", 65 * MIB);
    assert_false(has(*state, NULL, "resp_huge"));
    assert_true(has(*state, NULL, "resp_mid") && has(*state, NULL, "resp_new"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_content, make, drop),
        cmocka_unit_test_setup_teardown(test_owners, make, drop),
        cmocka_unit_test_setup_teardown(test_count, make, drop),
        cmocka_unit_test_setup_teardown(test_bytes, make, drop),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
