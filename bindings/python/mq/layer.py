"""A registered layer and its taps, which the caller's forward pass calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _lib, tensors
from ._handle import ModelHandle
from ._lib import interface as abi
from ._lib import parts
from .errors import StateError
from .tensors import Array, Operand


class Layer:
    """A registered layer.

    Keeps its model and its arrays alive. Every method may be called from any thread, also in a
    forward loop.
    """

    __slots__ = ("_bias", "_handle", "_owner", "_producer", "_weight", "kind", "name")

    def __init__(
        self,
        owner: ModelHandle,
        handle: int,
        kind: str,
        name: str,
        weight: Operand | None,
        bias: Operand | None,
        producer: str | None,
    ) -> None:
        self._owner = owner
        self._handle = handle
        self._weight = weight
        self._bias = bias
        self._producer = producer
        #: What it computes, such as "linear".
        self.kind = kind
        #: The dotted name, such as "model.layers.0.self_attn.q_proj".
        self.name = name

    def __repr__(self) -> str:
        return f"<mq.Layer {self.name} ({self.kind})>"

    def check_arrays(self) -> None:
        """Raises StateError unless weight and bias are where they were; a packed weight may go."""
        if self._bias is not None:
            self._bias.check_in_place(f"the bias of {self.name}")
        if self._weight is not None:
            try:
                self._weight.check_in_place(f"the weight of {self.name}")
            except StateError:
                with self._owner:
                    if parts.packed_shape(self._handle) is None:
                        raise

    def input(self, x: Array, out: Array | None = None) -> Array:
        """The layer's input on its way into the layer.

        Observed in a calibration, fake-quantized once quantized, else copied.

        Args:
            x: `[..., in]`, float32, float16 or bfloat16; copied first if it is not C-contiguous.
            out: where the result goes, of the shape and dtype of `x`; may be `x`.

        Returns:
            `out`, or a new array.

        Raises:
            NumericError: NaN or Inf while calibrating, or negative values under `unsigned`; the
                verb that is running fails with it too.
            StateError: the amax does not fit `x`.
        """
        return self._tap(abi.mq_layer_input, x, out)

    def output(self, y: Array, out: Array | None = None) -> Array:
        """The layer's output on its way out; as `input`, with the `output_quantizer`."""
        return self._tap(abi.mq_layer_output, y, out)

    def grad(self, g: Array) -> None:
        """The gradient of a loss at the layer's output, for `Model.auto_quantize`.

        Does nothing outside its scoring steps, so that a backward pass may always call it. The
        layer's formats are scored before it returns.

        Args:
            g: dL/dy, of the shape of the layer's output: `[..., out]` for a linear layer; float32,
                float16 or bfloat16, copied first if it is not C-contiguous. Where a layer is used
                several times in a step, gradients come in the reverse order of the inputs.

        Raises:
            InvalidArgumentError: another shape than that of the output.
            NumericError: NaN or Inf. StateError: more gradients than inputs. OutOfMemoryError.
            The search that is running fails with any of them too.
            Whatever the layer's `forward` raises, unchanged.
        """
        self._call(abi.mq_layer_grad, tensors.activation(g, "g"))

    def weight(self, out: Array | None = None) -> Array:
        """The weight as the quantized layer uses it: fake-quantized once quantized.

        Args:
            out: where it goes, of the shape and dtype of the weight; may be the registered array.

        Returns:
            `out`, or a new array.

        Raises:
            InvalidArgumentError: the layer has no weight.
            StateError: the registered array was moved, resized or freed.
        """
        self.check_arrays()
        like = self._weight or tensors.activation(np.empty(0, np.float32), "weight")
        result = tensors.result(out, like)
        self._call(abi.mq_layer_weight, result)
        return result.array

    def requantize_into(
        self, weight: Array, out: Array | None = None, scales: str = "keep"
    ) -> Array:
        """What the quantized layer uses of a new weight: `weight()` as if it were registered.

        For a training loop that sends its weights to the engine again and again.

        Args:
            weight: the new weight, of the shape and dtype of the registered one, which stays as it
                is; copied first if it is not C-contiguous.
            out: where it goes; may be `weight`.
            scales: "keep" those of the calibration, or "refresh" them from the largest magnitudes
                of this weight alone, and keep these from now on. Not during a verb.

        Returns:
            `out`, or a new array.

        Raises:
            ValueError: unknown `scales`.
            InvalidArgumentError: the layer has no weight, or one of another shape or dtype.
            StateError: the model is not quantized yet or being calibrated, or the layer's weight is
                compressed or folded. UnsupportedError: refreshing an affine quantizer.
            NumericError: NaN or Inf where scales are found.
        """
        if scales not in abi.SCALES:
            raise ValueError(f"scales is {scales!r}, expected one of {', '.join(abi.SCALES)}")
        new = tensors.activation(weight, "weight")
        result = tensors.result(out, new)
        self._call(abi.mq_requantize_into, new, result, abi.SCALES[scales])
        return result.array

    def forward(self, x: Array) -> Array:
        """The whole linear layer: `output(input(x) @ weight().T + bias)`, computed in float32.

        For tests and small models; an engine calls the taps around its own product.

        Args:
            x: `[..., in]`.

        Returns:
            A new array `[..., out]` of the dtype of `x`.

        Raises:
            NotImplementedError: the layer is not a linear one.
            TypeError: its arrays or `x` are not numpy's.
        """
        if self.kind != "linear":
            raise NotImplementedError(f"{self.name} is a {self.kind} layer; call its taps instead")
        bias = None if self._bias is None else self._bias.array
        for array in (x, self._weight and self._weight.array, bias):
            if array is not None and not isinstance(array, np.ndarray):
                raise TypeError(
                    f"forward computes with numpy, but {self.name} has a {type(array).__name__}; "
                    "call its taps around your own product"
                )
        y = self.input(x).astype(np.float32) @ self.weight().astype(np.float32).T
        if bias is not None:
            y += bias.astype(np.float32)
        y = y.astype(x.dtype)
        return self.output(y, y)

    def _tap(self, function: Any, x: Array, out: Array | None) -> Array:
        given = tensors.activation(x, "x")
        result = tensors.result(out, given)
        self._call(function, given, result)
        return result.array

    def _call(self, function: Any, *arguments: Operand | int) -> None:
        operands = [value for value in arguments if isinstance(value, Operand)]
        views = [value.view if isinstance(value, Operand) else value for value in arguments]
        with self._owner:
            self._owner.follow(*operands)
            _lib.call(function, self._handle, *views)
