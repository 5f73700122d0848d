"""The parts of packed weights: out of the library, and into it."""

from __future__ import annotations

import ctypes as ct
import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Part:
    """Where a part lies, and what it is."""

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """A copy of a part in host memory."""
        data = ct.string_at(self.address, self.nbytes)
        return np.frombuffer(data, self.dtype).reshape(self.shape).copy()

    def check_fits(self, name: str, nbytes: int, dtype: str, itemsize: int) -> None:
        """Raises ValueError unless so many bytes of that dtype can take its place."""
        # Numbers of one byte are bits, whatever they are called: ml_dtypes has names for FP8.
        is_bits = self.dtype.itemsize == 1 and itemsize == 1
        if nbytes != self.nbytes or not (is_bits or dtype == self.dtype.name):
            raise ValueError(
                f"the part {name} has {nbytes} bytes of {dtype}, but the shape and the attributes "
                f"ask for {self.nbytes} bytes of {self.dtype}"
            )


def of(layer: int) -> dict[str, Part]:
    """The parts of a layer's packed weight, by name."""
    found = {}
    for name in _NAMES:
        tensor = abi.Tensor()
        try:
            call(abi.mq_layer_packed, layer, name, tensor)
        except NotFoundError:  # not every format has every part
            continue
        shape = tuple(tensor.shape[: tensor.ndim])
        found[name] = Part(tensor.data or 0, _DTYPES[tensor.dtype.code], shape)
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
        for name, place in of(layer).items():
            part = np.asarray(parts.get(name, ()))
            part = np.ascontiguousarray(part, part.dtype.newbyteorder("="))
            place.check_fits(name, part.nbytes, part.dtype.name, part.itemsize)
            self._buffers[name][:] = part.reshape(-1).view(np.uint8)
