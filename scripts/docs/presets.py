"""Writes the page about the presets, from those of the library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import mq
import numpy as np

Attributes = dict[str, Any]
INTRODUCTION = """# Presets

A preset is a configuration with a name: `model.quantize("INT8_DEFAULT_CFG", forward)`. Names and
contents are those of the reference. `mq_preset_json()` and `mq.preset(name)` give one to be changed.
This page is written from the library when the documentation is built: formats are what a linear layer's quantizers end
with, and "forward" says whether the preset needs calibration data for it.

"""


def page() -> str:
    """The whole page as Markdown."""
    rows = ["| preset | weights | inputs | algorithm | forward |", "|---|---|---|---|---|"]
    details = []
    for name in mq.presets():
        config = mq.preset(name)
        rows.append(f"| [`{name}`](#{name.lower()}) | {' | '.join(_row(name, config))} |")
        details.append(f"### {name}\n\n```json\n{json.dumps(config, indent=2)}\n```\n")
    legend = (
        "Blocks of one number lie along the last axis. A dash: not quantized. Presets for a KV cache or for "
        "experts name quantizers that a lone linear layer does not have.\n"
    )
    return INTRODUCTION + "\n".join(rows) + "\n\n" + legend + "\n## Contents\n\n" + "\n".join(details)


def _row(name: str, config: dict[str, Any]) -> Iterator[str]:
    """The cells of a preset behind its name."""
    model = mq.Model(threads=1)
    model.add_linear("layers.0.mlp.fc", np.ones((4, 256), np.float32))
    algorithm = config.get("algorithm")
    method = algorithm.get("method") if isinstance(algorithm, dict) else algorithm
    try:
        plan = model.plan(config)
        model.quantize({**config, "algorithm": None})
    except mq.UnsupportedError:
        yield from ("", "", f"`{method}`: not built", "")
        return
    except mq.ConfigError:  # none of its patterns matches a linear layer
        yield from ("other quantizers", "other quantizers", _method(method), "")
        return
    for role in ("weight", "input"):
        yield _format(model.quantizer(f"layers.0.mlp.fc.{role}_quantizer"))
    yield _method(method)
    yield "yes" if plan["forwards"] else "no"


def _method(method: str | None) -> str:
    return f"`{method}`" if method else "none"


def _format(quantizer: mq.Quantizer) -> str:
    if not quantizer.enabled:
        return "-"
    attributes = quantizer.attributes
    members = attributes if isinstance(attributes, list) else [attributes]
    return ", then ".join(_one_format(member) for member in members)


def _one_format(a: Attributes) -> str:
    blocks = a["block_sizes"] or {}
    bits, scale = a["num_bits"], blocks.get("scale_bits")
    name = f"INT{bits}" if isinstance(bits, int) else f"E{bits[0]}M{bits[1]}"
    if scale == [8, 0]:
        name = "MX" + {"INT8": "INT8", "E4M3": "FP8", "E2M1": "FP4"}.get(name, f"FP6 {name}")
    elif scale == [4, 3]:
        name = "NVFP4"
    elif scale == 8:
        name = "NF4"
    elif name == "E4M3":
        name = "FP8"
    sizes = {axis: length for axis, length in blocks.items() if axis.lstrip("-").isdigit()}
    if any(sizes.values()):
        lengths = list(sizes.values())
        where = f"blocks of {lengths[0]}" if list(sizes) == ["-1"] else f"blocks of {'x'.join(map(str, lengths))}"
    elif sizes:
        where = "per token"
    else:
        where = "per tensor" if a["axis"] is None else f"axis {a['axis']}"
    dynamic = "dynamic" in (a["type"], blocks.get("type"))
    return f"{name}, {where}" + (", dynamic" if dynamic else "")
