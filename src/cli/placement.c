#include "placement.h"

#include "../base/log.h"
#include "../base/status.h"

#include <regex.h>
#include <stdio.h>
#include <string.h>

typedef struct wish {
    char pattern[256], buffer[64];
} wish;

/* Takes the item at *at; false at the end of the list. A pattern may hold '=' and not ','. */
static bool next_wish(const char **at, wish *out, bool *bad) {
    size_t n = strcspn(*at, ",");
    *bad = false;
    if (n == 0) return false;
    size_t eq = n;
    while (eq > 0 && (*at)[eq - 1] != '=') eq--;
    *bad = eq < 2 || eq == n || eq > sizeof out->pattern || n - eq >= sizeof out->buffer;
    if (!*bad) {
        snprintf(out->pattern, sizeof out->pattern, "%.*s", (int)(eq - 1), *at);
        snprintf(out->buffer, sizeof out->buffer, "%.*s", (int)(n - eq), *at + eq);
    }
    *at += n + ((*at)[n] == ',');
    return true;
}

static td_status check_list(const char *flag, const td_option_list *l, td_error *err) {
    for (int i = 0; i < l->n; i++) {
        wish w;
        bool bad = false;
        for (const char *at = l->items[i]; next_wish(&at, &w, &bad);) {
            if (bad)
                return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: '%s' is not PATTERN=BUFFER", flag, l->items[i]);
            regex_t r;
            int code = regcomp(&r, w.pattern, REG_EXTENDED | REG_NOSUB);
            if (code != 0) {
                char text[96];
                regerror(code, &r, text, sizeof text);
                return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s: '%s' is not a regular expression: %s", flag,
                               w.pattern, text);
            }
            regfree(&r);
        }
    }
    return TD_OK;
}

td_status td_placement_check(const td_option_list *target, const td_option_list *draft, td_error *err) {
    td_status status = check_list("-ot", target, err);
    return status ? status : check_list("-otd", draft, err);
}

/* -otd looks at the assistant's tensors only, and its patterns may leave mtp. away. */
static int matches(const td_engine *e, const regex_t *r, bool draft, char first[256]) {
    char name[256];
    int n = 0;
    for (size_t i = 0; td_engine_tensor_name(e, i, name, sizeof name); i++) {
        bool attached = strncmp(name, "mtp.", 4) == 0;
        if (draft && !attached) continue;
        if (regexec(r, name, 0, NULL, 0) != 0 && !(draft && regexec(r, name + 4, 0, NULL, 0) == 0)) continue;
        if (n++ == 0) snprintf(first, 256, "%s", name);
    }
    return n;
}

static void report_list(const char *flag, const td_option_list *l, bool draft, const td_engine *e) {
    for (int i = 0; i < l->n; i++) {
        wish w;
        bool bad = false;
        for (const char *at = l->items[i]; next_wish(&at, &w, &bad);) {
            regex_t r;
            char first[256] = "";
            if (bad || regcomp(&r, w.pattern, REG_EXTENDED | REG_NOSUB) != 0) continue;
            int n = matches(e, &r, draft, first);
            regfree(&r);
            if (n == 0)
                td_log(TD_LOG_WARN, "%s %s=%s: no tensor has such a name (tandem inspect -md lists them)", flag,
                       w.pattern, w.buffer);
            else if (strncmp(w.buffer, "CPU", 3) != 0)
                td_log(TD_LOG_WARN, "%s %s=%s: %d tensors (%s ...) stay on the CPU: there is no buffer %s", flag,
                       w.pattern, w.buffer, n, first, w.buffer);
            else
                td_log(TD_LOG_INFO, "%s %s=%s: %d tensors (%s ...)", flag, w.pattern, w.buffer, n, first);
        }
    }
}

void td_placement_report(const td_option_list *target, const td_option_list *draft, const td_engine *e) {
    report_list("-ot", target, false, e);
    report_list("-otd", draft, true, e);
}
