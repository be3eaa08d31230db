/* The metadata of a converted file: model keys from config.json, the vocabulary, the chat template. */
#ifndef TD_CONVERT_HF_KEYS_H
#define TD_CONVERT_HF_KEYS_H

#include "../file/gguf_write.h"
#include "hf_config.h"

/* tokenizer.json and what goes with it; the texts point into the mapped file. */
typedef struct td_hf_tokenizer td_hf_tokenizer;

/* `dir` is the checkpoint (chat template, generation_config.json), `path` the tokenizer.json or its folder, or NULL. */
td_status td_hf_tokenizer_open(td_hf_tokenizer **out, const char *dir, const char *path, td_error *err);
void td_hf_tokenizer_close(td_hf_tokenizer *t);
uint32_t td_hf_tokenizer_size(const td_hf_tokenizer *t);

td_status td_hf_put_model_keys(td_gguf_writer *w, const td_hf_config *c, const char *arch, const char *name,
                               uint32_t file_type, bool old_dialect, td_error *err);
td_status td_hf_put_tokenizer(td_gguf_writer *w, const td_hf_tokenizer *t, const td_hf_config *c, td_error *err);

#endif
