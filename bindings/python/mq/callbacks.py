"""Python functions of the caller, as the callbacks of a verb."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Callable, Union

import numpy as np

from . import _lib
from .errors import BusyError, Status

#: `forward_loop(model)` or `forward_loop()`: runs the model once over the whole calibration set.
ForwardLoop = Union[Callable[[Any], object], Callable[[], object]]
#: A wildcard (fnmatch over the whole dotted name), or a function of the name.
Selection = Union[str, Callable[[str], object]]
#: Takes an amax; gives the new one of the same shape, or None when it changed it in place.
AmaxFunction = Callable[[np.ndarray], Any]


def _takes_an_argument(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell its signature
        return True
    return True


def forward(loop: ForwardLoop | None, model: object) -> _lib.Callback | None:
    """The forward loop of a calibration; None when there is none."""
    if loop is None:
        return None
    if not callable(loop):
        raise TypeError(f"forward_loop is a {type(loop).__name__}, expected a function")
    function: Callable[..., object] = loop
    arguments = (model,) if _takes_an_argument(function) else ()
    return _lib.forward_callback(lambda: function(*arguments))


def selection(select: Selection) -> str | _lib.Callback:
    """A wildcard as it is, a function as a filter."""
    if isinstance(select, str):
        return select
    if not callable(select):
        raise TypeError(f"expected a wildcard or a function, got a {type(select).__name__}")
    return _lib.filter_callback(select)


def wildcard(pattern: str) -> str:
    """A wildcard, where a function will not do."""
    if not isinstance(pattern, str):
        raise TypeError(f"pattern is a {type(pattern).__name__}, expected a wildcard (a string)")
    return pattern


def amax(function: AmaxFunction, shapes: Mapping[str, tuple[int, ...]]) -> _lib.Callback:
    """A function of one amax in its shape; `shapes` has that of each quantizer."""
    if not callable(function):
        raise TypeError(f"fn is a {type(function).__name__}, expected a function")

    def process(name: str, values: np.ndarray) -> np.ndarray:
        shape = shapes.get(name, ())
        if math.prod(shape) != values.size:
            raise BusyError(Status.MQ_ERR_BUSY, f"{name} was changed by another thread meanwhile")
        shaped = values.reshape(shape)
        given = function(shaped)
        new = shaped if given is None else np.asarray(given, np.float32)
        if new.shape != shaped.shape:
            raise ValueError(f"fn changed the shape of {name} from {shaped.shape} to {new.shape}")
        return new.reshape(values.shape)

    return _lib.amax_callback(process)
