/* Text to ids: special tokens first, then BPE by merge rank on what lies between them (spec A.6), and back.
 *
 * Speed comes from cutting: between two characters that stand next to each other in no merge result, no merge can
 * happen, so the text is cut there and each segment is tokenised alone, with the same result as the whole (test
 * `cuts_change_nothing`). For English the segments are words, and most words are one token that is found by one
 * look-up. The rest runs through a linked list of symbols and a heap of pairs, n log n for any input. */
#include "tokenizer.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "vocab_impl.h"

#include <stdlib.h>

#define NONE UINT32_MAX

typedef struct symbol {
    uint32_t id;           /* NONE: no token of this character; never merges */
    uint32_t rank, result; /* of the merge with the next symbol; rank NONE: there is none, or this symbol is gone */
    uint32_t prev, next;   /* NONE at the ends */
    uint32_t at;           /* byte offset in the segment */
} symbol;

typedef struct bpe { /* memory of one call, grown as the longest segment asks */
    const td_vocab *vocab;
    td_tokens *out;
    td_buf segment; /* normalised bytes of the segment being collected */
    symbol *symbols;
    uint64_t *heap; /* rank << 32 | index of the left symbol: lowest rank first, then leftmost */
    size_t n_heap, cap;
    bool failed;
} bpe;

bool td_tokens_reserve(td_tokens *t, size_t n_more) {
    size_t need = 0;
    if (!td_add_size(t->n, n_more, &need)) return false;
    if (need <= t->cap) return true;
    size_t cap = t->cap < 32 ? 32 : t->cap;
    while (cap < need)
        if (!td_mul_size(cap, 2, &cap)) return false;
    uint32_t *ids = td_reallocarray(t->ids, cap, sizeof *ids);
    if (!ids) return false;
    t->ids = ids;
    t->cap = cap;
    return true;
}

bool td_tokens_add(td_tokens *t, uint32_t id) {
    if (t->n == t->cap && !td_tokens_reserve(t, 1)) return false;
    t->ids[t->n++] = id;
    return true;
}

void td_tokens_free(td_tokens *t) {
    free(t->ids);
    memset(t, 0, sizeof *t);
}

/* ---- BPE of one segment ------------------------------------------------------------------------------------------ */

static void heap_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t key = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
}

static void heap_push(bpe *b, uint64_t key) {
    size_t i = b->n_heap++;
    while (i > 0 && b->heap[(i - 1) / 2] > key) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = key;
}

static uint64_t heap_pop(bpe *b) {
    uint64_t key = b->heap[0];
    b->heap[0] = b->heap[--b->n_heap];
    if (b->n_heap) heap_down(b->heap, b->n_heap, 0);
    return key;
}

/* Looks up the merge of symbol i with its right neighbour and notes it; true when there is one. */
static bool note_pair(bpe *b, uint32_t i) {
    symbol *s = &b->symbols[i];
    s->rank = NONE;
    if (s->next == NONE || s->id == NONE || b->symbols[s->next].id == NONE) return false;
    const vocab_pair *p = vocab_find_pair(b->vocab, s->id, b->symbols[s->next].id);
    if (!p) return false;
    s->rank = p->rank;
    s->result = p->result;
    return true;
}

static bool reserve_symbols(bpe *b, size_t n) {
    if (n <= b->cap) return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < n) cap *= 2; /* n is at most 1 GiB */
    symbol *symbols = td_reallocarray(b->symbols, cap, sizeof *symbols);
    if (symbols) b->symbols = symbols;
    /* n - 1 pairs at the start; each of at most n - 1 merges takes one out and puts at most two in. */
    uint64_t *heap = td_reallocarray(b->heap, cap, 2 * sizeof *heap);
    if (heap) b->heap = heap;
    if (!symbols || !heap) return false;
    b->cap = cap;
    return true;
}

static size_t split_symbols(bpe *b, const char *text, size_t n_bytes) {
    size_t n = 0;
    uint32_t cp = 0;
    for (size_t at = 0; at < n_bytes; n++) {
        int length = td_utf8_next(text + at, n_bytes - at, &cp); /* always well-formed here */
        uint32_t i = (uint32_t)n;
        b->symbols[n] = (symbol){vocab_char(b->vocab, cp), NONE, NONE, i - 1, i + 1, (uint32_t)at};
        at += (size_t)length;
    }
    b->symbols[0].prev = NONE;
    b->symbols[n - 1].next = NONE;
    return n;
}

static void merge_all(bpe *b, size_t n) {
    b->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        if (note_pair(b, (uint32_t)i)) b->heap[b->n_heap++] = (uint64_t)b->symbols[i].rank << 32 | i;
    for (size_t i = b->n_heap / 2; i-- > 0;) heap_down(b->heap, b->n_heap, i);
    while (b->n_heap) {
        uint64_t key = heap_pop(b);
        uint32_t i = (uint32_t)key;
        symbol *s = &b->symbols[i];
        if (s->rank != (uint32_t)(key >> 32)) continue; /* merged away or changed since */
        symbol *gone = &b->symbols[s->next];
        s->id = s->result;
        s->next = gone->next;
        gone->rank = NONE;
        if (s->next != NONE) b->symbols[s->next].prev = i;
        if (note_pair(b, i)) heap_push(b, (uint64_t)s->rank << 32 | i);
        if (s->prev != NONE && note_pair(b, s->prev)) heap_push(b, (uint64_t)b->symbols[s->prev].rank << 32 | s->prev);
    }
}

static void emit_bytes(bpe *b, const char *text, size_t n_bytes) {
    uint32_t cp = 0;
    int n = td_utf8_next(text, n_bytes, &cp);
    for (int i = 0; i < n; i++)
        if (!td_tokens_add(b->out, b->vocab->byte_ids[(uint8_t)text[i]])) b->failed = true;
}

/* Tokenises the collected segment alone and empties it. */
static void flush_segment(bpe *b) {
    const td_vocab *v = b->vocab;
    const char *text = b->segment.data;
    size_t n_bytes = b->segment.n_bytes;
    if (!n_bytes) return;
    b->segment.n_bytes = 0;
    uint32_t whole = td_vocab_find(v, text, n_bytes);
    int self = SELF_NO;
    if (whole != NONE) {
        /* A run of newlines that is an entry is that token (spec A.6 step 2.4). */
        bool plain = (v->flags[whole] & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_BYTE)) == 0;
        self = text[0] == '\n' && plain ? SELF_YES : atomic_load_explicit(&v->self[whole], memory_order_relaxed);
        if (self == SELF_YES) {
            if (!td_tokens_add(b->out, whole)) b->failed = true;
            return;
        }
    }
    size_t n_chars = 0;
    for (size_t i = 0; i < n_bytes; i++) n_chars += ((uint8_t)text[i] & 0xC0) != 0x80;
    if (!reserve_symbols(b, n_chars)) {
        b->failed = true;
        return;
    }
    size_t n = split_symbols(b, text, n_bytes), first = b->out->n;
    merge_all(b, n);
    for (uint32_t i = 0; i != NONE; i = b->symbols[i].next) {
        const symbol *s = &b->symbols[i];
        if (s->id == NONE)
            emit_bytes(b, text + s->at, n_bytes - s->at);
        else if (!td_tokens_add(b->out, s->id))
            b->failed = true;
    }
    if (whole != NONE && self == SELF_UNKNOWN && !b->failed) {
        bool same = b->out->n == first + 1 && b->out->ids[first] == whole;
        atomic_store_explicit(&v->self[whole], same ? SELF_YES : SELF_NO, memory_order_relaxed);
    }
}

/* One piece of text without special tokens: normalised, cut, tokenised. */
static void tokenize_piece(bpe *b, const char *text, size_t n_bytes) {
    uint32_t last = 0, cp = 0;
    for (size_t i = 0; i < n_bytes && !b->failed;) {
        const char *from = text + i;
        int n = td_utf8_next(from, n_bytes - i, &cp), n_from = n;
        if (n <= 0) { /* ill-formed: this one byte becomes U+FFFD */
            n = 1;
            from = "\xEF\xBF\xBD";
            n_from = 3;
            cp = 0xFFFD;
        } else if (cp == ' ') {
            from = "\xE2\x96\x81";
            n_from = 3;
            cp = 0x2581;
        }
        i += (size_t)n;
        bool newline = cp == '\n';
        if ((last == '\n') != newline || (!newline && !vocab_joins(b->vocab, last, cp))) flush_segment(b);
        if (!td_buf_add(&b->segment, from, (size_t)n_from)) b->failed = true;
        last = cp;
    }
    flush_segment(b);
}

/* ---- special tokens ---------------------------------------------------------------------------------------------- */

/* The longest special text that begins at `s` and may be matched; by_text is narrowed byte by byte. */
static uint32_t match_special(const td_vocab *v, const char *s, size_t n_bytes, uint32_t refused) {
    uint32_t lo = 0, hi = v->n_specials, best = NONE;
    for (size_t depth = 0; depth < n_bytes && lo < hi; depth++) {
        uint8_t c = (uint8_t)s[depth];
        uint32_t bounds[2]; /* first entry whose byte here is >= c, then first > c; entries that end here come first */
        for (int upper = 0; upper < 2; upper++) {
            uint32_t a = upper ? bounds[0] : lo, b = hi;
            while (a < b) {
                uint32_t mid = a + (b - a) / 2;
                td_slice t = td_vocab_text(v, v->by_text[mid]);
                int x = depth < t.n_bytes ? (uint8_t)t.data[depth] : -1;
                if (upper ? x > c : x >= c)
                    b = mid;
                else
                    a = mid + 1;
            }
            bounds[upper] = a;
        }
        lo = bounds[0];
        hi = bounds[1];
        if (lo < hi && td_vocab_text(v, v->by_text[lo]).n_bytes == depth + 1) {
            if (!(v->flags[v->by_text[lo]] & refused)) best = v->by_text[lo];
        }
    }
    return best;
}

static size_t next_lead(const td_vocab *v, const char *text, size_t i, size_t n_bytes) {
    if (v->special_lead >= 0) {
        const char *p = memchr(text + i, v->special_lead, n_bytes - i);
        return p ? (size_t)(p - text) : n_bytes;
    }
    while (i < n_bytes && !v->special_first[(uint8_t)text[i]]) i++;
    return i;
}

static void tokenize_parts(bpe *b, const char *text, size_t n_bytes, td_special_mode mode) {
    const td_vocab *v = b->vocab;
    uint32_t refused = mode == TD_SPECIAL_ALL ? 0 : TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN;
    size_t from = 0, i = 0;
    if (mode == TD_SPECIAL_NONE || !v->n_specials) i = n_bytes;
    while (i < n_bytes && !b->failed) {
        i = next_lead(v, text, i, n_bytes);
        if (i == n_bytes) break;
        uint32_t id = match_special(v, text + i, n_bytes - i, refused);
        if (id == NONE) {
            i++;
            continue;
        }
        tokenize_piece(b, text + from, i - from);
        if (!td_tokens_add(b->out, id)) b->failed = true;
        i += td_vocab_text(v, id).n_bytes;
        from = i;
    }
    tokenize_piece(b, text + from, n_bytes - from);
}

td_status td_vocab_tokenize(const td_vocab *v, const char *text, size_t n_bytes, td_special_mode special, bool add_bos,
                            td_tokens *out, td_error *err) {
    if (n_bytes > 1u << 30)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "text of %zu bytes, at most 1 GiB", n_bytes);
    size_t before = out->n;
    bpe b = {.vocab = v, .out = out};
    if (add_bos && v->bos != TD_TOKEN_NONE && !td_tokens_add(out, v->bos)) b.failed = true;
    if (n_bytes) tokenize_parts(&b, text, n_bytes, special);
    if (add_bos && v->add_eos && v->eos != TD_TOKEN_NONE && !td_tokens_add(out, v->eos)) b.failed = true;
    td_buf_free(&b.segment);
    free(b.symbols);
    free(b.heap);
    if (!b.failed) return TD_OK;
    out->n = before;
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory to tokenise %zu bytes", n_bytes);
}

/* ---- back to text ------------------------------------------------------------------------------------------------ */

td_status td_vocab_detokenize(const td_vocab *v, const uint32_t *ids, size_t n, bool special, td_buf *out,
                              td_error *err) {
    size_t before = out->n_bytes;
    for (size_t i = 0; i < n; i++) {
        td_slice p = td_vocab_piece(v, ids[i], special);
        bool inside = ids[i] < v->n_tokens;
        if (inside && td_buf_add(out, p.data, p.n_bytes)) continue;
        out->n_bytes = before;
        if (out->data) out->data[before] = 0;
        if (inside) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the text of %zu tokens", n);
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "token id %u is outside the vocabulary of %u", ids[i],
                       v->n_tokens);
    }
    return TD_OK;
}

void td_detok_init(td_detok *d, const td_vocab *v, bool special) {
    memset(d, 0, sizeof *d);
    d->vocab = v;
    d->special = special;
}

size_t td_detok_max(const td_vocab *v) {
    return 3 * ((size_t)v->max_piece + 1);
}

bool td_detok_push(td_detok *d, uint32_t id, td_buf *out) {
    td_slice p = td_vocab_piece(d->vocab, id, d->special);
    if (!td_buf_reserve(out, 3 * (p.n_bytes + 1))) return false;
    out->n_bytes += td_utf8_stream_push(&d->utf8, p.data, p.n_bytes, out->data + out->n_bytes);
    out->data[out->n_bytes] = 0;
    return true;
}

bool td_detok_finish(td_detok *d, td_buf *out) {
    if (!td_buf_reserve(out, 3)) return false;
    out->n_bytes += td_utf8_stream_finish(&d->utf8, out->data + out->n_bytes);
    out->data[out->n_bytes] = 0;
    return true;
}
