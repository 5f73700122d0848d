"""Calls libmq with Python values, and turns its statuses into exceptions.

No module outside this folder touches ctypes. Arguments are `int` (handles, sizes), `str`, checked
numpy arrays and exported tensors (`tensors`), `Callback` and None.
"""

from __future__ import annotations

import ctypes as ct
import logging
import math
import threading
from typing import Any, Callable, Protocol, Union

import numpy as np

from ..errors import error_for
from ..outcome import Progress
from . import interface as abi
from . import interrupts
from .dlpack import Imported

#: What a callback that outlives a call (progress, the forward of a layer) raised, on its way to the
#: call on the same thread that it ran in.
_raised = threading.local()
_DTYPE_NAMES = {codes: name for name, codes in abi.DTYPES.items()}


def _guarded(body: Callable[..., object], errors: list[BaseException]) -> Callable[..., int]:
    def guarded(_user_data: object, *arguments: Any) -> int:
        try:
            interrupts.deliver()
            body(*arguments)
            return 0
        except BaseException as error:
            errors.append(error)
            return 1

    return interrupts.entry(guarded)


class Callback:
    """Python functions as C calls them. An exception in one stops the verb; `call` re-raises it.

    `functions` are prototypes and bodies in the order of the members of `structure`; a body of None
    is NULL.
    """

    def __init__(
        self, structure: Any, *functions: tuple[Any, Callable[..., object] | None]
    ) -> None:
        self.errors: list[BaseException] = []  # a closure over self would keep the model alive
        members = [
            prototype() if body is None else prototype(_guarded(body, self.errors))
            for prototype, body in functions
        ]
        self.struct = structure(None, *members, abi.RELEASE())


def forward_callback(run: Callable[[], object]) -> Callback:
    """`run()` for mq_forward_fn."""
    return Callback(abi.ForwardFn, (abi.FORWARD, run))


def filter_callback(selects: Callable[[str], object]) -> Callback:
    """`selects(name)`, true or false, for mq_filter_fn."""

    def body(name: bytes, selected: Any) -> None:
        selected[0] = bool(selects(name.decode()))

    return Callback(abi.FilterFn, (abi.FILTER, body))


def amax_callback(process: Callable[[str, np.ndarray], np.ndarray]) -> Callback:
    """`process(name, values)`, which gives as many values as it takes, for mq_amax_fn."""

    def body(name: bytes, values: Any, count: int) -> None:
        amax = np.ctypeslib.as_array(values, (count,))
        amax[:] = process(name.decode(), amax.copy())  # the host must not keep C's memory

    return Callback(abi.AmaxFn, (abi.PROCESS, body))


def encoded(text: str | None) -> bytes | None:
    """A string for C; None is NULL."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"expected a string, got a {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character")
    return text.encode()


#: What `tensors` gives for an array of the caller's.
View = Union[np.ndarray, Imported, abi.Tensor]


def tensor_of(array: View | None) -> abi.Tensor | None:
    """Views an array that `tensors` has checked; the view keeps it alive."""
    if array is None or isinstance(array, abi.Tensor):
        return array
    if isinstance(array, Imported):
        return array.view()
    code, bits = abi.DTYPES[array.dtype.name]
    shape = (ct.c_int64 * array.ndim)(*array.shape)
    device, dtype = abi.Device(abi.DEVICE_CPU, 0), abi.DType(code, bits, 1)
    view = abi.Tensor(array.ctypes.data, device, array.ndim, dtype, shape, None, 0)
    view.array = array
    return view


def _argument(value: Any) -> Any:
    if isinstance(value, str):
        return encoded(value)
    if isinstance(value, (np.ndarray, Imported)):
        return tensor_of(value)
    return value.struct if isinstance(value, Callback) else value


def call(function: Any, *arguments: Any) -> None:
    """Calls C. Re-raises what a callback raised, else raises MqError unless the status is MQ_OK."""
    status = function(*[_argument(value) for value in arguments])
    for value in arguments:
        if isinstance(value, Callback) and value.errors:
            raise value.errors.pop()
    if status:
        raised = vars(_raised).pop("error", None)
        if raised is not None:
            raise raised
        raise error_for(status, abi.mq_last_error_message().decode(errors="replace"))


def call_verb(function: Any, *arguments: Any) -> None:
    """Calls a verb that takes long, as `call`; Ctrl-C stops it at its next callback."""
    with interrupts.Interruptible() as signals:
        signals.deliver()
        call(function, *arguments)


def _out(kind: Any, function: Any, *arguments: Any) -> Any:
    value = kind()
    call(function, *arguments, ct.byref(value))
    return value.value


def handle_from(function: Any, *arguments: Any) -> int:
    """The handle that a function writes to its last parameter."""
    return int(_out(abi.Handle, function, *arguments))


def size_from(function: Any, *arguments: Any) -> int:
    """The size_t that a function writes to its last parameter."""
    return int(_out(ct.c_size_t, function, *arguments))


def flag_from(function: Any, *arguments: Any) -> bool:
    """The int32_t that a function writes to its last parameter."""
    return bool(_out(ct.c_int32, function, *arguments))


def text_from(function: Any, *arguments: Any, capacity: int = 1024) -> str:
    """The text that a function copies to its last parameters: buffer, capacity, length.

    One that is longer than `capacity` takes a second call.
    """
    while True:
        buffer, length = ct.create_string_buffer(capacity), ct.c_size_t()
        call(function, *arguments, buffer, capacity, ct.byref(length))
        if length.value < capacity:
            return buffer.value.decode()
        capacity = length.value + 1


def _floats_from(function: Any, handle: int, *more: Any) -> np.ndarray | None:
    values, count = np.empty(16, np.float32), ct.c_size_t()
    while True:
        pointer = values.ctypes.data_as(ct.POINTER(ct.c_float))
        call(function, handle, pointer, values.size, ct.byref(count), *more)
        if count.value <= values.size:
            return values[: count.value].copy() if count.value else None
        values = np.empty(count.value, np.float32)


def amax_of(quantizer: int) -> np.ndarray | None:
    """A new array with the amax in its shape, or None."""
    shape, rank = (ct.c_int64 * abi.MAX_RANK)(), ct.c_uint32()
    values = _floats_from(abi.mq_quantizer_amax, quantizer, shape, ct.byref(rank))
    return None if values is None else values.reshape(shape[: rank.value])


def pre_quant_scale_of(quantizer: int) -> np.ndarray | None:
    """A new array `[channels]`, or None."""
    return _floats_from(abi.mq_quantizer_pre_quant_scale, quantizer)


def create_context(
    threads: int,
    log: Callable[[int, str], object] | None = None,
    memory_limit: int = 0,
    progress: Callable[[Progress], object] | None = None,
    cuda: int | None = None,
    stream: int = 0,
    cublas: bool | None = None,
) -> tuple[int, object]:
    """A context, and what must stay alive until it and its models are destroyed.

    `cuda` is the index of a device, `stream` a CUstream of it, 0 the default stream. `cublas` says
    whether products there may be its work; None: as the library takes for the best.
    `log(level, text)` gets a level of the logging module; what it raises goes to
    `sys.unraisablehook`. What `progress` raises stops the verb; `call` re-raises it. Without it
    there is a callback nevertheless, for Python to run signal handlers in.
    """
    options = abi.ContextOptions()
    call(abi.mq_context_options_init, options, ct.sizeof(options))
    options.num_threads = threads
    options.memory_limit_bytes = memory_limit
    if cuda is not None:
        options.device, options.cuda_stream = abi.Device(abi.DEVICE_CUDA, cuda), stream or None
    if cublas is not None:
        options.cublas = abi.CUBLAS_IF_FOUND if cublas else abi.CUBLAS_NEVER
    if log is not None:
        function = log

        def write(_user_data: object, level: int, text: bytes) -> None:
            severity = logging.WARNING if level == abi.LOG_WARNING else logging.INFO
            function(severity, text.decode(errors="replace"))

        options.log = abi.LogFn(None, abi.LOG(write), abi.RELEASE())
    options.progress = _progress(progress)
    return handle_from(abi.mq_context_create, options), options


def _progress(progress: Callable[[Progress], object] | None) -> abi.ProgressFn:
    def report(_user_data: object, told: Any) -> int:
        try:
            interrupts.deliver()
            if progress is None:
                return 0
            step = told.contents
            phase, layer = step.phase.decode(), step.layer.decode()
            return int(bool(progress(Progress(phase, layer, step.done, step.total))))
        except BaseException as error:
            _raised.error = error
            return 1

    return abi.ProgressFn(None, abi.PROGRESS(interrupts.entry(report)), abi.RELEASE())


def set_calibration_options(model: int, min_tokens: int, resume_file: str | None) -> None:
    """Sets how the calibrations of a model work; the library copies the path."""
    options = abi.CalibrationOptions()
    call(abi.mq_calibration_options_init, options, ct.sizeof(options))
    options.min_tokens, options.resume_file = min_tokens, encoded(resume_file)
    call(abi.mq_model_set_calibration_options, model, options)


def array_of(tensor: abi.Tensor) -> np.ndarray:
    """The elements of a tensor of C's, in its memory: gone when the callback returns."""
    if tensor.device.device_type != abi.DEVICE_CPU:
        raise NotImplementedError("a forward in Python gets arrays in host memory, not on a GPU")
    shape = tuple(tensor.shape[: tensor.ndim])
    name = _DTYPE_NAMES[tensor.dtype.code, tensor.dtype.bits]
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, name)
    first = tensor.data + tensor.byte_offset
    memory = (ct.c_char * (count * tensor.dtype.bits // 8)).from_address(first)
    return np.frombuffer(memory, name).reshape(shape)


class Lender(Protocol):
    """Gives a callback tensors of C's that are on a GPU, and takes its result."""

    def lend(self, tensor: abi.Tensor) -> Any:
        """A copy."""

    def give(self, found: Any, to: abi.Tensor, what: str) -> None:
        """Writes to C's memory."""


def _layer_forward(
    name: str, compute: Callable[[Any, Any], Any], lender: Lender | None
) -> abi.LayerForwardFn:
    def run(_user_data: object, x: Any, weight: Any, y: Any) -> int:
        try:  # the host must not keep C's memory
            interrupts.deliver()
            if lender is not None and x[0].device.device_type == abi.DEVICE_CUDA:
                found = compute(lender.lend(x[0]), lender.lend(weight[0]))
                lender.give(found, y[0], f"what forward of {name} gave")
                return 0
            found = compute(array_of(x[0]).copy(), array_of(weight[0]).copy())
            out = array_of(y[0])
            if np.shape(found) != out.shape:
                raise ValueError(
                    f"forward of {name} gave the shape {np.shape(found)}, but its gradient has "
                    f"{out.shape}"
                )
            out[...] = found
            return 0
        except BaseException as error:
            _raised.error = error
            return 1

    return abi.LayerForwardFn(None, abi.LAYER_FORWARD(interrupts.entry(run)), abi.RELEASE())


def add_layer(
    model: int,
    kind: int,
    arrays: dict[str, View | None],
    names: dict[str, str | None],
    flags: int,
    convolution: dict[str, tuple[int, ...]],
    forward: Callable[[Any, Any], Any] | abi.LayerForwardFn | None,
    lender: Lender | None = None,
) -> tuple[int, object]:
    """Registers a layer; the caller keeps the arrays alive until the model is destroyed.

    `arrays`, `names` and `convolution` go to the members of mq_layer_desc of that name. Returns the
    handle, and what else must live as long.
    """
    desc = abi.LayerDesc()
    call(abi.mq_layer_desc_init, desc, ct.sizeof(desc))
    desc.kind, desc.norm_flags = kind, flags
    for member, text in names.items():
        setattr(desc, member, encoded(text))
    for member, array in arrays.items():
        view = tensor_of(array)
        setattr(desc, member, None if view is None else ct.pointer(view))
    for member, numbers in convolution.items():
        getattr(desc, member)[: len(numbers)] = numbers
    struct = forward
    if forward is not None and not isinstance(forward, abi.LayerForwardFn):
        struct = _layer_forward(str(names["name"]), forward, lender)
    if struct is not None:
        desc.forward = ct.pointer(struct)
    return handle_from(abi.mq_model_add_layer, model, desc), struct
