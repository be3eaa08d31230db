/* `tandem tokenize`: text to token ids and back, with the vocabulary of a GGUF file or a tokenizer.json. Takes the
 * flags of llama-tokenize; its two output forms are the same. */
#include "base/checked.h"
#include "commands.h"
#include "options.h"
#include "text/tokenizer.h"
#include "text/vocab_file.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tokenize_options {
    const char *model, *prompt, *file;
    bool from_stdin, ids, json, bos, parse_special, count, decode;
    int special;
} tokenize_options;

#define FIELD(name) offsetof(tokenize_options, name)

static const td_option tokenize_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Input"},
    {.kind = TD_OPT_STRING,
     .names = "--model -m",
     .offset = FIELD(model),
     .arg = "FILE",
     .env = "MODEL",
     .help = "GGUF file, tokenizer.json, or a folder that holds one"},
    {.kind = TD_OPT_STRING, .names = "--prompt -p", .offset = FIELD(prompt), .arg = "TEXT", .help = "The text"},
    {.kind = TD_OPT_STRING,
     .names = "--file -f",
     .offset = FIELD(file),
     .arg = "FILE",
     .help = "Read the text from a file"},
    {.kind = TD_OPT_SWITCH,
     .names = "--stdin",
     .offset = FIELD(from_stdin),
     .help = "Read the text from standard input (the default without any text)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--decode -d",
     .offset = FIELD(decode),
     .help = "The input is token ids; print their text"},
    {.kind = TD_OPT_GROUP, .help = "Tokens"},
    {.kind = TD_OPT_SWITCH,
     .names = "--bos",
     .offset = FIELD(bos),
     .def = "true",
     .negative = "--no-bos",
     .help = "Begin with <bos>"},
    {.kind = TD_OPT_CHOICE,
     .names = "--special",
     .offset = FIELD(special),
     .arg = "MODE",
     .def = "all",
     .words = "none user all",
     .help = "Which special tokens written in the text become control tokens: none (safe for text from outside), the "
             "user-defined ones, or all"},
    {.kind = TD_OPT_SWITCH,
     .names = "--parse-special",
     .offset = FIELD(parse_special),
     .def = "true",
     .negative = "--no-parse-special",
     .help = "As --special all; the negative form as --special user"},
    {.kind = TD_OPT_GROUP, .help = "Output"},
    {.kind = TD_OPT_SWITCH, .names = "--ids", .offset = FIELD(ids), .help = "Print only the ids: [1, 2, 3]"},
    {.kind = TD_OPT_SWITCH, .names = "--json", .offset = FIELD(json), .help = "Print one JSON object"},
    {.kind = TD_OPT_SWITCH, .names = "--show-count", .offset = FIELD(count), .help = "Print the number of tokens too"},
    {.kind = TD_OPT_END}};

static bool read_stream(FILE *f, td_buf *out) {
    for (;;) {
        if (!td_buf_reserve(out, 65536)) return false;
        size_t n = fread(out->data + out->n_bytes, 1, 65536, f);
        out->n_bytes += n;
        if (n == 0) return !ferror(f);
    }
}

/* The text of the options and arguments into `out`; several arguments are joined with a space. */
static td_status read_input(const tokenize_options *o, int n_args, char **args, td_buf *out, td_error *err) {
    int n_sources = (o->prompt != NULL) + (o->file != NULL) + o->from_stdin + (n_args > 0);
    if (n_sources > 1)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "give the text once: -p, -f, --stdin or arguments");
    bool ok = true;
    if (o->prompt) ok = td_buf_add_str(out, o->prompt);
    for (int i = 0; i < n_args && ok; i++) ok = (i == 0 || td_buf_add_char(out, ' ')) && td_buf_add_str(out, args[i]);
    if (!ok) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the text");
    if (o->prompt || n_args > 0) return TD_OK;
    FILE *f = o->file ? fopen(o->file, "rb") : stdin;
    if (!f) return td_fail_errno(err, errno, "%s", o->file);
    errno = 0;
    if (!read_stream(f, out))
        td_fail_errno(err, errno ? errno : ENOMEM, "reading %s", o->file ? o->file : "standard input");
    if (f != stdin) fclose(f);
    return err->code;
}

/* One token's text for people: control characters and bytes that are no character escaped. */
static void print_piece(td_slice p) {
    for (size_t i = 0; i < p.n_bytes;) {
        uint32_t cp = 0;
        int n = td_utf8_next(p.data + i, p.n_bytes - i, &cp);
        if (n > 0 && cp >= 0x20 && cp != 0x7F && !(cp >= 0x80 && cp < 0xA0)) {
            fwrite(p.data + i, 1, (size_t)n, stdout);
            i += (size_t)n;
        } else if (cp == '\n' && n == 1) {
            fputs("\\n", stdout);
            i++;
        } else {
            printf("\\x%02X", (uint8_t)p.data[i++]);
        }
    }
}

static json_t *piece_json(td_slice p) {
    if (td_utf8_valid(p.data, p.n_bytes)) return json_stringn(p.data, p.n_bytes);
    json_t *bytes = json_array();
    for (size_t i = 0; i < p.n_bytes; i++) json_array_append_new(bytes, json_integer((uint8_t)p.data[i]));
    return bytes;
}

static td_status print_json(json_t *j, td_error *err) {
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the output");
    puts(text);
    free(text);
    return TD_OK;
}

static td_status print_tokens(const tokenize_options *o, const td_vocab *v, const td_tokens *t, td_error *err) {
    if (o->json) {
        json_t *tokens = json_array();
        for (size_t i = 0; i < t->n; i++)
            json_array_append_new(tokens, json_pack("{s:I, s:o}", "id", (json_int_t)t->ids[i], "piece",
                                                    piece_json(td_vocab_piece(v, t->ids[i], true))));
        return print_json(json_pack("{s:I, s:o}", "n_tokens", (json_int_t)t->n, "tokens", tokens), err);
    }
    if (o->ids) {
        putchar('[');
        for (size_t i = 0; i < t->n; i++) printf("%s%" PRIu32, i ? ", " : "", t->ids[i]);
        puts("]");
    }
    for (size_t i = 0; i < t->n && !o->ids; i++) {
        printf("%6" PRIu32 " -> '", t->ids[i]);
        print_piece(td_vocab_piece(v, t->ids[i], true));
        puts("'");
    }
    if (o->count) printf("Total number of tokens: %zu\n", t->n);
    return TD_OK;
}

/* Ids apart by anything that is no digit: "[1, 2]", "1 2", lines. */
static td_status parse_ids(const td_buf *text, td_tokens *out, td_error *err) {
    for (size_t i = 0; i < text->n_bytes;) {
        uint64_t id = 0;
        size_t start = i;
        for (; i < text->n_bytes && text->data[i] >= '0' && text->data[i] <= '9'; i++) {
            id = id * 10 + (uint64_t)(text->data[i] - '0');
            if (id > UINT32_MAX)
                return td_fail(err, TD_ERR_ARGUMENT, start, "a token id at byte %zu is too large", start);
        }
        if (i == start) {
            if (!strchr(" \t\r\n,[]", text->data[i]) || !text->data[i])
                return td_fail(err, TD_ERR_ARGUMENT, i, "expected token ids, found something else at byte %zu", i);
            i++;
        } else if (!td_tokens_add(out, (uint32_t)id)) {
            return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the ids");
        }
    }
    return TD_OK;
}

static td_status decode(const tokenize_options *o, const td_vocab *v, const td_buf *input, td_error *err) {
    td_tokens ids = {0};
    td_buf text = {0};
    td_status st = parse_ids(input, &ids, err);
    if (!st) st = td_vocab_detokenize(v, ids.ids, ids.n, true, &text, err);
    if (!st && o->json)
        st = print_json(json_pack("{s:o}", "content", piece_json((td_slice){text.data ? text.data : "", text.n_bytes})),
                        err);
    else if (!st && text.n_bytes)
        fwrite(text.data, 1, text.n_bytes, stdout);
    td_tokens_free(&ids);
    td_buf_free(&text);
    return st;
}

static td_status run(int n_args, char **args, void *values, td_error *err) {
    const tokenize_options *o = values;
    td_vocab *v = NULL;
    td_buf input = {0};
    td_tokens tokens = {0};
    td_status st = TD_OK;
    if (!o->model) st = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no model: give -m FILE");
    if (!st) st = td_vocab_open(&v, o->model, err);
    if (!st) st = read_input(o, n_args, args, &input, err);
    if (!st && o->decode) {
        st = decode(o, v, &input, err);
    } else if (!st) {
        td_special_mode mode =
            o->special == TD_SPECIAL_ALL && !o->parse_special ? TD_SPECIAL_USER : (td_special_mode)o->special;
        st = td_vocab_tokenize(v, input.data, input.n_bytes, mode, o->bos, &tokens, err);
        if (!st) st = print_tokens(o, v, &tokens, err);
    }
    td_tokens_free(&tokens);
    td_buf_free(&input);
    td_vocab_destroy(v);
    if (!st && fflush(stdout) != 0) st = td_fail_errno(err, errno, "writing the output");
    return st;
}

int td_cmd_tokenize(int argc, char **argv) {
    tokenize_options o = {0};
    const td_option_set sets[] = {{tokenize_table, &o}, {NULL, NULL}};
    const td_option_usage usage = {"tokenize", "-m FILE [TEXT...] [options]",
                                   "Turns text into the token ids of a model and back. The text comes from the "
                                   "arguments, -p, -f or standard input; without --ids or --json each token is a line.",
                                   0, -1};
    return td_command(&usage, sets, argc, argv, run);
}
