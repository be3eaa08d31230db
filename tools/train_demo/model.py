"""The demo pair's shapes: an E-series miniature (per-layer embeddings, KV sharing, sliding and full layers of different
head dim, double-wide FFN in the sharing layers, softcap) and its assistant with the ordered head. Both are transformers'
own classes."""
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4ForCausalLM, Gemma4TextConfig

VOCAB, WINDOW, CONTEXT = 3072, 128, 4096
TYPES = ["sliding_attention" if c == "S" else "full_attention" for c in "SSFSFSSF"]
SHARED = 3                       # layers 5..7 read the keys and values of 3 (sliding) and 4 (full)
CENTROIDS, TOP_CENTROIDS = 96, 8

# transformers 5.23 refuses its own assistants: kv_sharing_modes raises when every layer shares. All of them read.
_modes = Gemma4TextConfig.kv_sharing_modes.fget
Gemma4TextConfig.kv_sharing_modes = property(
    lambda c: ["reuse"] * c.num_hidden_layers if c.num_kv_shared_layers == c.num_hidden_layers else _modes(c))


def common(**kw):
    return dict(vocab_size=VOCAB, head_dim=64, global_head_dim=128, num_key_value_heads=1, num_global_key_value_heads=None,
                sliding_window=WINDOW, max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=2, tie_word_embeddings=True,
                initializer_range=0.02, rms_norm_eps=1e-6, **kw)


def target_config(ff=512):
    return Gemma4TextConfig(**common(hidden_size=256, intermediate_size=ff, num_hidden_layers=len(TYPES), num_attention_heads=4,
                                     layer_types=list(TYPES), num_kv_shared_layers=SHARED, use_double_wide_mlp=True,
                                     hidden_size_per_layer_input=32, vocab_size_per_layer_input=VOCAB,
                                     final_logit_softcapping=30.0, eos_token_id=[1, 106, 50]))


def assistant_config():
    text = Gemma4TextConfig(**common(hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2,
                                     layer_types=["sliding_attention"] * 3 + ["full_attention"], num_kv_shared_layers=4,
                                     hidden_size_per_layer_input=0, vocab_size_per_layer_input=0, eos_token_id=1))
    return Gemma4AssistantConfig(text_config=text, backbone_hidden_size=256, use_ordered_embeddings=True, num_centroids=CENTROIDS,
                                 centroid_intermediate_top_k=TOP_CENTROIDS)


def init(model, seed, branch=0.5):
    """Unit-gain matrices; small branch-ending norms; attention scores of about one at the start (the scale is 1.0, so
    the norms of q and k carry it); layer scales other than 1, so that the demo exercises them."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                std = 0.02 if "embed_tokens" in name and "per_layer" not in name else p.shape[-1] ** -0.5
                if "embed_tokens_per_layer" in name:
                    std = 0.5 * 32 ** -0.5
                p.copy_(torch.randn(p.shape, generator=g) * std)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                p.fill_(1.5 * p.shape[0] ** -0.25)
            elif "post_attention" in name or "post_feedforward" in name or "post_per_layer" in name:
                p.fill_(branch)
        for name, b in model.named_buffers():
            if name.endswith("layer_scalar"):
                i = int(name.split("layers.")[1].split(".")[0])
                b.fill_([1.0, 0.9, 0.95, 0.85, 0.9, 0.95, 0.9, 0.8][i])
    return model


def new_target(seed=1, ff=512):
    m = init(Gemma4ForCausalLM(target_config(ff)), seed)
    return m


def new_assistant(seed=2):
    return init(Gemma4AssistantForCausalLM(assistant_config()), seed)


def attention(module, q, k, v, mask, scaling=None, **_):
    """one key/value head for all query heads: two batched products, faster here than the fused kernels"""
    B, H, T, d = q.shape
    s = (q.reshape(B, H * T, d) @ k[:, 0].transpose(1, 2)).view(B, H, T, -1) + mask
    p = torch.softmax(s, -1, dtype=torch.float32).to(v.dtype)
    return (p.view(B, H * T, -1) @ v[:, 0]).view(B, H, T, d).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register("one_kv_head", attention)


def masks(T, dtype=torch.float32):
    """additive: causal, and causal within the window"""
    i = torch.arange(T)
    d = i[:, None] - i[None, :]
    zero = torch.zeros(1, 1, T, T, dtype=dtype)
    return {"full_attention": zero.masked_fill(d < 0, -1e9), "sliding_attention": zero.masked_fill((d < 0) | (d >= WINDOW), -1e9)}


if __name__ == "__main__":
    t, a = new_target(), new_assistant()
    for n, m in (("target", t), ("assistant", a)):
        print(n, sum(p.numel() for p in m.parameters()) / 1e6, "M")
        for k, p in m.state_dict().items():
            if "layers" not in k or "layers.0." in k:
                print("  ", k, tuple(p.shape))
