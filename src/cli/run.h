/* `tandem run`, shared by its files: one generation printed as it is made, and the chat in the terminal. */
#ifndef TD_CLI_RUN_H
#define TD_CLI_RUN_H

#include "../text/buf.h"
#include "engine_options.h"

#include <jansson.h>
#include <stdio.h>

typedef struct run_options {
    const char *prompt, *file, *system, *system_file, *history;
    int64_t n_predict, keep, max_ms;
    bool json, display_prompt, verbose_spec, special, single_turn, raw, escape, show_timings, color;
    int conversation; /* auto on off */
    int reasoning;    /* auto on off */
    td_option_list stop;
    const char *grammar, *grammar_file, *json_schema, *json_schema_file;
} run_options;

typedef struct run {
    run_options *o;
    td_engine *e;
    const td_vocab *vocab;
    td_sampling sampling;
    bool tty;
} run;

/* What became of one generation. */
typedef struct run_result {
    td_finish finish;
    td_timings timings;
    td_error error;
    uint32_t *tokens; /* [n_tokens], owned */
    int n_tokens, n_prompt;
    json_t *token_probs;
    char *text; /* owned */
    size_t n_text;
} run_result;

/* Receives text as it comes. `drafted` 1 where the text's tokens were accepted drafts. */
typedef struct run_sink {
    void (*tokens)(void *user, const td_event *ev);
    void *user;
} run_sink;

td_status run_read_path(const char *path, td_buf *out, td_error *err); /* appends a whole file */
void run_install_sigint(void);
bool run_interrupted(bool clear);

/* Generates from `ids`; Ctrl-C cancels it. Fills `r`; the caller frees it with run_result_free. */
td_status run_generate(run *r, const uint32_t *ids, int n, const run_sink *sink, run_result *out);
void run_result_free(run_result *r);

/* Prints tokens as text, accepted drafts coloured when asked. */
void run_print_tokens(run *r, FILE *f, const td_event *ev);
void run_print_timings(FILE *f, const td_timings *t);

/* run_chat.c: a conversation. With `first` (n_bytes long) one turn, without it turns are read from the terminal. */
int run_chat(run *r, const char *first, size_t n_bytes);
bool run_has_template(const run *r);

#endif
