/* Prompt spans to token ids. Text between two special tokens is tokenised as one run, ours and the request's together,
 * with no special token matched in it: the format's own are spans, so nothing in the data can become one. */
#include "chat_impl.h"

#include "../base/status.h"

typedef struct run {
    const td_chat_prompt *p;
    const td_chat_vocab *cv;
    td_special_mode mode;
    td_tokens *out;
    td_error *err;
    size_t begin, end; /* text not yet tokenised */
} run;

static td_status flush(run *r) {
    size_t begin = r->begin;
    r->begin = r->end;
    if (begin == r->end) return TD_OK;
    return td_vocab_tokenize(r->cv->vocab, r->p->text.data + begin, r->end - begin, r->mode, false, r->out, r->err);
}

static td_chat_mark mark_at(const td_chat_prompt *p, const td_chat_span *s) {
    for (int m = 0; m < TD_MARK_COUNT; m++) {
        td_slice t = chat_slice(td_chat_mark_text((td_chat_mark)m));
        if (t.n_bytes != s->end - s->begin) continue;
        size_t i = 0;
        while (i < t.n_bytes && p->text.data[s->begin + i] == t.data[i]) i++;
        if (i == t.n_bytes) return (td_chat_mark)m;
    }
    return TD_MARK_COUNT;
}

static td_status put_span(run *r, const td_chat_span *s) {
    uint32_t id = TD_TOKEN_NONE;
    if (s->kind == TD_CHAT_SPAN_MEDIA)
        return td_fail(r->err, TD_ERR_UNSUPPORTED, TD_NO_OFFSET, "this model takes no images, sound or video");
    if (s->kind == TD_CHAT_SPAN_MARK) {
        td_chat_mark m = mark_at(r->p, s);
        if (m < TD_MARK_COUNT) id = r->cv->ids[m];
    }
    if (id == TD_TOKEN_NONE && s->kind != TD_CHAT_SPAN_REPLAY) {
        r->end = s->end;
        return TD_OK;
    }
    td_status status = flush(r);
    r->begin = r->end = s->end;
    if (status != TD_OK) return status;
    bool ok = true;
    if (id != TD_TOKEN_NONE) ok = td_tokens_add(r->out, id);
    for (size_t i = 0; s->kind == TD_CHAT_SPAN_REPLAY && ok && i < s->n; i++)
        ok = td_tokens_add(r->out, r->p->replayed.ids[s->first + i]);
    return ok ? TD_OK : td_fail(r->err, TD_ERR_MEMORY, TD_NO_OFFSET, "no memory for the prompt's tokens");
}

td_status td_chat_prompt_tokenize(const td_chat_prompt *p, const td_chat_vocab *cv, bool parse_special_input,
                                  td_tokens *out, size_t *boundaries, td_error *err) {
    size_t n_before = out->n, b = 0;
    run r = {p, cv, parse_special_input ? TD_SPECIAL_ALL : TD_SPECIAL_NONE, out, err, 0, 0};
    td_status status = TD_OK;
    for (size_t i = 0; i < p->n_spans && status == TD_OK; i++) {
        if (b < p->n_boundaries && p->boundaries[b] == p->spans[i].begin) {
            status = flush(&r);
            if (boundaries) boundaries[b] = out->n;
            b++;
        }
        if (status == TD_OK) status = put_span(&r, &p->spans[i]);
    }
    if (status == TD_OK) status = flush(&r);
    for (; b < p->n_boundaries && boundaries; b++) boundaries[b] = out->n;
    if (status != TD_OK) out->n = n_before;
    return status;
}
