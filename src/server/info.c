/* Endpoints that generate nothing: health, properties, slots, models, text utilities. */
#include "app.h"

#include "../base/status.h"
#include "../text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

http_turn serve_health(server *s, http_exchange *x) {
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
    json_t *settings = json_pack("{s:o,s:i}", "params", fields_settings(s, &f.job), "n_ctx", s->info.n_ctx);
    json_object_set_new(o, "default_generation_settings", settings);
    json_object_set_new(o, "total_slots", json_integer(s->info.n_slots));
    json_object_set_new(o, "model_alias", json_string(s->model_id));
    json_object_set_new(o, "model_ftype", json_string(s->info.file_type));
    json_object_set_new(o, "model_path", json_string(s->info.model_path));
    json_object_set_new(o, "modalities", json_pack("{s:b,s:b,s:b}", "vision", 0, "video", 0, "audio", 0));
    json_object_set_new(o, "endpoint_slots", json_boolean(s->o->slots));
    json_object_set_new(o, "endpoint_props", json_boolean(s->o->props));
    json_object_set_new(o, "endpoint_metrics", json_boolean(s->o->metrics));
    json_object_set_new(o, "chat_template", text ? text : json_string(""));
    json_object_set_new(o, "chat_profile", json_string(td_chat_profile_name(s->profile)));
    json_object_set_new(o, "bos_token", token_text(s, td_vocab_bos(s->vocab)));
    json_object_set_new(o, "eos_token", token_text(s, td_vocab_eos(s->vocab)));
    json_object_set_new(o, "build_info", json_string("tandem-" TD_VERSION));
    json_object_set_new(o, "is_sleeping", json_false());
    json_object_set_new(o, "speculative",
                        json_pack("{s:s,s:i,s:s,s:s}", "type", s->info.draft_path ? "draft-mtp" : "none", "n_max",
                                  s->o->engine.spec.n_max, "draft_model", s->info.draft_path ? s->info.draft_path : "",
                                  "head", s->info.draft_head));
    json_object_set_new(o, "memory",
                        json_pack("{s:I,s:I,s:I}", "weights", (json_int_t)s->info.weight_bytes, "cache_reserved",
                                  (json_int_t)s->info.kv_bytes, "work", (json_int_t)s->info.work_bytes));
    return answer_json(x, 200, o);
}

http_turn serve_slots(server *s, http_exchange *x) {
    if (!s->o->slots)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support slots endpoint. Start it with `--slots`");
    td_slot_info *info = calloc((size_t)s->info.n_slots, sizeof *info);
    json_t *list = json_array();
    int n = info ? td_slots_get(s->engine, info, s->info.n_slots) : 0, idle = 0;
    for (int i = 0; i < n; i++) {
        const td_slot_info *k = &info[i];
        idle += k->job < 0;
        json_t *o = json_pack("{s:i,s:i,s:b,s:b,s:s,s:i}", "id", k->id, "n_ctx", k->n_ctx, "speculative",
                              k->speculative || s->info.draft_path != NULL, "is_processing", k->job >= 0, "state",
                              k->job < 0        ? "idle"
                              : k->prompt_phase ? "prompt"
                                                : "generate",
                              "n_cached_tokens", k->n_tokens);
        if (k->job >= 0) {
            json_object_set_new(o, "id_task", json_integer(k->job));
            json_object_set_new(o, "n_prompt_tokens", json_integer(k->n_prompt));
            json_object_set_new(o, "n_prompt_tokens_processed", json_integer(k->n_prompt_done - k->n_prompt_cached));
            json_object_set_new(o, "n_prompt_tokens_cache", json_integer(k->n_prompt_cached));
            json_object_set_new(
                o, "next_token",
                json_pack("[{s:b,s:i,s:i}]", "has_next_token", 1, "n_remain", k->n_remain, "n_decoded", k->n_decoded));
            json_object_set_new(o, "draft_n", json_integer(k->draft_n));
            json_object_set_new(o, "draft_n_accepted", json_integer(k->draft_n_accepted));
            json_object_set_new(o, "depth", json_integer(k->depth));
        }
        json_array_append_new(list, o);
    }
    free(info);
    const char *fail = http_query(x, "fail_on_no_slot");
    if (fail && idle == 0) {
        json_decref(list);
        return answer_error(x, MSG_CHAT, 503, NULL, NULL, "no slot available");
    }
    return answer_json(x, 200, list);
}

/* Only plain names: no path comes from a client. */
static bool plain_name(td_slice s) {
    if (s.n_bytes == 0 || s.n_bytes > 200 || s.data[0] == '.') return false;
    for (size_t i = 0; i < s.n_bytes; i++) {
        char c = s.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
              c == '.'))
            return false;
    }
    return true;
}

http_turn serve_slot_action(server *s, http_exchange *x, const char *rest) {
    char *end = NULL;
    long id = strtol(rest, &end, 10);
    const char *action = http_query(x, "action");
    if (end == rest || *end || id < 0 || id >= s->info.n_slots)
        return answer_error(x, MSG_CHAT, 400, NULL, NULL, "Invalid slot ID");
    if (!action) return answer_error(x, MSG_CHAT, 400, NULL, NULL, "Invalid action");
    td_error err = {0};
    int n = 0;
    uint64_t bytes = 0;
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    if (strcmp(action, "erase") == 0) {
        if (td_slot_erase(s->engine, (int)id, &n, &err)) return answer_td_error(x, MSG_CHAT, &err);
        return answer_json(x, 200, json_pack("{s:i,s:i}", "id_slot", (int)id, "n_erased", n));
    }
    bool save = strcmp(action, "save") == 0;
    if (!save && strcmp(action, "restore") != 0) return answer_error(x, MSG_CHAT, 400, NULL, NULL, "Invalid action");
    if (!s->o->slot_save_path)
        return answer_error(x, MSG_CHAT, 501, NULL, NULL,
                            "This server does not support slots action. Start it with `--slot-save-path`");
    td_arena *a = td_arena_create(1 << 20);
    http_turn turn = HTTP_ANSWER;
    const td_json *body = a ? read_body(x, a, MSG_CHAT, &turn) : NULL;
    const td_json *name = td_json_get(body, "filename");
    char path[4096];
    if (!body) {
        td_arena_destroy(a);
        return turn;
    }
    if (!td_json_is(name, TD_JSON_STRING) || !plain_name(name->text)) {
        td_arena_destroy(a);
        return answer_error(x, MSG_CHAT, 400, "filename", NULL, "Invalid filename");
    }
    int len = snprintf(path, sizeof path, "%s/%.*s", s->o->slot_save_path, (int)name->text.n_bytes, name->text.data);
    td_status status = len < 0 || (size_t)len >= sizeof path
                           ? td_fail(&err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "Invalid filename")
                       : save ? td_slot_save(s->engine, (int)id, path, &n, &bytes, &err)
                              : td_slot_restore(s->engine, (int)id, path, &n, &bytes, &err);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double ms = (double)(t1.tv_sec - t0.tv_sec) * 1e3 + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-6;
    json_t *file = json_stringn(name->text.data, name->text.n_bytes);
    td_arena_destroy(a);
    if (status) {
        json_decref(file);
        return answer_error(x, MSG_CHAT, status == TD_ERR_BUSY ? 503 : 400, NULL, NULL, "%s", err.text);
    }
    return answer_json(x, 200,
                       json_pack("{s:i,s:o,s:i,s:I,s:{s:f}}", "id_slot", (int)id, "filename", file,
                                 save ? "n_saved" : "n_restored", n, save ? "n_written" : "n_read", (json_int_t)bytes,
                                 "timings", save ? "save_ms" : "restore_ms", ms));
}

static json_t *model_object(const server *s) {
    json_t *o = json_pack("{s:s,s:s,s:I,s:s,s:[s],s:[]}", "id", s->model_id, "object", "model", "created",
                          (json_int_t)s->started_s, "owned_by", "llamacpp", "aliases", s->model_id, "tags");
    if (s->state != SERVER_READY) {
        json_object_set_new(o, "meta", json_null());
        return o;
    }
    json_object_set_new(o, "meta",
                        json_pack("{s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:s}", "vocab_type", 2, "n_vocab", s->info.n_vocab,
                                  "n_ctx", s->info.n_ctx, "n_ctx_train", s->info.n_ctx_train, "n_embd", s->info.d_model,
                                  "n_params", (json_int_t)s->info.n_params, "size", (json_int_t)s->info.file_bytes,
                                  "ftype", s->info.file_type));
    return o;
}

http_turn serve_models(server *s, http_exchange *x, const char *id) {
    if (id && strcmp(id, s->model_id) != 0)
        return answer_error(x, MSG_CHAT, 404, "model", NULL, "the model '%s' does not exist", id);
    if (id) return answer_json(x, 200, model_object(s));
    if (http_header(x, "anthropic-version")) {
        char when[32];
        time_t t = (time_t)s->started_s;
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
        return answer_json(x, 200,
                           json_pack("{s:[{s:s,s:s,s:s,s:s}],s:b,s:s,s:s}", "data", "type", "model", "id", s->model_id,
                                     "display_name", s->model_id, "created_at", when, "has_more", 0, "first_id",
                                     s->model_id, "last_id", s->model_id));
    }
    json_t *old = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:[],s:[s],s:s,s:{s:s,s:s,s:s,s:[s],s:s,s:s}}", "name",
                            s->model_id, "model", s->model_id, "modified_at", "", "size", "", "digest", "", "type",
                            "model", "description", "", "tags", "capabilities", "completion", "parameters", "",
                            "details", "parent_model", "", "format", "gguf", "family", "gemma4", "families", "gemma4",
                            "parameter_size", s->info.size_label, "quantization_level", s->info.file_type);
    return answer_json(x, 200,
                       json_pack("{s:s,s:[o],s:[o]}", "object", "list", "data", model_object(s), "models", old));
}

/* ---- text ---- */

typedef struct call {
    td_arena *a;
    const td_json *body;
    http_turn turn;
} call;

static bool open_call(call *c, http_exchange *x, msg_dialect d) {
    c->a = td_arena_create((size_t)512 << 20);
    c->turn = HTTP_ANSWER;
    c->body = c->a ? read_body(x, c->a, d, &c->turn) : NULL;
    if (!c->body) td_arena_destroy(c->a);
    return c->body != NULL;
}

static bool flag(const td_json *body, const char *name, bool def) {
    const td_json *v = td_json_get(body, name);
    return td_json_present(v) ? td_json_is(v, TD_JSON_TRUE) : def;
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
    call c;
    if (!open_call(&c, x, MSG_CHAT)) return c.turn;
    td_tokens ids = {0};
    td_error err = {0};
    td_status status = TD_OK;
    bool special = flag(c.body, "parse_special", true), bos = flag(c.body, "add_special", false),
         pieces = flag(c.body, "with_pieces", false);
    const td_json *v = td_json_get(c.body, "content");
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
    td_arena_destroy(c.a);
    if (status) {
        json_decref(list);
        return answer_error(x, MSG_CHAT, 400, "content", NULL, "%s", err.text);
    }
    return answer_json(x, 200, json_pack("{s:o}", "tokens", list));
}

http_turn serve_detokenize(server *s, http_exchange *x) {
    call c;
    if (!open_call(&c, x, MSG_CHAT)) return c.turn;
    td_tokens ids = {0};
    td_buf text = {0};
    td_error err = {0};
    td_status status = TD_OK;
    const td_json *v = td_json_get(c.body, "tokens");
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
    td_arena_destroy(c.a);
    if (status) return answer_error(x, MSG_CHAT, 400, "tokens", NULL, "%s", err.text);
    return answer_json(x, 200, json_pack("{s:o}", "content", content));
}

/* The rendered prompt of a chat body; with_ids: its tokens too. */
static http_turn with_prompt(server *s, http_exchange *x, api kind, bool count_only) {
    msg_dialect d = kind == API_ANTHROPIC ? MSG_ANTHROPIC : kind == API_RESPONSES ? MSG_RESPONSES : MSG_CHAT;
    call c;
    if (!s->has_chat) return answer_error(x, d, 400, NULL, NULL, "this model's vocabulary has no chat tokens");
    if (!open_call(&c, x, d)) return c.turn;
    msg_request r = {0};
    td_chat_prompt prompt = {0};
    td_tokens ids = {0};
    td_error err = {0};
    td_status status = chat_read(s, kind, c.body, c.a, &r, &err);
    char param[64] = "";
    if (status) snprintf(param, sizeof param, "%s", r.param);
    if (!status) status = chat_prompt(s, &r, c.a, &prompt, &ids, &err);
    json_t *o = NULL;
    if (!status && count_only) {
        o = kind == API_ANTHROPIC
                ? json_pack("{s:i}", "input_tokens", (int)ids.n)
                : json_pack("{s:s,s:i}", "object", "response.input_tokens", "input_tokens", (int)ids.n);
    } else if (!status) {
        td_slice text = td_chat_prompt_text(&prompt);
        o = json_pack("{s:o}", "prompt", json_stringn(text.data ? text.data : "", text.n_bytes));
    }
    td_tokens_free(&ids);
    td_chat_prompt_free(&prompt);
    td_arena_destroy(c.a);
    if (status) return answer_error(x, d, 400, param, NULL, "%s", err.text);
    return answer_json(x, 200, o);
}

http_turn serve_apply_template(server *s, http_exchange *x) {
    return with_prompt(s, x, API_CHAT, false);
}
http_turn serve_count(server *s, http_exchange *x, api kind) {
    return with_prompt(s, x, kind, true);
}
