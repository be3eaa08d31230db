/* The engine's own state: slots, jobs, and the thread that steps them.
 *
 * One thread (engine.c) owns the model, the cache, the slots and everything reached from them. Other threads touch
 * only what is under `lock` (the queue of jobs, commands, published figures) and a job's own mailbox (job.c). A step
 * (step.c) is: drafts for every generating slot (draft.c), one batch of all slots' rows, one forward pass, acceptance,
 * delivery. Where a processor is left for it, the drafts of the next step are made by a second thread (async.c) while
 * this one delivers; everything that touches the cache waits for that thread first (td_async_drain). */
#ifndef TD_ENGINE_ENGINE_H
#define TD_ENGINE_ENGINE_H

#include "../../include/tandem.h"
#include "../base/pool.h"
#include "../kv/kv.h"
#include "../model/model.h"
#include "../spec/accept.h"
#include "../spec/ngram.h"
#include "../spec/policy.h"
#include "../spec/trace.h"
#include "../text/grammar.h"
#include "../text/tokenizer.h"
#include "park.h"
#include "reasoning.h"
#include "sampler.h"
#include "stream.h"

#include <pthread.h>
#include <stdatomic.h>

#define TD_QUEUE_MAX  4096 /* jobs waiting for a slot */
#define TD_Q_CANDS    256  /* entries kept of a drafter's distribution */
#define TD_NGRAM_LONG 6    /* a look-up match this long is preferred to the assistant */

/* ---- job: what a caller holds ---- */

struct td_job {
    td_engine *engine;
    int id;
    td_job_params params; /* arrays below are owned copies */
    uint32_t *prompt;
    td_grammar_state *grammar;             /* what holds now; NULL: text is free */
    td_grammar_state *sentence, *pristine; /* with a trigger: the one in use, and its beginning; else `sentence` only */
    td_sampler *sampler;
    td_stream stream;
    td_reasoning reasoning;
    char *cache_key; /* the slot's once it runs */
    int64_t t_submit_ns;
    atomic_bool cancelled;
    bool owned_by_engine; /* queued or on a slot; under engine->lock */
    td_job *next;         /* queue; under engine->lock */

    /* Mailbox: the engine's thread adds, td_job_read takes all that is there. */
    pthread_mutex_t lock;
    pthread_cond_t ready;
    struct td_mail {
        uint32_t *tokens;
        uint8_t *drafted;
        td_prob *probs;
        int n_tokens, cap_tokens;
        td_buf text;
    } in, out;           /* in: being filled; out: what the last event points to */
    struct td_job_live { /* `now` is the engine thread's; `seen` its copy under the lock */
        int prompt_cached, prompt_done, slot;
        bool truncated, has_new_line;
        char cache_note[160];
        td_timings timings;
    } now, seen;
    int *marks; /* [cap_marks] prompt positions reached and not yet reported: from at_mark to n_marks */
    int n_marks, at_mark, cap_marks;
    bool done, done_read;
    td_finish finish;
    td_error error;
};

/* ---- slot ---- */

typedef enum td_slot_phase { TD_SLOT_IDLE, TD_SLOT_PROMPT, TD_SLOT_GENERATE } td_slot_phase;
typedef enum td_async_state { /* of td_draft_submit: asked for, in the request, to be fetched */
                              TD_ASYNC_NONE,
                              TD_ASYNC_PENDING,
                              TD_ASYNC_RUNNING,
                              TD_ASYNC_DONE
} td_async_state;
typedef enum td_draft_source { TD_DRAFT_NONE, TD_DRAFT_MTP, TD_DRAFT_NGRAM, TD_DRAFT_GRAMMAR } td_draft_source;

typedef struct td_draft_set { /* what one slot proposes in a round */
    td_draft_source source;
    uint32_t tokens[TD_MAX_DRAFT];
    float p[TD_MAX_DRAFT];
    td_spec_prob *q[TD_MAX_DRAFT]; /* rejection only: [n_q[i]] the distribution that token i was drawn from */
    int n_q[TD_MAX_DRAFT];
    int n;
    int n_ask;        /* depth asked for */
    int64_t t_ns;     /* this slot's share of the drafter passes */
    const char *path; /* how it was made, for the trace; NULL: nothing to trace */
} td_draft_set;

typedef struct td_slot {
    int id;
    td_slot_phase phase;
    td_job *job;
    uint32_t *tokens; /* [n_ctx] what the cache holds, in order; the caches of idle slots stay for reuse */
    int n_tokens;
    int n_checkpointed; /* n_tokens at the last checkpoint */
    char *cache_key;    /* whose tokens these are */
    int64_t t_used_ns;

    uint32_t last; /* sampled, not yet in the cache */
    float *h_prev; /* [d_model] the hidden row that produced `last` */
    int h_idx;     /* row of the last batch it came from */
    bool has_h;
    int row; /* first row of this slot in the current step, -1 none */
    int n_rows;
    int n_decoded;

    td_draft_set draft;
    td_policy_slot policy;
    td_spec_params spec;  /* of the job, clamped */
    td_async_state async; /* td_draft_submit */
    int async_steps;
    td_error async_error;
    int skip_streak, streak_accepted;
    bool skipped;
    bool unread; /* delivered, its caller not woken yet */
    int iter;
    int64_t t_start_ns, t_prompt_ns, t_first_ns;
    td_slot_info info; /* published after each step, under engine->lock */
} td_slot;

/* ---- drafting ---- */

typedef struct td_draft_request { /* one chain of the assistant, for any number of slots */
    td_slot *slots[TD_MAX_SLOTS];
    int depth[TD_MAX_SLOTS];
    int n;
    td_status status;
    td_error error;
    int n_steps; /* out: drafter passes made, the slots in each and its time */
    int step_slots[TD_MAX_DRAFT];
    int64_t step_ns[TD_MAX_DRAFT];
} td_draft_request;

typedef struct td_async {
    td_draft_request request; /* the drafting thread's while `posted`, else the engine thread's */
    bool in_flight;           /* begun and not drained; the engine thread's */
    bool prepared;            /* every generating slot has what the next step needs; the engine thread's */
    pthread_t thread;
    bool thread_started; /* false: requests run on the engine's thread */
    bool always;         /* asked for: beside every delivery, whatever it costs */
    double deliver_ns;   /* what waking the callers of a round takes, averaged */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool posted, stop; /* under lock */
} td_async;

/* ---- engine ---- */

typedef struct td_command { /* work on the engine's thread on behalf of another one, which waits */
    td_status (*run)(td_engine *e, void *arg, td_error *err);
    void *arg;
    td_status status;
    td_error error;
    bool done;
    struct td_command *next;
} td_command;

struct td_engine {
    td_engine_params params;
    char *model_path, *draft_path;
    td_engine_info info;
    td_pool *pool;
    td_model *model;
    td_drafter *drafter;
    td_vocab *vocab;
    td_kv *kv;
    td_workspace *work;
    td_sampler_scratch scratch;
    uint64_t *mask;    /* [(n_vocab + 63) / 64] */
    td_slot *slots;    /* [params.n_slots] */
    td_parked *parked; /* [n_parked] */
    int n_parked;
    uint64_t park_limit, kv_bytes; /* of parked conversations; reserved for slots and checkpoints */
    td_row *rows;                  /* [max_rows] of the step being built */
    int max_rows;
    int max_out;
    float *draft_logits; /* [n_slots][n_vocab], made when a job asks for rejection */
    td_spec_prob *q;     /* [n_slots][TD_MAX_DRAFT][TD_Q_CANDS], likewise */
    td_spec_prob *p_row; /* [n_vocab], likewise */
    float *raw_row;      /* [n_vocab] a row before the sampler changed it */
    td_prob *probs;      /* [TD_MAX_DRAFT + 2][n + 1] of the round in hand; the last row is scratch */
    int cap_probs;
    td_policy policy;
    td_trace *trace;
    td_async async;
    double prompt_row_ns; /* measured cost of one prompt row */
    int next_prompt_slot; /* rotation among slots in the prompt phase */

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock;
    pthread_cond_t wake, command_done;
    /* Under lock, up to `commands`. */
    bool woken; /* something came that the engine's thread has not looked at */
    bool stop;
    td_job *queue; /* sorted by priority, then arrival */
    int n_queue, n_open_jobs;
    int next_job_id;
    td_command *commands;
    td_counters counters;  /* the engine thread's */
    td_counters published; /* its copy after each step, under lock */
};

/* job.c */
void td_job_deliver(td_job *j, const uint32_t *tokens, const uint8_t *drafted, const td_prob *probs, int n_tokens,
                    size_t n_text); /* the first n_text bytes of j->stream.text are taken; wakes nobody */
void td_job_notify(td_job *j);      /* wakes the caller: there is mail */
void td_job_progress(td_job *j);
void td_job_finish(td_job *j, td_finish finish, const td_error *error);

/* slot.c */
bool td_slot_same_key(const char *a, const char *b);
td_status td_slot_find(td_engine *e, int slot, td_slot **out, td_error *err); /* by the number a caller gave */
td_slot *td_slot_choose(td_engine *e, const td_job *j);                       /* NULL: none can take it now */
void td_slot_start(td_engine *e, td_slot *s, td_job *j);
void td_slot_release(td_engine *e, td_slot *s, td_finish finish, const td_error *error);
void td_slot_forget(td_engine *e, td_slot *s); /* drops what it holds */
void td_slot_publish(td_engine *e, td_slot *s);
void td_slot_make_room(td_engine *e, td_slot *s);  /* a full context is shifted, where that is on */
void td_slot_checkpoint(td_engine *e, td_slot *s); /* after a prompt chunk: keeps windows to come back to */

/* draft.c */
/* Chooses what every generating slot proposes in the next step and makes the assistant's chain; `beside`: on the other
 * thread, begun here. */
void td_draft_prepare(td_engine *e, int n_prompt_rows, bool beside);
void td_draft_collect(td_engine *e);                     /* waits for the chain: slot->draft is complete */
void td_draft_chain(td_engine *e, td_draft_request *r);  /* runs it; touches the slots' drafts only */
void td_draft_settle(td_engine *e, td_draft_request *r); /* afterwards, on the engine's thread: times and counters */

/* async.c */
td_status td_async_open(td_engine *e, td_error *err); /* the drafting thread, where it helps */
void td_async_close(td_engine *e);
bool td_async_helps(const td_engine *e); /* drafting beside the delivery that comes now is worth it */
/* Starts e->async.request, and with it what td_draft_submit asked for; without `beside` it is done on return. */
void td_async_begin(td_engine *e, bool beside);
void td_async_serve(td_engine *e); /* begins what td_draft_submit asked for, if anything */
/* Waits for the request in flight, if any. Everything that removes or moves cells calls this first. */
void td_async_drain(td_engine *e);

/* step.c */
bool td_engine_step(td_engine *e); /* false: there was nothing to do */

/* accept.c: after a forward pass, what a generating slot emits. */
void td_slot_accept(td_engine *e, td_slot *s, int64_t step_ns);

/* engine.c */
void td_engine_describe_file(const td_gguf *g, td_engine_info *i); /* query.c */
bool td_engine_reserve_probs(td_engine *e, int n_probs);
bool td_engine_reserve_rejection(td_engine *e);
void td_engine_wake(td_engine *e); /* under the lock */
td_status td_engine_command(td_engine *e, td_status (*run)(td_engine *e, void *arg, td_error *err), void *arg,
                            td_error *err); /* runs it between two steps; waits */

#endif
