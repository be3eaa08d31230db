"""The assistant's training loss, its clusters, and a plain drafting loop for measuring (used by evaluate.py)."""
import torch
import torch.nn.functional as F
import model


def target_rows(m, ids):
    """final hidden states [B,T,D], greedy tokens [B,T], and the shared keys and values, from the frozen target"""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        o = m.model(input_ids=ids, attention_mask=model.masks(ids.shape[1]), use_cache=False, return_shared_kv_states=True)
        best = m.lm_head(o.last_hidden_state).argmax(-1)
        return o.last_hidden_state, best, dict(o.shared_kv_states)


def draft_masks(pos, T):
    """additive [B,1,M,T]: a query at position p sees keys 0..p-1, in sliding layers those with p - key < window"""
    d = pos[:, None, :, None] - torch.arange(T)[None, None, None, :]
    zero = torch.zeros(d.shape)
    return {"full_attention": zero.masked_fill(d < 1, -1e9), "sliding_attention": zero.masked_fill((d < 1) | (d >= model.WINDOW), -1e9)}


def step(a, m, x, hp, pos, masks, kv):
    """one draft step: tokens x [B,M], hidden hp [B,M,D] -> y (after the final norm), next hp"""
    u = torch.cat([m.model.embed_tokens(x), hp], -1)
    y = a.model(inputs_embeds=a.pre_projection(u), attention_mask=masks, position_ids=pos, shared_kv_states=kv, use_cache=False,
                logits_to_keep=slice(None)).last_hidden_state       # not a number: keeps transformers from cutting rows
    return y, a.post_projection(y)


def loss(a, m, ids, mask, g, depth=4):
    B, T = ids.shape
    h, best, kv = target_rows(m, ids)
    use = mask.clone()
    use[:, 0] = False
    use[:, :-1] &= mask[:, 1:]
    use[:, -1] = False
    M = int(use.sum(1).max())
    order = torch.argsort(use.int(), dim=1, descending=True, stable=True)[:, :M]      # positions in use first
    live = torch.gather(use, 1, order)
    pos = order
    at = lambda t, i: torch.gather(t, 1, i.clamp(max=T - 1))
    hp = torch.gather(h, 1, (pos - 1).clamp(min=0)[..., None].expand(-1, -1, h.shape[-1]))
    mk, ok = draft_masks(pos, T), live.clone()
    path = torch.ones_like(live)
    total, st = 0.0, {"n": 1}
    clusters = a.cluster_of
    for j in range(depth):
        i = pos + j
        x, y_t = at(ids, i), at(best, i)
        ok = ok & (i + 1 < T) & at(mask, i + 1)
        with torch.autocast("cpu", torch.bfloat16):
            y, hp = step(a, m, x, hp, pos, mk, kv)
            z, lab, w = y[ok], y_t[ok], torch.where(path[ok], 1.0, 0.15)
            lo, co = a.lm_head(z).float(), a.masked_embedding.centroids(z).float()
        ce = F.cross_entropy(lo, lab, reduction="none") + 0.3 * F.cross_entropy(co, clusters[lab], reduction="none")
        total = total + (ce * w).sum() * (1.0, 1.0, 0.9, 0.7)[j]
        with torch.no_grad():                               # would be drafted right, given that all before were right
            p = path[ok]
            top = co.topk(model.TOP_CENTROIDS, -1).indices
            inside = (top == clusters[lab][:, None]).any(-1)
            hit = (lo.argmax(-1) == lab) & inside
            st[f"hit{j}"], st[f"of{j}"], st[f"in{j}"] = hit[p].sum().item(), int(p.sum()), inside[p].sum().item()
        path = path & (at(ids, i + 1) == y_t)
    return total / depth, int(live.sum()), st


def set_clusters(a, m, rounds=25):
    """equal clusters of the vocabulary by the target's embedding: each round offers tokens to their nearest centroids,
    those with most to lose by a second choice first; written as token_ordering, the centroids themselves are learned"""
    e = F.normalize(m.model.embed_tokens.weight.detach().float(), dim=-1)
    n, size = model.CENTROIDS, e.shape[0] // model.CENTROIDS
    g = torch.Generator().manual_seed(7)
    c = e[torch.randperm(e.shape[0], generator=g)[:n]].clone()
    for _ in range(rounds):
        s = e @ c.T
        top2 = s.topk(2, -1).values
        of, room = torch.full((e.shape[0],), -1), [size] * n
        for t in torch.argsort(top2[:, 0] - top2[:, 1], descending=True).tolist():
            for k in torch.argsort(s[t], descending=True).tolist():
                if room[k]:
                    of[t], room[k] = k, room[k] - 1
                    break
        c = F.normalize(torch.stack([e[of == k].mean(0) for k in range(n)]), dim=-1)
    with torch.no_grad():
        a.masked_embedding.token_ordering.copy_(torch.argsort(of, stable=True))
    return cluster_map(a)


def cluster_map(a):
    """cluster of each token id, from token_ordering"""
    o = a.masked_embedding.token_ordering
    size = o.numel() // a.config.num_centroids
    of = torch.empty_like(o)
    of[o] = torch.arange(o.numel()) // size
    a.cluster_of = of
    return of


@torch.no_grad()
def start_from(a, m):
    """The assistant's space is a projection of the target's to begin with: its head is the target's seen through the
    directions in which that varies most, the hidden state enters and leaves through them, a centroid is its cluster's mean."""
    e = m.model.embed_tokens.weight.float()
    _, u = torch.linalg.eigh(e.T @ e)
    u = u[:, -a.config.get_text_config().hidden_size:]                  # [D,h]
    D = e.shape[1]
    a.model.embed_tokens.weight.copy_(e @ u)
    a.pre_projection.weight[:, :D] = u.T
    a.pre_projection.weight[:, D:] = u.T
    a.post_projection.weight.copy_(u)
    a.masked_embedding.centroids.weight.copy_((e @ u)[a.masked_embedding.token_ordering].view(model.CENTROIDS, -1, u.shape[1]).mean(1))
