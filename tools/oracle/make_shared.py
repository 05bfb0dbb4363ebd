#!/usr/bin/env python3
"""Makes fixtures/executorch/micro/m_shared_rw.{pte,json}: two methods that both read and write one mutable buffer.

usage: $ORACLE_ENV/bin/python tools/oracle/make_shared.py [FOLDER]

The exporter keeps a buffer mutable only in methods that write it. In m_shared, `peek` only reads: there the buffer became
a constant. Here `replace` and `accumulate` both write, so that each must see what the other left behind.
"""
import json
import os
import sys

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.runtime import Runtime, Verification


class Replace(torch.nn.Module):
    """state := x; returns the state before plus x."""

    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(2, 3))

    def forward(self, x):
        before = self.state + x
        self.state.copy_(x)
        return before


class Accumulate(torch.nn.Module):
    """state := state + x; returns the new state doubled."""

    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(2, 3))

    def forward(self, x):
        self.state.add_(x)
        return self.state * 2


def tensor(value):
    return {"dtype": str(value.dtype), "shape": list(value.shape), "data": value.flatten().tolist()}


def main(folder):
    x = torch.arange(6.0).reshape(2, 3)
    methods = {
        "replace": torch.export.export(Replace(), (x,), strict=False),
        "accumulate": torch.export.export(Accumulate(), (x,), strict=False),
    }
    config = ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True), emit_mutable_buffer_names=True
    )
    data = to_edge(methods).to_executorch(config).buffer
    program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
    calls = [("replace", x), ("accumulate", x + 1), ("replace", x * 0.5), ("accumulate", -x), ("accumulate", x * 0 + 1)]
    entries = []
    for name, value in calls:
        outputs = [tensor(out.clone()) for out in program.load_method(name).execute([value])]
        entries.append({"method": name, "inputs": [tensor(value)], "outputs": outputs})
    # What eager torch says of one shared buffer: the file proves nothing if the runtime did not share it.
    state, model = torch.zeros(2, 3), {"replace": Replace(), "accumulate": Accumulate()}
    for entry, (name, value) in zip(entries, calls):
        model[name].state.copy_(state)
        expected = model[name](value)
        state = model[name].state.clone()
        if entry["outputs"] != [tensor(expected)]:
            raise SystemExit(f"{name}: the runtime gave {entry['outputs']}, one shared buffer {tensor(expected)}")
    with open(os.path.join(folder, "m_shared_rw.pte"), "wb") as file:
        file.write(data)
    with open(os.path.join(folder, "m_shared_rw.json"), "w", encoding="utf-8", newline="\n") as file:
        json.dump(entries, file)
        file.write("\n")
    print(f"m_shared_rw.pte: {len(data)} bytes, {len(entries)} calls")


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) == 2 else os.path.join(here, "../../fixtures/executorch/micro"))
