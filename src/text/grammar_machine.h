/* The machine that runs a grammar program: sets of configurations (operation, frame) made into states of a lazily built
 * deterministic automaton over bytes.
 *
 * Frames and states are hash-consed, so a state is one number, stepping over a byte that was seen before is one load,
 * and a generation's position in a grammar copies for nothing. Frames are shared by all stacks that hold them. Tables
 * are bounded: g_machine_collect drops what no root needs; what does not fit a step ends in G_LIMITED, never in more
 * freedom. Not thread-safe; grammar.c locks. */
#ifndef TD_TEXT_GRAMMAR_MACHINE_H
#define TD_TEXT_GRAMMAR_MACHINE_H

#include "grammar_program.h"

enum {
    G_DEAD = 0,    /* nothing fits */
    G_LIMITED = 1, /* a budget is used up: treated as dead, reported as TD_ERR_LIMIT */
    G_MAX_CONFIGS = 8192,
    G_MAX_CLOSURE = 32768, /* operations looked at in one step */
    G_MAX_FRAMES_DEEP = 1024,
    G_COLLECT_STATES = 4096,
    G_MAX_STATES = 32768,
    G_MAX_FRAMES = 1 << 19,
    G_MAX_POOL = 1 << 21 /* configurations of all states */
};

typedef struct g_frame {
    uint64_t payload;
    uint32_t op, parent, depth, next_hash;
} g_frame;

typedef uint64_t g_config; /* operation << 32 | frame */

typedef struct g_state {
    uint64_t hash;
    uint32_t first, n; /* configurations in the pool, ascending */
    uint32_t next_hash;
    uint32_t mask_state;      /* the state whose token mask is the same; 0: not asked yet */
    uint32_t *step;           /* [256] state after a byte, UINT32_MAX unknown; NULL before the first step */
    bool complete, has_token; /* a whole sentence; some token may come as such */
} g_state;

typedef struct g_machine {
    const g_program *program;
    g_frame *frames; /* frame 0 is the bottom */
    uint32_t n_frames, cap_frames, *frame_buckets;
    g_state *states;
    uint32_t n_states, cap_states, *state_buckets, bucket_mask;
    g_config *pool;
    uint32_t n_pool, cap_pool;
    /* one step */
    g_config *work, *set, *seen; /* seen: [2 * G_MAX_CLOSURE] hash set, marked by `round` */
    uint32_t *seen_round, round, n_work, n_set, n_seen;
    bool limited;
} g_machine;

bool g_machine_init(g_machine *m, const g_program *p);
void g_machine_free(g_machine *m);
uint32_t g_machine_start(g_machine *m);

/* The state after a byte: one load when it is known. */
uint32_t g_machine_step_slow(g_machine *m, uint32_t state, uint8_t byte);
static inline uint32_t g_machine_step(g_machine *m, uint32_t state, uint8_t byte) {
    const uint32_t *step = m->states[state].step;
    uint32_t to = step ? step[byte] : UINT32_MAX;
    return to != UINT32_MAX ? to : g_machine_step_slow(m, state, byte);
}

/* The state after reading the token as such from `state`, joined with `also` (the state after its bytes). */
uint32_t g_machine_token(g_machine *m, uint32_t state, uint32_t token, bool negatable, uint32_t also);
/* The state with every counter replaced that cannot reach a bound within `reach` characters: equal token masks. */
uint32_t g_machine_mask_state(g_machine *m, uint32_t state, uint32_t reach);

static inline const g_config *g_machine_configs(const g_machine *m, uint32_t state) {
    return m->pool + m->states[state].first;
}
static inline const g_op *g_config_op(const g_machine *m, g_config c) {
    return &m->program->ops[c >> 32];
}

bool g_machine_crowded(const g_machine *m);
/* Keeps only the states in roots[n], which get their new numbers in place. False without memory: all is unchanged. */
bool g_machine_collect(g_machine *m, uint32_t **roots, uint32_t n);

#endif
