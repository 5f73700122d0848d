"""The caller's functions during a search for formats, and the batches they are called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Callable

from . import _lib, tensors
from ._lib import search

#: `cost(layer, format, elements)`: what a layer costs under a format.
Cost = Callable[[str, str, int], float]


class Batches:
    """The current batch of a loader, by the step that the library asks for.

    A step may be asked for again, and step 0 begins a pass: the loader is iterated anew.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._iterator: Iterator[Any] | None = None
        self._step = -1
        self.batch: Any = None

    def data(self, step: int) -> bool:
        """Makes batch `step` the current one; false when there is none."""
        begins = self._iterator is None or step < self._step
        if begins and not self._restart():
            return False
        while self._step < step:
            try:
                self.batch = next(self._iterator)  # type: ignore[arg-type]
            except StopIteration:
                return False
            self._step += 1
        return True

    def _restart(self) -> bool:
        iterator = iter(self._loader)
        if iterator is self._iterator:  # a generator goes on where it is, and not from the start
            return False
        self._iterator, self._step = iterator, -1
        return True


def steps(given: int | None, what: str, default: int, loader: object) -> int:
    """How many batches: as given, else as many as the loader has, up to the default."""
    if given is None:
        try:
            return min(default, len(loader))  # type: ignore[arg-type]
        except TypeError:  # it does not tell
            return default
    if not 1 <= given < 2**64:
        raise ValueError(f"{what} is {given}, expected 1 or more")
    return given


def host(
    data_loader: Iterable[Any] | None,
    forward_step: Callable[[Any], Any] | None,
    loss_func: Callable[[Any, Any], float] | None,
    backward: Callable[[Any, Any], object] | None,
    forward_backward_step: Callable[[Any], float] | None,
    logits: Callable[[Any, Any], Any] | None,
    follow: Callable[[tensors.Operand], None],
) -> _lib.Callback | None:
    """The callbacks of a search; None when there are none.

    `follow` puts the library's work on the stream that logits on a GPU come from.
    """
    functions = {
        "forward_step": forward_step,
        "loss_func": loss_func,
        "backward": backward,
        "forward_backward_step": forward_backward_step,
        "logits": logits,
    }
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} is a {type(function).__name__}, expected a function")
        if function is not None and data_loader is None:
            raise TypeError(f"{name} is given, but data_loader is None: there are no batches")
    if data_loader is None:
        return None
    batches = Batches(data_loader)
    outputs: list[Any] = [None]

    def run(forward: Callable[[Any], Any]) -> None:
        outputs[0] = None  # not two at a time
        outputs[0] = forward(batches.batch)

    def shown() -> _lib.View:
        found = outputs[0] if logits is None else logits(outputs[0], batches.batch)
        what = "the output of forward_step" if logits is None else "what logits returned"
        shown = tensors.activation(found, what)
        follow(shown)
        return shown.view

    def of_output(function: Callable[[Any, Any], Any] | None) -> Callable[[], Any] | None:
        return None if function is None else lambda: function(outputs[0], batches.batch)

    return search.host_callback(
        data=batches.data,
        forward_step=None if forward_step is None else lambda: run(forward_step),
        loss=of_output(loss_func),
        backward=of_output(backward),
        forward_backward_step=None
        if forward_backward_step is None
        else lambda: forward_backward_step(batches.batch),
        logits=None if forward_step is None else shown,
    )


def cost(function: Cost | None) -> _lib.Callback | None:
    """The caller's costs; None when the library counts."""
    if function is None:
        return None
    if not callable(function):
        raise TypeError(f"cost is a {type(function).__name__}, expected a function")
    return search.cost_callback(function)
