#!/usr/bin/env python3
"""Makes fixtures/tiny_llama_hf from fixtures/executorch/tiny_llama.f32.{json,bin}.

usage: make_tiny_hf.py [DEST]

The same weights as ExecuTorch's golden programs were exported from, under Hugging Face's names: the query and key rows go
from interleaved rotary pairs to half-split order, so that the function is the same. Needs numpy.
"""
import json
import os
import sys

import numpy as np

from hf_folder import interleaved_to_half_split, write_json, write_safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "..", "fixtures", "executorch")
LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TOP = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def hf_name(name):
    """Hugging Face's name of a Meta tensor."""
    if name in TOP:
        return TOP[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def main():
    dest = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "fixtures", "tiny_llama_hf")
    os.makedirs(dest, exist_ok=True)
    with open(os.path.join(SOURCE, "params.json"), encoding="utf-8") as file:
        params = json.load(file)
    with open(os.path.join(SOURCE, "tiny_llama.f32.json"), encoding="utf-8") as file:
        table = json.load(file)
    data = np.fromfile(os.path.join(SOURCE, "tiny_llama.f32.bin"), dtype="<f4")
    heads = {"attention.wq": params["n_heads"], "attention.wk": params["n_kv_heads"]}
    tensors = {}
    for name, entry in table.items():
        start = entry["offset"] // 4
        array = data[start : start + entry["nbytes"] // 4].reshape(entry["shape"])
        rotary = next((n for part, n in heads.items() if part in name), 0)
        tensors[hf_name(name)] = interleaved_to_half_split(array, rotary) if rotary else array
    write_safetensors(os.path.join(dest, "model.safetensors"), tensors)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": params["vocab_size"],
        "hidden_size": params["dim"],
        "intermediate_size": params["hidden_dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params["n_kv_heads"],
        "head_dim": params["dim"] // params["n_heads"],
        "max_position_embeddings": 32,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params["rope_theta"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "torch_dtype": "float32",
    }
    write_json(dest, "config.json", config)


if __name__ == "__main__":
    main()
