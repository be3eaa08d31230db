/* How much of a long test runs: TD_TEST_SHARE is a percentage, 100 where it is not set. The sanitizer and emulator
 * builds set it (CMakePresets.json, .ci/aarch64): they look for other defects than wrong results, on the same paths. */
#ifndef TD_TESTS_SHARE_H
#define TD_TESTS_SHARE_H

#include <stdlib.h>

/* The share of `whole` turns, at least `least` of them. */
static inline int test_share(int whole, int least) {
    const char *text = getenv("TD_TEST_SHARE");
    long percent = text ? strtol(text, NULL, 10) : 100;
    if (percent < 1 || percent > 100) percent = 100;
    int n = (int)((long long)whole * percent / 100);
    return n < least ? least : n;
}

#endif
