"""The model of the C library, and everything that must live as long as it does."""

from __future__ import annotations

import threading
from typing import Callable

from . import _lib
from ._lib import interface as abi
from .errors import BusyError, StateError, Status
from .outcome import Progress


class ModelHandle:
    """Owns an mq_model. `with handle as model:` gives it for the length of a call.

    `Model`, `Layer` and `Quantizer` share it, so that they can be collected in any order: the last
    one destroys the model. The arrays that the library borrows live here too.
    """

    def __init__(
        self,
        threads: int,
        log: Callable[[int, str], object] | None,
        memory_limit: int,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self._model: int | None = None
        self._lock = threading.Lock()
        self._calls = 0
        self._borrowed: list[object] = []
        context, self._options = _lib.create_context(threads, log, memory_limit, progress)
        try:
            self._model = _lib.handle_from(abi.mq_model_create, context)
        finally:
            abi.mq_context_destroy(context)  # the model keeps what it needs of it

    def borrow(self, *things: object) -> None:
        """Keeps arrays, and what else the library points to, alive until the model is destroyed."""
        self._borrowed.extend(thing for thing in things if thing is not None)

    def __enter__(self) -> int:
        with self._lock:
            if self._model is None:
                raise StateError(Status.MQ_ERR_STATE, "the model is closed")
            self._calls += 1
            return self._model

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1

    def close(self) -> None:
        """Destroys the model and lets go of the arrays; once is enough."""
        with self._lock:
            if self._calls:
                raise BusyError(Status.MQ_ERR_BUSY, "the model is busy: a call is working on it")
            if self._model is not None:
                _lib.call(abi.mq_model_destroy, self._model)
                self._model = None
                self._borrowed.clear()

    def __del__(self) -> None:
        if self._model is not None:
            abi.mq_model_destroy(self._model)
