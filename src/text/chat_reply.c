/* A whole answer collected from the parser's events, in blocks of the order in which they were written. */
#include "chat_parse.h"

#include "../base/checked.h"

#include <stdlib.h>

static td_chat_block *add_block(td_chat_reply *r, td_chat_block_kind kind) {
    if (r->n_blocks == r->cap_blocks) {
        size_t cap = r->cap_blocks ? r->cap_blocks * 2 : 4;
        td_chat_block *b = td_reallocarray(r->blocks, cap, sizeof *b);
        if (!b) return NULL;
        r->blocks = b;
        r->cap_blocks = cap;
    }
    td_chat_block *b = &r->blocks[r->n_blocks++];
    *b = (td_chat_block){.kind = kind};
    return b;
}

/* The last block if it is of this kind and open, else a new one. */
static td_chat_block *block_for(td_chat_reply *r, td_chat_block_kind kind) {
    td_chat_block *last = r->n_blocks ? &r->blocks[r->n_blocks - 1] : NULL;
    return last && last->kind == kind ? last : add_block(r, kind);
}

static td_chat_block *call_block(td_chat_reply *r, uint32_t call) {
    size_t at = r->n_calls; /* calls [0, at) are in blocks before i */
    for (size_t i = r->n_blocks; i > 0; i--)
        if (r->blocks[i - 1].kind == TD_CHAT_BLOCK_CALL && --at == call) return &r->blocks[i - 1];
    return NULL;
}

bool td_chat_reply_add(td_chat_reply *r, const td_chat_event *e) {
    td_chat_block *b = NULL;
    switch (e->kind) {
    case TD_CHAT_REASONING:
        b = r->broken ? add_block(r, TD_CHAT_BLOCK_REASONING) : block_for(r, TD_CHAT_BLOCK_REASONING);
        if (b && r->broken) b->apart = true;
        r->broken = false;
        break;
    case TD_CHAT_CONTENT:
        b = block_for(r, TD_CHAT_BLOCK_CONTENT);
        break;
    case TD_CHAT_REASONING_BREAK:
        r->broken = true;
        return true;
    case TD_CHAT_CALL_BEGIN:
        b = add_block(r, TD_CHAT_BLOCK_CALL);
        if (!b) return false;
        r->n_calls++;
        return td_buf_add(&b->name, e->text.data, e->text.n_bytes);
    case TD_CHAT_CALL_ARGUMENTS:
        b = call_block(r, e->call);
        break;
    case TD_CHAT_CALL_END:
        b = call_block(r, e->call);
        if (b) b->complete = true;
        return b != NULL;
    }
    return b && td_buf_add(&b->text, e->text.data, e->text.n_bytes);
}

bool td_chat_reply_sink(void *reply, const td_chat_event *e) {
    return td_chat_reply_add(reply, e);
}

static bool collect(const td_chat_reply *r, td_chat_block_kind kind, td_buf *out) {
    bool ok = true;
    for (size_t i = 0; i < r->n_blocks && ok; i++) {
        const td_chat_block *b = &r->blocks[i];
        if (b->kind != kind) continue;
        ok = (!b->apart || td_buf_add_str(out, "\n\n")) && td_buf_add(out, b->text.data, b->text.n_bytes);
    }
    return ok;
}

bool td_chat_reply_content(const td_chat_reply *r, td_buf *out) {
    return collect(r, TD_CHAT_BLOCK_CONTENT, out);
}

bool td_chat_reply_reasoning(const td_chat_reply *r, td_buf *out) {
    return collect(r, TD_CHAT_BLOCK_REASONING, out);
}

void td_chat_reply_free(td_chat_reply *r) {
    for (size_t i = 0; i < r->n_blocks; i++) {
        td_buf_free(&r->blocks[i].text);
        td_buf_free(&r->blocks[i].name);
    }
    free(r->blocks);
    *r = (td_chat_reply){0};
}
