"""Wrong values for the keys of the configuration, and what the library says to them."""

from __future__ import annotations

from typing import Any

import jsonschema
import mq
import numpy as np

Schema = dict[str, Any]

#: Values to try, the first that the schema refuses is taken.
CANDIDATES: list[Any] = ["yes", -1, 2.5, [], "wrong", {"x": 1}, True]


def of(root: Schema, schema: Schema) -> Any:
    """A value that the schema refuses, or None when every one is fine."""
    validator = jsonschema.Draft202012Validator({**schema, "$defs": root["$defs"]})
    if "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **schema}
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    bounds = [low - 1 if low else None, 0 if low == 0 and "exclusiveMinimum" in schema else None]
    bounds += [high + 1 if high and high < 2**31 else None]
    candidates = [value for value in bounds if value is not None] + CANDIDATES
    return next((value for value in candidates if not validator.is_valid(value)), None)


def must_be_accepted(config: Schema) -> None:
    """Raises what the library says to a configuration that the page shows."""
    _model().plan(config)


def error(section: str, key: str, value: Any) -> str:
    """The text of the library's error for one key of a section with a value."""
    config = _config(section, key, value)
    try:
        _model().plan(config)
    except mq.ConfigError as refused:
        return str(refused)
    except mq.UnsupportedError as refused:
        return str(refused)
    raise SystemExit(f"the library accepts {config}, which config.schema.json refuses")


def missing_algorithm(name: str) -> str | None:
    """What the library says to an algorithm that is not built; None for one that is."""
    try:
        _model().plan({"quant_cfg": _INT8, "algorithm": name})
    except mq.UnsupportedError as refused:
        return str(refused)
    except mq.MqError:
        return None  # it does not fit these formats, so it is known
    return None


_INT8 = [{"quantizer_name": "*", "cfg": {"num_bits": 8}}]


def _config(section: str, key: str, value: Any) -> Schema:
    entry: Schema = {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8}}
    config: Schema = {"quant_cfg": [entry], "algorithm": "max"}
    of_attributes = {
        "attributes": {key: value},
        "blockSizes": {"block_sizes": {"-1": 16, key: value}},
        "bias": {"bias": {"-1": None, key: value}},
        "rotate": {"rotate": {"enable": True, key: value}},
    }
    of_algorithm = {
        "layerwise": {"layerwise": {key: value}},
        "sharedStates": {"shared_states": {key: value}},
    }
    if section == "config":
        return {**config, key: value}
    if section == "entry":
        return {**config, "quant_cfg": [{**entry, key: value}]}
    if section in of_attributes:
        return {**config, "quant_cfg": [{**entry, "cfg": of_attributes[section]}]}
    algorithm = {"method": "max", **of_algorithm[section]} if section in of_algorithm else None
    return {**config, "algorithm": algorithm or {"method": section, key: value}}


def _model() -> mq.Model:
    model = mq.Model(threads=1)
    model.add_linear("fc", np.ones((4, 32), np.float32))
    return model
