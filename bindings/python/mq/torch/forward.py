"""The forward of a quantized module: quantizers around what the module computes."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..errors import StateError, Status, UnsupportedError
from . import tensors
from .layers import Kind, kind_of
from .native import Native
from .slot import FakeQuant, Slot

if TYPE_CHECKING:
    from .session import Session


class Phase(enum.Enum):
    """What the forward passes of a model are for, just now."""

    #: They are the user's: everything is fake-quantized.
    READY = enum.auto()
    #: A calibration observes, and computes in full precision.
    OBSERVING = enum.auto()
    #: A search observes, and asks for gradients where they are enabled.
    SCORING = enum.auto()
    #: A search compares logits: the library decides at every tap.
    TRYING = enum.auto()


class Record:
    """A quantized module as the library's model knows it."""

    def __init__(
        self,
        native: Native,
        handle: int,
        input_slot: Slot,
        output_slot: Slot,
        weight_slot: Slot | None,
        registered: torch.Tensor | None,
    ) -> None:
        #: The library's model that the handle belongs to.
        self.native = native
        self.handle = handle
        self.input = input_slot
        self.output = output_slot
        self.weight = weight_slot
        #: The weight that the library borrows, which this keeps alive; a packed one is empty.
        self.registered = registered
        self._address = None if registered is None else registered.data_ptr()
        #: Shape, dtype and device of a weight that is packed.
        self.packed: tuple[torch.Size, torch.dtype, torch.device] | None = None
        #: What the module holds in the place of a weight that is packed.
        self.left: torch.Tensor | None = None
        self.is_folded = False

    @property
    def slots(self) -> list[Slot]:
        """Its quantizers, in the order of registration."""
        return [self.input, self.output, *([self.weight] if self.weight else [])]

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether a weight can be quantized under the scales of the registered one."""
        known = self.registered
        return known is not None and (weight.dtype, weight.device, weight.shape) == (
            known.dtype,
            known.device,
            known.shape,
        )

    def is_at(self, weight: torch.Tensor) -> bool:
        """Whether a weight is the registered memory itself.

        The registered tensor shows where its storage is now: share_memory() and resize_() of a
        storage move it under every tensor, and free what the library knows.
        """
        known = self.registered
        if known is None or not self.fits(weight) or weight.is_neg():
            return False
        return weight.data_ptr() == known.data_ptr() == self._address


def _on(_module: nn.Module, _inputs: Any) -> None:
    """A hook that does nothing.

    The fused path of nn.TransformerEncoderLayer reads weights without calling the modules that own
    them; it is off where a module has a hook.
    """


def _known(module: nn.Module) -> Kind:
    kind = kind_of(module)
    assert kind is not None  # the session asked before
    return kind


class LayerForward:
    """Takes the place of a module's `forward`; the module itself stays as it is."""

    def __init__(self, session: Session, name: str, module: nn.Module) -> None:
        self.session = session
        self.name = name
        self.module = module
        #: How the module is quantized.
        self.kind: Kind = _known(module)
        self._hook: Any = None

    @property
    def weight(self) -> torch.Tensor:
        """The weight that the module holds just now."""
        return cast(torch.Tensor, self.module.weight)

    def insert(self) -> None:
        """Puts itself into the module."""
        replaced = vars(self.module).get("forward")
        if isinstance(replaced, LayerForward):
            raise StateError(
                Status.MQ_ERR_STATE,
                f"{self.name} belongs to a model that is quantized already, as "
                f"{replaced.name}; call unquantize() on that one first",
            )
        if replaced is not None:
            raise UnsupportedError(
                Status.MQ_ERR_UNSUPPORTED,
                f"the forward of {self.name} was replaced (by hooks of accelerate?): remove that "
                "before quantizing",
            )
        self.module.forward = self
        self._hook = self.module.register_forward_pre_hook(_on)

    def remove(self) -> None:
        """Gives the module its own forward back."""
        vars(self.module).pop("forward", None)
        if self._hook is not None:
            self._hook.remove()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The module's forward, with quantizers."""
        if not arguments and "input" not in named:
            raise TypeError(f"the forward of {self.name} is missing its argument 'input'")
        x, *rest = arguments if arguments else (named.pop("input"),)
        record, phase = self.session.record(self), self.session.phase
        if phase is Phase.READY:
            return self._quantized(record, x, rest, named)
        return self._observed(record, phase, x, rest, named)

    def _quantized(self, record: Record, x: Any, rest: list[Any], named: dict[str, Any]) -> Any:
        if self.kind.has_input:
            x = record.input.quantize(x)
        if self.kind.compute is None:
            y = type(self.module).forward(self.module, x, *rest, **named)
        else:
            y = self.kind.compute(self.module, x, self._weight(record), *rest, **named)
        return _first(y, record.output.quantize) if record.output.traits.is_active else y

    def _weight(self, record: Record) -> torch.Tensor:
        """The weight that the module holds just now, fake-quantized."""
        native, weight, slot = record.native, self.weight, record.weight
        if record.packed is not None:
            shape, dtype, device = record.packed
            is_other = weight is not record.left and weight.numel() > 0
            if is_other or (weight.dtype, weight.device) != (dtype, device):
                raise StateError(
                    Status.MQ_ERR_STATE,
                    f"the weight of {self.name} is compressed, but was replaced, moved or "
                    "converted since, which has no effect on it; do that before compress()",
                )
            out = torch.empty(shape, dtype=dtype, device=device)
            native.weight_of(record.handle, out)
            return out
        if slot is None or not slot.traits.is_active:
            return weight

        def tap(given: torch.Tensor) -> torch.Tensor:
            seen = tensors.activation(given, f"the weight of {self.name}")
            out = torch.empty_like(seen)
            if record.is_at(seen):  # also right when a calibration has begun on another thread
                native.weight_of(record.handle, out)
            else:
                native.requantized(record.handle, seen, out)
            return out

        return FakeQuant.apply(weight, slot, tap)

    def _observed(
        self, record: Record, phase: Phase, x: Any, rest: list[Any], named: dict[str, Any]
    ) -> Any:
        tries = phase is Phase.TRYING
        scores = self.session.is_scoring and self.kind.has_input and self.kind.compute is not None
        if scores and torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # parameters are frozen: gradients begin here
        if self.kind.has_input:
            x = record.input.tap(x) if tries else record.input.observe(x)
        if self.kind.compute is None:
            y = type(self.module).forward(self.module, x, *rest, **named)
        else:
            y = self.kind.compute(
                self.module, x, self._observed_weight(record, tries), *rest, **named
            )
        if scores:
            self.session.await_gradient(record, y)
        return _first(y, record.output.tap if tries else record.output.observe)

    def _observed_weight(self, record: Record, tries: bool) -> torch.Tensor:
        """The weight in full precision, under what its input is multiplied with."""
        weight, native, slot = self.weight, record.native, record.weight
        if record.packed is not None:
            return self._weight(record)
        if slot is None or not (tries or slot.traits.changes_input):
            return weight

        def tap(given: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(given)
            native.weight_of(record.handle, out)
            return out

        return FakeQuant.apply(weight, slot, tap)


def _first(y: Any, function: Any) -> Any:
    """`function` of what a module computed: of the first where it gives several."""
    if isinstance(y, tuple):
        return (function(y[0]), *y[1:])
    return function(y)
