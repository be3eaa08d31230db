#include "reasoning.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_NAME 16 /* tokens; a channel whose name never ends is a thought all the same */

td_status td_reasoning_init(td_reasoning *r, const td_reasoning_params *p, td_error *err) {
    memset(r, 0, sizeof *r);
    r->params = *p;
    r->params.closing = NULL;
    r->phase = p->open && p->begin != TD_TOKEN_NONE ? TD_REASONING_INSIDE : TD_REASONING_OUTSIDE;
    atomic_init(&r->asked, false);
    if (p->n_closing == 0) return TD_OK;
    uint32_t *copy = td_calloc((size_t)p->n_closing, sizeof *copy);
    if (!copy) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a request");
    memcpy(copy, p->closing, (size_t)p->n_closing * sizeof *copy);
    r->params.closing = copy;
    return TD_OK;
}

void td_reasoning_free(td_reasoning *r) {
    free((uint32_t *)(uintptr_t)r->params.closing);
    memset(r, 0, sizeof *r);
}

static bool used_up(const td_reasoning *r) {
    return atomic_load(&r->asked) || (r->params.budget >= 0 && r->n_tokens >= r->params.budget);
}

uint32_t td_reasoning_forced(const td_reasoning *r) {
    const td_reasoning_params *p = &r->params;
    if (r->phase != TD_REASONING_CLOSING && !(r->phase == TD_REASONING_INSIDE && used_up(r))) return TD_TOKEN_NONE;
    return r->n_closed < p->n_closing ? p->closing[r->n_closed] : p->end;
}

void td_reasoning_push(td_reasoning *r, uint32_t token, bool forced, bool newline) {
    const td_reasoning_params *p = &r->params;
    if (r->phase == TD_REASONING_OUTSIDE) {
        if (token != p->begin || p->begin == TD_TOKEN_NONE) return;
        r->phase = TD_REASONING_NAME;
        r->n_name = r->n_closed = 0;
    } else if (token == p->end || token == p->call) {
        r->phase = TD_REASONING_OUTSIDE;
    } else if (r->phase == TD_REASONING_NAME) {
        if (newline || ++r->n_name >= LONGEST_NAME) r->phase = TD_REASONING_INSIDE;
    } else if (forced) {
        r->phase = TD_REASONING_CLOSING;
        r->n_closed++;
    } else {
        r->n_tokens++;
    }
}

int td_reasoning_room(const td_reasoning *r) {
    if (td_reasoning_forced(r) != TD_TOKEN_NONE) return 0;
    if (r->params.budget < 0 || r->phase == TD_REASONING_OUTSIDE) return INT_MAX;
    int left = r->params.budget - r->n_tokens, name = r->phase == TD_REASONING_NAME ? LONGEST_NAME : 0;
    if (left <= 0) return LONGEST_NAME;
    return left < INT_MAX - name ? left + name : INT_MAX;
}
