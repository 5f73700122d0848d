"""What the caller registers: layers and quantizers, their arrays, and how long they live."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable, TypeVar, Union

import numpy as np

from . import _lib, progress_bar, tensors
from . import device as devices
from ._handle import ModelHandle
from ._lib import interface as abi
from .layer import Layer
from .lent import Lender
from .quantizer import Quantizer
from .tensors import Array, Operand

R = TypeVar("R", bound="Registry")
#: One number for all spatial axes of a convolution, or one for each.
Steps = Union[int, Sequence[int]]
#: `forward(x, weight)` returns a layer's output.
LayerForward = Callable[[Array, Array], Array]


class Registry:
    """Registration, look-up and lifetime of a `Model`."""

    _norms: Mapping[str, Operand] = MappingProxyType({})

    def __init__(
        self,
        threads: int = 0,
        log: Callable[[int, str], object] | None = None,
        *,
        memory_limit: int | None = None,
        progress: progress_bar.Choice = None,
        device: devices.Device = None,
        cublas: bool | None = None,
    ) -> None:
        if not 0 <= threads <= 1024:
            raise ValueError(f"threads is {threads}, expected 0 to 1024")
        if memory_limit is not None and not 1 <= memory_limit < 2**64:
            raise ValueError(
                f"memory_limit is {memory_limit}, expected bytes, or None for no limit"
            )
        if log is not None and not callable(log):
            raise TypeError(f"log is a {type(log).__name__}, expected a function")
        told = progress_bar.chosen(progress)
        cuda = devices.cuda_index(device)
        if cublas is not None and not isinstance(cublas, bool):
            raise TypeError(f"cublas is a {type(cublas).__name__}, expected True, False or None")
        self._owner = ModelHandle(threads, log, memory_limit or 0, told, cuda, cublas)
        self._layers: dict[str, Layer] = {}

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Destroys the model now and lets go of the registered arrays; once is enough.

        Every other call on it, its layers and its quantizers then raises StateError. Without
        `close`, the last of them that is collected destroys the model.

        Raises:
            BusyError: a call is working on it.
        """
        self._owner.close()
        self._layers.clear()
        self._norms = {}

    def add_linear(
        self,
        name: str,
        weight: Array,
        bias: Array | None = None,
        *,
        class_name: str | None = None,
        fused_group: str | None = None,
        shared_input_group: str | None = None,
        expert_group: str | None = None,
        norm: Array | None = None,
        norm_bias: Array | None = None,
        norm_adds_one: bool = False,
        producer: str | None = None,
    ) -> Layer:
        """Registers a linear layer; `add_layer` with kind "linear" and weight `[out, in]`."""
        return self.add_layer(
            "linear",
            name,
            weight,
            bias,
            class_name=class_name,
            fused_group=fused_group,
            shared_input_group=shared_input_group,
            expert_group=expert_group,
            norm=norm,
            norm_bias=norm_bias,
            norm_adds_one=norm_adds_one,
            producer=producer,
        )

    def add_layer(
        self,
        kind: str,
        name: str,
        weight: Array | None = None,
        bias: Array | None = None,
        *,
        class_name: str | None = None,
        fused_group: str | None = None,
        shared_input_group: str | None = None,
        expert_group: str | None = None,
        norm: Array | None = None,
        norm_bias: Array | None = None,
        norm_adds_one: bool = False,
        producer: str | None = None,
        stride: Steps = 1,
        padding: Steps = 0,
        dilation: Steps = 1,
        forward: LayerForward | None = None,
    ) -> Layer:
        """Registers a layer, and creates its input, output and weight quantizers.

        Args:
            kind: "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
                "conv_transpose3d", "embedding", or "generic" for anything else.
            name: dotted name, unique in the model.
            weight: float32, float16 or bfloat16, C-contiguous and writable, of the rank of its
                kind: `[out, in]`, `[out, in / groups, *kernel]`, `[in, out / groups, *kernel]` when
                transposed, `[rows, dim]` for an embedding. It is borrowed, not copied: it is kept
                alive, and `fold_weight` writes into it. Only "generic" may do without.
            bias: `[out]`, borrowed likewise; only `fold_pre_quant_scale` writes to it, when the
                layer is the `producer` of another.
            class_name: class that a configuration may select by; default: that of the kind, such as
                "nn.Linear".
            fused_group: layers of one name are fused by the runtime (q, k, v; gate, up).
            shared_input_group: layers of one name read the same activation.
            expert_group: layers of one name are the same projection of the experts of one block,
                each of which sees part of the tokens. They get one scale for their input, and stand
                in for one that no token reached.
            norm: the gain, `[in]`, of the norm whose output a linear layer reads; borrowed and
                writable like the weight, for `fold_pre_quant_scale`. Layers with the same array
                read the same output, and everybody who reads it must be registered.
            norm_bias: the norm's bias, `[in]`, likewise.
            norm_adds_one: the norm multiplies with `1 + gain`.
            producer: name of the linear layer whose rows can take over what this layer's input is
                multiplied with: the input is that layer's output, or a product of it with
                something, channel by channel. Not together with `norm`.
            stride: of a convolution, for `auto_quantize`: elements from one place of the kernel to
                the next; a number, or one for each spatial axis.
            padding: zeros before the first and after the last element, likewise.
            dilation: elements from one of the kernel's to the next, likewise.
            forward: for `auto_quantize`, where the library cannot compute the layer ("generic",
                "conv_transpose*", padding with other than zeros): `forward(x, weight)` returns the
                layer's output, with or without the bias, for arrays of the shapes and dtypes that
                the layer's input and weight have. Its exceptions come out of `Layer.grad`. On a GPU
                it gets arrays of the weight's library, and returns one of the gradient's dtype.

        Raises:
            TypeError: not a numpy array, or another dtype; `forward` is no function.
            ValueError: not C-contiguous or not writable; a stride, padding or dilation that does
                not fit the kind.
            InvalidArgumentError: a wrong rank or shape; a norm or producer of a layer that is not
                linear, or both.
            AlreadyExistsError: the name is taken.
            StateError: after `quantize`.
        """
        if kind not in abi.LAYER_KINDS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(abi.LAYER_KINDS)}")
        verb = "fold_pre_quant_scale"
        arrays = {
            "weight": _borrowed(weight, f"the weight of {name}", "fold_weight"),
            "bias": _borrowed(bias, f"the bias of {name}", None),
            "norm_gain": _borrowed(norm, f"the norm of {name}", verb),
            "norm_bias": _borrowed(norm_bias, f"the norm_bias of {name}", verb),
        }
        names = {
            "name": name,
            "class_name": class_name,
            "fused_group": fused_group,
            "shared_input_group": shared_input_group,
            "expert_group": expert_group,
            "producer": producer,
        }
        convolution = {
            "conv_stride": _steps(stride, "stride", kind, least=1),
            "conv_padding": _steps(padding, "padding", kind, least=0),
            "conv_dilation": _steps(dilation, "dilation", kind, least=1),
        }
        if forward is not None and not callable(forward):
            raise TypeError(f"forward is a {type(forward).__name__}, expected a function")
        flags = abi.NORM_ADDS_ONE if norm_adds_one else 0
        with self._owner as model:
            code = abi.LAYER_KINDS[kind]
            self._owner.follow(*arrays.values())
            views = {
                member: None if array is None else array.view for member, array in arrays.items()
            }
            lender = None if forward is None else Lender(self._owner, weight)
            handle, kept = _lib.add_layer(
                model, code, views, names, flags, convolution, forward, lender
            )
            self._owner.borrow(*arrays.values(), kept)
        weight_in, bias_in = arrays.pop("weight"), arrays.pop("bias")
        norms = {f"the {what} of {name}": norm for what, norm in arrays.items() if norm}
        if norms:
            self._norms = {**self._norms, **norms}
        layer = Layer(self._owner, handle, kind, name, weight_in, bias_in, producer)
        self._layers[name] = layer
        return layer

    def add_quantizer(self, name: str, *, class_name: str | None = None) -> Quantizer:
        """Registers a quantizer of the caller's own: 8 bits per tensor, enabled.

        Args:
            name: its whole dotted name, such as "model.layers.0.self_attn.k_bmm_quantizer".
            class_name: class of the module it sits in, for class scopes of a configuration.

        Raises:
            AlreadyExistsError, InvalidArgumentError, StateError: as `add_layer`.
        """
        with self._owner as model:
            handle = _lib.handle_from(abi.mq_model_add_quantizer, model, name, class_name)
        return Quantizer(self._owner, handle, name)

    def _in_place(self) -> ModelHandle:
        """The handle for a verb that uses the registered arrays, once they are checked."""
        for layer in list(self._layers.values()):
            layer.check_arrays()
        for what, norm in list(self._norms.items()):
            norm.check_in_place(what)
        return self._owner

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The registered layers by name, in the order of registration."""
        return MappingProxyType(self._layers)

    def quantizer(self, name: str) -> Quantizer:
        """The quantizer of a dotted name; members of a sequential one are `<name>.0`, `<name>.1`.

        Raises NotFoundError.
        """
        with self._owner as model:
            handle = _lib.handle_from(abi.mq_model_find_quantizer, model, name)
        return Quantizer(self._owner, handle, name)

    def quantizers(self) -> dict[str, Quantizer]:
        """Every quantizer by name, in the order of registration; raises BusyError in a verb.

        Of a sequential quantizer there are the members; `quantizer` finds the whole.
        """
        found = {}
        with self._owner as model:
            for index in range(_lib.size_from(abi.mq_model_quantizer_count, model)):
                handle = _lib.handle_from(abi.mq_model_quantizer_at, model, index)
                name = _lib.text_from(abi.mq_quantizer_name, handle)
                found[name] = Quantizer(self._owner, handle, name)
        return found


def _borrowed(array: Array | None, what: str, written_by: str | None) -> Operand | None:
    return None if array is None else tensors.registered(array, what, written_by=written_by)


def _steps(given: Steps, what: str, kind: str, least: int) -> tuple[int, ...]:
    """A number for each spatial axis of a convolution; none for other layers."""
    axes = int(kind[-2]) if kind.startswith("conv") else 0
    each: Any = [given] * axes if np.ndim(given) == 0 else given
    numbers = tuple(operator.index(number) for number in each)
    if axes == 0 and given != least:
        raise ValueError(f"{what} is {given}, but a {kind} layer has none")
    if len(numbers) != axes or any(not least <= number < 2**32 for number in numbers):
        raise ValueError(
            f"{what} is {given}, expected a number from {least} on, or {axes} of them for {kind}"
        )
    return numbers
