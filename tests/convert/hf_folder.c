/* See hf_folder.h. */
#include "hf_folder.h"

#include "base/half.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

void hf_begin(hf_folder *f, const char *name) {
    memset(f, 0, sizeof *f);
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(f->dir, sizeof f->dir, "%s/test_convert.%ld.%s", tmp, (long)getpid(), name);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    f->n_vocab = 320;
}

hf_tensor *hf_add(hf_folder *f, const char *name, const char *dtype, uint64_t a, uint64_t b, uint64_t c) {
    assert_true(f->n < HF_MAX);
    hf_tensor *t = &f->tensors[f->n++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dtype = dtype;
    t->shape[0] = a;
    t->shape[1] = b;
    t->shape[2] = c;
    t->n_dims = c ? 3 : b ? 2 : 1;
    return t;
}

void hf_remove(hf_folder *f, const char *name) {
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->tensors[i].name, name) != 0) continue;
        memmove(&f->tensors[i], &f->tensors[i + 1], (size_t)(f->n - i - 1) * sizeof f->tensors[0]);
        f->n--;
        return;
    }
    fail_msg("no tensor %s", name);
}

float hf_value(const char *name, uint64_t i) {
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    h = (h ^ (uint32_t)i) * 2654435761u;
    h ^= h >> 15;
    return (float)((int)(h % 511) - 255) / 256.0f; /* nine bits: exact in every float type */
}

void hf_path(const hf_folder *f, const char *file, char *out, size_t n) {
    assert_true((size_t)snprintf(out, n, "%s/%s", f->dir, file) < n);
}

static FILE *create(const hf_folder *f, const char *file) {
    char path[512];
    hf_path(f, file, path, sizeof path);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    return out;
}

static size_t dtype_bytes(const char *d) {
    return strcmp(d, "F32") == 0     ? 4
           : d[strlen(d) - 1] == '4' ? 8
           : strcmp(d, "I32") == 0   ? 4
           : strcmp(d, "U8") == 0    ? 1
                                     : 2;
}

static uint64_t count(const hf_tensor *t) {
    uint64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

static void write_value(FILE *out, const hf_tensor *t, uint64_t i, uint64_t n) {
    uint8_t b[8] = {0};
    float v = hf_value(t->name, i);
    size_t size = dtype_bytes(t->dtype);
    if (t->dtype[0] == 'I') {
        uint64_t id = n - 1 - i;
        for (int k = 0; k < 8; k++) b[k] = (uint8_t)(id >> (8 * k));
    } else if (size == 4) {
        memcpy(b, &v, 4);
    } else if (size == 2) {
        td_store_u16(b, strcmp(t->dtype, "BF16") == 0 ? td_f32_to_bf16(v) : td_f32_to_f16(v));
    }
    fwrite(b, 1, size, out);
}

void hf_write_tensors(const hf_folder *f, const char *file, int first, int last) {
    static char header[1 << 16];
    size_t at = (size_t)snprintf(header, sizeof header, "{");
    uint64_t offset = 0;
    for (int i = first; i < last; i++) {
        const hf_tensor *t = &f->tensors[i];
        at += (size_t)snprintf(header + at, sizeof header - at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                               i > first ? "," : "", t->name, t->dtype);
        for (int k = 0; k < t->n_dims; k++) {
            at += (size_t)snprintf(header + at, sizeof header - at, "%s%llu", k ? "," : "",
                                   (unsigned long long)t->shape[k]);
        }
        uint64_t end = offset + count(t) * dtype_bytes(t->dtype);
        at += (size_t)snprintf(header + at, sizeof header - at, "],\"data_offsets\":[%llu,%llu]}",
                               (unsigned long long)offset, (unsigned long long)end);
        offset = end;
    }
    at += (size_t)snprintf(header + at, sizeof header - at, "}");
    FILE *out = create(f, file);
    uint64_t n = at;
    fwrite(&n, 8, 1, out);
    fwrite(header, 1, at, out);
    for (int i = first; i < last; i++) {
        const hf_tensor *t = &f->tensors[i];
        for (uint64_t k = 0; k < count(t); k++) write_value(out, t, k, count(t));
    }
    fclose(out);
}

void hf_write_tokenizer(const hf_folder *f) {
    static const char *const special[] = {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>"};
    FILE *out = create(f, "tokenizer.json");
    fputs("{\"version\":\"1.0\",\"added_tokens\":[", out);
    for (int i = 0; i < 5; i++)
        fprintf(out, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", i, special[i]);
    fputs("],\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
          "\"},\"content\":\"\xe2\x96\x81\"},\"model\":{"
          "\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{",
          out);
    for (int i = 0; i < 5; i++) fprintf(out, "\"%s\":%d,", special[i], i);
    for (int i = 0; i < 256; i++) fprintf(out, "\"<0x%02X>\":%d,", i, 5 + i);
    fputs("\"a\":261,\"b\":262,\"ab\":263", out);
    for (uint32_t i = 264; i < f->n_vocab; i++) fprintf(out, ",\"w%u\":%u", i, i);
    fputs("},\"merges\":[[\"a\",\"b\"]]}}", out);
    fclose(out);
}

void hf_write_text(const hf_folder *f, const char *file, const char *text) {
    FILE *out = create(f, file);
    fputs(text, out);
    fclose(out);
}

void hf_delete(hf_folder *f) {
    DIR *d = opendir(f->dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", f->dir, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    closedir(d);
    rmdir(f->dir);
}
