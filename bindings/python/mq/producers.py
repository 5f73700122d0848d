"""What DLPack does not say about the libraries it connects: streams, gradients, new arrays.

None of them is imported: whoever has an array of a library has imported it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from ._lib.dlpack import is_cuda

#: Roots of the packages whose arrays never change once they are made.
_IMMUTABLE = {"jax", "jaxlib"}


def roots(array: object) -> set[str]:
    """The top packages of an array's classes, such as {"torch", "builtins"}."""
    kind: Any = type(array)
    return _roots(kind)


@functools.lru_cache(maxsize=64)
def _roots(kind: Any) -> set[str]:
    return {base.__module__.partition(".")[0] for base in kind.__mro__}


def speaks_dlpack(array: object) -> bool:
    """Whether it is an array that `__dlpack__` exports."""
    return hasattr(type(array), "__dlpack__") and hasattr(type(array), "__dlpack_device__")


def detached(array: Any) -> Any:
    """The same memory without a gradient; libraries refuse to export what records one."""
    return array.detach() if records_gradient(array) and hasattr(array, "detach") else array


def records_gradient(array: object) -> bool:
    """Whether operations on it are recorded for a gradient, as torch does."""
    return getattr(array, "requires_grad", False) is True


def is_immutable(array: object) -> bool:
    """Whether its library forbids changing it, whatever its export says."""
    return bool(roots(array) & _IMMUTABLE)


def current_stream(array: Any, device: int) -> int:
    """The CUstream its library works on now; 0 for the default stream."""
    from_library = roots(array)
    if "torch" in from_library:
        return int(sys.modules["torch"].cuda.current_stream(device).cuda_stream)
    if "cupy" in from_library:
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    return 0


def check_torch(array: Any, what: str) -> None:
    """Refuses a tensor of torch whose memory does not hold the values that it stands for.

    Raises ValueError for one whose storage was resized or freed, and for a view that torch negates
    or conjugates as it reads it. DLPack tells of neither.
    """
    if array.is_neg() or array.is_conj():
        raise ValueError(f"{what} is a negated or conjugated view; pass a .clone() of it")
    shape, strides = array.shape, array.stride()
    if 0 in shape:
        return
    last = array.storage_offset() + sum((n - 1) * step for n, step in zip(shape, strides))
    held = array.untyped_storage().nbytes()
    if (last + 1) * array.element_size() > held:
        raise ValueError(
            f"{what} has the shape {tuple(shape)}, but its storage was resized or freed, and holds "
            f"{held} bytes"
        )


def is_on_cuda(array: Any) -> bool:
    """Whether an array that speaks DLPack is on a CUDA device."""
    return is_cuda(array.__dlpack_device__()[0])


def dtype_name(array: Any) -> str:
    """What numpy calls the dtype of an array of numpy, torch or cupy."""
    dtype = array.dtype
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def address(array: Any) -> int | None:
    """Where its memory is now, if its library lets that be changed; None elsewhere."""
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data_ptr()) if "torch" in roots(array) else None


def empty_like(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> Any:
    """A new, row-major array of the same library and device; None if it can't be made.

    Its dtype is that of the array, or the one that is given.
    """
    from_library = roots(array)
    if "torch" in from_library:
        torch = sys.modules["torch"]
        kind = array.dtype if dtype is None else getattr(torch, dtype.name)
        return torch.empty(shape, dtype=kind, device=array.device)
    if "cupy" in from_library:
        with array.device:
            return sys.modules["cupy"].empty(shape, array.dtype if dtype is None else dtype)
    return None


def bytes_beside(array: Any, size: int) -> Any:
    """New memory where an array of torch or cupy is, as an array of bytes of that library.

    Raises TypeError for an array of another library.
    """
    return _made_beside(array, (size,), np.dtype(np.uint8))


def zeros_beside(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Zeros where an array of torch or cupy is, as an array of that library.

    Raises TypeError for an array of another library.
    """
    made = _made_beside(array, shape, dtype)
    if "torch" in roots(array):
        return made.zero_()
    made.fill(0)
    return made


def _made_beside(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    made = empty_like(array, shape, dtype)
    if made is None:
        raise TypeError(
            f"memory beside a {type(array).__name__} on a CUDA device cannot be made; pass an "
            "array of torch or cupy, or one in host memory"
        )
    return made


def pointer(array: Any) -> int:
    """The address of an array of torch or cupy."""
    return int(array.data_ptr() if "torch" in roots(array) else array.data.ptr)


def viewed(array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Bytes of torch or cupy as numbers of another dtype, of a shape."""
    kind: Any = dtype
    if "torch" in roots(array):
        kind = getattr(sys.modules["torch"], dtype.name)
    return array.view(kind).reshape(shape)


def to_host(array: Any) -> np.ndarray:
    """An array of numpy, torch or cupy as one of numpy, copied if it is on a CUDA device."""
    if isinstance(array, np.ndarray):
        return array
    host = array.detach().cpu().numpy() if "torch" in roots(array) else array.get()
    return np.asarray(host)


def to_place_of(array: np.ndarray, like: Any) -> Any:
    """A copy of a numpy array as one of torch or cupy, where `like` is."""
    if "torch" in roots(like):
        torch = sys.modules["torch"]
        bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
        copied = torch.from_numpy(bits).to(like.device)
        return copied.view(torch.bfloat16) if bits is not array else copied
    with like.device:
        return sys.modules["cupy"].asarray(array)


def copy_bytes(array: Any, into: Any) -> None:
    """Copies an array of torch or cupy into as many bytes of that library, on their device."""
    if "torch" in roots(into):
        into.copy_(array.contiguous().reshape(-1).view(sys.modules["torch"].uint8))
    else:
        with into.device:
            whole = sys.modules["cupy"].ascontiguousarray(array)
            into.data.copy_from_device_async(whole.data, whole.nbytes)


def from_numpy(array: Any, like: Any) -> Any:
    """A numpy array as one of the library of `like`, by the array API standard.

    Raises TypeError when that library does not follow it.
    """
    if not hasattr(like, "__array_namespace__"):
        raise TypeError(
            f"a new {type(like).__name__} cannot be made: give out, an array of any library"
        )
    return like.__array_namespace__().asarray(array)
