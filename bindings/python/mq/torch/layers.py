"""Which modules are quantized, what the library calls them, and what they compute of a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

#: `compute(module, x, weight, *rest, **named)`: the module's output of an input and a weight.
Compute = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a class of modules is quantized."""

    #: The library's kind: "linear", "conv2d", ..., "generic".
    name: str
    #: None: the module has no quantized weight, and its own forward is called.
    compute: Compute | None
    #: Whether its input is a number that can be quantized; indices are not.
    has_input: bool = True


def _linear(module: nn.Linear, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, weight, module.bias)


def _convolution(module: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return module._conv_forward(x, weight, module.bias)


def _transposed(
    module: Any,
    x: torch.Tensor,
    weight: torch.Tensor,
    output_size: Sequence[int] | None = None,
) -> torch.Tensor:
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {module.padding_mode!r}, expected 'zeros'")
    axes = weight.dim() - 2
    extra = module._output_padding(
        x,
        output_size,
        module.stride,
        module.padding,
        module.kernel_size,
        axes,
        module.dilation,
    )
    function = getattr(functional, f"conv_transpose{axes}d")
    return function(
        x, weight, module.bias, module.stride, module.padding, extra, module.groups, module.dilation
    )


def _embedding(module: nn.Embedding, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.embedding(
        x,
        weight,
        module.padding_idx,
        module.max_norm,
        module.norm_type,
        module.scale_grad_by_freq,
        module.sparse,
    )


_WITH_WEIGHT = {
    nn.Linear: Kind("linear", _linear),
    nn.Conv1d: Kind("conv1d", _convolution),
    nn.Conv2d: Kind("conv2d", _convolution),
    nn.Conv3d: Kind("conv3d", _convolution),
    nn.ConvTranspose1d: Kind("conv_transpose1d", _transposed),
    nn.ConvTranspose2d: Kind("conv_transpose2d", _transposed),
    nn.ConvTranspose3d: Kind("conv_transpose3d", _transposed),
    nn.Embedding: Kind("embedding", _embedding, has_input=False),
}
#: Their input and output are quantized, never their weight.
_INPUT_ONLY = (
    *(nn.LeakyReLU, nn.LayerNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
KINDS: dict[type, Kind] = {**_WITH_WEIGHT, **{cls: Kind("generic", None) for cls in _INPUT_ONLY}}


def kind_of(module: nn.Module) -> Kind | None:
    """How a module is quantized; None for one that is not."""
    base = _base_of(module)
    return None if base is None else KINDS[base]


def _base_of(module: nn.Module) -> Any:
    """The class above whose forward a module has; a subclass with its own may compute anything."""
    cls: Any = type(module)
    base: Any = next((base for base in cls.__mro__ if base in KINDS), None)
    if base is None or cls.forward is not base.forward:
        return None
    if cls is base or KINDS[base].compute is None:
        return base
    # nn.MultiheadAttention reads the weight past the module; other weights are made or not yet.
    is_passed_by = cls is nn.modules.linear.NonDynamicallyQuantizableLinear
    weight = vars(module)["_parameters"].get("weight")
    return None if is_passed_by or weight is None or is_lazy(weight) else base


def class_name(module: nn.Module) -> str:
    """The class as the `parent_class` of a configuration names it."""
    base = _base_of(module) or type(module)
    return f"nn.{base.__name__}"


def convolution(module: Any, kind: Kind) -> dict[str, tuple[int, ...]] | None:
    """What the library needs to compute a layer itself; None when it cannot."""
    if kind.name == "linear":
        return {"conv_stride": (), "conv_padding": (), "conv_dilation": ()}
    plain = kind.compute is _convolution and getattr(module, "padding_mode", None) == "zeros"
    if not plain or isinstance(module.padding, str):
        return None
    return {
        "conv_stride": tuple(module.stride),
        "conv_padding": tuple(module.padding),
        "conv_dilation": tuple(module.dilation),
    }
