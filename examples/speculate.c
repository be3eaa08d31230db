/* A pair, a prompt, tokens as they come, and what the assistant brought: the library in one page.
 * cc speculate.c -o speculate $(pkg-config --cflags --libs tandem) && ./speculate model.gguf assistant.gguf "Hello" */
#include <stdio.h>
#include <string.h>
#include <tandem.h>

static int fail(const char *what, const td_error *err) {
    fprintf(stderr, "%s: %s\n", what, err->text);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: speculate MODEL ASSISTANT TEXT\n"), 1;
    td_error err = {0};
    td_engine_params params;
    td_engine_params_init(&params);
    params.model_path = argv[1];
    params.draft_path = argv[2];
    params.n_slots = 2;
    params.spec.n_max = 4;
    td_engine *engine;
    if (td_engine_open(&engine, &params, &err)) return fail("open", &err);

    uint32_t prompt[4096];
    size_t n = 0;
    if (td_tokenize(engine, argv[3], strlen(argv[3]), TD_TOKENIZE_BOS | TD_TOKENIZE_SPECIAL, prompt, 4096, &n, &err))
        return fail("tokenize", &err);
    td_job_params job_params;
    td_job_params_init(engine, &job_params);
    job_params.prompt = prompt;
    job_params.n_prompt = (int)n;
    job_params.n_predict = 128;
    td_job *job;
    if (td_job_submit(engine, &job_params, &job, &err)) return fail("submit", &err);

    td_event event;
    do {
        if (td_job_read(job, &event, -1)) break;
        fwrite(event.text, 1, event.n_text, stdout);
        fflush(stdout);
    } while (event.kind != TD_EVENT_DONE);
    td_timings t = event.timings;
    printf("\n%.1f tokens/s, %d of %d drafts accepted in %d rounds\n", 1e3 * t.predicted_n / t.predicted_ms,
           t.draft_n_accepted, t.draft_n, t.draft_rounds);
    td_job_close(job);
    td_engine_close(engine);
    return 0;
}
