"""Memory of other libraries than numpy, on the CPU or a CUDA device, as C sees it, and back."""

from __future__ import annotations

import ctypes as ct
import math
from typing import Any, Callable

from . import _raised
from . import interface as abi

#: Bytes of an element, by the name of its dtype.
_SIZES = {name: bits // 8 for name, (_, bits) in abi.DTYPES.items()}
_NAMES = {codes: name for name, codes in abi.DTYPES.items()}


def view(
    pointer: int, shape: tuple[int, ...], dtype: str, cuda_device: int | None, owner: object
) -> abi.Tensor:
    """A row-major tensor at an address; `owner`, which the view keeps alive, holds the memory."""
    code, bits = abi.DTYPES[dtype]
    extents = (ct.c_int64 * len(shape))(*shape)
    device = abi.Device(abi.DEVICE_CPU, 0)
    if cuda_device is not None:
        device = abi.Device(abi.DEVICE_CUDA, cuda_device)
    made = abi.Tensor(pointer, device, len(shape), abi.DType(code, bits, 1), extents, None, 0)
    made.owner = owner
    return made


def bytes_of(tensor: abi.Tensor) -> tuple[Any, str, tuple[int, ...]]:
    """The memory of a tensor of C's in host memory: a buffer, its dtype and its shape.

    Gone when the callback that it was given to returns.
    """
    shape = tuple(tensor.shape[: tensor.ndim])
    dtype = _NAMES[tensor.dtype.code, tensor.dtype.bits]
    if tensor.device.device_type != abi.DEVICE_CPU:
        raise NotImplementedError("the forward of a layer is only called with host memory")
    size = math.prod(shape) * _SIZES[dtype]
    return (ct.c_char * size).from_address(tensor.data + tensor.byte_offset), dtype, shape


def layer_forward(
    compute: Callable[[abi.Tensor, abi.Tensor, abi.Tensor], object],
) -> abi.LayerForwardFn:
    """`compute(x, weight, y)`, which writes `y`, for mq_layer_forward_fn."""

    def run(_user_data: object, x: Any, weight: Any, y: Any) -> int:
        try:
            compute(x[0], weight[0], y[0])
            return 0
        except BaseException as error:
            _raised.error = error
            return 1

    return abi.LayerForwardFn(None, abi.LAYER_FORWARD(run), abi.RELEASE())
