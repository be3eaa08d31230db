/* From a GGUF file to a smaller one: other types for the matrices, everything else as it was. */
#ifndef TD_CONVERT_QUANTIZE_H
#define TD_CONVERT_QUANTIZE_H

#include "../base/pool.h"
#include "../base/progress.h"
#include "imatrix.h"
#include "mix.h"

typedef struct td_quantize_rule { /* --tensor-type REGEX=TYPE */
    const char *pattern;          /* searched in the name, lower case, POSIX extended (and \d) */
    const td_type_info *type;
} td_quantize_rule;

typedef struct td_quantize_options {
    const td_ftype *ftype;
    const td_type_info *output_type, *embedding_type; /* NULL: by the rules */
    const td_quantize_rule *rules;
    int n_rules;
    bool pure;         /* the type itself instead of its mixture; rules above and the fallback still apply */
    bool leave_output; /* output.weight keeps its type */
    bool allow_requantize, keep_split, dry_run;
    const td_imatrix *imatrix;
    const char *imatrix_path;                    /* for the file's metadata */
    const char *const *include, *const *exclude; /* substrings: importance only for, not for; NULL-terminated or NULL */
    td_pool *pool;
    td_progress_fn progress;
    void *progress_user;
    /* called for every tensor once the types are settled; NULL: not */
    void (*each)(void *user, const char *name, const td_type_info *from, const td_type_info *to, uint64_t from_bytes,
                 uint64_t to_bytes);
    void *each_user;
} td_quantize_options;

typedef struct td_quantize_report {
    uint64_t n_tensors, n_fell_back, n_without_importance, from_bytes, to_bytes;
    int n_files;
} td_quantize_report;

/* `out` is the file, or with keep_split the name whose parts are "…-00001-of-00003.gguf". Whole or absent. */
td_status td_quantize(const char *in, const char *out, const td_quantize_options *o, td_quantize_report *report,
                      td_error *err);

#endif
