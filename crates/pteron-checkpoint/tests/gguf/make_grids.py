#!/usr/bin/env python3
"""Makes src/gguf/grids.bin, the lattice points that the codes of ggml's IQ1, IQ2 and IQ3 types stand for.

usage: make_grids.py DEST     (needs gguf 0.19.0 and numpy)

For each table, in the order below, an entry is a little-endian u16 with one point: 8 coordinates of 2 bits or 4 of 3 bits,
the first lowest, each the position of its value in the sorted list of the table's values.
"""
import sys

import gguf.quants as quants
import numpy as np

TABLES = [("IQ2_XXS", 2), ("IQ2_XS", 2), ("IQ2_S", 2), ("IQ3_XXS", 3), ("IQ3_S", 3), ("IQ1_S", 2)]

with open(sys.argv[1], "wb") as out:
    for name, bits in TABLES:
        table = getattr(quants, name)
        table.init_grid()
        grid = table.grid.reshape(table.grid_shape)
        values = np.unique(grid)
        print(name, grid.shape, [int(v) for v in values])
        codes = np.searchsorted(values, grid).astype(np.uint16)
        shifts = np.arange(grid.shape[1], dtype=np.uint16) * bits
        (codes << shifts).sum(axis=1).astype("<u2").tofile(out)
