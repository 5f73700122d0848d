"""The contexts of calls that need no model of the caller's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import _lib
from ._lib import interface as abi
from .tensors import Operand

_lock = threading.Lock()
_contexts: dict[tuple[int, int] | None, tuple[int, object]] = {}


def shared(operand: Operand) -> int:
    """The context for an array: one in this process for host memory and for each stream of a GPU.

    It has one thread for each CPU and no log, and is never destroyed.
    """
    with _lock:
        found = _contexts.get(operand.stream)
        if found is None:
            cuda, stream = operand.stream or (None, 0)
            found = _lib.create_context(0, cuda=cuda, stream=stream)
            _contexts[operand.stream] = found
        return found[0]


@contextmanager
def model_for(operand: Operand) -> Iterator[int]:
    """A model for the length of a call."""
    model = _lib.handle_from(abi.mq_model_create, shared(operand))
    try:
        yield model
    finally:
        abi.mq_model_destroy(model)


def _forget_contexts() -> None:
    """Threads do not survive a fork: the child makes its own."""
    global _lock
    _lock = threading.Lock()
    _contexts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_contexts)
