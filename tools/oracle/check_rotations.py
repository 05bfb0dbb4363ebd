"""Exports tiny random models with rotations and runs them in ExecuTorch's own runtime against transformers.

usage: $ORACLE_ENV/bin/python tools/oracle/check_rotations.py PTERON

PTERON is the binary. Rotations are Hadamard matrices of Pteron's and random orthogonal ones in a file of torch.save's; each with and
without `llama::fast_hadamard_transform` in front of the feed-forward's last layer, of 2^k and of 28*2^k elements. With float weights the
logits must be transformers' within a hundred-thousandth of the largest, on GQA, tied and untied, with biases, and with norms of query
and key heads.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
BAR = 1e-5
IDS = [1, 7, 200, 31, 31, 5, 99, 250, 0, 64]
LAYERS, DIM, HEAD = 2, 96, 24
COMMON = dict(
    hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=HEAD, vocab_size=300,
    max_position_embeddings=64, initializer_range=0.2,
)
MODELS = {
    "Llama, tied, 2^8": (transformers.LlamaConfig, dict(intermediate_size=256, tie_word_embeddings=True)),
    "Llama, biases, 28*2^3": (transformers.LlamaConfig, dict(intermediate_size=224, attention_bias=True, mlp_bias=True)),
    "Qwen3, 2^7": (transformers.Qwen3Config, dict(intermediate_size=128)),
}


def orthogonal(n):
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


def random_model(config, changes):
    model = transformers.AutoModelForCausalLM.from_config(config(**COMMON, **changes)).eval().float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
    return model


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    torch.manual_seed(0)
    worst = 0.0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        rotations = {"R1": orthogonal(DIM)}
        rotations |= {f"model.layers.{i}.self_attn.R2": orthogonal(HEAD) for i in range(LAYERS)}
        torch.save(rotations, work / "R.bin")
        calls = [[{"dtype": "int64", "shape": [1, len(IDS)], "data": IDS}, {"dtype": "int64", "shape": [1], "data": [0]}]]
        (work / "calls.json").write_text(json.dumps(calls))
        for name, (config, changes) in MODELS.items():
            model = random_model(config, changes)
            model.save_pretrained(work / "model")
            with torch.no_grad():
                expected = model(torch.tensor([IDS])).logits.numpy()
            for kind in (["--rotate", "hadamard,3"], ["--optimized_rotation_path", work / "R.bin"]):
                for online in ([], ["--use_spin_quant", "native"]):
                    pte = work / "m.pte"
                    form = ["-kv", "--use-sdpa-with-kv-cache", "--generate-full-logits", "--bare"]
                    export = [sys.argv[1], "export", work / "model", "-o", pte, *form, *kind, *online]
                    subprocess.run(export, check=True, capture_output=True)
                    runner = [sys.executable, ROOT / "tools/oracle/run_pte.py", pte, work / "calls.json", work / "out.json"]
                    subprocess.run(runner, check=True, capture_output=True)
                    out = json.loads((work / "out.json").read_text())[0]
                    out = out[0] if isinstance(out, list) else out
                    found = np.array(out["data"], dtype=np.float64).reshape(expected.shape)
                    off = np.abs(found - expected).max() / np.abs(expected).max()
                    worst = max(worst, off)
                    print(f"{name}, {kind[0]}{', --use_spin_quant' if online else ''}: {off:.1e}")
    if worst > BAR:
        raise SystemExit(f"{worst:.1e} of the largest logit, at most {BAR:.0e}")


main()
