"""The parts of packed weights: out of the library, and into it."""

from __future__ import annotations

import ctypes as ct
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import NotFoundError, StateError
from . import Callback, call
from . import interface as abi

_NAMES = ("weight", "scale", "double_scale", "scale_zeros")
#: DLPack's code -> numpy's dtype; FP8 is given as its bits.
_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.int8),
    1: np.dtype(np.uint8),
    2: np.dtype(np.float32),
    10: np.dtype(np.uint8),
}


def read(layer: int) -> dict[str, np.ndarray]:
    """Copies of the parts of a layer's packed weight, by name."""
    found = {}
    for name in _NAMES:
        tensor = abi.Tensor()
        try:
            call(abi.mq_layer_packed, layer, name, tensor)
        except NotFoundError:  # not every format has every part
            continue
        dtype = _DTYPES[tensor.dtype.code]
        shape = tuple(tensor.shape[: tensor.ndim])
        data = ct.string_at(tensor.data, math.prod(shape) * dtype.itemsize)
        found[name] = np.frombuffer(data, dtype).reshape(shape).copy()
    return found


def packed_shape(layer: int) -> tuple[int, ...] | None:
    """The extents of the codes of a layer's packed weight, or None when it is not packed."""
    tensor = abi.Tensor()
    try:
        call(abi.mq_layer_packed, layer, "weight", tensor)
    except StateError:
        return None
    return tuple(tensor.shape[: tensor.ndim])


class Memory:
    """Memory of ours for the parts of one weight; `callback` is for mq_compress()."""

    def __init__(self) -> None:
        buffers: dict[str, np.ndarray] = {}

        def allocate(_layer: bytes, part: bytes, size: int, memory: Any) -> None:
            buffers[part.decode()] = buffer = np.empty(size, np.uint8)
            memory[0] = buffer.ctypes.data

        self._buffers = buffers
        self.callback = Callback(abi.BufferFn, (abi.ALLOCATE, allocate))

    def fill(self, layer: int, parts: Mapping[str, np.ndarray]) -> None:
        """Puts given parts in the place of what was packed; raises ValueError unless they fit."""
        for name, packed in read(layer).items():
            part = np.asarray(parts.get(name, ()))
            part = np.ascontiguousarray(part, part.dtype.newbyteorder("="))
            # Numbers of one byte are bits, whatever they are called: ml_dtypes has names for FP8.
            is_bits = packed.itemsize == 1 and part.itemsize == 1
            if part.nbytes != packed.nbytes or not (is_bits or part.dtype == packed.dtype):
                raise ValueError(
                    f"the part {name} has {part.nbytes} bytes of {part.dtype}, but the shape and "
                    f"the attributes ask for {packed.nbytes} bytes of {packed.dtype}"
                )
            self._buffers[name][:] = part.reshape(-1).view(np.uint8)
