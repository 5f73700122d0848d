"""Checks arrays, numpy's and those of other libraries, before the library sees them."""

from __future__ import annotations

from typing import Any, Union

import numpy as np
import numpy.typing as npt

from . import producers
from ._lib import dlpack
from ._lib.interface import DTYPES, Tensor
from .errors import StateError, Status

#: A float32, float16 or bfloat16 (`ml_dtypes.bfloat16`) numpy array, or an array of another library
#: that speaks DLPack (torch, cupy, jax) on the CPU or a CUDA device. Results are of the same kind.
Array = Any
_EXPECTED = "expected float32, float16 or bfloat16"


#: What the library gets of an array: the array, an exported tensor, or a view of a copy.
View = Union[np.ndarray, dlpack.Imported, Tensor]


class Operand:
    """An array of the caller's, and the view of it that the library gets."""

    __slots__ = ("_address", "_dtype", "_given", "_like", "shape", "stream", "view")

    def __init__(
        self,
        given: Array,
        view: View,
        dtype: str | None = None,
        stream: tuple[int, int] | None = None,
        like: Array = None,
    ) -> None:
        self._given = given
        self._like = like
        #: What the library gets.
        self.view = view
        #: The extents.
        self.shape: tuple[int, ...] = tuple(view.shape[: view.ndim])
        self._address: tuple[object, ...] | None = None
        self._dtype = dtype
        #: The CUDA device, and the stream the array's library works on now; None for host memory.
        self.stream = stream

    @property
    def array(self) -> Array:
        """The array to return to the caller, once it is written."""
        if self._like is None:
            return self._given
        return producers.from_numpy(self._given, self._like)

    @property
    def dtype(self) -> str:
        """The name of the dtype in numpy."""
        return self._dtype or str(self._given.dtype.name)

    def stays_in_place(self) -> None:
        """Remembers where the array is, for `check_in_place`."""
        self._address = self._place()

    def _place(self) -> tuple[object, ...]:
        given = self._given  # which need have neither shape nor dtype, only speak DLPack
        shape = getattr(given, "shape", self.shape)
        return producers.address(given), tuple(shape), getattr(given, "dtype", None)

    def check_in_place(self, what: str) -> None:
        """Raises StateError when the array was moved, resized, converted or freed since.

        The library would work on memory that is the array's no more. numpy's `resize` refuses that
        unless it is told not to look; torch does not.
        """
        if self._place() != self._address:
            raise StateError(
                Status.MQ_ERR_STATE,
                f"{what} was moved, resized or freed, or its dtype changed, since it was "
                f"registered with the shape {self.shape}; make a new model",
            )

    @property
    def read_only(self) -> bool:
        """Whether the array must not be written to."""
        if isinstance(self.view, np.ndarray):
            return not self.view.flags.writeable
        is_view = isinstance(self.view, dlpack.Imported)
        return (is_view and self.view.read_only) or producers.is_immutable(self._given)


def _of_numpy(checked: np.ndarray) -> Operand:
    return Operand(checked, checked)


def _checked_dtype(array: object, what: str) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{what} is a {type(array).__name__}, expected a numpy array, or one of a library that "
            "speaks DLPack"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{what} is a masked array, whose masked values would count; pass .filled(...)"
        )
    if array.dtype.name not in DTYPES or not array.dtype.isnative:
        raise TypeError(f"{what} has dtype {array.dtype}, {_EXPECTED}")
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


def _exported(array: Any, what: str) -> tuple[dlpack.Imported, tuple[int, int] | None]:
    """What `array` exports, checked but for its layout; and its stream."""
    name = type(array).__name__
    source = producers.detached(array)
    try:
        kind, device = source.__dlpack_device__()
        stream = None
        options: dict[str, Any] = {}
        if dlpack.is_cuda(kind):
            stream = (int(device), producers.current_stream(source, int(device)))
            options["stream"] = stream[1] or 1  # DLPack's number of the legacy default stream
        try:
            capsule = source.__dlpack__(max_version=dlpack.MAX_VERSION, **options)
        except TypeError:  # a producer from before the versions
            capsule = source.__dlpack__(**options)
        view = dlpack.Imported(capsule)
    except Exception as error:
        raise TypeError(f"{what} is a {name} that DLPack cannot export: {error}") from error
    if "torch" in producers.roots(array):
        producers.check_torch(array, what)
    if view.dtype_name not in DTYPES:
        dtype = getattr(array, "dtype", view.dtype_name)
        raise TypeError(f"{what} has dtype {dtype}, {_EXPECTED}")
    if view.cuda == -1:
        raise ValueError(f"{what} is a {name} on device type {kind}, expected the CPU or CUDA")
    return view, stream


def _not_contiguous(view: dlpack.Imported, what: str) -> ValueError:
    return ValueError(
        f"{what} is not C-contiguous (shape {view.shape}, strides {view.strides} in elements); "
        "pass a contiguous copy and keep it"
    )


def registered(array: object, what: str, *, written_by: str | None) -> Operand:
    """An array that the library borrows as it is: never copied. `written_by` names a verb."""
    if isinstance(array, np.ndarray) or not producers.speaks_dlpack(array):
        operand = _of_numpy(_checked_layout(_checked_dtype(array, what), what))
    else:
        view, stream = _exported(array, what)
        if not view.contiguous:
            raise _not_contiguous(view, what)
        operand = Operand(array, view, view.dtype_name, stream)
    if written_by is not None:
        check_writable(operand, what, written_by)
    operand.stays_in_place()
    return operand


def check_writable(operand: Operand, what: str, written_by: str) -> None:
    """Refuses an array that a verb must not write to."""
    if operand.read_only:
        raise ValueError(f"{what} is read-only, but {written_by}() writes to it; pass a copy")


def activation(array: object, what: str) -> Operand:
    """An array that the library reads during one call; copied if it is not C-contiguous."""
    if isinstance(array, np.ndarray) or not producers.speaks_dlpack(array):
        checked = np.require(_checked_dtype(array, what), requirements=("C", "ALIGNED"))
        return _of_numpy(checked)
    view, stream = _exported(array, what)
    if view.contiguous:
        return Operand(array, view, view.dtype_name, stream)
    if view.cuda is None:
        return Operand(array, view.with_memory(view.packed()), view.dtype_name)
    if not hasattr(array, "contiguous"):
        raise _not_contiguous(view, what)
    copy, stream = _exported(array.contiguous(), what)
    return Operand(array, copy, copy.dtype_name, stream)


def result(out: object | None, like: Operand) -> Operand:
    """Where the library writes: `out`, or a new array of the kind, shape and dtype of `like`."""
    if out is None:
        return _new(like)
    if isinstance(out, np.ndarray) or not producers.speaks_dlpack(out):
        operand = _of_numpy(_checked_layout(_checked_dtype(out, "out"), "out"))
    else:
        if producers.records_gradient(out):
            raise ValueError("out requires a gradient, but is written to; pass out.detach()")
        view, stream = _exported(out, "out")
        if not view.contiguous:
            raise _not_contiguous(view, "out")
        operand = Operand(out, view, view.dtype_name, stream)
    if operand.read_only:
        raise ValueError("out is read-only")
    return operand


def _new(like: Operand) -> Operand:
    if isinstance(like.view, np.ndarray):
        return _of_numpy(np.empty(like.shape, like.view.dtype))
    made = producers.empty_like(like._given, like.shape)
    if made is not None:
        view, stream = _exported(made, "out")
        return Operand(made, view, view.dtype_name, stream)
    if like.stream is not None:
        raise TypeError(
            f"a new {type(like._given).__name__} on a CUDA device cannot be made: give out, an "
            "array of a library that can be written to"
        )
    new = np.empty(like.shape, dtype_named(like.dtype))
    return Operand(new, new, like=like._given)


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype in numpy of a name in DTYPES; bfloat16 needs the package ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # optional, and slow to import

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def values(numbers: npt.ArrayLike) -> np.ndarray:
    """Numbers that the library copies, as a contiguous float32 array of the same shape.

    Raises TypeError for what is no real number, such as None.
    """
    if np.asarray(numbers).dtype.kind in "cOSUmM":
        raise TypeError(f"expected numbers, got {numbers!r:.50}")
    return np.require(np.asarray(numbers), dtype=np.float32, requirements=("C", "ALIGNED"))
