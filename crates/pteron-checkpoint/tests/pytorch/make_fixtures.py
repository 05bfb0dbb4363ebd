"""Makes the PyTorch checkpoints in this folder, and expected.json: what PyTorch itself reads from them.

Made with torch 2.14.0 (CPU) under Python 3.11:

    python make_fixtures.py

Storage ids in the archives differ from run to run; tensors do not.
"""

import argparse
import collections
import json
import os
import pickle
import sys
import zipfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
EXPECTED = {}


def at(name):
    return os.path.join(HERE, name)


def describe(t):
    t = t.detach().contiguous()
    raw = t.view(-1).view(torch.uint8) if t.numel() and t.dtype != torch.bool else t.reshape(-1).to(torch.uint8)
    return {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "hex": bytes(raw.tolist()).hex()}


def save(name, value, tensors=None, **options):
    torch.save(value, at(name), **options)
    if tensors is not None:
        EXPECTED[name] = {k: describe(v) for k, v in tensors.items()}


def some(*shape):
    n = 1
    for d in shape:
        n *= d
    return (torch.arange(n, dtype=torch.float32) * 0.37 - 2).reshape(shape)


# Element types.
kinds = "float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 uint16".split()
types = {k: (torch.arange(6).reshape(2, 3) * 21 - (0 if k.startswith("u") else 40)).to(getattr(torch, k)) for k in kinds}
types["bool"] = torch.tensor([True, False, True])
save("dtypes.pth", types, types)

# Views, shared storages, parameters.
w = some(4, 6)
cube = some(2, 3, 4)
layer = torch.nn.Parameter(some(3, 2))
with_state = torch.nn.Parameter(some(2, 2))
with_state.note = "an attribute"
views = collections.OrderedDict(
    whole=w,
    transposed=w.t(),
    columns=w[:, 1::2],
    rows=w[1:3],
    last_row=w[-1],
    element=w[2, 3],
    permuted=cube.permute(2, 0, 1),
    middle=cube[:, 1:2, :],
    empty=torch.empty(0, 5),
    scalar=torch.tensor(3.5),
    single=torch.as_strided(w, (1, 3), (1000, 1), 2),
    parameter=layer,
    parameter_with_state=with_state,
    buffer=torch.nn.Buffer(some(5)),
    needs_gradient=some(3).requires_grad_(),
)
save("views.pth", views, views)

# What a module gives: an OrderedDict with an attribute, tied weights, by every protocol.
class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.LayerNorm(4, bias=False)
        self.output = torch.nn.Linear(4, 5, bias=False)
        self.embedding.weight = torch.nn.Parameter(some(5, 4).to(torch.bfloat16))
        self.output.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(7))


state = Tied().state_dict()
for protocol in (2, 3, 4, 5):
    save(f"module-{protocol}.pth", state, state, pickle_protocol=protocol)

# Training checkpoints.
model = torch.nn.Linear(3, 2)
with torch.no_grad():
    model.weight.copy_(some(2, 3))
    model.bias.copy_(some(2))
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
inner = {k: v.clone() for k, v in model.state_dict().items()}
training = {
    "model": inner,
    "optimizer": optimizer.state_dict(),
    "step": 12,
    "loss": 0.25,
    "seen": 1 << 70,
    "shape": model.weight.shape,
    "device": torch.device("cpu"),
    "dtype": torch.bfloat16,
    "tags": {"a"},
    "text": "naïve",
    "nothing": None,
}
save("training.pth", training, inner)
prefixed = {f"module.{k}": v for k, v in inner.items()}
save("prefixed.pth", {"state_dict": prefixed}, inner)

# Refused.
save("ema.pth", {"ema": inner, "step": 1})
save("list.pth", [some(2)])
save("single.pth", some(2))
save("two.pth", {"model": inner, "state_dict": prefixed})
save("nested.pth", {**inner, "heads": {"a": some(2)}})
save("complex.pth", {"freqs_cis": torch.zeros(2, dtype=torch.complex64)})
save("float8.pth", {"w": some(4).to(torch.float8_e4m3fn)})
save("negated.pth", {"w": torch.zeros(2, dtype=torch.complex64).conj().imag})
save("expanded.pth", {"w": some(1, 3).expand(1000, 3)})
save("namespace.pth", {"model": inner, "args": argparse.Namespace(lr=1e-3)})
save("legacy.pth", inner, _use_new_zipfile_serialization=False)
with open(at("bare.pkl"), "wb") as f:
    pickle.dump({"w": [1.0, 2.0]}, f)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


save("evil.pth", {"w": some(2), "x": Evil()})
with zipfile.ZipFile(at("module-2.pth")) as old, zipfile.ZipFile(at("compressed.pth"), "w", zipfile.ZIP_DEFLATED) as new:
    for name in old.namelist():
        new.writestr(zipfile.ZipInfo(name), old.read(name), zipfile.ZIP_DEFLATED)
# Stored again by another tool: no alignment, no descriptors.
with zipfile.ZipFile(at("module-2.pth")) as old, zipfile.ZipFile(at("stored-again.pth"), "w") as new:
    for name in old.namelist():
        new.writestr(zipfile.ZipInfo(name), old.read(name))
EXPECTED["stored-again.pth"] = EXPECTED["module-2.pth"]


class Program(torch.nn.Module):
    def forward(self, x):
        return x + 1


torch.jit.script(Program()).save(at("torchscript.pt"))

EXPECTED["made with"] = f"torch {torch.__version__}, Python {sys.version_info.major}.{sys.version_info.minor}"
with open(at("expected.json"), "w") as f:
    json.dump(EXPECTED, f, indent=1)
    f.write("\n")
