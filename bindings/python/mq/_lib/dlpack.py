"""Tensors of other libraries: takes over what `__dlpack__` exports, without a copy."""

from __future__ import annotations

import ctypes as ct

import numpy as np

from . import interface as abi

_NAME, _USED = b"dltensor", b"used_dltensor"
_VERSIONED, _USED_VERSIONED = b"dltensor_versioned", b"used_dltensor_versioned"
#: The newest DLPack that is understood; its minor versions keep the structures as they are.
MAX_VERSION = (1, 0)
_READ_ONLY = 1
#: DLPack's devices that are one of the library's: pinned memory is host memory, managed memory the
#: device's.
_DEVICES = {1: abi.DEVICE_CPU, 2: abi.DEVICE_CUDA, 3: abi.DEVICE_CPU, 13: abi.DEVICE_CUDA}
_DTYPE_NAMES = {codes: name for name, codes in abi.DTYPES.items()}

# Deleters may touch Python objects: they are called with the interpreter's lock held.
_DELETER = ct.PYFUNCTYPE(None, ct.c_void_p)


def is_cuda(device_type: int) -> bool:
    """Whether one of DLPack's device types is a CUDA device's."""
    return _DEVICES.get(device_type) == abi.DEVICE_CUDA


class _Managed(ct.Structure):
    _fields_ = [("tensor", abi.Tensor), ("manager", ct.c_void_p), ("deleter", ct.c_void_p)]


class _Versioned(ct.Structure):
    _fields_ = [
        ("major", ct.c_uint32),
        ("minor", ct.c_uint32),
        ("manager", ct.c_void_p),
        ("deleter", ct.c_void_p),
        ("flags", ct.c_uint64),
        ("tensor", abi.Tensor),
    ]


_is_valid = ct.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ct.py_object, ct.c_char_p], ct.c_int
_pointer = ct.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ct.py_object, ct.c_char_p], ct.c_void_p
_set_name = ct.pythonapi.PyCapsule_SetName
_set_name.argtypes, _set_name.restype = [ct.py_object, ct.c_char_p], ct.c_int


class Imported:
    """A tensor of another library. Its memory is given back when this is collected."""

    def __init__(self, capsule: object) -> None:
        """Takes over what a capsule holds; raises BufferError for one that cannot be."""
        self._deleter: int | None = None
        if _is_valid(capsule, _VERSIONED):
            self._address = int(_pointer(capsule, _VERSIONED))
            versioned = _Versioned.from_address(self._address)
            _set_name(capsule, _USED_VERSIONED)
            self._deleter = versioned.deleter
            if versioned.major != MAX_VERSION[0]:
                raise BufferError(
                    f"it is exported as DLPack {versioned.major}.{versioned.minor}, but only "
                    f"{MAX_VERSION[0]}.x is understood"
                )
            self.read_only = bool(versioned.flags & _READ_ONLY)
            given = versioned.tensor
        elif _is_valid(capsule, _NAME):
            self._address = int(_pointer(capsule, _NAME))
            managed = _Managed.from_address(self._address)
            _set_name(capsule, _USED)
            self._deleter = managed.deleter
            self.read_only = False
            given = managed.tensor
        else:
            raise BufferError("its __dlpack__() gave no DLPack capsule")
        _check_extents(given)
        self._tensor = abi.Tensor.from_buffer_copy(given)
        #: The number of extents, and these.
        self.ndim = int(given.ndim)
        self.shape: tuple[int, ...] = tuple(given.shape[: given.ndim])
        #: Elements from one index to the next, by axis.
        self.strides = _row_major(self.shape)
        if given.strides:
            self.strides = tuple(given.strides[: given.ndim])
        #: Whether the elements lie one after the other, the last index running fastest.
        self.contiguous = _is_row_major(self.shape, self.strides)
        if self.contiguous:
            self._tensor.strides = None
        device = self._tensor.device
        #: The index of the CUDA device, None for host memory, or -1 elsewhere.
        self.cuda: int | None = None
        kind = _DEVICES.get(device.device_type)
        if kind == abi.DEVICE_CPU:
            self._tensor.device = abi.Device(abi.DEVICE_CPU, 0)
        elif kind == abi.DEVICE_CUDA:
            self.cuda = device.device_id
            self._tensor.device.device_type = kind
        else:
            self.cuda = -1

    def __del__(self) -> None:
        deleter, self._deleter = self._deleter, None
        if deleter:
            _DELETER(deleter)(self._address)

    def view(self) -> abi.Tensor:
        """The tensor for the library; keeps the memory."""
        view = abi.Tensor.from_buffer_copy(self._tensor)
        view.owner = self
        return view

    @property
    def dtype_name(self) -> str:
        """Name in numpy of a dtype that the library has; else DLPack's code, bits and lanes."""
        dtype = self._tensor.dtype
        name = _DTYPE_NAMES.get((dtype.code, dtype.bits)) if dtype.lanes == 1 else None
        return name or f"DLPack code {dtype.code} with {dtype.bits} bits, {dtype.lanes} lanes"

    def packed(self) -> np.ndarray:
        """A row-major copy of a tensor in host memory; of bfloat16 the bits, as uint16."""
        size = self._tensor.dtype.bits // 8
        least = sum((n - 1) * s for n, s in zip(self.shape, self.strides) if s < 0)
        most = sum((n - 1) * s for n, s in zip(self.shape, self.strides) if s > 0)
        address = self._tensor.data + self._tensor.byte_offset + least * size
        memory = (ct.c_uint8 * ((most - least + 1) * size)).from_address(address)
        strides = [stride * size for stride in self.strides]
        offset = -least * size
        bits = np.ndarray(self.shape, f"u{size}", memory, offset, strides)
        return np.ascontiguousarray(bits)

    def with_memory(self, memory: np.ndarray) -> abi.Tensor:
        """A row-major view of the same dtype and extents in other host memory."""
        shape = (ct.c_int64 * len(self.shape))(*self.shape)
        device = abi.Device(abi.DEVICE_CPU, 0)
        dtype, rank = self._tensor.dtype, len(self.shape)
        view = abi.Tensor(memory.ctypes.data, device, rank, dtype, shape, None, 0)
        view.owner = memory
        return view


def _check_extents(given: abi.Tensor) -> None:
    """Refuses what is no tensor, as far as that can be seen without touching its memory."""
    if not 0 <= given.ndim <= abi.MAX_RANK:
        raise BufferError(f"it has {given.ndim} axes, expected 0 to {abi.MAX_RANK}")
    if given.ndim and not given.shape:
        raise BufferError("its shape is NULL")
    shape = given.shape[: given.ndim] if given.ndim else []
    if any(extent < 0 for extent in shape):
        raise BufferError(f"it has the shape {tuple(shape)}, expected extents from 0 on")
    if not given.data and 0 not in shape:
        raise BufferError(f"its data is NULL, but its shape {tuple(shape)} has elements")


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        return True
    pairs = zip(shape, strides, _row_major(shape))
    return all(given == wanted for extent, given, wanted in pairs if extent > 1)
