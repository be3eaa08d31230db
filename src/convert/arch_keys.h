/* Writing a model's keys: those that begin with its architecture, and the general ones. */
#ifndef TD_CONVERT_ARCH_KEYS_H
#define TD_CONVERT_ARCH_KEYS_H

#include "../file/gguf_write.h"

typedef struct arch_keys { /* the first error wins; later calls do nothing */
    td_gguf_writer *w;
    const char *arch; /* "gemma4" */
    td_status status;
    td_error *err;
    char name[128]; /* of the key in hand */
} arch_keys;

/* `suffix`: of the key, behind "ARCH." */
void arch_put_u32(arch_keys *k, const char *suffix, uint32_t v);
void arch_put_f32(arch_keys *k, const char *suffix, float v);
void arch_put_bool(arch_keys *k, const char *suffix, bool v);
void arch_put_str(arch_keys *k, const char *suffix, const char *v);
void arch_put_list(arch_keys *k, const char *suffix, td_gguf_kind kind, const void *data, uint64_t n);
/* general.architecture, type, name, file_type, quantization_version */
void arch_put_general(arch_keys *k, const char *name, uint32_t file_type);

#endif
