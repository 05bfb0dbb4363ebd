"""Frequencies and table rows of transformers' rotary embeddings, for tests/rope.rs.

Run with a Python that has transformers (recorded with 5.23.0): python rope.py > rope.json
"""

import json
import struct
import sys

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 2, 31, 500, 8191]


def config(head_dim, theta, scaling, max_positions):
    """The fields of a config.json around these."""
    fields = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=4 * head_dim,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        vocab_size=64,
        max_position_embeddings=max_positions,
        rms_norm_eps=1e-5,
        rope_theta=theta,
        rope_scaling=scaling,
    )
    return fields


def llama3(factor):
    return dict(
        rope_type="llama3",
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )


CASES = {
    "llama2": config(128, 10000.0, None, 4096),
    "smollm2": config(64, 100000.0, None, 8192),
    "qwen2": config(64, 1000000.0, None, 32768),
    "linear": config(64, 10000.0, dict(type="linear", factor=2.5), 8192),
    "llama31": config(128, 500000.0, llama3(8.0), 131072),
    "llama32": config(64, 500000.0, llama3(32.0), 131072),
    "yarn_qwen": config(
        128, 1000000.0, dict(type="yarn", factor=4.0, original_max_position_embeddings=32768), 131072
    ),
    "yarn_all": config(
        64,
        10000.0,
        dict(
            rope_type="yarn",
            factor=16.0,
            original_max_position_embeddings=4096,
            beta_fast=20,
            beta_slow=2,
            mscale=0.7,
            mscale_all_dim=0.4,
            truncate=False,
        ),
        65536,
    ),
    "yarn_given": config(
        64,
        10000.0,
        dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, attention_factor=1.25),
        163840,
    ),
}


def bits(tensor):
    return [struct.unpack("<I", struct.pack("<f", x))[0] for x in tensor.flatten().tolist()]


def main():
    out = {"transformers": transformers.__version__, "torch": torch.__version__, "positions": POSITIONS, "cases": {}}
    for name, fields in CASES.items():
        given = {k: v for k, v in fields.items() if k not in ("architectures", "model_type")}
        given = json.loads(json.dumps(given))
        rope = LlamaRotaryEmbedding(LlamaConfig(**given))
        half = rope.inv_freq.numel()
        cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))
        out["cases"][name] = dict(
            config=fields,
            attention_factor=float(rope.attention_scaling),
            inv_freq_bits=bits(rope.inv_freq),
            cos_bits=bits(cos[0, :, :half]),
            sin_bits=bits(sin[0, :, :half]),
        )
    json.dump(out, sys.stdout, indent=None, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
