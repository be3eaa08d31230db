/* The real Gemma 4 vocabulary for tests, from data/gemma4-vocab.txt.gz, and small helpers around it. */
#ifndef TESTS_TEXT_VOCAB_FIXTURE_H
#define TESTS_TEXT_VOCAB_FIXTURE_H

#include "text/tokenizer.h"

#include <jansson.h>

/* The arrays of the real vocabulary: texts and the types of a GGUF file. */
typedef struct fixture_source {
    td_vocab_source s;
    char *bytes;
    td_slice *texts;
    int32_t *types;
} fixture_source;

bool fixture_source_load(fixture_source *f);
void fixture_source_free(fixture_source *f);
/* The shared object of a test program, made on first use with derived merges; NULL when it cannot be made. */
const td_vocab *fixture_vocab(void);
void fixture_release(void);
/* A tiny vocabulary: five specials, `<|turn>`, `<turn|>`, `<|"|>`, bytes, printable ASCII, U+2581, newline, and
 * `words`. */
td_vocab *fixture_tiny(const char *const *words, int n_words);
char *fixture_read(const char *path, size_t *n_bytes); /* malloc'ed; .gz files are unpacked; NULL on failure */
size_t fixture_unhex(const char *hex, char *out, size_t cap);
uint64_t fixture_random(uint64_t *state); /* splitmix64 */

#endif
