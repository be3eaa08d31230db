/* Endpoints that generate nothing: health, properties, models, stored responses, text utilities. */
#include "app.h"

#include "../base/clock.h"
#include "../base/status.h"
#include "../text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A supervisor restarts a server whose engine hangs. A batch of a prompt of the largest model takes two minutes on few
 * cores. */
#define HUNG_NS ((int64_t)600 * 1000000000)

http_turn serve_health(server *s, http_exchange *x) {
    if (td_clock_ns() - s->t_alive_ns > HUNG_NS) return answer_json(x, 500, json_pack("{s:s}", "status", "error"));
    json_t *o = json_pack("{s:s}", "status", "ok");
    const char *verbose = http_query(x, "verbose");
    if (verbose && strcmp(verbose, "1") == 0) {
        td_counters c;
        td_counters_get(s->engine, &c);
        json_object_set_new(o, "slots_idle", json_integer(s->info.n_slots - c.n_processing));
        json_object_set_new(o, "slots_processing", json_integer(c.n_processing));
        json_object_set_new(o, "queued", json_integer(c.n_deferred));
        json_object_set_new(o, "model", json_string(s->model_id));
        json_object_set_new(o, "uptime_s", json_integer(time(NULL) - s->started_s));
    }
    return answer_json(x, 200, o);
}

static json_t *token_text(const server *s, uint32_t id) {
    size_t n = 0;
    const char *text = id == TD_TOKEN_NONE ? "" : td_token_text(s->engine, id, true, &n);
    json_t *o = json_stringn(text, n);
    return o ? o : json_string("");
}

http_turn serve_props(server *s, http_exchange *x) {
    request_fields f;
    fields_init(s, &f);
    size_t n = 0;
    const char *tmpl = td_engine_metadata(s->engine, "tokenizer.chat_template", &n);
    json_t *text = tmpl ? json_stringn(tmpl, n) : NULL, *o = json_object();
    json_t *settings = json_pack("{s:o,s:i}", "params", fields_settings(s, &f), "n_ctx", s->info.n_ctx);
    json_object_set_new(o, "default_generation_settings", settings);
    json_object_set_new(o, "total_slots", json_integer(s->info.n_slots));
    json_object_set_new(o, "model_alias", json_string(s->model_id));
    json_object_set_new(o, "model_ftype", json_string(s->info.file_type));
    json_object_set_new(o, "model_path", json_string(s->info.model_path));
    json_object_set_new(o, "modalities", json_pack("{s:b,s:b,s:b}", "vision", 0, "video", 0, "audio", 0));
    json_object_set_new(o, "endpoint_slots", json_boolean(s->o->slots));
    json_object_set_new(o, "endpoint_props", json_boolean(s->o->props));
    json_object_set_new(o, "endpoint_metrics", json_boolean(s->o->metrics));
    json_object_set_new(o, "media_marker", json_string("<__media__>"));
    json_object_set_new(o, "ui", json_boolean(s->o->page));
    json_object_set_new(o, "ui_settings", json_object());
    json_object_set_new(o, "cors_proxy_enabled", json_false());
    json_object_set_new(o, "chat_template_caps",
                        json_pack("{s:b,s:b,s:b,s:b,s:b}", "supports_tools", s->has_chat, "supports_tool_calls",
                                  s->has_chat, "supports_parallel_tool_calls", s->has_chat, "supports_system_role",
                                  s->has_chat, "supports_preserve_reasoning", s->has_chat));
    json_object_set_new(o, "chat_template", text ? text : json_string(""));
    json_object_set_new(o, "chat_profile", json_string(td_chat_profile_name(s->profile)));
    json_object_set_new(o, "bos_token", token_text(s, td_vocab_bos(s->vocab)));
    json_object_set_new(o, "eos_token", token_text(s, td_vocab_eos(s->vocab)));
    json_object_set_new(o, "build_info", json_string(FINGERPRINT));
    json_object_set_new(o, "is_sleeping", json_false());
    json_object_set_new(o, "speculative",
                        json_pack("{s:s,s:i,s:s,s:s}", "type", s->info.draft_path ? "draft-mtp" : "none", "n_max",
                                  s->o->engine.spec.n_max, "draft_model", s->info.draft_path ? s->info.draft_path : "",
                                  "head", s->info.draft_head));
    json_object_set_new(o, "memory",
                        json_pack("{s:I,s:I,s:I,s:I}", "weights", (json_int_t)s->info.weight_bytes, "cache_reserved",
                                  (json_int_t)s->info.kv_bytes, "prompt_cache_limit", (json_int_t)s->info.park_bytes,
                                  "work", (json_int_t)s->info.work_bytes));
    return answer_json(x, 200, o);
}

/* ---- models ---- */

bool server_knows_model(const server *s, const char *name) {
    if (strcmp(name, s->model_id) == 0) return true;
    for (const char *at = s->o->alias; at && *at;) {
        size_t n = strcspn(at, ",");
        if (strlen(name) == n && strncmp(at, name, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

static json_t *comma_list(const char *list) {
    json_t *o = json_array();
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ",");
        if (n > 0) json_array_append_new(o, json_stringn(at, n));
        at += n + (at[n] == ',');
    }
    return o;
}

/* Before the model is loaded there is no `meta`. */
static json_t *model_object(const server *s) {
    json_t *aliases = s->o->alias ? comma_list(s->o->alias) : json_pack("[s]", s->model_id);
    json_t *o = json_pack("{s:s,s:s,s:I,s:s,s:o,s:o,s:n}", "id", s->model_id, "object", "model", "created",
                          (json_int_t)s->started_s, "owned_by", "llamacpp", "aliases", aliases, "tags",
                          comma_list(s->o->tags), "meta");
    if (s->state == SERVER_LOADING || s->state == SERVER_FAILED) return o;
    json_object_set_new(o, "meta",
                        json_pack("{s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:s}", "vocab_type", 2, "n_vocab", s->info.n_vocab,
                                  "n_ctx", s->info.n_ctx, "n_ctx_train", s->info.n_ctx_train, "n_embd", s->info.d_model,
                                  "n_params", (json_int_t)s->info.n_params, "size", (json_int_t)s->info.file_bytes,
                                  "ftype", s->info.file_type));
    return o;
}

static void when_started(const server *s, char out[32]) {
    time_t t = (time_t)s->started_s;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static json_t *anthropic_object(const server *s) {
    char when[32];
    when_started(s, when);
    return json_pack("{s:s,s:s,s:s,s:s}", "type", "model", "id", s->model_id, "display_name", s->model_id, "created_at",
                     when);
}

/* Ollama's words, for clients that look for a model with them. */
static json_t *ollama_details(const server *s) {
    return json_pack("{s:s,s:s,s:s,s:[s],s:s,s:s}", "parent_model", "", "format", "gguf", "family", "gemma4",
                     "families", "gemma4", "parameter_size", s->info.size_label, "quantization_level",
                     s->info.file_type);
}

http_turn serve_tags(server *s, http_exchange *x) {
    char when[32];
    when_started(s, when);
    return answer_json(x, 200,
                       json_pack("{s:[{s:s,s:s,s:s,s:I,s:s,s:o}]}", "models", "name", s->model_id, "model", s->model_id,
                                 "modified_at", when, "size", (json_int_t)s->info.file_bytes, "digest", "", "details",
                                 ollama_details(s)));
}

http_turn serve_show(server *s, http_exchange *x) {
    size_t n = 0;
    const char *tmpl = td_engine_metadata(s->engine, "tokenizer.chat_template", &n);
    return answer_json(x, 200,
                       json_pack("{s:s%,s:s,s:o,s:{s:s,s:I,s:i},s:[s,s]}", "template", tmpl ? tmpl : "", n, "modelfile",
                                 "", "details", ollama_details(s), "model_info", "general.architecture", "gemma4",
                                 "general.parameter_count", (json_int_t)s->info.n_params, "gemma4.context_length",
                                 s->info.n_ctx, "capabilities", "completion", "tools"));
}

http_turn serve_models(server *s, http_exchange *x, const char *id) {
    bool anthropic = http_header(x, "anthropic-version") != NULL;
    if (id && !server_knows_model(s, id))
        return answer_error(x, anthropic ? MSG_ANTHROPIC : MSG_CHAT, 404, "model", NULL,
                            "the model '%s' does not exist", id);
    if (id) return answer_json(x, 200, anthropic ? anthropic_object(s) : model_object(s));
    if (anthropic)
        return answer_json(x, 200,
                           json_pack("{s:[o],s:b,s:s,s:s}", "data", anthropic_object(s), "has_more", 0, "first_id",
                                     s->model_id, "last_id", s->model_id));
    json_t *old =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:[s],s:s,s:o}", "name", s->model_id, "model", s->model_id,
                  "modified_at", "", "size", "", "digest", "", "type", "model", "description", "", "tags",
                  comma_list(s->o->tags), "capabilities", "completion", "parameters", "", "details", ollama_details(s));
    return answer_json(x, 200,
                       json_pack("{s:s,s:[o],s:[o]}", "object", "list", "data", model_object(s), "models", old));
}

/* ---- stored responses ---- */

http_turn serve_response(server *s, http_exchange *x, const char *id) {
    td_slice name = {id, strlen(id)};
    td_error err = {0};
    td_buf out = {0};
    const char *owner = owner_of(s, x);
    if (strcmp(http_method(x), "DELETE") == 0) {
        if (!store_remove(s->responses, owner, name))
            return answer_error(x, MSG_RESPONSES, 404, NULL, NULL, "Response with id '%.64s' not found.", id);
        return answer_json(x, 200, json_pack("{s:s,s:s,s:b}", "id", id, "object", "response", "deleted", 1));
    }
    http_turn turn = store_object(s->responses, owner, name, &out, &err)
                         ? answer_td_error(x, MSG_RESPONSES, &err)
                         : answer_text(x, 200, JSON_TYPE, out.data, out.n_bytes);
    td_buf_free(&out);
    return turn;
}

/* ---- text ---- */

/* A switch of the body, *out as it is when absent. */
static td_status flag(const td_json *body, const char *name, bool *out, td_error *err) {
    const td_json *v = td_json_get(body, name);
    if (!td_json_present(v)) return TD_OK;
    if (v->kind != TD_JSON_TRUE && v->kind != TD_JSON_FALSE)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Field '%s': must be true or false", name);
    *out = v->kind == TD_JSON_TRUE;
    return TD_OK;
}

static td_status add_content(server *s, const td_json *v, bool special, bool bos, td_tokens *out, td_error *err) {
    int64_t id = 0;
    if (td_json_is(v, TD_JSON_STRING))
        return td_vocab_tokenize(s->vocab, v->text.data, v->text.n_bytes, special ? TD_SPECIAL_ALL : TD_SPECIAL_USER,
                                 bos, out, err);
    if (td_json_int(v, &id)) {
        if (id < 0 || id >= s->info.n_vocab)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "token %lld is outside the vocabulary (0..%d)",
                           (long long)id, s->info.n_vocab - 1);
        return td_tokens_add(out, (uint32_t)id) ? TD_OK : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    }
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                   "\"content\" must be a string, or an array of strings and tokens");
}

http_turn serve_tokenize(server *s, http_exchange *x) {
    own_body b;
    if (!own_body_read(&b, x, MSG_CHAT)) return b.turn;
    td_tokens ids = {0};
    td_error err = {0};
    bool special = true, bos = false, pieces = false;
    td_status status = flag(b.json, "parse_special", &special, &err);
    if (!status) status = flag(b.json, "add_special", &bos, &err);
    if (!status) status = flag(b.json, "with_pieces", &pieces, &err);
    const td_json *v = status ? NULL : td_json_get(b.json, "content");
    if (td_json_is(v, TD_JSON_ARRAY)) {
        for (const td_json *e = v->first; e && !status; e = e->next)
            status = add_content(s, e, special, bos && e == v->first, &ids, &err);
    } else if (td_json_present(v)) {
        status = add_content(s, v, special, bos, &ids, &err);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < ids.n; i++) {
        if (!pieces) {
            json_array_append_new(list, json_integer(ids.ids[i]));
            continue;
        }
        td_slice p = td_vocab_piece(s->vocab, ids.ids[i], true);
        json_t *piece =
            td_utf8_valid(p.data ? p.data : "", p.n_bytes) ? json_stringn(p.data ? p.data : "", p.n_bytes) : NULL;
        if (!piece) {
            piece = json_array();
            for (size_t k = 0; k < p.n_bytes; k++) json_array_append_new(piece, json_integer((unsigned char)p.data[k]));
        }
        json_array_append_new(list, json_pack("{s:i,s:o}", "id", (int)ids.ids[i], "piece", piece));
    }
    td_tokens_free(&ids);
    td_arena_destroy(b.arena);
    if (status) {
        json_decref(list);
        return answer_field_error(x, "content", &err);
    }
    return answer_json(x, 200, json_pack("{s:o}", "tokens", list));
}

http_turn serve_detokenize(server *s, http_exchange *x) {
    own_body b;
    if (!own_body_read(&b, x, MSG_CHAT)) return b.turn;
    td_tokens ids = {0};
    td_buf text = {0};
    td_error err = {0};
    td_status status = TD_OK;
    const td_json *v = td_json_get(b.json, "tokens");
    if (td_json_present(v) && v->kind != TD_JSON_ARRAY)
        status = td_fail(&err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"tokens\" must be an array of tokens");
    for (const td_json *e = status || !v ? NULL : v->first; e && !status; e = e->next)
        status = e->kind == TD_JSON_STRING
                     ? td_fail(&err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"tokens\" must be an array of tokens")
                     : add_content(s, e, true, false, &ids, &err);
    if (!status) status = td_vocab_detokenize(s->vocab, ids.ids, ids.n, true, &text, &err);
    json_t *content = status ? NULL : json_stringn(text.data ? text.data : "", text.n_bytes);
    if (!status && !content) { /* bytes that are no text leave as one replacement character each */
        td_utf8_stream u = {{0}, 0};
        char *fixed = malloc(3 * (text.n_bytes + 2));
        size_t n = fixed ? td_utf8_stream_push(&u, text.data, text.n_bytes, fixed) : 0;
        if (fixed) n += td_utf8_stream_finish(&u, fixed + n);
        content = json_stringn(fixed ? fixed : "", n);
        free(fixed);
    }
    td_tokens_free(&ids);
    td_buf_free(&text);
    td_arena_destroy(b.arena);
    if (status) return answer_error(x, MSG_CHAT, td_status_http(status), "tokens", NULL, "%s", err.text);
    return answer_json(x, 200, json_pack("{s:o}", "content", content));
}

/* ---- prompts ---- */

typedef struct rendered { /* the prompt of a chat body */
    own_body body;
    msg_request r;
    td_chat_prompt prompt;
    td_tokens ids;
} rendered;

static bool render(rendered *p, server *s, http_exchange *x, api kind, msg_dialect d) {
    td_error err = {0};
    if (!s->has_chat) {
        p->body.turn = answer_error(x, d, 400, NULL, NULL, "this model's vocabulary has no chat tokens");
        return false;
    }
    if (!own_body_read(&p->body, x, d)) return false;
    td_status status = chat_read(s, kind, owner_of(s, x), p->body.json, p->body.arena, &p->r, &err);
    const char *param = status ? p->r.param : NULL;
    if (!status) status = chat_prompt(s, &p->r, p->body.arena, &p->prompt, &p->ids, &err);
    if (status) p->body.turn = answer_error(x, d, td_status_http(status), param, NULL, "%s", err.text);
    if (status) td_arena_destroy(p->body.arena);
    return !status;
}

static void free_rendered(rendered *p) {
    td_tokens_free(&p->ids);
    td_chat_prompt_free(&p->prompt);
    td_arena_destroy(p->body.arena);
}

/* with_tokens: also the ids, <bos> and all. */
http_turn serve_apply_template(server *s, http_exchange *x) {
    rendered p = {0};
    if (!render(&p, s, x, API_CHAT, MSG_CHAT)) return p.body.turn;
    td_error err = {0};
    bool with_tokens = false;
    td_status status = flag(p.body.json, "with_tokens", &with_tokens, &err);
    td_slice text = td_chat_prompt_text(&p.prompt);
    json_t *o = json_pack("{s:o}", "prompt", json_stringn(text.data ? text.data : "", text.n_bytes));
    json_t *ids = json_array();
    for (size_t i = 0; i < p.ids.n && with_tokens; i++) json_array_append_new(ids, json_integer(p.ids.ids[i]));
    if (with_tokens)
        json_object_set_new(o, "tokens", ids);
    else
        json_decref(ids);
    free_rendered(&p);
    if (!status) return answer_json(x, 200, o);
    json_decref(o);
    return answer_field_error(x, "with_tokens", &err);
}

http_turn serve_count(server *s, http_exchange *x, api kind) {
    msg_dialect d = api_dialect(kind);
    rendered p = {0};
    if (!render(&p, s, x, kind, d)) return p.body.turn;
    int n = (int)p.ids.n;
    free_rendered(&p);
    if (kind == API_ANTHROPIC) return answer_json(x, 200, json_pack("{s:i}", "input_tokens", n));
    return answer_json(x, 200, json_pack("{s:s,s:i}", "object", "response.input_tokens", "input_tokens", n));
}
