"""The library's presets as the constants that a configuration in Python begins with."""

from __future__ import annotations

import functools
import re
from typing import Any

from .. import configuration

_PAIRS = ("num_bits", "scale_bits")


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all presets, such as "INT8_DEFAULT_CFG"."""
    return tuple(configuration.presets())


@functools.cache
def constant(name: str) -> dict[str, Any]:
    """A preset in the form of Python: `{"block_sizes": {-1: 128}}`, `{"num_bits": (4, 3)}`.

    The same dict every time; copy.deepcopy() it before changing it. Raises KeyError for another
    name.
    """
    if name not in names():
        raise KeyError(name)
    made: dict[str, Any] = _in_python(configuration.preset(name))
    return made


@functools.cache
def patterns() -> frozenset[str]:
    """The wildcards of all presets, most of which match nothing in any one model."""
    return frozenset(
        name for preset in names() for name in _patterns(configuration.preset(preset)["quant_cfg"])
    )


def _patterns(quant_cfg: Any) -> list[str]:
    if isinstance(quant_cfg, dict):
        scoped = [
            pattern for scope in quant_cfg.values() if isinstance(scope, dict) for pattern in scope
        ]
        return [*quant_cfg, *scoped]
    return [entry["quantizer_name"] for entry in quant_cfg]


def _in_python(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {_index(name): _in_python(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        entries = [_in_python(entry) for entry in value]
        return tuple(entries) if key in _PAIRS else entries
    return value


def _index(name: str) -> int | str:
    """Axes are numbers."""
    return int(name) if re.fullmatch(r"-?\d+", name) else name
