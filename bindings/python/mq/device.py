"""Where the arrays of a model live."""

from __future__ import annotations

import re
from typing import Any

#: None or "cpu": host memory alone. "cuda", "cuda:1", an index, or what prints like that, as
#: `torch.device` does: also that CUDA device.
Device = Any


def cuda_index(device: Device) -> int | None:
    """The index of a CUDA device, or None for the CPU; raises ValueError for anything else."""
    text = f"cuda:{device}" if type(device) is int else str(device or "cpu")
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", text)
    if found is None:
        raise ValueError(f'device is {device!r}, expected "cpu", "cuda", "cuda:1" or an index')
    if text == "cpu":
        return None
    index = int(found.group(1) or 0)
    if index >= 2**31:
        raise ValueError(f"device is {device!r}, expected an index below {2**31}")
    return index
