#include "eval_base.h"

#include "../base/checked.h"
#include "../base/cursor.h"
#include "../base/status.h"

#include <math.h>
#include <string.h>

#define MAGIC "_logits_"

size_t eval_base_row_bytes(int n_vocab) {
    return (2 * (((size_t)n_vocab + 1) / 2) + 4) * sizeof(uint16_t);
}

td_status eval_base_open(eval_base *b, const char *path, td_error *err) {
    memset(b, 0, sizeof *b);
    td_status status = td_map_open(&b->map, path, err);
    if (status) return status;
    td_cursor c = td_cursor_make(b->map.data, b->map.n_bytes, 0);
    td_slice magic, tokens, rows;
    uint32_t n_ctx = 0, n_vocab = 0, n_chunk = 0;
    uint64_t n_tokens = 0, n_rows = 0, n_bytes = 0;
    if (!td_cursor_bytes(&c, 8, &magic) || memcmp(magic.data, MAGIC, 8) != 0 || !td_cursor_u32(&c, &n_ctx) ||
        !td_cursor_u32(&c, &n_vocab) || !td_cursor_u32(&c, &n_chunk)) {
        status = td_fail(err, TD_ERR_FORMAT, 0, "%s is not a base file of a KL comparison", path);
    } else if (n_ctx < 4 || n_ctx > 1u << 20 || n_vocab < 1 || n_vocab > 1u << 24 || n_chunk < 1 ||
               n_chunk > 1u << 24) {
        status = td_fail(err, TD_ERR_FORMAT, 8, "%s: impossible sizes (context %u, vocabulary %u, windows %u)", path,
                         n_ctx, n_vocab, n_chunk);
    } else {
        b->n_ctx = (int)n_ctx;
        b->n_vocab = (int)n_vocab;
        b->n_chunk = (int)n_chunk;
        b->rows_per_chunk = b->n_ctx - 1 - b->n_ctx / 2;
        b->row_bytes = eval_base_row_bytes(b->n_vocab);
        bool ok = td_mul_u64(n_ctx, n_chunk, &n_tokens) && td_mul_u64(n_tokens, 4, &n_tokens) &&
                  td_mul_u64((uint64_t)b->rows_per_chunk, n_chunk, &n_rows) &&
                  td_mul_u64(n_rows, b->row_bytes, &n_bytes);
        if (!ok || !td_cursor_bytes(&c, n_tokens, &tokens) || !td_cursor_bytes(&c, n_bytes, &rows))
            status = td_fail(err, TD_ERR_FORMAT, td_cursor_offset(&c), "%s is cut: %u windows of %u tokens need more",
                             path, n_chunk, n_ctx);
        else
            b->tokens = (const uint8_t *)tokens.data, b->rows = (const uint8_t *)rows.data;
    }
    if (status) eval_base_close(b);
    return status;
}

void eval_base_close(eval_base *b) {
    td_map_close(&b->map);
    memset(b, 0, sizeof *b);
}

void eval_base_row(const eval_base *b, size_t i, float *out) {
    const uint8_t *row = b->rows + i * b->row_bytes;
    float head[2]; /* scale, smallest log-probability */
    memcpy(head, row, sizeof head);
    const uint8_t *q = row + sizeof head;
    for (int k = 0; k < b->n_vocab; k++) out[k] = head[1] + head[0] * (float)(q[2 * k] | q[2 * k + 1] << 8);
}

td_status eval_base_begin(td_atomic_file *f, int n_ctx, int n_vocab, int n_chunk, const uint32_t *tokens,
                          td_error *err) {
    uint32_t head[3] = {(uint32_t)n_ctx, (uint32_t)n_vocab, (uint32_t)n_chunk};
    td_status status = td_atomic_write(f, MAGIC, 8, err);
    if (!status) status = td_atomic_write(f, head, sizeof head, err);
    if (!status) status = td_atomic_write(f, tokens, (size_t)n_ctx * (size_t)n_chunk * sizeof *tokens, err);
    return status;
}

td_status eval_base_add(td_atomic_file *f, const float *logits, int n_vocab, double log_sum, uint16_t *buffer,
                        td_error *err) {
    float most = logits[0], least = logits[0];
    for (int i = 1; i < n_vocab; i++) {
        most = logits[i] > most ? logits[i] : most;
        least = logits[i] < least ? logits[i] : least;
    }
    if (!(least > most - 16)) least = most - 16;
    float scale = (most - least) / 65535.0f, head[2] = {scale, (float)((double)least - log_sum)};
    float inverse = scale > 0 ? 1.0f / scale : 0;
    size_t n_bytes = eval_base_row_bytes(n_vocab);
    memset(buffer, 0, n_bytes);
    memcpy(buffer, head, sizeof head);
    for (int i = 0; i < n_vocab; i++)
        buffer[4 + i] = logits[i] > least ? (uint16_t)lrintf(inverse * (logits[i] - least)) : 0;
    return td_atomic_write(f, buffer, n_bytes, err);
}
