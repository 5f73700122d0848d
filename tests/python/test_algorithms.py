"""Presets on the two-block network of the golden file: amax, weights and outputs of every layer."""

import numpy as np
import pytest

import mq

from golden import Golden, assert_same_bits

GOLDEN = Golden("algorithms")
NAMES = ["int8_max", "fp8_max", "int4_block_max", "fp8_2d", "fp8_pcpt", "int8_wo"]
CASES = {case["name"]: case for case in GOLDEN.cases}
WEIGHTS = [n for n in GOLDEN.names() if n.startswith("weight.") and n.endswith(".weight")]
LAYERS = [name[len("weight.") : -len(".weight")] for name in WEIGHTS]
BATCHES = 4


def with_blocks_of_32(value):
    """The golden file was made with every block of 128 replaced by 32."""
    if isinstance(value, dict):
        return {key: with_blocks_of_32(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_blocks_of_32(entry) for entry in value]
    return 32 if value == 128 else value


def quantized(name):
    model = mq.Model(threads=2)
    for layer in LAYERS:
        bias = f"weight.{layer}.bias"
        model.add_linear(
            layer,
            GOLDEN.tensor(f"weight.{layer}.weight"),
            GOLDEN.tensor(bias) if bias in GOLDEN else None,
        )

    def forward_loop(model):
        for batch in range(BATCHES):
            for layer in LAYERS:
                model.layers[layer].input(GOLDEN.tensor(f"x.{layer}.{batch}"))

    config = with_blocks_of_32(mq.preset(CASES[name]["preset"]))
    return model.quantize({**config, "algorithm": CASES[name]["algorithm"]}, forward_loop)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return CASES[request.param], quantized(request.param)


def test_the_golden_file_is_whole():
    assert len(GOLDEN.cases) == 17
    assert len(LAYERS) == 15
    assert set(NAMES) <= set(CASES)
    assert sum(len(CASES[name]["quantizers"]) for name in NAMES) == 126


def test_every_quantizer_has_the_state_of_the_reference(case):
    golden, model = case
    quantizers = model.quantizers()
    assert set(golden["quantizers"]) <= set(quantizers)
    for name, quantizer in quantizers.items():
        want = golden["quantizers"].get(name, {"enabled": False, "amax": None})
        assert quantizer.enabled == want["enabled"], name
        if want["enabled"] and want.get("amax"):
            assert_same_bits(quantizer.amax, GOLDEN.tensor(want["amax"]), name)
        else:
            assert quantizer.amax is None, name
        assert quantizer.pre_quant_scale is None, name


def test_the_output_layer_is_not_quantized(case):
    golden, model = case
    assert not any(name.startswith("lm_head") for name in golden["quantizers"])
    layer = model.layers["lm_head"]
    assert_same_bits(layer.weight(), GOLDEN.tensor("weight.lm_head.weight"))
    x = GOLDEN.tensor("x.lm_head.0")
    assert_same_bits(layer.input(x), x)


def test_every_weight_is_that_of_the_reference_bit_for_bit(case):
    golden, model = case
    for name, layer in model.layers.items():
        assert_same_bits(layer.weight(), GOLDEN.tensor(f"{golden['name']}.{name}.weight_fq"), name)


def test_outputs_are_those_of_the_reference():
    model = quantized("int8_max")
    outputs = [f"int8_max.{name}.y0" for name in LAYERS]
    assert all(name in GOLDEN for name in outputs)
    for name, output in zip(LAYERS, outputs):
        got = model.layers[name].forward(GOLDEN.tensor(f"x.{name}.0"))
        np.testing.assert_allclose(got, GOLDEN.tensor(output), rtol=1e-5, atol=1e-5, err_msg=name)
