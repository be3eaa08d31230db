/* What `tandem inspect` found out, between finding (cmd_inspect.c) and showing (inspect_print.c). */
#ifndef TD_CLI_INSPECT_H
#define TD_CLI_INSPECT_H

#include "file/gguf.h"
#include "model/model.h"

enum { INSPECT_TYPES = 64 };

typedef struct inspect_mix { /* one tensor type's share */
    const td_type_info *type;
    uint64_t n_tensors, n_values, n_bytes;
} inspect_mix;

typedef struct inspect_report {
    td_gguf *gguf;
    bool assistant, has_shape;
    td_shape shape;
    td_model *model; /* a target that loads, else NULL */
    td_model_memory memory;
    td_error usable; /* why the file cannot be used; TD_OK: it can */
    inspect_mix mix[INSPECT_TYPES];
    int n_mix;
    uint64_t n_values, n_bytes; /* of all tensors */
    const char *draft_path;     /* NULL: none was given */
    td_attach_code code;
    td_error draft_error;
    bool ordered;
    uint64_t draft_bytes;
    td_gguf *draft; /* its file, where it can be read: its tensors are listed as mtp.<name> */
} inspect_report;

void inspect_print_table(const inspect_report *r, bool metadata, bool tensors);
void inspect_print_json(const inspect_report *r, bool metadata, bool tensors);

#endif
