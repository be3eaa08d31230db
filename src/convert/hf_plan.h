/* Which tensors a checkpoint must have, under which names, and what they are called in GGUF (spec gemma4-target.md 6.2,
 * gemma4-mtp.md 2.1 and 2.2). The list drives the conversion: what is on it must be there in the right shape, and what
 * is in the checkpoint must be on it or belong to the image and sound towers. */
#ifndef TD_CONVERT_HF_PLAN_H
#define TD_CONVERT_HF_PLAN_H

#include "../file/gguf.h"
#include "../file/safetensors.h"
#include "hf_config.h"

typedef enum td_hf_kind {
    TD_HF_MATRIX, /* gets the type that was asked for */
    TD_HF_KEEP,   /* a matrix that quantised files keep at 16 bits or more */
    TD_HF_F32,    /* norms, scales, routers */
    TD_HF_ORDER,  /* token ids, I64 or I32, written as I32 */
    TD_HF_FREQS   /* made here, not read */
} td_hf_kind;

typedef struct td_hf_tensor {
    char name[TD_GGUF_NAME]; /* in GGUF */
    char source[96];         /* in the checkpoint, without its prefix */
    td_hf_kind kind;
    bool optional;
    int n_dims;
    uint64_t ne[3];         /* ne[0] is the row length */
    bool cut_rows;          /* the checkpoint may have more rows than the vocabulary */
    const td_st_tensor *st; /* found; NULL: optional and absent, or made here */
} td_hf_tensor;

typedef struct td_hf_plan {
    td_hf_tensor *tensors;
    size_t n, cap;
} td_hf_plan;

/* Fills the list and binds it to the checkpoint. `n_vocab` is the tokenizer's. May change c->n_kv_full where the
 * checkpoint's own shapes decide between two readings of the configuration. */
td_status td_hf_plan_make(td_hf_plan *p, td_hf_config *c, const td_safetensors *s, uint32_t n_vocab, bool old_dialect,
                          td_error *err);
void td_hf_plan_free(td_hf_plan *p);

#endif
