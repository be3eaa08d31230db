/* `tandem run`: text in, text out; a chat in the terminal when no prompt is given. */
#include "commands.h"
#include "run.h"

#include "../base/checked.h"
#include "../base/status.h"
#include "../server/timings.h"
#include "../text/buf.h"
#include "../text/tokenizer.h"
#include "demo.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT(field) .offset = offsetof(run_options, field)

static const td_option run_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Text"},
    {.kind = TD_OPT_STRING,
     .names = "--prompt -p",
     AT(prompt),
     .arg = "TEXT",
     .help = "The prompt; without it, -f or standard input, else a chat"},
    {.kind = TD_OPT_STRING, .names = "--file -f", AT(file), .arg = "FILE", .help = "Read the prompt from a file"},
    {.kind = TD_OPT_STRING,
     .names = "--system-prompt -sys",
     AT(system),
     .arg = "TEXT",
     .help = "System prompt of a chat"},
    {.kind = TD_OPT_STRING,
     .names = "--system-prompt-file -sysf",
     AT(system_file),
     .arg = "FILE",
     .help = "The same from a file"},
    {.kind = TD_OPT_INT,
     .names = "--predict -n --n-predict",
     AT(n_predict),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1 << 24,
     .env = "N_PREDICT",
     .help = "Tokens to generate; -1: until an end"},
    {.kind = TD_OPT_INT,
     .names = "--keep",
     AT(keep),
     .arg = "N",
     .def = "0",
     .min = -1,
     .max = 1 << 24,
     .help = "Tokens kept by a context shift; -1: the whole prompt"},
    {.kind = TD_OPT_LIST,
     .names = "--reverse-prompt -r --stop",
     AT(stop),
     .arg = "TEXT",
     .help = "Stop before this text; repeatable"},
    {.kind = TD_OPT_INT,
     .names = "--max-ms",
     AT(max_ms),
     .arg = "MS",
     .def = "0",
     .min = 0,
     .max = 1e9,
     .help = "Stop after this time of generation; 0: no limit"},
    {.kind = TD_OPT_CHOICE,
     .names = "--conversation -cnv",
     AT(conversation),
     .arg = "auto|on|off",
     .def = "auto",
     .words = "auto on off",
     .help = "Treat the prompt as a user's turn; auto: when the model has a chat template"},
    {.kind = TD_OPT_SWITCH,
     .names = "--raw -no-cnv --no-conversation",
     AT(raw),
     .help = "The prompt is plain text to be continued"},
    {.kind = TD_OPT_CHOICE,
     .names = "--reasoning -rea",
     AT(reasoning),
     .arg = "on|off|auto",
     .def = "auto",
     .words = "auto on off",
     .env = "REASONING",
     .help = "Thinking; auto: off"},
    {.kind = TD_OPT_SWITCH, .names = "--single-turn -st", AT(single_turn), .help = "One turn of chat, then leave"},
    {.kind = TD_OPT_SWITCH, .names = "--special -sp", AT(special), .help = "Print control tokens"},
    {.kind = TD_OPT_SWITCH,
     .names = "--escape -e",
     AT(escape),
     .negative = "--no-escape",
     .help = "Read \\n, \\t and the like in the prompt (default)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--display-prompt",
     AT(display_prompt),
     .negative = "--no-display-prompt",
     .help = "Print the prompt before a raw continuation"},
    {.kind = TD_OPT_GROUP, .help = "Constraints"},
    {.kind = TD_OPT_STRING, .names = "--grammar", AT(grammar), .arg = "GBNF", .help = "Only text of this grammar"},
    {.kind = TD_OPT_STRING, .names = "--grammar-file", AT(grammar_file), .arg = "FILE", .help = "The same from a file"},
    {.kind = TD_OPT_STRING,
     .names = "--json-schema -j",
     AT(json_schema),
     .arg = "SCHEMA",
     .help = "Only JSON of this schema"},
    {.kind = TD_OPT_STRING,
     .names = "--json-schema-file -jf",
     AT(json_schema_file),
     .arg = "FILE",
     .help = "The same from a file"},
    {.kind = TD_OPT_GROUP, .help = "Output"},
    {.kind = TD_OPT_SWITCH, .names = "--json", AT(json), .help = "Print one JSON object: text, tokens, timings"},
    {.kind = TD_OPT_SWITCH, .names = "--verbose-spec", AT(verbose_spec), .help = "Colour accepted drafts"},
    {.kind = TD_OPT_SWITCH,
     .names = "--show-timings",
     AT(show_timings),
     .negative = "--no-show-timings",
     .env = "SHOW_TIMINGS",
     .help = "Speed and accepted drafts after each answer (default on a terminal)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--color -co",
     AT(color),
     .negative = "--no-color",
     .help = "Colours (default on a terminal)"},
    {.kind = TD_OPT_STRING,
     .names = "--history-file",
     AT(history),
     .arg = "FILE",
     .help = "Lines typed in a chat; default ~/.local/state/tandem/history"},
    {.kind = TD_OPT_ACCEPT, .names = "--no-jinja-chat --multiline-input -mli --simple-io", .help = "No effect"},
    {.kind = TD_OPT_END},
};

static td_status read_stream(FILE *f, const char *name, td_buf *out, td_error *err) {
    char block[65536];
    size_t n = 0;
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        if (!td_buf_add(out, block, n)) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %s", name);
    return ferror(f) ? td_fail(err, TD_ERR_IO, TD_NO_OFFSET, "%s cannot be read", name) : TD_OK;
}

td_status run_read_path(const char *path, td_buf *out, td_error *err) {
    FILE *f = fopen(path, "rb");
    if (!f) return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "the file %s cannot be opened", path);
    td_status status = read_stream(f, path, out, err);
    fclose(f);
    return status;
}

/* \n \t \r \\ \" \' and \xHH, as llama.cpp reads them on the command line. */
static void unescape(td_buf *b) {
    size_t out = 0;
    for (size_t i = 0; i < b->n_bytes; i++) {
        char c = b->data[i];
        if (c != '\\' || i + 1 >= b->n_bytes) {
            b->data[out++] = c;
            continue;
        }
        char next = b->data[++i];
        static const char from[] = "ntr\\\"'", to[] = "\n\t\r\\\"'";
        const char *at = strchr(from, next);
        unsigned value = 0;
        if (at && next) {
            b->data[out++] = to[at - from];
        } else if (next == 'x' && i + 2 < b->n_bytes && sscanf(b->data + i + 1, "%2x", &value) == 1) {
            b->data[out++] = (char)value;
            i += 2;
        } else {
            b->data[out++] = '\\';
            b->data[out++] = next;
        }
    }
    b->n_bytes = out;
}

/* The prompt of a one-shot run; *found false: there is none, so it is a chat. */
static td_status get_prompt(const run_options *o, td_buf *out, bool *found, td_error *err) {
    *found = true;
    if (o->file) return run_read_path(o->file, out, err);
    if (o->prompt) {
        if (!td_buf_add_str(out, o->prompt)) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
        if (o->escape) unescape(out);
        return TD_OK;
    }
    *found = !isatty(STDIN_FILENO);
    return *found ? read_stream(stdin, "standard input", out, err) : TD_OK;
}

/* ---- one shot ---- */

typedef struct printer {
    run *r;
    bool any;
} printer;

static void print_event(void *user, const td_event *ev) {
    printer *p = user;
    run_print_tokens(p->r, stdout, ev);
    p->any |= ev->n_text > 0;
}

static int print_json(const run_result *res) {
    json_t *o = json_object(), *ids = json_array();
    for (int i = 0; i < res->n_tokens; i++) json_array_append_new(ids, json_integer(res->tokens[i]));
    json_t *text = json_stringn(res->text ? res->text : "", res->n_text);
    json_object_set_new(o, "text", text ? text : json_string(""));
    json_object_set_new(o, "tokens", ids);
    json_object_set_new(o, "stop_type", json_string(stop_type(res->finish)));
    json_object_set_new(o, "tokens_evaluated", json_integer(res->n_prompt));
    json_object_set_new(o, "tokens_predicted", json_integer(res->n_tokens));
    json_object_set_new(o, "timings", timings_json(&res->timings));
    int status = json_dumpf(o, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(o);
    return status == 0 ? 0 : 1;
}

/* One shot; returns the exit code. */
static int run_ids(run *r, const uint32_t *ids, int n) {
    printer p = {r, false};
    run_sink sink = {print_event, &p};
    run_result res;
    td_status status = run_generate(r, ids, n, r->o->json ? NULL : &sink, &res);
    if (status) fprintf(stderr, "%standem run: %s\n", p.any ? "\n" : "", res.error.text);
    int code = status ? 1 : run_interrupted(false) ? 130 : 0;
    if (!status && r->o->json) {
        code = print_json(&res) ? 1 : code;
    } else if (!status) {
        putchar('\n');
        fflush(stdout);
        if (r->o->show_timings) run_print_timings(stderr, &res.timings);
    }
    run_result_free(&res);
    return code;
}

static int raw_shot(run *r, const td_buf *prompt) {
    td_tokens ids = {0};
    td_error err = {0};
    td_status status = td_vocab_tokenize(r->vocab, prompt->data ? prompt->data : "", prompt->n_bytes, TD_SPECIAL_ALL,
                                         true, &ids, &err);
    if (!status && ids.n > INT32_MAX) status = td_fail(&err, TD_ERR_LIMIT, TD_NO_OFFSET, "the prompt is too long");
    int code = 1;
    if (status) {
        fprintf(stderr, "tandem run: %s\n", err.text);
    } else {
        if (r->o->display_prompt && !r->o->json && prompt->data) fwrite(prompt->data, 1, prompt->n_bytes, stdout);
        code = run_ids(r, ids.ids, (int)ids.n);
    }
    td_tokens_free(&ids);
    return code;
}

static bool conversational(const run *r) {
    if (r->o->raw) return false;
    return r->o->conversation == 0 ? run_has_template(r) : r->o->conversation == 1;
}

static int with_engine(run *r, td_buf *prompt, bool one_shot) {
    td_buf system = {0};
    td_error err = {0};
    if (r->o->system_file && run_read_path(r->o->system_file, &system, &err)) {
        fprintf(stderr, "tandem run: %s\n", err.text);
        return 1;
    }
    if (system.data) r->o->system = system.data;
    bool chat = conversational(r);
    int code = 1;
    if (one_shot && !chat)
        code = raw_shot(r, prompt);
    else if (!one_shot && !chat && r->o->conversation != 1)
        fprintf(stderr, "tandem run: this model has no chat template: give a prompt with -p, or -cnv on\n");
    else
        code = run_chat(r, one_shot ? prompt->data ? prompt->data : "" : NULL, one_shot ? prompt->n_bytes : 0);
    td_buf_free(&system);
    return code;
}

int td_cmd_run(int argc, char **argv) {
    run_options o = {.escape = true, .color = isatty(STDOUT_FILENO) != 0, .show_timings = isatty(STDERR_FILENO) != 0};
    td_engine_flags f;
    td_sampling_flags s;
    td_engine_flags_init(&f);
    td_sampling_flags_init(&s);
    const td_option_set sets[] = {{run_table, &o}, {td_engine_options, &f}, {td_sampling_options, &s}, {NULL, NULL}};
    const td_option_usage usage = {"run", "[-m MODEL.gguf] [-md ASSISTANT.gguf] [-p TEXT] [options]",
                                   "Generates text, or chats in the terminal when no prompt is given. Without -m the "
                                   "demo pair that comes with Tandem answers.",
                                   0, 0};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    run r = {.o = &o, .tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    td_buf prompt = {0};
    td_error err = {0};
    bool one_shot = false;
    demo_pair demo;
    int code = 1;
    td_status status = td_sampling_from_flags(&s, &r.sampling, &err);
    if (!status) status = get_prompt(&o, &prompt, &one_shot, &err);
    if (!status && !f.model) status = demo_find(&demo, &f, &err);
    if (status) {
        fprintf(stderr, "tandem run: %s\n", err.text);
    } else if ((r.e = td_engine_from_flags("run", &f))) {
        r.vocab = td_engine_vocab(r.e);
        run_install_sigint();
        code = with_engine(&r, &prompt, one_shot);
        td_engine_close(r.e);
    }
    td_buf_free(&prompt);
    free(s.biases);
    td_options_free(sets);
    return code;
}
