"""What the caller registers: layers and quantizers, their arrays, and how long they live."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Callable, TypeVar

from . import _lib, tensors
from ._handle import ModelHandle
from ._lib import interface as abi
from .layer import Layer
from .quantizer import Quantizer
from .tensors import Array

R = TypeVar("R", bound="Registry")


class Registry:
    """Registration, look-up and lifetime of a `Model`."""

    def __init__(self, threads: int = 0, log: Callable[[int, str], object] | None = None) -> None:
        if not 0 <= threads <= 1024:
            raise ValueError(f"threads is {threads}, expected 0 to 1024")
        self._owner = ModelHandle(threads, log)
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

    def add_linear(
        self,
        name: str,
        weight: Array,
        bias: Array | None = None,
        *,
        class_name: str | None = None,
        fused_group: str | None = None,
        shared_input_group: str | None = None,
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
            bias: `[out]`, borrowed likewise; never written to.
            class_name: class that a configuration may select by; default: that of the kind, such as
                "nn.Linear".
            fused_group: layers of one name are fused by the runtime (q, k, v; gate, up).
            shared_input_group: layers of one name read the same activation.

        Raises:
            TypeError: not a numpy array, or another dtype.
            ValueError: not C-contiguous or not writable; InvalidArgumentError: wrong rank.
            AlreadyExistsError: the name is taken.
            StateError: after `quantize`.
        """
        if kind not in abi.LAYER_KINDS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(abi.LAYER_KINDS)}")
        if weight is not None:
            weight = tensors.registered(weight, f"the weight of {name}", writable=True)
        if bias is not None:
            bias = tensors.registered(bias, f"the bias of {name}", writable=False)
        with self._owner as model:
            handle = _lib.add_layer(
                model,
                abi.LAYER_KINDS[kind],
                name,
                weight,
                bias,
                class_name,
                fused_group,
                shared_input_group,
            )
            self._owner.borrow(weight, bias)
        layer = Layer(self._owner, handle, kind, name, weight, bias)
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
