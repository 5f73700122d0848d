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
