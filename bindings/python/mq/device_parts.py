"""Parts of a packed array in device memory, as arrays of the library that the array is of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

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

        self._like = like
        self._buffers = buffers
        self.callback = Callback(abi.BufferFn, (abi.ALLOCATE, allocate))

    def parts(self, layer: int) -> dict[str, Array]:
        """What the layer was packed into, by name."""
        return {
            name: producers.viewed(self._buffers[name], part.dtype, part.shape)
            for name, part in parts.of(layer).items()
        }

    def fill(self, layer: int, given: Mapping[str, Array]) -> None:
        """Puts given parts in the place of what was packed; raises ValueError unless they fit."""
        for name, place in parts.of(layer).items():
            part = given.get(name, np.empty(0))
            itemsize = int(part.nbytes) // max(math.prod(part.shape), 1)
            place.check_fits(name, int(part.nbytes), producers.dtype_name(part), itemsize)
            if isinstance(part, np.ndarray) or not producers.is_on_cuda(part):
                part = producers.to_place_of(producers.to_host(part), self._like)
            producers.copy_bytes(part, self._buffers[name])
