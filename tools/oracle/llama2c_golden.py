"""Greedy tokens of a llama2.c model (version 0), computed with numpy in float64.

    python tools/oracle/llama2c_golden.py fixtures/llama2c/stories260K.bin fixtures/llama2c/tok512.bin 160 \
        > fixtures/llama2c/golden.json

The recorded file was made with numpy 2 under Python 3.11; nothing else is needed.
"""

import json
import struct
import sys

import numpy as np


class Model:
    def __init__(self, path):
        data = open(path, "rb").read()
        self.dim, hidden, self.layers, self.heads, self.kv_heads, vocab, self.context = struct.unpack("<7i", data[:28])
        shared, vocab = vocab > 0, abs(vocab)
        words = np.frombuffer(data, dtype="<f4", offset=28).astype(np.float64)
        dim, n, head = self.dim, self.layers, self.dim // self.heads
        kv = self.kv_heads * head
        sizes = [
            ("embedding", (vocab, dim)), ("attention_norm", (n, dim)), ("q", (n, dim, dim)), ("k", (n, kv, dim)),
            ("v", (n, kv, dim)), ("o", (n, dim, dim)), ("ffn_norm", (n, dim)), ("gate", (n, hidden, dim)),
            ("down", (n, dim, hidden)), ("up", (n, hidden, dim)), ("norm", (dim,)),
            ("cos", (self.context, head // 2)), ("sin", (self.context, head // 2)),
        ]
        if not shared:
            sizes.append(("output", (vocab, dim)))
        at = 0
        for name, shape in sizes:
            count = int(np.prod(shape))
            setattr(self, name, words[at : at + count].reshape(shape))
            at += count
        assert at == len(words), (at, len(words))
        if shared:
            self.output = self.embedding
        self.keys = [[] for _ in range(n)]
        self.values = [[] for _ in range(n)]

    def step(self, token, position):
        head = self.dim // self.heads
        angle = position * 10000.0 ** -(np.arange(0, head, 2) / head)

        def normed(x, weight):
            return x / np.sqrt(np.mean(x * x) + 1e-5) * weight

        def turned(x):
            z = x.reshape(-1, head // 2, 2)
            z = (z[..., 0] + 1j * z[..., 1]) * np.exp(1j * angle)
            return np.stack([z.real, z.imag], axis=-1).reshape(-1, head)

        x = self.embedding[token]
        for layer in range(self.layers):
            y = normed(x, self.attention_norm[layer])
            q = turned(self.q[layer] @ y)
            self.keys[layer].append(turned(self.k[layer] @ y))
            self.values[layer].append((self.v[layer] @ y).reshape(-1, head))
            group = self.heads // self.kv_heads
            outputs = []
            for h in range(self.heads):
                k = np.array([step[h // group] for step in self.keys[layer]])
                v = np.array([step[h // group] for step in self.values[layer]])
                scores = k @ q[h] / np.sqrt(head)
                weights = np.exp(scores - scores.max())
                outputs.append(weights / weights.sum() @ v)
            x = x + self.o[layer] @ np.concatenate(outputs)
            y = normed(x, self.ffn_norm[layer])
            gate = self.gate[layer] @ y
            x = x + self.down[layer] @ (gate / (1 + np.exp(-gate)) * (self.up[layer] @ y))
        return self.output @ normed(x, self.norm)


def pieces(path, vocab):
    data, at, out = open(path, "rb").read(), 4, []
    for _ in range(vocab):
        (length,) = struct.unpack("<i", data[at + 4 : at + 8])
        out.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    assert at == len(data)
    return out


def main():
    model = Model(sys.argv[1])
    table = pieces(sys.argv[2], len(model.embedding))
    token, ids, margins = 1, [], []
    for position in range(int(sys.argv[3])):
        logits = model.step(token, position)
        token = int(logits.argmax())
        best = np.sort(logits)[-2:]
        ids.append(token)
        margins.append(float(best[1] - best[0]))
        if token == 1:
            break
    text = b"".join(table[i] for i in ids).decode()
    json.dump({"bos": 1, "greedy_ids": ids, "smallest_margin": min(margins), "text": text}, sys.stdout, indent=1)
    print()


main()
