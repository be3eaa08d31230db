#!/usr/bin/env python3
"""The demo pair's vocabulary, laid out as Gemma 4's (ids 0..493 the same: special tokens, <unusedN>, newline runs, blank
runs, HTML texts, bytes; then learned pieces, single characters, tab runs), and its tokenizer.json with the official
ingredients. The merge list follows from the vocabulary by the rule that reproduces Gemma 4's own list.

Pieces are learned inside words only, and never hold a digit, so that numbers are read digit by digit."""
import collections, json, re

SPECIAL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>",
           49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>", 52: '<|"|>', 98: "<|think|>",
           100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>"}
HTML = """<table> <caption> <thead> <tbody> <tfoot> <tr> <th> <td> </table> </caption> </thead> </tbody> </tfoot> </tr> </th>
</td> <h1> <h2> <h3> <h4> <h5> <h6> <blockquote> </h1> </h2> </h3> </h4> </h5> </h6> </blockquote> <strong> <em> <b> <i> <u>
<s> <sub> <sup> <code> </strong> </em> </b> </i> </u> </s> </sub> </sup> </code> <a> <html> <body> <img> <span> <bbox> <ul>
<li> <div> <iframe> <footer> </a> </html> </body> </img> </span> </bbox> </ul> </li> </div> </iframe> </footer>""".split()
LEARNED, TABS = 494, 31
EXTRA_CHARS = "\u00e4\u00f6\u00fc\u00df\u00c4\u00d6\u00dc\u00e9\u00e8\u00ea\u00e0\u00e2\u00e7\u00f1\u00f8\u00e5\u00e6\u00b0\u20ac\u00a3\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u00d7\u2192\ufffd"
SPECIAL_RE = re.compile("|".join(re.escape(s) for s in SPECIAL.values()))
WORD_RE = re.compile("\u2581{2,}|\u2581?[A-Za-z_]+|\u2581?[^A-Za-z_0-9\u2581\n]|[0-9]|\u2581|\n")


def learn_pieces(texts, want):
    """BPE over words; ties broken by the pair itself, so the result is a function of the text alone"""
    words = collections.Counter()
    for t in texts:
        for run in SPECIAL_RE.split(t):
            words.update(WORD_RE.findall(run.replace(" ", "\u2581")))
    words = {w: n for w, n in words.items() if len(w) > 1 and set(w) != {"\u2581"} and n > 2}
    seqs = [(list(w), n) for w, n in sorted(words.items())]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (s, n) in enumerate(seqs):
        for p in zip(s, s[1:]):
            pairs[p] += n
            where[p].add(i)
    out, have = [], set()
    while len(out) < want and pairs:
        p = max(pairs, key=lambda x: (pairs[x], x))
        if pairs[p] <= 2:
            break
        new = p[0] + p[1]
        if new not in have:
            have.add(new)
            out.append(new)
        for i in sorted(where.pop(p)):
            s, n = seqs[i]
            for q in zip(s, s[1:]):
                pairs[q] -= n
            j, t = 0, []
            while j < len(s):
                if j + 1 < len(s) and (s[j], s[j + 1]) == p:
                    t.append(new)
                    j += 2
                else:
                    t.append(s[j])
                    j += 1
            seqs[i] = (t, n)
            for q in zip(t, t[1:]):
                pairs[q] += n
                where[q].add(i)
        pairs.pop(p, None)
    return out


def vocabulary(texts, size):
    v, n = [], 0
    for i in range(107):
        if i in SPECIAL:
            v.append(SPECIAL[i])
        elif i == 5:
            v.append("[multimodal]")
        else:
            v.append(f"<unused{n}>")
            n += 1
    v += ["\n" * k for k in range(1, 32)] + ["\u2581" * k for k in range(2, 32)] + HTML + [f"<0x{b:02X}>" for b in range(256)]
    assert len(v) == LEARNED
    freq = collections.Counter(c for t in texts for c in SPECIAL_RE.sub("", t).replace(" ", "\u2581"))
    chars = {chr(c) for c in range(33, 127)} | {"\u2581"} | set(EXTRA_CHARS)
    chars = sorted(chars, key=lambda c: (-freq[c], c))
    pieces = learn_pieces(texts, size - LEARNED - len(chars) - TABS)
    v += pieces + chars + ["\t" * k for k in range(1, TABS + 1)]
    while len(v) < size:
        v.append(f"<unused{n}>")
        n += 1
    assert len(v) == size == len(set(v)), (len(v), size)
    return v, len(pieces)


def merges(v):
    ids = {t: i for i, t in enumerate(v)}
    run = lambda i: 107 <= i <= 167 or v[i][0] == "\t"
    usable = lambda i: i >= LEARNED and not v[i].startswith("<unused") or 107 <= i <= 167
    out = []
    for i, t in enumerate(v):
        if not usable(i) or len(t) < 2:
            continue
        cuts = [(ids[t[:k]], ids[t[k:]]) for k in range(1, len(t)) if t[:k] in ids and t[k:] in ids]
        out += [(0 if run(i) else -(i - LEARNED), len(v[a]), len(v[b]), a, b) for a, b in sorted(cuts) if usable(a) and usable(b)]
    out.sort(key=lambda m: (-m[0], -m[1], -m[2]))
    return [[v[a], v[b]] for _, _, _, a, b in out]


def tokenizer_json(v):
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, s in SPECIAL.items()]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                         {"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(v)},
                      "merges": merges(v)}}


def tokenizer_config():
    return {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
            "mask_token": "<mask>", "soc_token": "<|channel>", "eoc_token": "<channel|>", "sot_token": "<|turn>", "eot_token": "<turn|>",
            "std_token": "<|tool>", "etd_token": "<tool|>", "stc_token": "<|tool_call>", "etc_token": "<tool_call|>",
            "str_token": "<|tool_response>", "etr_token": "<tool_response|>", "escape_token": '<|"|>', "think_token": "<|think|>",
            "padding_side": "left", "clean_up_tokenization_spaces": False, "model_max_length": 1000000000000000019884624838656}


def write(texts, size, path):
    v, n = vocabulary(texts, size)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer_json(v), f, ensure_ascii=False, indent=2)
    return v, n


if __name__ == "__main__":
    import gen, itertools, sys
    it = gen.stream(1)
    texts = ["".join(t for t, _ in next(it)) for _ in range(int(sys.argv[1]))]
    v, n = write(texts, int(sys.argv[2]), sys.argv[3])
    from tokenizers import Tokenizer
    tk = Tokenizer.from_file(sys.argv[3])
    ln = sorted(len(tk.encode(t, add_special_tokens=False).ids) for t in texts)
    print("pieces", n, "chars/token", sum(map(len, texts)) / sum(ln), "tokens/doc", sum(ln) / len(ln), "pct", [ln[len(ln) * k // 100] for k in (10, 25, 50, 75, 90, 99)], ln[-1])
    e = tk.encode(texts[0], add_special_tokens=False)
    print(e.tokens[:120])
    assert tk.decode(e.ids, skip_special_tokens=False) == texts[0]
