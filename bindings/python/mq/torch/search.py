"""The search for the format of every layer, with the gradients of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

import torch
from torch import nn

from .. import _lib, configuration, search_host
from .._lib import interface as abi
from .._lib import search
from . import config, tensors
from .evaluation import evaluating
from .forward import Phase
from .session import Session

#: `forward_step(model, batch)` runs the model and returns its output.
ForwardStep = Callable[[nn.Module, Any], Any]


class Host:
    """The functions of one search, over the batches of a loader."""

    def __init__(
        self,
        session: Session,
        batches: search_host.Batches,
        forward_step: ForwardStep,
        backward: Callable[[Any], Any] | None,
    ) -> None:
        self._session = session
        self._batches = batches
        self._forward_step = forward_step
        self._backward = backward
        self._output: Any = None

    def callback(self) -> _lib.Callback:
        """What the library calls."""
        return search.host_callback(
            data=self._batches.data,
            forward_step=self._forward,
            loss=None,
            backward=None,
            forward_backward_step=None if self._backward is None else self._score,
            logits=self._logits,
        )

    def _forward(self) -> None:
        self._output = None  # not two at a time
        with torch.no_grad():
            self._output = self._forward_step(self._session.root, self._batches.batch)

    def _score(self) -> float:
        backward = self._backward
        assert backward is not None, "the library only scores where it was given"
        with torch.enable_grad(), self._session.step():
            loss = backward(self._batches.batch)
        return float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss or 0.0)

    def _logits(self) -> Any:
        found = self._output
        if not isinstance(found, torch.Tensor):
            found = getattr(found, "logits", found)
        seen = tensors.activation(found, "the output of forward_step, or its .logits,")
        # On this thread's stream, as what computed them.
        self._session.native.follow_stream()
        return tensors.view(seen)


def backward_of(
    model: nn.Module,
    forward_step: ForwardStep,
    loss_func: Callable[[Any, Any], torch.Tensor] | None,
    forward_backward_step: Callable[[nn.Module, Any], Any] | None,
) -> Callable[[Any], Any] | None:
    """One step of scoring, of what the caller gave for it; None when that is nothing."""
    if forward_backward_step is not None:
        return lambda batch: forward_backward_step(model, batch)
    if loss_func is None:
        return None

    def step(batch: Any) -> torch.Tensor:
        loss = loss_func(forward_step(model, batch), batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise TypeError(f"loss_func returned {type(loss).__name__}, expected a scalar tensor")
        loss.backward()
        return loss

    return step


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of parameters, which nobody needs; then as before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def run(
    session: Session,
    data_loader: Iterable[Any],
    host_of: Callable[[search_host.Batches], Host],
    texts: dict[str, str | None],
    steps: tuple[int | None, int | None],
    verbose: bool,
) -> dict[str, Any]:
    """Searches, puts the choice into effect, and returns what was found."""
    calib = _steps(steps[0], "num_calib_steps", 512, data_loader)
    score = _steps(steps[1], "num_score_steps", 128, data_loader)
    options = search.options(texts, calib, score, verbose, False)
    host = host_of(search_host.Batches(data_loader)).callback()
    phase = Phase.TRYING if texts["method"] == "kl_div" else Phase.SCORING
    root = session.root
    with session.verb(phase) as native, evaluating(root), _frozen(root):
        with native._owner as model:
            _lib.call_verb(abi.mq_auto_quantize, model, options, host, None)
        return native.auto_quantize_state()


def _steps(given: int | None, what: str, default: int, loader: object) -> int | None:
    """As many as the loader has, where fewer than asked for, as in the reference."""
    try:
        available = len(loader)  # type: ignore[arg-type]
    except TypeError:  # it does not tell
        available = None
    wanted = search_host.steps(given, what, default, loader)
    return wanted if not available else min(wanted, available)


def texts_of(
    constraints: Mapping[str, Any] | None,
    formats: Sequence[Any] | None,
    disabled_layers: str | Sequence[str] | None,
    method: str,
    checkpoint: str | None,
) -> dict[str, str | None]:
    """The options of a search as the library reads them."""
    if formats is not None and isinstance(formats, (str, Mapping)):
        raise TypeError("quantization_formats must be a list of presets or configurations")
    if isinstance(disabled_layers, str):
        disabled_layers = [disabled_layers]
    given = {
        "constraints": constraints,
        "quantization_formats": None if formats is None else [config.plain(f) for f in formats],
        "disabled_layers": disabled_layers,
    }
    texts = {
        name: None if value is None else configuration.to_json(value)
        for name, value in given.items()
    }
    return {**texts, "grouping_rules": None, "method": method, "checkpoint": checkpoint}
