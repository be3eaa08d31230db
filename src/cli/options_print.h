/* Printing of option tables: help for people, the manual page, the words for the shell's completion. */
#ifndef TD_CLI_OPTIONS_PRINT_H
#define TD_CLI_OPTIONS_PRINT_H

#include "options.h"

#include <stdio.h>

void td_options_print_help(const td_option_usage *usage, const td_option_set *sets, FILE *out);
void td_options_print_man(const td_option_usage *usage, const td_option_set *sets, FILE *out);
void td_options_print_words(const td_option_usage *usage, const td_option_set *sets, FILE *out);

#endif
