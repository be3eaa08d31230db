/* Help, manual page and completion words from the same tables that parse the command line, so that they cannot differ
 * from it. */
#include "options_print.h"

#include <string.h>

enum { WIDTH = 100, INDENT = 34 };

/* Words of `text` from column INDENT on, wrapped at WIDTH; `column` is where the cursor stands. */
static void print_wrapped(FILE *out, const char *text, int column) {
    for (const char *w = text; *w != 0;) {
        int len = (int)strcspn(w, " ");
        if (column + 1 + len > WIDTH) {
            fprintf(out, "\n%*s", INDENT, "");
            column = INDENT;
        }
        fprintf(out, "%s%.*s", column > INDENT ? " " : "", len, w);
        column += len + (column > INDENT);
        w += len;
        w += strspn(w, " ");
    }
}

/* What stands behind the sentence: choices, range, default, variable. */
static void describe_limits(const td_option *o, char *text, size_t n) {
    char range[96] = "", def[96] = "", env[96] = "";
    if (o->kind == TD_OPT_CHOICE) snprintf(range, sizeof range, " One of: %s.", o->words);
    if ((o->kind == TD_OPT_INT || o->kind == TD_OPT_FLOAT) && (o->min != 0 || o->max != 0))
        snprintf(range, sizeof range, o->kind == TD_OPT_INT ? " %.0f to %.0f%s%s." : " %g to %g%s%s.", o->min, o->max,
                 o->words != NULL ? ", or " : "", o->words != NULL ? o->words : "");
    if (o->def != NULL && o->kind != TD_OPT_ACCEPT) snprintf(def, sizeof def, " Default: %s.", o->def);
    if (o->env != NULL) snprintf(env, sizeof env, " [TANDEM_%s]", o->env);
    snprintf(text, n, "%s.%s%s%s", o->help != NULL ? o->help : "", range, def, env);
}

static void print_names(FILE *out, const td_option *o, char *line, size_t n) {
    snprintf(line, n, "%s%s%s%s%s", o->names, o->negative != NULL ? " " : "", o->negative != NULL ? o->negative : "",
             o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");
    if (out != NULL) fputs(line, out);
}

void td_options_print_help(const td_option_usage *usage, const td_option_set *sets, FILE *out) {
    fprintf(out, "Usage: tandem %s %s\n\n", usage->command, usage->synopsis);
    if (usage->about != NULL) fprintf(out, "%s\n", usage->about);
    for (const td_option_set *s = sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++) {
            char line[256], text[1024];
            if (o->kind == TD_OPT_GROUP) {
                fprintf(out, "\n%s:\n", o->help);
                continue;
            }
            print_names(NULL, o, line, sizeof line);
            int column = 2 + fprintf(out, "  %s", line) - 2;
            if (column >= INDENT - 1) {
                fputc('\n', out);
                column = 0;
            }
            fprintf(out, "%*s", INDENT - column, "");
            describe_limits(o, text, sizeof text);
            print_wrapped(out, text, INDENT);
            fputc('\n', out);
        }
}

/* Text for troff: backslashes and dashes escaped, a leading dot hidden. */
static void print_roff(FILE *out, const char *text) {
    if (*text == '.' || *text == '\'') fputs("\\&", out);
    for (; *text != 0; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
}

void td_options_print_man(const td_option_usage *usage, const td_option_set *sets, FILE *out) {
    fprintf(out, ".SH tandem %s\n.B tandem %s\n", usage->command, usage->command);
    print_roff(out, usage->synopsis);
    fputs("\n.PP\n", out);
    if (usage->about != NULL) print_roff(out, usage->about);
    fputc('\n', out);
    for (const td_option_set *s = sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++) {
            char line[256], text[1024];
            if (o->kind == TD_OPT_GROUP) {
                fputs(".SS ", out);
                print_roff(out, o->help);
                fputc('\n', out);
                continue;
            }
            fputs(".TP\n.B ", out);
            print_names(NULL, o, line, sizeof line);
            print_roff(out, line);
            fputc('\n', out);
            describe_limits(o, text, sizeof text);
            print_roff(out, text);
            fputc('\n', out);
        }
}

void td_options_print_words(const td_option_usage *usage, const td_option_set *sets, FILE *out) {
    fprintf(out, "    %s) words='--help", usage->command);
    for (const td_option_set *s = sets; s->options != NULL; s++)
        for (const td_option *o = s->options; o->kind != TD_OPT_END; o++) {
            if (o->names != NULL) fprintf(out, " %s", o->names);
            if (o->negative != NULL) fprintf(out, " %s", o->negative);
        }
    fputs("' ;;\n", out);
}
