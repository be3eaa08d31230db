/* The chat of `tandem run`: turns are rendered in Gemma 4's format, answers parsed while they come; the cache keeps
 * what the turns have in common, so each turn computes only what is new. */
#include "run.h"

#include "../base/arena.h"
#include "../base/checked.h"
#include "../base/status.h"
#include "../server/timings.h"
#include "../text/chat.h"
#include "../text/chat_parse.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef TD_HAVE_LIBEDIT
#include <editline/readline.h>
#endif

#define MAX_TURNS 4096

typedef struct turn {
    td_chat_role role;
    td_buf text, reasoning;
    json_t *calls; /* [{name, arguments text}] */
} turn;

typedef struct chat {
    run *r;
    td_chat_vocab cv;
    td_chat_profile profile;
    bool thinking;
    turn turns[MAX_TURNS];
    int n_turns;
    td_timings last;
    bool have_last;
} chat;

/* ---- the answer while it comes ---- */

typedef struct printer {
    chat *c;
    td_chat_parser *parser;
    td_chat_reply reply;
    bool drafted, in_thought, quiet;
} printer;

static void paint(const printer *p, const char *code) {
    if (p->c->r->o->color) fputs(code, stdout);
}

static bool on_event(void *context, const td_chat_event *e) {
    printer *p = context;
    if (!td_chat_reply_add(&p->reply, e)) return false;
    if (p->quiet) return true;
    bool thought = e->kind == TD_CHAT_REASONING || e->kind == TD_CHAT_REASONING_BREAK;
    if (thought != p->in_thought) {
        if (p->in_thought) fputs("\n\n", stdout);
        p->in_thought = thought;
    }
    bool tint = p->drafted && p->c->r->o->verbose_spec;
    if (thought) paint(p, "\033[2m");
    if (tint) paint(p, "\033[32m");
    if (e->kind == TD_CHAT_CALL_BEGIN) fputs("\n[call ", stdout);
    fwrite(e->text.data, 1, e->text.n_bytes, stdout);
    if (e->kind == TD_CHAT_CALL_BEGIN) fputc(' ', stdout);
    if (e->kind == TD_CHAT_CALL_END) fputs("]\n", stdout);
    if (thought || tint) paint(p, "\033[0m");
    return true;
}

static void on_tokens(void *user, const td_event *ev) {
    printer *p = user;
    for (int i = 0; i < ev->n_tokens; i++) {
        p->drafted = ev->drafted[i];
        if (!td_token_is_end(p->c->r->e, ev->tokens[i]))
            (void)td_chat_parser_token(p->parser, p->c->r->vocab, ev->tokens[i]);
    }
    fflush(stdout);
}

/* ---- turns ---- */

static turn *add_turn(chat *c, td_chat_role role, const char *text, size_t n) {
    if (c->n_turns == MAX_TURNS) return NULL;
    turn *t = &c->turns[c->n_turns];
    *t = (turn){.role = role};
    if (n > 0 && !td_buf_add(&t->text, text, n)) return NULL;
    c->n_turns++;
    return t;
}

static void drop_turns(chat *c, int keep) {
    while (c->n_turns > keep) {
        turn *t = &c->turns[--c->n_turns];
        td_buf_free(&t->text);
        td_buf_free(&t->reasoning);
        json_decref(t->calls);
    }
}

static td_slice slice(const td_buf *b) {
    return (td_slice){b->data ? b->data : "", b->n_bytes};
}

static td_status prompt_ids(chat *c, td_chat_prompt *prompt, td_tokens *ids, td_error *err) {
    td_arena *a = td_arena_create((size_t)64 << 20);
    td_chat_message *m = td_calloc((size_t)c->n_turns + 1, sizeof *m);
    td_status status = TD_OK;
    if (!a || !m) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the chat");
    for (int i = 0; i < c->n_turns && !status; i++)
        m[i] = (td_chat_message){.role = c->turns[i].role,
                                 .content_kind = TD_CHAT_STRING,
                                 .text = slice(&c->turns[i].text),
                                 .reasoning = slice(&c->turns[i].reasoning)};
    td_chat_options options = {.profile = c->profile, .enable_thinking = c->thinking};
    if (!status) status = td_chat_render(prompt, m, (size_t)c->n_turns, NULL, 0, &options, a, err);
    if (!status) status = td_chat_prompt_tokenize(prompt, &c->cv, false, ids, NULL, err);
    free(m);
    td_arena_destroy(a);
    return status;
}

static void print_json(const printer *p, const run_result *res) {
    td_buf content = {0}, reasoning = {0};
    json_t *o = json_object(), *ids = json_array(), *calls = json_array();
    (void)td_chat_reply_content(&p->reply, &content);
    (void)td_chat_reply_reasoning(&p->reply, &reasoning);
    for (int i = 0; i < res->n_tokens; i++) json_array_append_new(ids, json_integer(res->tokens[i]));
    for (size_t i = 0; i < p->reply.n_blocks; i++) {
        const td_chat_block *b = &p->reply.blocks[i];
        if (b->kind != TD_CHAT_BLOCK_CALL) continue;
        json_t *call = json_object();
        json_object_set_new(call, "name", json_stringn(b->name.data ? b->name.data : "", b->name.n_bytes));
        json_object_set_new(call, "arguments", json_stringn(b->text.data ? b->text.data : "", b->text.n_bytes));
        json_array_append_new(calls, call);
    }
    json_object_set_new(o, "text", json_stringn(content.data ? content.data : "", content.n_bytes));
    if (reasoning.n_bytes) json_object_set_new(o, "reasoning_content", json_stringn(reasoning.data, reasoning.n_bytes));
    if (json_array_size(calls) > 0) json_object_set(o, "tool_calls", calls);
    json_decref(calls);
    json_object_set_new(o, "tokens", ids);
    json_object_set_new(o, "stop_type", json_string(stop_type(res->finish)));
    json_object_set_new(o, "tokens_evaluated", json_integer(res->n_prompt));
    json_object_set_new(o, "tokens_predicted", json_integer(res->n_tokens));
    json_object_set_new(o, "timings", timings_json(&res->timings));
    json_dumpf(o, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(o);
    td_buf_free(&content);
    td_buf_free(&reasoning);
}

static td_status answer(chat *c, td_error *err) {
    td_chat_prompt prompt = {0};
    td_tokens ids = {0};
    printer p = {.c = c, .quiet = c->r->o->json};
    run_result res = {0};
    td_status status = prompt_ids(c, &prompt, &ids, err);
    td_chat_parse_options parse = {.start = &prompt.start, .sink = on_event, .context = &p};
    if (!status) status = td_chat_parser_create(&p.parser, &parse, err);
    run_sink sink = {on_tokens, &p};
    if (!status) {
        status = run_generate(c->r, ids.ids, (int)ids.n, &sink, &res);
        if (status) *err = res.error;
        bool whole = res.finish == TD_FINISH_END || res.finish == TD_FINISH_STOP;
        p.drafted = false;
        (void)td_chat_parser_finish(p.parser, whole ? TD_CHAT_END_MODEL : TD_CHAT_END_CUT);
    }
    if (!status) {
        turn *t = add_turn(c, TD_CHAT_ASSISTANT, NULL, 0);
        if (t) (void)td_chat_reply_content(&p.reply, &t->text);
        c->last = res.timings;
        c->have_last = true;
        if (p.quiet) {
            print_json(&p, &res);
        } else {
            putchar('\n');
            fflush(stdout);
            if (c->r->o->show_timings) run_print_timings(stderr, &res.timings);
        }
    }
    run_result_free(&res);
    td_chat_reply_free(&p.reply);
    td_chat_parser_destroy(p.parser);
    td_tokens_free(&ids);
    td_chat_prompt_free(&prompt);
    return status;
}

/* ---- the terminal ---- */

static char *read_line(const char *prompt) {
#ifdef TD_HAVE_LIBEDIT
    if (isatty(STDIN_FILENO)) return readline(prompt);
#endif
    fputs(prompt, stderr);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n > 0 && line[n - 1] == '\n') line[n - 1] = 0;
    return line;
}

#ifdef TD_HAVE_LIBEDIT
static void history_path(const run_options *o, char *out, size_t cap) {
    const char *home = getenv("HOME"), *state = getenv("XDG_STATE_HOME");
    out[0] = 0;
    if (o->history) {
        snprintf(out, cap, "%s", o->history);
    } else if (state && *state) {
        snprintf(out, cap, "%s/tandem/history", state);
    } else if (home && *home) {
        snprintf(out, cap, "%s/.local/state/tandem/history", home);
    }
}

static void make_parents(const char *path) {
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *c = part + 1; *c; c++) {
        if (*c != '/') continue;
        *c = 0;
        (void)mkdir(part, 0700);
        *c = '/';
    }
}

#endif

static void load_history(const run_options *o) {
#ifdef TD_HAVE_LIBEDIT
    char path[4096];
    using_history();
    history_path(o, path, sizeof path);
    if (path[0]) (void)read_history(path);
    stifle_history(1000);
#else
    (void)o;
#endif
}

static void save_history(const run_options *o) {
#ifdef TD_HAVE_LIBEDIT
    char path[4096];
    history_path(o, path, sizeof path);
    if (!path[0]) return;
    make_parents(path);
    (void)write_history(path);
#else
    (void)o;
#endif
}

static const char help[] =
    "/exit leave   /clear forget the conversation   /regen answer again   /system TEXT set the system prompt\n"
    "/think on|off thinking   /read FILE send a file   /help this list   Ctrl-C stops an answer\n";

static bool set_system(chat *c, const char *text) {
    drop_turns(c, 0);
    return !*text || add_turn(c, TD_CHAT_SYSTEM, text, strlen(text)) != NULL;
}

static bool send_file(chat *c, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s cannot be opened\n", path);
        return false;
    }
    turn *t = add_turn(c, TD_CHAT_USER, NULL, 0);
    char block[4096];
    size_t n = 0;
    while (t && (n = fread(block, 1, sizeof block, f)) > 0)
        if (!td_buf_add(&t->text, block, n)) break;
    fclose(f);
    return t != NULL;
}

/* Carries out a line that begins with a slash; *ask: the model is to answer now. False: leave. */
static bool command(chat *c, const char *line, bool *ask) {
    *ask = false;
    int first = c->n_turns > 0 && c->turns[0].role == TD_CHAT_SYSTEM ? 1 : 0;
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0) return false;
    if (strcmp(line, "/clear") == 0) {
        drop_turns(c, first);
    } else if (strcmp(line, "/regen") == 0) {
        if (c->n_turns > first && c->turns[c->n_turns - 1].role == TD_CHAT_ASSISTANT) drop_turns(c, c->n_turns - 1);
        *ask = c->n_turns > first;
    } else if (strncmp(line, "/system", 7) == 0) {
        (void)set_system(c, line[7] == ' ' ? line + 8 : "");
    } else if (strncmp(line, "/think", 6) == 0) {
        c->thinking = strcmp(line, "/think off") != 0;
        fprintf(stderr, "thinking %s\n", c->thinking ? "on" : "off");
    } else if (strncmp(line, "/read ", 6) == 0) {
        *ask = send_file(c, line + 6);
    } else {
        fputs(help, stderr);
    }
    return true;
}

static int terminal(chat *c) {
    td_engine_info info;
    td_engine_get_info(c->r->e, &info);
    fprintf(stderr, "%s, %d tokens of context%s. /help lists the commands.\n", info.model_name, info.n_ctx,
            info.draft_path ? ", drafting with its assistant" : "");
    load_history(c->r->o);
    int code = 0;
    for (;;) {
        (void)run_interrupted(true);
        char *line = read_line("\n> ");
        if (!line) break;
        bool ask = *line != 0 && *line != '/', go_on = true;
        if (*line == '/') go_on = command(c, line, &ask);
#ifdef TD_HAVE_LIBEDIT
        if (*line) add_history(line);
#endif
        if (ask && *line != '/' && !add_turn(c, TD_CHAT_USER, line, strlen(line))) go_on = false;
        free(line);
        td_error err = {0};
        if (go_on && ask && answer(c, &err)) {
            fprintf(stderr, "\ntandem run: %s\n", err.text);
            drop_turns(c, c->n_turns - 1); /* the turn that could not be answered */
        }
        if (!go_on || (ask && c->r->o->single_turn)) break;
    }
    save_history(c->r->o);
    return code;
}

bool run_has_template(const run *r) {
    size_t n = 0;
    return td_engine_metadata(r->e, "tokenizer.chat_template", &n) != NULL && n > 0;
}

static td_status prepare(chat *c, td_error *err) {
    size_t n = 0;
    const char *text = td_engine_metadata(c->r->e, "tokenizer.chat_template", &n), *warning = NULL;
    td_engine_info info;
    td_engine_get_info(c->r->e, &info);
    (void)td_chat_profile_detect(text, n, info.per_layer_inputs, &c->profile, &warning);
    if (warning) fprintf(stderr, "tandem run: %s\n", warning);
    td_status status = td_chat_vocab_init(&c->cv, c->r->vocab, &warning, err);
    if (!status && warning) fprintf(stderr, "tandem run: %s\n", warning);
    c->thinking = c->r->o->reasoning == 1;
    if (!status && c->r->o->system && !set_system(c, c->r->o->system))
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    return status;
}

int run_chat(run *r, const char *first, size_t n_bytes) {
    chat *c = td_calloc(1, sizeof *c);
    td_error err = {0};
    if (!c) return 1;
    c->r = r;
    int code = 1;
    td_status status = prepare(c, &err);
    if (!status && first) {
        if (!add_turn(c, TD_CHAT_USER, first, n_bytes))
            status = td_fail(&err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
        if (!status) status = answer(c, &err);
        code = run_interrupted(false) ? 130 : 0;
    } else if (!status) {
        code = terminal(c);
    }
    if (status) {
        fprintf(stderr, "tandem run: %s\n", err.text);
        code = 1;
    }
    drop_turns(c, 0);
    free(c);
    return code;
}
