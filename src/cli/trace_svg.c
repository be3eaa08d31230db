/* The picture of a trace: an SVG without scripts or fonts of its own, readable in light and dark. */
#include "trace_svg.h"

#include "../base/atomic_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 960, LEFT = 60, RIGHT = 20, CELL = 12, TOP = 70 };

typedef struct canvas {
    td_atomic_file *f;
    td_status status;
    td_error *err;
} canvas;

static void put(canvas *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(canvas *c, const char *format, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (!c->status && n > 0)
        c->status = td_atomic_write(c->f, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, c->err);
}

static double share(double a, double b) {
    return b > 0 ? a / b : 0;
}

static int deepest(const trace_data *t) {
    int d = 1;
    for (int i = 0; i <= TRACE_MAX_DEPTH; i++)
        if (t->depth[i] > 0) d = i > d ? i : d;
    return d;
}

/* One column per group of rounds: with more rounds than columns a column shows the mean of its group. */
static int draw_rounds(canvas *c, const trace_data *t, int y) {
    int rows = deepest(t), n = t->n_rounds, columns = (WIDTH - LEFT - RIGHT) / 4;
    if (columns > n) columns = n;
    double width = (double)(WIDTH - LEFT - RIGHT) / columns, bar = width > 3 ? width - 1 : width * 0.8;
    put(c, "<text x='%d' y='%d' class='h'>Rounds in order: accepted (full) and rejected (pale) drafts</text>\n", LEFT,
        y);
    y += 12;
    int bottom = y + rows * CELL;
    for (int row = 0; row <= rows; row += rows > 8 ? 4 : rows > 3 ? 2 : 1)
        put(c,
            "<text x='%d' y='%d' class='n' text-anchor='end'>%d</text><line x1='%d' y1='%d' x2='%d' y2='%d' "
            "class='g'/>\n",
            LEFT - 6, bottom - row * CELL + 4, row, LEFT, bottom - row * CELL, WIDTH - RIGHT, bottom - row * CELL);
    for (int col = 0; col < columns; col++) {
        long first = (long)col * n / columns, last = (long)(col + 1) * n / columns;
        double drafted = 0, accepted = 0;
        for (long i = first; i < last; i++) {
            drafted += t->rounds[i].drafted;
            accepted += t->rounds[i].accepted > 0 ? t->rounds[i].accepted : 0;
        }
        double k = (double)(last - first), d = share(drafted, k) * CELL, a = share(accepted, k) * CELL,
               x = LEFT + col * width;
        put(c,
            "<rect x='%.2f' y='%.2f' width='%.2f' height='%.2f' class='r'/><rect x='%.2f' y='%.2f' width='%.2f' "
            "height='%.2f' class='a'/>\n",
            x, bottom - d, bar, d, x, bottom - a, bar, a);
    }
    return bottom + 40;
}

static int draw_bars(canvas *c, int y, const char *title, const double *value, int first, int n, bool percent) {
    put(c, "<text x='%d' y='%d' class='h'>%s</text>\n", LEFT, y, title);
    y += 16;
    double most = 0;
    for (int i = 0; i < n; i++) most = value[i] > most ? value[i] : most;
    if (percent) most = 1;
    for (int i = 0; i < n; i++, y += 18) {
        double w = most > 0 ? value[i] / most * 500 : 0;
        put(c,
            "<text x='%d' y='%d' class='n' text-anchor='end'>%d</text><rect x='%d' y='%d' width='%.1f' height='12' "
            "class='a'/>",
            LEFT - 6, y + 10, first + i, LEFT, y, w);
        put(c, "<text x='%.1f' y='%d' class='n'>%.*f%s</text>\n", LEFT + w + 6, y + 10, percent ? 1 : 0,
            percent ? 100 * value[i] : value[i], percent ? " %" : "");
    }
    return y + 24;
}

static void draw(canvas *c, const trace_data *t) {
    int rows = deepest(t), positions = 0;
    double at[TRACE_MAX_DEPTH], depth[TRACE_MAX_DEPTH + 1];
    while (positions < TRACE_MAX_DEPTH && t->reached[positions] > 0) {
        at[positions] = share((double)t->stood[positions], (double)t->reached[positions]);
        positions++;
    }
    for (int d = 0; d <= rows; d++) depth[d] = (double)t->depth[d];
    int height = TOP + 12 + rows * CELL + 40 + 16 + positions * 18 + 24 + 16 + (rows + 1) * 18 + 40;
    put(c,
        "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
        "font-family='sans-serif'>\n",
        WIDTH, height, WIDTH, height);
    put(c, "<style>svg{background:#fff;color:#222}text{fill:#222}.t{font-size:18px;font-weight:600}.h{font-size:14px;"
           "font-weight:600}"
           ".n{font-size:12px}.g{stroke:#8884;stroke-width:1}.a{fill:#2a7f62}.r{fill:#2a7f6244}\n"
           "@media(prefers-color-scheme:dark){svg{background:#161a1d}text{fill:#ddd}.a{fill:#4fc08d}.r{fill:#4fc08d44}}"
           "</style>\n");
    put(c,
        "<text x='%d' y='28' class='t'>Speculation: %.2f tokens per round, %.1f %% of %ld drafts accepted, %d "
        "rounds</text>\n",
        LEFT, 1 + share((double)t->accepted, t->verified), 100 * share((double)t->accepted, (double)t->tokens),
        t->tokens, t->verified);
    int y = draw_rounds(c, t, TOP - 12);
    y = draw_bars(c, y, "Accepted, by position (of the rounds that reached it)", at, 1, positions, true);
    (void)draw_bars(c, y, "Rounds, by number of drafts", depth, 0, rows + 1, false);
    put(c, "</svg>\n");
}

td_status trace_draw(const trace_data *t, const char *path, td_error *err) {
    canvas c = {.err = err};
    td_status status = td_atomic_open(&c.f, path, err);
    if (status) return status;
    draw(&c, t);
    if (!c.status) return td_atomic_commit(c.f, err);
    td_atomic_discard(c.f);
    return c.status;
}
