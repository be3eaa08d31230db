/* Runs a fuzz target without libFuzzer: each file of a folder as it is, then a number of mutations of it made by a
 * fixed generator. Usage: PROGRAM FOLDER [MUTATIONS per file]. */
#include "../tests/share.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { INPUT_BYTES = 1 << 20 };

static uint64_t rng = 0x9e3779b97f4a7c15u;

static uint64_t next(void) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static size_t below(size_t n) {
    return n != 0 ? (size_t)(next() % n) : 0;
}

/* One to four changes: a byte, a large number, a cut, a doubled stretch, a removed stretch. */
static size_t mutate(uint8_t *data, size_t n, size_t cap) {
    static const uint64_t evil[] = {0, 1, 0x7f, 0xff, 0xffff, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    for (size_t k = 1 + below(4); k > 0 && n > 0; k--) {
        size_t at = below(n), len = 1 + below(n - at < 64 ? n - at : 64);
        switch (below(6)) {
        case 0:
            data[at] = (uint8_t)next();
            break;
        case 1:
            data[at] ^= (uint8_t)(1u << below(8));
            break;
        case 2:
            memcpy(data + at, &evil[below(9)], n - at < 8 ? n - at : 8);
            break;
        case 3:
            n = at;
            break;
        case 4:
            if (n + len > cap) break;
            memmove(data + at + len, data + at, n - at);
            n += len;
            break;
        default:
            memmove(data + at, data + at + len, n - at - len);
            n -= len;
            break;
        }
    }
    return n;
}

/* A copy of exactly n bytes, so that a read past the end is seen. */
static void run_one(const uint8_t *data, size_t n) {
    uint8_t *copy = malloc(n != 0 ? n : 1);
    if (copy == NULL) return;
    memcpy(copy, data, n);
    (void)LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static int run_file(const char *path, long mutations) {
    static uint8_t input[INPUT_BYTES], work[2 * INPUT_BYTES];
    FILE *f = fopen(path, "rb");
    if (f == NULL) return 1;
    size_t n = fread(input, 1, sizeof input, f);
    fclose(f);
    run_one(input, n);
    for (long i = 0; i < mutations; i++) {
        memcpy(work, input, n);
        run_one(work, mutate(work, n, sizeof work));
    }
    return 0;
}

int main(int argc, char **argv) {
    DIR *d = argc > 1 ? opendir(argv[1]) : NULL;
    int n_files = 0, failed = 0;
    if (d == NULL) {
        fprintf(stderr, "usage: %s FOLDER [MUTATIONS]\n", argv[0]);
        return 1;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        failed |= run_file(path, argc > 2 ? test_share(atoi(argv[2]), 1) : 0);
        n_files++;
    }
    closedir(d);
    printf("%d files\n", n_files);
    return failed != 0 || n_files == 0;
}
