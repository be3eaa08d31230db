/* The program's entry: finds the command in one table and runs it. Started through a link with a llama.cpp tool's name
 * it is that tool, so that scripts need not change. */
#include "commands.h"
#include "options.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
#define COMMAND_ROW(name, summary) {#name, summary, td_cmd_##name},
    TD_COMMAND_LIST(COMMAND_ROW)
#undef COMMAND_ROW
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const struct {
    const char *link, *command;
} links[] = {{"llama-server", "serve"},     {"llama-cli", "run"},         {"llama-completion", "run"},
             {"llama-bench", "bench"},      {"llama-perplexity", "eval"}, {"llama-quantize", "quantize"},
             {"llama-tokenize", "tokenize"}};

static const command *find_command(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static void print_help(FILE *out) {
    fprintf(out, "Tandem %s: Gemma 4 with its MTP assistants, from GGUF files.\n\nUsage: tandem COMMAND [options]\n\n",
            TD_VERSION);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n`tandem COMMAND --help` lists a command's options; `tandem --version` prints the version.\n", out);
}

/* Runs every command with one hidden option, for the manual page and the completion script. */
static int run_all(const char *option) {
    for (int i = 0; i < N_COMMANDS; i++) {
        char name[32], flag[32];
        snprintf(name, sizeof name, "%s", commands[i].name);
        snprintf(flag, sizeof flag, "%s", option);
        char *args[] = {name, flag, NULL};
        int code = commands[i].run(2, args);
        if (code != 0) return code;
    }
    return 0;
}

static int print_man(void) {
    puts(".\\\" Made by `tandem --man` from the option tables.\n.TH TANDEM 1 \"\" \"Tandem " TD_VERSION
         "\" \"User Commands\"\n"
         ".SH NAME\ntandem \\- Gemma 4 with its MTP assistants, from GGUF files\n.SH SYNOPSIS\n"
         ".B tandem\n.I COMMAND\n[options]\n.SH COMMANDS");
    for (int i = 0; i < N_COMMANDS; i++) printf(".TP\n.B %s\n%s\n", commands[i].name, commands[i].summary);
    int code = run_all("--man-section");
    puts(".SH ENVIRONMENT\nEvery option with a variable reads\n.B TANDEM_NAME\nfirst and\n.B LLAMA_ARG_NAME\nsecond; a "
         "flag beats both.\n.SH EXIT STATUS\n0: done. 1: bad arguments, a file that cannot be used, a failure while "
         "running. 130: interrupted.");
    return code;
}

static int print_completion(void) {
    puts("# bash completion for tandem: eval \"$(tandem --completion-bash)\"\n_tandem() {\n    local "
         "cur=${COMP_WORDS[COMP_CWORD]} "
         "words=\n    case ${COMP_WORDS[1]} in");
    int code = run_all("--completion-words");
    fputs("    esac\n    if [ \"$COMP_CWORD\" = 1 ]; then words='", stdout);
    for (int i = 0; i < N_COMMANDS; i++) printf("%s ", commands[i].name);
    puts("--help --version'; fi\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -o default -F "
         "_tandem "
         "tandem");
    return code;
}

static int run_named(const char *name, int argc, char **argv) {
    const command *c = find_command(name);
    if (c != NULL) return c->run(argc, argv);
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = td_option_nearest(name, names, N_COMMANDS);
    fprintf(stderr, "tandem: unknown command '%s'%s%s%s; 'tandem --help' lists the commands\n", name,
            near != NULL ? ", did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?" : "");
    return 1;
}

int main(int argc, char **argv) {
    const char *program = argc > 0 && argv[0] != NULL ? argv[0] : "tandem";
    const char *slash = strrchr(program, '/');
    if (slash != NULL) program = slash + 1;
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error with a message, and leaves nothing behind */
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
        if (strcmp(program, links[i].link) == 0) return run_named(links[i].command, argc, argv);
    if (argc < 2) {
        print_help(stderr);
        return 1;
    }
    const char *first = argv[1];
    if (strcmp(first, "-h") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "help") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(first, "--version") == 0) {
        fprintf(stderr, "tandem %s\n", TD_VERSION);
        return 0;
    }
    if (strcmp(first, "--man") == 0) return print_man();
    if (strcmp(first, "--completion-bash") == 0) return print_completion();
    return run_named(first, argc - 1, argv + 1);
}
