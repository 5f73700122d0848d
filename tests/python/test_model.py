"""Models: registration, the verbs, and what they leave behind."""

import ml_dtypes
import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers


def test_every_kind_of_layer_can_be_registered():
    kernels = {"conv1d": (3,), "conv2d": (3, 3), "conv3d": (3, 3, 3)}
    with mq.Model() as model:
        model.add_linear("linear", matrix(4, 2))
        for kind, kernel in kernels.items():
            model.add_layer(kind, kind, np.ones((4, 2, *kernel), np.float32))
            kind = kind.replace("conv", "conv_transpose")
            model.add_layer(kind, kind, np.ones((2, 4, *kernel), np.float32))
        model.add_layer("embedding", "embedding", matrix(10, 4))
        model.add_layer("generic", "norm", class_name="nn.LayerNorm")
        names = ["linear", "conv1d", "conv_transpose1d", "conv2d", "conv_transpose2d", "conv3d"]
        assert list(model.layers) == [*names, "conv_transpose3d", "embedding", "norm"]
        assert "conv2d.weight_quantizer" in model.quantizers()
        assert "norm.input_quantizer" in model.quantizers()
        assert "norm.weight_quantizer" not in model.quantizers()
        assert repr(model.layers["conv2d"]) == "<mq.Layer conv2d (conv2d)>"


def test_class_names_and_groups_reach_the_library():
    model = mq.Model()
    model.add_linear("q", matrix(4, 4), class_name="my.Linear", fused_group="qkv")
    model.add_linear("k", matrix(4, 4), fused_group="qkv", shared_input_group="attention")
    text = str(model.summary_json())
    for word in ("my.Linear", "nn.Linear", "qkv", "attention"):
        assert word in text


def test_before_quantize_everything_passes_unchanged():
    model, weights = two_layers()
    x = matrix(5, 8)
    layer = model.layers["a"]
    assert_same_bits(layer.input(x), x)
    assert_same_bits(layer.output(x), x)
    assert_same_bits(layer.weight(), weights["a"])
    np.testing.assert_array_equal(layer.forward(x), x @ weights["a"].T)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_model_works_in_every_dtype(dtype):
    model, weights = two_layers(dtype)
    assert model.quantize(INT8, forward_loop) is model
    quantizers = model.quantizers()
    amax = np.abs(weights["a"]).max(axis=1, keepdims=True).astype(np.float32)
    assert_same_bits(quantizers["a.weight_quantizer"].amax, amax)
    weight = model.layers["a"].weight()
    assert_same_bits(weight, mq.fake_quant(weights["a"], {"num_bits": 8, "axis": 0}, amax))
    x = matrix(5, 8, 3, dtype)
    scale = quantizers["a.input_quantizer"].amax
    assert scale.shape == ()
    assert_same_bits(model.layers["a"].input(x), mq.fake_quant(x, {"num_bits": 8}, scale))
    y = model.layers["a"].forward(x)
    assert y.dtype == dtype
    assert y.shape == (5, 6)


def test_taps_write_in_place_and_read_any_layout():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    layer = model.layers["a"]
    x = matrix(5, 8)
    want = layer.input(x)
    assert_same_bits(layer.input(np.asfortranarray(x)), want)
    assert layer.input(x, x) is x
    assert_same_bits(x, want)
    with pytest.raises(ValueError, match="out is not C-contiguous"):
        layer.input(x, np.asfortranarray(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("keep_attrs", [False, True])
def test_fold_weight_writes_what_weight_gave(dtype, keep_attrs):
    model, weights = two_layers(dtype)
    model.quantize(INT8, forward_loop)
    want = {name: layer.weight() for name, layer in model.layers.items()}
    assert (want["a"] != weights["a"]).any()
    model.fold_weight(keep_attrs)
    for name, weight in weights.items():
        assert_same_bits(weight, want[name])
        assert_same_bits(model.layers[name].weight(), want[name])
        quantizer = model.quantizer(f"{name}.weight_quantizer")
        assert not quantizer.enabled
        assert (quantizer.amax is not None) == keep_attrs
    model.fold_weight(keep_attrs)
    for name, weight in weights.items():
        assert_same_bits(weight, want[name], "folding twice changes nothing")


def test_configurations_come_in_four_shapes():
    mapping = {
        "quant_cfg": {
            "*weight_quantizer": {"num_bits": 8, "axis": 0},
            "*input_quantizer": {"num_bits": 8, "axis": None},
            "default": {"enable": False},
        },
        "algorithm": "max",
    }
    text = '{"quant_cfg": [{"quantizer_name": "*", "enable": false}, {"quantizer_name": '
    text += '"*weight_quantizer", "cfg": {"axis": 0}}, {"quantizer_name": "*input_quantizer", '
    text += '"cfg": {"num_bits": 8}}], "algorithm": "max"}'
    results = []
    for config in ("INT8_DEFAULT_CFG", INT8, mapping, text):
        model, _ = two_layers()
        model.quantize(config, forward_loop)
        results.append([model.layers["a"].weight(), model.layers["b"].input(matrix(5, 6))])
    for result in results[1:]:
        for got, want in zip(result, results[0]):
            assert_same_bits(got, want)


def test_without_a_forward_loop_activations_are_quantized_dynamically():
    model, _ = two_layers()
    model.quantize("INT8_DEFAULT_CFG")
    assert model.quantizer("a.input_quantizer").amax is None
    x = matrix(5, 8)
    assert_same_bits(model.layers["a"].input(x), mq.fake_quant(x, {"num_bits": 8}))


def test_presets_are_listed_and_can_be_changed():
    names = mq.presets()
    assert len(names) == len(set(names))
    assert {"INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG", "INT4_AWQ_CFG", "NVFP4_DEFAULT_CFG"} <= set(
        names
    )
    for name in names:
        assert "quant_cfg" in mq.preset(name), name
    config = mq.preset("INT8_DEFAULT_CFG")
    config["quant_cfg"].append({"quantizer_name": "b.*", "enable": False})
    model, weights = two_layers()
    model.quantize(config, forward_loop)
    assert_same_bits(model.layers["b"].weight(), weights["b"])
    assert "cfg" in str(mq.preset("INT8_DEFAULT_CFG")), "a new dict each time"


def test_summaries_name_every_quantizer(capsys):
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    text = model.summary()
    for name in model.quantizers():
        assert name in text
    model.print_quant_summary()
    assert text.endswith("\n")
    assert capsys.readouterr().out == text
    assert isinstance(model.summary_json(), dict)


def test_only_linear_layers_have_a_forward():
    model = mq.Model()
    conv = model.add_layer("conv1d", "c", np.ones((2, 2, 3), np.float32))
    with pytest.raises(NotImplementedError, match="conv1d"):
        conv.forward(matrix(2, 2))


def test_a_bias_is_added():
    model = mq.Model()
    bias = np.arange(4, dtype=np.float32)
    layer = model.add_linear("fc", matrix(4, 3), bias)
    assert_same_bits(layer.forward(np.zeros((2, 3), np.float32)), np.stack([bias, bias]))


def test_the_thread_count_does_not_change_a_bit():
    weight, x = matrix(256, 512), matrix(300, 512, 5)
    results = []
    for threads in (1, 2, 0):
        model = mq.Model(threads)
        layer = model.add_linear("fc", weight)
        model.quantize("INT8_DEFAULT_CFG", lambda model: model.layers["fc"].input(x))
        results.append((layer.weight(), layer.input(x)))
    for result in results[1:]:
        for got, want in zip(result, results[0]):
            assert_same_bits(got, want)
