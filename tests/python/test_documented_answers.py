"""What docs/faq.md and docs/concepts say, where no other test says it as plainly."""

import numpy as np
import pytest

import mq

from network import matrix


def three_layers(**context):
    """Layers of which the first two are fused and read the same input."""
    model = mq.Model(threads=2, **context)
    together = {"fused_group": "qk", "shared_input_group": "qk.in"}
    weights = [matrix(128, 128, seed) for seed in range(3)]
    for i, weight in enumerate(weights):
        model.add_linear(f"l{i}", weight, **(together if i < 2 else {}))
    return model, weights


def forward(model):
    for layer in model.layers.values():
        layer.input(matrix(16, 128, 9))


@pytest.mark.parametrize(
    ("preset", "algorithm", "forwards"),
    [
        ("INT8_WEIGHT_ONLY_CFG", "max", 0),
        ("INT8_DEFAULT_CFG", "max", 1),
        ("INT4_AWQ_CFG", "awq_lite", 1),
        ("INT4_AWQ_CFG", "awq_full", 1),
        ("INT8_DEFAULT_CFG", ["max", "histogram"], 2),
    ],
)
def test_how_often_the_forward_runs(preset, algorithm, forwards):
    model, _ = three_layers()
    calls = []

    def counted():
        calls.append(1)
        forward(model)

    config = {**mq.preset(preset), "algorithm": algorithm}
    assert model.plan(config)["forwards"] == forwards
    model.quantize(config, counted)
    assert len(calls) == forwards


def test_fused_layers_share_their_scale_and_the_checker_sees_when_they_do_not():
    model, _ = three_layers()
    model.quantize("FP8_DEFAULT_CFG", lambda: forward(model))
    amax = [float(model.quantizer(f"l{i}.weight_quantizer").amax) for i in range(3)]
    assert amax[0] == amax[1] != amax[2]
    assert model.check().errors == 0
    model.quantizer("l1.weight_quantizer").set_amax(9.0)
    report = model.check()
    assert [(p["severity"], p["kind"], p["name"]) for p in report.problems] == [
        ("error", "group", "qk")
    ]


def test_a_pattern_that_matches_nothing_is_a_warning_beside_others():
    told = []
    model, _ = three_layers(log=lambda level, text: told.append(text))
    entries = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8}},
        {"quantizer_name": "*mixer*", "cfg": {"num_bits": 8}},
    ]
    model.quantize({"quant_cfg": entries, "algorithm": "max"})
    assert any("*mixer*" in text and "no quantizer" in text for text in told)


def test_nothing_ends_quantized_in_silence():
    model, _ = three_layers()
    with pytest.raises(mq.StateError, match="no tokens"):
        model.quantize("INT8_DEFAULT_CFG", lambda: None)
    only = [{"quantizer_name": "*", "enable": False}]
    only.append({"quantizer_name": "*mixer*", "cfg": {"num_bits": 8}})
    with pytest.raises(mq.ConfigError):
        model.quantize({"quant_cfg": only, "algorithm": "max"})
    model.quantize("INT8_DEFAULT_CFG", lambda: forward(model))
    with pytest.raises(mq.NotFoundError):
        model.disable_quantizer("*mixer*")


def test_an_amax_of_zero_is_a_warning():
    model, _ = three_layers()
    model.quantize("INT8_DEFAULT_CFG", lambda: forward(model))
    model.quantizer("l2.input_quantizer").set_amax(0.0)
    report = model.check()
    assert [(p["severity"], p["name"]) for p in report.problems] == [
        ("warning", "l2.input_quantizer")
    ]


def test_nan_is_refused_with_a_name_and_nothing_changes():
    model, weights = three_layers()
    weights[1][5, 6] = np.nan
    with pytest.raises(mq.NumericError, match=r"l1\.weight_quantizer"):
        model.quantize("INT8_WEIGHT_ONLY_CFG")
    weights[1][5, 6] = 1.0
    assert np.array_equal(model.layers["l0"].weight(), weights[0])
    model.quantize("INT8_WEIGHT_ONLY_CFG")


def test_a_kv_cache_is_calibrated_through_quantizers_of_the_host():
    model, _ = three_layers()
    keys = model.add_quantizer("layers.0.self_attn.k_bmm_quantizer")
    values = model.add_quantizer("layers.0.self_attn.v_bmm_quantizer")
    cache = {keys: matrix(4, 8, 1), values: matrix(4, 8, 2)}

    def pass_through():
        for quantizer, tensor in cache.items():
            quantizer.forward(tensor)

    config = mq.preset("FP8_KV_CFG")
    model.quantize({**config, "algorithm": "max"}, pass_through)
    for quantizer, tensor in cache.items():
        if not quantizer.attributes["use_constant_amax"]:
            assert float(quantizer.amax) == pytest.approx(np.abs(tensor).max())
        assert quantizer.enabled
