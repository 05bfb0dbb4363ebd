#!/usr/bin/env python3
"""Compares Pteron's exports of tiny random models of every supported family with transformers' logits.

usage: $ORACLE_ENV/bin/python tools/oracle/check_families.py PTERON WORK [--only NAME,...] [--dtypes fp32,fp16,bf16]

PTERON is the binary, WORK an empty folder. For each model, transformers writes a checkpoint with random weights and gives
the logits of all positions of one random text in f32. Each variant of `pteron export` (cache or not, custom operators or
not, dynamic or static shape) then computes them twice: in Pteron (`pteron exec`) and in ExecuTorch's own runtime. The text
is longer than every sliding window and than original_max_position_embeddings. Allowed differences, relative to the largest
logit: 1e-4 for fp32; for the narrow types that of transformers itself in that type, times three, and at least a per-type
floor. Exit status: 0 all within, 1 not.
"""
import argparse
import copy
import json
import pathlib
import subprocess
import sys

import torch
import transformers
from transformers import (
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

import run_pte
from executorch.runtime import Runtime, Verification

# A program of dynamic shape without a cache takes one token less than --max-seq-length, as export_llama's do.
LENGTH, VOCAB = 48, 96
BOUND = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2}
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BASE = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


def llama(**more):
    return LlamaForCausalLM, LlamaConfig, {**BASE, **more}


def rope(kind, theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


MODELS = {
    "llama": llama(),
    "llama_tied": llama(tie_word_embeddings=True),
    "llama_mha": llama(num_key_value_heads=4, rms_norm_eps=1e-6),
    "llama_mqa": llama(num_key_value_heads=1, **rope("default", 500000.0)),
    "llama_head_dim": llama(head_dim=32, **rope("default", 100000.0)),
    "llama_biases": llama(attention_bias=True, mlp_bias=True),
    "llama_linear": llama(**rope("linear", factor=4.0)),
    "llama_llama3": llama(**rope("llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_max_position_embeddings=16)),
    "llama_yarn": llama(**rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama_yarn_options": llama(**rope("yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=16.0,
                                       beta_slow=2.0, mscale=0.8, mscale_all_dim=0.5, truncate=False)),
    "llama_yarn_attention": llama(**rope("yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.3)),
    "mistral": (MistralForCausalLM, MistralConfig, {**BASE, "sliding_window": None}),
    "mistral_window": (MistralForCausalLM, MistralConfig, {**BASE, "sliding_window": 9}),
    "mistral_window_1": (MistralForCausalLM, MistralConfig, {**BASE, "sliding_window": 1}),
    "mistral_head_dim": (MistralForCausalLM, MistralConfig, {**BASE, "sliding_window": 20, "head_dim": 24}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, BASE),
    "qwen2_tied_yarn": (Qwen2ForCausalLM, Qwen2Config, {
        **BASE, "tie_word_embeddings": True,
        **rope("yarn", 1000000.0, factor=4.0, original_max_position_embeddings=16)}),
    "qwen2_window": (Qwen2ForCausalLM, Qwen2Config, {
        **BASE, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen2_window_unused": (Qwen2ForCausalLM, Qwen2Config, {
        **BASE, "use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**BASE, "head_dim": 32}),
    "qwen3_tied": (Qwen3ForCausalLM, Qwen3Config, {
        **BASE, "head_dim": 16, "tie_word_embeddings": True, **rope("default", 1000000.0)}),
    "qwen3_window": (Qwen3ForCausalLM, Qwen3Config, {
        **BASE, "head_dim": 16, "use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2}),
}

# Name: flags, and the lengths of the calls.
CHUNKS = [13, 1, 1, 20, 1, 12]
VARIANTS = {
    "nokv": ([], [LENGTH]),
    "nokv_static": (["--disable-dynamic-shape"], [LENGTH + 1]),
    "kv": (["-kv"], CHUNKS),
    "kv_static": (["-kv", "--disable-dynamic-shape"], [1] * LENGTH),
    "kv_sdpa": (["-kv", "--use-sdpa-with-kv-cache"], CHUNKS),
    "kv_sdpa_static": (["-kv", "--use-sdpa-with-kv-cache", "--disable-dynamic-shape"], [1] * LENGTH),
}


def make(name, folder):
    """Writes a checkpoint with random weights, in shards; returns the model and a text."""
    kind, config, fields = MODELS[name]
    torch.manual_seed(7)
    model = kind(config(**fields, attn_implementation="eager")).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # Norm weights and biases that are not ones and zeros, projections that give logits of order one.
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.copy_(torch.randn_like(weight) / weight.shape[-1] ** 0.5)
    model.save_pretrained(folder, max_shard_size="150KB")
    text = torch.randint(3, VOCAB, (1, LENGTH + 1))
    return model, text


def reference(model, text, dtype):
    with torch.no_grad():
        return copy.deepcopy(model).to(TORCH[dtype])(text).logits[0].float()


def calls_of(text, lengths, cached):
    calls, position = [], 0
    for length in lengths:
        tokens = {"dtype": "int64", "shape": [1, length], "data": text[0, position:position + length].tolist()}
        calls.append([tokens, {"dtype": "int64", "shape": [1], "data": [position]}] if cached else [tokens])
        position += length
    return calls


def in_executorch(path, calls):
    program = Runtime.get().load_program(path.read_bytes(), verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    # The next call overwrites the outputs: they are cloned.
    return torch.cat([method.execute([run_pte.decoded(value) for value in call])[0].clone().float()[0] for call in calls])


def in_pteron(pteron, path, calls, folder):
    (folder / "calls.json").write_text(json.dumps(calls))
    subprocess.run([pteron, "exec", path, "--calls", folder / "calls.json", "--out", folder / "out.json"],
                   check=True, capture_output=True, text=True)
    results = json.loads((folder / "out.json").read_text())
    return torch.cat([torch.tensor(outputs[0]["data"]).reshape(outputs[0]["shape"])[0] for outputs in results])


def difference(found, golden):
    golden = golden[:len(found)]
    if found.shape != golden.shape or not torch.isfinite(found).all():
        return float("inf")
    return ((found - golden).abs().max() / golden.abs().max()).item()


def check(args):
    failures = count = 0
    names = args.only.split(",") if args.only else list(MODELS)
    for name in names:
        folder = args.work / name
        model, text = make(name, folder)
        golden = reference(model, text, "fp32")
        for dtype in args.dtypes.split(","):
            own = difference(reference(model, text, dtype), golden) if dtype != "fp32" else 0.0
            bound = max(BOUND[dtype], 3 * own)
            for variant, (flags, lengths) in VARIANTS.items():
                path = folder / f"{variant}_{dtype}.pte"
                command = [args.pteron, "export", folder, "-o", path, "-d", dtype, "--generate-full-logits",
                           "--max-seq-length", str(LENGTH + 1), "--max-context-length", str(LENGTH + 1), *flags]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    print(f"FAIL {name} {variant} {dtype}: export failed: {done.stderr.strip()}", flush=True)
                    failures += 1
                    continue
                calls = calls_of(text, lengths, variant.startswith("kv"))
                found = {}
                for runtime, run in (("pteron", lambda: in_pteron(args.pteron, path, calls, folder)),
                                     ("executorch", lambda: in_executorch(path, calls))):
                    try:
                        found[runtime] = difference(run(), golden)
                    except subprocess.CalledProcessError as error:
                        print(f"  {runtime}: {error.stderr.strip()}", flush=True)
                        found[runtime] = float("inf")
                    except Exception as error:
                        print(f"  {runtime}: {error}", flush=True)
                        found[runtime] = float("inf")
                good = max(found.values()) <= bound
                failures += not good
                count += 1
                shown = " ".join(f"{runtime} {value:.2e}" for runtime, value in found.items())
                print(f"{'ok  ' if good else 'FAIL'} {name} {variant} {dtype}: {shown} (bound {bound:.1e})", flush=True)
                path.unlink()
    print(f"{count} exports, {failures} failures; transformers {transformers.__version__}")
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pteron", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--only", help="names of models, separated by commas")
    parser.add_argument("--dtypes", default="fp32,fp16,bf16")
    sys.exit(check(parser.parse_args()))
