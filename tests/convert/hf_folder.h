/* Makes small Hugging Face folders for the conversion tests: config.json, tokenizer.json and a safetensors file whose
 * tensors and values are known. */
#ifndef TEST_HF_FOLDER_H
#define TEST_HF_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HF_MAX = 128 };

typedef struct hf_tensor {
    char name[96];
    const char *dtype; /* "F32" "BF16" "I64" … */
    int n_dims;
    uint64_t shape[3];
} hf_tensor;

typedef struct hf_folder {
    char dir[256];
    hf_tensor tensors[HF_MAX];
    int n;
    uint32_t n_vocab; /* of tokenizer.json */
} hf_folder;

/* A folder below $TMPDIR. */
void hf_begin(hf_folder *f, const char *name);
hf_tensor *hf_add(hf_folder *f, const char *name, const char *dtype, uint64_t a, uint64_t b, uint64_t c);
void hf_remove(hf_folder *f, const char *name);
/* Value i of a tensor: a small number made of its name; token orderings are the ids backwards. */
float hf_value(const char *name, uint64_t i);
/* Tensors in [first, last) as one safetensors file. */
void hf_write_tensors(const hf_folder *f, const char *file, int first, int last);
void hf_write_tokenizer(const hf_folder *f);
void hf_write_text(const hf_folder *f, const char *file, const char *text);
void hf_path(const hf_folder *f, const char *file, char *out, size_t n);
void hf_delete(hf_folder *f); /* all files and the folder */

#endif
