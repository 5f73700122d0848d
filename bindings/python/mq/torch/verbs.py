"""What one does to a torch module: quantize, calibrate, fold, and ask about its quantizers."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch import nn

from .. import callbacks, configuration
from ..errors import StateError, Status
from ..model import Model
from . import config as _config
from . import search
from .evaluation import evaluating
from .forward import Phase
from .session import Session, plain_module, session_of

ForwardLoop = callbacks.ForwardLoop


class Quantizer(NamedTuple):
    """What a quantizer holds."""

    #: Largest magnitudes, float32, in the shape that the reference gives them; None: dynamic, or
    #: never calibrated.
    amax: torch.Tensor | None
    #: What is multiplied in front of the rounding, float32 `[channels]`, or None.
    pre_quant_scale: torch.Tensor | None
    enabled: bool
    #: The attributes, as a configuration names them.
    attributes: dict[str, Any]


def _quantized(model: nn.Module) -> Session:
    session = session_of(model)
    if session is None:
        raise StateError(
            Status.MQ_ERR_STATE,
            f"this {type(model).__name__} is not quantized; call quantize() on it first, and pass "
            "what that returned",
        )
    return session


def _loop(forward_loop: ForwardLoop | None, model: nn.Module) -> Callable[[], object] | None:
    if forward_loop is None:
        return None
    if not callable(forward_loop):
        raise TypeError(f"forward_loop is a {type(forward_loop).__name__}, expected a function")
    function: Callable[..., object] = forward_loop
    arguments = (model,) if callbacks._takes_an_argument(function) else ()
    return lambda: function(*arguments)


@contextlib.contextmanager
def _session_for(model: nn.Module) -> Iterator[Session]:
    """The session of a model, a new one if need be, which is gone again when the body fails."""
    session = session_of(model)
    if session is not None:
        yield session
        return
    session = Session(plain_module(model))
    session.insert()
    try:
        yield session
    except BaseException:
        session.remove()
        raise


def _observe(session: Session, verb: Callable[[Model], object]) -> None:
    """A verb that runs the model to collect statistics."""
    with session.verb(Phase.OBSERVING) as native, evaluating(session.root):
        verb(native)


def quantize(
    model: nn.Module,
    config: Mapping[str, Any] | str,
    forward_loop: ForwardLoop | None = None,
) -> nn.Module:
    """Puts quantizers into a model, in place, and calibrates them.

    Afterwards `model(x)` computes with fake-quantized weights and activations. Weights stay as they
    are, also under SmoothQuant and AWQ, whose factors are applied where the weight is used, until
    `fold_weight` writes them.

    Args:
        model: its nn.Linear, nn.Conv*, nn.Embedding, norms and pools are quantized (and
            subclasses with the same forward), and queries, keys and values of Hugging Face
            attentions. float32, float16 and bfloat16, contiguous, in host memory or on one CUDA
            device. A quantized model gets the configuration on top.
        config: a preset (`mq.torch.INT8_DEFAULT_CFG`), its name, or a configuration of that form:
            "quant_cfg" as a list or a dict, and "algorithm".
        forward_loop: `forward_loop(model)` or `forward_loop()`: runs the model over the calibration
            data. Called in eval mode without gradients, and not at all when no quantizer waits for
            data. None: weights are calibrated, activations are quantized dynamically.

    Returns:
        The model itself.

    Raises:
        mq.ConfigError, mq.UnsupportedError, mq.NumericError, mq.InvalidArgumentError: as
            `mq.Model.quantize`.
        TypeError, ValueError: a weight of another dtype or device, or not contiguous.
        Whatever `forward_loop` raises, unchanged. The model is then as it was before.
    """
    given = _config.plain(config)
    loop = _loop(forward_loop, model)
    with _session_for(model) as session:
        _observe(session, lambda native: native.quantize(given, loop))
    return model


def calibrate(
    model: nn.Module,
    algorithm: Any = "max",
    forward_loop: ForwardLoop | None = None,
) -> nn.Module:
    """Calibrates the enabled quantizers of a quantized model.

    Args:
        model: what `quantize` returned.
        algorithm: "max", {"method": "awq_lite", ...}, a list of those, or None.
        forward_loop: as in `quantize`.

    Returns and raises as `quantize`.
    """
    session, loop = _quantized(model), _loop(forward_loop, model)
    _observe(session, lambda native: native.calibrate(_config.plain(algorithm), loop))
    return model


def auto_quantize(
    model: nn.Module,
    constraints: Mapping[str, Any] | None = None,
    quantization_formats: Sequence[Any] | None = None,
    data_loader: Iterable[Any] | None = None,
    forward_step: search.ForwardStep | None = None,
    loss_func: Callable[[Any, Any], torch.Tensor] | None = None,
    forward_backward_step: Callable[[nn.Module, Any], Any] | None = None,
    disabled_layers: str | Sequence[str] | None = None,
    num_calib_steps: int = 512,
    num_score_steps: int = 128,
    verbose: bool = False,
    method: str = "gradient",
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Searches the format of every linear layer and convolution, and quantizes the model so.

    Args:
        model: a model that is not quantized yet.
        constraints: {"effective_bits": 4.8}, the bits of a weight on average; the default.
        quantization_formats: presets, their names, configurations, and None for no quantization.
            Default: ["NVFP4_AWQ_LITE_CFG", "FP8_DEFAULT_CFG"].
        data_loader: batches of any kind, iterated anew for every pass: a list or a DataLoader.
        forward_step: `forward_step(model, batch)` runs the model and returns its output.
        loss_func: `loss_func(output, batch)` returns the loss, a scalar tensor.
        forward_backward_step: `forward_backward_step(model, batch)` runs the model and goes back
            from the loss, in place of `loss_func`.
        disabled_layers: a wildcard, or a list of them, of names of modules that stay unquantized.
        num_calib_steps: batches that the formats are calibrated on; no more than the loader has.
        num_score_steps: batches that they are scored on.
        verbose: tell of every choice through the logger "mq".
        method: "gradient", "fisher" (gradients, without computing layers again), "gram" or
            "kl_div" (without gradients).
        checkpoint: path of a file from which a search that was stopped goes on.

    Returns:
        The model itself, with the best choice in effect, and what the search found (see
        `mq.Model.auto_quantize_state`; `mq.report` makes a page of it).

    Raises:
        TypeError: a function or the loader is missing. mq.StateError: the model is quantized.
        As `mq.Model.auto_quantize`, and whatever the functions raise, unchanged. The model is then
        as it was before.
    """
    if data_loader is None or forward_step is None:
        raise TypeError("auto_quantize needs a data_loader and a forward_step")
    if session_of(model) is not None:
        raise StateError(
            Status.MQ_ERR_STATE, "the model is quantized already; call unquantize() on it first"
        )
    backward = search.backward_of(model, forward_step, loss_func, forward_backward_step)
    if backward is None and method in ("gradient", "fisher"):
        raise TypeError(f"method {method!r} needs a loss_func or a forward_backward_step")
    path = None if checkpoint is None else os.fsdecode(checkpoint)
    texts = search.texts_of(constraints, quantization_formats, disabled_layers, method, path)
    steps = (num_calib_steps, num_score_steps)
    with _session_for(model) as session:
        found = search.run(
            session,
            data_loader,
            lambda batches: search.Host(session, batches, forward_step, backward),
            texts,
            steps,
            verbose,
        )
    return model, found


def _selected(count: int, select: object) -> None:
    if count == 0:
        warnings.warn(f"no quantizer is selected by {select!r}", stacklevel=3)


def disable_quantizer(model: nn.Module, wildcard_or_filter_func: callbacks.Selection) -> None:
    """Disables the quantizers that a wildcard, or a function of the name, selects.

    Warns when that is none.
    """
    with _quantized(model).verb() as native:
        count = native.disable_quantizer(wildcard_or_filter_func, allow_no_match=True)
    _selected(count, wildcard_or_filter_func)


def enable_quantizer(model: nn.Module, wildcard_or_filter_func: callbacks.Selection) -> None:
    """Enables quantizers; as `disable_quantizer`."""
    with _quantized(model).verb() as native:
        count = native.enable_quantizer(wildcard_or_filter_func, allow_no_match=True)
    _selected(count, wildcard_or_filter_func)


def set_quantizer_attribute(
    model: nn.Module, wildcard_or_filter_func: callbacks.Selection, attribute: Any
) -> None:
    """Changes attributes of quantizers, such as {"num_bits": (4, 3)}; the others stay."""
    attributes = _config.plain(attribute)
    with _quantized(model).verb() as native:
        count = native.set_quantizer_attributes(
            wildcard_or_filter_func, attributes, allow_no_match=True
        )
    _selected(count, wildcard_or_filter_func)


def postprocess_amax(
    model: nn.Module, key: str, post_process_fn: Callable[[torch.Tensor], Any]
) -> nn.Module:
    """Lets a function change the amax of the quantizers that a wildcard selects.

    Args:
        model: what `quantize` returned.
        key: a wildcard. Quantizers without an amax are passed over.
        post_process_fn: takes the amax, a float32 tensor in host memory, and returns the new one,
            of the same shape.

    Returns:
        The model itself.
    """
    if not isinstance(key, str):
        raise TypeError(f"key is a {type(key).__name__}, expected a string")

    def process(amax: np.ndarray) -> Any:
        found = post_process_fn(torch.from_numpy(amax))
        return found.detach().cpu().float().numpy() if isinstance(found, torch.Tensor) else found

    with _quantized(model).verb() as native:
        count = native.postprocess_amax(key, process, allow_no_match=True)
    _selected(count, key)
    return model


def print_quant_summary(model: nn.Module, output_dir: str | os.PathLike[str] | None = None) -> None:
    """Prints a line for each quantizer, and their number.

    Args:
        model: what `quantize` returned.
        output_dir: a folder; the text goes to its file `.quant_summary.txt` instead.
    """
    with _quantized(model).verb() as native:
        text = native.summary()
    if output_dir is None:
        print(text, end="")
        return
    path = Path(output_dir) / ".quant_summary.txt"
    path.write_text(text, encoding="utf-8")
    print(f"Quant summary saved to {path}")


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Every quantizer of a quantized model by its dotted name.

    Of a sequential quantizer there are the members, `<name>.0` and `<name>.1`.
    """
    with _quantized(model).verb() as native:
        return {name: _told(one) for name, one in native.quantizers().items()}


def _told(one: Any) -> Quantizer:
    amax, scale = one.amax, one.pre_quant_scale
    return Quantizer(
        amax=None if amax is None else torch.from_numpy(amax),
        pre_quant_scale=None if scale is None else torch.from_numpy(scale),
        enabled=one.enabled,
        attributes=one.attributes,
    )


def fold_weight(model: nn.Module, keep_attrs: bool = False) -> None:
    """Writes the fake-quantized weights into the parameters, and disables their quantizers.

    The model computes what it did before, bit for bit, without quantizing weights in every forward.
    No forward may run meanwhile.

    Args:
        model: what `quantize` returned.
        keep_attrs: the weight quantizers keep their amax.

    Raises:
        mq.StateError: two modules share a weight that would be written. No weight is changed then.
    """
    session = _quantized(model)
    with session.verb() as native:
        folds = [
            (part, record)
            for part, record in session.layers()
            if record.weight is not None and record.weight.traits.is_active
        ]
        native.fold_weight(keep_attrs)
        for part, record in folds:
            if record.packed is None:
                record.is_folded = True
                torch.autograd.graph.increment_version(part.weight)


def compress(model: nn.Module, config: Mapping[str, bool] | None = None) -> None:
    """Packs the weights with their scales into low-bit codes, which the library keeps.

    They are unpacked in every forward. The parameters are emptied, but for those that other modules
    share, so `state_dict()` no longer holds them, and the model can no longer be trained, copied or
    moved.

    Args:
        model: what `quantize` returned.
        config: {pattern: bool} over the names of weight quantizers; None: all that are enabled.

    Raises:
        mq.UnsupportedError: a format has no packed form. mq.StateError: a weight has no amax, or is
        packed already. Nothing changes then.
    """
    with _quantized(model).verb() as native:
        native.compress(config)


def quantizer_state(model: nn.Module) -> dict[str, Any]:
    """What the quantizers are and hold, for `torch.save`; weights are in `model.state_dict()`.

    Raises mq.UnsupportedError for compressed weights, static NVFP4 blocks and affine quantizers,
    which hold more than that.
    """
    session = _quantized(model)
    with session.verb():
        return session.export()


def load_quantizer_state(model: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Puts quantizers into a model that is not quantized yet, as `quantizer_state` gave them.

    Raises ValueError for the state of a model with other modules; the model is then as before.
    """
    if session_of(model) is not None:
        raise StateError(Status.MQ_ERR_STATE, "the model is quantized already")
    with _session_for(model) as session:
        session.load(state)
    return model


def unquantize(model: nn.Module) -> nn.Module:
    """Takes the quantizers out of a model again; weights that were folded stay folded.

    Raises mq.StateError for a model whose weights are compressed.
    """
    session = _quantized(model)
    with session.verb():
        if any(record.packed is not None for _, record in session.layers()):
            raise StateError(Status.MQ_ERR_STATE, "weights are compressed, and cannot come back")
    session.remove()
    return model


def set_quantizer_by_cfg(model: nn.Module, quant_cfg: Any) -> None:
    """Applies the entries of a configuration to a quantized model, without calibrating."""
    with _quantized(model).verb() as native:
        native.quantize({"quant_cfg": configuration._plain(_config.plain(quant_cfg))})
