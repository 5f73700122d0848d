"""Codes and scales of one array: the bits that fake quantization only pretends to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _lib, producers, tensors
from ._lib import interface as abi
from ._lib import parts
from .configuration import Attributes
from .contexts import model_for
from .device_parts import DeviceMemory
from .functional import add_weight, is_list, members, parsed
from .tensors import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """What `pack` gives, to be stored or handed to a kernel.

    The parts are numpy arrays; those of an array of torch or cupy on a CUDA device are arrays of
    that library on that device.

    FP8 numbers are their bits as uint8: `.view(ml_dtypes.float8_e4m3fn)` shows the values. The
    formats are those of mq_compress() in mq.h.
    """

    #: The codes, uint8 or int8: of 4-bit formats two in a byte.
    data: Array
    #: The scales: float32, FP8 (E4M3), exponents plus 127, or int8 for NF4.
    scales: Array
    #: What the scales are scaled with, float32, or None.
    double_scale: Array | None
    #: What NF4's scales are counted from, float32 of shape `[]`, or None.
    scale_zeros: Array | None
    #: The extents of the array.
    shape: tuple[int, ...]
    #: numpy's name of its dtype.
    dtype: str
    #: The attributes it was packed with: every tuple is a list, what was dynamic but for blocks
    #: with scales of their own is static.
    attributes: dict[str, Any] | list[dict[str, Any]]
    #: The amax it was packed with, one for each member of a list of attributes, or None.
    amax: tuple[np.ndarray | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and all scales."""
        return sum(int(part.nbytes) for part in self.parts().values())

    def parts(self) -> dict[str, Array]:
        """The parts that the format has, by their names in the C library."""
        named = {
            "weight": self.data,
            "scale": self.scales,
            "double_scale": self.double_scale,
            "scale_zeros": self.scale_zeros,
        }
        return {name: part for name, part in named.items() if part is not None}

    def on_host(self) -> Packed:
        """The same in numpy arrays, copied if they are on a CUDA device."""
        fields = ("data", "scales", "double_scale", "scale_zeros")
        given = {name: getattr(self, name) for name in fields}
        host = {name: None if part is None else _host(part) for name, part in given.items()}
        return dataclasses.replace(self, **host)


def pack(x: Array, attributes: Attributes, amax: npt.ArrayLike | None = None) -> Packed:
    """Quantizes an array to codes and scales.

    May be called from any thread.

    Args:
        x: float32, float16 or bfloat16; in host memory copied first if it is not C-contiguous. On a
            CUDA device it is packed there: an array of torch or cupy.
        attributes: as in `fake_quant`, of a format that has a packed form: INT4 in blocks, INT8,
            FP8, NVFP4, MXFP4, MXFP8, NF4, or INT4 followed by FP8.
        amax: as in `fake_quant`; None: taken from `x`, which a list requires.

    Raises:
        UnsupportedError: the format has no packed form.
        InvalidArgumentError: `amax` does not fit `x`, or is given for a list.
        ValueError: `x` has no elements.
        NumericError: NaN or Inf in `x` or `amax`, or negative values under `unsigned`.
        TypeError: an array on a CUDA device of another library than torch and cupy; and, as
            ConfigError, as `fake_quant`.
    """
    given = tensors.activation(x, "x")
    attributes = _static(attributes)
    memory = None if given.stream is None else DeviceMemory(x)
    if 0 in given.shape:
        raise ValueError(f"x has the shape {given.shape}: there is nothing to pack")
    with model_for(given) as model:
        layer = add_weight(model, given, attributes, "max")
        quantizers = members(model, attributes)
        if amax is not None:
            if is_list(attributes):
                raise ValueError("amax must be None for a list of attributes")
            held = _lib.amax_of(quantizers[0])
            values = tensors.values(amax)
            fits = held is not None and held.size == values.size
            shaped = values.reshape(held.shape) if held is not None and fits else values
            _lib.call(abi.mq_quantizer_set_amax, quantizers[0], shaped)
        amaxes = tuple(_lib.amax_of(member) for member in quantizers)
        callback = None if memory is None else memory.callback
        _lib.size_from(abi.mq_compress, model, None, callback, 0)
        if memory is None:
            found = {name: part.read() for name, part in parts.of(layer).items()}
        else:
            found = memory.parts(layer)
    return Packed(
        found["weight"],
        found["scale"],
        found.get("double_scale"),
        found.get("scale_zeros"),
        given.shape,
        given.dtype,
        attributes,
        amaxes,
    )


def _static(attributes: Attributes) -> dict[str, Any] | list[dict[str, Any]]:
    """Attributes under which the array's own amax is kept, for `unpack` to have it."""
    given = parsed(attributes)
    for member in given if isinstance(given, list) else [given]:
        if not isinstance(member, dict):
            continue  # the library refuses it
        blocks = member.get("block_sizes")
        has_block_scales = isinstance(blocks, dict) and blocks.get("scale_bits") is not None
        for settings in () if has_block_scales else (member, blocks):
            if isinstance(settings, dict) and settings.get("type") == "dynamic":
                settings["type"] = "static"
    found: dict[str, Any] | list[dict[str, Any]] = given
    return found


def unpack(packed: Packed, dtype: npt.DTypeLike | None = None, out: Array | None = None) -> Array:
    """The values of codes: what `fake_quant` gives, but `-0` comes back as `+0` from integers.

    May be called from any thread.

    Args:
        packed: what `pack` gave; its arrays may have been stored meanwhile. Those on a CUDA device
            are unpacked there.
        dtype: float32, float16 or bfloat16, rounded to after every member of a list of attributes;
            None: that of the packed array.
        out: where they go, of the shape of the packed array and of `dtype`; in host memory, or,
            for parts on a CUDA device, an array of their library there.

    Returns:
        `out`, or a new array of the library of the parts, and where they are.

    Raises:
        TypeError: another dtype. ValueError: parts that do not fit the shape and the attributes.
        InvalidArgumentError: `out` does not fit.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed is a {type(packed).__name__}, expected what pack() gave")
    name = packed.dtype if dtype is None else str(dtype if type(dtype) is str else np.dtype(dtype))
    if name not in abi.DTYPES:
        raise TypeError(f"dtype is {name}, expected float32, float16 or bfloat16")
    if isinstance(packed.data, np.ndarray) or not producers.speaks_dlpack(packed.data):
        return _unpacked(packed, name, out)
    if producers.is_on_cuda(packed.data) and (out is None or _is_there(out)):
        return _unpacked(packed, name, out, beside=packed.data)
    host = _unpacked(packed.on_host(), name, out)
    return producers.to_place_of(host, packed.data) if out is None else host


def _is_there(out: Array) -> bool:
    is_host = isinstance(out, np.ndarray) or not producers.speaks_dlpack(out)
    return not is_host and producers.is_on_cuda(out)


def _host(part: Array) -> Array:
    return producers.to_host(part) if producers.speaks_dlpack(part) else part


def _unpacked(packed: Packed, name: str, out: Array | None, beside: Array = None) -> Array:
    # The library unpacks the weights of a model: so that is what it gets, with the packed parts.
    dtype = tensors.dtype_named(name)
    if beside is None:
        weight, memory = np.zeros(packed.shape, dtype), parts.Memory()
    else:
        weight, memory = producers.zeros_beside(beside, packed.shape, dtype), DeviceMemory(beside)
    zeros = tensors.activation(weight, "packed")
    # Once its codes are there, the weight may be written over.
    result = tensors.result(weight if out is None else out, zeros)
    with model_for(zeros) as model:
        layer = add_weight(model, zeros, packed.attributes, None)
        for quantizer, values in zip(members(model, packed.attributes), packed.amax):
            if values is not None:
                _lib.call(abi.mq_quantizer_set_amax, quantizer, tensors.values(values))
        _lib.size_from(abi.mq_compress, model, None, memory.callback, 0)
        memory.fill(layer, packed.parts())
        _lib.call(abi.mq_layer_weight, layer, result.view)
    return result.array
