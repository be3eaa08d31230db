/* The packed copy on disk (see pack.h).
 *
 * One header page, then the packed block as it stands in memory. The copy belongs to a file if its identity matches:
 * sizes, times, every tensor's description, samples of its data, and the version of the packed layout. It is whole if
 * its content has the hash of the header: a start reads all of it, which brings it into memory anyway, and costs less
 * than a tenth of the time of packing. It is written through td_atomic_file: no start ever sees half of it. */
#include "pack.h"

#include "../base/atomic_file.h"
#include "../base/checked.h"
#include "../base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HEADER = 4096, CHUNK = 1 << 20, SAMPLE = 256, PATH_BYTES = 4096 };

typedef struct header { /* at offset 0, little-endian like every machine this runs on; the rest of the page is zero */
    char magic[8];
    uint32_t version, layout;
    uint64_t identity[2], n_bytes, content, self; /* self: of the fields before */
} header;

/* ---- hash: eight lanes of multiply and rotate, so that one core keeps up with memory ---- */

static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_bytes(uint64_t seed, const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t lane[8], tail[8] = {0};
    for (int i = 0; i < 8; i++) lane[i] = seed + (uint64_t)i * 0xbf58476d1ce4e5b9u;
    size_t left = n;
    for (; left >= 64; left -= 64, p += 64) {
        uint64_t w[8];
        memcpy(w, p, 64);
        for (int i = 0; i < 8; i++) {
            uint64_t x = (lane[i] ^ w[i]) * 0x9e3779b97f4a7c15u;
            lane[i] = x << 27 | x >> 37;
        }
    }
    memcpy(tail, p, left);
    uint64_t h = mix(seed, n);
    for (int i = 0; i < 8; i++) h = mix(mix(h, lane[i]), tail[i]);
    return h;
}

static uint64_t hash_string(uint64_t h, const char *s) {
    return hash_bytes(h, s, strlen(s));
}

/* What the copy was made from. */
static void identity(const td_pack *p, const td_gguf *g, uint64_t id[2]) {
    struct stat st;
    uint64_t h = mix(1, td_gguf_file_bytes(g)), c = mix(2, (uint64_t)p->n_items);
    if (stat(td_gguf_path(g), &st) == 0) h = mix(mix(h, (uint64_t)st.st_mtim.tv_sec), (uint64_t)st.st_mtim.tv_nsec);
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        h = mix(mix(hash_string(h, t->name), (uint64_t)t->type->id), t->offset);
        for (int d = 0; d < TD_GGUF_DIMS; d++) h = mix(h, t->ne[d]);
    }
    for (int i = 0; i < p->n_items; i++) {
        const td_pack_item *it = &p->items[i];
        size_t n = it->t->n_bytes < SAMPLE ? it->t->n_bytes : SAMPLE;
        c = hash_string(mix(mix(c, it->offset), (uint64_t)it->row0), it->t->name);
        if (it->m->type != it->t->type) c = mix(c, (uint64_t)it->m->type->id);
        c = hash_bytes(c, it->t->data, n);
        c = hash_bytes(c, (const uint8_t *)it->t->data + (it->t->n_bytes - n) / 2, n);
        if (it->m->row_ids) c = hash_bytes(c, it->m->row_ids, (size_t)it->m->n_rows * sizeof *it->m->row_ids);
        h = mix(h, c);
    }
    id[0] = h;
    id[1] = c;
}

static void file_name(char out[PATH_BYTES], const td_gguf *g, const td_model_options *o, const uint64_t id[2]) {
    const char *path = td_gguf_path(g), *slash = strrchr(path, '/');
    if (!*o->pack_cache)
        snprintf(out, PATH_BYTES, "%s.tdpack", path);
    else
        snprintf(out, PATH_BYTES, "%s/%s-%016llx.tdpack", o->pack_cache, slash ? slash + 1 : path,
                 (unsigned long long)id[0]);
}

/* ---- content ---- */

typedef struct content {
    const uint8_t *data;
    uint64_t n_bytes;
    uint64_t *hash; /* [chunks] */
    const td_model_options *o;
    atomic_ullong done;
} content;

static void hash_chunk(void *arg, int64_t i) {
    content *c = arg;
    uint64_t at = (uint64_t)i * CHUNK, n = c->n_bytes - at < CHUNK ? c->n_bytes - at : CHUNK;
    c->hash[i] = hash_bytes((uint64_t)i, c->data + at, (size_t)n);
    atomic_fetch_add(&c->done, n);
}

static void report(void *arg) {
    content *c = arg;
    if (c->o->progress) c->o->progress(c->o->progress_user, "loading", atomic_load(&c->done), c->n_bytes);
}

static bool hash_content(const uint8_t *data, uint64_t n_bytes, const td_model_options *o, uint64_t *out) {
    size_t n = (size_t)((n_bytes + CHUNK - 1) / CHUNK);
    content c = {.data = data, .n_bytes = n_bytes, .o = o, .hash = td_calloc(n + 1, sizeof *c.hash)};
    if (!c.hash) return false;
    atomic_init(&c.done, 0);
    td_pack_parallel(o->pool, (int64_t)n, hash_chunk, report, &c);
    *out = hash_bytes(n_bytes, c.hash, n * sizeof *c.hash);
    free(c.hash);
    return true;
}

static header make_header(const td_pack *p, const uint64_t id[2], uint64_t hash) {
    header h = {.magic = "TDPACK1", .version = 1, .layout = td_matrix_layout_version(), .n_bytes = p->n_bytes};
    h.identity[0] = id[0];
    h.identity[1] = id[1];
    h.content = hash;
    h.self = hash_bytes(7, &h, offsetof(header, self));
    return h;
}

bool td_pack_cache_load(td_pack *p, const td_gguf *g, const td_model_options *o) {
    uint64_t id[2], hash = 0;
    char path[PATH_BYTES];
    td_error err = {0};
    td_map map = {0};
    header h;
    struct stat st;
    identity(p, g, id);
    file_name(path, g, o, id);
    if (stat(path, &st) != 0) return false;
    if (td_map_open(&map, path, &err)) {
        td_log(TD_LOG_WARN, "pack cache not used: %s", err.text);
        return false;
    }
    if (map.n_bytes != HEADER + p->n_bytes) goto stale;
    memcpy(&h, map.data, sizeof h);
    td_map_prefetch(&map, 0, map.n_bytes);
    header want = make_header(p, id, h.content);
    if (memcmp(&h, &want, sizeof h) != 0) goto stale;
    if (!hash_content(map.data + HEADER, p->n_bytes, o, &hash) || hash != h.content) {
        td_log(TD_LOG_WARN, "pack cache %s is damaged: packing again", path);
        td_map_close(&map);
        return false;
    }
    p->cache = map;
    p->from_cache = true;
    for (int i = 0; i < p->n_items; i++) td_matrix_bind_packed(p->items[i].m, map.data + HEADER + p->items[i].offset);
    return true;
stale:
    td_log(TD_LOG_INFO, "pack cache %s belongs to another file or version: packing again", path);
    td_map_close(&map);
    return false;
}

static td_status write_all(td_atomic_file *f, const td_pack *p, const header *h, const td_model_options *o,
                           td_error *err) {
    uint8_t page[HEADER] = {0};
    memcpy(page, h, sizeof *h);
    td_status st = td_atomic_write(f, page, sizeof page, err);
    for (uint64_t at = 0; !st && at < p->n_bytes; at += 16 * (uint64_t)CHUNK) {
        uint64_t n = p->n_bytes - at < 16 * (uint64_t)CHUNK ? p->n_bytes - at : 16 * (uint64_t)CHUNK;
        st = td_atomic_write(f, p->memory + at, (size_t)n, err);
        if (o->progress) o->progress(o->progress_user, "writing the pack cache", at + n, p->n_bytes);
    }
    return st;
}

void td_pack_cache_save(const td_pack *p, const td_gguf *g, const td_model_options *o) {
    uint64_t id[2], hash = 0;
    char path[PATH_BYTES];
    td_error err = {0};
    td_atomic_file *f = NULL;
    td_model_options quiet = *o;
    quiet.progress = NULL;
    identity(p, g, id);
    file_name(path, g, o, id);
    if (!hash_content(p->memory, p->n_bytes, &quiet, &hash)) return;
    header h = make_header(p, id, hash);
    td_status st = td_atomic_open(&f, path, &err);
    if (!st) st = write_all(f, p, &h, o, &err);
    if (!st)
        st = td_atomic_commit(f, &err);
    else if (f)
        td_atomic_discard(f);
    if (st) td_log(TD_LOG_WARN, "pack cache not written: %s", err.text);
}
