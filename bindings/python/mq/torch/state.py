"""What the quantizers of a model are and hold, as values that can be kept and put back."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import Status, UnsupportedError
from ..model import Model

#: Changes with the form of what `export` gives.
FORM = 1


def export(native: Model, names: list[str]) -> dict[str, Any]:
    """Attributes, amax and pre_quant_scale of quantizers, by name.

    Raises UnsupportedError for what cannot be put back: a scale that several weights share (static
    NVFP4 blocks), and the bias of an affine quantizer.
    """
    return {"form": FORM, "quantizers": {name: _export(native, name) for name in names}}


def _export(native: Model, name: str) -> dict[str, Any]:
    quantizer = native.quantizer(name)
    attributes = quantizer.attributes
    members = attributes if isinstance(attributes, list) else [attributes]
    for member in members:
        _check(name, member)
    parts = [quantizer]
    if isinstance(attributes, list):
        parts = [native.quantizer(f"{name}.{i}") for i in range(len(members))]
    return {
        "attributes": attributes,
        "enabled": [part.enabled for part in parts],
        "amax": [_tensor(part.amax) for part in parts],
        "pre_quant_scale": _tensor(quantizer.pre_quant_scale),
    }


def _check(name: str, attributes: dict[str, Any]) -> None:
    blocks = attributes.get("block_sizes") or {}
    shares = attributes["num_bits"] == [2, 1] and blocks.get("type", "static") == "static"
    what = "shares its scale (static NVFP4 blocks)" if shares else "has a bias"
    if attributes["enable"] and (shares or attributes.get("bias") is not None):
        raise UnsupportedError(
            Status.MQ_ERR_UNSUPPORTED,
            f"{name} {what}, which cannot be carried over to another copy of the model or to moved "
            "weights; copy, move or convert the model before it is quantized",
        )


def _tensor(array: Any) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)


def check(kept: Any) -> None:
    """Raises ValueError unless it has the form of what `export` gives."""
    if not isinstance(kept, dict) or kept.get("form") != FORM:
        raise ValueError("this is not the state of quantizers that quantizer_state() gave")
    if not isinstance(kept.get("quantizers"), dict):
        raise ValueError("the state of quantizers is damaged: it lacks their dict")
    for name, one in kept["quantizers"].items():
        try:
            _check_one(one)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the state of {name} is damaged: {error!r}") from error


def _check_one(one: dict[str, Any]) -> None:
    attributes = one["attributes"]
    members = attributes if isinstance(attributes, list) else [attributes]
    if not all(isinstance(member, dict) for member in members):
        raise TypeError("attributes")
    for key, kind in (("enabled", bool), ("amax", (torch.Tensor, type(None)))):
        if len(one[key]) != len(members) or not all(isinstance(each, kind) for each in one[key]):
            raise ValueError(key)
    if not isinstance(one["pre_quant_scale"], (torch.Tensor, type(None))):
        raise TypeError("pre_quant_scale")


def restore(native: Model, kept: dict[str, Any]) -> None:
    """Gives a model that is not quantized yet the quantizers that `export` told of.

    Raises ValueError when it is of a model with other quantizers.
    """
    known, given = set(native.quantizers()), kept["quantizers"]
    if known != set(given):
        missing, extra = sorted(known - set(given)), sorted(set(given) - known)
        raise ValueError(
            f"the state is of another model: it lacks {missing[:3]} and has {extra[:3]}, which "
            "this model does not; give it to a model of the same structure"
        )
    native.quantize({"quant_cfg": [_entry(name, one) for name, one in given.items()]})
    for name, one in given.items():
        _put_back(native, name, one)


def _entry(name: str, one: dict[str, Any]) -> dict[str, Any]:
    attributes, enabled = one["attributes"], one["enabled"]
    pattern = "".join(f"[{c}]" if c in "*?[" else c for c in name)
    entry = {"quantizer_name": pattern, "enable": any(enabled)}
    if isinstance(attributes, list):
        cfg: Any = [{**each, "enable": on} for each, on in zip(attributes, enabled)]
    else:
        cfg = {**attributes, "enable": enabled[0]}
    return {**entry, "cfg": cfg}


def _put_back(native: Model, name: str, one: dict[str, Any]) -> None:
    scale, amaxes = one["pre_quant_scale"], one["amax"]
    is_sequential = isinstance(one["attributes"], list)
    if scale is not None:
        first = f"{name}.0" if is_sequential else name
        native.quantizer(first).set_pre_quant_scale(scale.numpy())
    for i, amax in enumerate(amaxes):
        if amax is not None:
            part = f"{name}.{i}" if is_sequential else name
            native.quantizer(part).set_amax(amax.numpy())
