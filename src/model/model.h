/* A loaded Gemma 4 model and its forward pass: what the engine calls.
 *
 * Lifetimes: td_model_load reads, validates and packs a target file; td_drafter_load does the same for an assistant and
 * attaches it to one target. Both are read-only afterwards and may be shared. A td_workspace holds every buffer a step
 * needs, reserved once for the largest batch, so that a forward pass allocates nothing. The cache (src/kv) belongs to
 * the caller.
 *
 * A row's results depend on its own token, position and cache only: not on the other rows of the step, not on how a
 * prompt was cut into steps, not on the number of threads (tests/identity). */
#ifndef TD_MODEL_MODEL_H
#define TD_MODEL_MODEL_H

#include "../../include/tandem-types.h"
#include "../base/pool.h"
#include "../base/progress.h"
#include "../base/status.h"
#include "shape.h"

#include <stddef.h>

typedef struct td_gguf td_gguf;
typedef struct td_kv td_kv;
struct td_kv_options;
typedef struct td_model td_model;
typedef struct td_drafter td_drafter;
typedef struct td_workspace td_workspace;

/* ---- loading ---- */

typedef struct td_model_options {
    const char *path; /* the GGUF file, or the first of a split one */
    td_pool *pool;    /* packs in parallel; NULL: on the calling thread */
    bool no_pack;     /* compute from the mapped file's own layout: slower, starts at once, no memory of its own */
    const char *pack_cache;  /* NULL: none; "": packed copy beside the model (path + ".tdpack"); else a directory */
    bool check_tensors;      /* look for NaN and infinities in every tensor; reads the whole file once more */
    td_progress_fn progress; /* NULL: none; `done` and `total` in bytes */
    void *progress_user;
} td_model_options;

td_status td_model_load(td_model **out, const td_model_options *options, td_error *err);
void td_model_free(td_model *m);

const td_shape *td_model_shape(const td_model *m);
const td_gguf *td_model_gguf(const td_model *m); /* open as long as the model: vocabulary, chat template, names */

typedef struct td_model_memory {
    uint64_t file_bytes;   /* of the GGUF file(s) */
    uint64_t packed_bytes; /* weights held in memory of our own, or mapped from the pack cache */
    uint64_t mapped_bytes; /* weights read from the mapped file while running (embedding rows, unpacked matrices) */
    uint64_t step_bytes;   /* weight bytes one decode step touches (experts: only the chosen ones) */
    uint64_t token_macs;   /* multiply-adds with weights of a prompt token: up to its last keys and values */
    uint64_t result_macs;  /* of a token whose result is wanted: all layers, without the head */
    bool from_cache;       /* the packed copy came from the pack cache */
} td_model_memory;
td_model_memory td_model_memory_use(const td_model *m);

/* Why an assistant was refused: the codes of the first engine that could attach one, printed by `tandem inspect -md`
 * and used as is in the messages. */
typedef enum td_attach_code {
    TD_ATTACH_OK = 0,
    TD_ATTACH_NO_MODEL = -1,      /* no target, or an empty path */
    TD_ATTACH_TARGET_ARCH = -2,   /* the target is not gemma4 */
    TD_ATTACH_FILE = -3,          /* the file does not load */
    TD_ATTACH_ARCH = -4,          /* it is not an assistant */
    TD_ATTACH_REQUIRED_ARCH = -5, /* requires_target_arch names another one */
    TD_ATTACH_BACKBONE = -6,      /* made for another hidden size */
    TD_ATTACH_VOCABULARY = -7     /* sizes differ, or token texts from id 5 upward */
} td_attach_code;

/* The name under which a tensor of an attached assistant is known everywhere: mtp.<name>, once; a target's stays. */
enum { TD_TENSOR_NAME = 264 };
void td_attach_name(const char *name, bool attached, char *out, size_t n_bytes);

typedef enum td_head_kind { TD_HEAD_AUTO, TD_HEAD_DENSE, TD_HEAD_ORDERED } td_head_kind;

typedef struct td_drafter_options {
    td_model_options file;
    td_head_kind head; /* AUTO: ordered when its tensors are there and sound, else dense with a log line */
    int screen_rows;   /* dense heads of more than 5 bits and so many rows are packed as a 4-bit copy, whose best 64
                        * candidates meet the file's rows; 0: 32768, -1: none. With no_pack none either */
} td_drafter_options;

/* `code` may be NULL. The drafter borrows `target`, which must outlive it. Messages name its tensors mtp.<name>. */
td_status td_drafter_load(td_drafter **out, const td_drafter_options *options, const td_model *target,
                          td_attach_code *code, td_error *err);
void td_drafter_free(td_drafter *d);

const td_shape *td_drafter_shape(const td_drafter *d);
const td_gguf *td_drafter_gguf(const td_drafter *d);
bool td_drafter_is_ordered(const td_drafter *d);
bool td_drafter_is_screened(const td_drafter *d); /* a dense head with a 4-bit copy */
td_model_memory td_drafter_memory_use(const td_drafter *d);

/* The cache of this model: fills n_layer, layer and window of `options` (kept otherwise as the caller set it) and calls
 * td_kv_create. */
td_status td_model_kv_create(td_kv **out, const td_model *m, struct td_kv_options *options, td_error *err);

/* Whether the assistant of `a` fits the target of `t` (both open files, nothing packed): `tandem inspect -md`. */
td_attach_code td_attach_check(const td_gguf *t, const td_gguf *a, td_error *err);

/* ---- workspace ---- */

typedef struct td_workspace_options {
    int max_rows;    /* rows of one step; prefill chunks are cut to it by the caller */
    int max_out;     /* rows of one step with TD_ROW_LOGITS: n_vocab floats each */
    int max_hidden;  /* rows of one step with TD_ROW_HIDDEN (0: as max_rows): d_model floats each */
    int max_slots;   /* drafting rows of one td_drafter_forward */
    bool importance; /* collect what td_workspace_importance hands out: slower */
} td_workspace_options;

/* `drafter` may be NULL. `pool` gives the number of threads it is made for. */
td_status td_workspace_create(td_workspace **out, const td_model *m, const td_drafter *drafter, const td_pool *pool,
                              const td_workspace_options *options, td_error *err);
void td_workspace_free(td_workspace *w);
uint64_t td_workspace_bytes(const td_workspace *w);

/* ---- target ---- */

enum {
    TD_ROW_LOGITS = 1, /* wants its n_vocab logits, capped and with suppressed ids at -inf */
    TD_ROW_HIDDEN =
        2, /* wants its hidden state after the final norm: what the head multiplies, what a draft starts from */
    TD_ROW_ARGMAX = 4 /* wants only the largest logit (ties: lowest id), found without writing a logits row;
                       * not together with TD_ROW_LOGITS */
};

typedef struct td_row {
    int32_t token;
    int32_t pos;    /* absolute position */
    int32_t slot;   /* of the cache */
    uint32_t flags; /* TD_ROW_*; 0: only its keys and values are wanted */
} td_row;

/* One batch. Rows of a slot are contiguous and their positions consecutive, starting at td_kv's n_pos of the slot;
 * any number of slots. */
typedef struct td_step {
    const td_row *rows;
    int n_rows;
} td_step;

/* Computes the step, stores its keys and values and counts them as part of their slots (td_kv_reserve before,
 * td_kv_commit after). Fails, with no slot longer than before, on a row whose token, position, slot or count is out of
 * range, or when the cache has no page left. */
td_status td_target_forward(const td_model *m, td_kv *kv, const td_step *step, td_workspace *w, td_pool *pool,
                            td_error *err);

/* Results of the last td_target_forward for row `i` of its step; valid until the next one. NULL / -1 when not asked. */
const float *td_workspace_logits(const td_workspace *w, int i); /* [n_vocab] f32 */
const float *td_workspace_hidden(const td_workspace *w, int i); /* [d_model] f32 */
int32_t td_workspace_argmax(const td_workspace *w, int i, float *logit /* may be NULL */);

/* Sums over all rows so far of the target's squared activations, tensor i of those that multiply them; false beyond the
 * last, and when they are not collected. Borrowed. */
bool td_workspace_importance(const td_workspace *w, int i, td_importance *out);

/* ---- drafter ---- */

typedef struct td_draft_row {
    int32_t slot;
    int32_t token;       /* the last token of the chain so far */
    int32_t pos;         /* n: positions [0, n) are in the cache; the same for all steps of a chain */
    const float *h_prev; /* [d_backbone] f32: the target's hidden row, then the h_next of the step before */
    float *logits;       /* NULL, or [n_vocab] f32 to fill: -inf for ids that are no candidate of an ordered or a
                          * screened head */
} td_draft_row;

typedef struct td_draft {
    int32_t token; /* arg-max, ties: lowest id */
    float logit;
    float p;             /* softmax over the ten largest logits, of the largest: what p_min is compared with */
    const float *h_next; /* [d_backbone] f32 in the workspace: valid until the next forward of the same drafter, which
                          * may itself read it as h_prev */
} td_draft;

/* One draft step of all drafting slots. Writes nothing to the cache. */
td_status td_drafter_forward(const td_drafter *d, const td_kv *kv, const td_draft_row *rows, int n_rows, td_draft *out,
                             td_workspace *w, td_pool *pool, td_error *err);

/* ---- measuring ---- */

enum { TD_MODEL_STAGES = 16 };
typedef struct td_stage_time { /* `tandem bench --stages`: thread 0's view of the steps since the last reset */
    const char *name;
    int64_t t_ns;
    uint64_t n_bytes; /* weight bytes touched */
} td_stage_time;
void td_workspace_time(td_workspace *w, bool on); /* off by default; resets the counters */
int td_workspace_stages(const td_workspace *w, td_stage_time out[TD_MODEL_STAGES]);

#endif
