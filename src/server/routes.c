/* From a request line to an endpoint: prefix, CORS, keys, loading state. */
#include "app.h"
#include "page.h"

#include "../base/clock.h"
#include "../base/log.h"

#include <stdio.h>
#include <string.h>

/* The time depends on the lengths only, not on where the first difference is. */
static bool same_secret(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    volatile unsigned char diff = (unsigned char)(n != m);
    for (size_t i = 0; i < n; i++) diff = (unsigned char)(diff | (a[i] ^ b[m ? i % m : 0]));
    return diff == 0;
}

static const char *given_key(http_exchange *x) {
    const char *bearer = http_header(x, "Authorization");
    if (bearer && strncmp(bearer, "Bearer ", 7) == 0) return bearer + 7;
    return http_header(x, "X-Api-Key");
}

/* The server's own copy of the key that a request brings; NULL: none of its keys. Every key is compared. */
static const char *known_key(const server *s, http_exchange *x) {
    const char *key = given_key(x), *found = NULL;
    for (int i = 0; key && i < s->o->n_api_keys; i++)
        if (same_secret(s->o->api_keys[i], key)) found = s->o->api_keys[i];
    return found;
}

static bool authorised(const server *s, http_exchange *x) {
    return s->o->n_api_keys == 0 || known_key(s, x);
}

const char *owner_of(const server *s, http_exchange *x) {
    return known_key(s, x);
}

const char *key_of(const server *s, http_exchange *x) {
    return s->o->n_api_keys > 1 && !s->o->share_prefixes ? known_key(s, x) : NULL;
}

/* Origins are named on the command line; "*" is any, "localhost" the three spellings of this machine. */
static void add_cors(const server *s, http_exchange *x) {
    const char *origin = http_header(x, "Origin");
    if (!origin || strlen(origin) > 300) return;
    for (int i = 0; i < s->o->n_cors_origins; i++) {
        const char *o = s->o->cors_origins[i], *host = strstr(origin, "://");
        bool local = false;
        if (strcmp(o, "localhost") == 0 && host) {
            static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
            for (int k = 0; k < 3; k++) {
                size_t n = strlen(names[k]);
                local |= strncmp(host + 3, names[k], n) == 0 && (host[3 + n] == 0 || host[3 + n] == ':');
            }
        }
        if (!local && strcmp(o, "*") != 0 && strcmp(o, origin) != 0) continue;
        http_add_header(x, "Access-Control-Allow-Origin", origin);
        http_add_header(x, "Vary", "Origin");
        if (!s->o->cors_no_credentials) http_add_header(x, "Access-Control-Allow-Credentials", "true");
        return;
    }
}

static bool is_get(http_exchange *x) {
    return strcmp(http_method(x), "GET") == 0 || strcmp(http_method(x), "HEAD") == 0;
}
static bool is_post(http_exchange *x) {
    return strcmp(http_method(x), "POST") == 0;
}

static http_turn options(const server *s, http_exchange *x) {
    const char *methods = s->o->cors_methods, *headers = s->o->cors_headers;
    http_add_header(x, "Access-Control-Allow-Methods", methods ? methods : "GET, POST, DELETE, OPTIONS");
    /* Named rather than "*", which browsers take literally where credentials are allowed. */
    const char *asked = http_header(x, "Access-Control-Request-Headers");
    bool any = !headers || strcmp(headers, "*") == 0;
    http_add_header(x, "Access-Control-Allow-Headers", !any ? headers : asked && strlen(asked) < 1000 ? asked : "*");
    if (!http_header(x, "Origin") && !s->o->cors_no_credentials)
        http_add_header(x, "Access-Control-Allow-Credentials", "true");
    return answer_text(x, 200, "text/plain", "", 0);
}

static msg_dialect dialect_of(const char *path) {
    return strncmp(path, "/v1/messages", 12) == 0 ? MSG_ANTHROPIC : MSG_CHAT;
}

typedef struct simple_route {
    const char *path;
    http_turn (*serve)(server *s, http_exchange *x);
} simple_route;

static http_turn models(server *s, http_exchange *x) {
    return serve_models(s, x, NULL);
}

static const simple_route gets[] = {
    {"/props", serve_props}, {"/slots", serve_slots}, {"/metrics", serve_metrics},
    {"/models", models},     {"/v1/models", models},  {"/api/tags", serve_tags},
};

static http_turn get(server *s, http_exchange *x, const char *path) {
    for (size_t i = 0; i < sizeof gets / sizeof *gets; i++)
        if (strcmp(path, gets[i].path) == 0) return gets[i].serve(s, x);
    if (strncmp(path, "/v1/models/", 11) == 0) return serve_models(s, x, path + 11);
    if (strncmp(path, "/v1/responses/", 14) == 0) return serve_response(s, x, path + 14);
    if (strcmp(path, "/api/version") == 0) return answer_json(x, 200, json_pack("{s:s}", "version", TD_VERSION));
    return answer_error(x, dialect_of(path), 404, NULL, NULL, "File Not Found");
}

typedef struct prompt_route { /* its body holds a prompt in the form of one of the interfaces */
    const char *path;
    http_turn (*serve)(server *s, http_exchange *x, api kind);
    api kind;
} prompt_route;

static const prompt_route prompts[] = {
    {"/completion", task_begin, API_COMPLETION},
    {"/completions", task_begin, API_COMPLETION},
    {"/v1/completions", task_begin, API_OAI_COMPLETION},
    {"/v1/chat/completions", task_begin, API_CHAT},
    {"/chat/completions", task_begin, API_CHAT},
    {"/v1/messages", task_begin, API_ANTHROPIC},
    {"/v1/responses", task_begin, API_RESPONSES},
    {"/responses", task_begin, API_RESPONSES},
    {"/v1/messages/count_tokens", serve_count, API_ANTHROPIC},
    {"/v1/chat/completions/input_tokens", serve_count, API_CHAT},
    {"/chat/completions/input_tokens", serve_count, API_CHAT},
    {"/v1/responses/input_tokens", serve_count, API_RESPONSES},
    {"/responses/input_tokens", serve_count, API_RESPONSES},
};

static const simple_route posts[] = {
    {"/tokenize", serve_tokenize},
    {"/detokenize", serve_detokenize},
    {"/apply-template", serve_apply_template},
    {"/api/show", serve_show},
    {"/v1/chat/completions/control", serve_control},
    {"/chat/completions/control", serve_control},
};

/* What a text model cannot do: 501 with the reason. */
static const struct {
    const char *path, *why;
} refused[] = {
    {"/infill", "Infill is not supported by this model: Gemma 4 has no fill-in-the-middle tokens"},
    {"/v1/embeddings", "This server does not support embeddings: Gemma 4 is no embedding model"},
    {"/embeddings", "This server does not support embeddings: Gemma 4 is no embedding model"},
    {"/embedding", "This server does not support embeddings: Gemma 4 is no embedding model"},
    {"/rerank", "This server does not support reranking"},
    {"/reranking", "This server does not support reranking"},
    {"/v1/rerank", "This server does not support reranking"},
    {"/v1/reranking", "This server does not support reranking"},
    {"/v1/audio/transcriptions", "This server has no audio encoder"},
    {"/lora-adapters", "This server does not support LoRA adapters"},
};

static http_turn post(server *s, http_exchange *x, const char *path) {
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        if (strcmp(path, prompts[i].path) == 0) return prompts[i].serve(s, x, prompts[i].kind);
    for (size_t i = 0; i < sizeof posts / sizeof *posts; i++)
        if (strcmp(path, posts[i].path) == 0) return posts[i].serve(s, x);
    if (strncmp(path, "/slots/", 7) == 0) return serve_slot_action(s, x, path + 7);
    if (strcmp(path, "/props") == 0)
        return s->o->props
                   ? answer_json(x, 200, json_pack("{s:b}", "success", 1))
                   : answer_error(x, MSG_CHAT, 501, NULL, NULL,
                                  "This server does not support changing global properties. Start it with `--props`");
    if (strcmp(path, "/tools") == 0 || strcmp(path, "/cors-proxy") == 0)
        return answer_error(x, MSG_CHAT, 403, NULL, NULL, "feature_disabled");
    return answer_error(x, dialect_of(path), 404, NULL, NULL, "File Not Found");
}

static bool is_open(const char *path) {
    static const char *const paths[] = {"/health",   "/v1/health", "/models",    "/v1/models",
                                        "/api/tags", "/",          "/index.html"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(path, paths[i]) == 0) return true;
    return false;
}

static bool is_health(const char *path) {
    return strcmp(path, "/health") == 0 || strcmp(path, "/v1/health") == 0;
}

/* What answers while the model loads, or HTTP_WAIT. */
static http_turn before_ready(server *s, http_exchange *x, const char *path) {
    if (is_get(x) && (strcmp(path, "/models") == 0 || strcmp(path, "/v1/models") == 0)) return models(s, x);
    return answer_error(x, dialect_of(path), 503, NULL, NULL, "Loading model");
}

/* The address without the prefix; NULL: not under it. */
static const char *local_path(const server *s, http_exchange *x) {
    const char *path = http_path(x), *prefix = s->o->api_prefix;
    size_t n = prefix ? strlen(prefix) : 0;
    if (n == 0) return path;
    if (strncmp(path, prefix, n) != 0 || (path[n] && path[n] != '/')) return NULL;
    return path[n] ? path + n : "/";
}

static http_turn page(http_exchange *x) {
    http_add_header(x, "Content-Security-Policy",
                    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src "
                    "'self'; img-src data:");
    return answer_text(x, 200, "text/html; charset=utf-8", td_page, td_page_bytes);
}

static http_turn dispatch(server *s, http_exchange *x, const char *path) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strcmp(path, refused[i].path) == 0) return answer_error(x, MSG_CHAT, 501, NULL, NULL, "%s", refused[i].why);
    if (is_get(x)) return get(s, x, path);
    if (is_post(x)) return post(s, x, path);
    if (strcmp(http_method(x), "DELETE") == 0 && strncmp(path, "/v1/responses/", 14) == 0)
        return serve_response(s, x, path + 14);
    return answer_error(x, dialect_of(path), 405, NULL, NULL, "%s is not a method of this address", http_method(x));
}

/* Headers that belong to every answer. */
static void common_headers(const server *s, http_exchange *x, const char *path) {
    add_cors(s, x);
    if (path && dialect_of(path) == MSG_ANTHROPIC) http_add_header(x, "request-id", http_request_id(x));
}

void route_too_large(http_exchange *x, size_t limit, void *server_) {
    const char *path = local_path(server_, x);
    common_headers(server_, x, path);
    (void)answer_error(x, dialect_of(path ? path : ""), 413, NULL, NULL, "the request body is larger than %zu bytes",
                       limit);
}

http_turn route(http_exchange *x, void *server_) {
    server *s = server_;
    const char *path = local_path(s, x);
    common_headers(s, x, path);
    if (strcmp(http_method(x), "OPTIONS") == 0) return options(s, x);
    if (!path) return answer_error(x, MSG_CHAT, 404, NULL, NULL, "File Not Found");
    if (!is_open(path) && !authorised(s, x))
        return answer_error(x, dialect_of(path), 401, NULL, NULL, "Invalid API Key");
    if (is_get(x) && s->o->page && (strcmp(path, "/") == 0 || strcmp(path, "/index.html") == 0)) return page(x);
    const char *encoding = http_header(x, "Content-Encoding");
    if (encoding && strcmp(encoding, "identity") != 0)
        return answer_error(x, dialect_of(path), 415, NULL, NULL, "request bodies must not be encoded (%.40s)",
                            encoding);
    if (s->state == SERVER_LOADING || s->state == SERVER_FAILED) return before_ready(s, x, path);
    if (is_get(x) && is_health(path)) return serve_health(s, x);
    if (s->state == SERVER_STOPPING)
        return answer_error(x, dialect_of(path), 503, NULL, NULL, "the server is shutting down");
    return dispatch(s, x, path);
}
