"""Parts of a packed array in device memory, as arrays of the library that the array is of."""

from __future__ import annotations

from typing import Any

from . import producers
from ._lib import Callback, parts
from ._lib import interface as abi
from .tensors import Array


class DeviceMemory:
    """Memory beside an array, for the parts of one weight; `callback` is for mq_compress()."""

    def __init__(self, like: Array) -> None:
        buffers: dict[str, Any] = {}

        def allocate(_layer: bytes, part: bytes, size: int, memory: Any) -> None:
            buffers[part.decode()] = buffer = producers.bytes_beside(like, size)
            memory[0] = producers.pointer(buffer)

        self._buffers = buffers
        self.callback = Callback(abi.BufferFn, (abi.ALLOCATE, allocate))

    def parts(self, layer: int) -> dict[str, Array]:
        """What the layer was packed into, by name."""
        return {
            name: producers.viewed(self._buffers[name], part.dtype, part.shape)
            for name, part in parts.of(layer).items()
        }
