"""The state of the quantizers in a file, and back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import _lib, configuration
from ._lib import interface as abi
from .errors import MqError, NotFoundError, StateError, Status, UnsupportedError
from .registry import Registry

_FORMAT = "mq quantizer state"
_VERSION = 1


class Saving(Registry):
    """Saves and loads what a calibration found; the weights are the caller's to save."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the attributes, amax and pre_quant_scale of every quantizer to a file, as JSON.

        Not the weights: after `fold_weight` or `fold_pre_quant_scale` save these, too. That a
        weight is packed, the counts of tokens, and the search of `auto_quantize` are not kept.

        Args:
            path: replaced when it exists, once everything is written. A link stays one; what is no
                regular file, such as /dev/stdout, is written to as it is.

        Raises:
            StateError: before `quantize`. OSError.
            UnsupportedError: a quantizer holds what cannot be loaded: the values of a bias, or the
                amax of the whole tensor beside one for each block.
        """
        state = self._state()
        if state["mode"] != "quantized":
            raise StateError(Status.MQ_ERR_STATE, "there is nothing to save: call quantize() first")
        quantizers = [_kept(quantizer) for quantizer in state["quantizers"]]
        kept = {
            "format": _FORMAT,
            "version": _VERSION,
            "layers": _layers(state),
            "quantizers": quantizers,
        }
        _write(Path(os.fsdecode(path)), json.dumps(kept))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Gives the quantizers the state that `save` wrote, in place of `quantize`.

        Args:
            path: of a model with layers and quantizers of the same names, kinds and shapes.

        Raises:
            OSError. ValueError: it is no such file, a damaged one, or of another model.
            StateError: the model is quantized already. Nothing changes then.
        """
        kept = _read(Path(os.fsdecode(path)))
        state = self._state()
        if state["mode"] != "registered":
            raise StateError(
                Status.MQ_ERR_STATE, "load() is for a model that is not quantized yet; make one"
            )
        _compare(kept, state, path)
        with self._in_place() as model:
            try:
                with self._trial(state) as trial:  # what does not fit is found out there
                    self._put(trial, kept["quantizers"])
            except MqError as error:
                raise ValueError(f"{path} is damaged, or of another model: {error}") from error
            self._put(model, kept["quantizers"])

    @contextlib.contextmanager
    def _trial(self, state: dict[str, Any]) -> Iterator[int]:
        """Another model with the same layers and quantizers, for the length of a call."""
        model = _lib.handle_from(abi.mq_model_create, self._owner._context)
        try:
            for layer in state["layers"]:
                ours = self._layers[layer["name"]]
                weight = None if ours._weight is None else ours._weight.view
                names = {"name": layer["name"], "class_name": layer["class_name"]}
                kind = abi.LAYER_KINDS[ours.kind]
                _lib.add_layer(model, kind, {"weight": weight}, names, 0, {}, None)
            for quantizer in state["quantizers"]:
                try:
                    _lib.handle_from(abi.mq_model_find_quantizer, model, quantizer["name"])
                except NotFoundError:
                    _lib.handle_from(abi.mq_model_add_quantizer, model, quantizer["name"], None)
            yield model
        finally:
            abi.mq_model_destroy(model)

    def _put(self, model: int, quantizers: list[dict[str, Any]]) -> None:
        entries = [_entry(quantizer) for quantizer in quantizers]
        config = configuration.to_json({"quant_cfg": entries, "algorithm": None})
        _lib.call(abi.mq_quantize, model, config, None)
        for name, member in _members(quantizers):
            self._restore(model, name, member)

    def _restore(self, model: int, name: str, member: dict[str, Any]) -> None:
        handle = _lib.handle_from(abi.mq_model_find_quantizer, model, name)
        if not member["enabled"] and _lib.flag_from(abi.mq_quantizer_is_enabled, handle):
            _lib.size_from(abi.mq_disable_quantizer, model, _literal(name), 0)
        if member["amax"] is not None:
            _lib.call(abi.mq_quantizer_set_amax, handle, _array(member["amax"]))
        if member["pre_quant_scale"] is not None:
            scale = _numbers(member["pre_quant_scale"])
            _lib.call(abi.mq_quantizer_set_pre_quant_scale, handle, scale)

    def _state(self) -> dict[str, Any]:
        with self._owner as model:
            text = _lib.text_from(abi.mq_print_quant_summary, model, abi.SUMMARY_JSON)
        state: dict[str, Any] = json.loads(text)
        return state


def _write(target: Path, text: str) -> None:
    """All of a file or nothing of it, also when two threads write it."""
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_text(text, encoding="utf-8")
        return
    target = target.resolve()
    fresh = target.with_name(f".mq-{os.getpid()}-{threading.get_ident()}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, fresh)
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _layers(state: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("name", "class_name", "weight_shape")
    return [{key: layer[key] for key in keys} for layer in state["layers"]]


def _kept(quantizer: dict[str, Any]) -> dict[str, Any]:
    for member in quantizer.get("members", [quantizer]):
        for what in ("bias", "global_amax"):
            if member[what] is not None:
                raise UnsupportedError(
                    Status.MQ_ERR_UNSUPPORTED,
                    f"{quantizer['name']} holds a {what}, which this version cannot load again",
                )
    return quantizer


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        kept: Any = json.loads(data.decode())
        if not isinstance(kept, dict) or kept["format"] != _FORMAT:
            raise KeyError("format")
        if kept["version"] == _VERSION:
            if not all(isinstance(layer["name"], str) for layer in kept["layers"]):
                raise KeyError("layers")
            for quantizer in kept["quantizers"]:
                if not isinstance(quantizer["name"], str):
                    raise KeyError("name")
                if not isinstance(quantizer["enabled"], bool):
                    raise KeyError("enabled")
            for _, member in _members(kept["quantizers"]):
                _check(member)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        told = str(error)[:100] if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{path} is no file of Model.save(), or damaged: {told}") from error
    if kept["version"] != _VERSION:
        raise ValueError(f"{path} is of version {kept['version']}, expected {_VERSION}")
    return {key: kept[key] for key in ("layers", "quantizers")}


def _check(member: dict[str, Any]) -> None:
    amax, scale = member["amax"], member["pre_quant_scale"]
    if amax is not None:
        values = _numbers(amax["values"])
        if values.shape != (math.prod(amax["shape"]),) or not (values >= 0).all():
            raise KeyError("amax")
        if not np.isfinite(values).all():
            raise KeyError("amax")
    if scale is not None and not (_numbers(scale) > 0).all():
        raise KeyError("pre_quant_scale")
    if not isinstance(member["attributes"], dict) or not isinstance(member["enabled"], bool):
        raise KeyError("attributes")


def _numbers(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return np.array(values, np.float32)


def _compare(kept: dict[str, Any], state: dict[str, Any], path: object) -> None:
    ours, theirs = _layers(state), kept["layers"]
    for mine, other in zip(ours, theirs):
        if mine != other:
            raise ValueError(f"{path} is of another model: its layer {other} is {mine} here")
    names = [quantizer["name"] for quantizer in state["quantizers"]]
    saved = [quantizer["name"] for quantizer in kept["quantizers"]]
    if len(ours) != len(theirs) or names != saved:
        odd = sorted(set(names) ^ set(saved)) or ["the order"]
        raise ValueError(f"{path} is of another model: {', '.join(odd[:3])} differs")


def _members(quantizers: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Every quantizer that holds an amax, by its name."""
    found = []
    for quantizer in quantizers:
        if "members" in quantizer:
            for index, member in enumerate(quantizer["members"]):
                found.append((f"{quantizer['name']}.{index}", member))
        else:
            found.append((quantizer["name"], quantizer))
    return found


def _entry(quantizer: dict[str, Any]) -> dict[str, Any]:
    cfgs = [
        {key: value for key, value in member["attributes"].items() if key != "enable"}
        for member in quantizer.get("members", [quantizer])
    ]
    return {
        "quantizer_name": _literal(quantizer["name"]),
        "cfg": cfgs if "members" in quantizer else cfgs[0],
        "enable": quantizer["enabled"],
    }


def _literal(name: str) -> str:
    """A wildcard that matches nothing but this name."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _array(amax: dict[str, Any]) -> np.ndarray:
    return np.array(amax["values"], np.float32).reshape(amax["shape"])
