/* From a Hugging Face checkpoint of a Gemma 4 text model or assistant to one GGUF file. */
#ifndef TD_CONVERT_CONVERT_H
#define TD_CONVERT_CONVERT_H

#include "../base/pool.h"
#include "../base/progress.h"
#include "mix.h"

typedef struct td_convert_options {
    const char *dir;       /* config.json, *.safetensors, tokenizer.json, … */
    const char *tokenizer; /* tokenizer.json or the folder that holds it; NULL: `dir` */
    const char *name;      /* general.name; NULL: the folder's */
    const td_ftype *ftype; /* f32 f16 bf16 q8_0; NULL: the checkpoint's own float type */
    bool old_dialect;      /* assistants: gemma4_assistant */
    td_pool *pool;
    td_progress_fn progress;
    void *progress_user;
} td_convert_options;

typedef struct td_convert_report {
    const char *arch, *type;
    uint64_t n_tensors, n_bytes, n_skipped; /* skipped: tensors of the checkpoint that a text model does not have */
} td_convert_report;

/* The file appears whole or not at all. Memory: two chunks of rows and the vocabulary. */
td_status td_convert(const td_convert_options *o, const char *out, td_convert_report *report, td_error *err);

#endif
