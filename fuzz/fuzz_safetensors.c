/* safetensors: whatever the bytes are, opening ends with a status, and what was opened can be walked. */
#include "file/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static volatile unsigned sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    td_safetensors *s = NULL;
    td_error err = {0};
    if (td_safetensors_open_memory(&s, data, n, &err) != TD_OK) return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < td_safetensors_count(s); i++) {
        const td_st_tensor *t = td_safetensors_at(s, i);
        const unsigned char *p = t->data;
        if (t->n_bytes > 0) sum += p[0] + (unsigned)p[t->n_bytes - 1];
    }
    sink = sum;
    td_safetensors_close(s);
    return 0;
}
