/* Speed of the tokenizer: loads the real vocabulary, tokenises the files given (and 1 MiB of text without spaces made
 * from them), prints MB/s on one core. */
#include "vocab_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Time of this thread, so that a busy machine does not count. */
static int64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void measure(const char *what, const char *text, size_t n) {
    double best = 0, first = 0;
    size_t n_tokens = 0;
    for (int round = 0; round < 5; round++) {
        td_tokens t = {0};
        int64_t start = cpu_ns();
        if (td_vocab_tokenize(fixture_vocab(), text, n, TD_SPECIAL_ALL, false, &t, NULL)) return;
        double rate = (double)n * 1e3 / (double)(cpu_ns() - start);
        if (!round) first = rate;
        if (rate > best) best = rate;
        n_tokens = t.n;
        td_tokens_free(&t);
    }
    printf("%-28s %9zu bytes %8zu tokens  first %6.1f MB/s  best %6.1f MB/s\n", what, n, n_tokens, first, best);
}

int main(int argc, char **argv) {
    td_buf all = {0}, packed = {0};
    int64_t start = cpu_ns();
    if (!fixture_vocab()) return 1;
    printf("vocabulary in %.0f ms\n", (double)(cpu_ns() - start) * 1e-6);
    for (int i = 1; i < argc; i++) {
        size_t n = 0;
        char *data = fixture_read(argv[i], &n);
        if (!data || !td_buf_add(&all, data, n)) return 1;
        measure(argv[i], data, n);
        free(data);
    }
    measure("all", all.data, all.n_bytes);
    for (size_t i = 0; i < all.n_bytes && packed.n_bytes < 1 << 20; i++)
        if (all.data[i] != ' ' && all.data[i] != '\n') td_buf_add_char(&packed, all.data[i]);
    measure("without spaces", packed.data, packed.n_bytes);
    memset(packed.data, 'a', packed.n_bytes);
    measure("one letter", packed.data, packed.n_bytes);
    memset(packed.data, ' ', packed.n_bytes);
    measure("spaces", packed.data, packed.n_bytes);
    td_buf_free(&all);
    td_buf_free(&packed);
    fixture_release();
    return 0;
}
