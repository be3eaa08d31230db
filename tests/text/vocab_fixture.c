/* See vocab_fixture.h. Unpacking goes through the gzip program, which every Debian has. */
#include "vocab_fixture.h"

#include "text/vocab_impl.h"

#include <stdio.h>
#include <stdlib.h>

static td_vocab *shared;

char *fixture_read(const char *path, size_t *n_bytes) {
    size_t n_path = strlen(path), cap = 1 << 16, n = 0;
    bool packed = n_path > 3 && strcmp(path + n_path - 3, ".gz") == 0;
    char command[512];
    snprintf(command, sizeof command, "gzip -dc '%s'", path);
    FILE *f = packed ? popen(command, "r") : fopen(path, "rb");
    char *data = malloc(cap);
    while (f && data) {
        size_t got = fread(data + n, 1, cap - n, f);
        n += got;
        if (!got) break;
        if (n == cap) data = realloc(data, cap *= 2);
    }
    bool ok = f && (packed ? pclose(f) : fclose(f)) == 0;
    if (!ok || !data) {
        free(data);
        return NULL;
    }
    *n_bytes = n;
    return data;
}

bool fixture_source_load(fixture_source *f) {
    size_t n = 0;
    memset(f, 0, sizeof *f);
    td_vocab_source_init(&f->s);
    f->bytes = fixture_read("tests/text/data/gemma4-vocab.txt.gz", &n);
    f->texts = calloc(262144, sizeof *f->texts);
    f->types = calloc(262144, sizeof *f->types);
    if (!f->bytes || !f->texts || !f->types) return false;
    char *out = f->bytes, *in = f->bytes, *end = f->bytes + n;
    while (in < end && f->s.n_tokens < 262144) {
        char *start = out;
        for (; *in != '\n'; in++) {
            if (*in == '\\')
                in++, *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : '\\';
            else
                *out++ = *in;
        }
        in++;
        f->texts[f->s.n_tokens++] = (td_slice){start, (size_t)(out - start)};
    }
    static const int control[] = {0,   1,      2,      3,      4,      46,     47,     98,    105,
                                  106, 255999, 256000, 258880, 258881, 258882, 258883, 258884};
    static const int user[] = {48, 49, 50, 51, 52, 100, 101};
    for (int i = 0; i < 262144; i++) f->types[i] = i >= 238 && i < 494 ? TD_TOKEN_TYPE_BYTE : TD_TOKEN_TYPE_NORMAL;
    for (size_t i = 0; i < sizeof control / sizeof *control; i++) f->types[control[i]] = TD_TOKEN_TYPE_CONTROL;
    for (size_t i = 0; i < sizeof user / sizeof *user; i++) f->types[user[i]] = TD_TOKEN_TYPE_USER_DEFINED;
    f->s.texts = f->texts;
    f->s.types = f->types;
    f->s.derive_merges = true;
    f->s.bos = 2;
    f->s.eos = 1;
    return f->s.n_tokens == 262144;
}

void fixture_source_free(fixture_source *f) {
    free(f->bytes);
    free(f->texts);
    free(f->types);
    memset(f, 0, sizeof *f);
}

const td_vocab *fixture_vocab(void) {
    if (shared) return shared;
    fixture_source f;
    td_error err = {0};
    if (fixture_source_load(&f) && td_vocab_create(&shared, &f.s, &err)) fprintf(stderr, "vocabulary: %s\n", err.text);
    fixture_source_free(&f);
    return shared;
}

void fixture_release(void) {
    td_vocab_destroy(shared);
    shared = NULL;
}

td_vocab *fixture_tiny(const char *const *words, int n_words) {
    static const char *const special[] = {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|\"|>"};
    static char text[512][8];
    td_slice *texts = calloc((size_t)n_words + 512, sizeof *texts);
    td_vocab *v = NULL;
    td_vocab_source s;
    td_error err = {0};
    uint32_t n = 0;
    td_vocab_source_init(&s);
    for (int i = 0; i < 8; i++) texts[n++] = (td_slice){special[i], strlen(special[i])};
    for (int i = 0; i < 256; i++) texts[n++] = (td_slice){text[i], (size_t)snprintf(text[i], 8, "<0x%02X>", i)};
    for (int i = 33; i < 127; i++) texts[n++] = (td_slice){text[256 + i], (size_t)snprintf(text[256 + i], 8, "%c", i)};
    texts[n++] = (td_slice){"\n", 1};
    texts[n++] = (td_slice){"\xE2\x96\x81", 3};
    for (int i = 0; i < n_words; i++) texts[n++] = (td_slice){words[i], strlen(words[i])};
    s.n_tokens = n;
    s.texts = texts;
    s.derive_merges = true;
    s.bos = 2;
    s.eos = 1;
    if (td_vocab_create(&v, &s, &err)) fprintf(stderr, "tiny vocabulary: %s\n", err.text);
    free(texts);
    return v;
}

size_t fixture_unhex(const char *hex, char *out, size_t cap) {
    size_t n = 0;
    unsigned v = 0;
    for (; n < cap && hex[2 * n] && sscanf(hex + 2 * n, "%2x", &v) == 1; n++) out[n] = (char)v;
    return n;
}

uint64_t fixture_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
