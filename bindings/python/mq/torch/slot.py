"""A quantizer of a module: its tap, and the gradient through it."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch

from . import tensors
from .native import Native


class Traits(NamedTuple):
    """What a quantizer does, as far as what passes it must be treated accordingly."""

    enabled: bool = False
    #: What is multiplied in front of the rounding, `[channels]`, or None.
    scale: torch.Tensor | None = None
    #: Whether a rotation stays in what comes out, so that its gradient would need one too.
    rotates: bool = False
    #: Whether it rotates at all.
    turns: bool = False
    #: The largest magnitudes where gradients end, or None: they pass everywhere.
    limit: torch.Tensor | None = None

    @property
    def changes_input(self) -> bool:
        """Whether a disabled or observing quantizer still changes what passes it."""
        return self.scale is not None or self.turns

    @property
    def is_active(self) -> bool:
        """Whether what passes it comes out changed."""
        return self.enabled or self.changes_input


class Slot:
    """One quantizer: its tap, and its traits, which are read anew after every verb."""

    def __init__(self, native: Native, name: str, function: Any, handle: int) -> None:
        self.name = name
        self._native = native
        self._function = function
        self._handle = handle
        #: Replaced as a whole: forward passes on other threads see the old or the new ones.
        self.traits = Traits()

    def refresh(self) -> None:
        """Reads what a verb may have changed."""
        quantizer = self._native.quantizer(self.name)
        given, scale = quantizer.attributes, quantizer.pre_quant_scale
        members = given if isinstance(given, list) else [given]
        rotation = [_rotation(attributes.get("rotate")) for attributes in members]
        enabled, limit = quantizer.enabled, None
        if enabled and not all(attributes["pass_through_bwd"] for attributes in members):
            limit = self._limit(isinstance(given, list))
        self.traits = Traits(
            enabled=enabled,
            scale=None if scale is None else torch.from_numpy(scale),
            rotates="rotate" in rotation,
            turns=any(mode is not None for mode in rotation),
            limit=limit,
        )

    def _limit(self, is_sequential: bool) -> torch.Tensor | None:
        name = f"{self.name}.0" if is_sequential else self.name
        amax = self._native.quantizer(name).amax
        return None if amax is None else torch.from_numpy(amax)

    def observe(self, x: torch.Tensor) -> torch.Tensor:
        """Passes `x` while a verb collects statistics; the graph goes on behind it."""
        if not self.traits.is_active and not tensors.is_float(x):
            return x  # indices, or float64, which nobody asks to quantize
        seen = tensors.activation(x, f"what passes {self.name}")
        if not self.traits.changes_input:
            self._native.pass_through(self._function, self._handle, seen, None)
            return x
        return FakeQuant.apply(x, self, self.tap)

    def tap(self, x: torch.Tensor) -> torch.Tensor:
        """Passes a tensor without a graph, as the library is just now: a new tensor."""
        seen = tensors.activation(x, f"what passes {self.name}")
        out = torch.empty_like(seen)
        self._native.pass_through(self._function, self._handle, seen, out)
        return out

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantizes a tensor; gradients pass straight through."""
        return FakeQuant.apply(x, self, self.tap) if self.traits.is_active else x


def _rotation(given: Any) -> str | None:
    """How a quantizer rotates: "rotate", "rotate_back" (what comes out is not rotated), or None."""
    if isinstance(given, dict):
        return given.get("mode", "rotate") if given.get("enable") else None
    return "rotate" if given else None


class FakeQuant(torch.autograd.Function):
    """Rounding with a straight-through gradient: that of the scale alone.

    As in the reference, gradients also pass where values saturate, unless the quantizer's
    `pass_through_bwd` is false: then they end where magnitudes are above the amax.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        slot: Slot,
        tap: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """`tap` is called with the tensor; `slot` says how the gradient passes."""
        traits = slot.traits
        ctx.slot_name, ctx.rotates = slot.name, traits.rotates
        ctx.scale = inside = None
        if ctx.needs_input_grad[0] and traits.scale is not None:
            ctx.scale = traits.scale.to(x.device, x.dtype)
        if ctx.needs_input_grad[0] and traits.limit is not None:
            inside = _inside(x, ctx.scale, traits.limit, slot.name)
        ctx.save_for_backward(*(() if inside is None else (inside,)))
        return tap(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient at the input."""
        if ctx.rotates:
            raise NotImplementedError(
                f"{ctx.slot_name} rotates, and there is no gradient through a rotation; disable "
                "the quantizer, or train before it is quantized"
            )
        for inside in ctx.saved_tensors:
            gradient = gradient * inside
        return gradient if ctx.scale is None else gradient * ctx.scale, None, None


def _inside(
    x: torch.Tensor, scale: torch.Tensor | None, amax: torch.Tensor, name: str
) -> torch.Tensor:
    """Where magnitudes are at most the amax."""
    seen = (x if scale is None else x * scale).abs()
    limit = amax.to(x.device, x.dtype)
    paired = zip(limit.shape, seen.shape)
    if limit.dim() in (0, seen.dim()) and all(few in (1, many) for few, many in paired):
        return seen <= limit
    if limit.dim() == 2 and limit.shape[1] == 1 and seen.numel() % limit.shape[0] == 0:
        return (seen.reshape(limit.shape[0], -1) <= limit).view_as(x)
    raise NotImplementedError(
        f"{name} has pass_through_bwd false and an amax of shape {tuple(limit.shape)}, which "
        "has no gradient mask; leave pass_through_bwd true"
    )
