"""Quantized models against what the reference computed of the same models."""

import json
from pathlib import Path

import pytest
import torch

import mq.torch as mtq

from compared import GRADIENTS, PRESETS, SEARCHES, described, gradients, search_arguments
from networks import NETWORKS, loop

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "data" / "torch_reference.json").read_text(encoding="utf-8")
)
#: The order of sums in a matrix product is the host's.
TOLERANCE = 2e-5
#: What the reference attaches to attention and mq does not (docs/from_modelopt.md).
ABSENT = "p_bmm_quantizer"
CASES = [(name, preset) for name, presets in PRESETS.items() for preset in presets]


def assert_close(ours, theirs, what, tolerance=TOLERANCE):
    assert (ours is None) == (theirs is None), f"{what}: {ours} against {theirs}"
    if theirs is None:
        return
    assert ours["count"] == theirs["count"], what
    for key, expected in theirs.items():
        scale = max(theirs["norm"], 1e-12)
        assert abs(ours[key] - expected) <= tolerance * scale, (
            f"{what}: {key} is {ours[key]}, expected {expected}"
        )


def quantized(name, preset):
    make, data, compute = NETWORKS[name]
    model, batches = make(), data()
    return mtq.quantize(model, getattr(mtq, preset), loop(compute, batches)), compute, batches


def test_the_reference_file_has_every_case():
    kept = REFERENCE["quantized"]
    assert {name: sorted(of) for name, of in kept.items()} == {
        name: sorted(presets) for name, presets in PRESETS.items()
    }
    assert len(REFERENCE["gradients"]) == len(GRADIENTS)
    assert len(REFERENCE["searches"]) == len(SEARCHES)


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_scales_and_outputs_are_the_references(name, preset):
    expected = REFERENCE["quantized"][name][preset]
    model, compute, batches = quantized(name, preset)
    found = {key: one for key, one in mtq.quantizers(model).items() if one.enabled}
    wanted = {key: one for key, one in expected["quantizers"].items() if ABSENT not in key}
    assert sorted(found) == sorted(wanted)
    for key, one in wanted.items():
        assert_close(described(found[key].amax), one["amax"], f"amax of {key}")
        # Of AWQ, the reference also tells the factors of the weight, by having multiplied them in.
        if key.endswith("input_quantizer"):
            scale = described(found[key].pre_quant_scale)
            assert_close(scale, one["pre_quant_scale"], f"pre_quant_scale of {key}")
    with torch.no_grad():
        output = compute(model, batches[0])
    assert_close(described(output), expected["output"], "the output", 1e-4)


@pytest.mark.parametrize("index", range(len(GRADIENTS)))
def test_gradients_are_the_references(index):
    name, preset = GRADIENTS[index]
    expected = REFERENCE["gradients"][index]["values"]
    model, compute, batches = quantized(name, preset)
    found = gradients(model, compute, batches[0])
    assert sorted(found) == sorted(expected)
    # Some are zero but for rounding, such as that of a bias in front of a norm.
    zero = 1e-5 * max(values["norm"] for values in expected.values())
    for key, values in expected.items():
        if values["norm"] < zero:
            assert found[key]["norm"] < zero, key
        else:
            assert_close(found[key], values, f"the gradient of {key}", 1e-3)


@pytest.mark.parametrize("index", range(len(SEARCHES)))
def test_a_search_finds_what_the_reference_finds(index):
    name, bits, formats = SEARCHES[index]
    expected = REFERENCE["searches"][index]
    make, _, compute = NETWORKS[name]
    model = make()
    same, state = mtq.auto_quantize(model, **search_arguments(name, bits, formats))
    assert same is model
    stats = state["candidate_stats"]
    assert sorted(stats) == sorted(expected["scores"])
    for key, scores in expected["scores"].items():
        assert stats[key]["costs"] == expected["costs"][key], key
        assert stats[key]["scores"] == pytest.approx(scores, rel=1e-3, abs=1e-12), key
    choice = {key: str(one).split("(")[0] for key, one in state["best"]["recipe"].items()}
    assert choice == {key: one.split("(")[0] for key, one in expected["choice"].items()}
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.isfinite(compute(model, NETWORKS[name][1]()[0])).all()
