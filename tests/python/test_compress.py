"""Packed weights through the Python package."""

import numpy as np
import pytest

import mq


def model_of(weight, config="INT8_WEIGHT_ONLY_CFG"):
    model = mq.Model()
    layer = model.add_linear("a", weight)
    model.quantize(config)
    return model, layer


@pytest.mark.parametrize(
    "config",
    [
        "INT8_WEIGHT_ONLY_CFG",
        "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
        "MXFP4_DEFAULT_CFG",
        "NVFP4_DEFAULT_CFG",
    ],
)
def test_a_packed_weight_comes_back_as_the_fake_quantized_one(config):
    weight = np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32)
    model, layer = model_of(weight, config)
    want = layer.weight()
    assert model.compress() == 1
    np.testing.assert_array_equal(layer.weight(), want)
    summary = model.summary_json()
    assert summary["weight_bytes_after"] < summary["weight_bytes_before"] / 3


def test_packing_twice_or_nothing_is_refused():
    model, _ = model_of(np.ones((4, 32), np.float32))
    with pytest.raises(mq.NotFoundError):
        model.compress({"*b.weight_quantizer": True, "default": False})
    assert model.compress({"default": False}, allow_no_match=True) == 0
    assert model.compress({"a.*": True}) == 1
    with pytest.raises(mq.StateError, match=r"a\.weight_quantizer"):
        model.compress()
