#!/usr/bin/env python3
"""Measures the demo pair with transformers: greedy answers to held-out prompts, and how many drafts are accepted.

usage: evaluate.py --target DIR [--assistant DIR] --prompts FILE [--depth 3] [--show N]

Drafts are measured by replaying the speculative loop on the greedy text: from each committed position, a chain of DEPTH
guesses, accepted while equal to the greedy token. Float32, one thread unless OMP_NUM_THREADS says otherwise.
"""
import argparse, collections, json, os
import torch
import assistant, model
from tokenizers import Tokenizer
from transformers import DynamicCache, Gemma4AssistantForCausalLM, Gemma4ForCausalLM

STOP = {1, 106, 50}


@torch.no_grad()
def greedy(m, ids, limit):
    cache, out, x = DynamicCache(config=m.config), [], torch.tensor([ids])
    while len(out) < limit:
        lo = m(input_ids=x, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        out.append(int(lo.argmax()))
        if out[-1] in STOP:
            break
        x = torch.tensor([[out[-1]]])
    return out


def head(a, y, dense=False):
    if dense:
        return int((a.lm_head.weight @ y).argmax())
    o = a.masked_embedding.token_ordering.view(a.config.num_centroids, -1)
    cand = o[(a.masked_embedding.centroids.weight @ y).topk(a.config.centroid_intermediate_top_k).indices].reshape(-1)
    return int(cand[(a.lm_head.weight[cand] @ y).argmax()])


@torch.no_grad()
def replay(m, a, prompt, out, depth, dense=False):
    """-> accepted and drafted per position of the chain"""
    ids = torch.tensor([prompt + out])
    o = m.model(input_ids=ids, use_cache=False, return_shared_kv_states=True)
    h, kv = o.last_hidden_state[0], o.shared_kv_states
    n, end, acc, of = len(prompt), len(prompt) + len(out), [0] * depth, [0] * depth
    while n < end - 1:
        x, hp, k = int(ids[0, n]), h[n - 1], 0
        pos = torch.tensor([[n]])
        mk = assistant.draft_masks(pos, n)
        cut = {t: (K[:, :, :n], V[:, :, :n]) for t, (K, V) in kv.items()}
        good = True
        for j in range(min(depth, end - 1 - n)):
            y, hp = assistant.step(a, m, torch.tensor([[x]]), hp.view(1, 1, -1), pos, mk, cut)
            x = head(a, y[0, 0], dense)
            of[j] += 1
            good = good and x == int(ids[0, n + 1 + j])
            if good:
                acc[j] += 1
                k += 1
        n += k + 1
    return acc, of


def judge(e, text):
    if "contains" in e:
        return all(w in text for w in e["contains"]) and text.endswith("<turn|>")
    return text == e["answer"]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--target", required=True)
    ap.add_argument("--assistant")
    ap.add_argument("--prompts", required=True)
    ap.add_argument("--depth", type=int, default=3)
    ap.add_argument("--limit", type=int, default=220)
    ap.add_argument("--show", type=int, default=0)
    ap.add_argument("--every", type=int, default=1, help="take each N-th prompt only")
    ap.add_argument("--dense", action="store_true")
    ap.add_argument("--nice", type=int, default=10)
    a = ap.parse_args()
    os.nice(a.nice)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tk = Tokenizer.from_file(os.path.join(a.target, "tokenizer.json"))
    m = Gemma4ForCausalLM.from_pretrained(a.target, dtype=torch.float32).eval()
    d = Gemma4AssistantForCausalLM.from_pretrained(a.assistant, dtype=torch.float32).eval() if a.assistant else None
    for n in (m, d):
        if n is not None:
            n.config._attn_implementation = n.config.get_text_config()._attn_implementation = "eager"
    right, of_kind, bad = collections.Counter(), collections.Counter(), []
    acc, of, kinds = [0] * a.depth, [0] * a.depth, collections.defaultdict(lambda: [0, 0])
    for e in json.load(open(a.prompts, encoding="utf-8"))[::a.every]:
        ids = tk.encode(e["prompt"], add_special_tokens=False).ids
        out = greedy(m, ids, a.limit)
        text = tk.decode(out, skip_special_tokens=False)
        ok = judge(e, text)
        right[e["kind"]] += ok
        of_kind[e["kind"]] += 1
        if not ok:
            bad.append((e["name"], e.get("answer", e.get("contains")), text))
        if d is not None:
            x, y = replay(m, d, ids, out, a.depth, a.dense)
            acc, of = [p + q for p, q in zip(acc, x)], [p + q for p, q in zip(of, y)]
            kinds[e["kind"]][0] += sum(x)
            kinds[e["kind"]][1] += sum(y)
    for k in of_kind:
        extra = f"  drafts accepted {kinds[k][0] / max(1, kinds[k][1]):.3f}" if d is not None else ""
        print(f"{k:22s} {right[k]:3d} of {of_kind[k]:3d}{extra}")
    print(f"all                    {sum(right.values())} of {sum(of_kind.values())}")
    if d is not None:
        print(f"accepted {sum(acc) / sum(of):.4f} of {sum(of)} drafts at depth {a.depth}; by position", [round(p / q, 4) for p, q in zip(acc, of)],
              f"; tokens per round {1 + sum(acc) / of[0]:.2f}")
    for n, want, got in bad[:a.show]:
        print("---", n, "\nwant:", want, "\ngot: ", got)


if __name__ == "__main__":
    main()
