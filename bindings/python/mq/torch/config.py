"""Configurations: the preset constants, `choices`, and what a configuration needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import presets

#: The names of the presets.
choices: set[str] = set(presets.names())


def __getattr__(name: str) -> Any:
    try:
        return presets.constant(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *choices])


def plain(config: Any) -> Any:
    """A configuration without objects of the reference's, functions and other Python classes.

    Raises TypeError for functions, which a configuration of the library cannot hold.
    """
    if hasattr(config, "model_dump"):
        # Of the fields that were not given, only that of the algorithm has a default that counts.
        counts = {"algorithm": config.algorithm} if hasattr(config, "algorithm") else {}
        config = {**counts, **config.model_dump(exclude_unset=True)}
    if isinstance(config, Mapping):
        for key in config:
            if callable(key):
                raise TypeError(
                    f"{key!r} is a function; a configuration takes wildcards. Functions go to "
                    "disable_quantizer() and enable_quantizer() after quantize()"
                )
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(plain(entry) for entry in config)
    return config


def need_calibration(config: Mapping[str, Any] | str) -> bool:
    """Whether `quantize` needs a forward_loop to give a configuration all its scales."""
    given = presets.constant(config) if isinstance(config, str) else plain(config)
    if given.get("algorithm") not in (None, "max"):
        return True
    return any(_waits_for_data(name, attributes) for name, attributes in _sets(given["quant_cfg"]))


def _sets(quant_cfg: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every attribute set with the pattern that it is for, of both shapes of a configuration."""
    if isinstance(quant_cfg, Mapping):
        pairs = [(name, cfg) for name, cfg in quant_cfg.items() if isinstance(name, str)]
    else:
        pairs = [_pair(entry) for entry in quant_cfg]
    for name, cfg in pairs:
        for attributes in cfg if isinstance(cfg, Sequence) else [cfg]:
            if name.startswith("nn."):
                yield from _sets(attributes)
            elif attributes is not None:
                yield name, attributes


def _pair(entry: Mapping[str, Any]) -> tuple[str, Any]:
    if "quantizer_name" not in entry:
        return next(iter(entry.items()))
    cfg = entry.get("cfg") if entry.get("enable", True) else None
    return entry["quantizer_name"], cfg


def _waits_for_data(name: str, attributes: Mapping[str, Any]) -> bool:
    if "weight_quantizer" in name or not attributes.get("enable", True):
        return False
    return attributes.get("type", "static") != "dynamic"
