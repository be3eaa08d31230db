#!/usr/bin/env python3
"""Trains the demo target, then its assistant on the frozen target.

usage: train.py target|assistant --out DIR --minutes M [--seed 1] [--workers 2] [--resume]

Two processes with one thread each share the parameters and the work of a step: both take micro-batches from one counter
until the step has none left, add up gradients of their own, then each updates half of the parameters. That keeps both
cores busy even when other programs use them, where threads inside one matrix product would wait for each other.
A micro-batch holds texts of about one length and about 900 tokens, so that activations stay in the cache.

Matrices of the layers learn by Muon (momentum, orthogonalised), everything else by Adam. The learning rate follows the
clock: constant, then linear to zero over the last 40 % of the minutes given. A checkpoint is written every few minutes,
--resume continues from it.

The assistant sees what it will see in use: at each position the target's final hidden state, the keys and values before
the position, the next token; then it chains on its own hidden state and its own guesses at the same position, four times.
"""
import argparse, json, math, os, random, shutil, sys, time
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
import assistant, gen, model, tok

MICRO = 900


# ---- data ---------------------------------------------------------------------------------------------------------
def encode_stream(tk, seed, mix):
    for doc in gen.stream(seed, mix):
        ids, mask = [], []
        for text, train in doc:
            e = tk.encode(text, add_special_tokens=False).ids
            ids += e
            mask += [train] * len(e)
        yield ids[:700], mask[:700]


def batches(tk, seed, mix):
    """(ids [B,T], trained [B,T]) of about MICRO tokens: 256 texts are sorted by length and cut into batches"""
    r, it = random.Random(seed), encode_stream(tk, seed, mix)
    while True:
        docs = sorted((next(it) for _ in range(256)), key=lambda d: len(d[0]))
        out, cur = [], []
        for d in docs:
            if cur and len(d[0]) * (len(cur) + 1) > MICRO:
                out.append(cur)
                cur = []
            cur.append(d)
        out.append(cur)
        r.shuffle(out)
        for b in out:
            T = max(len(x) for x, _ in b)
            ids, m = torch.zeros(len(b), T, dtype=torch.long), torch.zeros(len(b), T, dtype=torch.bool)
            for i, (x, w) in enumerate(b):
                ids[i, :len(x)] = torch.tensor(x)
                m[i, :len(x)] = torch.tensor(w)
            yield ids, m


# ---- optimiser ----------------------------------------------------------------------------------------------------
def orthogonalise(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[0] > x.shape[1]
    if flip:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if flip else x).float()


class Opt:
    """the parameters of one worker's share"""

    def __init__(self, params, lr_m, lr_a):
        self.p = params                                   # [(name, tensor, grads of all workers)]
        self.lr_m, self.lr_a = lr_m, lr_a
        self.s = {n: [torch.zeros_like(p), torch.zeros_like(p)] for n, p, _ in params}

    def is_matrix(self, n, p):
        return p.dim() == 2 and "embed_tokens" not in n and "centroids" not in n

    @torch.no_grad()
    def step(self, k, scale, t):
        for n, p, grads in self.p:
            g = grads[0].clone()
            for o in grads[1:]:
                g += o
            m, v = self.s[n]
            if self.is_matrix(n, p):
                m.mul_(0.95).add_(g)
                u = orthogonalise(g.add(m, alpha=0.95))
                p.mul_(1 - self.lr_m * scale * 0.05)
                p.add_(u, alpha=-self.lr_m * scale * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)
            else:
                lr = self.lr_a * scale * (0.3 if p.dim() == 1 else 1.0)
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.98).addcmul_(g, g, value=0.02)
                p.add_((m / (1 - 0.9 ** t)) / ((v / (1 - 0.98 ** t)).sqrt() + 1e-10), alpha=-lr)
            for o in grads:
                o.zero_()


# ---- losses -------------------------------------------------------------------------------------------------------
def target_loss(m, ids, mask, g):
    """sum of cross entropies over the trained tokens, and over one prompt token in ten"""
    with torch.autocast("cpu", torch.bfloat16):
        h = m.model(input_ids=ids[:, :-1], attention_mask=model.masks(ids.shape[1] - 1, None), use_cache=False).last_hidden_state
        pick = mask[:, 1:] | ((torch.rand(ids[:, 1:].shape, generator=g) < 0.1) & (ids[:, 1:] != 0))
        y, tr = ids[:, 1:][pick], mask[:, 1:][pick]
        lo = m.lm_head(h[pick])
    lo = 30.0 * torch.tanh(lo.float() / 30.0)
    ce = F.cross_entropy(lo, y, reduction="none")
    ok = lo.detach().argmax(-1) == y
    return ce.sum(), y.numel(), {"ce": ce.detach()[tr].sum().item(), "ok": ok[tr].sum().item(), "n": int(tr.sum())}


def assistant_loss(a, m, ids, mask, g, depth=4):
    return assistant.loss(a, m, ids, mask, g, depth)


def rates(t):
    if "of0" in t:
        return {f"{k}{j}": round(t[f"{k}{j}"] / max(1, t[f"of{j}"]), 4) for k in ("hit", "in") for j in range(4)}
    return {"ce": round(t["ce"] / t["n"], 4), "ok": round(t["ok"] / t["n"], 4)}


# ---- workers ------------------------------------------------------------------------------------------------------
def worker(rank, a, net, frozen, grads, counter, barrier, stats, stop, optpath):
    torch.set_num_threads(1)
    torch.manual_seed(a.seed * 100 + rank)
    os.nice(a.nice)
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    params = dict(net.named_parameters())
    for n in names:
        params[n].grad = grads[rank][n]
    order = sorted(names, key=lambda n: -params[n].numel())
    share = [order[i] for i in range(len(order)) if (i % (2 * a.workers)) in (rank, 2 * a.workers - 1 - rank)]
    opt = Opt([(n, params[n], [grads[w][n] for w in range(a.workers)]) for n in share], a.lr_matrix, a.lr_adam)
    start, done = 0, 0.0
    if a.resume:
        z = torch.load(f"{optpath}.{rank}")
        for n in share:
            if n in z["s"]:
                for x, y in zip(opt.s[n], z["s"][n]):
                    x.copy_(y)
        start, done = z["step"], z["seconds"]
    from tokenizers import Tokenizer
    tk = Tokenizer.from_file(os.path.join(a.out, "tokenizer.json"))
    data = batches(tk, a.seed * 1000 + rank + 17 * start, a.mix)
    g = torch.Generator().manual_seed(a.seed * 10 + rank + start)
    if a.compile:
        for l in net.model.layers:
            l.compile(dynamic=True)
        if rank:
            time.sleep(0 if a.resume else 1)
    t0, k, saved, tokens = time.time() - done, start, time.time(), 0
    log = open(os.path.join(a.out, "log.jsonl"), "a") if rank == 0 else None
    while True:
        st = {}
        while True:
            with counter.get_lock():
                i = counter.value
                counter.value += 1
            if i >= a.micro:
                break
            ids, mask = next(data)
            while frozen is not None and not (mask[:, 1:-1] & mask[:, 2:]).any():
                ids, mask = next(data)                      # texts without a turn of the model have nothing to draft
            loss, n, s = target_loss(net, ids, mask, g) if frozen is None else assistant_loss(net, frozen, ids, mask, g)
            (loss / a.norm).backward()
            s["tok"] = ids.numel()
            for key, v in s.items():
                st[key] = st.get(key, 0) + v
        stats[rank] = json.dumps(st)
        barrier.wait()
        sec = time.time() - t0
        frac = sec / (a.minutes * 60)
        if rank == 0:
            counter.value = 0
            stop.value = frac
        barrier.wait()
        frac = stop.value
        scale = min(1.0, (k - start + 1) / (5 if start else a.warmup)) * max(0.0, min(1.0, (1.0 - frac) / 0.4))
        opt.step(k, scale, k + 1)
        k += 1
        barrier.wait()
        if rank == 0:
            tot = {}
            for w in range(a.workers):
                for key, v in json.loads(stats[w]).items():
                    tot[key] = tot.get(key, 0) + v
            tokens += tot["tok"]
            if k % 10 == 0 or k < 5:
                e = {"step": k, "sec": round(sec), "tokens": tokens, "lr": round(scale, 3)}
                e.update(rates(tot))
                print(json.dumps(e), flush=True)
                log.write(json.dumps(e) + "\n")
                log.flush()
        end = frac >= 1.0 or (a.max_steps and k >= a.max_steps)
        want = torch.tensor(float(end or (rank == 0 and time.time() - saved > a.save_every)))
        if rank == 0:
            stop.value = want.item()
        barrier.wait()
        if stop.value:
            if rank == 0:
                save(net, a.out)
                saved = time.time()
            torch.save({"s": opt.s, "step": k, "seconds": sec}, f"{optpath}.{rank}")
        barrier.wait()
        if end:
            return


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("what", choices=("target", "assistant"))
    ap.add_argument("--out", required=True)
    ap.add_argument("--target", default="")
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--workers", type=int, default=2)
    ap.add_argument("--micro", type=int, default=8, help="micro-batches per step")
    ap.add_argument("--lr-matrix", type=float, default=0.02)
    ap.add_argument("--lr-adam", type=float, default=0.003)
    ap.add_argument("--nice", type=int, default=15)
    ap.add_argument("--save-every", type=float, default=240)
    ap.add_argument("--warmup", type=int, default=30, help="steps")
    ap.add_argument("--max-steps", type=int, default=0)
    ap.add_argument("--mix", type=int, default=4, help="mixture of kinds, see gen.py")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--compile", action="store_true")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    tj = os.path.join(a.out, "tokenizer.json")
    frozen = None
    if a.what == "target":
        if not os.path.exists(tj):
            it = gen.stream(a.seed, 1)
            v, n = tok.write(["".join(t for t, _ in next(it)) for _ in range(8000)], model.VOCAB, tj)
            print("vocabulary", len(v), "learned", n)
        net = model.new_target(a.seed)
    else:
        from transformers import Gemma4ForCausalLM
        with open(tj, "w", encoding="utf-8") as f:
            f.write(open(os.path.join(a.target, "tokenizer.json"), encoding="utf-8").read())
        frozen = Gemma4ForCausalLM.from_pretrained(a.target, dtype=torch.float32).eval().requires_grad_(False)
        net = model.new_assistant(a.seed + 1)
    write_configs(a, net)
    if a.resume:
        net = type(net).from_pretrained(a.out, dtype=torch.float32)
    elif frozen is not None:
        assistant.set_clusters(net, frozen)
        assistant.start_from(net, frozen)
    if frozen is not None:
        assistant.cluster_map(net)
    net.tie_weights()
    net.train()
    for n in (net, frozen):
        if n is not None:
            n.config.get_text_config()._attn_implementation = "one_kv_head"
            n.config._attn_implementation = "one_kv_head"
    net.share_memory()
    if frozen is not None:
        frozen.share_memory()
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    grads = [{n: torch.zeros_like(p).share_memory_() for n, p in net.named_parameters() if n in names} for _ in range(a.workers)]
    a.norm = a.micro * MICRO * 0.5
    ctx = mp.get_context("fork")
    counter, stop, barrier = ctx.Value("i", 0), ctx.Value("d", 0.0), ctx.Barrier(a.workers)
    stats = ctx.Manager().list([""] * a.workers)
    ps = [ctx.Process(target=worker, args=(r, a, net, frozen, grads, counter, barrier, stats, stop, os.path.join(a.out, "opt.pt")))
          for r in range(a.workers)]
    for p in ps:
        p.start()
    for p in ps:
        p.join()


def save(net, out):
    """a whole checkpoint or the former one: written beside and moved"""
    tmp = os.path.join(out, "tmp")
    net.save_pretrained(tmp)
    for f in sorted(os.listdir(tmp)):
        os.replace(os.path.join(tmp, f), os.path.join(out, f))
    os.rmdir(tmp)


def write_configs(a, net):
    json.dump(tok.tokenizer_config(), open(os.path.join(a.out, "tokenizer_config.json"), "w"), indent=2)
    net.generation_config.bos_token_id, net.generation_config.pad_token_id = 2, 0
    net.generation_config.eos_token_id = [1, 106, 50]
    if a.what == "target":
        shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat_template.jinja"), a.out)
    if a.what == "assistant":
        net.generation_config.is_assistant = True
        net.generation_config.num_assistant_tokens = 3
        net.generation_config.num_assistant_tokens_schedule = "constant"


if __name__ == "__main__":
    for k, v in (("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", "8000000000"), ("MALLOC_TOP_PAD_", "200000000"), ("OMP_NUM_THREADS", "1")):
        if os.environ.get(k) != v:                          # freed activations stay with the process: page faults cost half the time
            os.environ[k] = v
            restart = True
    if os.environ.get("TD_CHILD") != "1":
        os.environ["TD_CHILD"] = "1"
        os.execv(sys.executable, [sys.executable] + sys.argv)
    main()
