"""Writes fixtures/executorch/quant: small programs with quantization operators, and what ExecuTorch's runtime computes.

Usage: python make_quant_programs.py FOLDER        (executorch 1.5.1, torch 2.14, torchao 0.18; x86-64)
Each `<name>.pte` has `<name>.json`: a list of {method, inputs, outputs} in calling order, as in fixtures/executorch/micro.
"""
import json
import sys

import torch
import torch.nn as nn
import torch.ao.quantization.fx._decomposed  # noqa: F401
from torch.export import Dim, export
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.runtime import Runtime
import executorch.kernels.quantized  # noqa: F401
import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401

OUT = sys.argv[1]
q = torch.ops.quantized_decomposed
torch.manual_seed(5)


def enc(t):
    return dict(dtype=str(t.dtype)[6:], shape=list(t.shape), data=t.contiguous().reshape(-1).tolist())


def save(name, program, calls):
    buffer = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch().buffer
    open(f"{OUT}/{name}.pte", "wb").write(buffer)
    loaded = Runtime.get().load_program(buffer)
    method = loaded.load_method("forward")
    rows = []
    for inputs in calls:
        outs = [o.clone() for o in method.execute(inputs)]
        rows.append(dict(method="forward", inputs=[enc(i) for i in inputs], outputs=[enc(o) for o in outs]))
    json.dump(rows, open(f"{OUT}/{name}.json", "w"))
    plan = sorted({o.name + "." + o.overload for o in
                   __import__("executorch.exir._serialize._program", fromlist=["x"]).deserialize_pte_binary(buffer).program.execution_plan[0].operators})
    print(name, len(buffer), plan)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(24, 40), nn.Linear(40, 8, bias=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


x = torch.randn(3, 24)
for name, dynamic in (("pt2e_static", False), ("pt2e_dynamic", True)):
    model = Mlp().eval()
    graph = export(model, (x,), strict=False).module()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic))
    graph = prepare_pt2e(graph, quantizer)
    for k in range(4):
        graph(torch.randn(3, 24) * (k + 1))
    graph = convert_pt2e(graph)
    save(name, export(graph, (x,), strict=False), [(x,), (torch.randn(3, 24) * 3,), (torch.zeros(3, 24),)])


class PerToken(nn.Module):
    def forward(self, x):
        s, z = q.choose_qparams_per_token_asymmetric(x, torch.int8)
        c = q.quantize_per_token(x, s, z, -128, 127, torch.int8)
        return c, q.dequantize_per_token(c, s, z, -128, 127, torch.int8, torch.float32), s, z


rows = Dim("rows", min=1, max=6)
save("per_token", export(PerToken(), (torch.randn(3, 16),), dynamic_shapes=({0: rows},), strict=False),
     [(torch.randn(3, 16),), (torch.cat([torch.zeros(1, 16), torch.randn(5, 16) * 50]),), (torch.full((1, 16), -3.0),)])


class PerTensor(nn.Module):
    def forward(self, x):
        out = []
        for dt, lo, hi in ((torch.int8, -128, 127), (torch.uint8, 0, 255), (torch.int16, -32768, 32767), (torch.uint16, 0, 65535),
                           (torch.int32, 0, 65535)):
            c = q.quantize_per_tensor(x, 0.0371, (lo + hi + 1) // 2, lo, hi, dt)
            out += [c, q.dequantize_per_tensor(c, 0.0371, (lo + hi + 1) // 2, lo, hi, dt)]
        s, z = q.choose_qparams.tensor(x, -128, 127, 1e-5, torch.int8)
        c = q.quantize_per_tensor.tensor(x, s, z, -128, 127, torch.int8)
        return *out, s, z, c, q.dequantize_per_tensor.tensor(c, s, z, -128, 127, torch.int8)


ties = torch.arange(-20, 20).float().view(5, 8) * 0.01855
save("per_tensor", export(PerTensor(), (ties,), strict=False),
     [(ties,), (torch.randn(5, 8) * 1e4,), (torch.zeros(5, 8),), (torch.randn(5, 8) * 1e-7,)])


class PerChannel(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("s", torch.rand(6, dtype=torch.float64) * 0.1 + 0.01)
        self.register_buffer("z", torch.randint(-5, 5, (6,)))

    def forward(self, x):
        a = q.quantize_per_channel(x, self.s, self.z, 1, -128, 127, torch.int8)
        b = q.quantize_per_channel(x, self.s, self.z, 1, -32000, 32000, torch.int16)
        return a, b, q.dequantize_per_channel(a, self.s, self.z, 1, -128, 127, torch.int8), \
            q.dequantize_per_channel(b, self.s, self.z, 1, -32000, 32000, torch.int16)


save("per_channel", export(PerChannel(), (torch.randn(2, 6, 5),), strict=False), [(torch.randn(2, 6, 5) * 4,)])


class Tables(nn.Module):
    def __init__(self):
        super().__init__()
        for bits, dt, hi in ((8, torch.int8, 128), (4, torch.uint8, 256), (2, torch.uint8, 256)):
            self.register_buffer(f"t{bits}", torch.randint(-128 if bits == 8 else 0, hi, (10, 16 * bits // 8)).to(dt))
        self.register_buffer("s", torch.rand(10))
        self.register_buffer("g", torch.rand(10, 4))

    def forward(self, i):
        return (q.embedding_byte(self.t8, self.s, None, -128, 127, i), q.embedding_byte.dtype(self.t8, self.g, None, -128, 127, i, dtype=torch.float16),
                q.embedding_4bit(self.t4, self.g, None, -8, 7, i), q.embedding_4bit.dtype(self.t4, self.s, None, -8, 7, i, dtype=torch.float32),
                q.embedding_2bit(self.t2, self.g, None, -2, 1, i))


save("embeddings", export(Tables(), (torch.tensor([1, 9]),), strict=False), [(torch.tensor([1, 9]),), (torch.tensor([0, 0]),)])
