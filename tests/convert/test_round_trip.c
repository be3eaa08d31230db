/* From a checkpoint through conversion and quantisation to drafting: for every type that `tandem quantize` writes, the
 * share of drafts that the target accepts must stay within 0.03 of the float pair's. Target and assistant are both
 * quantised, so that each type is seen in both roles, ordered heads included.
 *
 * Random tiny models have no drafts that anybody would accept, so the pairs are synthetic ones of each form (per-layer
 * embeddings, sharing layers, K = V, experts), written as Hugging Face folders and converted, and the trained demo
 * pair: its layers decide what it says, where the synthetic pairs hang on embeddings, projections and heads.
 *
 * Without arguments a few types; "all" for every type, pair and head, which prints the table of docs/quantisation.md
 * (ctest -C nightly -L nightly). TD_HF_PAIR may name a folder with checkpoints `target` and `assistant`
 * (tools/train_demo): they are converted first, to floats. */
#include "../identity/pair.h"
#include "../share.h"
#include "convert/convert.h"
#include "convert/imatrix_write.h"
#include "convert/quantize.h"
#include "convert/synth.h"
#include "file/gguf.h"
#include "hf_checkpoint.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_SOURCES = 12, MAX_PROMPTS = 64, N_RANDOM = 24, MAX_IDS = 1024, DEPTH = 3, N_CTX = 1024 };
#define DEMO "models/demo/"

typedef struct source { /* a float pair */
    char name[32], target[600], assistant[600];
    bool chat; /* the demo pair's prompts, else tokens drawn at random */
} source;

typedef struct score {
    int drafted, accepted;
} score;

static bool all_types;
static char folder[512];
static td_pool *pool;
static source sources[MAX_SOURCES];
static int n_sources;

static source *new_source(const char *name, bool chat) {
    assert_true(n_sources < MAX_SOURCES);
    source *s = &sources[n_sources++];
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->target, sizeof s->target, "%s/%d-target.gguf", folder, n_sources);
    snprintf(s->assistant, sizeof s->assistant, "%s/%d-assistant.gguf", folder, n_sources);
    s->chat = chat;
    return s;
}

enum { MAX_TENSORS = 512, MAX_INPUTS = 1 << 17 };

/* An importance matrix that says the same of every input, for the type that is not written without one. */
static td_imatrix *flat_importance(const char *model) {
    static td_importance entries[MAX_TENSORS];
    static double ones[MAX_INPUTS];
    static uint64_t counts[256];
    char path[600];
    td_gguf *g = NULL;
    td_imatrix *m = NULL;
    size_t n = 0;
    for (int i = 0; i < MAX_INPUTS; i++) ones[i] = 1;
    for (int i = 0; i < 256; i++) counts[i] = 1;
    snprintf(path, sizeof path, "%s/importance.gguf", folder);
    assert_int_equal(td_gguf_open(&g, model, NULL), TD_OK);
    for (size_t i = 0; i < td_gguf_n_tensors(g); i++) {
        const td_gguf_tensor *t = td_gguf_tensor_at(g, i);
        if (t->n_dims < 2) continue;
        assert_true(n < MAX_TENSORS && t->ne[0] * t->ne[2] <= MAX_INPUTS && t->ne[2] <= 256);
        entries[n++] = (td_importance){t->name, (int)t->ne[2], (int64_t)t->ne[0], ones, counts};
    }
    td_imatrix_info info = {.dataset = "flat", .n_chunk = 1, .chunk_size = 1};
    assert_int_equal(td_imatrix_write(path, entries, n, &info, NULL), TD_OK);
    assert_int_equal(td_imatrix_open(&m, path, NULL), TD_OK);
    td_gguf_close(g);
    return m;
}

static void quantize(const char *in, const char *out, const td_ftype *type) {
    td_error err = {0};
    td_imatrix *m = strcmp(type->name, "q2_K_S") == 0 ? flat_importance(in) : NULL;
    td_quantize_options o = {.ftype = type, .allow_requantize = true, .imatrix = m, .pool = pool};
    td_quantize_report report;
    if (td_quantize(in, out, &o, &report, &err) != TD_OK) fail_msg("%s: %s", type->name, err.text);
    td_imatrix_close(m);
}

static void convert(const char *dir, const char *out, const td_ftype *type) {
    td_error err = {0};
    td_convert_options o = {.dir = dir, .ftype = type, .pool = pool};
    td_convert_report report;
    if (td_convert(&o, out, &report, &err) != TD_OK) fail_msg("%s: %s", dir, err.text);
}

static void add_demo(void) {
    const td_ftype *f32 = td_ftype_by_name("f32");
    source *s = new_source("demo", true);
    quantize(DEMO "tandem-demo.gguf", s->target, f32);
    quantize(DEMO "tandem-demo-assistant.gguf", s->assistant, f32);
}

static void add_checkpoints(const char *from) {
    char dir[600];
    source *s = new_source("checkpoints", true);
    snprintf(dir, sizeof dir, "%s/target", from);
    convert(dir, s->target, td_ftype_by_name("f32"));
    snprintf(dir, sizeof dir, "%s/assistant", from);
    convert(dir, s->assistant, td_ftype_by_name("f32"));
}

/* One file of a synthetic pair, by way of a checkpoint; the conversion must give it back as it was. */
static void through_checkpoint(const td_synth_options *o, bool assistant, const char *out) {
    char made[600], dir[600], back[600];
    td_error err = {0};
    snprintf(made, sizeof made, "%s/made.gguf", folder);
    snprintf(dir, sizeof dir, "%s/checkpoint-%d-%d", folder, n_sources, assistant);
    snprintf(back, sizeof back, "%s/back.gguf", folder);
    if ((assistant ? td_synth_assistant : td_synth_target)(o, made, &err) != TD_OK) fail_msg("%s", err.text);
    hf_checkpoint_write(made, dir);
    convert(dir, back, NULL);
    hf_checkpoint_compare(made, back);
    convert(dir, out, td_ftype_by_name("f32"));
}

static void add_synthetic(const char *size, td_synth_head head) {
    const td_ftype *bf16 = td_ftype_by_name("bf16");
    td_synth_options o = {.size = size,
                          .ftype = bf16,
                          .assistant_ftype = bf16,
                          .accept = 0.7,
                          .head = head,
                          .seed = 7,
                          .n_vocab = 2048,
                          .pool = pool};
    char name[32];
    snprintf(name, sizeof name, "%s%s", size, head == TD_SYNTH_HEAD_DENSE ? ", dense head" : "");
    source *s = new_source(name, false);
    through_checkpoint(&o, false, s->target);
    through_checkpoint(&o, true, s->assistant);
}

static int setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR"), *checkpoints = getenv("TD_HF_PAIR"), *size;
    snprintf(folder, sizeof folder, "%s/td-round-trip-XXXXXX", tmp ? tmp : "/tmp");
    td_pool_options po = {.n_threads = 2};
    if (!mkdtemp(folder) || td_pool_create(&pool, &po, NULL) != TD_OK) return -1;
    add_demo();
    int left = test_share(5, 1); /* forms in small */
    for (int i = 0; (size = td_synth_size_at(i)) && left > 0; i++) {
        if (strncmp(size, "tiny", 4) != 0) continue;
        left--;
        add_synthetic(size, TD_SYNTH_HEAD_AUTO);
        bool ordered = strcmp(size, "tiny") == 0 || strcmp(size, "tiny-e4b") == 0;
        if (all_types && ordered) add_synthetic(size, TD_SYNTH_HEAD_DENSE);
    }
    if (all_types && checkpoints) add_checkpoints(checkpoints);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char command[600];
    td_pool_destroy(pool);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* ---- acceptance ---- */

static int read_prompts(const td_engine *e, bool chat, uint32_t (*ids)[MAX_IDS], int *n) {
    td_engine_info info;
    td_engine_get_info(e, &info);
    uint64_t seed = 1;
    if (!chat) {
        int n_random = test_share(N_RANDOM, 6);
        for (int p = 0; p < n_random; p++) {
            n[p] = 24;
            for (int i = 0; i < n[p]; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                ids[p][i] = i ? 4 + (uint32_t)(seed >> 33) % (uint32_t)(info.n_vocab - 4) : 2;
            }
        }
        return n_random;
    }
    json_t *all = json_load_file(DEMO "prompts.json", 0, NULL);
    assert_non_null(all);
    int count = 0, n_chat = test_share(MAX_PROMPTS, 6);
    for (size_t p = 0; p < json_array_size(all) && count < n_chat; p++) {
        const char *text = json_string_value(json_object_get(json_array_get(all, p), "prompt"));
        size_t len = 0;
        assert_int_equal(td_tokenize(e, text, strlen(text), TD_TOKENIZE_SPECIAL, ids[count], MAX_IDS, &len, NULL),
                         TD_OK);
        n[count++] = (int)len;
    }
    json_decref(all);
    return count;
}

static void answer_one(td_engine *e, const uint32_t *ids, int n, bool chat, score *s) {
    td_job_params p;
    td_job_params_init(e, &p);
    p.prompt = ids;
    p.n_prompt = n;
    p.n_predict = chat ? 96 : 32;
    p.cache_prompt = false;
    p.sampling.temperature = 0;
    p.sampling.ignore_end = !chat;
    p.spec.types = TD_SPEC_MTP;
    p.spec.n_max = DEPTH;
    p.spec.fixed = true;
    td_job *j = NULL;
    td_error err = {0};
    if (td_job_submit(e, &p, &j, &err)) fail_msg("%s", err.text);
    td_event ev;
    do {
        assert_int_equal(td_job_read(j, &ev, -1), TD_OK);
    } while (ev.kind != TD_EVENT_DONE);
    if (ev.finish == TD_FINISH_ERROR) fail_msg("%s", ev.error->text);
    s->drafted += ev.timings.draft_n;
    s->accepted += ev.timings.draft_n_accepted;
    td_job_close(j);
}

static score accept(const char *target, const char *assistant, bool chat) {
    static uint32_t ids[MAX_PROMPTS][MAX_IDS];
    static int n[MAX_PROMPTS];
    score s = {0};
    td_engine *e = pair_open((pair_engine){.target = target, .draft = assistant, .threads = 1, .n_ctx = N_CTX});
    int count = read_prompts(e, chat, ids, n);
    for (int p = 0; p < count; p++) answer_one(e, ids[p], n[p], chat, &s);
    td_engine_close(e);
    return s;
}

static double share(score s) {
    return s.drafted ? (double)s.accepted / (double)s.drafted : 0;
}

/* Answers part where the types do, and go on as other samples: one standard error of the difference is theirs. */
static double limit_of(score base, score other) {
    double p = share(base);
    return 0.03 + sqrt(p * (1 - p) * (1.0 / base.drafted + 1.0 / other.drafted));
}

/* Both files of a source in a type, at the same two paths every time. */
static void quantize_pair(const source *s, const td_ftype *type, char *target, char *assistant, size_t n) {
    snprintf(target, n, "%s/target.gguf", folder);
    snprintf(assistant, n, "%s/assistant.gguf", folder);
    quantize(s->target, target, type);
    quantize(s->assistant, assistant, type);
}

/* Every type, or of the few all for the first two pairs and one, in turn, for the others. */
static bool is_chosen(int i_source, const td_ftype *type) {
    static const char *const few[] = {"q8_0", "q4_0", "q4_K_M", "tq4_1s"};
    if (!strcmp(type->name, "f32")) return false;
    int n_few = test_share((int)(sizeof few / sizeof *few), 1);
    for (int k = 0; k < n_few; k++) {
        if (!strcmp(few[k], type->name)) return i_source < 2 || i_source % n_few == k || all_types;
    }
    return all_types;
}

static void test_types(void **state) {
    (void)state;
    int n_bad = 0;
    for (int i = 0; i < n_sources; i++) {
        const source *s = &sources[i];
        score base = accept(s->target, s->assistant, s->chat);
        print_message("%-22s f32     %.3f (%d drafts)\n", s->name, share(base), base.drafted);
        assert_true(share(base) > 0.4);
        const td_ftype *type;
        for (int t = 0; (type = td_ftype_at(t)); t++) {
            char target[600], assistant[600];
            if (!is_chosen(i, type)) continue;
            quantize_pair(s, type, target, assistant, sizeof target);
            score a = accept(target, assistant, s->chat);
            double d = share(a) - share(base);
            bool bad = fabs(d) > limit_of(base, a);
            n_bad += bad;
            print_message("%-22s %-7s %.3f %+.3f%s\n", s->name, type->name, share(a), d, bad ? " too far" : "");
        }
    }
    assert_int_equal(n_bad, 0);
}

/* The measure notices a part that came out wrong: here one matrix of the assistant, its rows moved on by one. */
static void test_damage_shows(void **state) {
    (void)state;
    static const char *const parts[] = {"token_embd.weight", "nextn.pre_projection.weight"};
    char target[600], assistant[600];
    for (int i = 1; i < n_sources && i < 4; i++) {
        const source *s = &sources[i];
        score base = accept(s->target, s->assistant, s->chat);
        quantize_pair(s, td_ftype_by_name("q8_0"), target, assistant, sizeof target);
        td_gguf *g = NULL;
        assert_int_equal(td_gguf_open(&g, assistant, NULL), TD_OK);
        const td_gguf_tensor *t = td_gguf_tensor_find(g, parts[i % 2]);
        size_t row = t->n_bytes / t->ne[1];
        FILE *f = fopen(assistant, "r+b");
        uint8_t *data = malloc(t->n_bytes);
        assert_true(f && data && fseek(f, (long)t->offset, SEEK_SET) == 0);
        assert_int_equal(fread(data, 1, t->n_bytes, f), t->n_bytes);
        assert_int_equal(fseek(f, (long)t->offset, SEEK_SET), 0);
        fwrite(data + row, 1, t->n_bytes - row, f);
        fwrite(data, 1, row, f);
        assert_int_equal(fclose(f), 0);
        free(data);
        td_gguf_close(g);
        score a = accept(target, assistant, s->chat);
        print_message("%-22s damaged %.3f\n", s->name, share(a));
        assert_true(share(base) - share(a) > limit_of(base, a));
    }
}

int main(int argc, char **argv) {
    all_types = argc > 1 && !strcmp(argv[1], "all");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types), cmocka_unit_test(test_damage_shows)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
