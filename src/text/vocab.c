/* Building the vocabulary: every fact that the tokenizer relies on is checked here, once, and laid out for look-ups.
 *
 * Why the hash functions are keyed: texts and merges come from a file, and a file that chose its collisions could make
 * loading quadratic. Why some merges are refused: BPE must never produce a control or byte token, so that text from
 * outside stays inert by construction and decodes to itself. */
#include "vocab.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"
#include "../base/status.h"
#include "token_trie.h"
#include "utf8.h"
#include "vocab_impl.h"

#include <stdlib.h>
#include <sys/random.h>

#define SPACE_MARK "\xE2\x96\x81"

void td_vocab_source_init(td_vocab_source *s) {
    memset(s, 0, sizeof *s);
    s->bos = s->eos = s->eot = s->eom = s->unk = s->pad = s->mask = TD_TOKEN_NONE;
}

void td_vocab_destroy(td_vocab *v) {
    if (!v) return;
    free(v->texts);
    free(v->pieces);
    free(v->text_at);
    free(v->piece_at);
    free(v->flags);
    free(v->slots);
    free(v->pairs);
    free(v->char_ids);
    free(v->joins);
    free(v->self);
    free(v->specials);
    free(v->by_text);
    free(v->ends);
    free(v->suppressed);
    td_token_trie_free(atomic_load(&v->trie));
    free(v);
}

static uint32_t power_of_two(uint64_t n, uint32_t least) {
    uint32_t p = least;
    while (p < n && p < 1u << 31) p <<= 1;
    return p;
}

static td_status no_memory(td_error *err) {
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the vocabulary");
}

/* A token text for messages: printable ASCII, cut. */
static const char *shown(td_slice t, char out[48]) {
    size_t n = t.n_bytes < 40 ? t.n_bytes : 40;
    for (size_t i = 0; i < n; i++) {
        char c = t.data[i];
        out[i] = (char)(c >= 0x20 && c < 0x7F ? c : '.');
    }
    memcpy(out + n, n < t.n_bytes ? "..." : "", n < t.n_bytes ? 4 : 1);
    return out;
}

/* ---- texts ------------------------------------------------------------------------------------------------------ */

static td_status copy_texts(td_vocab *v, const td_vocab_source *s, td_error *err) {
    uint64_t total = 0;
    char t[48];
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        td_slice x = s->texts[i];
        if (x.n_bytes == 0 || x.n_bytes > TD_VOCAB_MAX_TEXT)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "token %u has %zu bytes of text, expected 1..%d", i,
                           x.n_bytes, TD_VOCAB_MAX_TEXT);
        if (!td_utf8_valid(x.data, x.n_bytes))
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "token %u: \"%s\" is not UTF-8", i, shown(x, t));
        total += x.n_bytes;
    }
    if (total > 1u << 30)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "token texts of %llu bytes in all, at most 1 GiB",
                       (unsigned long long)total);
    v->texts = td_calloc((size_t)total + 8, 1);
    v->text_at = td_calloc((size_t)s->n_tokens + 1, sizeof *v->text_at);
    v->flags = td_calloc((size_t)s->n_tokens + 1, 1);
    v->self = td_calloc((size_t)s->n_tokens + 1, sizeof *v->self);
    if (!v->texts || !v->text_at || !v->flags || !v->self) return no_memory(err);
    uint32_t at = 0;
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        td_slice x = s->texts[i];
        memcpy(v->texts + at, x.data, x.n_bytes);
        v->text_at[i] = at;
        at += (uint32_t)x.n_bytes;
        if (x.n_bytes > v->max_text) v->max_text = (uint32_t)x.n_bytes;
    }
    v->text_at[s->n_tokens] = at;
    v->n_tokens = s->n_tokens;
    return TD_OK;
}

static td_status index_texts(td_vocab *v, td_error *err) {
    uint32_t size = power_of_two((uint64_t)v->n_tokens * 2, 16);
    v->slots = td_reallocarray(NULL, size, sizeof *v->slots);
    if (!v->slots) return no_memory(err);
    memset(v->slots, 0xFF, (size_t)size * sizeof *v->slots);
    v->slot_mask = size - 1;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        td_slice t = td_vocab_text(v, id);
        uint64_t h = vocab_hash(v, t.data, t.n_bytes);
        uint32_t i = (uint32_t)h & v->slot_mask, tag = (uint32_t)(h >> 32);
        for (; v->slots[i].id != TD_TOKEN_NONE; i = (i + 1) & v->slot_mask) {
            if (v->slots[i].hash != tag) continue;
            td_slice o = td_vocab_text(v, v->slots[i].id);
            char buf[48];
            if (o.n_bytes == t.n_bytes && memcmp(o.data, t.data, t.n_bytes) == 0)
                return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "tokens %u and %u have the same text \"%s\"",
                               v->slots[i].id, id, shown(t, buf));
        }
        v->slots[i] = (vocab_slot){tag, id};
    }
    return TD_OK;
}

static uint32_t find(const td_vocab *v, const char *text, size_t n_bytes) {
    uint64_t h = vocab_hash(v, text, n_bytes);
    uint32_t i = (uint32_t)h & v->slot_mask, tag = (uint32_t)(h >> 32);
    for (; v->slots[i].id != TD_TOKEN_NONE; i = (i + 1) & v->slot_mask) {
        uint32_t id = v->slots[i].id;
        if (v->slots[i].hash != tag || v->text_at[id + 1] - v->text_at[id] != n_bytes) continue;
        if (memcmp(v->texts + v->text_at[id], text, n_bytes) == 0) return id;
    }
    return TD_TOKEN_NONE;
}

static td_status index_bytes(td_vocab *v, td_error *err) {
    for (uint32_t b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char t[7] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>', 0};
        v->byte_ids[b] = find(v, t, 6);
        if (v->byte_ids[b] == TD_TOKEN_NONE)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "the vocabulary has no byte token %s", t);
    }
    return TD_OK;
}

/* Gemma 4's special texts (spec A.3); the second list is shown in the output and matched in every mode but one. */
static const char *const control_texts[] = {"<pad>",     "<eos>",     "<bos>",    "<unk>",    "<mask>",   "<|tool>",
                                            "<tool|>",   "<|think|>", "<|turn>",  "<turn|>",  "<|image>", "<|audio>",
                                            "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>"};
static const char *const user_texts[] = {"<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
                                         "<|\"|>",       "<|channel>",   "<channel|>"};

static void guess_flags(td_vocab *v) {
    memset(v->flags, TD_TOKEN_NORMAL, v->n_tokens);
    for (size_t i = 0; i < sizeof control_texts / sizeof *control_texts; i++) {
        uint32_t id = td_vocab_find_str(v, control_texts[i]);
        if (id != TD_TOKEN_NONE) v->flags[id] = TD_TOKEN_CONTROL;
    }
    for (size_t i = 0; i < sizeof user_texts / sizeof *user_texts; i++) {
        uint32_t id = td_vocab_find_str(v, user_texts[i]);
        if (id != TD_TOKEN_NONE) v->flags[id] = TD_TOKEN_USER_DEFINED;
    }
    for (int b = 0; b < 256; b++) v->flags[v->byte_ids[b]] = TD_TOKEN_BYTE;
}

static td_status keep_ids(uint32_t **out, uint32_t *n_out, const td_vocab *v, uint32_t mask, td_error *err) {
    uint32_t n = 0;
    for (uint32_t id = 0; id < v->n_tokens; id++) n += (v->flags[id] & mask) != 0;
    *out = td_calloc((size_t)n + 1, sizeof **out);
    if (!*out) return no_memory(err);
    for (uint32_t id = 0; id < v->n_tokens; id++)
        if (v->flags[id] & mask) (*out)[(*n_out)++] = id;
    return TD_OK;
}

/* Flags from the types, then the overrides of spec A.5-7: the end tokens and control flag of Gemma 4's own texts. */
static td_status set_flags(td_vocab *v, const td_vocab_source *s, td_error *err) {
    if (!s->types) guess_flags(v);
    for (uint32_t id = 0; s->types && id < v->n_tokens; id++) {
        switch (s->types[id]) {
        case TD_TOKEN_TYPE_NORMAL:
            v->flags[id] = TD_TOKEN_NORMAL;
            break;
        case TD_TOKEN_TYPE_UNKNOWN:
            v->flags[id] = TD_TOKEN_UNKNOWN;
            break;
        case TD_TOKEN_TYPE_CONTROL:
            v->flags[id] = TD_TOKEN_CONTROL;
            break;
        case TD_TOKEN_TYPE_USER_DEFINED:
            v->flags[id] = TD_TOKEN_USER_DEFINED;
            break;
        case TD_TOKEN_TYPE_BYTE:
            v->flags[id] = TD_TOKEN_BYTE;
            break;
        default:
            v->flags[id] = 0;
            break; /* undefined, unused: no text */
        }
    }
    uint32_t n_bytes = 0;
    for (int b = 0; b < 256; b++) v->flags[v->byte_ids[b]] = TD_TOKEN_BYTE;
    for (uint32_t id = 0; id < v->n_tokens; id++) n_bytes += (v->flags[id] & TD_TOKEN_BYTE) != 0;
    if (n_bytes != 256)
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "%u tokens have the type of a byte, expected <0x00>..<0xFF>",
                       n_bytes);
    static const char *const end_texts[] = {"<eos>", "<turn|>", "<|tool_response>"};
    uint32_t ends[6] = {s->eos, s->eot, s->eom, TD_TOKEN_NONE, TD_TOKEN_NONE, TD_TOKEN_NONE};
    for (int i = 0; i < 3; i++) ends[3 + i] = td_vocab_find_str(v, end_texts[i]);
    for (int i = 0; i < 6; i++) {
        if (ends[i] >= v->n_tokens) continue;
        v->flags[ends[i]] &= (uint8_t)~TD_TOKEN_NORMAL;
        v->flags[ends[i]] |= TD_TOKEN_CONTROL | TD_TOKEN_END;
    }
    td_status st = keep_ids(&v->ends, &v->n_ends, v, TD_TOKEN_END, err);
    if (st) return st;
    return keep_ids(&v->specials, &v->n_specials, v, TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_USER_DEFINED, err);
}

/* ---- pieces ----------------------------------------------------------------------------------------------------- */

static uint32_t render(const td_vocab *v, uint32_t id, char *out) {
    td_slice t = td_vocab_text(v, id);
    uint32_t flags = v->flags[id], n = 0;
    if (flags & TD_TOKEN_BYTE) {
        unsigned hi = (uint8_t)t.data[3], lo = (uint8_t)t.data[4];
        *out = (char)((hi <= '9' ? hi - '0' : hi - 'A' + 10) << 4 | (lo <= '9' ? lo - '0' : lo - 'A' + 10));
        return 1;
    }
    if (flags & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_USER_DEFINED)) {
        memcpy(out, t.data, t.n_bytes);
        return (uint32_t)t.n_bytes;
    }
    if (!(flags & TD_TOKEN_NORMAL)) return 0;
    for (size_t i = 0; i < t.n_bytes; i++) {
        bool mark = t.n_bytes - i >= 3 && memcmp(t.data + i, SPACE_MARK, 3) == 0;
        out[n++] = mark ? ' ' : t.data[i];
        if (mark) i += 2;
    }
    return n;
}

static td_status render_pieces(td_vocab *v, td_error *err) {
    v->pieces = td_calloc((size_t)v->text_at[v->n_tokens] + 8, 1); /* a piece is never longer than its text */
    v->piece_at = td_calloc((size_t)v->n_tokens + 1, sizeof *v->piece_at);
    if (!v->pieces || !v->piece_at) return no_memory(err);
    uint32_t at = 0;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        uint32_t n = render(v, id, v->pieces + at);
        v->piece_at[id] = at;
        at += n;
        if (n > v->max_piece) v->max_piece = n;
    }
    v->piece_at[v->n_tokens] = at;
    return TD_OK;
}

/* ---- characters ------------------------------------------------------------------------------------------------- */

/* The code point of a token of exactly one character that text may turn into; -1 otherwise. */
static int32_t single_char(const td_vocab *v, uint32_t id) {
    td_slice t = td_vocab_text(v, id);
    uint32_t cp = 0;
    if (v->flags[id] & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_BYTE)) return -1;
    if (t.n_bytes > 4 || td_utf8_next(t.data, t.n_bytes, &cp) != (int)t.n_bytes) return -1;
    return (int32_t)cp;
}

static td_status index_chars(td_vocab *v, td_error *err) {
    uint32_t n_pages = 1;
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        int32_t cp = single_char(v, id);
        if (cp >= 0 && v->char_page[cp >> 8] == 0) v->char_page[cp >> 8] = (uint16_t)n_pages++;
    }
    v->char_ids = td_reallocarray(NULL, (size_t)n_pages * 256, sizeof *v->char_ids);
    if (!v->char_ids) return no_memory(err);
    memset(v->char_ids, 0xFF, (size_t)n_pages * 256 * sizeof *v->char_ids);
    for (uint32_t id = 0; id < v->n_tokens; id++) {
        int32_t cp = single_char(v, id);
        if (cp >= 0) v->char_ids[(uint32_t)v->char_page[cp >> 8] << 8 | ((uint32_t)cp & 0xFF)] = id;
    }
    return TD_OK;
}

/* ---- merges ----------------------------------------------------------------------------------------------------- */

static td_status add_merge(td_vocab *v, uint64_t rank, uint32_t left, uint32_t right, uint32_t result, td_error *err) {
    if (v->flags[result] & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_BYTE))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "merge %llu makes token %u, which is control or byte token",
                       (unsigned long long)rank, result);
    uint32_t i = (uint32_t)vocab_hash_pair(v, left, right) & v->pair_mask;
    for (; v->pairs[i].rank != UINT32_MAX; i = (i + 1) & v->pair_mask)
        if (v->pairs[i].left == left && v->pairs[i].right == right) return TD_OK; /* the first of a pair counts */
    v->pairs[i] = (vocab_pair){left, right, (uint32_t)rank, result};
    v->n_merges++;
    return TD_OK;
}

/* Left and right part of merge `rank`: two given slices, or one text cut at the first space that is not its start. */
static bool merge_parts(const td_vocab_source *s, uint64_t rank, td_slice *left, td_slice *right) {
    if (s->pairs) {
        *left = s->pairs[rank * 2];
        *right = s->pairs[rank * 2 + 1];
        return left->n_bytes && right->n_bytes;
    }
    td_slice m = s->merges[rank];
    const char *space = m.n_bytes > 2 ? memchr(m.data + 1, ' ', m.n_bytes - 1) : NULL;
    if (!space || space + 1 == m.data + m.n_bytes) return false;
    *left = (td_slice){m.data, (size_t)(space - m.data)};
    *right = (td_slice){space + 1, m.n_bytes - left->n_bytes - 1};
    return true;
}

/* A merge one of whose three texts is no token cannot be used by id: it is dropped and counted (spec B). Official files
 * have none; generators of test models write such lists. */
static td_status resolve_merge(td_vocab *v, const td_vocab_source *s, uint64_t rank, uint64_t *n_dropped,
                               td_error *err) {
    td_slice part[2] = {{0}, {0}};
    char both[2 * TD_VOCAB_MAX_TEXT];
    if (!merge_parts(s, rank, &part[0], &part[1]))
        return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "merge %llu is not two texts with a space between",
                       (unsigned long long)rank);
    uint32_t id[2];
    for (int i = 0; i < 2; i++)
        id[i] = part[i].n_bytes <= v->max_text ? find(v, part[i].data, part[i].n_bytes) : TD_TOKEN_NONE;
    uint32_t result = TD_TOKEN_NONE;
    if (id[0] != TD_TOKEN_NONE && id[1] != TD_TOKEN_NONE && part[0].n_bytes + part[1].n_bytes <= v->max_text) {
        memcpy(both, part[0].data, part[0].n_bytes);
        memcpy(both + part[0].n_bytes, part[1].data, part[1].n_bytes);
        result = find(v, both, part[0].n_bytes + part[1].n_bytes);
    }
    if (result != TD_TOKEN_NONE) return add_merge(v, rank, id[0], id[1], result, err);
    ++*n_dropped;
    return TD_OK;
}

static td_status index_merges(td_vocab *v, const td_vocab_source *s, td_error *err) {
    uint32_t(*derived)[3] = NULL;
    uint64_t n = s->n_merges;
    bool derive = !s->merges && !s->pairs;
    if (derive && !s->derive_merges) return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "the vocabulary has no merges");
    if (derive) {
        td_status st = vocab_derive_merges(v, &derived, &n, err);
        if (st) return st;
    }
    td_status st = TD_OK;
    if (n > TD_VOCAB_MAX_MERGES)
        st = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "%llu merges, at most %u", (unsigned long long)n,
                     TD_VOCAB_MAX_MERGES);
    uint32_t size = power_of_two(n * 2, 16);
    v->pairs = st ? NULL : td_reallocarray(NULL, size, sizeof *v->pairs);
    if (!st && !v->pairs) st = no_memory(err);
    if (!st) memset(v->pairs, 0xFF, (size_t)size * sizeof *v->pairs);
    v->pair_mask = size - 1;
    uint64_t n_dropped = 0;
    for (uint64_t i = 0; !st && i < n; i++)
        st = derived ? add_merge(v, i, derived[i][0], derived[i][1], derived[i][2], err)
                     : resolve_merge(v, s, i, &n_dropped, err);
    free(derived);
    if (!st && n_dropped > 0)
        td_log(TD_LOG_WARN, "%llu of %llu merges name texts that are no tokens and are not used",
               (unsigned long long)n_dropped, (unsigned long long)n);
    return st;
}

/* Notes every two neighbouring characters inside a merge result, see vocab_joins. */
static td_status index_joins(td_vocab *v, td_error *err) {
    uint32_t n_bits = power_of_two(v->text_at[v->n_tokens], 1u << 10);
    if (n_bits > 1u << 23) n_bits = 1u << 23;
    v->joins = td_calloc(n_bits / 64, sizeof *v->joins);
    uint8_t *done = td_calloc((size_t)v->n_tokens + 1, 1);
    if (!v->joins || !done) {
        free(done);
        return no_memory(err);
    }
    v->join_mask = n_bits - 1;
    for (uint32_t i = 0; i <= v->pair_mask; i++) {
        if (v->pairs[i].rank == UINT32_MAX || done[v->pairs[i].result]) continue;
        done[v->pairs[i].result] = 1;
        td_slice t = td_vocab_text(v, v->pairs[i].result);
        uint32_t a = 0, b = 0;
        int n = td_utf8_next(t.data, t.n_bytes, &a);
        for (size_t at = (size_t)n; at < t.n_bytes; at += (size_t)n, a = b) {
            n = td_utf8_next(t.data + at, t.n_bytes - at, &b);
            uint32_t x = a == 0x2581 ? 0x20 : a, y = b == 0x2581 ? 0x20 : b;
            if ((x | y) < 128) {
                v->ascii_joins[(x << 7 | y) >> 3] |= (uint8_t)(1u << (y & 7));
            } else {
                uint32_t bit = vocab_join_bit(v, x, y);
                v->joins[bit >> 6] |= 1ull << (bit & 63);
            }
        }
    }
    free(done);
    return TD_OK;
}

/* ---- special tokens --------------------------------------------------------------------------------------------- */

static int compare_text(const td_vocab *v, uint32_t a, uint32_t b) {
    td_slice x = td_vocab_text(v, a), y = td_vocab_text(v, b);
    size_t n = x.n_bytes < y.n_bytes ? x.n_bytes : y.n_bytes;
    int c = memcmp(x.data, y.data, n);
    return c ? c : (x.n_bytes > y.n_bytes) - (x.n_bytes < y.n_bytes);
}

/* Heap sort: n log n whatever the file says, and no global for the vocabulary as qsort would need. */
static void sift_special(td_vocab *v, uint32_t i, uint32_t n) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && compare_text(v, v->by_text[child], v->by_text[child + 1]) < 0) child++;
        if (compare_text(v, v->by_text[i], v->by_text[child]) >= 0) return;
        uint32_t t = v->by_text[i];
        v->by_text[i] = v->by_text[child];
        v->by_text[child] = t;
        i = child;
    }
}

static td_status index_specials(td_vocab *v, td_error *err) {
    v->by_text = td_calloc((size_t)v->n_specials + 1, sizeof *v->by_text);
    if (!v->by_text) return no_memory(err);
    int n_leads = 0;
    v->special_lead = -1;
    for (uint32_t i = 0; i < v->n_specials; i++) {
        uint8_t lead = (uint8_t)td_vocab_text(v, v->specials[i]).data[0];
        v->by_text[i] = v->specials[i];
        if (!v->special_first[lead]) n_leads++;
        v->special_first[lead] = 1;
        v->special_lead = lead;
    }
    if (n_leads != 1) v->special_lead = -1;
    for (uint32_t i = v->n_specials / 2; i-- > 0;) sift_special(v, i, v->n_specials);
    for (uint32_t n = v->n_specials; n > 1; n--) {
        uint32_t t = v->by_text[0];
        v->by_text[0] = v->by_text[n - 1];
        v->by_text[n - 1] = t;
        sift_special(v, 0, n - 1);
    }
    return TD_OK;
}

static td_status keep_suppressed(td_vocab *v, const td_vocab_source *s, td_error *err) {
    v->suppressed = td_calloc((size_t)s->n_suppress + 1, sizeof *v->suppressed);
    if (!v->suppressed) return no_memory(err);
    for (uint32_t i = 0; i < s->n_suppress; i++)
        if (s->suppress[i] >= 0 && (uint32_t)s->suppress[i] < v->n_tokens)
            v->suppressed[v->n_suppressed++] = (uint32_t)s->suppress[i];
    return TD_OK;
}

/* ---- creation --------------------------------------------------------------------------------------------------- */

td_status td_vocab_create(td_vocab **out, const td_vocab_source *s, td_error *err) {
    *out = NULL;
    if (!s->texts || s->n_tokens == 0 || s->n_tokens > TD_VOCAB_MAX_TOKENS)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "a vocabulary of %u tokens, expected 256..%u", s->n_tokens,
                       TD_VOCAB_MAX_TOKENS);
    td_vocab *v = td_calloc(1, sizeof *v);
    if (!v) return no_memory(err);
    if (getrandom(v->seed, sizeof v->seed, GRND_NONBLOCK) != (ssize_t)sizeof v->seed) {
        v->seed[0] = (uint64_t)td_clock_ns() * 0x9E3779B97F4A7C15u;
        v->seed[1] = (uint64_t)(uintptr_t)v * 0xD1B54A32D192ED03u ^ v->seed[0] >> 7;
    }
    v->seed[1] |= 1;
    td_status st = copy_texts(v, s, err);
    if (!st) st = index_texts(v, err);
    if (!st) st = index_bytes(v, err);
    if (!st) st = set_flags(v, s, err);
    if (!st) st = render_pieces(v, err);
    if (!st) st = index_chars(v, err);
    if (!st) st = index_merges(v, s, err);
    if (!st) st = index_joins(v, err);
    if (!st) st = index_specials(v, err);
    if (!st) st = keep_suppressed(v, s, err);
    if (st) {
        td_vocab_destroy(v);
        return st;
    }
    v->bos = s->bos < v->n_tokens ? s->bos : TD_TOKEN_NONE;
    v->eos = s->eos < v->n_tokens ? s->eos : TD_TOKEN_NONE;
    v->add_eos = s->add_eos;
    *out = v;
    return TD_OK;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

uint32_t td_vocab_size(const td_vocab *v) {
    return v->n_tokens;
}

uint64_t td_vocab_n_merges(const td_vocab *v) {
    return v->n_merges;
}

uint32_t td_vocab_max_text(const td_vocab *v) {
    return v->max_text;
}

td_slice td_vocab_text(const td_vocab *v, uint32_t id) {
    if (id >= v->n_tokens) return (td_slice){"", 0};
    return (td_slice){v->texts + v->text_at[id], v->text_at[id + 1] - v->text_at[id]};
}

uint32_t td_vocab_flags(const td_vocab *v, uint32_t id) {
    return id < v->n_tokens ? v->flags[id] : 0;
}

td_slice td_vocab_piece(const td_vocab *v, uint32_t id, bool special) {
    if (id >= v->n_tokens) return (td_slice){"", 0};
    if (!special && (v->flags[id] & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN))) return (td_slice){"", 0};
    return (td_slice){v->pieces + v->piece_at[id], v->piece_at[id + 1] - v->piece_at[id]};
}

uint32_t td_vocab_find(const td_vocab *v, const char *text, size_t n_bytes) {
    return n_bytes && n_bytes <= v->max_text ? find(v, text, n_bytes) : TD_TOKEN_NONE;
}

uint32_t td_vocab_find_str(const td_vocab *v, const char *text) {
    return td_vocab_find(v, text, strlen(text));
}

uint32_t td_vocab_special(const td_vocab *v, const char *text) {
    uint32_t id = td_vocab_find_str(v, text);
    return td_vocab_flags(v, id) & (TD_TOKEN_CONTROL | TD_TOKEN_USER_DEFINED) ? id : TD_TOKEN_NONE;
}

uint32_t td_vocab_byte(const td_vocab *v, uint8_t byte) {
    return v->byte_ids[byte];
}

bool td_vocab_is_end(const td_vocab *v, uint32_t id) {
    return (td_vocab_flags(v, id) & TD_TOKEN_END) != 0;
}

const uint32_t *td_vocab_ends(const td_vocab *v, uint32_t *n) {
    *n = v->n_ends;
    return v->ends;
}

const uint32_t *td_vocab_specials(const td_vocab *v, uint32_t *n) {
    *n = v->n_specials;
    return v->specials;
}

const uint32_t *td_vocab_suppressed(const td_vocab *v, uint32_t *n) {
    *n = v->n_suppressed;
    return v->suppressed;
}

uint32_t td_vocab_bos(const td_vocab *v) {
    return v->bos;
}

uint32_t td_vocab_eos(const td_vocab *v) {
    return v->eos;
}
