#!/usr/bin/env python3
"""Makes blocks.gguf and blocks.f32: a tensor of every block type, and what ggml decodes it to.

usage: make_blocks.py DEST     (needs gguf 0.19.0, libgguf 0.2.2 and numpy 2.4.6)

Half of each tensor's rows are quantized by ggml (libgguf is its C code), the others are blocks of random bytes with finite
scales, so that every code occurs. The values are those of libgguf's `dequantize_row_*`; where the Python package has a
decoder of its own, both must agree bit for bit. blocks.f32 holds them as little-endian f32, tensor after tensor.
"""
import sys

import gguf
import libgguf
import numpy as np

ROWS, COLUMNS = 2, 512
# Where the f16 scales of a block lie.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
    "TQ1_0": [52], "TQ2_0": [64], "NVFP4": [], "Q1_0": [0],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [],
}


def decoded(blocks, kind):
    values = np.asarray(libgguf.dequantize_rows(blocks, int(kind), n_per_row=COLUMNS), np.float32)
    try:
        other = gguf.quants.dequantize(blocks.reshape(ROWS, -1), kind)
    except NotImplementedError:
        return values
    same = values.view(np.uint32) == other.view(np.uint32)
    if not same.all():
        raise SystemExit(f"{kind.name}: the two decoders differ in {(~same).sum()} values")
    return values


def main():
    dest = sys.argv[1]
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(f"{dest}/blocks.gguf", "llama")
    expected = []
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = COLUMNS // elements * size
        random = rng.integers(0, 256, (ROWS, COLUMNS // elements, size), dtype=np.uint8)
        for at in scales:
            value = (rng.standard_normal(random.shape[:2]) * 0.05).astype(np.float16)
            random[..., at:at + 2] = value[..., None].view(np.uint8)
        if name == "IQ1_M":
            # The scale's four nibbles are the high nibbles of the last four 16-bit words: keep its exponent small.
            random[..., 55] &= 0x3F
        if name == "NVFP4":
            random[..., :4] &= 0x77
        blocks = random.reshape(ROWS, row_bytes)
        if not libgguf.quantize_requires_imatrix(int(kind)):
            rows = (rng.standard_normal((ROWS // 2, COLUMNS)) * 0.05).astype(np.float32)
            rows[0, 7] = 1.5
            blocks[:ROWS // 2] = np.asarray(libgguf.quantize_rows(rows, int(kind))).reshape(ROWS // 2, row_bytes)
        values = decoded(blocks, kind)
        if name != "MXFP4" and not np.isfinite(values).all():
            raise SystemExit(f"{name}: not finite")
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        expected.append(values.reshape(-1).astype("<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.concatenate(expected).tofile(f"{dest}/blocks.f32")


main()
