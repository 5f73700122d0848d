"""docs/config.schema.json accepts every preset, and judges the examples as the library does.

The library's own test reads the same examples.
"""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "config.schema.json").read_text())
PRESETS = {
    f"{file.stem}:{name}": config
    for file in sorted((ROOT / "src" / "config" / "presets").glob("*.json"))
    for name, config in json.loads(file.read_text()).items()
}
EXAMPLES = json.loads((ROOT / "src" / "config" / "tests" / "examples.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_all_examples_are_there():
    assert len(EXAMPLES["good"]) >= 23
    assert len(EXAMPLES["bad"]) >= 49


def test_all_presets_are_there():
    assert len(PRESETS) == 39 + 11
    names = {key.split(":")[1] for key in PRESETS}
    assert names == set(SCHEMA["$defs"]["preset"]["enum"])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_accepted(name):
    VALIDATOR.validate(PRESETS[name])


@pytest.mark.parametrize("name", EXAMPLES["good"])
def test_good_configurations_are_accepted(name):
    VALIDATOR.validate(EXAMPLES["good"][name])


@pytest.mark.parametrize("name", EXAMPLES["bad"])
def test_bad_configurations_are_refused(name):
    assert not VALIDATOR.is_valid(EXAMPLES["bad"][name])


@pytest.mark.parametrize("name", PRESETS)
def test_a_slip_in_a_preset_is_refused(name):
    config = copy.deepcopy(PRESETS[name])
    config["algorithmus"] = "max"
    assert not VALIDATOR.is_valid(config)
