/* A small vocabulary with everything the text layer knows: bytes, special tokens, characters, words. Made once. */
#ifndef FUZZ_TINY_VOCAB_H
#define FUZZ_TINY_VOCAB_H

#include "text/vocab.h"

#include <stdio.h>
#include <string.h>

static const td_vocab *tiny_vocab(void) {
    static const char *const words[] = {"<pad>",
                                        "<eos>",
                                        "<bos>",
                                        "<unk>",
                                        "<mask>",
                                        "<|turn>",
                                        "<turn|>",
                                        "<|tool_call>",
                                        "<tool_call|>",
                                        "<|\"|>",
                                        "<|channel>",
                                        "<channel|>",
                                        "\n",
                                        "\n\n",
                                        "\t",
                                        "\xE2\x96\x81",
                                        "\xE2\x96\x81\xE2\x96\x81",
                                        "\xE2\x96\x81t",
                                        "he",
                                        "\xE2\x96\x81the",
                                        "ab",
                                        "abc",
                                        "{\"",
                                        "\":",
                                        "\xC3\xA9",
                                        "\xE4\xB8\xAD",
                                        "\xEF\xBF\xBD",
                                        "12",
                                        "true",
                                        "tr",
                                        "ue"};
    static char text[512][8];
    static td_vocab *v;
    enum { N_WORDS = sizeof words / sizeof *words };
    static td_slice texts[N_WORDS + 256 + 94];
    td_vocab_source s;
    if (v) return v;
    td_vocab_source_init(&s);
    for (int i = 0; i < 256; i++)
        texts[s.n_tokens++] = (td_slice){text[i], (size_t)snprintf(text[i], 8, "<0x%02X>", i)};
    for (int i = 0; i < N_WORDS; i++) texts[s.n_tokens++] = (td_slice){words[i], strlen(words[i])};
    for (int i = 33; i < 127; i++)
        texts[s.n_tokens++] = (td_slice){text[256 + i], (size_t)snprintf(text[256 + i], 8, "%c", i)};
    s.texts = texts;
    s.derive_merges = true;
    s.bos = 258;
    s.eos = 257;
    if (td_vocab_create(&v, &s, NULL)) __builtin_trap();
    return v;
}

#endif
