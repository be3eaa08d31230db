/* Sums of squared activations: what an importance matrix is made of (`tandem eval --imatrix`).
 *
 * Every product of a decoder layer is watched at its input. Tensors that multiply the same activations (queries, keys
 * and values; gate and up) share one sum. An expert counts only the rows that were routed to it. Thread 0 adds, while
 * the others begin the product; the values are the floats before quantisation, which a watched workspace therefore
 * keeps beside the codes. */
#ifndef TD_MODEL_IMPORTANCE_H
#define TD_MODEL_IMPORTANCE_H

#include "../../include/tandem-types.h"
#include "../kernels/matrix.h"

typedef struct td_net td_net;
typedef struct td_importances td_importances;

typedef enum td_site { /* the inputs of a layer's products */
                       TD_SITE_QKV,
                       TD_SITE_OUT,
                       TD_SITE_UP, /* gate and up */
                       TD_SITE_DOWN,
                       TD_SITE_ROUTER,
                       TD_SITE_EXPERT_UP,
                       TD_SITE_EXPERT_DOWN,
                       TD_SITE_PLE_GATE,
                       TD_SITE_PLE_PROJ,
                       TD_SITE_COUNT
} td_site;

td_status td_importances_create(td_importances **out, const td_net *net, td_error *err);
void td_importances_free(td_importances *m);

/* Adds rows [row, row + n_rows) of `a` to matrix `expert` (0 where there are none) of a site. `a` has TD_ACTS_F32. */
void td_importances_add(td_importances *m, int layer, td_site site, int expert, const td_acts *a, int row, int n_rows);

/* The i-th tensor in the order of the network; false beyond the last. Borrowed. */
bool td_importances_get(const td_importances *m, int i, td_importance *out);

#endif
