/* One draft step, between the assistant's layers (drafter.c) and its heads (draft_head.c). */
#ifndef TD_MODEL_DRAFT_H
#define TD_MODEL_DRAFT_H

#include "forward.h"
#include "model.h"

typedef struct td_draft_run {
    const td_drafter *d;
    const td_kv *kv;
    const td_draft_row *rows;
    td_workspace *w;
    td_pool *pool;
    int n_rows;
    float *h_next; /* [n_rows][d_backbone] */
    const int32_t *pos, *slot;
} td_draft_run;

/* Final norm, next hidden state, and the ten best logits of each row in the threads' `top`. */
void td_draft_output(td_team *t, const td_draft_run *u);
/* The draft of a row from those. */
void td_draft_result(const td_draft_run *u, int row, td_draft *out);

#endif
