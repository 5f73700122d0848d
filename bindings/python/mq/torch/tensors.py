"""Tensors of PyTorch as the library sees them: their own memory, never copied unasked."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import producers
from .._lib import memory
from .._lib.interface import Tensor as View
from ..errors import Status, UnsupportedError

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def is_float(x: object) -> bool:
    """Whether it is a tensor that can be quantized."""
    return isinstance(x, torch.Tensor) and x.dtype in _NAMES


def check(tensor: torch.Tensor, what: str) -> None:
    """Refuses a tensor whose memory the library cannot work on."""
    if is_traceable_wrapper_subclass(tensor):
        raise TypeError(
            f"{what} is a {type(tensor).__name__}, which has no memory of its own; "
            "quantize before the model is sharded or packed"
        )
    if tensor.dtype not in _NAMES:
        raise TypeError(f"{what} has dtype {tensor.dtype}, expected float32, float16 or bfloat16")
    if tensor.layout != torch.strided:
        raise TypeError(f"{what} has layout {tensor.layout}, expected a dense tensor")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{what} is on {tensor.device}, expected cpu or cuda; move it there first")
    producers.check_torch(tensor, what)


def check_weight(weight: torch.Tensor, what: str) -> None:
    """Refuses a weight that the library cannot borrow as it is."""
    check(weight, what)
    if not weight.is_contiguous():
        raise ValueError(
            f"{what} is not contiguous (shape {tuple(weight.shape)}, strides {weight.stride()}); "
            "set its .data to .data.contiguous() before quantizing"
        )


def view(tensor: torch.Tensor) -> View:
    """A checked, contiguous tensor as the library takes it; the view keeps it alive."""
    if torch.jit.is_tracing():
        raise UnsupportedError(
            Status.MQ_ERR_UNSUPPORTED,
            "torch.jit.trace, and exporters that use it, do not see what quantizers compute: the "
            "trace would hold the values of this one run; fold_weight() and unquantize() first",
        )
    device = tensor.device.index if tensor.device.type == "cuda" else None
    shape, name = tuple(tensor.shape), _NAMES[tensor.dtype]
    return memory.view(tensor.data_ptr(), shape, name, device, tensor)


def activation(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """What passes a quantizer, without its graph; copied if it is not contiguous."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{what} is a {type(tensor).__name__}, expected a tensor")
    tensor = tensor.resolve_neg()
    check(tensor, what)
    return tensor.detach().as_subclass(torch.Tensor).contiguous()


class _OnGpu:
    """Device memory that torch makes a tensor of; bfloat16 has no name there, and goes as int16."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        codes = {torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "<i2"}
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": codes[dtype],
            "strides": None,
            "version": 2,
        }


def borrowed(given: View) -> torch.Tensor:
    """The tensor over memory that the library gave a callback: gone when that returns.

    On a GPU it is good for what is put on the library's stream until then.
    """
    address, name, shape, cuda_device = memory.described(given)
    dtype = _DTYPES[name]
    device = torch.device("cpu" if cuda_device is None else f"cuda:{cuda_device}")
    if 0 in shape:
        return torch.empty(shape, dtype=dtype, device=device)
    if cuda_device is not None:
        return torch.as_tensor(_OnGpu(address, shape, dtype), device=device).view(dtype)
    return torch.frombuffer(memory.bytes_at(address, shape, name), dtype=dtype).view(shape)
