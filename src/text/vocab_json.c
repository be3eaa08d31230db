/* Hugging Face's tokenizer.json as a vocabulary source (spec A.9, README of the data): a BPE model with byte fallback,
 * its vocabulary, its merges as "a b" or ["a", "b"], and the added tokens. A file of another scheme (byte-level BPE,
 * unigram) is refused here, before its texts could be mistaken for Gemma's. */
#include "../base/checked.h"
#include "../base/status.h"
#include "json_scan.h"
#include "vocab_file.h"
#include "vocab_impl.h"

#include <stdlib.h>

struct td_vocab_json {
    td_vocab_source source;
    td_arena *strings;
    td_slice *texts; /* by id */
    int32_t *types;
    uint32_t n_tokens, cap_tokens, max_id; /* ids seen; room; largest plausible id for a file of this size */
    td_slice *parts;                       /* merges: [n][1] texts or [n][2] pairs */
    uint64_t n_parts, cap_parts;
    int part_count;                           /* 1 or 2 slices per merge, 0 before the first */
    bool bpe, fallback, ignore_merges, marks; /* what the file says of the scheme */
};

static bool no_memory(json_scan *s) {
    td_fail(s->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
    s->c.failed = true;
    return false;
}

static bool put_text(td_vocab_json *j, json_scan *s, uint32_t id, td_slice text, int type) {
    if (id > j->max_id || id >= TD_VOCAB_MAX_TOKENS) return json_scan_fail(s, "token ids without gaps");
    if (id >= j->cap_tokens) {
        uint32_t cap = j->cap_tokens ? j->cap_tokens : 4096;
        while (cap <= id) cap *= 2;
        td_slice *texts = td_reallocarray(j->texts, cap, sizeof *texts);
        if (texts) j->texts = texts;
        int32_t *types = td_reallocarray(j->types, cap, sizeof *types);
        if (types) j->types = types;
        if (!texts || !types) return no_memory(s);
        memset(texts + j->cap_tokens, 0, (cap - j->cap_tokens) * sizeof *texts);
        j->cap_tokens = cap;
    }
    if (j->texts[id].data) {
        bool same = j->texts[id].n_bytes == text.n_bytes && memcmp(j->texts[id].data, text.data, text.n_bytes) == 0;
        if (!same) return json_scan_fail(s, "one text per token id");
    } else {
        j->texts[id] = text;
        if (id >= j->n_tokens) j->n_tokens = id + 1;
    }
    j->types[id] = type;
    return true;
}

static bool read_vocab(td_vocab_json *j, json_scan *s) {
    td_slice text;
    uint32_t id = 0;
    for (bool first = json_scan_open(s, '{'); json_scan_member(s, &first, &text);) {
        if (!json_scan_u32(s, &id)) return false;
        bool byte = text.n_bytes == 6 && memcmp(text.data, "<0x", 3) == 0 && text.data[5] == '>';
        /* An added token was put there before: its type stays. */
        bool known = id < j->cap_tokens && j->texts[id].data;
        int type = known ? j->types[id] : byte ? TD_TOKEN_TYPE_BYTE : TD_TOKEN_TYPE_NORMAL;
        if (!put_text(j, s, id, text, type)) return false;
    }
    return !json_scan_failed(s);
}

static bool put_part(td_vocab_json *j, json_scan *s, td_slice part) {
    if (j->n_parts == j->cap_parts) {
        uint64_t cap = j->cap_parts ? j->cap_parts * 2 : 8192;
        td_slice *parts = td_reallocarray(j->parts, cap, sizeof *parts);
        if (!parts) return no_memory(s);
        j->parts = parts;
        j->cap_parts = cap;
    }
    j->parts[j->n_parts++] = part;
    return true;
}

static bool read_merges(td_vocab_json *j, json_scan *s) {
    td_slice part;
    for (bool first = json_scan_open(s, '['); json_scan_element(s, &first);) {
        int count = json_scan_peek(s) == '[' ? 2 : 1, n = 0;
        if (j->part_count && j->part_count != count) return json_scan_fail(s, "merges of one form");
        j->part_count = count;
        if (count == 1) {
            if (!json_scan_string(s, &part) || !put_part(j, s, part)) return false;
            continue;
        }
        for (bool inner = json_scan_open(s, '['); json_scan_element(s, &inner); n++)
            if (!json_scan_string(s, &part) || !put_part(j, s, part)) return false;
        if (n != 2) return json_scan_fail(s, "merges of two texts");
    }
    return !json_scan_failed(s);
}

static bool read_model(td_vocab_json *j, json_scan *s) {
    td_slice key, text;
    for (bool first = json_scan_open(s, '{'); json_scan_member(s, &first, &key);) {
        bool ok;
        if (td_slice_is(key, "vocab")) {
            ok = json_scan_peek(s) == '{' ? read_vocab(j, s) : json_scan_fail(s, "a BPE vocabulary");
        } else if (td_slice_is(key, "merges")) {
            ok = read_merges(j, s);
        } else if (td_slice_is(key, "type")) {
            ok = json_scan_string(s, &text);
            j->bpe = td_slice_is(text, "BPE");
        } else if (td_slice_is(key, "byte_fallback")) {
            ok = json_scan_bool(s, &j->fallback);
        } else if (td_slice_is(key, "ignore_merges")) {
            ok = json_scan_bool(s, &j->ignore_merges);
        } else {
            ok = json_scan_skip(s, NULL);
        }
        if (!ok) return false;
    }
    return !json_scan_failed(s);
}

/* The type that the GGUF converter gives an added token: the seven that must stay visible are user-defined. */
static int added_type(td_slice text, bool special) {
    static const char *const visible[] = {"<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
                                          "<|\"|>",       "<|channel>",   "<channel|>"};
    for (size_t i = 0; i < sizeof visible / sizeof *visible; i++)
        if (td_slice_is(text, visible[i])) return TD_TOKEN_TYPE_USER_DEFINED;
    return special ? TD_TOKEN_TYPE_CONTROL : TD_TOKEN_TYPE_USER_DEFINED;
}

static bool read_added(td_vocab_json *j, json_scan *s) {
    for (bool first = json_scan_open(s, '['); json_scan_element(s, &first);) {
        td_slice key, text = {0};
        uint32_t id = UINT32_MAX;
        bool special = false;
        for (bool inner = json_scan_open(s, '{'); json_scan_member(s, &inner, &key);) {
            bool ok = td_slice_is(key, "id")        ? json_scan_u32(s, &id)
                      : td_slice_is(key, "content") ? json_scan_string(s, &text)
                      : td_slice_is(key, "special") ? json_scan_bool(s, &special)
                                                    : json_scan_skip(s, NULL);
            if (!ok) return false;
        }
        if (json_scan_failed(s)) return false;
        if (!text.data || id == UINT32_MAX) return json_scan_fail(s, "added tokens with id and content");
        if (!put_text(j, s, id, text, added_type(text, special))) return false;
    }
    return !json_scan_failed(s);
}

static bool read_file(td_vocab_json *j, json_scan *s) {
    td_slice key, raw;
    for (bool first = json_scan_open(s, '{'); json_scan_member(s, &first, &key);) {
        bool ok;
        if (td_slice_is(key, "model")) {
            ok = json_scan_peek(s) == '{' ? read_model(j, s) : json_scan_fail(s, "a model");
        } else if (td_slice_is(key, "added_tokens")) {
            ok = read_added(j, s);
        } else if (td_slice_is(key, "normalizer")) {
            ok = json_scan_skip(s, &raw); /* the rule of a space becoming U+2581 is what matters */
            for (size_t i = 0; ok && i + 3 <= raw.n_bytes; i++)
                j->marks |= memcmp(raw.data + i, "\xE2\x96\x81", 3) == 0 ||
                            (i + 6 <= raw.n_bytes && memcmp(raw.data + i, "\\u2581", 6) == 0);
        } else {
            ok = json_scan_skip(s, NULL);
        }
        if (!ok) return false;
    }
    return json_scan_end(s);
}

static uint32_t find_text(const td_vocab_json *j, const char *text) {
    for (uint32_t id = 0; id < j->n_tokens; id++)
        if (td_slice_is(j->texts[id], text)) return id;
    return TD_TOKEN_NONE;
}

static td_status check(td_vocab_json *j, td_error *err) {
    if (!j->bpe || !j->fallback || j->ignore_merges || !j->marks)
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "tokenizer.json: not a Gemma 4 tokenizer (BPE with byte fallback, spaces as U+2581)");
    for (uint32_t id = 0; id < j->n_tokens; id++)
        if (!j->texts[id].data)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tokenizer.json: no token has the id %u", id);
    td_vocab_source *s = &j->source;
    s->n_tokens = j->n_tokens;
    s->texts = j->texts;
    s->types = j->types;
    s->n_merges = j->part_count ? j->n_parts / (uint64_t)j->part_count : 0;
    if (j->part_count == 2)
        s->pairs = j->parts;
    else
        s->merges = j->parts;
    s->bos = find_text(j, "<bos>");
    s->eos = find_text(j, "<eos>");
    s->unk = find_text(j, "<unk>");
    s->pad = find_text(j, "<pad>");
    s->mask = find_text(j, "<mask>");
    return TD_OK;
}

td_status td_vocab_json_parse(td_vocab_json **out, const char *data, size_t n_bytes, td_error *err) {
    td_error own = {0};
    *out = NULL;
    td_vocab_json *j = td_calloc(1, sizeof *j);
    if (j) j->strings = td_arena_create(0);
    if (!j || !j->strings) {
        free(j);
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
    }
    td_vocab_source_init(&j->source);
    j->max_id = n_bytes / 4 < UINT32_MAX ? (uint32_t)(n_bytes / 4) : UINT32_MAX - 1; /* `"a":1,` per entry */
    json_scan s = json_scan_make(data, n_bytes, "tokenizer.json", j->strings, &own);
    td_status st = read_file(j, &s) ? check(j, &own) : own.code;
    if (st) {
        td_vocab_json_free(j);
        return td_fail(err, st, own.offset, "%s", own.text);
    }
    *out = j;
    return TD_OK;
}

const td_vocab_source *td_vocab_json_source(const td_vocab_json *j) {
    return &j->source;
}

void td_vocab_json_free(td_vocab_json *j) {
    if (!j) return;
    td_arena_destroy(j->strings);
    free(j->texts);
    free(j->types);
    free(j->parts);
    free(j);
}
