/* Which type each tensor of a file gets: the named mixtures of the ggml family (q4_K_M, …), their exceptions and the
 * fallback for rows that a block does not divide (spec quant-formats.md 3.2 and 3.3). Shared by `quantize` and `synth`;
 * the rules are those of llama-quantize, so that files of the same name hold the same types. */
#ifndef TD_CONVERT_MIX_H
#define TD_CONVERT_MIX_H

#include "../base/status.h"
#include "../quant/types.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct td_ftype {
    const char *name; /* "q4_K_M" */
    uint32_t id;      /* general.file_type */
    td_type type;     /* of tensors without a rule */
} td_ftype;

const td_ftype *td_ftype_by_name(const char *name); /* case-insensitive, aliases and numbers too; NULL when unknown */
const td_ftype *td_ftype_at(int i);                 /* all of them; NULL after the last */

typedef struct td_mix {
    const td_ftype *ftype;
    int n_v, n_layer;                /* tensors like attn_v in the file; layers */
    int n_gqa;                       /* query heads per KV head of layer 0 */
    int n_expert;                    /* 0 for dense models */
    bool tied;                       /* no output.weight: token_embd is the head */
    bool have_imatrix;               /* an importance matrix is in use */
    const td_type_info *output_type; /* --output-tensor-type, NULL: by rule */
    int i_v, i_down; /* how many tensors of these kinds have been asked for: start at 0, ask in file order */
} td_mix;

/* True for norms, routers, scales and everything else that keeps the type it has. */
bool td_mix_keeps(const char *name, int n_dims);
/* token_embd and per_layer_token_embd. */
bool td_mix_is_embedding(const char *name);
/* The type by rule; advances the counters. */
td_type td_mix_rule(td_mix *m, const char *name, uint64_t ne0);
/* `type` if its block divides ne0, else what stands in for it (*fell_back is set); TD_ERR_UNSUPPORTED if nothing does.
 */
td_status td_mix_fallback(td_type type, uint64_t ne0, const char *name, td_type *out, bool *fell_back, td_error *err);

/* The layer number in "blk.N.…", -1 for other names. */
int td_mix_layer(const char *name);

#endif
