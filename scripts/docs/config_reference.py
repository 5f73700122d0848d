"""Writes the reference of the configuration from its JSON Schema.

What a schema cannot say is asked of the library: the text of the error that a wrong value gives, and whether an
algorithm is built. So a key without a meaning, and a wrong value that the library takes, fail the build.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import wrong_values
from wrong_values import Schema

#: Sections: heading, definition of the schema, and where in a configuration its keys stand.
SECTIONS = [
    ("Configuration", "config", "The object that `mq_quantize()` takes."),
    ("Entry", "entry", "An element of the list `quant_cfg`."),
    ("Attributes", "attributes", "`cfg` of an entry, or a value of the mapping."),
    ("Blocks", "blockSizes", "`block_sizes` of a set of attributes."),
    ("Bias", "bias", "`bias` of a set of attributes."),
    ("Rotation", "rotate", "`rotate` of a set of attributes."),
]
INTRODUCTION = """# Configuration reference

What `mq_quantize()` accepts is the name of a [preset](presets.md), or an object of the shape below; the same goes for
`Model.quantize` in Python. This page is written from `config.schema.json` when the documentation is built, and the
errors in it are the library's own answers to a wrong value. The [schema itself](config.schema.json) is JSON Schema
2020-12, for editors and validators.

Errors are `MQ_ERR_CONFIG` (`mq.ConfigError`). A text names the path, what was found and what was expected; a misspelt
key or name comes with the nearest one that exists. What is valid but not built is `MQ_ERR_UNSUPPORTED`
(`mq.UnsupportedError`). Either way nothing has changed.
"""


class Reference:
    """The page, section by section."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.definitions = schema["$defs"]

    def page(self) -> str:
        """The whole page as Markdown."""
        parts = [INTRODUCTION, self._shapes()]
        parts += [self._section(*section) for section in SECTIONS]
        parts += ["## Algorithms\n", self._described("algorithm"), self._algorithms()]
        return "\n".join(parts)

    def _shapes(self) -> str:
        list_shape = {
            "quant_cfg": [
                {"quantizer_name": "*", "enable": False},
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "block_sizes": {"-1": 128}}},
                {"quantizer_name": "*lm_head*", "enable": False},
            ],
            "algorithm": "max",
        }
        mapping = {
            "quant_cfg": {
                "default": {"enable": False},
                "*weight_quantizer": {"num_bits": [4, 3]},
                "*input_quantizer": {"num_bits": [4, 3]},
                "nn.Embedding": {"*": {"enable": False}},
            },
            "algorithm": "max",
        }
        for config in (list_shape, mapping):
            wrong_values.must_be_accepted(config)
        return (
            "## The two shapes\n\nA list is applied in order, later entries win:\n\n"
            f"{_json(list_shape)}\n"
            "A mapping goes " + _lower(self.definitions["dictionary"]["description"]) + "\n\n"
            f"{_json(mapping)}\n"
            "Patterns are Python's `fnmatch` over the whole dotted name of a quantizer, `*` crosses dots. A quantizer "
            "that no entry reaches keeps what it began with: inputs and weights are then quantized to INT8.\n"
        )

    def _section(self, heading: str, name: str, where: str) -> str:
        definition = self.definitions[name]
        rules = [rule["description"] for rule in definition.get("allOf", []) if "description" in rule]
        text = f"## {heading}\n\n{where}\n\n"
        if name in ("blockSizes", "bias"):
            text += definition["description"] + "\n\n" + self._dimension(name)
        keys = [self._key(key, schema, name) for key, schema in definition["properties"].items()]
        text += "\n".join(keys)
        return text + "".join(f"\n* {rule}" for rule in rules) + "\n"

    def _dimension(self, name: str) -> str:
        where = "a block length of 1 or more, or null" if name == "blockSizes" else "null"
        error = wrong_values.error(name, "-1", "x")
        return _entry(name, '"-1"', [("Key", "a dimension as text, `-1` is the last"), ("Type", where)], "", error)

    def _key(self, key: str, schema: Schema, section: str, at: str | None = None) -> str:
        meaning = schema.get("description") or self._resolved(schema).get("description")
        if not meaning:
            raise SystemExit(f"config.schema.json: {section}.{key} has no description")
        facts = [("Type", self._type(schema))]
        if "default" in schema:
            facts.append(("Default", f"`{json.dumps(schema['default'])}`"))
        wrong = wrong_values.of(self.schema, schema)
        error = wrong_values.error(at or section, key, wrong) if wrong is not None else None
        return _entry(at or section, key, facts, meaning, error, wrong)

    def _algorithms(self) -> str:
        base = self.definitions["algorithmBase"]["properties"]
        names = list(self._methods())
        text = "Every algorithm also takes:\n\n"
        text += "\n".join(self._key(key, schema, "algorithmBase", "max") for key, schema in base.items())
        rows = ["\n| algorithm | what it does | |", "|---|---|---|"]
        missing = {name: wrong_values.missing_algorithm(name) for name in names}
        for name in names:
            built = "not built" if missing[name] else ""
            rows.append(f"| [`{name}`](#{name}) | {self.definitions[name]['description']} | {built} |")
        text += "\n".join(rows) + "\n"
        for name in names:
            definition = self.definitions[name]
            text += f"\n### {name}\n\n{definition['description']}\n"
            if missing[name]:
                text += f"\nIt is read and checked, and refused: `{missing[name]}`\n"
            fields = {key: value for key, value in definition["properties"].items() if key != "method"}
            text += "\n" + "\n".join(self._key(key, value, name) for key, value in fields.items())
        nested = [("layerwise", "Of `layerwise`"), ("sharedStates", "Of `shared_states`")]
        for name, heading in nested:
            text += f"\n### {heading}\n\n{self.definitions[name]['description']}\n\n"
            properties = self.definitions[name]["properties"]
            text += "\n".join(self._key(key, schema, name) for key, schema in properties.items())
        return text

    def _methods(self) -> Iterator[str]:
        for choice in self.definitions["oneAlgorithm"]["anyOf"]:
            if "$ref" in choice:
                yield choice["$ref"].rpartition("/")[2]

    def _described(self, name: str) -> str:
        return self.definitions[name]["description"] + " A bare name stands for its defaults.\n"

    def _resolved(self, schema: Schema) -> Schema:
        if "$ref" not in schema:
            return schema
        return self.definitions[schema["$ref"].rpartition("/")[2]]

    def _type(self, schema: Schema) -> str:
        """A type in words."""
        if "anyOf" in schema:
            return " or ".join(dict.fromkeys(self._type(choice) for choice in schema["anyOf"]))
        if "$ref" in schema:
            return self._reference(schema["$ref"].rpartition("/")[2])
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            return "one of " * (len(values) > 1) + ", ".join(f"`{json.dumps(value)}`" for value in values)
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return " or ".join(self._one_type(kind, schema) for kind in types)

    def _reference(self, name: str) -> str:
        links = {heading_of: heading for heading, heading_of, _ in SECTIONS}
        if name in links:
            return f"[{name}](#{links[name].lower()})"
        if name in set(self._methods()):
            return f"[{name}](#{name})"
        named = {
            "algorithm": "[an algorithm](#algorithms)",
            "item": "[an entry](#entry)",
            "dictionary": "[a mapping](#the-two-shapes)",
            "layerwise": "[layerwise](#of-layerwise)",
            "sharedStates": "[shared_states](#of-shared_states)",
        }
        return named.get(name) or self._type(self.definitions[name])

    def _one_type(self, kind: str, schema: Schema) -> str:
        if kind == "array":
            of = schema.get("items") or schema["prefixItems"][0]
            count = "pair" if schema.get("maxItems") == 2 else "list"
            return f"{count} of ({self._type(of)})"
        words = {"null": "null", "boolean": "true or false", "string": "text", "object": "object"}
        return words.get(kind) or kind + _range(schema)


def _range(schema: Schema) -> str:
    bounds = [
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ]
    largest = 2**32 - 1  # of a count of 32 bits; says nothing to a reader
    said = [f"{word} {schema[key]}" for key, word in bounds if key in schema and schema[key] != largest]
    return f" ({', '.join(said)})" if said else ""


def _entry(
    section: str,
    key: str,
    facts: list[tuple[str, str]],
    meaning: str,
    error: str | None = None,
    wrong: Any = None,
) -> str:
    name = key.strip('"')
    anchor = f"{section}.{name}".lower()
    lines = [f'`{key}` <a class="key" id="{anchor}" href="#{anchor}" title="Link to this key">#</a>']
    said = "<br>\n    ".join(f"{label}: {value}" for label, value in facts)
    lines.append(f":   {meaning}\n\n    {said}" if meaning else f":   {said}")
    if error:
        value = "" if wrong is None else f" for `{json.dumps(wrong)}`"
        lines.append(f"\n    Error{value}: `{error.replace('`', chr(39))}`")
    return "\n".join(lines) + "\n"


def _json(config: Any) -> str:
    """A configuration as a block of JSON: an entry of the list or the mapping is a line."""
    inner = config["quant_cfg"]
    if isinstance(inner, list):
        lines = [json.dumps(entry) for entry in inner]
        opening, closing = "[", "]"
    else:
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in inner.items()]
        opening, closing = "{", "}"
    body = ",\n    ".join(lines)
    algorithm = json.dumps(config["algorithm"])
    return f'```json\n{{\n  "quant_cfg": {opening}\n    {body}\n  {closing},\n  "algorithm": {algorithm}\n}}\n```\n'


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
