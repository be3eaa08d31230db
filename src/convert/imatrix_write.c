/* See imatrix_write.h. The layouts are in spec quant-formats.md 3.4: GGUF keeps sums and counts apart; .dat has means,
 * times a number of "calls" (windows' worth of rows, rounded up) by which its readers divide again. */
#include "imatrix_write.h"

#include "../base/atomic_file.h"
#include "../base/checked.h"
#include "../file/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
    return strcmp(((const td_importance *)a)->tensor, ((const td_importance *)b)->tensor);
}

static uint64_t largest_count(const td_importance *e) {
    uint64_t n = 0;
    for (int i = 0; i < e->n_mat; i++) n = e->counts[i] > n ? e->counts[i] : n;
    return n;
}

/* ---- GGUF ---- */

static td_status declare(td_gguf_writer *w, const td_importance *e, td_error *err) {
    char name[TD_GGUF_NAME + 16];
    uint64_t sums[2] = {(uint64_t)e->n_values, (uint64_t)e->n_mat}, counts[2] = {1, (uint64_t)e->n_mat};
    snprintf(name, sizeof name, "%s.in_sum2", e->tensor);
    td_status status = td_gguf_put_tensor(w, name, TD_TYPE_F32, 2, sums, err);
    snprintf(name, sizeof name, "%s.counts", e->tensor);
    if (!status) status = td_gguf_put_tensor(w, name, TD_TYPE_F32, 2, counts, err);
    return status;
}

static td_status put_entry(td_gguf_writer *w, const td_importance *e, float *row, td_error *err) {
    td_status status = TD_OK;
    for (int m = 0; m < e->n_mat && !status; m++) {
        for (int64_t i = 0; i < e->n_values; i++) row[i] = (float)e->sums[(int64_t)m * e->n_values + i];
        status = td_gguf_put_data(w, row, (size_t)e->n_values * sizeof *row, err);
    }
    for (int m = 0; m < e->n_mat && !status; m++) {
        float count = (float)e->counts[m];
        status = td_gguf_put_data(w, &count, sizeof count, err);
    }
    return status;
}

static td_status write_gguf(const char *path, const td_importance *entries, size_t n, const td_imatrix_info *info,
                            float *row, td_error *err) {
    td_gguf_writer *w = NULL;
    td_slice dataset = {info->dataset, strlen(info->dataset)};
    td_status status = td_gguf_writer_open(&w, path, err);
    if (status) return status;
    status = td_gguf_put_str(w, "general.type", "imatrix", err);
    if (!status) status = td_gguf_put_strings(w, "imatrix.datasets", &dataset, 1, err);
    if (!status) status = td_gguf_put_u32(w, "imatrix.chunk_count", info->n_chunk, err);
    if (!status) status = td_gguf_put_u32(w, "imatrix.chunk_size", info->chunk_size, err);
    for (size_t i = 0; i < n && !status; i++) status = declare(w, &entries[i], err);
    for (size_t i = 0; i < n && !status; i++) status = put_entry(w, &entries[i], row, err);
    if (!status) return td_gguf_writer_commit(w, err);
    td_gguf_writer_discard(w);
    return status;
}

/* ---- the older form ---- */

static td_status put_i32(td_atomic_file *f, uint64_t v, td_error *err) {
    int32_t x = (int32_t)v;
    return td_atomic_write(f, &x, sizeof x, err);
}

static td_status put_text(td_atomic_file *f, const char *s, td_error *err) {
    td_status status = put_i32(f, strlen(s), err);
    return status ? status : td_atomic_write(f, s, strlen(s), err);
}

/* An expert that no row reached counts as 1 everywhere. */
static td_status put_means(td_atomic_file *f, const td_importance *e, uint32_t chunk_size, float *row, td_error *err) {
    uint64_t n_call = (largest_count(e) + chunk_size - 1) / chunk_size;
    td_status status = put_text(f, e->tensor, err);
    if (!status) status = put_i32(f, n_call, err);
    if (!status) status = put_i32(f, (uint64_t)e->n_mat * (uint64_t)e->n_values, err);
    for (int m = 0; m < e->n_mat && !status; m++) {
        for (int64_t i = 0; i < e->n_values; i++) {
            double mean = e->counts[m] ? e->sums[(int64_t)m * e->n_values + i] / (double)e->counts[m] : 1.0;
            row[i] = (float)(mean * (double)n_call);
        }
        status = td_atomic_write(f, row, (size_t)e->n_values * sizeof *row, err);
    }
    return status;
}

static td_status write_dat(const char *path, const td_importance *entries, size_t n, const td_imatrix_info *info,
                           float *row, td_error *err) {
    td_atomic_file *f = NULL;
    size_t n_used = 0;
    td_status status = td_atomic_open(&f, path, err);
    if (status) return status;
    for (size_t i = 0; i < n; i++) n_used += largest_count(&entries[i]) > 0;
    status = put_i32(f, n_used, err);
    for (size_t i = 0; i < n && !status; i++)
        if (largest_count(&entries[i]) > 0) status = put_means(f, &entries[i], info->chunk_size, row, err);
    if (!status) status = put_i32(f, info->n_chunk, err);
    if (!status) status = put_text(f, info->dataset, err);
    if (!status) return td_atomic_commit(f, err);
    td_atomic_discard(f);
    return status;
}

td_status td_imatrix_write(const char *path, td_importance *entries, size_t n, const td_imatrix_info *info,
                           td_error *err) {
    int64_t widest = 1;
    if (info->chunk_size == 0)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "an importance matrix of windows of 0 tokens");
    for (size_t i = 0; i < n; i++) widest = entries[i].n_values > widest ? entries[i].n_values : widest;
    float *row = td_calloc((size_t)widest, sizeof *row);
    if (!row) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the importance matrix");
    qsort(entries, n, sizeof *entries, by_name);
    td_status status =
        info->legacy ? write_dat(path, entries, n, info, row, err) : write_gguf(path, entries, n, info, row, err);
    free(row);
    return status;
}
