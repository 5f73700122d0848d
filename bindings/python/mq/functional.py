"""Quantization of one array, without a model of the caller's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from . import _lib, tensors
from ._lib import interface as abi
from .configuration import Attributes, to_json
from .contexts import model_for, shared
from .errors import ConfigError, Status
from .tensors import Array, Operand

#: One array, None where there is no amax, or a list of those for a list of attributes.
Amax = Union[None, np.ndarray, "list[np.ndarray | None]"]


def fake_quant(
    x: Array,
    attributes: Attributes,
    amax: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Quantizes and dequantizes an array in one pass.

    Arithmetic is float32, rounding to nearest even, the result rounded once to the dtype of `x`.
    Under a given amax NaN stays NaN, and an infinity saturates to the largest value of the grid.
    May be called from any thread.

    Args:
        x: float32, float16 or bfloat16; copied first if it is not C-contiguous.
        attributes: a quantizer's attributes, such as {"num_bits": 8, "axis": 0} or
            {"num_bits": 4, "block_sizes": {-1: 128}}; a list of them is applied in order.
        amax: in the units of `x`, as many values as the granularity has: one per tensor, per index
            of the axis, or per block (row-major). None: taken from `x`, which a list requires.
        out: where the result goes, C-contiguous, of the shape, dtype and device of `x`; may be `x`.

    Returns:
        `out`, or a new array of the kind of `x`.

    Raises:
        TypeError, ValueError: not an array, another dtype or device; `out` is read-only.
        ConfigError, UnsupportedError: about the attributes.
        InvalidArgumentError: `out` or `amax` does not fit `x`.
        NumericError: a negative, NaN or infinite amax; NaN or Inf in `x` when `amax` is None;
            negative values under `unsigned`.
    """
    given = tensors.activation(x, "x")
    result = tensors.result(out, given)
    scale = None if amax is None else tensors.values(amax)
    text = to_json(attributes)
    _lib.call(abi.mq_fake_quant, shared(given), given.view, text, scale, result.view)
    return result.array


def amax(x: Array, attributes: Attributes) -> Amax:
    """The amax that a quantizer of these attributes would hold, calibrated by "max" on an array.

    May be called from any thread.

    Args:
        x: float32, float16 or bfloat16; copied first if it is not C-contiguous.
        attributes: as in `fake_quant`.

    Returns:
        A new float32 array in the units of `x`, of shape `[]` per tensor, `[n, 1]` for axis 0 of a
        matrix, `[blocks, 1]` for blocks along the last axis, `[rows/b, 1, columns/b, 1]` for blocks
        in two axes. None where a quantizer holds no amax (MX, other dynamic ones). For a list of
        attributes a list, in which everything but the first sees what the one before it gives.

    Raises:
        As `fake_quant`.
    """
    given = tensors.activation(x, "x")
    with model_for(given) as model:
        add_weight(model, given, attributes, "max")
        found = [_lib.amax_of(member) for member in members(model, attributes)]
    return found if is_list(attributes) else found[0]


def histogram_amax(
    batches: Iterable[Array],
    num_bits: int | tuple[int, int] = 8,
    unsigned: bool = False,
    num_bins: int = 2048,
    method: str = "entropy",
    percentile: float = 99.99,
) -> np.ndarray:
    """The amax of a tensor from a histogram of its magnitudes over batches.

    The histogram grows with its range, so that batches need not be kept. May be called from any
    thread.

    Args:
        batches: float32, float16 or bfloat16 arrays of any shape, on one device; iterated once.
        num_bits: of the integers that the amax is for, 2 to 8; or (4, 3) for FP8, not with
            "entropy".
        unsigned: whether these are unsigned.
        num_bins: bins that the first batch is counted in, at least 2.
        method: "entropy": least divergence of the distribution from its quantized self; "mse":
            least squared error; "percentile": so many values are not clipped.
        percentile: percent of the values, 0 to 100, for "percentile".

    Returns:
        A new float32 array of shape `[]`.

    Raises:
        ValueError: no batches. ConfigError: an argument out of range.
        NumericError: NaN or Inf, or negative values under `unsigned`.
        TypeError, ValueError: as `fake_quant`. Whatever the iterator raises, unchanged.
    """
    cfg = {"num_bits": num_bits, "unsigned": unsigned, "calibrator": "histogram"}
    algorithm = {
        "method": "histogram",
        "amax_method": method,
        "num_bins": num_bins,
        "percentile": percentile,
    }
    config = {
        "quant_cfg": [{"quantizer_name": "x", "cfg": cfg}],
        "algorithm": algorithm,
    }
    left = iter(batches)
    for batch in left:
        first = tensors.activation(batch, "batches[0]")
        break
    else:
        raise ValueError("batches is empty")
    with model_for(first) as model:
        quantizer = _lib.handle_from(abi.mq_model_add_quantizer, model, "x", None)

        def observe() -> None:
            has_elements = _observe(quantizer, first)
            for index, batch in enumerate(left, 1):
                has_elements |= _observe(quantizer, tensors.activation(batch, f"batches[{index}]"))
            if not has_elements:
                raise ValueError("batches have no elements")

        _lib.call_verb(abi.mq_quantize, model, to_json(config), _lib.forward_callback(observe))
        found = _lib.amax_of(quantizer)
    assert found is not None  # the quantizer is static, and has seen elements
    return found


def _observe(quantizer: int, batch: Operand) -> bool:
    """Counts a batch; false for one without elements."""
    scratch = tensors.result(None, batch)
    _lib.call(abi.mq_quantizer_forward, quantizer, batch.view, scratch.view)
    return 0 not in batch.shape


def parsed(attributes: Attributes) -> Any:
    """Attributes as JSON has them: a dict, or a list of them; every one names its `num_bits`.

    So that {} is what it is to `fake_quant`, and not the absence of a setting.
    """
    try:
        given = json.loads(to_json(attributes))
    except json.JSONDecodeError as error:
        raise ConfigError(
            Status.MQ_ERR_CONFIG, f"attributes are not valid JSON: {error}"
        ) from error
    one_by_one = given if isinstance(given, list) else [given]
    if not one_by_one:
        raise ConfigError(Status.MQ_ERR_CONFIG, "attributes: the list is empty")
    for member in one_by_one:
        if not isinstance(member, dict):
            raise ConfigError(
                Status.MQ_ERR_CONFIG,
                f"attributes: expected an object of attributes, got {json.dumps(member):.50}",
            )
    full = [{"num_bits": 8, **member} for member in one_by_one]
    return full if isinstance(given, list) else full[0]


def is_list(attributes: Attributes) -> bool:
    """Whether attributes are those of a sequential quantizer."""
    return isinstance(parsed(attributes), list)


def add_weight(model: int, x: Operand, attributes: Attributes, algorithm: Any) -> int:
    """Registers `x` as the weight of a layer "x", and calibrates it; gives the layer."""
    if x.shape == ():
        raise ValueError("x has no axes: pass x.reshape(1)")
    names: dict[str, str | None] = {"name": "x", "class_name": "Tensor"}
    kind = abi.LAYER_KINDS["generic"]
    layer, _ = _lib.add_layer(model, kind, {"weight": x.view}, names, 0, {}, None)
    cfg = parsed(attributes)
    is_on = cfg.get("enable", True) if isinstance(cfg, dict) else True
    only = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": WEIGHT, "cfg": cfg, "enable": is_on},
    ]
    config = {"quant_cfg": only, "algorithm": algorithm}
    _lib.call(abi.mq_quantize, model, to_json(config), None)
    return layer


#: The quantizer of the weight that `add_weight` registers.
WEIGHT = "x.weight_quantizer"


def members(model: int, attributes: Attributes) -> list[int]:
    """The quantizers of that weight: one, or the members of a sequential one."""
    given = parsed(attributes)
    is_sequential = isinstance(given, list)
    names = [f"{WEIGHT}.{i}" for i in range(len(given))] if is_sequential else [WEIGHT]
    return [_lib.handle_from(abi.mq_model_find_quantizer, model, name) for name in names]
