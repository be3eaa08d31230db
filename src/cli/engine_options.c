/* The shared option tables. Names, aliases, variables and defaults are llama.cpp's wherever the meaning is the same. */
#include "engine_options.h"
#include "placement.h"

#include "../base/log.h"
#include "../base/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field)     .offset = offsetof(td_engine_flags, field)
#define SAMPLE(field) .offset = offsetof(td_sampling_flags, field)
#define NO_EFFECT     "has no effect here: Tandem computes on the CPU"

const td_option td_engine_options[] = {
    {.kind = TD_OPT_GROUP, .help = "Model"},
    {.kind = TD_OPT_STRING,
     .names = "--model -m",
     AT(model),
     .arg = "FILE",
     .env = "MODEL",
     .help = "Gemma 4 GGUF file, or the first part of a split one"},
    {.kind = TD_OPT_STRING,
     .names = "--model-draft -md --spec-draft-model --mtp-head",
     AT(draft),
     .arg = "FILE",
     .env = "SPEC_DRAFT_MODEL",
     .help = "Its MTP assistant; drafting is then on"},
    {.kind = TD_OPT_SWITCH,
     .names = "--repack",
     AT(pack),
     .negative = "--no-repack -nr --no-pack",
     .env = "REPACK",
     .help = "Interleave weights for this processor while loading (default)"},
    {.kind = TD_OPT_STRING,
     .names = "--pack-cache",
     AT(pack_cache),
     .arg = "DIR",
     .env = "PACK_CACHE",
     .help = "Keep the packed weights on disk for the next start; \"\" beside the model"},
    {.kind = TD_OPT_SWITCH,
     .names = "--check-tensors",
     AT(check_tensors),
     .negative = "--no-check-tensors",
     .help = "Look for NaN and infinities in the weights while loading"},
    {.kind = TD_OPT_GROUP, .help = "Context, batch, threads"},
    {.kind = TD_OPT_INT,
     .names = "--ctx-size -c",
     AT(n_ctx),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 1 << 24,
     .env = "CTX_SIZE",
     .help = "Positions per slot; 0: the model's"},
    {.kind = TD_OPT_INT,
     .names = "--batch-size -b",
     AT(n_batch),
     .arg = "N",
     .def = "2048",
     .min = 1,
     .max = 16384,
     .env = "BATCH",
     .help = "Prompt rows scheduled together at most"},
    {.kind = TD_OPT_INT,
     .names = "--ubatch-size -ub",
     AT(n_ubatch),
     .arg = "N",
     .def = "512",
     .min = 1,
     .max = 16384,
     .env = "UBATCH",
     .help = "Prompt rows computed in one pass at most"},
    {.kind = TD_OPT_INT,
     .names = "--threads -t",
     AT(n_threads),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1024,
     .env = "THREADS",
     .help = "Threads; -1: the physical cores this process may use"},
    {.kind = TD_OPT_INT,
     .names = "--threads-batch -tb",
     AT(n_threads_batch),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1024,
     .help = "As --threads: one team serves prompts and generation"},
    {.kind = TD_OPT_SWITCH,
     .names = "--pin-threads --cpu-strict",
     AT(pin),
     .env = "PIN_THREADS",
     .help = "Pin each thread to a core"},
    {.kind = TD_OPT_INT,
     .names = "--parallel -np",
     AT(n_slots),
     .arg = "N",
     .def = "0",
     .min = -1,
     .max = TD_MAX_SLOTS,
     .env = "N_PARALLEL",
     .help = "Slots: generations that run together; 0: 1, in serve 4; -1: 4"},
    {.kind = TD_OPT_INT,
     .names = "--prefill-ms",
     AT(prefill_ms),
     .arg = "MS",
     .def = "100",
     .min = 0,
     .max = 60000,
     .env = "PREFILL_MS",
     .help = "Share of a step for prompts while others generate; 0: no bound"},
    {.kind = TD_OPT_GROUP, .help = "Cache"},
    {.kind = TD_OPT_STRING,
     .names = "--cache-type-k -ctk",
     AT(type_k),
     .arg = "TYPE",
     .def = "f16",
     .env = "CACHE_TYPE_K",
     .help = "Keys of full-attention layers: f32 f16 bf16 q8_0 q4_0 turbo4 turbo3 turbo2"},
    {.kind = TD_OPT_STRING,
     .names = "--cache-type-v -ctv",
     AT(type_v),
     .arg = "TYPE",
     .def = "f16",
     .env = "CACHE_TYPE_V",
     .help = "Values of full-attention layers"},
    {.kind = TD_OPT_STRING,
     .names = "--cache-type-k-swa -ctks",
     AT(type_k_swa),
     .arg = "TYPE",
     .def = "auto",
     .env = "CACHE_TYPE_K_SWA",
     .help = "Keys of sliding layers; auto: f16, whatever -ctk says"},
    {.kind = TD_OPT_STRING,
     .names = "--cache-type-v-swa -ctvs",
     AT(type_v_swa),
     .arg = "TYPE",
     .def = "auto",
     .env = "CACHE_TYPE_V_SWA",
     .help = "Values of sliding layers"},
    {.kind = TD_OPT_INT,
     .names = "--cache-protect",
     AT(cache_protect),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 1000,
     .env = "CACHE_PROTECT",
     .help = "Full-attention layers at each end whose cache keeps 8 bits where -ctk or -ctv ask fewer"},
    {.kind = TD_OPT_INT,
     .names = "--cache-ram -cram",
     AT(cache_ram_mib),
     .arg = "MIB",
     .def = "8192",
     .min = -1,
     .max = 1 << 24,
     .env = "CACHE_RAM",
     .help =
         "Memory for checkpoints of sliding windows and for conversations whose slot another one took; -1: no limit"},
    {.kind = TD_OPT_INT,
     .names = "--ctx-checkpoints -ctxcp --swa-checkpoints",
     AT(n_checkpoints),
     .arg = "N",
     .def = "32",
     .min = 0,
     .max = 4096,
     .env = "CTX_CHECKPOINTS",
     .help = "Checkpoints per slot at most"},
    {.kind = TD_OPT_INT,
     .names = "--cache-reuse",
     AT(cache_reuse),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 1 << 24,
     .env = "CACHE_REUSE",
     .help = "Move equal chunks of at least N tokens by position shift (an approximation); 0: off"},
    {.kind = TD_OPT_SWITCH,
     .names = "--context-shift",
     AT(context_shift),
     .negative = "--no-context-shift",
     .env = "CONTEXT_SHIFT",
     .help = "A full context drops its older half instead of ending the answer"},
    {.kind = TD_OPT_CHOICE,
     .names = "--flash-attn -fa",
     AT(flash_attn),
     .arg = "on|off|auto",
     .def = "auto",
     .words = "auto on|1|true|enabled off|0|false|disabled",
     .env = "FLASH_ATTN",
     .help = "Accepted: there is one attention path, and it is of that kind"},
    {.kind = TD_OPT_GROUP, .help = "Speculation"},
    {.kind = TD_OPT_LIST,
     .names = "--spec-type",
     AT(spec_type),
     .arg = "LIST",
     .env = "SPEC_TYPE",
     .help = "Sources of drafts: draft-mtp (mtp, nextn), ngram-simple …, none; default: draft-mtp where there is an "
             "assistant"},
    {.kind = TD_OPT_INT,
     .names = "--spec-draft-n-max",
     AT(spec_n_max),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = TD_MAX_DRAFT,
     .words = "auto=-1",
     .env = "SPEC_DRAFT_N_MAX",
     .help = "Drafts per round at most; auto: 3, or 8 with the depth policy"},
    {.kind = TD_OPT_INT,
     .names = "--spec-draft-n-min",
     AT(spec_n_min),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = TD_MAX_DRAFT,
     .env = "SPEC_DRAFT_N_MIN",
     .help = "Shorter drafts are dropped"},
    {.kind = TD_OPT_FLOAT,
     .names = "--spec-draft-p-min --draft-p-min",
     AT(spec_p_min),
     .arg = "P",
     .def = "0",
     .min = 0,
     .max = 1,
     .env = "SPEC_DRAFT_P_MIN",
     .help = "Drafting stops below this probability"},
    {.kind = TD_OPT_INT,
     .names = "--draft-block-size",
     AT(block_size),
     .arg = "B",

     .min = 2,
     .max = 32,
     .env = "DRAFT_BLOCK_SIZE",
     .help = "Older name: B - 1 drafts per round",
     .note = "use --spec-draft-n-max B-1"},
    {.kind = TD_OPT_INT,
     .names = "--draft-max --draft --draft-n",
     AT(legacy_max),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = TD_MAX_DRAFT,
     .env = "DRAFT_MAX",
     .help = "Older name of --spec-draft-n-max",
     .note = "use --spec-draft-n-max"},
    {.kind = TD_OPT_INT,
     .names = "--draft-min --draft-n-min",
     AT(spec_n_min),
     .arg = "N",
     .min = 0,
     .max = TD_MAX_DRAFT,
     .env = "DRAFT_MIN",
     .help = "Older name of --spec-draft-n-min",
     .note = "use --spec-draft-n-min"},
    {.kind = TD_OPT_SWITCH,
     .names = "--spec-fixed",
     AT(spec_fixed),
     .negative = "--no-spec-fixed",
     .env = "SPEC_FIXED",
     .help = "Always draft n-max tokens; without it the depth follows measured cost and acceptance"},
    {.kind = TD_OPT_CHOICE,
     .names = "--spec-accept",
     AT(spec_accept),
     .arg = "exact|reject",
     .def = "exact",
     .words = "exact|sample reject|rejection",
     .env = "SPEC_ACCEPT",
     .help = "exact: drafts stand while they equal the sample; reject: drafts are drawn and accepted by min(1, p/q)"},
    {.kind = TD_OPT_INT,
     .names =
         "--spec-ngram-simple-size-n --spec-ngram-map-k-size-n --spec-ngram-map-k4v-size-n --spec-ngram-mod-n-match",
     AT(ngram_n),
     .arg = "N",
     .def = "12",
     .min = 1,
     .max = 1024,
     .help = "Prompt look-up: length of a match"},
    {.kind = TD_OPT_INT,
     .names = "--spec-ngram-simple-size-m --spec-ngram-map-k-size-m --spec-ngram-map-k4v-size-m --spec-ngram-mod-n-max",
     AT(ngram_m),
     .arg = "N",
     .def = "48",
     .min = 1,
     .max = 1024,
     .help = "Prompt look-up: longest draft, below n-max"},
    {.kind = TD_OPT_SWITCH, .names = "--spec-default", AT(spec_default), .help = "Prompt look-up in addition"},
    {.kind = TD_OPT_INT,
     .names = "--spec-skip-streak",
     AT(skip_streak),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 32,
     .help = "After N rounds without an accepted draft, one plain step; 0: off"},
    {.kind = TD_OPT_STRING,
     .names = "--spec-trace",
     AT(spec_trace),
     .arg = "FILE",
     .env = "SPEC_TRACE",
     .help = "Write one line of JSON per draft and acceptance; 1: to standard error"},
    {.kind = TD_OPT_GROUP, .help = "Log"},
    {.kind = TD_OPT_SWITCH, .names = "--verbose -v --log-verbose", AT(verbose), .help = "Everything"},
    {.kind = TD_OPT_INT,
     .names = "--log-verbosity -lv --verbosity",
     AT(log_verbosity),
     .arg = "N",
     .def = "2",
     .min = 0,
     .max = 5,
     .env = "LOG_VERBOSITY",
     .help = "1 errors, 2 warnings, 3 information, 4 trace, 5 debug"},
    {.kind = TD_OPT_SWITCH, .names = "--quiet -q --log-disable", AT(quiet), .help = "No progress bar and no log"},
    {.kind = TD_OPT_GROUP, .help = "Accepted so that scripts keep working"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--n-gpu-layers -ngl --gpu-layers",
     .arg = "N",
     .env = "N_GPU_LAYERS",
     .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft",
     .arg = "N",
     .help = NO_EFFECT},
    {.kind = TD_OPT_LIST,
     .names = "--override-tensor -ot",
     AT(placement),
     .arg = "PATTERN=BUFFER,...",
     .help = "Checked against the tensors' names (an assistant's begin with mtp.); the only buffer is CPU, and what is "
             "wanted elsewhere is named in a warning and stays there"},
    {.kind = TD_OPT_LIST,
     .names = "--spec-draft-override-tensor -otd --override-tensor-draft",
     AT(draft_placement),
     .arg = "PATTERN=BUFFER,...",
     .help = "The same for the assistant's tensors, with or without mtp."},
    {.kind = TD_OPT_ACCEPT, .names = "--device -dev", .arg = "LIST", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--spec-draft-device -devd --device-draft", .arg = "LIST", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-type-k -ctkd --cache-type-k-draft",
     .arg = "TYPE",
     .help = "The assistant reads the target's cache: its types are -ctk and -ctv"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-type-v -ctvd --cache-type-v-draft",
     .arg = "TYPE",
     .help = "As above"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-threads -td --threads-draft",
     .arg = "N",
     .help = "One team of threads serves both models"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-threads-batch -tbd --threads-batch-draft",
     .arg = "N",
     .help = "As above"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--ctx-size-draft -cd",
     .arg = "N",
     .help = "The assistant has no context of its own"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-p-split --draft-p-split",
     .arg = "P",
     .help = "Drafts are chains here, not trees"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--spec-draft-backend-sampling --no-spec-draft-backend-sampling",
     .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--split-mode -sm", .arg = "MODE", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--main-gpu -mg", .arg = "N", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--tensor-split -ts", .arg = "LIST", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--fit -fit", .arg = "on|off", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT, .names = "--no-kv-offload -nkvo --kv-offload -kvo", .help = NO_EFFECT},
    {.kind = TD_OPT_ACCEPT,
     .names = "--mlock --mmap --no-mmap --direct-io -dio --no-host --no-op-offload",
     .help = "Files are mapped and weights packed once"},
    {.kind = TD_OPT_ACCEPT, .names = "--numa", .arg = "MODE", .help = "No effect yet"},
    {.kind = TD_OPT_ACCEPT, .names = "--defrag-thold -dt", .arg = "N", .help = "Pages do not fragment"},
    {.kind = TD_OPT_ACCEPT, .names = "--swa-full", .help = "Checkpoints of sliding windows serve its purpose"},
    {.kind = TD_OPT_ACCEPT,
     .names = "--kv-unified -kvu --no-kv-unified -no-kvu --cont-batching -cb --no-cont-batching -nocb",
     .help = "Pages are always shared and batching is always continuous"},
    {.kind = TD_OPT_ACCEPT, .names = "--warmup --no-warmup --perf --no-perf", .help = "No effect"},
    {.kind = TD_OPT_ACCEPT, .names = "--jinja --no-jinja", .help = "Gemma 4's format is built in"},
    {.kind = TD_OPT_ACCEPT, .names = "--poll --prio", .arg = "N", .help = "No effect"},
    {.kind = TD_OPT_END},
};

const td_option td_sampling_options[] = {
    {.kind = TD_OPT_GROUP, .help = "Sampling"},
    {.kind = TD_OPT_CHOICE,
     .names = "--sampling-profile",
     SAMPLE(profile),
     .arg = "gemma|llama",
     .def = "gemma",
     .words = "gemma llama",
     .env = "SAMPLING_PROFILE",
     .help = "Defaults: Gemma's recommendation (1.0, top-k 64, top-p 0.95) or llama.cpp's (0.8, 40, 0.95, min-p 0.05)"},
    {.kind = TD_OPT_STRING,
     .names = "--samplers",
     SAMPLE(samplers),
     .arg = "LIST",
     .help = "Chain by names, apart by semicolons"},
    {.kind = TD_OPT_STRING,
     .names = "--sampler-seq --sampling-seq",
     SAMPLE(sampler_seq),
     .arg = "LETTERS",
     .help = "Chain by letters: edskypmxt"},
    {.kind = TD_OPT_INT, .names = "--seed -s", SAMPLE(seed), .arg = "N", .def = "-1", .help = "-1: random"},
    {.kind = TD_OPT_FLOAT,
     .names = "--temp --temperature",
     SAMPLE(temperature),
     .arg = "T",
     .min = 0,
     .max = 1000,
     .help = "0: greedy"},
    {.kind = TD_OPT_INT,
     .names = "--top-k",
     SAMPLE(top_k),
     .arg = "N",
     .min = 0,
     .max = 1 << 24,
     .env = "TOP_K",
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT, .names = "--top-p", SAMPLE(top_p), .arg = "P", .min = 0, .max = 1, .help = "1: off"},
    {.kind = TD_OPT_FLOAT, .names = "--min-p", SAMPLE(min_p), .arg = "P", .min = 0, .max = 1, .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--typical --typical-p",
     SAMPLE(typical_p),
     .arg = "P",
     .def = "1",
     .min = 0,
     .max = 1,
     .help = "1: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--top-nsigma --top-n-sigma",
     SAMPLE(top_n_sigma),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1000,
     .help = "-1: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--xtc-probability",
     SAMPLE(xtc_probability),
     .arg = "P",
     .def = "0",
     .min = 0,
     .max = 1,
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--xtc-threshold",
     SAMPLE(xtc_threshold),
     .arg = "P",
     .def = "0.1",
     .min = 0,
     .max = 1,
     .help = "Above 0.5: off"},
    {.kind = TD_OPT_INT,
     .names = "--repeat-last-n",
     SAMPLE(repeat_last_n),
     .arg = "N",
     .def = "64",
     .min = -1,
     .max = 1 << 24,
     .help = "Tokens that penalties look at; -1: all, 0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--repeat-penalty",
     SAMPLE(repeat_penalty),
     .arg = "R",
     .def = "1",
     .min = 0.01,
     .max = 1000,
     .help = "1: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--presence-penalty",
     SAMPLE(presence_penalty),
     .arg = "R",
     .def = "0",
     .min = -100,
     .max = 100,
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--frequency-penalty",
     SAMPLE(frequency_penalty),
     .arg = "R",
     .def = "0",
     .min = -100,
     .max = 100,
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--dry-multiplier",
     SAMPLE(dry_multiplier),
     .arg = "R",
     .def = "0",
     .min = 0,
     .max = 1000,
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--dry-base",
     SAMPLE(dry_base),
     .arg = "R",
     .def = "1.75",
     .min = 0,
     .max = 1000,
     .help = "Growth per repeated token"},
    {.kind = TD_OPT_INT,
     .names = "--dry-allowed-length",
     SAMPLE(dry_allowed_length),
     .arg = "N",
     .def = "2",
     .min = 0,
     .max = 1 << 24,
     .help = "Repetitions up to this length are free"},
    {.kind = TD_OPT_INT,
     .names = "--dry-penalty-last-n",
     SAMPLE(dry_last_n),
     .arg = "N",
     .def = "-1",
     .min = -1,
     .max = 1 << 24,
     .help = "-1: the context"},
    {.kind = TD_OPT_LIST,
     .names = "--dry-sequence-breaker",
     SAMPLE(dry_breakers),
     .arg = "TEXT",
     .help = "Repeatable; replaces newline, colon, quote, star"},
    {.kind = TD_OPT_FLOAT,
     .names = "--dynatemp-range",
     SAMPLE(dynatemp_range),
     .arg = "R",
     .def = "0",
     .min = 0,
     .max = 1000,
     .help = "0: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--dynatemp-exp",
     SAMPLE(dynatemp_exponent),
     .arg = "R",
     .def = "1",
     .min = 0,
     .max = 1000,
     .help = "Exponent of the entropy"},
    {.kind = TD_OPT_INT,
     .names = "--mirostat",
     SAMPLE(mirostat),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 2,
     .help = "0: off; 1 or 2: the version"},
    {.kind = TD_OPT_FLOAT,
     .names = "--mirostat-lr",
     SAMPLE(mirostat_eta),
     .arg = "R",
     .def = "0.1",
     .min = 0,
     .max = 1000,
     .help = "Learning rate"},
    {.kind = TD_OPT_FLOAT,
     .names = "--mirostat-ent",
     SAMPLE(mirostat_tau),
     .arg = "R",
     .def = "5",
     .min = 0,
     .max = 1000,
     .help = "Target surprise"},
    {.kind = TD_OPT_FLOAT,
     .names = "--adaptive-target",
     SAMPLE(adaptive_target),
     .arg = "P",
     .def = "-1",
     .min = -1,
     .max = 1,
     .help = "Adaptive-p: target probability; -1: off"},
    {.kind = TD_OPT_FLOAT,
     .names = "--adaptive-decay",
     SAMPLE(adaptive_decay),
     .arg = "R",
     .def = "0.9",
     .min = 0,
     .max = 0.99,
     .help = "Adaptive-p: memory"},
    {.kind = TD_OPT_INT,
     .names = "--min-keep",
     SAMPLE(min_keep),
     .arg = "N",
     .def = "0",
     .min = 0,
     .max = 1 << 24,
     .help = "Candidates that survive any truncation"},
    {.kind = TD_OPT_LIST,
     .names = "--logit-bias -l",
     SAMPLE(logit_bias),
     .arg = "ID(+/-)BIAS",
     .help = "Repeatable: 15043+1, 15043-1.5"},
    {.kind = TD_OPT_SWITCH, .names = "--ignore-eos", SAMPLE(ignore_eos), .help = "End tokens cannot be drawn"},
    {.kind = TD_OPT_END},
};

void td_engine_flags_init(td_engine_flags *f) {
    *f = (td_engine_flags){.pack = true};
}

/* NaN and INT64_MIN: not given, the profile's value stays. */
void td_sampling_flags_init(td_sampling_flags *f) {
    *f =
        (td_sampling_flags){.top_k = INT64_MIN, .temperature = (double)NAN, .top_p = (double)NAN, .min_p = (double)NAN};
}

/* ---- speculation ---- */

static const struct {
    const char *name;
    uint32_t types;
    const char *why; /* refused */
} spec_names[] = {
    {"none", TD_SPEC_NONE, NULL},
    {"draft-mtp", TD_SPEC_MTP, NULL},
    {"mtp", TD_SPEC_MTP, NULL},
    {"nextn", TD_SPEC_MTP, NULL},
    {"ngram-simple", TD_SPEC_NGRAM, NULL},
    {"ngram-map-k", TD_SPEC_NGRAM, NULL},
    {"ngram-map-k4v", TD_SPEC_NGRAM, NULL},
    {"ngram-mod", TD_SPEC_NGRAM, NULL},
    {"ngram-cache", TD_SPEC_NGRAM, NULL},
    {"draft-simple", 0, "needs a draft model of its own"},
    {"draft", 0, "needs a draft model of its own"},
    {"draft-eagle3", 0, "needs an EAGLE-3 model"},
    {"eagle3", 0, "needs an EAGLE-3 model"},
    {"draft-dflash", 0, "needs a DFlash model"},
};

static td_status spec_type(const char *name, size_t n, uint32_t *types, td_error *err) {
    for (size_t i = 0; i < sizeof spec_names / sizeof *spec_names; i++) {
        if (strlen(spec_names[i].name) != n || strncmp(name, spec_names[i].name, n) != 0) continue;
        if (spec_names[i].why)
            return td_fail(err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET,
                           "speculation type '%s' %s, which Tandem does not run; use draft-mtp or ngram-simple",
                           spec_names[i].name, spec_names[i].why);
        *types = spec_names[i].types ? *types | spec_names[i].types : TD_SPEC_NONE;
        return TD_OK;
    }
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                   "unknown speculation type '%.*s': none, draft-mtp, mtp, nextn, ngram-simple, ngram-map-k, "
                   "ngram-map-k4v, ngram-mod, ngram-cache",
                   (int)n, name);
}

/* A comma list of llama.cpp's names -> TD_SPEC_*; types that need models Tandem does not run are refused by name. */
static td_status spec_types(const char *list, uint32_t *types, td_error *err) {
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        td_status status = spec_type(at, n, types, err);
        if (status) return status;
        at += n + (at[n] == ',');
    }
    return TD_OK;
}

static td_status spec(td_engine_flags *f, td_spec_params *s, td_error *err) {
    s->types = f->spec_type.n == 0 ? TD_SPEC_MTP : TD_SPEC_NONE;
    for (int i = 0; i < f->spec_type.n; i++) {
        td_status status = spec_types(f->spec_type.items[i], &s->types, err);
        if (status) return status;
    }
    if (f->spec_default) s->types |= TD_SPEC_NGRAM;
    if ((s->types & TD_SPEC_MTP) && f->spec_type.n > 0 && !f->draft)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                       "--spec-type draft-mtp needs the assistant's file: -md FILE");
    s->n_max = f->spec_n_max >= 0 ? (int)f->spec_n_max : f->spec_fixed ? 3 : 8;
    if (f->legacy_max > 0) s->n_max = (int)f->legacy_max;
    if (f->block_size > 0) s->n_max = (int)f->block_size - 1;
    s->n_min = (int)f->spec_n_min;
    s->p_min = (float)f->spec_p_min;
    s->fixed = f->spec_fixed;
    s->accept = f->spec_accept == 1 ? TD_ACCEPT_REJECTION : TD_ACCEPT_SAMPLE;
    s->ngram_n = (int)f->ngram_n;
    s->ngram_m = (int)f->ngram_m;
    s->skip_streak = (int)f->skip_streak;
    const char *streak = getenv("LLAMA_MTP_SKIP_STREAK_THRESHOLD");
    int n = streak ? atoi(streak) : 0;
    if (s->skip_streak == 0 && n >= 1 && n <= 32) s->skip_streak = n;
    return TD_OK;
}

/* ---- engine ---- */

td_status td_cache_type_from_flag(const char *flag, const char *name, td_cache_type *out, td_error *err) {
    if (td_cache_type_parse(name, out)) return TD_OK;
    return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET,
                   "%s: unknown cache type '%s': f32, f16, bf16, q8_0, q4_0, turbo4, turbo3 or turbo2", flag, name);
}

td_status td_engine_params_from_flags(td_engine_flags *f, td_engine_params *p, td_error *err) {
    td_engine_params_init(p);
    p->model_path = f->model;
    p->draft_path = f->draft;
    p->n_threads = f->n_threads > 0 ? (int)f->n_threads : 0;
    p->pin_threads = f->pin;
    p->n_ctx = (int)f->n_ctx;
    p->n_slots = f->n_slots > 0 ? (int)f->n_slots : f->n_slots < 0 ? 4 : 1;
    p->n_batch = (int)(f->n_ubatch < f->n_batch ? f->n_ubatch : f->n_batch);
    p->prefill_ms = (int)f->prefill_ms;
    p->cache_ram = f->cache_ram_mib < 0 ? -1 : f->cache_ram_mib << 20;
    p->n_checkpoints = (int)f->n_checkpoints;
    p->n_logit_rows = f->n_logit_rows;
    p->importance = f->importance;
    p->weights_of = f->weights_of;
    p->cache_reuse = (int)f->cache_reuse;
    p->n_cache_protect = (int)f->cache_protect;
    p->context_shift = f->context_shift;
    p->pack = f->pack;
    p->pack_cache = f->pack_cache;
    p->check_tensors = f->check_tensors;
    p->spec_trace = f->spec_trace;
    td_status status = td_cache_type_from_flag("-ctk", f->type_k, &p->type_k, err);
    if (!status) status = td_cache_type_from_flag("-ctv", f->type_v, &p->type_v, err);
    if (!status) status = td_cache_type_from_flag("-ctks", f->type_k_swa, &p->type_k_swa, err);
    if (!status) status = td_cache_type_from_flag("-ctvs", f->type_v_swa, &p->type_v_swa, err);
    return status ? status : spec(f, &p->spec, err);
}

void td_log_level_from_flags(const td_engine_flags *f) {
    static const td_log_level levels[] = {TD_LOG_ERROR, TD_LOG_ERROR, TD_LOG_WARN,
                                          TD_LOG_INFO,  TD_LOG_TRACE, TD_LOG_DEBUG};
    td_log_set_level(f->verbose ? TD_LOG_TRACE : f->quiet ? TD_LOG_ERROR : levels[f->log_verbosity]);
}

td_engine *td_engine_from_flags(const char *command, td_engine_flags *f) {
    td_error err = {0};
    td_engine_params p;
    td_engine *e = NULL;
    td_log_level_from_flags(f);
    td_status status = td_engine_params_from_flags(f, &p, &err);
    if (!status) status = td_placement_check(&f->placement, &f->draft_placement, &err);
    if (!status) {
        td_progress_init(&f->progress, f->quiet, "B");
        p.progress = td_progress_bar;
        p.progress_user = &f->progress;
        status = td_engine_open(&e, &p, &err);
        td_progress_end(&f->progress);
    }
    if (status) fprintf(stderr, "tandem %s: %s\n", command, err.text);
    if (!status) td_placement_report(&f->placement, &f->draft_placement, e);
    return status ? NULL : e;
}

/* ---- sampling ---- */

static td_status sampler_chain(const char *text, bool letters, uint8_t chain[16], td_error *err) {
    memset(chain, TD_SAMPLER_END, 16);
    for (const char *at = text; *at;) {
        size_t n = letters ? 1 : strcspn(at, ";,");
        if ((!letters && n == 1) || !td_sampler_chain_add(chain, at, n))
            return td_fail(err, TD_ERR_ARGUMENT, (uint64_t)(at - text),
                           "unknown sampler '%.*s' or more than 15: penalties, dry, top_n_sigma, top_k, typ_p, top_p, "
                           "min_p, xtc, temperature",
                           (int)n, at);
        at += n + (!letters && at[n] != 0);
    }
    return TD_OK;
}

static td_status biases(td_sampling_flags *f, td_sampling *s, td_error *err) {
    int n = f->logit_bias.n;
    if (n == 0) return TD_OK;
    f->biases = calloc((size_t)n, sizeof *f->biases);
    if (!f->biases) return td_fail(err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory");
    for (int i = 0; i < n; i++) {
        char *end = NULL;
        const char *text = f->logit_bias.items[i];
        unsigned long id = strtoul(text, &end, 10);
        char *last = end;
        double bias = *end == '+' || *end == '-' ? strtod(end, &last) : 0;
        if (end == text || last == end || *last || id > UINT32_MAX)
            return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "--logit-bias: '%s' is not ID+BIAS or ID-BIAS", text);
        f->biases[i] = (td_logit_bias){(uint32_t)id, (float)bias};
    }
    s->biases = f->biases;
    s->n_biases = n;
    return TD_OK;
}

td_status td_sampling_from_flags(td_sampling_flags *f, td_sampling *s, td_error *err) {
    if (f->profile == 1)
        td_sampling_init_llama(s);
    else
        td_sampling_init(s);
    if (!isnan(f->temperature)) s->temperature = (float)f->temperature;
    if (f->top_k != INT64_MIN) s->top_k = (int)f->top_k;
    if (!isnan(f->top_p)) s->top_p = (float)f->top_p;
    if (!isnan(f->min_p)) s->min_p = (float)f->min_p;
    s->seed = f->seed < 0 ? UINT64_MAX : (uint64_t)f->seed;
    s->typical_p = (float)f->typical_p;
    s->top_n_sigma = (float)f->top_n_sigma;
    s->xtc_probability = (float)f->xtc_probability;
    s->xtc_threshold = (float)f->xtc_threshold;
    s->repeat_last_n = (int)f->repeat_last_n;
    s->repeat_penalty = (float)f->repeat_penalty;
    s->presence_penalty = (float)f->presence_penalty;
    s->frequency_penalty = (float)f->frequency_penalty;
    s->dry_multiplier = (float)f->dry_multiplier;
    s->dry_base = (float)f->dry_base;
    s->dry_allowed_length = (int)f->dry_allowed_length;
    s->dry_last_n = (int)f->dry_last_n;
    s->dynatemp_range = (float)f->dynatemp_range;
    s->dynatemp_exponent = (float)f->dynatemp_exponent;
    s->mirostat = (int)f->mirostat;
    s->mirostat_eta = (float)f->mirostat_eta;
    s->mirostat_tau = (float)f->mirostat_tau;
    s->adaptive_target = (float)f->adaptive_target;
    s->adaptive_decay = (float)f->adaptive_decay;
    s->min_keep = (int)f->min_keep;
    s->ignore_end = f->ignore_eos;
    if (f->dry_breakers.n > 0) {
        s->dry_breakers = f->dry_breakers.items;
        s->n_dry_breakers = f->dry_breakers.n;
    }
    td_status status = biases(f, s, err);
    if (!status && f->samplers) status = sampler_chain(f->samplers, false, s->chain, err);
    if (!status && f->sampler_seq) status = sampler_chain(f->sampler_seq, true, s->chain, err);
    return status;
}
