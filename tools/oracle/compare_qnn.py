"""Runs QNN programs in Pteron and compares each output, bit for bit, with what ExecuTorch's runtime gave for it.

    compare_qnn.py PTERON FOLDER

FOLDER holds NAME.pte with NAME.npz (inputs in0, in1, ...) and NAME.emu_out.npy (the first output of ExecuTorch's runtime on
the same library, as its Qualcomm samples write it). QNN_SDK_ROOT names the library for Pteron. Ends with a count of programs
that differ, which is the exit status.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy as np


def call(pteron, program, inputs):
    """The first output of `forward`, as f32."""
    with tempfile.TemporaryDirectory() as folder:
        calls, out = os.path.join(folder, "calls.json"), os.path.join(folder, "out.json")
        tensors = [{"dtype": str(x.dtype), "shape": list(x.shape), "data": x.reshape(-1).tolist()} for x in inputs]
        with open(calls, "w") as file:
            json.dump([tensors], file)
        subprocess.run([pteron, "exec", program, "--calls", calls, "--out", out], check=True)
        with open(out) as file:
            first = json.load(file)[0][0]
        return np.array(first["data"], np.float32).reshape(first["shape"])


def main():
    pteron, folder = sys.argv[1:3]
    different = compared = 0
    for program in sorted(glob.glob(os.path.join(folder, "*.pte"))):
        name = program[: -len(".pte")]
        if not os.path.exists(name + ".emu_out.npy"):
            continue
        data = np.load(name + ".npz")
        inputs = [data[f"in{i}"] for i in range(len([k for k in data.files if k.startswith("in")]))]
        theirs = np.load(name + ".emu_out.npy").astype(np.float32)
        ours = call(pteron, program, inputs)
        same = ours.shape == theirs.shape and np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))
        worst = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("nan")
        print(f"{os.path.basename(program):40} {'same' if same else 'DIFFERENT'} {worst:g}")
        compared, different = compared + 1, different + (not same)
    print(f"{compared} compared, {different} different")
    return min(different, 100) if compared else 1


if __name__ == "__main__":
    sys.exit(main())
