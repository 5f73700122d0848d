"""mq against PyTorch, in one process, in turn: the same operation on the same buffers.

Both sides write to memory that is allocated and touched before; PyTorch uses in-place
operations, `out=` and `copy_`, so that neither pays for allocations. Prints and returns rows like
those of kernels.rs, with `ratio` = time of PyTorch / time of mq. Run by `make bench`.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import ml_dtypes
import mq
import numpy as np
import torch

THREADS = 2
COLUMNS = 4096
ELEMENTS = int(os.environ.get("MQ_BENCH_ELEMENTS", 64 << 20)) // COLUMNS * COLUMNS
ROUNDS = int(os.environ.get("MQ_BENCH_ROUNDS", 7))
NUMPY_DTYPES = {
    torch.float32: np.float32,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
}


def int_by_steps(x, out, scale, low, high):
    """The formula of the format, step by step, without a temporary tensor."""
    torch.mul(x, scale, out=out)
    out.round_().clamp_(low, high).div_(scale)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name, bytes_moved, ours, theirs):
    ours(), theirs()
    ratios, speeds = [], []
    for _ in range(ROUNDS):
        slow, fast = seconds(theirs), seconds(ours)
        ratios.append(slow / fast)
        speeds.append(bytes_moved / fast / 1e9)
    row = {
        "name": name,
        "ratio": statistics.median(ratios),
        "against": f"torch {torch.__version__}",
        "gb_per_s": statistics.median(speeds),
    }
    print(f"{name:44} {row['ratio']:6.2f} x torch {row['gb_per_s']:7.2f} GB/s", flush=True)
    return row


def rows_for(dtype):
    x = torch.randn(ELEMENTS // COLUMNS, COLUMNS).to(dtype)
    out = torch.zeros_like(x)
    codes = torch.zeros(x.shape, dtype=torch.float8_e4m3fn)
    per_row = x.abs().amax(dim=1, keepdim=True).float()
    per_block = x.reshape(-1, 128).abs().amax(dim=1, keepdim=True).float()
    amax = float(x.abs().max())
    # numpy sees the same memory; 16-bit types go across as integers.
    raw = x if dtype == torch.float32 else x.view(torch.int16)
    raw_out = out if dtype == torch.float32 else out.view(torch.int16)
    ours, target = raw.numpy().view(NUMPY_DTYPES[dtype]), raw_out.numpy().view(NUMPY_DTYPES[dtype])
    moved = 2 * x.numel() * x.element_size()
    label = str(dtype).removeprefix("torch.")

    def run(attributes, values):
        return lambda: mq.fake_quant(ours, attributes, values, out=target)

    blocks, block_out = x.reshape(-1, 128), out.reshape(-1, 128)
    scale = 448.0 / amax

    def fp8():
        torch.mul(x, scale, out=out)
        codes.copy_(out)
        out.copy_(codes)
        out.div_(scale)

    yield compare(
        f"int8 per tensor, {label}",
        moved,
        run({"num_bits": 8}, amax),
        lambda: int_by_steps(x, out, 127 / amax, -128, 127),
    )
    row_scale = (127 / per_row).to(dtype)
    yield compare(
        f"int8 axis 0, {label}",
        moved,
        run({"num_bits": 8, "axis": 0}, per_row.numpy()),
        lambda: int_by_steps(x, out, row_scale, -128, 127),
    )
    block_scale = (7 / per_block).to(dtype)
    yield compare(
        f"int4 block 128, {label}",
        moved,
        run({"num_bits": 4, "block_sizes": {-1: 128}}, per_block.numpy()),
        lambda: int_by_steps(blocks, block_out, block_scale, -8, 7),
    )
    yield compare(f"fp8 per tensor, {label}", moved, run({"num_bits": (4, 3)}, amax), fp8)


def main(path):
    torch.set_num_threads(THREADS)
    report = [row for dtype in NUMPY_DTYPES for row in rows_for(dtype)]
    Path(path).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
