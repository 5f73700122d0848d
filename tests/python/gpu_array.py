"""An array on a GPU that calls itself cupy's, and the driver behind it, by ctypes alone."""

import ctypes as ct
import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np

from foreign import Foreign


def load():
    """The driver with the device's primary context current; None without a driver or device."""
    try:
        driver = ct.CDLL("libcuda.so.1")
    except OSError:
        driver = None
    count, context = ct.c_int(), ct.c_void_p()
    found = driver is not None and driver.cuInit(0) == 0
    found = found and driver.cuDeviceGetCount(ct.byref(count)) == 0 and count.value > 0
    if not found:
        assert os.environ.get("MQ_REQUIRE_CUDA") != "1", "MQ_REQUIRE_CUDA=1, but there is no GPU"
        return None
    check(driver.cuDevicePrimaryCtxRetain(ct.byref(context), 0))
    check(driver.cuCtxSetCurrent(context))
    driver.cuMemFree_v2.argtypes = [ct.c_uint64]
    driver.cuMemcpyHtoD_v2.argtypes = [ct.c_uint64, ct.c_void_p, ct.c_size_t]
    driver.cuMemcpyDtoH_v2.argtypes = [ct.c_void_p, ct.c_uint64, ct.c_size_t]
    stream = ct.c_void_p
    driver.cuMemcpyDtoDAsync_v2.argtypes = [ct.c_uint64, ct.c_uint64, ct.c_size_t, stream]
    driver.cuMemsetD8Async.argtypes = [ct.c_uint64, ct.c_ubyte, ct.c_size_t, stream]
    return driver


def check(code):
    assert code == 0, f"CUDA error {code}"


DRIVER = load()


class Pointer(SimpleNamespace):
    """An address, as cupy's arrays show it."""

    def __init__(self, address):
        super().__init__(ptr=address)

    def copy_from_device_async(self, source, size):
        check(DRIVER.cuMemcpyDtoDAsync_v2(self.ptr, source.ptr, size, sys.modules["cupy"].ptr))


class ndarray(Foreign):  # noqa: N801
    """Memory on device 0, with what cupy's has that mq uses."""

    def __init__(self, host):
        pointer = ct.c_uint64()
        check(DRIVER.cuMemAlloc_v2(ct.byref(pointer), ct.c_size_t(max(host.nbytes, 1))))
        self.pointer = pointer.value
        super().__init__(host, device=(2, 0), data=self.pointer)
        self.dlpack_device, self.device = self.device, nullcontext()
        host = np.ascontiguousarray(host)
        check(DRIVER.cuMemcpyHtoD_v2(self.pointer, host.ctypes.data, host.nbytes))

    def __dlpack_device__(self):
        return self.dlpack_device

    def __dlpack__(self, **options):
        self.device, kept = self.dlpack_device, self.device
        try:
            return super().__dlpack__(**options)
        finally:
            self.device = kept

    def __del__(self):
        check(DRIVER.cuMemFree_v2(self.pointer))

    @property
    def data(self):
        return Pointer(self.pointer)

    @property
    def nbytes(self):
        return self.numpy.nbytes

    def view(self, dtype):
        return Alias(self, self.numpy.view(dtype))

    def reshape(self, shape):
        return Alias(self, self.numpy.reshape(shape))

    def fill(self, value):
        assert value == 0
        check(DRIVER.cuMemsetD8Async(self.pointer, 0, self.nbytes, sys.modules["cupy"].ptr))

    def get(self):
        """A copy on the host, once all work is done."""
        check(DRIVER.cuCtxSynchronize())
        host = np.empty(self.shape, self.dtype)
        check(DRIVER.cuMemcpyDtoH_v2(host.ctypes.data, self.pointer, host.nbytes))
        return host


class Alias(ndarray):
    """The same memory as numbers of another dtype, or in another shape."""

    def __init__(self, owner, host):
        self.owner, self.pointer = owner, owner.pointer
        Foreign.__init__(self, host, device=(2, 0), data=self.pointer)
        self.dlpack_device, self.device = self.device, nullcontext()

    def __del__(self):
        pass


ndarray.__module__ = Alias.__module__ = "cupy"


class Cupy(type(sys)):
    """The module: its current stream, and new arrays."""

    def __init__(self):
        super().__init__("cupy")
        self.ptr = 0
        self.cuda = self

    def get_current_stream(self):
        return self

    def empty(self, shape, dtype):
        return ndarray(np.zeros(shape, dtype))

    def asarray(self, array):
        return ndarray(array)

    def ascontiguousarray(self, array):
        assert isinstance(array, ndarray)
        return array


def new_stream():
    """A stream that does not wait for the default one."""
    stream = ct.c_void_p()
    check(DRIVER.cuStreamCreate(ct.byref(stream), 1))
    return stream.value
