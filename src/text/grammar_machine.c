/* See grammar_machine.h. One step: seeds are closed under the operations that read nothing, the reading ones are sorted
 * into a canonical set, and equal sets are one state. */
#include "grammar_machine.h"

#include "../base/checked.h"

#include <stdlib.h>
#include <string.h>

enum { SEEN = 2 * G_MAX_CLOSURE, N_BUCKETS = 1 << 14 };

static uint64_t mix(uint64_t h) {
    h ^= h >> 31;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static bool add_state(g_machine *m, const g_config *set, uint32_t n, uint64_t hash, bool complete, bool token);

bool g_machine_init(g_machine *m, const g_program *p) {
    memset(m, 0, sizeof *m);
    m->program = p;
    m->work = td_calloc(G_MAX_CLOSURE + 8, sizeof *m->work);
    m->set = td_calloc(G_MAX_CONFIGS, sizeof *m->set);
    m->seen = td_calloc(SEEN, sizeof *m->seen);
    m->seen_round = td_calloc(SEEN, sizeof *m->seen_round);
    m->frame_buckets = td_calloc(N_BUCKETS, sizeof *m->frame_buckets);
    m->state_buckets = td_calloc(N_BUCKETS, sizeof *m->state_buckets);
    m->cap_frames = 256;
    m->frames = td_calloc(m->cap_frames, sizeof *m->frames);
    if (!m->work || !m->set || !m->seen || !m->seen_round || !m->frame_buckets || !m->state_buckets || !m->frames)
        return g_machine_free(m), false;
    m->n_frames = 1;
    for (int i = 0; i < 2; i++) /* G_DEAD and G_LIMITED: no configurations, never found by a look-up */
        if (!add_state(m, NULL, 0, 0, false, false)) return g_machine_free(m), false;
    memset(m->state_buckets, 0, N_BUCKETS * sizeof *m->state_buckets);
    return true;
}

static void free_steps(g_machine *m) {
    for (uint32_t i = 0; i < m->n_states; i++) free(m->states[i].step);
}

void g_machine_free(g_machine *m) {
    free_steps(m);
    free(m->frames);
    free(m->frame_buckets);
    free(m->states);
    free(m->state_buckets);
    free(m->pool);
    free(m->work);
    free(m->set);
    free(m->seen);
    free(m->seen_round);
    memset(m, 0, sizeof *m);
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

/* The frame of these values, made if it is new; 0 and `limited` when it does not fit. */
static uint32_t push(g_machine *m, uint32_t op, uint64_t payload, uint32_t parent) {
    uint32_t depth = m->frames[parent].depth + 1;
    if (depth > G_MAX_FRAMES_DEEP) return m->limited = true, 0u;
    uint32_t *bucket = &m->frame_buckets[mix(mix(((uint64_t)op << 32) ^ parent) + payload) & (N_BUCKETS - 1)];
    for (uint32_t i = *bucket; i; i = m->frames[i].next_hash) {
        const g_frame *f = &m->frames[i];
        if (f->op == op && f->parent == parent && f->payload == payload) return i;
    }
    if (m->n_frames == m->cap_frames) {
        g_frame *frames =
            m->n_frames < G_MAX_FRAMES ? td_reallocarray(m->frames, 2 * (size_t)m->cap_frames, sizeof *frames) : NULL;
        if (!frames) return m->limited = true, 0u;
        m->frames = frames;
        m->cap_frames *= 2;
    }
    m->frames[m->n_frames] = (g_frame){payload, op, parent, depth, *bucket};
    return *bucket = m->n_frames++;
}

/* ---- closure ----------------------------------------------------------------------------------------------------- */

static void begin(g_machine *m) {
    m->n_work = m->n_set = m->n_seen = 0;
    m->limited = false;
    if (++m->round == 0) {
        memset(m->seen_round, 0, SEEN * sizeof *m->seen_round);
        m->round = 1;
    }
}

/* True when the configuration is new in this round. */
static bool first_time(g_machine *m, g_config c) {
    uint32_t i = (uint32_t)(mix(c) >> 11) & (SEEN - 1);
    for (; m->seen_round[i] == m->round; i = (i + 1) & (SEEN - 1))
        if (m->seen[i] == c) return false;
    if (m->n_seen >= G_MAX_CLOSURE) return m->limited = true, false;
    m->n_seen++;
    m->seen[i] = c;
    m->seen_round[i] = m->round;
    return true;
}

static void go(g_machine *m, uint32_t op, uint32_t frame) {
    g_config c = (uint64_t)op << 32 | frame;
    if (first_time(m, c)) m->work[m->n_work++] = c; /* each is pushed once: room for G_MAX_CLOSURE is enough */
}

static void keep(g_machine *m, g_config c) {
    if (m->n_set == G_MAX_CONFIGS)
        m->limited = true;
    else
        m->set[m->n_set++] = c;
}

static void end_repetition(g_machine *m, uint32_t frame) {
    g_frame f = m->frames[frame];
    const g_repetition *r = &m->program->repetitions[m->program->ops[f.op].a];
    uint64_t count = f.payload + 1;
    if (count >= r->min) go(m, r->next, f.parent);
    if (count >= r->max) return;
    if (r->max == G_INF && count > r->min) count = r->min; /* beyond the minimum the number no longer matters */
    go(m, r->body, push(m, f.op, count, f.parent));
}

/* Every item that may come now, each with its own mask. `op` is the OP_SET of the frames. */
static void pick_item(g_machine *m, const g_item_set *s, uint32_t op, uint64_t mask, uint32_t parent) {
    for (uint32_t i = 0; i < s->n_items && !m->limited; i++) {
        uint64_t with = i < s->n_once ? mask | 1ull << i : mask;
        if (i < s->n_once && with == mask) continue;
        go(m, m->program->items[s->first_item + i], push(m, op, with, parent));
    }
}

static void run_set(g_machine *m, uint32_t at, const g_op *o, uint32_t frame) {
    const g_item_set *s = &m->program->sets[o->a];
    g_frame f = m->frames[frame];
    if (o->kind == OP_SET) {
        if (!s->required) go(m, s->next, frame);
        pick_item(m, s, at, 0, frame);
    } else if (o->kind == OP_SET_PICK) {
        pick_item(m, s, f.op, f.payload, f.parent);
    } else {
        uint64_t all = s->n_once == 64 ? UINT64_MAX : (1ull << s->n_once) - 1;
        if ((f.payload & s->required) == s->required) go(m, s->next, f.parent);
        if (s->n_items > s->n_once || (f.payload & all) != all) go(m, s->separator, frame);
    }
}

static void close_set(g_machine *m) {
    while (m->n_work && !m->limited) {
        g_config c = m->work[--m->n_work];
        uint32_t at = (uint32_t)(c >> 32), frame = (uint32_t)c;
        const g_op *o = &m->program->ops[at];
        switch ((g_op_kind)o->kind) {
        case OP_BYTE:
        case OP_TOKEN:
        case OP_NOT_TOKEN:
            keep(m, c);
            break;
        case OP_SPLIT:
            go(m, o->b, frame);
            go(m, o->a, frame);
            break;
        case OP_CALL: /* what only returns afterwards needs no frame: right recursion stays flat */
            go(m, m->program->rule_entry[o->a], o->b == 0 ? frame : push(m, o->b, 0, frame));
            break;
        case OP_RETURN:
            if (frame == 0)
                keep(m, c);
            else
                go(m, m->frames[frame].op, m->frames[frame].parent);
            break;
        case OP_REPEAT: {
            const g_repetition *r = &m->program->repetitions[o->a];
            if (r->min == 0) go(m, r->next, frame);
            go(m, r->body, push(m, at, 0, frame));
            break;
        }
        case OP_REPEAT_END:
            end_repetition(m, frame);
            break;
        case OP_SET:
        case OP_SET_PICK:
        case OP_SET_END:
            run_set(m, at, o, frame);
            break;
        case OP_FAIL:
            break;
        }
    }
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static bool add_state(g_machine *m, const g_config *set, uint32_t n, uint64_t hash, bool complete, bool token) {
    if (m->n_states == m->cap_states) {
        uint32_t cap = m->cap_states ? m->cap_states * 2 : 64;
        g_state *states = cap <= G_MAX_STATES ? td_reallocarray(m->states, cap, sizeof *states) : NULL;
        if (!states) return false;
        m->states = states;
        m->cap_states = cap;
    }
    if (n > m->cap_pool - m->n_pool) {
        uint32_t cap = m->cap_pool ? m->cap_pool : 1024;
        while (cap < m->n_pool + n) cap *= 2;
        g_config *pool = cap <= G_MAX_POOL ? td_reallocarray(m->pool, cap, sizeof *pool) : NULL;
        if (!pool) return false;
        m->pool = pool;
        m->cap_pool = cap;
    }
    if (n) memcpy(m->pool + m->n_pool, set, n * sizeof *set);
    uint32_t *bucket = &m->state_buckets[hash & (N_BUCKETS - 1)];
    m->states[m->n_states] = (g_state){hash, m->n_pool, n, *bucket, 0, NULL, complete, token};
    m->n_pool += n;
    *bucket = m->n_states++;
    return true;
}

static int ascending(const void *a, const void *b) {
    g_config x = *(const g_config *)a, y = *(const g_config *)b;
    return (x > y) - (x < y);
}

/* The state of the collected set. */
static uint32_t intern(g_machine *m) {
    if (m->limited) return G_LIMITED;
    if (m->n_set == 0) return G_DEAD;
    bool complete = false, token = false;
    uint64_t hash = m->n_set;
    if (m->n_set > 1) qsort(m->set, m->n_set, sizeof *m->set, ascending);
    for (uint32_t i = 0; i < m->n_set; i++) {
        uint8_t kind = g_config_op(m, m->set[i])->kind;
        complete |= kind == OP_RETURN;
        token |= kind == OP_TOKEN || kind == OP_NOT_TOKEN;
        hash = mix(hash + m->set[i]);
    }
    for (uint32_t i = m->state_buckets[hash & (N_BUCKETS - 1)]; i; i = m->states[i].next_hash) {
        const g_state *s = &m->states[i];
        if (s->hash == hash && s->n == m->n_set && memcmp(m->pool + s->first, m->set, s->n * sizeof *m->set) == 0)
            return i;
    }
    return add_state(m, m->set, m->n_set, hash, complete, token) ? m->n_states - 1 : (uint32_t)G_LIMITED;
}

uint32_t g_machine_start(g_machine *m) {
    begin(m);
    go(m, m->program->rule_entry[m->program->root], 0);
    close_set(m);
    return intern(m);
}

uint32_t g_machine_step_slow(g_machine *m, uint32_t state, uint8_t byte) {
    if (state <= G_LIMITED) return state;
    if (!m->states[state].step) {
        uint32_t *step = td_reallocarray(NULL, 256, sizeof *step);
        if (!step) return G_LIMITED;
        memset(step, 0xFF, 256 * sizeof *step);
        m->states[state].step = step;
    }
    begin(m);
    for (uint32_t i = 0; i < m->states[state].n; i++) {
        g_config c = m->pool[m->states[state].first + i];
        const g_op *o = g_config_op(m, c);
        if (o->kind == OP_BYTE && o->lo <= byte && byte <= o->hi) go(m, o->a, (uint32_t)c);
    }
    close_set(m);
    uint32_t to = intern(m);
    if (to != G_LIMITED) m->states[state].step[byte] = to; /* a later step may have more room */
    return to;
}

uint32_t g_machine_token(g_machine *m, uint32_t state, uint32_t token, bool negatable, uint32_t also) {
    begin(m);
    for (uint32_t i = 0; i < m->states[state].n; i++) {
        g_config c = m->pool[m->states[state].first + i];
        const g_op *o = g_config_op(m, c);
        bool match = o->kind == OP_TOKEN ? o->b == token
                                         : o->kind == OP_NOT_TOKEN && negatable && o->b != token && o->c != token;
        if (match) go(m, o->a, (uint32_t)c);
    }
    if (m->n_work == 0) return m->limited ? (uint32_t)G_LIMITED : also;
    for (uint32_t i = 0; i < m->states[also].n; i++) {
        g_config c = m->pool[m->states[also].first + i]; /* closed already */
        if (first_time(m, c)) keep(m, c);
    }
    close_set(m);
    return intern(m);
}

/* The frame with far-away counters set to their canonical value, see the header. Chains are short: G_MAX_FRAMES_DEEP.
 */
static uint32_t clamp_frame(g_machine *m, uint32_t frame, uint32_t reach) {
    uint32_t chain[G_MAX_FRAMES_DEEP + 1], n = 0, at = 0;
    for (; frame; frame = m->frames[frame].parent) chain[n++] = frame;
    while (n-- > 0 && !m->limited) {
        g_frame f = m->frames[chain[n]];
        const g_op *o = &m->program->ops[f.op];
        if (o->kind == OP_REPEAT) {
            const g_repetition *r = &m->program->repetitions[o->a];
            if (f.payload + reach < r->min)
                f.payload = 0;
            else if (f.payload > r->min && (r->max == G_INF || f.payload + reach < r->max))
                f.payload = r->min;
        }
        at = push(m, f.op, f.payload, at);
    }
    return at;
}

uint32_t g_machine_mask_state(g_machine *m, uint32_t state, uint32_t reach) {
    if (m->states[state].mask_state) return m->states[state].mask_state;
    begin(m);
    for (uint32_t i = 0; i < m->states[state].n && !m->limited; i++) {
        g_config c = m->pool[m->states[state].first + i];
        c = (c & ~(uint64_t)UINT32_MAX) | clamp_frame(m, (uint32_t)c, reach);
        if (first_time(m, c)) keep(m, c);
    }
    uint32_t to = intern(m);
    if (to <= G_LIMITED) return state;
    return m->states[state].mask_state = to;
}

/* ---- collection -------------------------------------------------------------------------------------------------- */

bool g_machine_crowded(const g_machine *m) {
    return m->n_states > G_COLLECT_STATES || m->n_frames > G_MAX_FRAMES / 4 || m->n_pool > G_MAX_POOL / 4;
}

/* Frames in use get new numbers in their old order (a parent always precedes its children), so that sets stay sorted.
 */
static void compact_frames(g_machine *m, uint32_t *moved, const uint32_t *old_states, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) {
        const g_state *s = &m->states[old_states[k]];
        for (uint32_t i = 0; i < s->n; i++) moved[(uint32_t)m->pool[s->first + i]] = 1;
    }
    for (uint32_t i = m->n_frames; i-- > 1;)
        if (moved[i]) moved[m->frames[i].parent] = 1;
    memset(m->frame_buckets, 0, N_BUCKETS * sizeof *m->frame_buckets);
    uint32_t n_old = m->n_frames;
    m->n_frames = 1;
    moved[0] = 0;
    for (uint32_t i = 1; i < n_old; i++) {
        g_frame f = m->frames[i];
        if (moved[i]) moved[i] = push(m, f.op, f.payload, moved[f.parent]);
    }
}

bool g_machine_collect(g_machine *m, uint32_t **roots, uint32_t n) {
    uint32_t n_configs = 0;
    for (uint32_t i = 0; i < n; i++) n_configs += m->states[*roots[i]].n;
    uint32_t *moved = td_calloc(m->n_frames, sizeof *moved), *old = td_calloc((size_t)n + 1, sizeof *old);
    g_config *kept = td_calloc((size_t)n_configs + 1, sizeof *kept);
    if (!moved || !old || !kept) {
        free(moved);
        free(old);
        free(kept);
        return false;
    }
    for (uint32_t i = 0; i < n; i++) old[i] = *roots[i];
    compact_frames(m, moved, old, n);
    uint32_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        const g_state *s = &m->states[old[i]];
        for (uint32_t k = 0; k < s->n; k++) {
            g_config c = m->pool[s->first + k];
            kept[at++] = (c & ~(uint64_t)UINT32_MAX) | moved[(uint32_t)c];
        }
        old[i] = old[i] <= G_LIMITED ? old[i] : s->n; /* from now on: the number of its configurations */
    }
    free_steps(m);
    memset(m->state_buckets, 0, N_BUCKETS * sizeof *m->state_buckets);
    m->n_states = 2;
    m->n_pool = 0;
    at = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (*roots[i] <= G_LIMITED) continue;
        begin(m);
        for (uint32_t k = 0; k < old[i]; k++) keep(m, kept[at++]);
        *roots[i] = intern(m);
    }
    free(moved);
    free(old);
    free(kept);
    return true;
}
