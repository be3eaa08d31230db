/* Grammars: the text up to the first NUL is GBNF, or a JSON schema when it begins with a brace; the bytes behind choose
 * tokens. Compilation ends with a status; a mask agrees with single questions; accepting agrees with asking. */
#include "text/grammar.h"
#include "tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok) {
    if (!ok) __builtin_trap();
}

static bool bit(const uint64_t *bits, uint32_t id) {
    return bits[id >> 6] >> (id & 63) & 1;
}

static void walk(td_grammar *g, const uint8_t *choices, size_t n) {
    const td_vocab *v = tiny_vocab();
    uint64_t bits[16] = {0};
    uint32_t forced[8], size = td_vocab_size(v);
    td_grammar_state *s = NULL, *copy = NULL;
    check(size > 0 && size <= 16 * 64 && td_grammar_state_create(&s, g, NULL) == TD_OK);
    for (size_t i = 0; i < n && i < 40; i++) {
        if (td_grammar_mask(s, bits, NULL)) break;
        for (uint32_t id = (uint32_t)(i % 7); id < size; id += 7) check(bit(bits, id) == td_grammar_allows(s, id));
        size_t n_forced = td_grammar_forced(s, forced, 8);
        check(td_grammar_state_clone(&copy, s, NULL) == TD_OK);
        for (size_t k = 0; k < n_forced; k++) check(td_grammar_accept(copy, forced[k], NULL) == TD_OK);
        td_grammar_state_destroy(copy);
        uint32_t id = choices[i] % size;
        for (uint32_t k = 0; k < size && !bit(bits, id); k++) id = (id + 1) % size;
        check(td_grammar_accept(s, id, NULL) == TD_OK);
        if (td_vocab_is_end(v, id)) {
            check(td_grammar_finished(s));
            break;
        }
    }
    td_grammar_state_destroy(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    td_grammar *g = NULL;
    td_error err = {0};
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_text = nul ? (size_t)(nul - data) : n;
    td_schema_options o = {.strict = n % 3 == 0, .fixed_order = n % 2 == 0};
    td_status st = n_text && data[0] == '{'
                       ? td_grammar_compile_schema(&g, tiny_vocab(), (const char *)data, n_text, &o, &err)
                       : td_grammar_compile(&g, tiny_vocab(), (const char *)data, n_text, NULL, &err);
    check(st == TD_OK || (err.code == st && err.text[0] && !g));
    if (st) return 0;
    static const uint8_t some[] = "A8x}\"{:]0tb,";
    walk(g, nul ? nul + 1 : some, nul ? n - n_text - 1 : sizeof some - 1);
    td_grammar_unref(g);
    return 0;
}
