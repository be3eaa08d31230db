#include "arch_keys.h"

#include <stdio.h>

static const char *key(arch_keys *k, const char *suffix) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->arch, suffix);
    return k->name;
}

void arch_put_u32(arch_keys *k, const char *suffix, uint32_t v) {
    if (k->status == TD_OK) k->status = td_gguf_put_u32(k->w, key(k, suffix), v, k->err);
}

void arch_put_f32(arch_keys *k, const char *suffix, float v) {
    if (k->status == TD_OK) k->status = td_gguf_put_f32(k->w, key(k, suffix), v, k->err);
}

void arch_put_bool(arch_keys *k, const char *suffix, bool v) {
    if (k->status == TD_OK) k->status = td_gguf_put_bool(k->w, key(k, suffix), v, k->err);
}

void arch_put_str(arch_keys *k, const char *suffix, const char *v) {
    if (k->status == TD_OK) k->status = td_gguf_put_str(k->w, key(k, suffix), v, k->err);
}

void arch_put_list(arch_keys *k, const char *suffix, td_gguf_kind kind, const void *data, uint64_t n) {
    if (k->status == TD_OK) k->status = td_gguf_put_array(k->w, key(k, suffix), kind, data, n, k->err);
}

void arch_put_general(arch_keys *k, const char *name, uint32_t file_type) {
    if (k->status == TD_OK) k->status = td_gguf_put_str(k->w, "general.architecture", k->arch, k->err);
    if (k->status == TD_OK) k->status = td_gguf_put_str(k->w, "general.type", "model", k->err);
    if (k->status == TD_OK) k->status = td_gguf_put_str(k->w, "general.name", name, k->err);
    if (k->status == TD_OK) k->status = td_gguf_put_u32(k->w, "general.file_type", file_type, k->err);
    if (k->status == TD_OK) k->status = td_gguf_put_u32(k->w, "general.quantization_version", 2, k->err);
}
