/* What other threads may ask an engine: figures, slots, text, and work between two steps. */
#include "engine.h"

#include "../base/atomic_file.h"
#include "../base/checked.h"
#include "../base/map.h"
#include "../file/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void td_engine_get_info(const td_engine *e, td_engine_info *out) {
    *out = e->info;
}

const td_vocab *td_engine_vocab(const td_engine *e) {
    return e->vocab;
}

const char *td_engine_metadata(const td_engine *e, const char *key, size_t *n_bytes) {
    td_slice s = {0};
    *n_bytes = 0;
    if (td_gguf_get_str(td_model_gguf(e->model), key, &s, NULL) || !s.data) return NULL;
    *n_bytes = s.n_bytes;
    return s.data;
}

bool td_engine_tensor_name(const td_engine *e, size_t i, char *out, size_t n_bytes) {
    const td_gguf *g = td_model_gguf(e->model);
    size_t n = td_gguf_n_tensors(g);
    bool attached = i >= n;
    if (attached) {
        if (!e->drafter) return false;
        i -= n;
        g = td_drafter_gguf(e->drafter);
        if (i >= td_gguf_n_tensors(g)) return false;
    }
    td_attach_name(td_gguf_tensor_at(g, i)->name, attached, out, n_bytes);
    return true;
}

int td_slots_get(const td_engine *e, td_slot_info *out, int cap) {
    td_engine *m = (td_engine *)e; /* the lock is the only thing touched */
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < e->params.n_slots && i < cap; i++) out[i] = e->slots[i].info;
    pthread_mutex_unlock(&m->lock);
    return e->params.n_slots;
}

void td_counters_get(const td_engine *e, td_counters *out) {
    td_engine *m = (td_engine *)e;
    pthread_mutex_lock(&m->lock);
    *out = e->published;
    out->n_deferred = e->n_queue;
    pthread_mutex_unlock(&m->lock);
}

/* ---- text ---- */

td_status td_tokenize(const td_engine *e, const char *text, size_t n_bytes, unsigned flags, uint32_t *out, size_t cap,
                      size_t *n, td_error *err) {
    td_tokens ids = {0};
    td_special_mode mode = flags & TD_TOKENIZE_SPECIAL ? TD_SPECIAL_ALL : TD_SPECIAL_NONE;
    td_status status = td_vocab_tokenize(e->vocab, text, n_bytes, mode, flags & TD_TOKENIZE_BOS, &ids, err);
    *n = status ? 0 : ids.n;
    if (!status && ids.n > cap)
        status = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the text has %zu tokens, there is room for %zu", ids.n, cap);
    else if (!status && ids.n > 0)
        memcpy(out, ids.ids, ids.n * sizeof *out);
    td_tokens_free(&ids);
    return status;
}

const char *td_token_text(const td_engine *e, uint32_t token, bool special, size_t *n_bytes) {
    td_slice s = td_vocab_piece(e->vocab, token, special);
    *n_bytes = s.n_bytes;
    return s.data ? s.data : "";
}

bool td_token_is_end(const td_engine *e, uint32_t token) {
    return td_vocab_is_end(e->vocab, token);
}

/* ---- the file's own words ---- */

static void copy(char *out, size_t cap, td_slice s) {
    snprintf(out, cap, "%.*s", (int)(s.n_bytes < 200 ? s.n_bytes : 200), s.data ? s.data : "");
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = ' ';
}

void td_engine_describe_file(const td_gguf *g, td_engine_info *i) {
    td_slice s = {0};
    (void)td_gguf_get_str(g, "general.name", &s, NULL);
    copy(i->model_name, sizeof i->model_name, s);
    if (!i->model_name[0]) {
        const char *slash = strrchr(i->model_path, '/'), *base = slash ? slash + 1 : i->model_path;
        snprintf(i->model_name, sizeof i->model_name, "%.63s", base);
    }
    s = (td_slice){0};
    (void)td_gguf_get_str(g, "general.size_label", &s, NULL);
    copy(i->size_label, sizeof i->size_label, s);
    /* The type that holds most of the weights names the mix. */
    uint64_t bytes[256] = {0}, most = 0;
    for (size_t t = 0; t < td_gguf_n_tensors(g); t++) {
        const td_gguf_tensor *x = td_gguf_tensor_at(g, t);
        uint64_t n = 1;
        for (int d = 0; d < x->n_dims; d++) n *= x->ne[d];
        i->n_params += n;
        uint64_t *b = &bytes[(unsigned)x->type->id & 255];
        *b += x->n_bytes;
        if (*b > most) {
            most = *b;
            snprintf(i->file_type, sizeof i->file_type, "%.31s", x->type->name);
        }
    }
}

/* ---- commands ---- */

typedef struct slot_call {
    int slot;
    const char *path, *cache_key;
    int n_tokens;
    uint64_t n_bytes;
} slot_call;

static td_status idle_slot(td_engine *e, int slot, td_slot **out, td_error *err) {
    td_status status = td_slot_find(e, slot, out, err);
    if (status) return status;
    bool busy = (*out)->job || (*out)->async != TD_ASYNC_NONE; /* a draft is waited for before cells go away */
    return busy ? td_fail(err, TD_ERR_BUSY, TD_NO_OFFSET, "slot %d is busy", slot) : TD_OK;
}

static td_status run_erase(td_engine *e, void *arg, td_error *err) {
    slot_call *c = arg;
    td_slot *s = NULL;
    td_status status = idle_slot(e, c->slot, &s, err);
    if (status) return status;
    c->n_tokens = s->n_tokens;
    td_slot_forget(e, s);
    return TD_OK;
}

td_status td_slot_erase(td_engine *e, int slot, int *n_erased, td_error *err) {
    slot_call c = {.slot = slot};
    td_status status = td_engine_command(e, run_erase, &c, err);
    if (n_erased) *n_erased = c.n_tokens;
    return status;
}

/* A saved slot: magic, version, model fingerprint, tokens, then the cache's own block; a checksum ends it. */
#define SAVE_MAGIC "TDSLOT01"

typedef struct save_header {
    char magic[8];
    uint64_t model_hash, n_tokens, n_kv_bytes;
} save_header;

static uint64_t fnv(uint64_t h, const void *data, size_t n) {
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t model_hash(const td_engine *e) {
    const td_gguf *g = td_model_gguf(e->model);
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        h = fnv(h, t->name, strlen(t->name));
        h = fnv(h, t->ne, sizeof t->ne);
        h = fnv(h, t->data, t->n_bytes < 4096 ? t->n_bytes : 4096);
    }
    return h;
}

static td_status run_save(td_engine *e, void *arg, td_error *err) {
    slot_call *c = arg;
    td_slot *s = NULL;
    td_status status = idle_slot(e, c->slot, &s, err);
    if (status) return status;
    save_header h = {.magic = SAVE_MAGIC,
                     .model_hash = model_hash(e),
                     .n_tokens = (uint64_t)s->n_tokens,
                     .n_kv_bytes = td_kv_save_bytes(e->kv, (uint32_t)s->id)};
    void *kv = malloc(h.n_kv_bytes ? h.n_kv_bytes : 1);
    td_atomic_file *f = NULL;
    if (!kv) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory to save slot %d", c->slot);
    td_kv_save(e->kv, (uint32_t)s->id, kv);
    size_t n_token_bytes = (size_t)s->n_tokens * sizeof *s->tokens;
    uint64_t sum = fnv(fnv(fnv(0xcbf29ce484222325u, &h, sizeof h), s->tokens, n_token_bytes), kv, h.n_kv_bytes);
    status = td_atomic_open(&f, c->path, err);
    if (!status) status = td_atomic_write(f, &h, sizeof h, err);
    if (!status) status = td_atomic_write(f, s->tokens, n_token_bytes, err);
    if (!status) status = td_atomic_write(f, kv, h.n_kv_bytes, err);
    if (!status) status = td_atomic_write(f, &sum, sizeof sum, err);
    if (!status) {
        c->n_bytes = td_atomic_size(f);
        c->n_tokens = s->n_tokens;
        status = td_atomic_commit(f, err);
    } else if (f) {
        td_atomic_discard(f);
    }
    free(kv);
    return status;
}

td_status td_slot_save(td_engine *e, int slot, const char *path, int *n_tokens, uint64_t *n_bytes, td_error *err) {
    slot_call c = {.slot = slot, .path = path};
    td_status status = td_engine_command(e, run_save, &c, err);
    if (n_tokens) *n_tokens = c.n_tokens;
    if (n_bytes) *n_bytes = c.n_bytes;
    return status;
}

/* Everything is checked before the slot is touched; the cache's own check leaves it empty on failure. */
static td_status restore(td_engine *e, td_slot *s, const td_map *m, const char *cache_key, td_error *err) {
    td_cursor c = td_cursor_make(m->data, m->n_bytes, 0);
    save_header h;
    td_slice head, tokens, kv, rest;
    if (!td_cursor_bytes(&c, sizeof h, &head))
        return td_fail(err, TD_ERR_FORMAT, 0, "not a saved slot: %zu bytes are too few", m->n_bytes);
    memcpy(&h, head.data, sizeof h);
    if (memcmp(h.magic, SAVE_MAGIC, 8) != 0) return td_fail(err, TD_ERR_FORMAT, 0, "not a saved slot of this version");
    if (h.model_hash != model_hash(e)) return td_fail(err, TD_ERR_MISMATCH, 8, "the slot was saved with another model");
    if (h.n_tokens >= (uint64_t)e->info.n_ctx)
        return td_fail(err, TD_ERR_CONTEXT, 16, "the saved slot has %llu tokens, a slot here holds %d",
                       (unsigned long long)h.n_tokens, e->info.n_ctx);
    uint64_t sum = 0, found = 0;
    if (!td_cursor_bytes(&c, h.n_tokens * 4, &tokens) || !td_cursor_bytes(&c, h.n_kv_bytes, &kv) ||
        !td_cursor_bytes(&c, sizeof sum, &rest) || td_cursor_left(&c) != 0)
        return td_fail(err, TD_ERR_FORMAT, td_cursor_offset(&c), "the saved slot is cut or too long");
    sum = fnv(0xcbf29ce484222325u, m->data, m->n_bytes - sizeof sum);
    memcpy(&found, rest.data, sizeof found);
    if (sum != found)
        return td_fail(err, TD_ERR_FORMAT, m->n_bytes - 8, "the saved slot is damaged: its checksum is wrong");
    for (uint64_t i = 0; i < h.n_tokens; i++) {
        uint32_t id = 0;
        memcpy(&id, tokens.data + 4 * i, 4);
        if (id >= (uint32_t)e->info.n_vocab)
            return td_fail(err, TD_ERR_FORMAT, sizeof h + 4 * i, "token %u is outside the vocabulary", id);
    }
    td_slot_forget(e, s);
    td_status status = td_kv_restore(e->kv, (uint32_t)s->id, kv.data, h.n_kv_bytes, err);
    if (status) return status;
    if (td_kv_n_pos(e->kv, (uint32_t)s->id) != h.n_tokens) {
        td_slot_forget(e, s);
        return td_fail(err, TD_ERR_FORMAT, 16, "the saved slot names %llu tokens and holds %u",
                       (unsigned long long)h.n_tokens, td_kv_n_pos(e->kv, (uint32_t)s->id));
    }
    char *key = cache_key ? strdup(cache_key) : NULL;
    if (cache_key && !key) {
        td_slot_forget(e, s);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory to restore slot %d", s->id);
    }
    free(s->cache_key);
    s->cache_key = key;
    memcpy(s->tokens, tokens.data, h.n_tokens * 4);
    s->n_tokens = (int)h.n_tokens;
    return TD_OK;
}

static td_status run_restore(td_engine *e, void *arg, td_error *err) {
    slot_call *c = arg;
    td_slot *s = NULL;
    td_map m = {0};
    td_status status = idle_slot(e, c->slot, &s, err);
    if (!status) status = td_map_open(&m, c->path, err);
    if (status) return status;
    status = restore(e, s, &m, c->cache_key, err);
    c->n_bytes = m.n_bytes;
    c->n_tokens = s->n_tokens;
    td_map_close(&m);
    if (status) td_error_prefix(err, "%s", c->path);
    return status;
}

td_status td_slot_restore(td_engine *e, int slot, const char *path, const char *cache_key, int *n_tokens,
                          uint64_t *n_bytes, td_error *err) {
    slot_call c = {.slot = slot, .path = path, .cache_key = cache_key};
    td_status status = td_engine_command(e, run_restore, &c, err);
    if (n_tokens) *n_tokens = c.n_tokens;
    if (n_bytes) *n_bytes = c.n_bytes;
    return status;
}
