/* Matrices and activation rows as objects: sizes, packing at load, taking single rows out again (forms.h has the
 * layout, matmul.c the products). */
#include "forms.h"

#include "../base/checked.h"

#include <string.h>

static bool sizes(td_matrix *m) {
    uint64_t row = 0;
    if (!td_type_row_bytes(m->type, (uint64_t)m->k, &row) || row > SIZE_MAX / TD_GROUP) return false;
    m->row_bytes = (size_t)row;
    m->group_bytes = (size_t)row * TD_GROUP;
    m->n_groups = m->n_rows / TD_GROUP + (m->n_rows % TD_GROUP != 0);
    size_t all = 0;
    return td_mul_size(m->group_bytes, (size_t)m->n_groups, &m->expert_bytes) &&
           td_mul_size(m->expert_bytes, (size_t)m->n_expert, &all) && all <= PTRDIFF_MAX;
}

td_status td_matrix_init(td_matrix *m, uint32_t type, int64_t n_rows, int64_t k, int32_t n_expert, td_error *err) {
    *m = (td_matrix){0};
    const td_type_info *info = td_type_get(type);
    if (!info || !info->decode || info->is_integer)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "type %s cannot hold a matrix of weights",
                       info ? info->name : "(unknown)");
    if (n_rows <= 0 || n_rows > INT32_MAX || k <= 0 || k > INT32_MAX || n_expert <= 0)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "matrix of %lld x %lld values, %d experts: out of range",
                       (long long)n_rows, (long long)k, (int)n_expert);
    m->type = info;
    m->form = td_form_of(info->id);
    m->n_rows = n_rows;
    m->k = k;
    m->n_expert = n_expert;
    if (!sizes(m))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "rows of %lld values do not fit type %s (blocks of %u)",
                       (long long)k, info->name, (unsigned)info->block);
    return TD_OK;
}

size_t td_matrix_packed_bytes(const td_matrix *m) {
    return m->expert_bytes * (size_t)m->n_expert;
}

size_t td_matrix_file_bytes(const td_matrix *m) {
    return m->row_bytes * (size_t)m->n_rows * (size_t)m->n_expert;
}

/* Group of rows given by pointer; the generic form keeps rows whole. */
static void pack_group(const td_matrix *m, uint8_t *dst, const uint8_t *const rows[TD_GROUP]) {
    if (m->form->id != TD_FORM_GENERIC) {
        td_form_pack_group(m->form, dst, rows, m->k / m->form->block);
        return;
    }
    for (int r = 0; r < TD_GROUP; r++) {
        if (rows[r])
            memcpy(dst + (size_t)r * m->row_bytes, rows[r], m->row_bytes);
        else
            memset(dst + (size_t)r * m->row_bytes, 0, m->row_bytes);
    }
}

static void pack_rows(const td_matrix *m, void *dst, int32_t expert, int64_t row0, int64_t n, const uint8_t *src,
                      const int32_t *ids) {
    uint8_t *out = (uint8_t *)dst + (size_t)expert * m->expert_bytes + (size_t)(row0 / TD_GROUP) * m->group_bytes;
    for (int64_t i = 0; i < n; i += TD_GROUP, out += m->group_bytes) {
        const uint8_t *rows[TD_GROUP];
        for (int r = 0; r < TD_GROUP; r++) {
            int64_t at = ids && i + r < n ? ids[row0 + i + r] : i + r;
            rows[r] = i + r < n ? src + (size_t)at * m->row_bytes : NULL;
        }
        pack_group(m, out, rows);
    }
}

void td_matrix_pack(const td_matrix *m, void *dst, int32_t expert, int64_t row0, int64_t n, const void *src) {
    pack_rows(m, dst, expert, row0, n, (const uint8_t *)src, NULL);
}

void td_matrix_pack_ordered(const td_matrix *m, void *dst, int32_t expert, int64_t row0, int64_t n, const void *src) {
    pack_rows(m, dst, expert, row0, n, (const uint8_t *)src, m->row_ids);
}

void td_matrix_bind_packed(td_matrix *m, const void *packed) {
    m->data = (const uint8_t *)packed;
    m->packed = true;
    m->expert_bytes = m->group_bytes * (size_t)m->n_groups;
}

void td_matrix_bind_plain(td_matrix *m, const void *rows) {
    m->data = (const uint8_t *)rows;
    m->packed = false;
    m->expert_bytes = m->row_bytes * (size_t)m->n_rows;
}

uint32_t td_matrix_acts(const td_matrix *m) {
    return m->form->acts;
}

uint32_t td_matrix_layout_version(void) {
    return 2;
}

size_t td_matrix_row_scratch(const td_matrix *m) {
    return m->packed ? m->row_bytes : 0;
}

/* The file's bytes of lane r of a group, values [begin, begin + n). */
static const uint8_t *row_bytes_at(const td_matrix *m, int32_t expert, int64_t row, int64_t begin, int64_t n,
                                   uint8_t *scratch) {
    int64_t block = m->type->block, b0 = begin / block, b1 = (begin + n + block - 1) / block;
    if (!m->packed)
        return m->data + (size_t)expert * m->expert_bytes + (size_t)row * m->row_bytes + (size_t)b0 * m->type->bytes;
    if (m->row_pos) row = m->row_pos[row];
    const uint8_t *group = m->data + (size_t)expert * m->expert_bytes + (size_t)(row / TD_GROUP) * m->group_bytes;
    if (m->form->id == TD_FORM_GENERIC)
        return group + (size_t)(row % TD_GROUP) * m->row_bytes + (size_t)b0 * m->type->bytes;
    td_form_unpack_row(m->form, scratch, group, (int)(row % TD_GROUP), b0, b1);
    return scratch;
}

void td_matrix_row_slice(const td_matrix *m, int32_t expert, int64_t row, int64_t begin, int64_t n_values, float *out,
                         void *scratch) {
    m->type->decode(row_bytes_at(m, expert, row, begin, n_values, (uint8_t *)scratch), out, n_values);
}

void td_matrix_row(const td_matrix *m, int32_t expert, int64_t row, float *out, void *scratch) {
    td_matrix_row_slice(m, expert, row, 0, m->k, out, scratch);
}

/* ---- activations ---- */

static size_t part_bytes(size_t n_panels, size_t n_blocks, uint32_t parts, uint32_t part) {
    if (!(parts & part)) return 0;
    size_t per = part == TD_ACTS_I8    ? TD_I8_BLOCK
                 : part == TD_ACTS_I8X ? TD_I8X_BLOCK
                 : part == TD_ACTS_WHT ? TD_I8_BLOCK + TD_I8X_BLOCK
                                       : (size_t)TD_PANEL * 32 * sizeof(float);
    return (n_panels * n_blocks * per + 63) & ~(size_t)63;
}

static const uint32_t part_list[] = {TD_ACTS_I8, TD_ACTS_I8X, TD_ACTS_F32, TD_ACTS_WHT};

size_t td_acts_bytes(int32_t n_tok, int64_t k, uint32_t parts) {
    size_t n = 0, panels = ((size_t)n_tok + TD_PANEL - 1) / TD_PANEL, blocks = ((size_t)k + 31) / 32;
    if (parts & TD_ACTS_I8X) parts |= TD_ACTS_I8;
    for (int i = 0; i < 4; i++) n += part_bytes(panels, blocks, parts, part_list[i]);
    return n;
}

void td_acts_init(td_acts *a, void *mem, int32_t n_tok, int64_t k, uint32_t parts) {
    if (parts & TD_ACTS_I8X) parts |= TD_ACTS_I8;
    *a = (td_acts){.n_tok = n_tok, .parts = parts, .k = k, .n_blocks = (k + 31) / 32};
    size_t panels = ((size_t)n_tok + TD_PANEL - 1) / TD_PANEL, blocks = (size_t)a->n_blocks;
    uint8_t *p = (uint8_t *)mem;
    for (int i = 0; i < 4; i++) {
        size_t bytes = part_bytes(panels, blocks, parts, part_list[i]);
        if (!bytes) continue;
        if (part_list[i] == TD_ACTS_I8) a->i8 = p;
        if (part_list[i] == TD_ACTS_I8X) a->i8x = p;
        if (part_list[i] == TD_ACTS_F32) a->f32 = (float *)(void *)p;
        if (part_list[i] == TD_ACTS_WHT) {
            a->wht = p;
            a->whtx = p + panels * blocks * TD_I8_BLOCK;
        }
        p += bytes;
    }
}

/* Row t of a part of blocks `stride` bytes: each array of the block holds `size` bytes for each of the 8 rows. */
static void copy_array(uint8_t *dst, int32_t to, const uint8_t *src, int32_t from, int64_t n_blocks, size_t stride,
                       size_t offset, size_t size) {
    dst += (size_t)(to / TD_PANEL) * (size_t)n_blocks * stride + offset + (size_t)(to % TD_PANEL) * size;
    src += (size_t)(from / TD_PANEL) * (size_t)n_blocks * stride + offset + (size_t)(from % TD_PANEL) * size;
    for (int64_t b = 0; b < n_blocks; b++, dst += stride, src += stride) memcpy(dst, src, size);
}

static void copy_i8(uint8_t *dst, int32_t to, const uint8_t *src, int32_t from, int64_t n_blocks) {
    copy_array(dst, to, src, from, n_blocks, TD_I8_BLOCK, 0, 32);
    copy_array(dst, to, src, from, n_blocks, TD_I8_BLOCK, TD_I8_SCALE, 4);
    copy_array(dst, to, src, from, n_blocks, TD_I8_BLOCK, TD_I8_SCALE + 32, 4);
}

static void copy_i8x(uint8_t *dst, int32_t to, const uint8_t *src, int32_t from, int64_t n_blocks) {
    for (size_t i = 0; i < 5; i++) copy_array(dst, to, src, from, n_blocks, TD_I8X_BLOCK, 32 * i, 4);
}

void td_acts_copy(const td_acts *dst, int32_t to, const td_acts *src, int32_t from) {
    if (dst->i8) copy_i8(dst->i8, to, src->i8, from, dst->n_blocks);
    if (dst->i8x) copy_i8x(dst->i8x, to, src->i8x, from, dst->n_blocks);
    if (dst->wht) {
        copy_i8(dst->wht, to, src->wht, from, dst->n_blocks);
        copy_i8x(dst->whtx, to, src->whtx, from, dst->n_blocks);
    }
    if (dst->f32)
        copy_array((uint8_t *)dst->f32, to, (const uint8_t *)src->f32, from, dst->n_blocks,
                   TD_PANEL * 32 * sizeof(float), 0, 32 * sizeof(float));
}
