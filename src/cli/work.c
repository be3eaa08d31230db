#include "work.h"

#include "base/clock.h"

const td_option work_options[] = {{.kind = TD_OPT_INT,
                                   .names = "--threads -t",
                                   .offset = offsetof(work_flags, n_threads),
                                   .arg = "N",
                                   .def = "0",
                                   .min = 0,
                                   .max = 512,
                                   .env = "THREADS",
                                   .help = "Threads; 0 is one per core"},
                                  {.kind = TD_OPT_SWITCH,
                                   .names = "--quiet -q",
                                   .offset = offsetof(work_flags, quiet),
                                   .help = "No progress and no report"},
                                  {.kind = TD_OPT_END}};

td_status work_begin(work *w, const work_flags *f, td_error *err) {
    *w = (work){.start_ns = td_clock_ns()};
    td_progress_init(&w->bar, f->quiet, "B");
    return td_pool_create(&w->pool, &(td_pool_options){.n_threads = (int)f->n_threads}, err);
}

void work_end(work *w) {
    td_progress_end(&w->bar);
    td_pool_destroy(w->pool);
    w->pool = NULL;
}

double work_seconds(const work *w) {
    return (double)(td_clock_ns() - w->start_ns) * 1e-9;
}
