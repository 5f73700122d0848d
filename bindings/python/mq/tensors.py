"""Checks numpy arrays before the library sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._lib.interface import DTYPES

#: A float32, float16 or bfloat16 (`ml_dtypes.bfloat16`) array.
Array = npt.NDArray[Any]


def _checked_dtype(array: object, what: str) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{what} is a {type(array).__name__}, expected a numpy array")
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise TypeError(f"{what} has dtype {array.dtype}, expected float32, float16 or bfloat16")
    return array


def _checked_layout(array: np.ndarray, what: str) -> np.ndarray:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{what} is not C-contiguous (shape {array.shape}, strides {array.strides}); "
            "pass np.ascontiguousarray(...) and keep that array"
        )
    if not array.flags.aligned:
        raise ValueError(f"{what} is not aligned to its element size; pass a copy")
    return array


def registered(array: object, what: str, *, written_by: str | None) -> np.ndarray:
    """An array that the library borrows as it is: never copied. `written_by` names a verb."""
    checked = _checked_layout(_checked_dtype(array, what), what)
    if written_by is not None:
        check_writable(checked, what, written_by)
    return checked


def check_writable(array: np.ndarray, what: str, written_by: str) -> None:
    """Refuses an array that a verb must not write to."""
    if not array.flags.writeable:
        raise ValueError(f"{what} is read-only, but {written_by}() writes to it; pass a copy")


def activation(array: object, what: str) -> np.ndarray:
    """An array that the library reads during one call; copied if it is not C-contiguous."""
    return np.require(_checked_dtype(array, what), requirements=("C", "ALIGNED"))


def result(out: object | None, like: np.ndarray) -> np.ndarray:
    """Where the library writes: `out`, or a new array of the shape and dtype of `like`."""
    if out is None:
        return np.empty(like.shape, like.dtype)
    checked = _checked_layout(_checked_dtype(out, "out"), "out")
    if not checked.flags.writeable:
        raise ValueError("out is read-only")
    return checked


def values(numbers: npt.ArrayLike) -> np.ndarray:
    """Numbers that the library copies, as a contiguous float32 array of the same shape."""
    return np.require(np.asarray(numbers), dtype=np.float32, requirements=("C", "ALIGNED"))
