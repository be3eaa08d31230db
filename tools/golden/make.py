#!/usr/bin/env python3
"""Tiny random Gemma 4 checkpoints, made and evaluated by Hugging Face transformers: the second witness.

usage: make.py OUT [--seed 1] [--only NAME]

Writes OUT/ckpt/NAME/ (config.json, model.safetensors, tokenizer files: a checkpoint as the hub has it) and beside it what
transformers computes in float32 on one thread: OUT/NAME.json.gz for targets, OUT/assist-NAME.json for assistants, in the
format of tests/golden/data/hf/README.md. GGUF files come from `tandem convert` (see that README).

Weights are rounded to bfloat16 before anything is computed, so a BF16 file holds them exactly. Magnitudes are chosen so
that every part of the network matters and rounding is not blown up: unit-gain matrices, small norms at the ends of the
branches, attention scores of a few units, logits that reach the cap.
"""
import argparse, copy, gzip, json, os, sys, zlib
import torch
from transformers import (Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4ForCausalLM, Gemma4TextConfig,
                          Gemma4UnifiedAssistantConfig, Gemma4UnifiedAssistantForCausalLM, Gemma4UnifiedForCausalLM, Gemma4UnifiedTextConfig)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train_demo"))
import tok

V, W, N = 672, 16, 56
CENTROIDS, TOP = 28, 4
PREFIXES, STEPS = (1, 5, 14, 15, 16, 17, 33, 56), 6

def sharing(c):
    """who computes keys and values, who keeps them for others, who only reads"""
    first = c.num_hidden_layers - c.num_kv_shared_layers
    modes = [None if i < first else "reuse" for i in range(c.num_hidden_layers)]
    for t in set(c.layer_types[:first]):
        modes[max(i for i in range(first) if c.layer_types[i] == t)] = "store"
    return modes


# transformers 5.23 raises for a model in which all layers share (its own assistants), and keeps nothing for an assistant
# where no layer shares (the larger targets); the rule above is what its comments describe.
for C in (Gemma4TextConfig, Gemma4UnifiedTextConfig):
    if isinstance(getattr(C, "kv_sharing_modes", None), property):
        C.kv_sharing_modes = property(sharing)


def types(s):
    return ["sliding_attention" if c == "S" else "full_attention" for c in s]


BASE = dict(vocab_size=V, hidden_size=64, head_dim=32, global_head_dim=64, sliding_window=W, max_position_embeddings=4096, pad_token_id=0,
            bos_token_id=2, eos_token_id=1, final_logit_softcapping=30.0, hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6)
TARGETS = {
    "e": (Gemma4TextConfig, Gemma4ForCausalLM, dict(
        num_hidden_layers=6, layer_types=types("SSFSSF"), num_attention_heads=4, num_key_value_heads=1, intermediate_size=96,
        num_kv_shared_layers=3, use_double_wide_mlp=True, hidden_size_per_layer_input=16, vocab_size_per_layer_input=V)),
    "dense": (Gemma4TextConfig, Gemma4ForCausalLM, dict(
        num_hidden_layers=4, layer_types=types("SSSF"), num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1,
        attention_k_eq_v=True, intermediate_size=128, hidden_size_per_layer_input=0)),
    "moe": (Gemma4TextConfig, Gemma4ForCausalLM, dict(
        num_hidden_layers=3, layer_types=types("SSF"), num_attention_heads=4, num_key_value_heads=4, num_global_key_value_heads=2,
        attention_k_eq_v=True, intermediate_size=64, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=8, top_k_experts=2,
        moe_intermediate_size=32)),
    "unified": (Gemma4UnifiedTextConfig, Gemma4UnifiedForCausalLM, dict(
        num_hidden_layers=3, layer_types=types("SSF"), num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1,
        attention_k_eq_v=True, intermediate_size=128)),
}
ASSIST = {"e": (True, Gemma4AssistantConfig, Gemma4AssistantForCausalLM), "dense": (False, Gemma4AssistantConfig, Gemma4AssistantForCausalLM),
          "moe": (False, Gemma4AssistantConfig, Gemma4AssistantForCausalLM),
          "unified": (False, Gemma4UnifiedAssistantConfig, Gemma4UnifiedAssistantForCausalLM)}


def rng(seed, name):
    """each tensor draws from a generator of its own name: adding one changes no other"""
    return torch.Generator().manual_seed(seed * 1000003 + zlib.crc32(name.encode()))


MEANS = (("k_norm", None), ("post_attention_layernorm", .4), ("post_feedforward_layernorm", .4), ("post_per_layer_input_norm", .4))


def fill(m, seed, final):
    """random weights, bfloat16 values in float32"""
    seen = set()
    with torch.no_grad():
        for name, t in list(m.named_parameters()) + list(m.named_buffers()):
            if t.data_ptr() in seen or not t.is_floating_point() or name.endswith(("inv_freq", "embed_scale")) or "softcap" in name:
                continue
            seen.add(t.data_ptr())
            g = rng(seed, name)
            if name.endswith("layer_scalar"):
                x = torch.rand(t.shape, generator=g) * .7 + .4
            elif name.endswith("per_expert_scale"):
                x = torch.rand(t.shape, generator=g) + .5
            elif t.dim() == 1:
                mean = 2 * t.shape[0] ** -.5 if "k_norm" in name else final if name.endswith("model.norm.weight") else \
                    .4 if "post_" in name else 1.0
                if name.endswith(("layernorm_1.weight", "layernorm_2.weight")):
                    mean = 1.0
                x = mean * (1 + .2 * torch.randn(t.shape, generator=g))
            else:
                std = .15 if name.endswith("embed_tokens.weight") else 16 ** -.5 if "per_layer.weight" in name else t.shape[-1] ** -.5
                if "router.proj" in name:
                    std = 1.5
                if "post_projection" in name:
                    std *= 2
                x = torch.randn(t.shape, generator=g) * std
                if "pre_projection" in name:                # a scaled embedding has an rms near 1.2, a hidden state one near 8
                    b = x.shape[1] // 2
                    x[:, :b] *= 1.0
                    x[:, b:] *= .17
            t.copy_(x.bfloat16().float())
    return m.eval()


def check_config(m, want):
    for k, v in want.items():
        if hasattr(m.config, k):
            assert getattr(m.config, k) == v, k


def prompt(seed):
    """a fixed pseudo-random prompt, BOS first"""
    x, t = 12345 + seed, [2]
    while len(t) < N:
        x = (1103515245 * x + 12345) % 2**31
        t.append(5 + x // 65536 % (V - 5))
    return t


def trim(o):
    return [round(v, 5) if isinstance(v, float) else trim(v) if isinstance(v, list) else v for v in o]


def vocabulary_files(d):
    v, _ = tok.vocabulary([""], V)
    with open(os.path.join(d, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(tok.tokenizer_json(v), f, ensure_ascii=False, indent=1)
    json.dump(tok.tokenizer_config(), open(os.path.join(d, "tokenizer_config.json"), "w"), indent=1)


def save(m, d):
    os.makedirs(d, exist_ok=True)
    copy.deepcopy(m).to(torch.bfloat16).save_pretrained(d)  # a copy: .to() would round the RoPE frequencies as well
    vocabulary_files(d)


@torch.no_grad()
def target(name, seed):
    C, M, kw = TARGETS[name]
    torch.manual_seed(0)
    m = M(C(**BASE, **kw))
    m.config._attn_implementation = "eager"
    if hasattr(m, "set_experts_implementation"):
        m.set_experts_implementation("eager")
    return fill(m, seed, 8.0)


@torch.no_grad()
def evaluate(m, ids):
    o = m.model(input_ids=torch.tensor([ids]), use_cache=False, return_shared_kv_states=True)
    lo = m(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    kv = getattr(o, "shared_kv_states", None)
    return lo, o.last_hidden_state[0], kv


def assistant(name, seed):
    ordered, C, M = ASSIST[name]
    T, _, kw = TARGETS[name]
    text = dict(BASE)
    text.update(hidden_size=32, num_hidden_layers=4, layer_types=types("SSSF"), num_attention_heads=kw["num_attention_heads"],
                num_key_value_heads=kw["num_key_value_heads"], intermediate_size=64, num_kv_shared_layers=4, final_logit_softcapping=None)
    for k in ("num_global_key_value_heads", "attention_k_eq_v"):
        if k in kw:
            text[k] = kw[k]
    if T is Gemma4TextConfig:
        text.update(hidden_size_per_layer_input=0, vocab_size_per_layer_input=0)
    cfg = C(text_config=T(**text), backbone_hidden_size=64, use_ordered_embeddings=ordered, num_centroids=CENTROIDS if ordered else 2048,
            centroid_intermediate_top_k=TOP if ordered else 32)
    a = M(cfg)
    a.config._attn_implementation = a.config.get_text_config()._attn_implementation = "eager"
    fill(a, seed + 1000, 4.0)
    if ordered:
        a.masked_embedding.token_ordering.copy_(torch.randperm(V, generator=rng(seed, "ordering")))
    return a


@torch.no_grad()
def drafts(m, a, ids, steps, native=False):
    """greedy chain after the prefix ids: constant position n, keys before n, in sliding layers those nearer than the
    window. native: transformers' own mask (which shows two keys more in sliding layers) instead."""
    lo, h, kv = evaluate(m, ids)
    n = len(ids)
    last, hp = int(lo[-1].argmax()), h[-1:][None]
    pos, out, top = torch.tensor([[n]]), [], []
    key = torch.arange(n)[None, None, None]
    masks = {"full_attention": torch.zeros(1, 1, 1, n), "sliding_attention": torch.zeros(1, 1, 1, n).masked_fill(n - key >= W, -1e9)}
    x = last
    for _ in range(steps):
        u = torch.cat([m.model.embed_tokens(torch.tensor([[x]])), hp], -1)
        if native:
            o = a(inputs_embeds=u, position_ids=pos, shared_kv_states=dict(kv))
            z, hp = o.logits[0, 0], o.last_hidden_state
        else:
            y = a.model(inputs_embeds=a.pre_projection(u), position_ids=pos, attention_mask=masks, shared_kv_states=dict(kv), use_cache=False).last_hidden_state
            z = (a.masked_embedding(y, a.lm_head.weight) if a.masked_embedding is not None else a.lm_head(y))[0, 0]
            hp = a.post_projection(y)
        x = int(z.argmax())
        out.append(x)
        top.append(float(z.max()))
    return last, out, top


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--only")
    a = ap.parse_args()
    torch.set_num_threads(1)
    os.makedirs(a.out, exist_ok=True)
    ids = prompt(a.seed)
    for name in TARGETS:
        if a.only and a.only != name:
            continue
        m = target(name, a.seed)
        save(m, os.path.join(a.out, "ckpt", name))
        lo, h, kv = evaluate(m, ids)
        print(name, sum(p.numel() for p in m.parameters()), "parameters, logits", float(lo.std()), float(lo.abs().max()), "margin",
              float((lo.topk(2).values[:, 0] - lo.topk(2).values[:, 1]).min()), "kv", None if kv is None else sorted(kv))
        with gzip.GzipFile(os.path.join(a.out, name + ".json.gz"), "wb", mtime=0) as f:
            f.write(json.dumps({"tokens": ids, "logits": trim(lo.tolist()), "hidden": trim(h.tolist())}).encode())
        d = assistant(name, a.seed)
        save(d, os.path.join(a.out, "ckpt", "assist-" + name))
        cases = []
        for n in PREFIXES:
            last, out, top = drafts(m, d, ids[:n], STEPS)
            if n < W - 1:                                   # no key is hidden: transformers' own forward must say the same
                l2, o2, t2 = drafts(m, d, ids[:n], STEPS, native=True)
                assert (last, out) == (l2, o2) and max(abs(x - y) for x, y in zip(top, t2)) < 1e-4, (name, n, out, o2)
            cases.append({"n": n, "last": last, "drafts": out, "top": [round(x, 5) for x in top]})
        json.dump({"target": name, "head": "ordered" if ASSIST[name][0] else "dense", "cases": cases},
                  open(os.path.join(a.out, f"assist-{name}.json"), "w"), indent=1)
        print("  drafts", cases[-1]["drafts"], cases[1]["drafts"])


if __name__ == "__main__":
    main()
