"""Ctrl-C during a verb.

Python runs signal handlers when it runs Python code, which during a verb is at the start of the
next callback: in a frame that nothing is above that could catch what the handler raises. There it
is put off, until the callback is where an exception stops the verb.
"""

from __future__ import annotations

import signal
import threading
from types import CodeType, FrameType
from typing import Any, Callable

_entries: set[CodeType] = set()
_active: Interruptible | None = None


def entry(function: Callable[..., int]) -> Callable[..., int]:
    """Marks a function that C calls; it calls `deliver` where an exception is caught."""
    _entries.add(function.__code__)
    return function


def deliver() -> None:
    """Runs the handler that was put off, in the frame of the caller; it may raise."""
    if _active is not None and threading.current_thread() is threading.main_thread():
        _active.deliver()


class Interruptible:
    """While it is entered in the main thread, SIGINT does not get lost in a callback."""

    def __init__(self) -> None:
        self._handler: Any = None
        self._is_pending = False
        self._outer: Interruptible | None = None

    def __enter__(self) -> None:
        global _active
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            self._handler, self._outer = handler, _active
            _active = self
            signal.signal(signal.SIGINT, self._handle)

    def __exit__(self, kind: object, *_: object) -> None:
        global _active
        if self._handler is None:
            return
        if signal.getsignal(signal.SIGINT) == self._handle:  # else a callback set another one
            signal.signal(signal.SIGINT, self._handler)
        _active = self._outer
        if kind is None:
            self.deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code in _entries:
            self._is_pending = True
        else:
            self._handler(number, frame)

    def deliver(self) -> None:
        """Runs the handler if it was put off."""
        if self._is_pending:
            self._is_pending = False
            self._handler(signal.SIGINT, None)
