/* Where a vocabulary comes from: the metadata of a GGUF file, or a Hugging Face tokenizer.json. */
#ifndef TD_TEXT_VOCAB_FILE_H
#define TD_TEXT_VOCAB_FILE_H

#include "vocab.h"

struct td_gguf;
struct td_gguf_writer;

/* Keys tokenizer.ggml.*; refuses other models than gemma4, and files without tokens or merges. */
td_status td_vocab_from_gguf(td_vocab **out, const struct td_gguf *g, td_error *err);

/* The keys tokenizer.ggml.* that a Gemma 4 file carries, in the order of published files: for convert and synth. */
td_status td_vocab_put_gguf(struct td_gguf_writer *w, const td_vocab *v, td_error *err);

/* The arrays of a tokenizer.json (BPE model with byte fallback), for td_vocab_create or for writing a GGUF file. */
typedef struct td_vocab_json td_vocab_json;
td_status td_vocab_json_parse(td_vocab_json **out, const char *data, size_t n_bytes, td_error *err);
/* Valid until td_vocab_json_free; types and special ids are filled from added_tokens and Gemma 4's texts, the texts may
 * point into `data`, which must stay. */
const td_vocab_source *td_vocab_json_source(const td_vocab_json *j);
void td_vocab_json_free(td_vocab_json *j);

/* From a path: a GGUF file (by its magic), else a tokenizer.json; a directory means the tokenizer.json in it. */
td_status td_vocab_open(td_vocab **out, const char *path, td_error *err);

#endif
