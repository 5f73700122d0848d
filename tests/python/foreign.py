"""An array of another library as DLPack shows it: numpy's memory behind an export that can lie."""

import ctypes as ct

import numpy as np


class Tensor(ct.Structure):
    _fields_ = [
        ("data", ct.c_void_p),
        ("device_type", ct.c_int32),
        ("device_id", ct.c_int32),
        ("ndim", ct.c_int32),
        ("code", ct.c_uint8),
        ("bits", ct.c_uint8),
        ("lanes", ct.c_uint16),
        ("shape", ct.POINTER(ct.c_int64)),
        ("strides", ct.POINTER(ct.c_int64)),
        ("byte_offset", ct.c_uint64),
    ]


class Legacy(ct.Structure):
    _fields_ = [("tensor", Tensor), ("manager", ct.c_void_p), ("deleter", ct.c_void_p)]


class Versioned(ct.Structure):
    _fields_ = [
        ("major", ct.c_uint32),
        ("minor", ct.c_uint32),
        ("manager", ct.c_void_p),
        ("deleter", ct.c_void_p),
        ("flags", ct.c_uint64),
        ("tensor", Tensor),
    ]


DELETER = ct.CFUNCTYPE(None, ct.c_void_p)
CODES = {"float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16), "bool": (6, 8)}
NAMES = {Legacy: b"dltensor", Versioned: b"dltensor_versioned"}
new_capsule = ct.pythonapi.PyCapsule_New
new_capsule.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_void_p]
new_capsule.restype = ct.py_object
name_of = ct.pythonapi.PyCapsule_GetName
name_of.argtypes, name_of.restype = [ct.py_object], ct.c_char_p


#: What was exported and is not given back yet, also when nobody else has the array any more.
LIVE = {}


class Foreign:
    """Exports a numpy array. What it exported lives in `exports` until it is given back."""

    def __init__(self, array, versioned=True, **changes):
        self.numpy = array
        self.shape, self.dtype = array.shape, array.dtype
        self.device = changes.pop("device", (1, 0))
        self._structure = Versioned if versioned else Legacy
        self._changes = changes
        self.exports = {}
        self.asked = []
        self.capsules = []

    def __array_namespace__(self):
        return Namespace

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if self._structure is Legacy and "max_version" in options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.asked.append(options)
        array, rank = self.numpy, self.numpy.ndim
        code, bits = CODES.get(array.dtype.name, (0, array.itemsize * 8))
        shape = (ct.c_int64 * rank)(*array.shape)
        strides = (ct.c_int64 * rank)(*[step // array.itemsize for step in array.strides])
        tensor = Tensor(array.ctypes.data, *self.device, rank, code, bits, 1, shape, strides, 0)
        managed = self._structure(tensor=tensor)
        if self._structure is Versioned:
            managed.major = 1
        for name, value in self._changes.items():
            owner = managed if hasattr(managed, name) else managed.tensor
            setattr(owner, name, value)
        exports = self.exports

        def give_back(address):
            exports.pop(address)
            LIVE.pop(address)

        deleter = DELETER(give_back)
        managed.deleter = ct.cast(deleter, ct.c_void_p)
        address = ct.addressof(managed)
        exports[address] = (managed, deleter, shape, strides)
        LIVE[address] = self
        self.capsules.append(new_capsule(address, NAMES[self._structure], None))
        return self.capsules[-1]


class Namespace:
    """The part of the array API that makes results."""

    @staticmethod
    def asarray(array):
        return Foreign(np.asarray(array))
