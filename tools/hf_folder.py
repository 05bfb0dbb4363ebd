"""Writes Hugging Face model folders with numpy and the standard library only. Output bytes depend on the input alone."""
import hashlib
import json
import os

import numpy as np

# safetensors' names of the types used here.
DTYPES = {"float16": "F16", "float32": "F32"}


def check_sha256(path, expected):
    """Stops with one sentence unless the file at `path` has the SHA-256 `expected` (hex)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise SystemExit(f"{path}: SHA-256 is {digest.hexdigest()}, expected {expected}")


def write_json(folder, name, value, indent=1):
    """Writes `value` as UTF-8 JSON with keys in the given order, ending in a newline."""
    with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=indent)
        file.write("\n")


def write_safetensors(path, tensors):
    """Writes {name: array} in the order of the names, header padded to 8 bytes, through a temporary file and a rename."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        array = tensors[name]
        header[name] = {
            "dtype": DTYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in sorted(tensors):
            array = np.ascontiguousarray(tensors[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    os.replace(path + ".part", path)


def interleaved_to_half_split(rows, heads):
    """Reorders the output rows of a query or key projection.

    Within each head, a rotary pair stands in neighbouring rows (2i, 2i+1) in `rows`; Hugging Face's Llama wants it in
    rows (i, i + head_dim/2). `rows` is [heads * head_dim, hidden].
    """
    out, hidden = rows.shape
    pairs = rows.reshape(heads, out // heads // 2, 2, hidden)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(out, hidden)
