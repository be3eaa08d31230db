/* Opening and closing an engine, and the thread that runs its steps. */
#include "engine.h"

#include "../base/checked.h"
#include "../base/clock.h"
#include "../base/cpu.h"
#include "../base/log.h"
#include "../file/gguf.h"
#include "../text/vocab_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PARKED 64

const char *td_version(void) {
    return TD_VERSION;
}

void td_engine_params_init(td_engine_params *p) {
    *p = (td_engine_params){
        .n_slots = 1,
        .n_batch = 512,
        .prefill_ms = 100,
        .cache_ram = (int64_t)8 << 30,
        .n_checkpoints = 32,
        .pack = true,
        .spec = {.types = TD_SPEC_MTP, .n_max = 3, .ngram_n = 12, .ngram_m = 48},
    };
}

/* ---- opening ---- */

static bool same_files(const td_engine *e, const td_engine_params *p) {
    bool drafts = e->draft_path && p->draft_path;
    return strcmp(e->model_path, p->model_path) == 0 &&
           (drafts ? strcmp(e->draft_path, p->draft_path) == 0 : e->draft_path == p->draft_path);
}

static td_status check(const td_engine_params *p, td_error *err) {
    if (!p->model_path || !*p->model_path)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "no model file is named (-m FILE)");
    if (p->n_slots < 1 || p->n_slots > TD_MAX_SLOTS)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the number of slots must be 1..%d, not %d", TD_MAX_SLOTS,
                       p->n_slots);
    if (p->n_batch < 1 || p->n_batch > 16384)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the batch size must be 1..16384, not %d", p->n_batch);
    if (p->n_threads < 0 || p->n_threads > 1024)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the number of threads must be 0..1024, not %d",
                       p->n_threads);
    if (p->n_ctx < 0)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "the context size must be 0 or more, not %d", p->n_ctx);
    if (p->weights_of && !same_files(p->weights_of, p))
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "weights are shared by engines of the same files only");
    if (p->spec.n_max < 0 || p->spec.n_max > TD_MAX_DRAFT)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "drafts per round must be 0..%d, not %d", TD_MAX_DRAFT,
                       p->spec.n_max);
    return TD_OK;
}

static td_status load(td_engine *e, td_error *err) {
    const td_engine_params *p = &e->params;
    td_model_options file = {.path = e->model_path,
                             .pool = e->pool,
                             .no_pack = !p->pack,
                             .pack_cache = p->pack_cache,
                             .check_tensors = p->check_tensors,
                             .progress = p->progress,
                             .progress_user = p->progress_user};
    td_status status = td_model_load(&e->model, &file, err);
    if (status) return status;
    if ((status = td_vocab_from_gguf(&e->vocab, td_model_gguf(e->model), err))) {
        td_error_prefix(err, "%s", e->model_path);
        return status;
    }
    if (td_vocab_size(e->vocab) != (uint32_t)td_model_shape(e->model)->n_vocab)
        return td_fail(err, TD_ERR_MISMATCH, TD_NO_OFFSET,
                       "%s: the vocabulary has %u tokens, the embedding table %u rows", e->model_path,
                       td_vocab_size(e->vocab), td_model_shape(e->model)->n_vocab);
    if (!e->draft_path) return TD_OK;
    td_drafter_options draft = {.file = file};
    draft.file.path = e->draft_path;
    return td_drafter_load(&e->drafter, &draft, e->model, NULL, err);
}

static td_status get_weights(td_engine *e, td_error *err) {
    const td_engine *other = e->params.weights_of;
    if (!other) return load(e, err);
    e->model = other->model; /* read-only from now on, as the vocabulary and the assistant are */
    e->vocab = other->vocab;
    e->drafter = other->drafter;
    return TD_OK;
}

static td_kv_type kv_type(td_cache_type t) {
    static const td_kv_type map[TD_CACHE_TYPE_COUNT] = {
        [TD_CACHE_AUTO] = TD_KV_F16,      [TD_CACHE_F32] = TD_KV_F32,       [TD_CACHE_F16] = TD_KV_F16,
        [TD_CACHE_BF16] = TD_KV_BF16,     [TD_CACHE_Q8_0] = TD_KV_Q8_0,     [TD_CACHE_Q4_0] = TD_KV_Q4_0,
        [TD_CACHE_TURBO2] = TD_KV_TURBO2, [TD_CACHE_TURBO3] = TD_KV_TURBO3, [TD_CACHE_TURBO4] = TD_KV_TURBO4};
    return (unsigned)t < TD_CACHE_TYPE_COUNT ? map[t] : TD_KV_F16;
}

static int context_size(const td_engine *e) {
    int trained = (int)td_model_shape(e->model)->n_ctx_train;
    return e->params.n_ctx > 0 ? e->params.n_ctx : trained;
}

/* What --cache-ram leaves for checkpoints and parked conversations together; without a limit the machine's memory. */
static uint64_t cache_limit(const td_engine *e) {
    if (e->params.cache_ram >= 0) return (uint64_t)e->params.cache_ram;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : (uint64_t)8 << 30;
}

static td_status make_kv(td_engine *e, td_kv_options *o, td_error *err) {
    td_kv_destroy(e->kv);
    e->kv = NULL;
    return td_model_kv_create(&e->kv, e->model, o, err);
}

/* Slots first; then checkpoints, of which no more than half of the limit if they do not all fit into it; then spare
 * sequences for parked conversations with what is left. All sizes are known only from a cache that was made. */
static td_status make_cache(td_engine *e, td_error *err) {
    const td_engine_params *p = &e->params;
    uint64_t limit = cache_limit(e), left = 0;
    int64_t n_checkpoint = (int64_t)p->n_checkpoints * p->n_slots;
    td_kv_options kv = {.n_slot = (uint32_t)p->n_slots,
                        .n_ctx = (uint32_t)context_size(e),
                        .n_batch = (uint32_t)(p->n_batch > TD_MAX_DRAFT + 1 ? p->n_batch : TD_MAX_DRAFT + 1),
                        .n_back = 64,
                        .n_checkpoint = (uint32_t)(n_checkpoint > 0 ? n_checkpoint : 0),
                        .type_k = kv_type(p->type_k),
                        .type_v = kv_type(p->type_v),
                        .type_k_sliding = kv_type(p->type_k_swa),
                        .type_v_sliding = kv_type(p->type_v_swa),
                        .n_protect = (uint32_t)(p->n_cache_protect > 0 ? p->n_cache_protect : 0)};
    td_status status = make_kv(e, &kv, err);
    td_kv_usage use;
    if (status) return status;
    td_kv_get_usage(e->kv, &use);
    uint64_t most = use.bytes_window > 0 ? limit / 2 / use.bytes_window : kv.n_checkpoint;
    if (most < kv.n_checkpoint) {
        kv.n_checkpoint = (uint32_t)most;
        if ((status = make_kv(e, &kv, err))) return status;
        td_kv_get_usage(e->kv, &use);
    }
    e->kv_bytes = use.bytes_reserved;
    left = limit - kv.n_checkpoint * use.bytes_window;
    uint64_t least = use.bytes_window / 4 + 256 * use.bytes_per_token, n_parked = least > 0 ? left / least : 0;
    if (n_parked > MAX_PARKED) n_parked = MAX_PARKED;
    uint64_t n_pos = use.bytes_per_token > 0 ? left / use.bytes_per_token : 0;
    if (n_pos > n_parked * kv.n_ctx) n_pos = n_parked * kv.n_ctx;
    td_kv_options more = kv;
    more.n_slot += (uint32_t)n_parked;
    n_pos += (uint64_t)p->n_slots * kv.n_ctx;
    more.n_ctx_total = n_pos < UINT32_MAX / 2 ? (uint32_t)n_pos : UINT32_MAX / 2;
    td_error unused = {0};
    if (n_parked == 0 || make_kv(e, &more, &unused)) /* no address space for them: slots are enough */
        return n_parked > 0 ? make_kv(e, &kv, err) : TD_OK;
    return td_park_create(e, kv.n_slot, (int)n_parked, left)
               ? TD_OK
               : td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the prompt cache");
}

static td_status reserve(td_engine *e, td_error *err) {
    const td_engine_params *p = &e->params;
    int n_ctx = context_size(e), n_vocab = (int)td_vocab_size(e->vocab);
    td_status status = make_cache(e, err);
    if (status) return status;
    e->max_rows = p->n_batch + p->n_slots * (TD_MAX_DRAFT + 1);
    int deepest = p->spec.n_max, n_out = p->n_slots * (deepest + 1);
    if (p->n_logit_rows > n_out) n_out = p->n_logit_rows;
    if (n_out > e->max_rows) n_out = e->max_rows;
    e->max_out = n_out;
    td_workspace_options work = {.max_rows = e->max_rows,
                                 .max_out = n_out,
                                 .max_hidden = p->n_slots * (deepest + 1),
                                 .max_slots = p->n_slots,
                                 .importance = p->importance};
    status = td_workspace_create(&e->work, e->model, e->drafter, e->pool, &work, err);
    if (status) return status;
    const td_shape *shape = td_model_shape(e->model);
    e->rows = td_calloc((size_t)e->max_rows, sizeof *e->rows);
    e->slots = td_calloc((size_t)p->n_slots, sizeof *e->slots);
    e->mask = td_calloc(((size_t)n_vocab + 63) / 64, sizeof *e->mask);
    if (!e->rows || !e->slots || !e->mask || !td_sampler_scratch_init(&e->scratch, n_vocab, n_ctx)) goto no_memory;
    for (int i = 0; i < p->n_slots; i++) {
        td_slot *s = &e->slots[i];
        s->id = i;
        s->row = -1;
        s->tokens = td_calloc((size_t)n_ctx + 1, sizeof *s->tokens);
        s->h_prev = td_calloc((size_t)shape->d_model, sizeof *s->h_prev);
        if (!s->tokens || !s->h_prev) goto no_memory;
    }
    return TD_OK;
no_memory:
    return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for %d slots of %d tokens", p->n_slots, n_ctx);
}

static void describe(td_engine *e, int64_t load_ns) {
    td_engine_info *i = &e->info;
    const td_shape *shape = td_model_shape(e->model);
    td_model_memory m = td_model_memory_use(e->model);
    *i = (td_engine_info){.model_path = e->model_path,
                          .draft_path = e->draft_path,
                          .n_vocab = (int)td_vocab_size(e->vocab),
                          .n_ctx = context_size(e),
                          .n_ctx_train = (int)shape->n_ctx_train,
                          .n_slots = e->params.n_slots,
                          .n_batch = e->params.n_batch,
                          .n_threads = td_pool_size(e->pool),
                          .n_layer = (int)shape->n_layer,
                          .d_model = (int)shape->d_model,
                          .per_layer_inputs = shape->d_ple > 0,
                          .type_k = e->params.type_k ? e->params.type_k : TD_CACHE_F16,
                          .type_v = e->params.type_v ? e->params.type_v : TD_CACHE_F16,
                          .file_bytes = m.file_bytes,
                          .weight_bytes = m.packed_bytes + m.mapped_bytes,
                          .work_bytes = td_workspace_bytes(e->work),
                          .load_ns = load_ns};
    td_kv_usage kv;
    td_kv_get_usage(e->kv, &kv);
    i->kv_token_bytes = kv.bytes_per_token;
    i->kv_bytes = e->kv_bytes;
    i->park_bytes = e->park_limit;
    if (e->drafter) {
        td_model_memory d = td_drafter_memory_use(e->drafter);
        i->draft_bytes = d.file_bytes;
        i->weight_bytes += d.packed_bytes + d.mapped_bytes;
        snprintf(i->draft_head, sizeof i->draft_head, "%s", td_drafter_is_ordered(e->drafter) ? "ordered" : "dense");
    }
    td_engine_describe_file(td_model_gguf(e->model), i);
    td_cpu_describe(i->cpu, sizeof i->cpu);
}

static void *engine_thread(void *arg);

static td_status start_thread(td_engine *e, td_error *err) {
    if (pthread_create(&e->thread, NULL, engine_thread, e))
        return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "the engine's thread cannot be started");
    e->thread_started = true;
    return TD_OK;
}

td_status td_engine_open(td_engine **out, const td_engine_params *params, td_error *err) {
    *out = NULL;
    int64_t t0 = td_clock_ns();
    td_status status = check(params, err);
    if (status) return status;
    td_engine *e = td_calloc(1, sizeof *e);
    if (!e) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for an engine");
    e->params = *params;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    pthread_cond_init(&e->command_done, NULL);
    td_policy_init(&e->policy);
    e->model_path = strdup(params->model_path);
    e->draft_path = params->draft_path ? strdup(params->draft_path) : NULL;
    e->params.model_path = e->model_path;
    e->params.draft_path = e->draft_path;
    if (!e->model_path || (params->draft_path && !e->draft_path))
        status = td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for an engine");
    td_pool_options pool = {.n_threads = e->params.n_threads, .pin = e->params.pin_threads};
    if (!status) status = td_pool_create(&e->pool, &pool, err);
    if (!status) status = get_weights(e, err);
    if (!status) status = reserve(e, err);
    const char *trace = params->spec_trace ? params->spec_trace : getenv("LLAMA_MTP_ACC_TRACE");
    if (!status) status = td_trace_open(&e->trace, trace, err);
    if (!status) {
        describe(e, td_clock_ns() - t0);
        for (int i = 0; i < e->params.n_slots; i++) {
            e->slots[i].info.last_job = -1;
            td_slot_publish(e, &e->slots[i]);
        }
        status = td_async_open(e, err);
        if (!status) status = start_thread(e, err);
    }
    if (status) {
        td_engine_close(e);
        return status;
    }
    *out = e;
    return TD_OK;
}

void td_engine_close(td_engine *e) {
    if (!e) return;
    if (e->thread_started) {
        pthread_mutex_lock(&e->lock);
        e->stop = true;
        td_engine_wake(e);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->thread, NULL);
    }
    td_async_close(e);
    for (int i = 0; e->slots && i < e->params.n_slots; i++) {
        free(e->slots[i].tokens);
        free(e->slots[i].h_prev);
        free(e->slots[i].cache_key);
    }
    free(e->slots);
    free(e->rows);
    free(e->mask);
    free(e->draft_logits);
    free(e->q);
    free(e->p_row);
    free(e->raw_row);
    free(e->probs);
    td_sampler_scratch_free(&e->scratch);
    td_trace_close(e->trace);
    td_workspace_free(e->work);
    td_park_destroy(e);
    td_kv_destroy(e->kv);
    if (!e->params.weights_of) {
        td_drafter_free(e->drafter);
        td_vocab_destroy(e->vocab);
        td_model_free(e->model);
    }
    td_pool_destroy(e->pool);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->command_done);
    free(e->model_path);
    free(e->draft_path);
    free(e);
}

bool td_engine_reserve_probs(td_engine *e, int n_probs) {
    if (!e->raw_row && !(e->raw_row = td_calloc((size_t)e->info.n_vocab, sizeof *e->raw_row))) return false;
    if (n_probs <= e->cap_probs) return true;
    td_prob *p = td_reallocarray(e->probs, (size_t)(TD_MAX_DRAFT + 2) * (size_t)(n_probs + 1), sizeof *p);
    if (!p) return false;
    e->probs = p;
    e->cap_probs = n_probs;
    return true;
}

bool td_engine_reserve_rejection(td_engine *e) {
    size_t n_vocab = (size_t)e->info.n_vocab, n_slots = (size_t)e->params.n_slots;
    if (!e->draft_logits) e->draft_logits = td_calloc(n_slots * n_vocab, sizeof *e->draft_logits);
    if (!e->q) e->q = td_calloc(n_slots * TD_MAX_DRAFT * TD_Q_CANDS, sizeof *e->q);
    if (!e->p_row) e->p_row = td_calloc(n_vocab, sizeof *e->p_row);
    return e->draft_logits && e->q && e->p_row;
}

/* ---- the thread ---- */

void td_engine_wake(td_engine *e) {
    e->woken = true;
    pthread_cond_signal(&e->wake);
}

td_status td_engine_command(td_engine *e, td_status (*run)(td_engine *e, void *arg, td_error *err), void *arg,
                            td_error *err) {
    td_command c = {.run = run, .arg = arg};
    pthread_mutex_lock(&e->lock);
    td_command **at = &e->commands;
    while (*at) at = &(*at)->next;
    *at = &c;
    td_engine_wake(e);
    while (!c.done) pthread_cond_wait(&e->command_done, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (c.status && err && !err->code) *err = c.error;
    return c.status;
}

/* Under the lock; gives it up while a command runs. */
static void run_commands(td_engine *e) {
    while (e->commands) {
        td_command *c = e->commands;
        e->commands = c->next;
        pthread_mutex_unlock(&e->lock);
        c->status = c->run(e, c->arg, &c->error);
        pthread_mutex_lock(&e->lock);
        c->done = true;
        pthread_cond_broadcast(&e->command_done);
    }
}

static void end_job(td_engine *e, td_job *j, td_finish finish, const td_error *error) {
    pthread_mutex_unlock(&e->lock);
    td_job_finish(j, finish, error);
    pthread_mutex_lock(&e->lock);
    j->owned_by_engine = false;
    pthread_cond_broadcast(&e->command_done);
}

/* Under the lock: cancelled jobs leave the queue, the first that finds a slot starts. */
static void start_jobs(td_engine *e) {
    for (td_job **at = &e->queue; *at;) {
        td_job *j = *at;
        bool cancelled = atomic_load(&j->cancelled);
        td_slot *s = cancelled ? NULL : td_slot_choose(e, j);
        if (!cancelled && !s) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        e->n_queue--;
        if (cancelled) {
            end_job(e, j, TD_FINISH_CANCELLED, NULL);
        } else {
            pthread_mutex_unlock(&e->lock);
            td_slot_start(e, s, j);
            pthread_mutex_lock(&e->lock);
        }
        at = &e->queue; /* the queue may have changed while the lock was away */
    }
}

static void cancel_slots(td_engine *e, bool all) {
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot *s = &e->slots[i];
        if (s->job && (all || atomic_load(&s->job->cancelled))) td_slot_release(e, s, TD_FINISH_CANCELLED, NULL);
    }
}

static void publish(td_engine *e) {
    td_kv_usage kv;
    td_kv_get_usage(e->kv, &kv);
    pthread_mutex_lock(&e->lock);
    int busy = 0;
    e->counters.kv_tokens = 0;
    for (int i = 0; i < e->params.n_slots; i++) {
        td_slot_publish(e, &e->slots[i]);
        busy += e->slots[i].phase != TD_SLOT_IDLE;
        e->counters.kv_tokens += (uint64_t)e->slots[i].n_tokens;
        if (e->slots[i].n_tokens > e->counters.n_tokens_max) e->counters.n_tokens_max = e->slots[i].n_tokens;
    }
    e->counters.n_processing = busy;
    e->counters.kv_bytes_used = kv.bytes_used;
    e->counters.kv_bytes_total = kv.bytes_reserved;
    e->counters.n_checkpoints = kv.n_checkpoint;
    e->counters.checkpoint_bytes = kv.bytes_checkpoint;
    td_park_count(e);
    e->published = e->counters;
    pthread_mutex_unlock(&e->lock);
}

static bool idle(const td_engine *e) {
    for (int i = 0; i < e->params.n_slots; i++)
        if (e->slots[i].phase != TD_SLOT_IDLE) return false;
    return true;
}

static void *engine_thread(void *arg) {
    td_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        e->woken = false;
        run_commands(e);
        start_jobs(e);
        if (idle(e)) {
            pthread_mutex_unlock(&e->lock);
            td_async_serve(e);
            publish(e);
            pthread_mutex_lock(&e->lock);
            /* Jobs may be left that wait for a slot whose draft somebody has to fetch (td_draft_wait). */
            while (!e->woken) pthread_cond_wait(&e->wake, &e->lock);
            continue;
        }
        pthread_mutex_unlock(&e->lock);
        cancel_slots(e, false);
        (void)td_engine_step(e);
        publish(e);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    td_async_drain(e);
    cancel_slots(e, true);
    pthread_mutex_lock(&e->lock);
    while (e->queue) {
        td_job *j = e->queue;
        e->queue = j->next;
        e->n_queue--;
        end_job(e, j, TD_FINISH_CANCELLED, NULL);
    }
    run_commands(e);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}
