"""Small modules through ExecuTorch's own Qualcomm flow: weights, inputs, and how far its lowering is from its own golden.

Writes `samples.safetensors` (weights of the modules, five inputs each, the last of which is measured) and `samples.json` (for each
module and scheme the largest difference between the emulator's output and the quantized graph's, with the versions) to the folder
given. Needs ExecuTorch 1.5.1 and Qualcomm's QNN 2.49:

    LD_LIBRARY_PATH=$QNN_SDK_ROOT/lib/x86_64-linux-clang $ORACLE_ENV/bin/python tools/oracle/make_qnn_samples.py \
        crates/pteron-qnn/tests/lowering/samples
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset, QnnExecuTorchBackendType
from executorch.backends.qualcomm.utils.utils import (
    generate_htp_compiler_spec,
    generate_qnn_executorch_compiler_spec,
    to_edge_transform_and_lower_to_qnn,
)
from executorch.exir import ExecutorchBackendConfig
from executorch.runtime import Runtime
from safetensors.torch import save_file
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

WIDTH, HEADS, KV_HEADS, TOKENS = 64, 4, 2, 8
HEAD = WIDTH // HEADS
SCHEMES = ["8a8w", "16a8w", "16a4w", "16a16w", "8a4w"]


class Lin(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(WIDTH, 32, bias=False)

    def forward(self, x):
        return self.l(x)


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.up = torch.nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = torch.nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class Attn(torch.nn.Module):
    """A decoder layer with rotary halves as inputs; query heads that share a key head are rows of one product."""

    def __init__(self):
        super().__init__()
        linear = lambda rows: torch.nn.Linear(WIDTH, rows, bias=False)
        self.q, self.k, self.v, self.o = linear(WIDTH), linear(KV_HEADS * HEAD), linear(KV_HEADS * HEAD), linear(WIDTH)
        self.norm, self.norm2 = torch.nn.RMSNorm(WIDTH, eps=1e-5), torch.nn.RMSNorm(WIDTH, eps=1e-5)
        self.mlp = Mlp()

    def forward(self, x, mask, cos, sin):
        def rope(t):
            a, b = t[..., : HEAD // 2], t[..., HEAD // 2 :]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        h = self.norm(x)
        q = rope(self.q(h).view(1, TOKENS, HEADS, HEAD)).permute(0, 2, 1, 3) * HEAD**-0.5
        k = rope(self.k(h).view(1, TOKENS, KV_HEADS, HEAD)).permute(0, 2, 3, 1)
        v = self.v(h).view(1, TOKENS, KV_HEADS, HEAD).permute(0, 2, 1, 3)
        rows = HEADS // KV_HEADS * TOKENS
        scores = q.reshape(KV_HEADS, rows, HEAD) @ k.reshape(KV_HEADS, HEAD, TOKENS)
        weights = torch.softmax(scores.view(1, HEADS, TOKENS, TOKENS) + mask, -1)
        out = weights.view(KV_HEADS, rows, TOKENS) @ v.reshape(KV_HEADS, TOKENS, HEAD)
        out = out.view(1, HEADS, TOKENS, HEAD).permute(0, 2, 1, 3).reshape(1, TOKENS, WIDTH)
        x = x + self.o(out)
        return x + self.mlp(self.norm2(x))


def inputs(name, seed):
    x = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    if name != "attn":
        return (x,)
    angle = torch.arange(TOKENS).float()[:, None] / 10000 ** (torch.arange(HEAD // 2) / (HEAD // 2))[None]
    rows = lambda t: t.reshape(1, TOKENS, 1, HEAD // 2)
    mask = torch.full((1, 1, TOKENS, TOKENS), -100.0).triu(1)
    return x, mask, rows(torch.cos(angle)), rows(torch.sin(angle))


def measure(module, name, scheme, folder):
    chip = QcomChipset.SM8650
    quantizer = QnnQuantizer(backend=QnnExecuTorchBackendType.kHtpBackend, soc_model=chip)
    dtype = getattr(QuantDtype, f"use_{scheme}")
    per_channel = {"is_linear_per_channel": True, "is_conv_per_channel": True}
    quantizer.set_default_quant_config(dtype, act_observer=MinMaxObserver, **per_channel)
    example = inputs(name, 4)
    prepared = prepare_pt2e(torch.export.export(module, example, strict=False).module(), quantizer)
    for seed in range(5):
        prepared(*inputs(name, seed))
    converted = convert_pt2e(prepared)
    golden = converted(*example)
    spec = generate_qnn_executorch_compiler_spec(
        soc_model=chip, backend_options=generate_htp_compiler_spec(use_fp16=False)
    )
    program = to_edge_transform_and_lower_to_qnn(converted, example, spec).to_executorch(ExecutorchBackendConfig())
    path = folder / "sample.pte"
    path.write_bytes(program.buffer)
    method = Runtime.get().load_program(path).load_method("forward")
    found = method.execute(list(example))[0]
    return float((found - golden).abs().max()), float((golden - module(*example)).abs().max()), float(golden.abs().max())


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    tensors, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in [("lin", Lin), ("mlp", Mlp), ("attn", Attn)]:
            torch.manual_seed(0)
            module = kind().eval()
            tensors |= {f"{name}.{k}": v.detach().contiguous() for k, v in module.state_dict().items()}
            for seed in range(5):
                tensors |= {f"{name}.input{seed}.{i}": t.contiguous() for i, t in enumerate(inputs(name, seed))}
            for scheme in SCHEMES:
                lowering, quantization, largest = measure(module, name, scheme, Path(folder))
                rows[f"{name} {scheme}"] = {
                    "lowering_error": lowering,
                    "quantization_error": quantization,
                    "largest": largest,
                }
                print(name, scheme, rows[f"{name} {scheme}"], flush=True)
    versions = {p: version(p) for p in ["executorch", "torch", "torchao"]} | {"qnn": "2.49"}
    save_file(tensors, out / "samples.safetensors")
    (out / "samples.json").write_text(json.dumps({"versions": versions, "samples": rows}, indent=1) + "\n")


main(Path(sys.argv[1]))
