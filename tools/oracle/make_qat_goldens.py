"""Losses of fixed 20-step runs of quantization-aware training on a tiny Llama, by PyTorch's autograd and AdamW.

    $ORACLE_ENV/bin/python tools/oracle/make_qat_goldens.py crates/pteron-train/tests/goldens/qat.json
    $ORACLE_ENV/bin/python tools/oracle/make_qat_goldens.py --against-itself

Weights and tokens come from integer arithmetic, so that the test makes the same ones. `float` trains without fake quantization.
`8da4w` is torchao's: weights symmetric in groups of 8 columns, -8..7, with scales of the first step, activations asymmetric per token, -128..127, scales from
`choose_qparams_affine`, gradients straight through (`_fake_quantize_affine`). `fused` has `FusedMovingAvgObsFakeQuantize` on the
input of each linear layer (uint8, affine, per tensor) and per-channel `FakeQuantize` of its weight (int8, -127..127, live scales).

`--against-itself` writes nothing: it says how far the same run is from itself in PyTorch where attention is computed by a product,
a softmax and a product instead of `scaled_dot_product_attention`. With frozen scales rounding errors stay rounding errors. With
`8da4w`'s live ones they do not: the largest weight of a group lies at 7.5 scales whatever it is, and its last bit decides for 7 or 8.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F
import torchao
from torch.ao.quantization import FakeQuantize, FusedMovingAvgObsFakeQuantize, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import PerChannelMinMaxObserver
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine

VOCAB, DIM, LAYERS, HEADS, KV, HIDDEN, LENGTH, EPS, THETA = 64, 32, 2, 4, 2, 64, 16, 1e-5, 10000.0
STEPS, RATE, GROUP = 20, 1e-4, 8


def numbers(key, n, scale, offset):
    mask = 0xFFFFFFFF
    out = []
    for i in range(n):
        x = ((i + 1) * (key + 7) * 2654435761) & mask
        x ^= x >> 15
        x = (x * 2246822519) & mask
        x ^= x >> 13
        out.append(((x >> 8) / 2**24 - 0.5) * scale + offset)
    return torch.tensor(out, dtype=torch.float64).float()


def shapes():
    head = DIM // HEADS
    out = [("model.embed_tokens.weight", (VOCAB, DIM))]
    for i in range(LAYERS):
        p = f"model.layers.{i}"
        out += [
            (f"{p}.input_layernorm.weight", (DIM,)),
            (f"{p}.self_attn.q_proj.weight", (DIM, DIM)),
            (f"{p}.self_attn.k_proj.weight", (KV * head, DIM)),
            (f"{p}.self_attn.v_proj.weight", (KV * head, DIM)),
            (f"{p}.self_attn.o_proj.weight", (DIM, DIM)),
            (f"{p}.post_attention_layernorm.weight", (DIM,)),
            (f"{p}.mlp.gate_proj.weight", (HIDDEN, DIM)),
            (f"{p}.mlp.up_proj.weight", (HIDDEN, DIM)),
            (f"{p}.mlp.down_proj.weight", (DIM, HIDDEN)),
        ]
    return out + [("model.norm.weight", (DIM,)), ("lm_head.weight", (VOCAB, DIM))]


def weights():
    out = {}
    for key, (name, shape) in enumerate(shapes()):
        n = math.prod(shape)
        values = numbers(key, n, 0.15, 0.0) if len(shape) == 2 else numbers(key, n, 0.2, 1.0)
        out[name] = values.reshape(shape).requires_grad_(True)
    return out


class StraightThrough(torch.autograd.Function):
    """Forward through codes, gradients where the code before clamping lies in the range."""

    @staticmethod
    def forward(ctx, x, scale, zero, low, high):
        code = torch.round(x * (1.0 / scale)) + zero
        ctx.save_for_backward((code >= low) & (code <= high))
        return (code.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx, g):
        (mask,) = ctx.saved_tensors
        return g * mask, None, None, None, None


def group_scales(w):
    scale, _ = choose_qparams_affine(w.detach(), MappingType.SYMMETRIC, (1, GROUP), torch.int8, -8, 7)
    return scale.reshape(w.shape[0], -1, 1)


def grouped(w, scale):
    rows, columns = w.shape
    return StraightThrough.apply(w.reshape(rows, -1, GROUP), scale, 0.0, -8, 7).reshape(rows, columns)


def token_wise(x):
    block = (1,) * (x.dim() - 1) + (x.shape[-1],)
    scale, zero = choose_qparams_affine(x.detach(), MappingType.ASYMMETRIC, block, torch.int8, -128, 127)
    shape = x.shape[:-1] + (1,)
    return StraightThrough.apply(x, scale.reshape(shape), zero.reshape(shape).float(), -128, 127)


class Run:
    def __init__(self, mode, live=False, fused_attention=True):
        self.mode, self.w, self.fakes = mode, weights(), {}
        self.live, self.fused_attention = live, fused_attention

    def linear(self, x, name):
        w = self.w[name]
        if self.mode == "8da4w":
            scale = group_scales(w) if self.live else self.fakes.setdefault(name, group_scales(w))
            x, w = token_wise(x), grouped(w, scale)
        elif self.mode == "fused":
            if name not in self.fakes:
                activation = FusedMovingAvgObsFakeQuantize(
                    observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8,
                    qscheme=torch.per_tensor_affine)
                weight = FakeQuantize(
                    observer=PerChannelMinMaxObserver, quant_min=-127, quant_max=127, dtype=torch.qint8,
                    qscheme=torch.per_channel_symmetric, ch_axis=0)
                self.fakes[name] = (activation, weight)
            activation, weight = self.fakes[name]
            # A live scale: the range is that of the weight as it is now.
            weight.activation_post_process.reset_min_max_vals()
            x, w = activation(x), weight(w)
        return F.linear(x, w)

    def norm(self, x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * self.w[name]

    def rope(self, x, cos, sin):
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, q, k, v):
        if self.fused_attention:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        k, v = (t.repeat_interleave(HEADS // KV, dim=1) for t in (k, v))
        masked = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + masked, -1) @ v

    def logits(self, tokens):
        head = DIM // HEADS
        freq = 1.0 / THETA ** (torch.arange(0, head, 2).double() / head)
        angles = torch.arange(LENGTH).double()[:, None] * freq.float().double()
        cos, sin = angles.cos().float()[None, :, None], angles.sin().float()[None, :, None]
        x = self.w["model.embed_tokens.weight"][tokens]
        for i in range(LAYERS):
            p = f"model.layers.{i}"
            h = self.norm(x, f"{p}.input_layernorm.weight")
            q = self.linear(h, f"{p}.self_attn.q_proj.weight").view(1, LENGTH, HEADS, head)
            k = self.linear(h, f"{p}.self_attn.k_proj.weight").view(1, LENGTH, KV, head)
            v = self.linear(h, f"{p}.self_attn.v_proj.weight").view(1, LENGTH, KV, head).transpose(1, 2)
            q, k = self.rope(q, cos, sin).transpose(1, 2), self.rope(k, cos, sin).transpose(1, 2)
            a = self.attention(q, k, v)
            a = a.transpose(1, 2).reshape(1, LENGTH, DIM)
            x = x + self.linear(a, f"{p}.self_attn.o_proj.weight")
            h = self.norm(x, f"{p}.post_attention_layernorm.weight")
            gate = F.silu(self.linear(h, f"{p}.mlp.gate_proj.weight"))
            h = gate * self.linear(h, f"{p}.mlp.up_proj.weight")
            x = x + self.linear(h, f"{p}.mlp.down_proj.weight")
        return self.linear(self.norm(x, "model.norm.weight"), "lm_head.weight")

    def losses(self):
        adam = torch.optim.AdamW(self.w.values(), lr=RATE, weight_decay=0.0)
        out = []
        for step in range(STEPS):
            ids = torch.tensor([(step * 31 + i * i * 7 + i * 3) % VOCAB for i in range(LENGTH + 1)])
            adam.zero_grad()
            loss = F.cross_entropy(self.logits(ids[None, :-1])[0], ids[1:])
            loss.backward()
            if step == 0:
                self.gradient = {n: p.grad.double().norm().item() for n, p in self.w.items()}
            adam.step()
            out.append(loss.item())
        return out


def against_itself():
    for mode, live in [("float", False), ("8da4w", False), ("8da4w", True), ("fused", True)]:
        one, other = (Run(mode, live, fused).losses() for fused in (True, False))
        apart = [abs(x - y) for x, y in zip(one, other)]
        first = next((i + 1 for i, d in enumerate(apart) if d > 1e-4), None)
        print(f"{mode}{' live' if live else ''}: largest difference {max(apart):.1e}, above 1e-4 from step {first}")


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--against-itself"]:
        return against_itself()
    found = {"torch": torch.__version__, "torchao": torchao.__version__}
    for mode in ["float", "8da4w", "fused"]:
        run = Run(mode)
        losses = run.losses()
        found[mode] = {"losses": losses, "gradient_norms_of_step_1": run.gradient}
    with open(sys.argv[1], "w") as f:
        json.dump(found, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
