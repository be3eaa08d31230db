/* See eval_lookup.h. A chat in Gemma's form: a list of sentences about made-up people, one of them says where somebody
 * lives, and the question asks for it. Between the sentence and the question stand as many tokens of other sentences as
 * the distance says. The answer is not sampled but scored: it counts as found when each of its tokens is the most
 * probable one. The texts are the same for every model of one vocabulary and every cache type, so runs compare. */
#include "eval_lookup.h"
#include "eval_stats.h"

#include "../base/checked.h"
#include "../base/status.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 64, MAX_TEXT = 1 << 20, MAX_STEPS = 16, N_CITIES = 8 };

static const char *const cities[N_CITIES] = {"London", "Paris", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Oslo"};

typedef struct probe {
    uint32_t *ids; /* prompt and answer */
    size_t n, n_prompt;
} probe;

typedef struct outcome {
    int distance, n, found;
    double nll; /* mean over answers of a token's */
} outcome;

typedef struct marking { /* of one answer, while its rows come */
    const probe *p;
    int n_vocab, n_right;
    double nll;
    td_error *err;
} marking;

static uint32_t draw(uint64_t *seed, uint32_t n) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % n;
}

/* Three syllables: a name that no text holds. */
static void make_name(uint64_t *seed, char out[8]) {
    static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
    for (int i = 0; i < 3; i++) {
        out[2 * i] = consonants[draw(seed, sizeof consonants - 1)];
        out[2 * i + 1] = vowels[draw(seed, sizeof vowels - 1)];
    }
    out[0] = (char)(out[0] - 'a' + 'A');
    out[6] = 0;
}

static size_t put(char *text, size_t at, const char *s) {
    size_t n = strlen(s);
    if (at + n >= MAX_TEXT) return at;
    memcpy(text + at, s, n + 1);
    return at + n;
}

static size_t put_filler(char *text, size_t at, uint64_t *seed) {
    static const char *const colours[] = {"red", "blue", "green", "grey", "yellow", "black"};
    char name[8], line[96];
    make_name(seed, name);
    if (draw(seed, 2))
        snprintf(line, sizeof line, "%s is %u years old.\n", name, 10 + draw(seed, 60));
    else
        snprintf(line, sizeof line, "%s's favourite colour is %s.\n", name, colours[draw(seed, 6)]);
    return put(text, at, line);
}

static td_status tokenize(const td_engine *e, const char *text, unsigned flags, probe *p, td_error *err) {
    size_t n = 0;
    td_status status = td_tokenize(e, text, strlen(text), flags, p->ids + p->n, MAX_TEXT - p->n, &n, err);
    p->n += n;
    return status;
}

/* Sentences before the fact, the fact, then others until `distance` tokens follow it. */
static td_status make_probe(const td_engine *e, int distance, uint64_t seed, char *text, probe *p, td_error *err) {
    char name[8], line[96];
    size_t at = put(text, 0, "<|turn>user\nHere is a text:\n"), n_fact = 0;
    const char *city = cities[draw(&seed, N_CITIES)];
    uint32_t before = draw(&seed, 3);
    for (uint32_t i = 0; i < before; i++) at = put_filler(text, at, &seed);
    make_name(&seed, name);
    snprintf(line, sizeof line, "%s lives in %s.\n", name, city);
    at = put(text, at, line);
    td_status status = TD_OK;
    for (size_t n = 0; !status; at = put_filler(text, at, &seed)) {
        status = td_tokenize(e, text, at, TD_TOKENIZE_BOS | TD_TOKENIZE_SPECIAL, p->ids, MAX_TEXT, &n, err);
        if (!n_fact) n_fact = n;
        if (n >= n_fact + (size_t)distance || at + 256 > MAX_TEXT) break;
    }
    p->n = 0;
    snprintf(line, sizeof line, "\nIn which city does %s live?<turn|>\n<|turn>model\n", name);
    put(text, at, line);
    if (!status) status = tokenize(e, text, TD_TOKENIZE_BOS | TD_TOKENIZE_SPECIAL, p, err);
    p->n_prompt = p->n;
    snprintf(line, sizeof line, "%s lives in %s.", name, city);
    return status ? status : tokenize(e, line, 0, p, err);
}

static bool mark(void *user, int pos, const float *logits) {
    marking *m = user;
    if ((size_t)pos + 1 >= m->p->n) return true;
    uint32_t next = m->p->ids[pos + 1];
    int best = 0;
    double log_sum = 0, nll = 0;
    if (eval_nll(logits, m->n_vocab, (int)next, pos, &log_sum, &nll, m->err)) return false;
    for (int i = 1; i < m->n_vocab; i++) best = logits[i] > logits[best] ? i : best;
    m->n_right += (uint32_t)best == next;
    m->nll += nll;
    return true;
}

static td_status ask(td_engine *e, int n_vocab, const probe *p, outcome *o, td_error *err) {
    int n_answer = (int)(p->n - p->n_prompt);
    marking m = {.p = p, .n_vocab = n_vocab, .err = err};
    td_status status = td_engine_score(e, p->ids, (int)p->n, (int)p->n_prompt - 1, mark, &m, err);
    o->n++;
    o->found += m.n_right == n_answer;
    o->nll += m.nll / n_answer;
    return status;
}

static void show(const outcome *o, int n, const td_engine_info *info, bool json) {
    json_t *rows = json_array();
    if (!json)
        printf("Look-up, cache %s / %s\n  distance   found   of   nats per token of the answer\n",
               td_cache_type_name(info->type_k), td_cache_type_name(info->type_v));
    for (int i = 0; i < n; i++) {
        if (!json) printf("  %8d   %5d %4d   %.4f\n", o[i].distance, o[i].found, o[i].n, o[i].nll / o[i].n);
        json_array_append_new(rows, json_pack("{s:i,s:i,s:i,s:f}", "distance", o[i].distance, "found", o[i].found, "n",
                                              o[i].n, "nll", o[i].nll / o[i].n));
    }
    json_t *all = json_pack("{s:s,s:s,s:s,s:o}", "model", info->model_path, "type_k", td_cache_type_name(info->type_k),
                            "type_v", td_cache_type_name(info->type_v), "lookup", rows);
    if (json) json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (json) putchar('\n');
    json_decref(all);
}

td_status eval_lookup(td_engine *e, int n_ctx, int n_probes, bool json, td_error *err) {
    td_engine_info info;
    td_engine_get_info(e, &info);
    outcome all[MAX_STEPS] = {{0}};
    int n = 0;
    char *text = td_calloc(1, MAX_TEXT);
    probe p = {.ids = td_calloc(MAX_TEXT, sizeof *p.ids)};
    td_status status = TD_OK;
    if (!text || !p.ids) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the texts");
    for (int distance = FIRST; !status && n < MAX_STEPS && distance + FIRST + 64 <= n_ctx; distance *= 2, n++) {
        all[n].distance = distance;
        for (int i = 0; i < n_probes && !status; i++) {
            status = make_probe(e, distance, (uint64_t)i * 1000003 + 17, text, &p, err);
            if (!status) status = ask(e, info.n_vocab, &p, &all[n], err);
        }
    }
    if (!status && n == 0)
        status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--lookup needs a context of at least %d", 2 * FIRST + 64);
    if (!status) show(all, n, &info, json);
    free(text);
    free(p.ids);
    return status;
}
