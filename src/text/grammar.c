/* Grammars for callers: compilation, positions of generations, token masks, forced text.
 *
 * A mask is one walk over the tree of all token texts with the automaton; masks are kept per state, and states whose
 * counters are far from their bounds share one (g_machine_mask_state), so a long string costs one walk. */
#include "grammar.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "grammar_machine.h"
#include "grammar_parse.h"
#include "grammar_schema.h"
#include "token_trie.h"
#include "tokenizer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { N_MASKS = 24, MAX_FORCED = 512 };

typedef struct kept_mask {
    uint64_t *bits, used; /* `used`: time of the last use */
    uint32_t state;       /* G_DEAD: free */
    bool limited;
} kept_mask;

typedef struct path_step {
    uint32_t state;
    const uint32_t *step; /* of this state; NULL before its first step */
} path_step;

struct td_grammar {
    atomic_int refs;
    pthread_mutex_t lock;
    const td_vocab *vocab;
    const td_token_trie *trie;
    g_program program;
    g_machine machine;
    uint32_t start;
    td_grammar_state *live; /* all positions in this grammar: the roots of a collection */
    path_step *path;        /* [max_depth + 2] along one path of the tree */
    kept_mask masks[N_MASKS];
    uint64_t clock;
};

struct td_grammar_state {
    td_grammar *grammar;
    td_grammar_state *prev, *next;
    uint32_t at;
    bool ended; /* an end token was accepted */
};

/* ---- compilation ------------------------------------------------------------------------------------------------- */

static void destroy(td_grammar *g) {
    g_machine_free(&g->machine);
    g_program_free(&g->program);
    for (int i = 0; i < N_MASKS; i++) free(g->masks[i].bits);
    free(g->path);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

td_status td_grammar_from_tree(td_grammar **out, const td_vocab *v, const g_tree *tree, uint32_t root, td_error *err) {
    *out = NULL;
    td_grammar *g = td_calloc(1, sizeof *g);
    if (!g) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    atomic_init(&g->refs, 1);
    pthread_mutex_init(&g->lock, NULL);
    g->vocab = v;
    td_status st = g_program_build(&g->program, tree, root, err);
    if (!st) {
        g->trie = td_vocab_trie(v);
        g->path = g->trie ? td_calloc((size_t)g->trie->max_depth + 2, sizeof *g->path) : NULL;
        if (!g->path || !g_machine_init(&g->machine, &g->program))
            st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    }
    if (!st) g->start = g_machine_start(&g->machine);
    if (!st && g->start == G_LIMITED)
        st = td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too ambiguous or nested too deep");
    if (!st && g->start == G_DEAD)
        st = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the grammar does not match any text");
    if (st)
        destroy(g);
    else
        *out = g;
    return st;
}

td_status td_grammar_compile(td_grammar **out, const td_vocab *v, const char *gbnf, size_t n_bytes, const char *root,
                             td_error *err) {
    g_tree tree;
    *out = NULL;
    if (!root) root = "root";
    td_status st = TD_OK;
    if (!g_tree_init(&tree)) st = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the grammar");
    if (!st) st = td_gbnf_parse(&tree, v, gbnf, n_bytes, err);
    uint32_t n_rules = tree.n_rules, index = st ? 0 : g_rule_named(&tree, root, strlen(root), 0);
    if (!st && (index >= n_rules || tree.failed))
        st = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the grammar has no rule \"%.80s\"", root);
    if (!st) st = td_grammar_from_tree(out, v, &tree, index, err);
    g_tree_free(&tree);
    return st;
}

td_grammar *td_grammar_ref(td_grammar *g) {
    if (g) atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
    return g;
}

void td_grammar_unref(td_grammar *g) {
    if (g && atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) == 1) destroy(g);
}

/* ---- positions --------------------------------------------------------------------------------------------------- */

static td_status new_state(td_grammar_state **out, td_grammar *g, const td_grammar_state *from, td_error *err) {
    td_grammar_state *s = td_calloc(1, sizeof *s);
    *out = s;
    if (!s) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a grammar's state");
    s->grammar = td_grammar_ref(g);
    pthread_mutex_lock(&g->lock);
    s->at = from ? from->at : g->start;
    s->ended = from && from->ended;
    s->next = g->live;
    if (g->live) g->live->prev = s;
    g->live = s;
    pthread_mutex_unlock(&g->lock);
    return TD_OK;
}

td_status td_grammar_state_create(td_grammar_state **out, td_grammar *g, td_error *err) {
    return new_state(out, g, NULL, err);
}

td_status td_grammar_state_clone(td_grammar_state **out, const td_grammar_state *s, td_error *err) {
    return new_state(out, s->grammar, s, err);
}

td_status td_grammar_state_copy(td_grammar_state *dst, const td_grammar_state *src, td_error *err) {
    if (dst->grammar != src->grammar)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "a state of one grammar cannot become one of another");
    pthread_mutex_lock(&dst->grammar->lock);
    dst->at = src->at;
    dst->ended = src->ended;
    pthread_mutex_unlock(&dst->grammar->lock);
    return TD_OK;
}

void td_grammar_state_destroy(td_grammar_state *s) {
    if (!s) return;
    td_grammar *g = s->grammar;
    pthread_mutex_lock(&g->lock);
    if (s->prev) s->prev->next = s->next;
    if (s->next) s->next->prev = s->prev;
    if (g->live == s) g->live = s->next;
    pthread_mutex_unlock(&g->lock);
    free(s);
    td_grammar_unref(g);
}

/* Called at the start of every operation, when no state number is held but those of `live`. */
static void make_room(td_grammar *g) {
    if (!g_machine_crowded(&g->machine)) return;
    size_t n = 1;
    for (const td_grammar_state *s = g->live; s; s = s->next) n++;
    uint32_t **roots = td_calloc(n, sizeof *roots);
    if (!roots) return;
    n = 0;
    roots[n++] = &g->start;
    for (td_grammar_state *s = g->live; s; s = s->next) roots[n++] = &s->at;
    if (g_machine_collect(&g->machine, roots, (uint32_t)n))
        for (int i = 0; i < N_MASKS; i++) g->masks[i].state = G_DEAD;
    free(roots);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

/* The state after a token that is no end token. */
static uint32_t after_token(td_grammar *g, uint32_t at, uint32_t token) {
    g_machine *m = &g->machine;
    uint32_t flags = td_vocab_flags(g->vocab, token), by_text = G_DEAD;
    if (token >= td_vocab_size(g->vocab)) return G_DEAD;
    if (flags & (TD_TOKEN_NORMAL | TD_TOKEN_BYTE)) {
        td_slice p = td_vocab_piece(g->vocab, token, true);
        by_text = p.n_bytes ? at : (uint32_t)G_DEAD;
        for (size_t i = 0; i < p.n_bytes && by_text > G_LIMITED; i++)
            by_text = g_machine_step(m, by_text, (uint8_t)p.data[i]);
    }
    if (!m->states[at].has_token) return by_text;
    return g_machine_token(m, at, token, !(flags & (TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN)), by_text);
}

bool td_grammar_allows(const td_grammar_state *s, uint32_t token) {
    td_grammar *g = s->grammar;
    pthread_mutex_lock(&g->lock);
    make_room(g);
    bool ok = !s->ended && (td_vocab_is_end(g->vocab, token) ? g->machine.states[s->at].complete
                                                             : after_token(g, s->at, token) > G_LIMITED);
    pthread_mutex_unlock(&g->lock);
    return ok;
}

static td_status accept_locked(td_grammar_state *s, uint32_t token, td_error *err) {
    td_grammar *g = s->grammar;
    bool end = td_vocab_is_end(g->vocab, token);
    uint32_t to = G_DEAD;
    if (!s->ended && end) to = g->machine.states[s->at].complete ? s->at : (uint32_t)G_DEAD;
    if (!s->ended && !end) to = after_token(g, s->at, token);
    if (to == G_LIMITED)
        return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too ambiguous or nested too deep");
    if (to == G_DEAD) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the grammar does not allow token %u", token);
    s->at = to;
    s->ended = end;
    return TD_OK;
}

td_status td_grammar_accept(td_grammar_state *s, uint32_t token, td_error *err) {
    pthread_mutex_lock(&s->grammar->lock);
    make_room(s->grammar);
    td_status st = accept_locked(s, token, err);
    pthread_mutex_unlock(&s->grammar->lock);
    return st;
}

/* ---- masks ------------------------------------------------------------------------------------------------------- */

static void set_bit(uint64_t *bits, uint32_t id) {
    bits[id >> 6] |= 1ull << (id & 63);
}

/* Tokens allowed by their text: one walk over the tree, leaving a subtree where the automaton dies. */
static bool walk(td_grammar *g, uint32_t at, uint64_t *bits) {
    const td_token_trie *t = g->trie;
    path_step *path = g->path;
    bool limited = false;
    path[0] = (path_step){at, g->machine.states[at].step};
    for (uint32_t i = 0; i < t->n_nodes;) {
        const td_trie_node *n = &t->nodes[i];
        path_step *from = &path[n->depth - 1];
        uint32_t to = from->step ? from->step[n->byte] : UINT32_MAX;
        if (to == UINT32_MAX) {
            to = g_machine_step_slow(&g->machine, from->state, n->byte);
            from->step = g->machine.states[from->state].step;
        }
        if (to <= G_LIMITED) {
            limited |= to == G_LIMITED;
            i = n->skip;
            continue;
        }
        path[n->depth] = (path_step){to, g->machine.states[to].step};
        for (uint32_t k = n->first_token; k < n[1].first_token; k++) set_bit(bits, t->tokens[k]);
        i++;
    }
    return limited;
}

/* Tokens allowed as such. */
static void add_token_edges(td_grammar *g, uint32_t at, uint64_t *bits) {
    const td_vocab *v = g->vocab;
    const uint32_t hidden = TD_TOKEN_CONTROL | TD_TOKEN_UNKNOWN | TD_TOKEN_END;
    for (uint32_t i = 0; i < g->machine.states[at].n; i++) {
        const g_op *o = g_config_op(&g->machine, g_machine_configs(&g->machine, at)[i]);
        if (o->kind == OP_TOKEN && !td_vocab_is_end(v, o->b)) set_bit(bits, o->b);
        for (uint32_t id = 0; o->kind == OP_NOT_TOKEN && id < td_vocab_size(v); id++)
            if (id != o->b && id != o->c && !(td_vocab_flags(v, id) & hidden)) set_bit(bits, id);
    }
}

/* The kept mask of a state, made if it is not there; NULL without memory. */
static const kept_mask *get_mask(td_grammar *g, uint32_t at) {
    size_t n_words = ((size_t)td_vocab_size(g->vocab) + 63) / 64;
    kept_mask *oldest = &g->masks[0];
    for (int i = 0; i < N_MASKS; i++) {
        kept_mask *k = &g->masks[i];
        if (k->state == at) {
            k->used = ++g->clock;
            return k;
        }
        if (k->state == G_DEAD ? oldest->state != G_DEAD : oldest->state != G_DEAD && k->used < oldest->used)
            oldest = k;
    }
    if (!oldest->bits) oldest->bits = td_calloc(n_words, sizeof(uint64_t));
    if (!oldest->bits) return NULL;
    memset(oldest->bits, 0, n_words * sizeof(uint64_t));
    oldest->limited = walk(g, at, oldest->bits);
    if (g->machine.states[at].has_token) add_token_edges(g, at, oldest->bits);
    uint32_t n_ends = 0;
    const uint32_t *ends = td_vocab_ends(g->vocab, &n_ends);
    for (uint32_t i = 0; i < n_ends && g->machine.states[at].complete; i++) set_bit(oldest->bits, ends[i]);
    oldest->state = at;
    oldest->used = ++g->clock;
    return oldest;
}

td_status td_grammar_mask(const td_grammar_state *s, uint64_t *bits, td_error *err) {
    td_grammar *g = s->grammar;
    size_t n_words = ((size_t)td_vocab_size(g->vocab) + 63) / 64, used = 0;
    memset(bits, 0, n_words * sizeof *bits);
    if (s->ended) return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the grammar has ended");
    pthread_mutex_lock(&g->lock);
    make_room(g);
    const kept_mask *k = get_mask(g, g_machine_mask_state(&g->machine, s->at, g->trie->max_depth));
    bool limited = k && k->limited;
    if (k) memcpy(bits, k->bits, n_words * sizeof *bits);
    pthread_mutex_unlock(&g->lock);
    if (!k) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for a token mask");
    while (used < n_words && !bits[used]) used++;
    if (used < n_words) return TD_OK;
    if (limited) return td_fail(err, TD_ERR_LIMIT, TD_NO_OFFSET, "the grammar is too ambiguous or nested too deep");
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the grammar allows no token here");
}

/* ---- forced text ------------------------------------------------------------------------------------------------- */

/* Complete, and nothing may follow. */
static bool is_finished(const g_machine *m, uint32_t at) {
    return m->states[at].complete && m->states[at].n == 1;
}

/* The one byte that can come next, -1 if there is a choice, or -2 with *token if only that token can come. */
static int only_choice(const g_machine *m, uint32_t at, uint32_t *token) {
    const g_config *c = g_machine_configs(m, at);
    int byte = -1;
    uint32_t only = TD_TOKEN_NONE;
    for (uint32_t i = 0; i < m->states[at].n; i++) {
        const g_op *o = g_config_op(m, c[i]);
        if (o->kind == OP_TOKEN && (only == TD_TOKEN_NONE || only == o->b)) {
            only = o->b;
        } else if (o->kind == OP_BYTE && o->lo == o->hi && (byte < 0 || byte == o->lo)) {
            byte = o->lo;
        } else {
            return -1;
        }
    }
    if (byte >= 0) return only == TD_TOKEN_NONE ? byte : -1;
    *token = only;
    return only == TD_TOKEN_NONE ? -1 : -2;
}

size_t td_grammar_forced(const td_grammar_state *s, uint32_t *out, size_t cap) {
    td_grammar *g = s->grammar;
    char text[MAX_FORCED];
    size_t n = 0, n_out = 0;
    uint32_t token = TD_TOKEN_NONE;
    td_tokens ids = {0};
    int choice = -1;
    bool finished = false;
    pthread_mutex_lock(&g->lock);
    make_room(g);
    for (uint32_t at = s->at; !s->ended && at > G_LIMITED && n < MAX_FORCED;
         at = g_machine_step(&g->machine, at, (uint8_t)choice)) {
        choice = only_choice(&g->machine, at, &token);
        finished = is_finished(&g->machine, at);
        if (choice < 0) break;
        text[n++] = (char)choice;
    }
    pthread_mutex_unlock(&g->lock);
    n -= td_utf8_tail(text, n);
    /* Begun inside a character: no text to tokenise. */
    if (!td_utf8_valid(text, n)) return 0;
    if (td_vocab_tokenize(g->vocab, text, n, TD_SPECIAL_NONE, false, &ids, NULL)) return 0;
    bool token_next = choice == -2 && token != TD_TOKEN_NONE;
    if (ids.n && !token_next && !finished) ids.n--; /* what follows may join the last one */
    if (token_next && !td_tokens_add(&ids, token)) ids.n = 0;
    for (; n_out < ids.n && n_out < cap; n_out++) out[n_out] = ids.ids[n_out];
    td_tokens_free(&ids);
    return n_out;
}

bool td_grammar_complete(const td_grammar_state *s) {
    pthread_mutex_lock(&s->grammar->lock);
    bool complete = s->ended || s->grammar->machine.states[s->at].complete;
    pthread_mutex_unlock(&s->grammar->lock);
    return complete;
}

bool td_grammar_finished(const td_grammar_state *s) {
    pthread_mutex_lock(&s->grammar->lock);
    bool finished = s->ended || is_finished(&s->grammar->machine, s->at);
    pthread_mutex_unlock(&s->grammar->lock);
    return finished;
}
