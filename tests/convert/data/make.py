#!/usr/bin/env python3
"""Makes the input of test_quantize (input.gguf, importance.dat) and, given a llama-quantize program, the expected
hashes (expected.txt): FNV-1a of the whole file that it writes for each type, without and with importance.

usage: make.py [LLAMA_QUANTIZE]     in the repository's root; needs numpy and the gguf package
"""
import os, struct, subprocess, sys
import numpy as np
import gguf

DIR = 'tests/convert/data'
L, N = 16, 256
TYPES = ('f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_K q3_K_S q3_K_M q3_K_L q4_K_S q4_K_M q5_K_S q5_K_M q6_K iq4_nl '
         'iq4_xs tq3_1s tq4_1s').split()


def fnv(data):
    h = np.uint64(14695981039346656037)
    with np.errstate(over='ignore'):
        for b in np.frombuffer(data, np.uint8):
            h = (h ^ np.uint64(b)) * np.uint64(1099511628211)
    return int(h)


def make_input():
    rng = np.random.default_rng(11)
    g = gguf.GGUFWriter(f'{DIR}/input.gguf', 'gemma4')
    g.add_name('quantisation test'); g.add_context_length(64); g.add_embedding_length(N); g.add_block_count(L)
    g.add_feed_forward_length(N); g.add_head_count(2); g.add_head_count_kv(1); g.add_layer_norm_rms_eps(1e-6)
    g.add_sliding_window(16); g.add_sliding_window_pattern([i % 4 != 3 for i in range(L)])
    for k in ('key', 'value'):
        getattr(g, f'add_{k}_length')(128); getattr(g, f'add_{k}_length_swa')(128)
    g.add_rope_dimension_count(128); g.add_rope_dimension_count_swa(128)
    g.add_shared_kv_layers(0); g.add_embedding_length_per_layer_input(0); g.add_file_type(32)
    g.add_tokenizer_model('gemma4')
    names = {}
    def put(name, rows, cols=N, spread=1.0):
        x = rng.standard_normal((rows, cols)) * np.exp(rng.standard_normal((rows, 1)))
        x *= np.where(rng.random((rows, cols)) < .01, 8, 1) * spread
        names[name] = cols
        x = np.ascontiguousarray(x, dtype=np.float32)
        bits = x.view(np.uint32)
        half = ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        g.add_tensor(name, half.view(np.uint8).reshape(rows, cols * 2), raw_dtype=gguf.GGMLQuantizationType.BF16)
    put('token_embd.weight', 24)
    g.add_tensor('output_norm.weight', np.ones(N, np.float32))
    put('per_layer_model_proj.weight', 2)
    for i in range(L):
        for n in ('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'):
            put(f'blk.{i}.{n}.weight', 4, spread=.02)
        g.add_tensor(f'blk.{i}.attn_norm.weight', np.ones(N, np.float32))
        put(f'blk.{i}.proj.weight', 2, 32)
    g.write_header_to_file(); g.write_kv_data_to_file(); g.write_tensors_to_file(); g.close()
    with open(f'{DIR}/importance.dat', 'wb') as f:
        keep = [n for n in names if n != 'token_embd.weight' and not n.startswith('blk.5.')]
        f.write(struct.pack('<i', len(keep)))
        for n in keep:
            b = n.encode()
            f.write(struct.pack('<i', len(b)) + b + struct.pack('<ii', 3, names[n]))
            f.write((rng.random(names[n]) * 7).astype(np.float32).tobytes())
        f.write(struct.pack('<ii', 12, 8) + b'text.txt')


def main():
    if not os.path.exists(f'{DIR}/input.gguf'):
        make_input()
    if len(sys.argv) < 2:
        return
    with open(f'{DIR}/expected.txt', 'w') as out:
        for t in TYPES:
            for imatrix in ([], ['--imatrix', f'{DIR}/importance.dat']):
                tmp = '/tmp/expected.gguf'
                subprocess.run([sys.argv[1], *imatrix, f'{DIR}/input.gguf', tmp, t], check=True, capture_output=True)
                with open(tmp, 'rb') as f:
                    out.write(f'{t} {len(imatrix) // 2} {fnv(f.read()):016x}\n')
                os.unlink(tmp)


main()
