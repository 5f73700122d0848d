"""Signals during a verb, Ctrl-C above all.

Python runs signal handlers when it runs Python code, which during a verb is at the start of the
next callback: in a frame that nothing is above that could catch what the handler raises. There it
is put off, until the callback is where an exception stops the verb.
"""

from __future__ import annotations

import signal
import sys
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
    """Runs the handlers that were put off, in the frame of the caller; they may raise."""
    if _active is not None and threading.current_thread() is threading.main_thread():
        _active.deliver()


class Interruptible:
    """While it is entered in the main thread, what a handler raises does not get lost.

    The body begins with `deliver`, for signals that came while it was entered.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._pending: list[int] = []
        self._outer: Interruptible | None = None

    def __enter__(self) -> Interruptible:
        global _active
        if threading.current_thread() is threading.main_thread():
            self._outer = _active
            try:
                self._take_over()
            except ValueError:  # not the main interpreter, which alone has handlers
                return self
            except BaseException:
                self._give_back()
                raise
            _active = self
        return self

    def _take_over(self) -> None:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._handle)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:  # else a callback set another one
                signal.signal(number, handler)

    def __exit__(self, kind: object, *_: object) -> None:
        global _active
        if _active is not self:
            return
        self._give_back()
        _active = self._outer
        if kind is None:
            self.deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code in _entries:
            self._pending.append(number)
        else:
            self._handlers[number](number, frame)

    def deliver(self) -> None:
        """Runs the handlers that were put off."""
        while self._pending:
            number = self._pending.pop(0)
            self._handlers[number](number, sys._getframe())


_entries |= {
    function.__code__
    for function in (
        Interruptible.__enter__,
        Interruptible._take_over,
        Interruptible._give_back,
        Interruptible.__exit__,
    )
}
