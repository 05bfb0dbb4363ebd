"""PyTorch's gradients of the cases in crates/pteron-train/tests/gradients.rs.

    $ORACLE_ENV/bin/python tools/oracle/make_gradient_goldens.py crates/pteron-train/tests/goldens/gradients.json

The test itself writes its cases (operator, arguments, inputs); each is called as `torch.ops.aten`'s operator of the same name in f64,
`sum(out * sin(weights))` is differentiated, and the gradients of all real inputs are recorded in 17 digits, with a digest of the case.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

import torch

DTYPES = {"float64": torch.float64, "int64": torch.int64, "bool": torch.bool}


def argument(a, inputs):
    if isinstance(a, dict):
        return inputs[a["value"]] if "value" in a else DTYPES[a["dtype"]]
    return [argument(x, inputs) for x in a] if isinstance(a, list) else a


def operator(name):
    base, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def gradients(case):
    inputs = [torch.tensor(g["data"], dtype=DTYPES[g["dtype"]]).reshape(g["sizes"]) for g in case["given"]]
    reals = [i.requires_grad_() for i in inputs if i.dtype == torch.float64]
    op, positional, named = operator(case["op"]), [], {}
    for declared, a in zip(op._schema.arguments, case["args"]):
        value = argument(a, inputs)
        if declared.kwarg_only:
            named[declared.name] = value
        else:
            positional.append(value)
    out = op(*positional, **named)
    first, second = case["weights"]
    loss = 0
    for i, o in enumerate(out if isinstance(out, (tuple, list)) else [out]):
        flat = o.reshape(-1)
        loss = loss + (flat * torch.sin(torch.arange(flat.numel(), dtype=torch.float64) * (first + i) + second)).sum()
    # What an operator such as `floor` gives no way back to has a gradient of 0.
    found = torch.autograd.grad(loss, reals, allow_unused=True) if loss.requires_grad else [None] * len(reals)
    return [(torch.zeros_like(r) if g is None else g).reshape(-1).tolist() for r, g in zip(reals, found)]


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "cases.json")
        test = ["cargo", "test", "--quiet", "-p", "pteron-train", "--test", "gradients", "every_rule_of_a_pytorch_operator"]
        subprocess.run(test, env={**os.environ, "PTERON_GRADIENT_CASES": path}, check=True, stdout=sys.stderr)
        text = open(path).read()
    # The digest is of the case as the test printed it, which is what the test digests again.
    cases, decoder, at, texts = json.loads(text), json.JSONDecoder(), 1, []
    for _ in cases:
        _, end = decoder.raw_decode(text, at)
        texts.append(text[at:end])
        at = end + 1
    rows = [
        {"case": hashlib.sha256(t.encode()).hexdigest()[:16], "op": c["op"], "gradients": gradients(c)}
        for t, c in zip(texts, cases)
    ]
    with open(sys.argv[1], "w") as f:
        f.write(f'{{"torch": "{torch.__version__.partition("+")[0]}", "cases": [\n')
        f.write(",\n".join(json.dumps(r, separators=(",", ":")) for r in rows))
        f.write("\n]}\n")


main()
