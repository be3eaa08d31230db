/* `tandem serve`: the flags of llama-server onto src/server. */
#include "commands.h"
#include "demo.h"
#include "engine_options.h"

#include "../base/status.h"
#include "../server/server.h"
#include "../text/chat_parse.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct serve_options {
    const char *host, *alias, *tags, *prefix, *key_file, *ssl_key, *ssl_cert, *slot_save, *profile, *header;
    const char *cors_methods, *cors_headers, *budget_message, *kwargs;
    int64_t n_predict, keep, port, threads_http, timeout, max_body_mb, max_connections, queue_max, queue_timeout, ping,
        reasoning_budget;
    td_option_list keys, cors;
    bool reuse_port, allow_open, metrics, props, slots, page, strict_model, share, cors_credentials, cache_prompt;
    bool preserve, prefill;
    int reasoning, reasoning_format, anthropic_thinking, tool_grammar, preset;
} serve_options;

#define AT(field) .offset = offsetof(serve_options, field)

static const td_option serve_table[] = {
    {.kind = TD_OPT_GROUP, .help = "Server"},
    {.kind = TD_OPT_STRING,
     .names = "--host",
     AT(host),
     .arg = "ADDRESS",
     .def = "127.0.0.1",
     .env = "HOST",
     .help = "Address, or a path ending in .sock; beyond this machine only with a key or --allow-open"},
    {.kind = TD_OPT_INT,
     .names = "--port",
     AT(port),
     .arg = "N",
     .def = "8080",
     .min = 0,
     .max = 65535,
     .env = "PORT",
     .help = "0: any free port, printed"},
    {.kind = TD_OPT_SWITCH,
     .names = "--reuse-port",
     AT(reuse_port),
     .env = "REUSE_PORT",
     .help = "Several servers on one port"},
    {.kind = TD_OPT_SWITCH,
     .names = "--allow-open",
     AT(allow_open),
     .help = "Listen beyond this machine without a key"},
    {.kind = TD_OPT_STRING,
     .names = "--api-prefix",
     AT(prefix),
     .arg = "PATH",
     .env = "API_PREFIX",
     .help = "Put every address under this prefix"},
    {.kind = TD_OPT_LIST,
     .names = "--api-key",
     AT(keys),
     .arg = "KEYS",
     .help = "Keys, apart by commas; repeatable; also LLAMA_API_KEY"},
    {.kind = TD_OPT_STRING,
     .names = "--api-key-file",
     AT(key_file),
     .arg = "FILE",
     .env = "API_KEY_FILE",
     .help = "One key per line, # begins a comment"},
    {.kind = TD_OPT_STRING,
     .names = "--ssl-key-file",
     AT(ssl_key),
     .arg = "FILE",
     .env = "SSL_KEY_FILE",
     .help = "TLS key, PEM"},
    {.kind = TD_OPT_STRING,
     .names = "--ssl-cert-file",
     AT(ssl_cert),
     .arg = "FILE",
     .env = "SSL_CERT_FILE",
     .help = "TLS certificate, PEM"},
    {.kind = TD_OPT_LIST,
     .names = "--cors-origins",
     AT(cors),
     .arg = "LIST",
     .env = "CORS_ORIGINS",
     .help = "Origins that pages may call from; * any, localhost this machine; none by default"},
    {.kind = TD_OPT_STRING,
     .names = "--cors-methods",
     AT(cors_methods),
     .arg = "LIST",
     .env = "CORS_METHODS",
     .help = "Methods that such pages may use; default GET, POST, DELETE, OPTIONS"},
    {.kind = TD_OPT_STRING,
     .names = "--cors-headers",
     AT(cors_headers),
     .arg = "LIST",
     .env = "CORS_HEADERS",
     .help = "Headers that they may send; default: those they ask for"},
    {.kind = TD_OPT_SWITCH,
     .names = "--cors-credentials",
     AT(cors_credentials),
     .negative = "--no-cors-credentials",
     .env = "CORS_CREDENTIALS",
     .help = "They may send credentials (default)"},
    {.kind = TD_OPT_STRING,
     .names = "--server-header",
     AT(header),
     .arg = "TEXT",
     .def = "Tandem",
     .help = "Header Server of answers"},
    {.kind = TD_OPT_STRING,
     .names = "--tags",
     AT(tags),
     .arg = "LIST",
     .env = "TAGS",
     .help = "Tags of the model in /v1/models"},
    {.kind = TD_OPT_STRING,
     .names = "--alias -a",
     AT(alias),
     .arg = "NAME",
     .env = "ALIAS",
     .help = "Names of the model, apart by commas; the first is shown"},
    {.kind = TD_OPT_SWITCH, .names = "--strict-model", AT(strict_model), .help = "Requests for other models are 404"},
    {.kind = TD_OPT_INT,
     .names = "--threads-http",
     AT(threads_http),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 256,
     .env = "THREADS_HTTP",
     .help = "HTTP threads; -1: 2"},
    {.kind = TD_OPT_INT,
     .names = "--timeout -to",
     AT(timeout),
     .arg = "S",
     .def = "3600",
     .min = 1,
     .max = 1000000,
     .env = "TIMEOUT",
     .help = "A connection idle for so long is closed"},
    {.kind = TD_OPT_INT,
     .names = "--sse-ping-interval",
     AT(ping),
     .arg = "S",
     .def = "30",
     .min = -1,
     .max = 100000,
     .env = "SSE_PING_INTERVAL",
     .help = "A comment line after so much silence in a stream; -1: none"},
    {.kind = TD_OPT_INT,
     .names = "--max-body-mb",
     AT(max_body_mb),
     .arg = "MB",
     .def = "256",
     .min = 1,
     .max = 65536,
     .help = "Largest request body"},
    {.kind = TD_OPT_INT,
     .names = "--max-connections",
     AT(max_connections),
     .arg = "N",
     .def = "1024",
     .min = 1,
     .max = 100000,
     .help = "More are refused"},
    {.kind = TD_OPT_INT,
     .names = "--queue-max",
     AT(queue_max),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 4096,
     .help = "429 when so many wait; 0: the engine's own limit"},
    {.kind = TD_OPT_INT,
     .names = "--queue-timeout",
     AT(queue_timeout),
     .arg = "S",
     .def = "0",
     .min = 0,
     .max = 1000000,
     .help = "503 after so long without a slot; 0: wait"},
    {.kind = TD_OPT_SWITCH, .names = "--metrics", AT(metrics), .env = "ENDPOINT_METRICS", .help = "Serve /metrics"},
    {.kind = TD_OPT_SWITCH, .names = "--props", AT(props), .env = "ENDPOINT_PROPS", .help = "Accept POST /props"},
    {.kind = TD_OPT_SWITCH,
     .names = "--slots",
     AT(slots),
     .negative = "--no-slots",
     .env = "ENDPOINT_SLOTS",
     .help = "Serve /slots (default)"},
    {.kind = TD_OPT_STRING,
     .names = "--slot-save-path",
     AT(slot_save),
     .arg = "DIR",
     .help = "Folder of saved slots; without it they cannot be saved"},
    {.kind = TD_OPT_SWITCH,
     .names = "--ui --webui",
     AT(page),
     .negative = "--no-ui --no-webui",
     .env = "UI",
     .help = "Serve the web page (default)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--share-prefixes",
     AT(share),
     .help = "Requests of different keys may reuse each other's prefixes"},
    {.kind = TD_OPT_GROUP, .help = "Chat"},
    {.kind = TD_OPT_CHOICE,
     .names = "--reasoning -rea",
     AT(reasoning),
     .arg = "on|off|auto",
     .def = "auto",
     .words = "auto on off",
     .env = "REASONING",
     .help = "Thinking where a request does not say"},
    {.kind = TD_OPT_STRING,
     .names = "--chat-template-kwargs",
     AT(kwargs),
     .arg = "JSON",
     .env = "CHAT_TEMPLATE_KWARGS",
     .help = "enable_thinking and preserve_thinking where a request does not say"},
    {.kind = TD_OPT_INT,
     .names = "--n-predict -n --predict",
     AT(n_predict),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1 << 24,
     .env = "N_PREDICT",
     .help = "Tokens of an answer at most, where a request does not say; -1: to its end"},
    {.kind = TD_OPT_INT,
     .names = "--keep",
     AT(keep),
     .arg = "N",
     .def = "0",
     .min = -1,
     .max = 1 << 24,
     .help = "Tokens kept at the beginning when a context is shifted; -1: the prompt"},
    {.kind = TD_OPT_INT,
     .names = "--reasoning-budget",
     AT(reasoning_budget),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1 << 24,
     .env = "THINK_BUDGET",
     .help = "Tokens of a thought at most, where a request does not say; -1: no limit"},
    {.kind = TD_OPT_STRING,
     .names = "--reasoning-budget-message",
     AT(budget_message),
     .arg = "TEXT",
     .env = "THINK_BUDGET_MESSAGE",
     .help = "Last words of a thought that is cut"},
    {.kind = TD_OPT_CHOICE,
     .names = "--reasoning-format",
     AT(reasoning_format),
     .arg = "NAME",
     .def = "auto",
     .words = "auto deepseek deepseek-legacy none",
     .env = "THINK",
     .help = "Thoughts apart from the text (auto, deepseek), in both, or in the text"},
    {.kind = TD_OPT_SWITCH,
     .names = "--reasoning-preserve",
     AT(preserve),
     .negative = "--no-reasoning-preserve",
     .env = "REASONING_PRESERVE",
     .help = "Thoughts of earlier turns stay in the prompt"},
    {.kind = TD_OPT_CHOICE,
     .names = "--anthropic-thinking",
     AT(anthropic_thinking),
     .arg = "off|default",
     .def = "off",
     .words = "off default",
     .help = "Thinking in /v1/messages where a request does not say; default: as --reasoning"},
    {.kind = TD_OPT_CHOICE,
     .names = "--tool-grammar",
     AT(tool_grammar),
     .arg = "NAME",
     .def = "schema",
     .words = "schema syntax off",
     .help = "Arguments of tool calls follow their schemas, only the syntax, or nothing; required calls always do"},
    {.kind = TD_OPT_SWITCH,
     .names = "--prefill-assistant",
     AT(prefill),
     .negative = "--no-prefill-assistant",
     .env = "PREFILL_ASSISTANT",
     .help = "A last assistant message is continued (default)"},
    {.kind = TD_OPT_SWITCH,
     .names = "--cache-prompt",
     AT(cache_prompt),
     .negative = "--no-cache-prompt",
     .env = "CACHE_PROMPT",
     .help = "Prompts reuse what a slot holds (default)"},
    {.kind = TD_OPT_STRING,
     .names = "--chat-profile",
     AT(profile),
     .arg = "NAME",
     .help = "Template generation: g2-large, g1b-small …; default: as the file says"},
    {.kind = TD_OPT_CHOICE,
     .names = "--preset",
     AT(preset),
     .arg = "NAME",
     .def = "none",
     .words = "none throughput lift balanced quality e2b e4b 12b 26b-a4b 31b",
     .env = "PRESET",
     .help = "Values for a model size (e2b e4b 12b 26b-a4b 31b: drafts, slots, context) or only the drafts per round "
             "of the "
             "reference's scripts (throughput 1, lift and balanced 2, quality 3); flags that are given count more"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--cache-idle-slots --no-cache-idle-slots --skip-chat-parsing --no-remote-media --no-jinja --jinja -kvu "
              "--log-prefix --log-timestamps --special -sp --op-offload --no-op-offload --offline "
              "--kv-unified -no-kvu --no-kv-unified -cb --cont-batching",
     .help = "No effect"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--chat-template --chat-template-file --slot-prompt-similarity -sps --slot-cache-key-similarity "
              "--slot-cache-key-min-prefix --sleep-idle-seconds --mmproj -mm --media-path --path --ui-config "
              "--log-file --log-colors --log-prompts-dir --checkpoint-min-step -cms --rope-scaling --rope-scale "
              "--rope-freq-base --rope-freq-scale -lcs -lcd --lookup-cache-static --lookup-cache-dynamic",
     .arg = "X",
     .help = "No effect: see the manual"},
    {.kind = TD_OPT_END},
};

/* What --preset stands for; 0: left as it is. Drafts: the most per round, below which the depth policy chooses. The
 * larger models accept longer drafts, and their caches are dearer: fewer, shorter slots. */
static const struct {
    int n_max, n_slots, n_ctx;
} presets[] = {{0, 0, 0},     {1, 0, 0},     {2, 0, 0},     {2, 0, 0},     {3, 0, 0},
               {4, 4, 32768}, {4, 4, 32768}, {4, 4, 16384}, {6, 4, 32768}, {6, 2, 16384}};

static void apply_preset(int preset, td_engine_flags *f) {
    if (presets[preset].n_max > 0 && f->spec_n_max < 0 && f->block_size <= 0 && f->legacy_max <= 0)
        f->spec_n_max = presets[preset].n_max;
    if (presets[preset].n_slots > 0 && f->n_slots <= 0) f->n_slots = presets[preset].n_slots;
    if (presets[preset].n_ctx > 0 && f->n_ctx == 0) f->n_ctx = presets[preset].n_ctx;
}

typedef struct keys {
    const char **at;
    int n, cap;
} keys;

static bool add_key(keys *k, char *key) {
    while (*key == ' ') key++;
    size_t n = strlen(key);
    while (n > 0 && (key[n - 1] == ' ' || key[n - 1] == '\r' || key[n - 1] == '\n')) key[--n] = 0;
    if (n == 0 || *key == '#') return true;
    if (k->n == k->cap) {
        int cap = k->cap ? k->cap * 2 : 8;
        const char **p = realloc(k->at, (size_t)cap * sizeof *p);
        if (!p) return false;
        k->at = p;
        k->cap = cap;
    }
    k->at[k->n] = strdup(key);
    return k->at[k->n] != NULL && ++k->n;
}

static bool add_list(keys *k, const char *list) {
    char *copy = strdup(list), *save = NULL;
    bool ok = copy != NULL;
    for (char *at = ok ? strtok_r(copy, ",", &save) : NULL; at && ok; at = strtok_r(NULL, ",", &save))
        ok = add_key(k, at);
    free(copy);
    return ok;
}

static td_status collect_keys(const serve_options *o, keys *k, td_error *err) {
    bool ok = true;
    for (int i = 0; i < o->keys.n && ok; i++) ok = add_list(k, o->keys.items[i]);
    const char *env = getenv("LLAMA_API_KEY");
    if (ok && env && *env) ok = add_list(k, env);
    FILE *f = o->key_file ? fopen(o->key_file, "r") : NULL;
    if (o->key_file && !f)
        return td_fail(err, TD_ERR_NOT_FOUND, TD_NO_OFFSET, "--api-key-file %s cannot be read", o->key_file);
    char *line = NULL;
    size_t cap = 0;
    while (f && ok && getline(&line, &cap, f) >= 0) ok = add_key(k, line);
    free(line);
    if (f) fclose(f);
    return ok ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
}

static void free_keys(keys *k) {
    for (int i = 0; i < k->n; i++) free((char *)(uintptr_t)k->at[i]);
    free(k->at);
}

/* Switches of the template that this program knows: over --reasoning and --reasoning-preserve. */
static td_status read_kwargs(const char *text, server_options *s, td_error *err) {
    json_error_t why;
    json_t *o = text ? json_loads(text, 0, &why) : NULL;
    if (!text) return TD_OK;
    const json_t *thinking = json_object_get(o, "enable_thinking"), *keep = json_object_get(o, "preserve_thinking");
    bool fine = json_is_object(o) && (!thinking || json_is_boolean(thinking)) && (!keep || json_is_boolean(keep));
    if (thinking) s->reasoning = json_is_true(thinking);
    if (keep) s->reasoning_preserve = json_is_true(keep);
    json_decref(o);
    return fine ? TD_OK
                : td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                          "--chat-template-kwargs: expected an object like {\"enable_thinking\": false}");
}

static int serve(const serve_options *o, td_engine_flags *f, td_sampling_flags *sf, td_error *err) {
    static const int formats[] = {TD_CHAT_REASONING_SEPARATE, TD_CHAT_REASONING_SEPARATE, TD_CHAT_REASONING_BOTH,
                                  TD_CHAT_REASONING_NONE};
    keys k = {0}, cors = {0};
    server_options s = {.host = o->host,
                        .port = (int)o->port,
                        .reuse_port = o->reuse_port,
                        .allow_open = o->allow_open,
                        .key_file = o->ssl_key,
                        .cert_file = o->ssl_cert,
                        .api_prefix = o->prefix,
                        .alias = o->alias,
                        .slot_save_path = o->slot_save,
                        .metrics = o->metrics,
                        .slots = o->slots,
                        .props = o->props,
                        .page = o->page,
                        .strict_model = o->strict_model,
                        .share_prefixes = o->share,
                        .threads_http = (int)o->threads_http,
                        .timeout_s = (int)o->timeout,
                        .max_connections = (int)o->max_connections,
                        .queue_max = (int)o->queue_max,
                        .queue_timeout_s = (int)o->queue_timeout,
                        .tags = o->tags,
                        .server_header = o->header,
                        .cors_methods = o->cors_methods,
                        .cors_headers = o->cors_headers,
                        .cors_no_credentials = !o->cors_credentials,
                        .no_cache_prompt = !o->cache_prompt,
                        .sse_ping_s = (int)o->ping,
                        .max_body = o->max_body_mb << 20,
                        .n_predict = (int)o->n_predict,
                        .n_keep = (int)o->keep,
                        .reasoning = o->reasoning == 0 ? -1 : o->reasoning == 1,
                        .reasoning_budget = o->reasoning_budget,
                        .reasoning_message = o->budget_message,
                        .reasoning_format = formats[o->reasoning_format],
                        .reasoning_preserve = o->preserve,
                        .tool_grammar = (server_tools)o->tool_grammar,
                        .anthropic_thinking = o->anthropic_thinking == 1,
                        .no_prefill = !o->prefill,
                        .chat_profile = o->profile};
    apply_preset(o->preset, f);
    if (f->n_slots <= 0) f->n_slots = 4;
    td_status status = read_kwargs(o->kwargs, &s, err);
    if (!status) status = collect_keys(o, &k, err);
    for (int i = 0; i < o->cors.n && !status; i++)
        if (!add_list(&cors, o->cors.items[i])) status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    if (!status) status = td_sampling_from_flags(sf, &s.sampling, err);
    if (!status) status = td_engine_params_from_flags(f, &s.engine, err);
    s.api_keys = k.at;
    s.n_api_keys = k.n;
    s.cors_origins = cors.at;
    s.n_cors_origins = cors.n;
    td_log_level_from_flags(f);
    int code = status ? 1 : server_run(&s);
    free_keys(&k);
    free_keys(&cors);
    return code;
}

int td_cmd_serve(int argc, char **argv) {
    serve_options o = {.slots = true, .page = true, .cors_credentials = true, .cache_prompt = true, .prefill = true};
    td_engine_flags f;
    td_sampling_flags s;
    td_engine_flags_init(&f);
    td_sampling_flags_init(&s);
    const td_option_set sets[] = {{serve_table, &o}, {td_engine_options, &f}, {td_sampling_options, &s}, {NULL, NULL}};
    const td_option_usage usage = {
        "serve", "[-m MODEL.gguf] [-md ASSISTANT.gguf] [options]",
        "Serves the OpenAI, Anthropic and llama-server interfaces over HTTP, and a web page. "
        "Without -m the demo pair that comes with Tandem answers.",
        0, 0};
    int n = 0;
    td_options_outcome outcome = td_options_parse(&usage, sets, argc, argv, &n);
    if (outcome != TD_OPTIONS_RUN) return outcome == TD_OPTIONS_DONE ? 0 : 1;
    td_error err = {0};
    demo_pair demo;
    td_status status = f.model ? TD_OK : demo_find(&demo, &f, &err);
    int code = status ? 1 : serve(&o, &f, &s, &err);
    if (err.text[0]) fprintf(stderr, "tandem serve: %s\n", err.text);
    free(s.biases);
    td_options_free(sets);
    return code;
}
