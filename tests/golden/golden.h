/* Goldens of tests/golden/data: found, read and compared. See README.md there for the file format. */
#ifndef TD_TEST_GOLDEN_H
#define TD_TEST_GOLDEN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct golden_case { /* one chain of drafts */
    int n, last, n_drafts;
    int *drafts;
    float *top; /* [n_drafts], or NULL */
} golden_case;

typedef struct golden {
    char stem[512], gguf[576], target[576]; /* target: the stem of an assistant's target, "" for a target */
    char head[16];
    double tolerance;
    int n_tok, n_vocab, d_model; /* d_model 0: no hidden states */
    int32_t *tokens;
    float *logits; /* [n_tok][n_vocab], -INFINITY where null */
    float *hidden; /* [n_tok][d_model] */
    int n_cases;
    golden_case *cases;
} golden;

/* All goldens of a folder, targets or assistants, sorted by name; the folder may be missing. Returns their number;
 * prints and returns -1 when a file cannot be read. */
int golden_find(const char *dir, bool assistants, golden **out);
bool golden_read(golden *g, const char *path);
void golden_free(golden *g);

#endif
