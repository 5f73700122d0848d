"""The model of the C library, and everything that must live as long as it does."""

from __future__ import annotations

import threading
from typing import Callable

from . import _lib
from ._lib import interface as abi
from .errors import BusyError, StateError, Status
from .outcome import Progress
from .progress_bar import ProgressBar
from .tensors import Operand


class ModelHandle:
    """Owns an mq_model. `with handle as model:` gives it for the length of a call.

    `Model`, `Layer` and `Quantizer` share it, so that they can be collected in any order: the last
    one destroys the model. The arrays that the library borrows live here too.
    """

    _model: int | None = None
    _context: int | None = None
    _cuda: int | None = None
    _stream = 0
    _bar: ProgressBar | None = None

    def __init__(
        self,
        threads: int,
        log: Callable[[int, str], object] | None,
        memory_limit: int,
        progress: Callable[[Progress], object] | None,
        cuda: int | None = None,
        cublas: bool | None = None,
    ) -> None:
        self._model = None
        self._cuda = cuda
        self._bar = progress if isinstance(progress, ProgressBar) else None
        self._lock = threading.Lock()
        self._calls = 0
        self._borrowed: list[object] = []
        self._context, self._options = _lib.create_context(
            threads, log, memory_limit, progress, cuda, cublas=cublas
        )
        self._model = _lib.handle_from(abi.mq_model_create, self._context)

    def borrow(self, *things: object) -> None:
        """Keeps arrays, and what else the library points to, alive until the model is destroyed."""
        self._borrowed.extend(thing for thing in things if thing is not None)

    def follow(self, *operands: Operand | None) -> None:
        """Puts the work on the stream that the library of a tensor on the GPU works on now."""
        for operand in operands:
            if operand is None or operand.stream is None or operand.stream[0] != self._cuda:
                continue  # the library refuses what is elsewhere
            stream = operand.stream[1]
            with self._lock:
                if stream != self._stream:
                    _lib.call(abi.mq_context_set_cuda_stream, self._context, stream or None)
                    self._stream = stream

    def __enter__(self) -> int:
        with self._lock:
            if self._model is None:
                raise StateError(Status.MQ_ERR_STATE, "the model is closed")
            self._calls += 1
            return self._model

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            is_idle = self._calls == 0
        if is_idle and self._bar is not None:
            self._bar.close()

    def close(self) -> None:
        """Destroys the model and lets go of the arrays; once is enough."""
        with self._lock:
            if self._calls:
                raise BusyError(Status.MQ_ERR_BUSY, "the model is busy: a call is working on it")
            if self._model is not None:
                _lib.call(abi.mq_model_destroy, self._model)
                self._model = None
                self._forget_context()
                self._borrowed.clear()

    def __del__(self) -> None:
        if self._model is not None:
            abi.mq_model_destroy(self._model)
        self._forget_context()

    def _forget_context(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            abi.mq_context_destroy(context)
