"""Layers that the caller computes on a GPU: the library's tensors as arrays of the caller's."""

from __future__ import annotations

import weakref
from typing import Any

from . import _lib, producers, tensors
from ._handle import ModelHandle
from ._lib import interface as abi
from ._lib import memory

#: A tensor that passes as it is: copied in the order of the stream, which nobody waits for.
_COPY = '{"enable": false}'


class Lender:
    """Copies between the library's memory and arrays of the library that made a layer's weight."""

    def __init__(self, owner: ModelHandle, weight: Any) -> None:
        self._owner = weakref.ref(owner)  # which holds the callback that holds this
        self._weight = weight

    def lend(self, tensor: abi.Tensor) -> Any:
        """A copy that stays; the library's memory is gone when its callback returns."""
        _, dtype, shape, _ = memory.described(tensor)
        same = tensors.activation(self._weight, "the weight").dtype == dtype
        made = producers.empty_like(self._weight, shape, None if same else dtype)
        if made is None:
            raise TypeError(
                f"forward cannot be given a {type(self._weight).__name__} on a GPU; register a "
                "weight of torch or cupy"
            )
        self._copy(tensor, tensors.activation(made, "an argument of forward").view)
        return made

    def give(self, found: Any, to: abi.Tensor, what: str) -> None:
        """Writes an array of the dtype and shape of `to`, on the same device, to it."""
        given = tensors.activation(found, what)
        _, dtype, shape, _ = memory.described(to)
        if (given.shape, given.dtype) != (shape, dtype):
            raise ValueError(
                f"{what} is {given.dtype} of shape {given.shape}, but its gradient is {dtype} of "
                f"{shape}"
            )
        self._copy(given.view, to)

    def _copy(self, what: Any, to: Any) -> None:
        owner = self._owner()
        assert owner is not None, "it calls this"
        _lib.call(abi.mq_fake_quant, owner._context, what, _COPY, None, to)
