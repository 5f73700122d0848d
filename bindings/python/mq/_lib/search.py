"""The callbacks and options of a search for formats, with Python values."""

from __future__ import annotations

import ctypes as ct
from typing import Any, Callable

from . import Callback, View, call, encoded, tensor_of
from . import interface as abi


def host_callback(
    data: Callable[[int], bool] | None,
    forward_step: Callable[[], object] | None,
    loss: Callable[[], float] | None,
    backward: Callable[[], object] | None,
    forward_backward_step: Callable[[], float] | None,
    logits: Callable[[], View] | None,
) -> Callback:
    """Functions of the current batch, which `data(step)` sets, for mq_auto_quantize_fn."""
    kept: list[abi.Tensor] = []

    def fetch(function: Any, step: int, available: Any) -> None:
        available[0] = bool(function(step))

    def run(function: Any, _step: int) -> None:
        function()

    def tell(function: Any, _step: int, loss: Any) -> None:
        loss[0] = function()

    def show(function: Any, _step: int, logits: Any) -> None:
        shown = tensor_of(function())
        assert shown is not None  # only None has no view
        kept[:] = [shown]  # C reads it until the next callback
        ct.memmove(logits, ct.byref(kept[0]), ct.sizeof(abi.Tensor))

    def bound(body: Callable[..., None], function: Any) -> Callable[..., None] | None:
        return None if function is None else lambda *arguments: body(function, *arguments)

    return Callback(
        abi.AutoQuantizeFn,
        (abi.DATA, bound(fetch, data)),
        (abi.STEP, bound(run, forward_step)),
        (abi.LOSS, bound(tell, loss)),
        (abi.STEP, bound(run, backward)),
        (abi.LOSS, bound(tell, forward_backward_step)),
        (abi.LOGITS, bound(show, logits)),
    )


def cost_callback(cost: Callable[[str, str, int], float]) -> Callback:
    """`cost(layer, format, elements)` for mq_layer_cost_fn."""

    def body(layer: bytes, name: bytes, elements: int, found: Any) -> None:
        found[0] = cost(layer.decode(), name.decode(), elements)

    return Callback(abi.LayerCostFn, (abi.COST, body))


def options(
    texts: dict[str, str | None],
    num_calib_steps: int | None,
    num_score_steps: int | None,
    verbose: bool,
    all_layers: bool,
) -> abi.AutoQuantizeOptions:
    """mq_auto_quantize_options; `texts` go to the members of that name, None is the default."""
    made = abi.AutoQuantizeOptions()
    call(abi.mq_auto_quantize_options_init, made, ct.sizeof(made))
    for member, text in texts.items():
        setattr(made, member, encoded(text))
    if num_calib_steps is not None:
        made.num_calib_steps = num_calib_steps
    if num_score_steps is not None:
        made.num_score_steps = num_score_steps
    made.flags = (abi.AUTO_QUANTIZE_VERBOSE if verbose else 0) | (
        abi.AUTO_QUANTIZE_ALL_LAYERS if all_layers else 0
    )
    return made
