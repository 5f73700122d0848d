"""Quantizers of what the attention of Hugging Face models multiplies: queries, keys and values."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Callable

from torch import nn

from .forward import Phase
from .slot import Slot

if TYPE_CHECKING:
    from .session import Session

#: In the order of the attention function's arguments.
QUANTIZERS = ("q_bmm_quantizer", "k_bmm_quantizer", "v_bmm_quantizer")
_ATTRIBUTE = "_mq_attention"


class Attention:
    """The quantizers of one attention module, which carries this as an attribute."""

    def __init__(self, session: Session, name: str, module: nn.Module) -> None:
        self.session = session
        self.name = name
        self.module = module

    def insert(self) -> None:
        """Puts itself into the module, and lets the functions of its model's file look for it."""
        _intercept(type(self.module).__module__)
        setattr(self.module, _ATTRIBUTE, self)

    def remove(self) -> None:
        """Takes itself out of the module."""
        vars(self.module).pop(_ATTRIBUTE, None)

    def pass_through(self, states: tuple[Any, ...]) -> tuple[Any, ...]:
        """Query, key and value on their way into the attention function."""
        slots = self.session.attention_slots(self.name)
        return tuple(self._one(slot, x) for slot, x in zip(slots, states))

    def _one(self, slot: Slot, x: Any) -> Any:
        if self.session.phase is Phase.READY:
            return slot.quantize(x)
        return slot.tap(x) if self.session.phase is Phase.TRYING else slot.observe(x)


def find(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The innermost attention modules of `transformers` that call its attention functions."""
    for name, module in root.named_modules():
        if not _is_attention(module) or any(
            child is not module and _is_attention(child) for child in module.modules()
        ):
            continue
        source = sys.modules.get(type(module).__module__)
        if hasattr(source, "ALL_ATTENTION_FUNCTIONS"):
            yield name, module


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


class _Functions(MutableMapping):
    """The attention functions that one model's file sees: those of the library, intercepted."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def __getitem__(self, key: str) -> Callable[..., Any]:
        return _intercepted(self._functions[key])

    def __setitem__(self, key: str, function: Callable[..., Any]) -> None:
        self._functions[key] = function

    def __delitem__(self, key: str) -> None:
        del self._functions[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def get_interface(self, *arguments: Any) -> Callable[..., Any]:
        """The function of an implementation's name, as the file asks for it."""
        return _intercepted(self._functions.get_interface(*arguments))


def _intercept(source_name: str) -> None:
    """Puts an interception between a model's file and its attention functions; once is enough.

    It stays, and does nothing for modules that are not quantized.
    """
    source: Any = sys.modules[source_name]
    if isinstance(source.ALL_ATTENTION_FUNCTIONS, _Functions):
        return
    source.ALL_ATTENTION_FUNCTIONS = _Functions(source.ALL_ATTENTION_FUNCTIONS)
    if inspect.isfunction(getattr(source, "eager_attention_forward", None)):
        source.eager_attention_forward = _intercepted(source.eager_attention_forward)


def _intercepted(function: Callable[..., Any]) -> Callable[..., Any]:
    if getattr(function, _ATTRIBUTE, False):
        return function

    @functools.wraps(function)
    def attention(
        module: nn.Module, query: Any, key: Any, value: Any, *rest: Any, **named: Any
    ) -> Any:
        quantizers = vars(module).get(_ATTRIBUTE)
        if quantizers is not None:
            query, key, value = quantizers.pass_through((query, key, value))
        return function(module, query, key, value, *rest, **named)

    setattr(attention, _ATTRIBUTE, True)
    return attention
