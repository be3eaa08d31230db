/* The thought of one job, seen as tokens: how long it is, and its end when the budget is used up or somebody asks.
 *
 * The state advances with emitted tokens only, as the sampler's does, and a forced token is never drawn: where a
 * thought ends does not depend on drafts. Between the sampler and acceptance (accept.c). */
#ifndef TD_ENGINE_REASONING_H
#define TD_ENGINE_REASONING_H

#include "../../include/tandem.h"

#include <stdatomic.h>

typedef enum td_reasoning_phase {
    TD_REASONING_OUTSIDE,
    TD_REASONING_NAME,   /* behind <|channel>, before the end of the line with its name */
    TD_REASONING_INSIDE, /* the text of the thought: what is counted */
    TD_REASONING_CLOSING /* some of the closing tokens are out */
} td_reasoning_phase;

typedef struct td_reasoning {
    td_reasoning_params params; /* `closing` is an owned copy */
    td_reasoning_phase phase;
    int n_name, n_closed;
    int n_tokens; /* of all thoughts so far, names, markers and forced tokens aside */
    atomic_bool asked;
} td_reasoning;

td_status td_reasoning_init(td_reasoning *r, const td_reasoning_params *p, td_error *err);
void td_reasoning_free(td_reasoning *r);

/* The token that must come next, TD_TOKEN_NONE when it is free. */
uint32_t td_reasoning_forced(const td_reasoning *r);
/* A token was emitted; `forced`: it came from td_reasoning_forced. `newline`: its text holds one. */
void td_reasoning_push(td_reasoning *r, uint32_t token, bool forced, bool newline);
/* Tokens that may come before the next forced one: more drafts would be made in vain. */
int td_reasoning_room(const td_reasoning *r);

#endif
