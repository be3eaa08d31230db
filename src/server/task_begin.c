/* The beginning of a generating request: its body becomes prompts, parameters and a grammar, and these become jobs. */
#include "app.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/log.h"
#include "../base/status.h"
#include "../text/grammar.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PROMPTS 256 /* of one request */

static void model_name(task *t) {
    const td_json *m = td_json_get(t->body, "model");
    if (td_json_is(m, TD_JSON_STRING) && m->text.n_bytes > 0 && m->text.n_bytes < sizeof t->model)
        snprintf(t->model, sizeof t->model, "%.*s", (int)m->text.n_bytes, m->text.data);
    else
        snprintf(t->model, sizeof t->model, "%s", t->s->model_id);
}

static td_status no_memory(td_error *err) {
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the request");
}

/* ---- thoughts ---- */

/* A prompt given as text ends inside a thought when its last channel marker opens one. */
static bool ends_in_thought(const td_chat_vocab *cv, const td_tokens *ids) {
    for (size_t i = ids->n; i > 0; i--) {
        if (ids->ids[i - 1] == cv->ids[TD_MARK_CHANNEL]) return true;
        if (ids->ids[i - 1] == cv->ids[TD_MARK_CHANNEL_END] || ids->ids[i - 1] == cv->ids[TD_MARK_TURN_END])
            return false;
    }
    return false;
}

/* Thoughts are counted in every request; what ends one whose budget is used up is the message, if there is one, and a
 * newline. A thought that may not even begin gets none. */
static td_status watch_thoughts(task *t, td_error *err) {
    const server *s = t->s;
    const char *message = t->f.reasoning_message ? t->f.reasoning_message : "";
    td_reasoning_params *r = &t->f.job.reasoning;
    if (!s->has_chat) return TD_OK;
    r->begin = s->chat_vocab.ids[TD_MARK_CHANNEL];
    r->end = s->chat_vocab.ids[TD_MARK_CHANNEL_END];
    r->call = s->chat_vocab.ids[TD_MARK_TOOL_CALL];
    r->budget = t->f.reasoning_budget;
    if (r->end == TD_TOKEN_NONE) r->begin = TD_TOKEN_NONE;
    td_buf text = {0};
    bool ok = td_buf_add_str(&text, message) &&
              (t->f.reasoning_budget == 0 && !*message ? true : td_buf_add_char(&text, '\n'));
    td_status status = ok ? td_vocab_tokenize(s->vocab, text.n_bytes ? text.data : "", text.n_bytes, TD_SPECIAL_NONE,
                                              false, &t->closing, err)
                          : no_memory(err);
    td_buf_free(&text);
    r->closing = t->closing.ids;
    r->n_closing = (int)t->closing.n;
    return status;
}

/* ---- jobs ---- */

static td_status start_jobs(task *t, td_error *err) {
    server *s = t->s;
    td_job_params p = t->f.job;
    td_status status = watch_thoughts(t, err);
    if (status) return status;
    p.reasoning = t->f.job.reasoning;
    p.cache_key = key_of(s, t->x);
    p.on_ready = task_on_ready;
    p.user = t;
    p.max_ms_at_line = true;
    if (p.max_ms < 0) p.max_ms = 0;
    if (p.slot >= 0) p.slot %= s->info.n_slots;
    uint64_t seed = p.sampling.seed;
    for (int i = 0; i < t->n_choices && !status; i++) {
        choice *c = &t->choices[i];
        c->prompt = &t->prompts[i / t->f.n];
        c->task = t;
        c->index = i;
        c->slot = -1;
        p.prompt = c->prompt->ids;
        p.n_prompt = (int)c->prompt->n;
        p.reasoning.open = task_is_chat(t) ? t->prompt.start.in_thought : ends_in_thought(&s->chat_vocab, c->prompt);
        p.sampling.seed = seed == UINT64_MAX ? seed : seed + (uint64_t)(i % t->f.n);
        p.grammar = t->f.grammar ? td_grammar_ref(t->f.grammar) : NULL;
        status = td_job_submit(s->engine, &p, &c->job, err);
    }
    return status;
}

static http_turn refuse(http_exchange *x, task *t, const td_error *err, const char *param) {
    char name[64] = "";
    size_t longest = 0;
    for (int i = 0; i < t->n_prompts; i++)
        if (t->prompts[i].n > longest) longest = t->prompts[i].n;
    /* The engine's own checks say it in the text only. */
    if (!param && sscanf(err->text, "Field '%63[^']'", name) == 1) param = name;
    if (err->code == TD_ERR_CONTEXT && longest > 0)
        return answer_context(x, t->dialect, (int)longest, t->s->info.n_ctx);
    if (param && *param) return answer_error(x, t->dialect, 400, param, NULL, "%s", err->text);
    if (err->code == TD_ERR_BUSY) /* the engine's queue is full: as --queue-max */
        return answer_error(x, t->dialect, 429, NULL, NULL, "%s", err->text);
    return answer_td_error(x, t->dialect, err);
}

static http_turn launch(server *s, http_exchange *x, task *t) {
    td_error err = {0};
    td_counters now;
    td_counters_get(s->engine, &now);
    if (s->o->queue_max > 0 && now.n_deferred >= s->o->queue_max)
        return answer_error(x, t->dialect, 429, NULL, NULL, "%d requests already wait", now.n_deferred);
    if (t->f.n > s->info.n_slots)
        return answer_error(x, t->dialect, 400, "n", NULL,
                            "Field 'n': Value must be between 1 <= value <= %d, but got %d", s->info.n_slots, t->f.n);
    t->n_choices = t->n_prompts * t->f.n;
    t->choices = td_calloc((size_t)t->n_choices, sizeof *t->choices);
    if (!t->choices) return answer_error(x, t->dialect, 500, NULL, NULL, "no memory");
    if (start_jobs(t, &err) || (task_is_chat(t) && chat_choices(t, &err))) return refuse(x, t, &err, NULL);
    task_list(t);
    return HTTP_WAIT;
}

static td_status make_prompts(task *t, int n, td_error *err) {
    t->prompts = td_calloc((size_t)n, sizeof *t->prompts);
    if (!t->prompts) return no_memory(err);
    t->n_prompts = n;
    return TD_OK;
}

/* Owner, body, model and defaults. False: answered. */
static bool open_body(task *t, http_turn *turn) {
    http_set_task(t->x, t);
    t->owner = owner_of(t->s, t->x);
    if (!(t->body = read_body(t->x, t->arena, t->dialect, turn))) return false;
    model_name(t);
    if (t->s->o->strict_model && !server_knows_model(t->s, t->model)) {
        *turn = answer_error(t->x, t->dialect, 404, "model", NULL, "the model '%s' does not exist", t->model);
        return false;
    }
    fields_init(t->s, &t->f);
    t->head.model = t->model;
    t->head.fingerprint = FINGERPRINT;
    t->head.created = (int64_t)time(NULL);
    return true;
}

/* ---- completion ---- */

/* A string, an array of ids, an array that mixes both, or {prompt_string}. */
static td_status prompt_tokens(server *s, const td_json *v, td_tokens *out, td_error *err) {
    if (td_json_is(v, TD_JSON_OBJECT)) {
        const td_json *media = td_json_get(v, "multimodal_data");
        if (td_json_present(media) && (media->kind != TD_JSON_ARRAY || media->n > 0))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                           "image input is not supported - hint: if this is unexpected, you may need to provide the "
                           "mmproj");
        v = td_json_get(v, "prompt_string");
        if (!td_json_is(v, TD_JSON_STRING))
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\": \"prompt_string\" must be a string");
    }
    if (td_json_is(v, TD_JSON_STRING))
        return td_vocab_tokenize(s->vocab, v->text.data, v->text.n_bytes, TD_SPECIAL_ALL, true, out, err);
    if (!td_json_is(v, TD_JSON_ARRAY))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\" must be a string or an array of tokens");
    td_status status = TD_OK;
    for (const td_json *e = v->first; e && !status; e = e->next) {
        int64_t id = 0;
        if (e->kind == TD_JSON_STRING)
            status =
                td_vocab_tokenize(s->vocab, e->text.data, e->text.n_bytes, TD_SPECIAL_ALL, e == v->first, out, err);
        else if (!td_json_int(e, &id) || id < 0 || id >= s->info.n_vocab)
            status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                             "\"prompt\": every entry must be a string or a token of 0 to %d", s->info.n_vocab - 1);
        else if (!td_tokens_add(out, (uint32_t)id))
            status = no_memory(err);
    }
    return status;
}

/* An array is one prompt when a number stands in it, else a list of prompts. */
static bool is_list(const td_json *v) {
    if (!td_json_is(v, TD_JSON_ARRAY) || v->n == 0) return false;
    for (const td_json *e = v->first; e; e = e->next)
        if (e->kind != TD_JSON_STRING && e->kind != TD_JSON_ARRAY && e->kind != TD_JSON_OBJECT) return false;
    return true;
}

static td_status read_prompts(task *t, const td_json *v, td_error *err) {
    bool list = is_list(v);
    if (list && v->n > MAX_PROMPTS)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\": at most %d prompts, not %u", MAX_PROMPTS, v->n);
    td_status status = make_prompts(t, list ? (int)v->n : 1, err);
    const td_json *e = list ? v->first : v;
    for (int i = 0; i < t->n_prompts && !status; i++, e = e->next) {
        status = prompt_tokens(t->s, e, &t->prompts[i], err);
        if (!status && t->prompts[i].n == 0)
            status = td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "\"prompt\" holds no token");
    }
    return status;
}

static td_status wrong(char param[64], const char *name, td_error *err, const char *text) {
    snprintf(param, 64, "%s", name);
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "%s", text);
}

static td_status read_completion(task *t, char param[64], td_error *err) {
    int64_t n = 1;
    const td_json *prompt = td_json_get(t->body, "prompt"), *best_of = td_json_get(t->body, "best_of");
    if (!td_json_present(prompt)) return wrong(param, "prompt", err, "\"prompt\" is required");
    if (t->api == API_OAI_COMPLETION) {
        if (td_json_present(td_json_get(t->body, "suffix")))
            return wrong(param, "suffix", err, "Unsupported param: suffix");
        if (td_json_present(best_of) && (!td_json_int(best_of, &n) || n != 1))
            return wrong(param, "best_of", err, "Unsupported param: best_of");
    }
    td_status status = fields_read(t->s, t->body, t->arena, &t->f, param, err);
    if (!status && (status = read_prompts(t, prompt, err))) snprintf(param, 64, "prompt");
    return status;
}

/* ---- chat ---- */

td_status chat_read(server *s, api kind, const char *owner, const td_json *body, td_arena *a, msg_request *out,
                    td_error *err) {
    msg_defaults d = {.reasoning = s->o->reasoning,
                      .reasoning_budget = s->o->reasoning_budget,
                      .reasoning_format = (td_chat_reasoning_format)s->o->reasoning_format,
                      .preserve_thinking = s->o->reasoning_preserve,
                      .anthropic_thinking = s->o->anthropic_thinking,
                      .no_prefill = s->o->no_prefill};
    const td_json *id = td_json_get(body, "previous_response_id");
    if (kind == API_RESPONSES && td_json_is(id, TD_JSON_STRING)) {
        td_status status = store_items(s->responses, owner, id->text, a, &d.previous, err);
        snprintf(out->param, sizeof out->param, "%s", status ? "previous_response_id" : "");
        if (status) return status;
    }
    td_status status = kind == API_ANTHROPIC   ? msg_read_anthropic(out, body, &d, a, err)
                       : kind == API_RESPONSES ? msg_read_responses(out, body, &d, a, err)
                                               : msg_read_chat(out, body, &d, a, err);
    const td_json *list = td_json_get(body, "messages");
    if (status || kind == API_RESPONSES || !list || list->n > 0) return status;
    snprintf(out->param, sizeof out->param, "messages");
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "'messages' must hold at least one message");
}

td_status chat_prompt(server *s, const msg_request *r, td_arena *a, td_chat_prompt *prompt, td_tokens *ids,
                      td_error *err) {
    td_chat_options options = msg_render_options(r, s->profile, s->replay);
    td_status status = td_chat_render(prompt, r->messages, r->n_messages, r->tools, r->n_tools, &options, a, err);
    return status ? status : td_chat_prompt_tokenize(prompt, &s->chat_vocab, false, ids, NULL, err);
}

/* A value's text: as it came, or written out where the reader made it (declarations are cleaned). */
static td_slice json_text(const td_json *v, td_arena *a) {
    if (!v || v->raw.n_bytes > 0) return v ? v->raw : (td_slice){NULL, 0};
    td_buf b = {0};
    char *copy = td_json_write(&b, v) ? td_arena_strndup(a, b.data, b.n_bytes) : NULL;
    td_slice text = {copy, copy ? b.n_bytes : 0};
    td_buf_free(&b);
    return text;
}

/* The answer of response_format. */
static td_status json_grammar(task *t, td_thought thought, td_error *err) {
    static const char any[] = "{\"type\":\"object\"}";
    const msg_request *r = &t->msg;
    td_schema_options o = {.strict = r->schema_strict, .thought = thought};
    td_slice schema = r->schema ? json_text(r->schema, t->arena) : (td_slice){any, sizeof any - 1};
    return td_grammar_compile_schema(&t->f.grammar, t->s->vocab, schema.data, schema.n_bytes, &o, err);
}

/* Calls by the tools' schemas; `syntax`: any arguments in the right form. Calls that must be made are the whole answer;
 * one that may be made is held from its first marker to its last. */
static td_status tools_grammar(task *t, td_thought thought, bool syntax, td_error *err) {
    const msg_request *r = &t->msg;
    bool must = r->tool_choice == MSG_TOOLS_REQUIRED;
    td_grammar_tool *tools = td_arena_alloc(t->arena, r->n_tools, sizeof *tools);
    if (!tools) return no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < r->n_tools; i++) {
        if (r->allowed && !r->allowed[i]) continue;
        tools[n] = (td_grammar_tool){.name = r->tools[i].name};
        if (!syntax) tools[n].schema = json_text(r->tools[i].parameters, t->arena);
        n++;
    }
    td_tools_options o = {.choice = TD_TOOLS_REQUIRED,
                          .parallel = must && r->parallel_calls,
                          .thought = must ? thought : TD_THOUGHT_NONE};
    if (!must) {
        t->f.job.grammar_trigger = t->s->chat_vocab.ids[TD_MARK_TOOL_CALL];
        t->f.job.grammar_repeats = r->parallel_calls;
    }
    return td_grammar_compile_tools(&t->f.grammar, t->s->vocab, tools, n, &o, err);
}

/* A grammar over the answer, thoughts aside: JSON, calls that must be made, or calls that may be made. The last kind
 * follows the schemas as far as they can be compiled; the others are refused where they cannot. */
static td_status chat_grammar(task *t, char param[64], td_error *err) {
    const msg_request *r = &t->msg;
    const td_chat_start *start = &t->prompt.start;
    td_thought thought = start->in_thought ? TD_THOUGHT_OPEN : r->thinking ? TD_THOUGHT_OPTIONAL : TD_THOUGHT_NONE;
    td_status status = TD_OK;
    if (t->f.grammar) return TD_OK;
    if (r->format != MSG_FORMAT_TEXT) {
        status = json_grammar(t, thought, err);
        if (status) snprintf(param, 64, "%s", t->api == API_RESPONSES ? "text.format" : "response_format");
    } else if (r->n_tools > 0 && r->tool_choice == MSG_TOOLS_REQUIRED) {
        status = tools_grammar(t, thought, false, err);
        if (status) snprintf(param, 64, "tools");
    } else if (r->n_tools > 0 && r->tool_choice == MSG_TOOLS_AUTO && t->s->o->tool_grammar != SERVER_TOOLS_FREE) {
        td_error why = {0};
        bool syntax = t->s->o->tool_grammar == SERVER_TOOLS_SYNTAX;
        if (tools_grammar(t, thought, syntax, &why) && tools_grammar(t, thought, true, &why))
            td_log(TD_LOG_WARN, "tools are not constrained: %s", why.text);
    }
    return status;
}

static td_status chat_stop(task *t, td_error *err) {
    const msg_request *r = &t->msg;
    request_fields *f = &t->f;
    if (r->n_stop == 0) return TD_OK;
    f->stop = td_arena_alloc(t->arena, r->n_stop, sizeof *f->stop);
    if (!f->stop) return no_memory(err);
    for (size_t i = 0; i < r->n_stop; i++) {
        f->stop[i] = td_arena_strndup(t->arena, r->stop[i].data, r->stop[i].n_bytes);
        if (!f->stop[i]) return no_memory(err);
    }
    f->job.stop = f->stop;
    f->job.n_stop = (int)r->n_stop;
    return TD_OK;
}

/* What the dialects read themselves, over what all endpoints share. */
static td_status chat_fields(task *t, char param[64], td_error *err) {
    request_fields *f = &t->f;
    f->chat = true;
    td_status status = fields_read(t->s, t->body, t->arena, f, param, err);
    if (status) return status;
    const msg_request *r = &t->msg;
    f->stream = r->stream;
    f->include_usage = r->include_usage;
    f->reasoning_budget = r->reasoning_budget > INT32_MAX ? INT32_MAX : (int)r->reasoning_budget;
    if (r->max_tokens >= 0) f->job.n_predict = r->max_tokens > INT32_MAX ? INT32_MAX : (int)r->max_tokens;
    if (r->logprobs) f->job.n_probs = r->top_logprobs > 0 ? r->top_logprobs : 1;
    if (t->api != API_CHAT) f->n = 1;
    f->job.special_text = true; /* the parser needs the markers */
    if (r->tool_choice == MSG_TOOLS_NONE && r->n_tools > 0) {
        /* The declarations stay in the prompt, for its prefix's sake; calls cannot begin. */
        td_logit_bias *b = td_arena_alloc(t->arena, (size_t)f->job.sampling.n_biases + 1, sizeof *b);
        if (!b) return no_memory(err);
        if (f->job.sampling.n_biases) memcpy(b, f->biases, (size_t)f->job.sampling.n_biases * sizeof *b);
        uint32_t call = t->s->chat_vocab.ids[TD_MARK_TOOL_CALL];
        if (call != TD_TOKEN_NONE) b[f->job.sampling.n_biases++] = (td_logit_bias){call, -INFINITY};
        f->job.sampling.biases = f->biases = b;
    }
    return chat_stop(t, err);
}

static td_status read_chat(task *t, char param[64], td_error *err) {
    server *s = t->s;
    if (!s->has_chat)
        return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                       "this model's vocabulary has no chat tokens: use /completion");
    td_status status = chat_read(s, t->api, t->owner, t->body, t->arena, &t->msg, err);
    if (status) snprintf(param, 64, "%s", t->msg.param);
    if (!status) status = chat_fields(t, param, err);
    if (!status) status = make_prompts(t, 1, err);
    if (!status) status = chat_prompt(s, &t->msg, t->arena, &t->prompt, &t->prompts[0], err);
    if (!status) status = chat_grammar(t, param, err);
    return status;
}

/* ---- both ---- */

http_turn task_begin(server *s, http_exchange *x, api kind) {
    task *t = task_new(s, x, kind);
    if (!t) return answer_error(x, MSG_CHAT, 500, NULL, NULL, "no memory");
    http_turn turn = HTTP_WAIT;
    char param[64] = ""; /* the member that is wrong */
    td_error err = {0};
    if (!open_body(t, &turn)) return turn;
    td_status status = task_is_chat(t) ? read_chat(t, param, &err) : read_completion(t, param, &err);
    if (status) return refuse(x, t, &err, param);
    bool typed = kind == API_ANTHROPIC || kind == API_RESPONSES;
    const char *prefix = kind == API_ANTHROPIC ? "msg_" : kind == API_RESPONSES ? "resp_" : "chatcmpl-";
    msg_new_id(t->head.id, prefix, typed ? 24 : 32);
    return launch(s, x, t);
}
