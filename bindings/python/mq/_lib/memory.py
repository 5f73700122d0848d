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


def described(tensor: abi.Tensor) -> tuple[int, str, tuple[int, ...], int | None]:
    """A tensor of C's: its address, dtype and shape, and the index of its CUDA device, if any."""
    shape = tuple(tensor.shape[: tensor.ndim])
    dtype = _NAMES[tensor.dtype.code, tensor.dtype.bits]
    is_there = tensor.device.device_type == abi.DEVICE_CUDA
    device = tensor.device.device_id if is_there else None
    return (tensor.data or 0) + tensor.byte_offset, dtype, shape, device


def bytes_at(address: int, shape: tuple[int, ...], dtype: str) -> Any:
    """The host memory of so many elements at an address, as a buffer."""
    return (ct.c_char * (math.prod(shape) * _SIZES[dtype])).from_address(address)


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
