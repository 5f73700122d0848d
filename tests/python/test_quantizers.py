"""Quantizers: their state, and the verbs that select them by name."""

import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers


def test_quantizers_show_and_take_their_state():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    quantizers = model.quantizers()
    parts = ("input_quantizer", "weight_quantizer", "output_quantizer")
    assert set(quantizers) == {f"{layer}.{part}" for layer in "ab" for part in parts}
    weight, activation = quantizers["a.weight_quantizer"], quantizers["a.input_quantizer"]
    assert weight.attributes["num_bits"] == 8
    assert weight.attributes["axis"] == 0
    assert weight.enabled
    assert not quantizers["a.output_quantizer"].enabled
    assert repr(weight) == "<mq.Quantizer a.weight_quantizer>"
    weight.set_amax(np.full((6, 1), 2.0))  # float64 is converted
    assert_same_bits(weight.amax, np.full((6, 1), 2, np.float32))
    activation.set_amax(4)
    assert activation.amax == 4
    assert activation.pre_quant_scale is None
    scale = np.linspace(0.5, 2, 8, dtype=np.float32)
    activation.set_pre_quant_scale(scale)
    assert_same_bits(activation.pre_quant_scale, scale)
    x = matrix(5, 8)
    assert_same_bits(model.layers["a"].input(x), mq.fake_quant(x * scale, {"num_bits": 8}, 4))
    activation.set_pre_quant_scale(None)
    assert activation.pre_quant_scale is None


def test_an_amax_that_was_read_is_a_copy():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    quantizer = model.quantizer("a.weight_quantizer")
    before = quantizer.amax
    quantizer.amax[:] = 0
    assert_same_bits(quantizer.amax, before)


def test_enable_and_disable_by_wildcard_and_by_function():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    assert model.disable_quantizer("*weight_quantizer") == 2
    assert not model.quantizer("b.weight_quantizer").enabled
    assert model.enable_quantizer(lambda name: name == "b.weight_quantizer") == 1
    assert model.quantizer("b.weight_quantizer").enabled
    assert not model.quantizer("a.weight_quantizer").enabled
    assert model.disable_quantizer(lambda name: np.bool_(name.startswith("b."))) == 3
    with pytest.raises(mq.NotFoundError, match="nothing"):
        model.enable_quantizer("nothing*")
    assert model.enable_quantizer("nothing*", allow_no_match=True) == 0
    assert model.enable_quantizer(lambda name: False, allow_no_match=True) == 0
    with pytest.raises(TypeError, match="a wildcard or a function"):
        model.enable_quantizer(3)


def test_attributes_can_be_changed():
    model, weights = two_layers()
    model.quantize(INT8, forward_loop)
    amax = model.quantizer("a.weight_quantizer").amax
    assert model.set_quantizer_attributes("*weight_quantizer", {"num_bits": 4}) == 2
    quantizer = model.quantizer("a.weight_quantizer")
    assert quantizer.attributes["num_bits"] == 4
    assert_same_bits(quantizer.amax, amax)
    want = mq.fake_quant(weights["a"], {"num_bits": 4, "axis": 0}, amax)
    assert_same_bits(model.layers["a"].weight(), want)
    fp8 = {"num_bits": (4, 3)}
    assert model.set_quantizer_attributes(lambda name: name[0] == "a", fp8, replace=True) == 3
    assert quantizer.attributes["num_bits"] == [4, 3]
    assert quantizer.attributes["axis"] is None
    assert quantizer.amax is None
    assert model.set_quantizer_attributes("x", fp8, allow_no_match=True) == 0


def test_postprocess_amax_sees_the_shape_and_replaces_the_values():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    weights = [model.quantizer(f"{name}.weight_quantizer") for name in "ab"]
    before = [quantizer.amax for quantizer in weights]
    shapes = []

    def double(amax):
        shapes.append(amax.shape)
        return amax * 2

    assert model.postprocess_amax("*weight_quantizer", double) == 2
    assert shapes == [(6, 1), (4, 1)]
    for quantizer, amax in zip(weights, before):
        assert_same_bits(quantizer.amax, amax * 2)

    def halve_in_place(amax):
        amax /= 2

    assert model.postprocess_amax("*weight_quantizer", halve_in_place) == 2
    for quantizer, amax in zip(weights, before):
        assert_same_bits(quantizer.amax, amax)
    with pytest.raises(ValueError, match=r"changed the shape .* from \(6, 1\) to \(6,\)"):
        model.postprocess_amax("*weight_quantizer", np.ravel)
    with pytest.raises(mq.NumericError):
        model.postprocess_amax("*weight_quantizer", lambda amax: -amax)
    for quantizer, amax in zip(weights, before):
        assert_same_bits(quantizer.amax, amax)
    assert model.postprocess_amax("*output_quantizer", double, allow_no_match=True) == 0


def test_a_list_makes_a_sequential_quantizer():
    int4, fp8 = {"num_bits": 4, "block_sizes": {-1: 4}}, {"num_bits": (4, 3)}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": [int4, fp8]},
            {"quantizer_name": "*input_quantizer", "cfg": fp8},
        ],
        "algorithm": "max",
    }
    model, weights = two_layers()
    model.quantize(config, forward_loop)
    both = model.quantizer("a.weight_quantizer")
    assert both.enabled
    assert [member["num_bits"] for member in both.attributes] == [4, [4, 3]]
    with pytest.raises(mq.StateError):
        both.amax  # noqa: B018
    first, second = (model.quantizer(f"a.weight_quantizer.{i}") for i in range(2))
    assert first.amax.shape == (12, 1)
    assert second.amax == np.abs(weights["a"]).max()
    want = mq.fake_quant(mq.fake_quant(weights["a"], int4, first.amax), fp8, second.amax)
    assert_same_bits(model.layers["a"].weight(), want)
    names = set(model.quantizers())
    assert {"a.weight_quantizer.0", "a.weight_quantizer.1"} <= names
    assert "a.weight_quantizer" not in names
    assert model.postprocess_amax("a.weight_quantizer*", lambda amax: amax * 2) == 2
    model.set_quantizer_attributes("*weight_quantizer", {"num_bits": 8}, replace=True)
    with pytest.raises(mq.StateError):
        first.amax  # noqa: B018
    assert model.quantizer("a.weight_quantizer").attributes["num_bits"] == 8
