"""Errors: their classes, their texts, and what is refused before it reaches the library."""

import pickle

import numpy as np
import pytest

import mq

from network import INT8, forward_loop, matrix, two_layers


def test_an_unknown_preset_proposes_the_nearest():
    model, _ = two_layers()
    with pytest.raises(mq.ConfigError, match="INT8_DEFAULT_CFG") as caught:
        model.quantize("INT8_DEFALT_CFG")
    assert isinstance(caught.value, (mq.MqError, ValueError))
    assert caught.value.status == mq.Status.MQ_ERR_CONFIG == 2
    assert caught.value.status_name == "MQ_ERR_CONFIG"
    assert "\n" not in str(caught.value)
    with pytest.raises(mq.ConfigError, match="INT8_DEFAULT_CFG"):
        mq.preset("INT8_DEFALT_CFG")


def test_what_is_no_configuration_is_refused():
    model, _ = two_layers()
    for config in (None, 8, [{"quantizer_name": "*", "cfg": {"num_bits": 8}}]):
        with pytest.raises(TypeError, match="expected a dict, JSON or a preset's name"):
            model.quantize(config)
    with pytest.raises(ValueError, match="not JSON compliant"):
        model.quantize({"quant_cfg": [], "algorithm": {"method": "max", "ratio": np.nan}})


def test_a_wrong_key_is_quoted_with_its_path():
    model, _ = two_layers()
    config = {"quant_cfg": [{"quantizer_name": "*", "cfg": {"num_bitz": 8}}], "algorithm": "max"}
    with pytest.raises(mq.ConfigError, match=r"num_bitz.*num_bits|num_bits.*num_bitz"):
        model.quantize(config)


def test_what_this_version_cannot_do_is_named():
    model, _ = two_layers()
    with pytest.raises(mq.UnsupportedError, match="SVDQUANT") as caught:
        model.quantize("NVFP4_SVDQUANT_DEFAULT_CFG")
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_cannot_be_quantized_name_the_layer(value):
    model, weights = two_layers()
    weights["b"][1, 2] = value
    with pytest.raises(mq.NumericError, match=r"\bb\b"):
        model.quantize(INT8, lambda: None)
    weights["b"][1, 2] = 1
    x = matrix(5, 8)
    x[3, 3] = value
    before = model.summary_json()
    with pytest.raises(mq.NumericError, match=r"\ba\b"):
        model.quantize(INT8, lambda: model.layers["a"].input(x))
    assert model.summary_json() == before


def test_weights_are_never_copied():
    model = mq.Model()
    for weight in (matrix(8, 6).T, matrix(8, 6)[:, ::2], np.asfortranarray(matrix(8, 6))):
        with pytest.raises(ValueError, match=r"weight of a is not C-contiguous.*ascontiguousarray"):
            model.add_linear("a", weight)
    with pytest.raises(ValueError, match="bias of a is not C-contiguous"):
        model.add_linear("a", matrix(4, 4), np.ones(8, np.float32)[::2])
    assert not model.layers
    assert not model.quantizers()


def test_read_only_and_misaligned_weights_are_refused():
    model = mq.Model()
    weight = matrix(4, 4)
    weight.flags.writeable = False
    with pytest.raises(ValueError, match="weight of a is read-only"):
        model.add_linear("a", weight)
    shifted = np.zeros(65, np.uint8)[1:].view(np.float32).reshape(4, 4)
    with pytest.raises(ValueError, match="not aligned"):
        model.add_linear("a", shifted)
    model.add_linear("a", matrix(4, 4), weight[0])  # nobody writes to a bias


def test_other_dtypes_and_objects_are_refused():
    model = mq.Model()
    with pytest.raises(TypeError, match="weight of a has dtype float64"):
        model.add_linear("a", np.ones((4, 4)))
    with pytest.raises(TypeError, match="weight of a is a list"):
        model.add_linear("a", [[1.0]])
    with pytest.raises(ValueError, match="'lstm', expected one of linear"):
        model.add_layer("lstm", "a", matrix(4, 4))
    with pytest.raises(ValueError, match="threads is -1"):
        mq.Model(threads=-1)
    with pytest.raises(ValueError, match="NUL"):
        model.add_linear("a\0b", matrix(4, 4))


def test_the_library_refuses_wrong_ranks_and_names():
    model = mq.Model()
    with pytest.raises(mq.InvalidArgumentError):
        model.add_linear("a", np.ones(4, np.float32))
    with pytest.raises(mq.InvalidArgumentError):
        model.add_layer("linear", "a")
    with pytest.raises(mq.InvalidArgumentError):
        model.add_linear("", matrix(4, 4))
    model.add_linear("a", matrix(4, 4))
    with pytest.raises(mq.AlreadyExistsError, match="a"):
        model.add_linear("a", matrix(4, 4))
    with pytest.raises(mq.AlreadyExistsError, match=r"a\.weight_quantizer"):
        model.add_quantizer("a.weight_quantizer")
    with pytest.raises(mq.NotFoundError, match=r"a\.weight_quantiser") as caught:
        model.quantizer("a.weight_quantiser")
    assert isinstance(caught.value, LookupError)


def test_verbs_that_come_too_early_or_too_late_are_refused():
    model, _ = two_layers()
    for verb in (model.calibrate, model.fold_weight, model.reset_amax):
        with pytest.raises(mq.StateError):
            verb()
    with pytest.raises(mq.StateError):
        model.enable_quantizer("*")
    model.quantize(INT8, forward_loop)
    with pytest.raises(mq.StateError):
        model.add_linear("c", matrix(4, 4))
    with pytest.raises(mq.InvalidArgumentError):
        mq.Model().quantize(INT8)


def test_an_amax_that_does_not_fit_is_refused():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    quantizer = model.quantizer("a.weight_quantizer")
    before = quantizer.amax
    for wrong in (1.0, np.ones(5), np.ones((1, 6))):
        with pytest.raises(mq.InvalidArgumentError):
            quantizer.set_amax(wrong)
    for value in (np.nan, np.inf, -1):
        with pytest.raises(mq.NumericError):
            quantizer.set_amax(np.full((6, 1), value))
    with pytest.raises(mq.InvalidArgumentError):
        quantizer.set_pre_quant_scale(np.ones(7))
    assert (quantizer.amax == before).all()


def test_a_layer_without_a_weight_says_so():
    model = mq.Model()
    norm = model.add_layer("generic", "norm", class_name="nn.LayerNorm")
    with pytest.raises(mq.InvalidArgumentError, match="norm"):
        norm.weight()


def test_errors_survive_pickling():
    error = mq.ConfigError(2, "no such key")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is mq.ConfigError
    assert (copy.status, copy.status_name, str(copy)) == (2, "MQ_ERR_CONFIG", "no such key")
    assert mq.MqError(99, "?").status_name == "status 99"
