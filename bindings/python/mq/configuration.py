"""Configurations and attribute sets: Python values to the JSON of the library, and the presets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from . import _lib
from ._lib import interface as abi

#: Attributes of a quantizer: {"num_bits": (4, 3), "block_sizes": {-1: 128}}, a list of those for a
#: sequential quantizer, or the same as JSON.
Attributes = Union[Mapping[str, Any], Sequence[Mapping[str, Any]], str]
#: Name of a preset, a configuration with "quant_cfg" and "algorithm", or the same as JSON.
Config = Union[str, Mapping[str, Any]]
#: "max", {"method": ...}, a list of those, None, or the same as JSON.
Algorithm = Union[None, str, Mapping[str, Any], Sequence[Any]]


def _plain(value: Any) -> Any:
    """Mappings as dicts, and numpy's numbers as Python's, also where they are keys."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def to_json(value: object) -> str:
    """JSON for the library: text as it is, tuples as lists, the keys of `{-1: 128}` as strings.

    Raises TypeError for values that JSON does not know, ValueError for NaN and Inf.
    """
    if isinstance(value, str):
        return value
    return json.dumps(_plain(value), allow_nan=False)


def config_text(config: object) -> str:
    """The text of a configuration for mq_quantize(): the name of a preset, or JSON."""
    if not isinstance(config, (str, Mapping)):
        raise TypeError(
            f"config is a {type(config).__name__}, expected a dict, JSON or a preset's name"
        )
    return to_json(config)


def presets() -> list[str]:
    """The names of the presets, those of both versions of the reference."""
    return [_lib.text_from(abi.mq_preset_name, i) for i in range(abi.mq_preset_count())]


def preset(name: str) -> dict[str, Any]:
    """The configuration of a preset, a new dict to be changed and given to `Model.quantize`.

    Raises ConfigError for an unknown name; its text proposes the nearest one.
    """
    config: dict[str, Any] = json.loads(_lib.text_from(abi.mq_preset_json, name))
    return config
