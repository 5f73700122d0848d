"""Fake quantization of one array, without a model."""

from __future__ import annotations

import os
import threading

import numpy.typing as npt

from . import _lib, tensors
from ._lib import interface as abi
from .configuration import Attributes, to_json
from .tensors import Array

_lock = threading.Lock()
_context: int | None = None


def _shared_context() -> int:
    """The context of this process: one thread for each CPU, no log, never destroyed."""
    global _context
    with _lock:
        if _context is None:
            _context, _ = _lib.create_context(0)
        return _context


def _forget_context() -> None:
    """Threads do not survive a fork: the child makes its own."""
    global _context, _lock
    _lock = threading.Lock()
    _context = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_context)


def fake_quant(
    x: Array,
    attributes: Attributes,
    amax: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Quantizes and dequantizes an array in one pass.

    Arithmetic is float32, rounding to nearest even, the result rounded once to the dtype of `x`.
    Under a given amax NaN stays NaN, and an infinity saturates to the largest value of the grid.
    May be called from any thread.

    Args:
        x: float32, float16 or bfloat16; copied first if it is not C-contiguous.
        attributes: a quantizer's attributes, such as {"num_bits": 8, "axis": 0} or
            {"num_bits": 4, "block_sizes": {-1: 128}}; a list of them is applied in order.
        amax: in the units of `x`, as many values as the granularity has: one per tensor, per index
            of the axis, or per block (row-major). None: taken from `x`, which a list requires.
        out: where the result goes, C-contiguous, of the shape and dtype of `x`; may be `x`.

    Returns:
        `out`, or a new array.

    Raises:
        ConfigError, UnsupportedError: about the attributes.
        InvalidArgumentError: `out` or `amax` does not fit `x`.
        NumericError: a negative, NaN or infinite amax; NaN or Inf in `x` when `amax` is None;
            negative values under `unsigned`.
    """
    x = tensors.activation(x, "x")
    out = tensors.result(out, x)
    scale = None if amax is None else tensors.values(amax)
    _lib.call(abi.mq_fake_quant, _shared_context(), x, to_json(attributes), scale, out)
    return out
