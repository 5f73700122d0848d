"""A quantizer of a model: what it is, what it holds, and its tap."""

from __future__ import annotations

import json
from typing import Any

import numpy.typing as npt

from . import _lib, tensors
from ._handle import ModelHandle
from ._lib import interface as abi
from .tensors import Array


class Quantizer:
    """One of a layer's quantizers, one of the caller's own, or a member of a sequential one.

    Keeps its model alive. `forward` may be called from any thread; everything else holds the model,
    and raises BusyError while a verb runs. A member raises StateError once its sequential quantizer
    is gone.
    """

    __slots__ = ("_handle", "_owner", "name")

    def __init__(self, owner: ModelHandle, handle: int, name: str) -> None:
        self._owner = owner
        self._handle = handle
        #: The dotted name, such as "model.layers.0.self_attn.q_proj.weight_quantizer".
        self.name = name

    def __repr__(self) -> str:
        return f"<mq.Quantizer {self.name}>"

    def forward(self, x: Array, out: Array | None = None) -> Array:
        """Passes a tensor through the quantizer: observed in a calibration, else fake-quantized.

        Args:
            x: float32, float16 or bfloat16; copied first if it is not C-contiguous.
            out: where the result goes, of the shape and dtype of `x`; may be `x`.

        Returns:
            `out`, or a new array.

        Raises:
            NumericError: NaN or Inf while calibrating, or negative values under `unsigned`.
            StateError: the amax does not fit `x`.
        """
        given = tensors.activation(x, "x")
        result = tensors.result(out, given)
        with self._owner:
            self._owner.follow(given, result)
            _lib.call(abi.mq_quantizer_forward, self._handle, given.view, result.view)
        return result.array

    @property
    def enabled(self) -> bool:
        """Whether it is enabled; a sequential quantizer is when one of its members is."""
        with self._owner:
            return _lib.flag_from(abi.mq_quantizer_is_enabled, self._handle)

    @property
    def attributes(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Every attribute, as the configuration names them; a list for a sequential quantizer."""
        with self._owner:
            text = _lib.text_from(abi.mq_quantizer_attributes, self._handle)
        attributes: dict[str, Any] | list[dict[str, Any]] = json.loads(text)
        return attributes

    @property
    def amax(self) -> Array | None:
        """A new float32 array, or None (never calibrated, or dynamic).

        Its shape is `[]` per tensor, `[n, 1]` for axis 0 of a matrix, `[blocks, 1]` for blocks
        along the last axis, `[rows/b, 1, columns/b, 1]` for blocks in two axes.

        Raises:
            StateError: a sequential quantizer; ask its members.
        """
        with self._owner:
            return _lib.amax_of(self._handle)

    def set_amax(self, amax: npt.ArrayLike) -> None:
        """Sets the amax, as a calibration would.

        Args:
            amax: values in the tensor's units, of the shape that `amax` has; they are copied.

        Raises:
            InvalidArgumentError: the shape does not fit.
            NumericError: NaN, Inf or negative values.
            StateError: a dynamic or sequential quantizer, or before `Model.quantize`.
        """
        with self._owner:
            _lib.call(abi.mq_quantizer_set_amax, self._handle, tensors.values(amax))

    @property
    def pre_quant_scale(self) -> Array | None:
        """The factors the input is multiplied with: a new float32 array `[channels]`, or None."""
        with self._owner:
            return _lib.pre_quant_scale_of(self._handle)

    def set_pre_quant_scale(self, scale: npt.ArrayLike | None) -> None:
        """Sets or removes the pre_quant_scale; the caller divides the weight accordingly.

        Args:
            scale: `[channels]`, the extent of the last axis of what the quantizer sees; finite and
                positive; copied. None removes it.
        """
        array = None if scale is None else tensors.values(scale)
        with self._owner:
            _lib.call(abi.mq_quantizer_set_pre_quant_scale, self._handle, array)
