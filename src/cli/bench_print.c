/* The formats of llama-bench: Markdown table, CSV, JSON, JSON lines, SQL; with Tandem's columns at the end. */
#include "bench.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

void bench_stats(const bench_row *r, double *mean_ns, double *dev_ns, double *mean_ts, double *dev_ts,
                 double *median_ts) {
    double ts[BENCH_MAX_REPS], sum = 0, squares = 0, sum_ts = 0, squares_ts = 0;
    int n = r->n_reps > 0 ? r->n_reps : 1;
    for (int i = 0; i < n; i++) {
        double ns = (double)r->ns[i];
        ts[i] = ns > 0 ? 1e9 * r->n_tokens / ns : 0;
        sum += ns;
        squares += ns * ns;
        sum_ts += ts[i];
        squares_ts += ts[i] * ts[i];
    }
    *mean_ns = sum / n;
    *mean_ts = sum_ts / n;
    *dev_ns = n > 1 ? sqrt(fmax(0, (squares - sum * sum / n) / (n - 1))) : 0;
    *dev_ts = n > 1 ? sqrt(fmax(0, (squares_ts - sum_ts * sum_ts / n) / (n - 1))) : 0;
    *median_ts = median(ts, n);
}

double bench_ratio(const bench_row *r, const bench_row *first) {
    double ratios[BENCH_MAX_REPS];
    int n = 0;
    for (int i = 0; i < r->n_reps && i < first->n_reps; i++)
        if (r->ns[i] > 0 && first->n_tokens > 0)
            ratios[n++] = (double)first->ns[i] / (double)r->ns[i] * r->n_tokens / first->n_tokens;
    return n > 0 ? median(ratios, n) : 0;
}

void bench_name(const bench_row *r, char out[BENCH_NAME]) {
    int n = 0;
    if (strcmp(r->test, "pp") == 0)
        n = snprintf(out, BENCH_NAME, "pp%d", r->n_prompt);
    else if (strcmp(r->test, "pg") == 0)
        n = snprintf(out, BENCH_NAME, "pp%d+tg%d", r->n_prompt, r->n_gen);
    else if (strcmp(r->test, "verify") == 0)
        n = snprintf(out, BENCH_NAME, "verify%d", r->n_gen);
    else if (strcmp(r->test, "draft") == 0)
        n = snprintf(out, BENCH_NAME, "draft%d", r->n_gen);
    else
        n = snprintf(out, BENCH_NAME, "%s%d", r->test, r->n_gen);
    if (r->n_parallel > 1) n += snprintf(out + n, BENCH_NAME - (size_t)n, " x%d", r->n_parallel);
    if (r->n_depth > 0) snprintf(out + n, BENCH_NAME - (size_t)n, " @ d%d", r->n_depth);
}

/* ---- Markdown ---- */

static void md_head(const bench_printer *p) {
    fprintf(p->out,
            "| model                          |       size |     params | backend    | threads | type_k | type_v |"
            "                   test |                  t/s |");
    if (p->extended)
        fprintf(p->out,
                " n_max |    acc | mean len | draft ms | verify ms | speed-up | T(k)/T(1) | of limit | barriers |");
    if (p->ratios) fprintf(p->out, " vs first |");
    fprintf(p->out,
            "\n| ------------------------------ | ---------: | ---------: | ---------- | ------: | -----: | -----: |"
            " ---------------------: | -------------------: |");
    if (p->extended)
        fprintf(p->out,
                " ----: | -----: | -------: | -------: | --------: | -------: | --------: | -------: | -------: |");
    if (p->ratios) fprintf(p->out, " -------: |");
    fputc('\n', p->out);
}

static void size_text(double n, const char *unit[3], double step, char out[32]) {
    int i = 0;
    n /= step * step;
    if (n >= step) n /= step, i = 1;
    snprintf(out, 32, "%.2f %s", n, unit[i]);
}

static void cell(FILE *f, bool known, int width, const char *format, double v) {
    char text[32] = "";
    if (known) snprintf(text, sizeof text, format, v);
    fprintf(f, " %*s |", width, text);
}

static void md_row(const bench_printer *p, const bench_row *r) {
    static const char *bytes[3] = {"MiB", "GiB", "TiB"}, *count[3] = {"M", "B", "T"};
    char model[64], size[32], params[32], test[BENCH_NAME], speed[64];
    double mean_ns, dev_ns, mean, dev, median;
    bench_stats(r, &mean_ns, &dev_ns, &mean, &dev, &median);
    snprintf(model, sizeof model, "gemma4 %.15s %.15s", r->info.size_label, r->info.file_type);
    size_text((double)r->info.file_bytes, bytes, 1024, size);
    size_text((double)r->info.n_params, count, 1000, params);
    bench_name(r, test);
    snprintf(speed, sizeof speed, "%.2f ± %.2f", mean, dev);
    fprintf(p->out, "| %-30s | %10s | %10s | CPU        | %7d | %6s | %6s | %22s | %21s |", model, size, params,
            r->info.n_threads, td_cache_type_name(r->info.type_k), td_cache_type_name(r->info.type_v), test, speed);
    if (p->extended) {
        bool spec = r->draft_n > 0;
        cell(p->out, r->n_draft_max >= 0, 5, "%.0f", r->n_draft_max);
        cell(p->out, spec, 6, "%.3f", spec ? (double)r->draft_n_accepted / r->draft_n : 0);
        cell(p->out, spec, 8, "%.2f", spec ? 1 + (double)r->draft_n_accepted / r->draft_rounds : 0);
        cell(p->out, r->draft_ms > 0, 8, "%.2f", r->draft_ms);
        cell(p->out, r->verify_ms > 0, 9, "%.2f", r->verify_ms);
        cell(p->out, r->speed_up > 0, 8, "%.2f", r->speed_up);
        cell(p->out, r->cost > 0, 9, "%.3f", r->cost);
        cell(p->out, r->limit_share > 0, 8, "%.1f %%", 100 * r->limit_share);
        cell(p->out, r->barriers > 0 && r->n_tokens > 0, 8, "%.0f", (double)r->barriers);
    }
    if (p->ratios) cell(p->out, r->ratio > 0, 8, "%.3f", r->ratio);
    fputc('\n', p->out);
    fflush(p->out);
}

/* ---- fields, for the machine formats ---- */

static json_t *fields(const bench_row *r) {
    double mean_ns, dev_ns, mean, dev, median;
    bench_stats(r, &mean_ns, &dev_ns, &mean, &dev, &median);
    json_t *o = json_object();
#define STR(name, value)  json_object_set_new(o, name, json_string(value))
#define INT(name, value)  json_object_set_new(o, name, json_integer((json_int_t)(value)))
#define REAL(name, value) json_object_set_new(o, name, json_real(value))
#define BOOL(name, value) json_object_set_new(o, name, json_boolean(value))
    STR("build_commit", TD_VERSION);
    INT("build_number", 1);
    STR("cpu_info", r->info.cpu);
    STR("gpu_info", "");
    STR("backends", "CPU");
    STR("model_filename", r->info.model_path);
    char type[64];
    snprintf(type, sizeof type, "gemma4 %.15s %.31s", r->info.size_label, r->info.file_type);
    STR("model_type", type);
    INT("model_size", r->info.file_bytes);
    INT("model_n_params", r->info.n_params);
    INT("n_batch", r->n_batch);
    INT("n_ubatch", r->n_ubatch);
    INT("n_threads", r->info.n_threads);
    STR("cpu_mask", "0x0");
    BOOL("cpu_strict", false);
    INT("poll", 50);
    STR("type_k", td_cache_type_name(r->info.type_k));
    STR("type_v", td_cache_type_name(r->info.type_v));
    INT("n_gpu_layers", 0);
    INT("n_cpu_moe", 0);
    STR("split_mode", "none");
    INT("main_gpu", 0);
    BOOL("no_kv_offload", false);
    STR("flash_attn", "on");
    STR("devices", "none");
    STR("tensor_split", "0.00");
    STR("tensor_buft_overrides", "none");
    BOOL("use_mmap", true);
    BOOL("use_direct_io", false);
    BOOL("embeddings", false);
    BOOL("no_op_offload", false);
    BOOL("no_host", false);
    INT("fit_target", 0);
    INT("fit_min_ctx", 0);
    INT("n_prompt", r->n_prompt);
    INT("n_gen", r->n_gen);
    INT("n_depth", r->n_depth);
    STR("test_time", r->time);
    INT("avg_ns", mean_ns);
    INT("stddev_ns", dev_ns);
    REAL("avg_ts", mean);
    REAL("stddev_ts", dev);
    char test[BENCH_NAME];
    bench_name(r, test);
    STR("test", test);
    REAL("median_ts", median);
    INT("n_parallel", r->n_parallel);
    STR("draft_model", r->info.draft_path ? r->info.draft_path : "");
    STR("spec_type", r->n_draft_max > 0 ? "mtp" : "none");
    INT("n_draft_max", r->n_draft_max < 0 ? 0 : r->n_draft_max);
    INT("n_draft", r->draft_n);
    INT("n_accepted", r->draft_n_accepted);
    INT("draft_ns", r->draft_ms * 1e6);
    INT("verify_ns", r->verify_ms * 1e6);
    REAL("cost", r->cost);
    REAL("speed_up", r->speed_up);
    REAL("ratio_to_first", r->ratio);
    REAL("limit_share", r->limit_share);
    INT("step_bytes", r->step_bytes);
    INT("barriers", r->barriers);
    return o;
}

static void add_samples(json_t *o, const bench_row *r) {
    json_t *ns = json_array(), *ts = json_array(), *at = json_array();
    for (int i = 0; i < r->n_reps; i++) {
        json_array_append_new(ns, json_integer(r->ns[i]));
        json_array_append_new(ts, json_real(r->ns[i] > 0 ? 1e9 * r->n_tokens / (double)r->ns[i] : 0));
    }
    for (int i = 0; i < TD_MAX_DRAFT && r->accepted_at[i] > 0; i++)
        json_array_append_new(at, json_real((double)r->accepted_at[i] / (r->draft_rounds > 0 ? r->draft_rounds : 1)));
    json_object_set_new(o, "samples_ns", ns);
    json_object_set_new(o, "samples_ts", ts);
    json_object_set_new(o, "acc_per_pos", at);
}

/* A value as CSV or SQL text. */
static void scalar(FILE *f, const json_t *v, bool sql) {
    char quote = sql ? '\'' : '"';
    if (json_is_string(v)) {
        fputc(quote, f);
        for (const char *c = json_string_value(v); *c; c++) {
            if (*c == quote) fputc(quote, f);
            fputc(*c, f);
        }
        fputc(quote, f);
    } else if (json_is_real(v)) {
        fprintf(f, "%.6f", json_real_value(v));
    } else if (json_is_integer(v)) {
        fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else {
        fprintf(f, "%d", json_is_true(v) ? 1 : 0);
    }
}

static void list(FILE *f, json_t *o, int what, bool sql) { /* 0 names, 1 values, 2 SQL columns */
    const char *name;
    json_t *v;
    bool first = true;
    json_object_foreach(o, name, v) {
        if (!first) fputs(what == 2 ? ",\n  " : sql ? ", " : ",", f);
        first = false;
        if (what == 1)
            scalar(f, v, sql);
        else
            fprintf(f, "%s%s", name,
                    what == 2 ? json_is_string(v) ? " TEXT"
                                : json_is_real(v) ? " REAL"
                                                  : " INTEGER"
                              : "");
    }
}

/* ---- entry ---- */

void bench_begin(bench_printer *p) {
    p->n_rows = 0;
    if (p->format == BENCH_MD) md_head(p);
    if (p->format == BENCH_JSON) fputs("[\n", p->out);
}

void bench_print(bench_printer *p, const bench_row *r) {
    if (p->format == BENCH_NONE) return;
    if (p->format == BENCH_MD) {
        md_row(p, r);
        p->n_rows++;
        return;
    }
    json_t *o = fields(r);
    if (p->format == BENCH_CSV) {
        if (p->n_rows == 0) {
            list(p->out, o, 0, false);
            fputc('\n', p->out);
        }
        list(p->out, o, 1, false);
        fputc('\n', p->out);
    } else if (p->format == BENCH_SQL) {
        if (p->n_rows == 0) {
            fputs("CREATE TABLE IF NOT EXISTS llama_bench (\n  ", p->out);
            list(p->out, o, 2, true);
            fputs("\n);\n\n", p->out);
        }
        fputs("INSERT INTO llama_bench (", p->out);
        list(p->out, o, 0, true);
        fputs(") VALUES (", p->out);
        list(p->out, o, 1, true);
        fputs(");\n", p->out);
    } else {
        add_samples(o, r);
        if (p->format == BENCH_JSON && p->n_rows > 0) fputs(",\n", p->out);
        json_dumpf(o, p->out, (p->format == BENCH_JSON ? JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(10));
        if (p->format == BENCH_JSONL) fputc('\n', p->out);
    }
    json_decref(o);
    p->n_rows++;
    fflush(p->out);
}

void bench_end(bench_printer *p) {
    if (p->format == BENCH_JSON) fputs("\n]\n", p->out);
    if (p->format == BENCH_MD) fprintf(p->out, "\nbuild: %s (1)\n", TD_VERSION);
    fflush(p->out);
}
