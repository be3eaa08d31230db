/* Which of the published templates a file carries, told by words that only some generations contain. */
#include "chat_impl.h"

#include "../base/status.h"

#include <string.h>

/* Offset behind the last occurrence of `word`, or 0. */
static size_t find_last(const char *text, size_t n_bytes, const char *word) {
    size_t n = strlen(word);
    for (size_t i = n_bytes; i >= n; i--)
        if (memcmp(text + i - n, word, n) == 0) return i;
    return 0;
}

bool td_chat_profile_detect(const char *text, size_t n_bytes, bool model_is_small, td_chat_profile *out,
                            const char **warning) {
    static const struct {
        const char *word;
        td_chat_generation generation;
    } signs[] = {{"preserve_thinking", TD_CHAT_G2},
                 {"filter_keys", TD_CHAT_G1B},
                 {"OpenAI Chat Completions", TD_CHAT_G1},
                 {"last_user_message", TD_CHAT_INTERLEAVED},
                 {"<|turn>", TD_CHAT_G0}};
    size_t k = 0, n_signs = sizeof signs / sizeof *signs;
    *warning = NULL;
    *out = (td_chat_profile){TD_CHAT_G2, !model_is_small};
    if (!text || !n_bytes) return true;
    while (k < n_signs && !find_last(text, n_bytes, signs[k].word)) k++;
    if (k == n_signs) {
        *warning = "the file's chat template is none of Gemma 4's; the current one (g2) is used instead";
        return false;
    }
    out->generation = signs[k].generation;
    if (out->generation == TD_CHAT_G0) {
        *warning = "the file's chat template is the outdated first one, which cannot show tool results; the rules of "
                   "g1b are used (--chat-profile changes this)";
        out->generation = TD_CHAT_G1B;
    } else {
        size_t thought = find_last(text, n_bytes, "<|channel>thought\\n<channel|>");
        out->large = thought > 0 && thought > find_last(text, n_bytes, "add_generation_prompt");
    }
    return true;
}

static const char *const generation_names[] = {"g0", "interleaved", "g1", "g1b", "g2"};
enum { N_GENERATIONS = 5 };

bool td_chat_profile_parse(const char *name, td_chat_profile *inout) {
    for (int g = 0; g < N_GENERATIONS; g++) {
        size_t n = strlen(generation_names[g]);
        if (strncmp(name, generation_names[g], n) != 0) continue;
        if (name[n] && strcmp(name + n, "-large") != 0 && strcmp(name + n, "-small") != 0) continue;
        inout->generation = (td_chat_generation)g;
        if (name[n]) inout->large = name[n + 1] == 'l';
        return true;
    }
    return false;
}

const char *td_chat_profile_name(td_chat_profile p) {
    static const char *const names[2][N_GENERATIONS] = {
        {"g0-small", "interleaved-small", "g1-small", "g1b-small", "g2-small"},
        {"g0-large", "interleaved-large", "g1-large", "g1b-large", "g2-large"}};
    return names[p.large][p.generation];
}

const char *td_chat_generations_text(void) {
    return "g0, interleaved, g1, g1b, g2 (each also with -large or -small)";
}

const char *td_chat_mark_text(td_chat_mark m) {
    static const char *const texts[TD_MARK_COUNT] = {
        "<bos>",     "<|turn>",      "<turn|>",      "<|channel>",       "<channel|>",       "<|tool>",
        "<tool|>",   "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|\"|>",
        "<|think|>", "<|image|>",    "<|audio|>",    "<|video|>"};
    return texts[m];
}

td_status td_chat_vocab_init(td_chat_vocab *cv, const td_vocab *v, const char **warning, td_error *err) {
    static const uint32_t official[TD_MARK_COUNT] = {2,  105, 106, 100, 101, 46,     47,     48,
                                                     49, 50,  51,  52,  98,  258880, 258881, 258884};
    *warning = NULL;
    cv->vocab = v;
    for (int m = 0; m < TD_MARK_COUNT; m++) {
        cv->ids[m] = td_vocab_special(v, td_chat_mark_text((td_chat_mark)m));
        if (cv->ids[m] == TD_TOKEN_NONE && m == TD_MARK_BOS) cv->ids[m] = td_vocab_bos(v);
        if (cv->ids[m] != TD_TOKEN_NONE && cv->ids[m] != official[m])
            *warning = "control tokens of the chat format have other ids than in Gemma 4's vocabulary";
    }
    static const td_chat_mark needed[] = {TD_MARK_TURN, TD_MARK_TURN_END, TD_MARK_CHANNEL};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (cv->ids[needed[i]] == TD_TOKEN_NONE)
            return td_fail(err, TD_ERR_FORMAT, TD_NO_OFFSET, "the vocabulary has no token %s: no chat with this model",
                           td_chat_mark_text(needed[i]));
    return TD_OK;
}
