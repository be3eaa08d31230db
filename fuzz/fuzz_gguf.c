/* GGUF: whatever the bytes are, opening ends with a status, and what was opened can be walked. */
#include "file/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static volatile unsigned sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    td_gguf *g = NULL;
    td_error err = {0};
    if (td_gguf_open_memory(&g, data, n, &err) != TD_OK) return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < td_gguf_n_keys(g); i++) {
        const td_gguf_value *v = td_gguf_key_at(g, i);
        uint32_t each[4];
        (void)td_gguf_get_u32_each(g, v->key, 0, each, 4, NULL);
        if (v->kind != TD_GGUF_ARRAY) continue;
        int64_t last = 0;
        if (v->as.array.n > 0) (void)td_gguf_array_i64(&v->as.array, v->as.array.n - 1, &last);
        td_cursor c = td_gguf_array_strings(&v->as.array);
        for (td_slice s; td_gguf_next_string(&c, &s);)
            if (s.n_bytes > 0) sum += (unsigned char)s.data[s.n_bytes - 1];
    }
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        const unsigned char *p = t->data;
        if (t->n_bytes > 0) sum += p[0] + (unsigned)p[t->n_bytes - 1];
    }
    sink = sum;
    td_gguf_close(g);
    return 0;
}
