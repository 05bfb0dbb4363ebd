"""Llama as Pteron captures it, operator by operator, for ExecuTorch's quantizers: two forms.

`Plain`: what `build` captures without a cache, with its rotary embedding and RMSNorm taken apart (as XNNPACK's quantizer
gets them). `Static`: what `build_static_calibration` captures, with RMSNorm whole (as QNN's quantizer wants it). Module
paths and operators are those of Pteron, so that a tensor can be named by path, operator and argument in both.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

aten = torch.ops.aten


class Config:
    def __init__(self, folder):
        c = json.loads((Path(folder) / "config.json").read_text())
        self.dim, self.hidden, self.layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.head = c.get("head_dim") or self.dim // self.heads
        self.vocab, self.eps, self.theta = c["vocab_size"], c["rms_norm_eps"], c["rope_theta"]
        self.tied = c["tie_word_embeddings"]


def rotary(c, positions):
    inv = 1.0 / (c.theta ** (torch.arange(0, c.head, 2).float() / c.head))
    angle = torch.arange(positions).float()[:, None] * inv[None]
    return angle.double().cos().float(), angle.double().sin().float()


class Norm(nn.Module):
    def __init__(self, c, whole):
        super().__init__()
        self.weight, self.eps, self.whole = nn.Parameter(torch.ones(c.dim)), c.eps, whole

    def forward(self, x):
        if self.whole:
            return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        square = aten.mul.Tensor(x, x)
        mean = aten.mean.dim(square, [-1], True)
        inverse = aten.rsqrt.default(aten.add.Tensor(mean, self.eps))
        return aten.mul.Tensor(aten.mul.Tensor(x, inverse), self.weight)


def turn(x, cos, sin):
    half = x.shape[-1] // 2
    first, second = aten.slice.Tensor(x, 3, 0, half), aten.slice.Tensor(x, 3, half, 2 * half)
    left = aten.sub.Tensor(aten.mul.Tensor(first, cos), aten.mul.Tensor(second, sin))
    right = aten.add.Tensor(aten.mul.Tensor(second, cos), aten.mul.Tensor(first, sin))
    return aten.cat.default([left, right], 3)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.dim, c.hidden, bias=False)
        self.up_proj = nn.Linear(c.dim, c.hidden, bias=False)
        self.down_proj = nn.Linear(c.hidden, c.dim, bias=False)

    def forward(self, x):
        gate = aten.silu.default(self.gate_proj(x))
        return self.down_proj(aten.mul.Tensor(gate, self.up_proj(x)))


class Projections(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.dim, c.heads * c.head, bias=False)
        self.k_proj = nn.Linear(c.dim, c.kv * c.head, bias=False)
        self.v_proj = nn.Linear(c.dim, c.kv * c.head, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head, c.dim, bias=False)


class PlainAttention(Projections):
    def forward(self, x, tables):
        c, n = self.c, x.shape[1]
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = q.view(1, n, c.heads, c.head), k.view(1, n, c.kv, c.head), v.view(1, n, c.kv, c.head)

        def rope(x):
            cos, sin = aten.unsqueeze.default(tables[0], 1), aten.unsqueeze.default(tables[1], 1)
            return turn(x, cos, sin)

        q, k = rope(q), rope(k)
        q, k, v = aten.transpose.int(q, 1, 2), aten.transpose.int(k, 1, 2), aten.transpose.int(v, 1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=c.heads != c.kv)
        return self.o_proj(aten.transpose.int(out, 1, 2).reshape(1, n, c.heads * c.head))


class Rope(nn.Module):
    def forward(self, x, cos, sin):
        return turn(x, cos, sin)


class Permute(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return aten.permute.default(x, self.order)


class Sdpa(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, q, keys, values, mask):
        c, n = self.c, q.shape[1]
        rows = c.heads // c.kv * n
        q = aten.mul.Scalar(aten.permute.default(q, [0, 2, 1, 3]), c.head**-0.5)
        q, keys = aten.reshape.default(q, [c.kv, rows, c.head]), aten.reshape.default(keys, [c.kv, c.head, n])
        scores = aten.reshape.default(torch.matmul(q, keys), [1, c.heads, n, n])
        weights = torch.softmax(aten.add.Tensor(scores, mask), -1)
        weights, values = aten.reshape.default(weights, [c.kv, rows, n]), aten.reshape.default(values, [c.kv, n, c.head])
        out = aten.reshape.default(torch.matmul(weights, values), [1, c.heads, n, c.head])
        return aten.reshape.default(aten.permute.default(out, [0, 2, 1, 3]), [1, n, c.heads * c.head])


class StaticAttention(Projections):
    def __init__(self, c):
        super().__init__(c)
        self.q_rope, self.k_rope = Rope(), Rope()
        self.k_cache, self.v_cache = Permute([0, 2, 3, 1]), Permute([0, 2, 1, 3])
        self.sdpa = Sdpa(c)

    def forward(self, x, tables, mask):
        c, n = self.c, x.shape[1]
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = q.view(1, n, c.heads, c.head), k.view(1, n, c.kv, c.head), v.view(1, n, c.kv, c.head)
        q, k = self.q_rope(q, *tables), self.k_rope(k, *tables)
        keys, values = self.k_cache(k), self.v_cache(v)
        return self.o_proj(self.sdpa(q, keys, values, mask)), keys, values


class Layer(nn.Module):
    def __init__(self, c, static):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(c, static), Norm(c, static)
        self.self_attn = StaticAttention(c) if static else PlainAttention(c)
        self.mlp = Mlp(c)

    def forward(self, x, *rest):
        attended = self.self_attn(self.input_layernorm(x), *rest)
        out, kv = (attended[0], attended[1:]) if isinstance(attended, tuple) else (attended, ())
        x = aten.add.Tensor(x, out)
        return aten.add.Tensor(x, self.mlp(self.post_attention_layernorm(x))), kv


class Table(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.weight = nn.Parameter(table, requires_grad=False)

    def forward(self, pos):
        rows = aten.index.Tensor(self.weight, [pos])
        return aten.view.default(rows, [1, pos.shape[1], 1, self.weight.shape[1]])


class Layers(nn.Module):
    """The modules under `model`; in the static form the tables are modules of their own."""

    def __init__(self, c, static, positions):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.dim)
        self.layers = nn.ModuleList(Layer(c, static) for _ in range(c.layers))
        self.norm = Norm(c, static)
        cos, sin = rotary(c, positions)
        if static:
            self.freqs_cos, self.freqs_sin = Table(cos), Table(sin)
        else:
            self.register_buffer("freqs_cos", cos)
            self.register_buffer("freqs_sin", sin)

    def forward(self, tokens, mask=None, pos=None):
        x = self.embed_tokens(tokens)
        if pos is None:
            rest = ((self.freqs_cos, self.freqs_sin),)
        else:
            rest = ((self.freqs_cos(pos), self.freqs_sin(pos)), mask)
        keys, values = [], []
        for layer in self.layers:
            x, kv = layer(x, *rest)
            if kv:
                keys.append(kv[0])
                values.append(kv[1])
        return self.norm(x), keys, values


class Llama(nn.Module):
    def __init__(self, folder, static, positions, context=None):
        super().__init__()
        c = Config(folder)
        self.model = Layers(c, static, context or positions)
        self.lm_head = nn.Linear(c.dim, c.vocab, bias=False)
        state = {k: v.float() for k, v in load_file(Path(folder) / "model.safetensors").items()}
        if c.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert all("freqs" in m or (c.tied and "lm_head" in m) for m in missing), missing
        self.eval()
        self.c, self.static = c, static

    def forward(self, tokens, mask=None, pos=None):
        x, keys, values = self.model(tokens, mask, pos)
        logits = self.lm_head(x)
        return (logits, *keys, *values) if self.static else logits

    def inputs(self, tokens):
        """The arguments of a window of tokens."""
        if not self.static:
            return (torch.tensor([tokens]),)
        n = len(tokens)
        mask = torch.full((n, n), -255.0).triu(1)[None, None]
        return (torch.tensor([tokens], dtype=torch.int32), mask, torch.arange(n, dtype=torch.int32)[None])
