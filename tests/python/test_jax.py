"""Arrays of jax, which never change, by DLPack; skipped where jax is not installed."""

import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, matrix

jax = pytest.importorskip("jax", exc_type=ImportError)
ATTRIBUTES = {"num_bits": 8, "axis": 0}


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def x(request):
    return jax.numpy.asarray(matrix(8, 64)).astype(request.param)


def test_results_are_jaxs(x):
    before = np.array(x)
    got = mq.fake_quant(x, ATTRIBUTES)
    assert isinstance(got, jax.Array)
    assert_same_bits(np.asarray(got), mq.fake_quant(before, ATTRIBUTES))
    assert_same_bits(np.asarray(x), before)
    columns = mq.fake_quant(x.T, ATTRIBUTES)
    assert_same_bits(np.asarray(columns), mq.fake_quant(before.T, ATTRIBUTES))
    assert_same_bits(mq.amax(x, ATTRIBUTES), mq.amax(before, ATTRIBUTES))
    assert mq.histogram_amax([x, x]) == mq.histogram_amax([before, before])
    assert_same_bits(mq.unpack(mq.pack(x, ATTRIBUTES)), mq.unpack(mq.pack(before, ATTRIBUTES)))


def test_jaxs_arrays_are_not_written_to(x):
    other = np.empty(x.shape, x.dtype)
    assert mq.fake_quant(x, ATTRIBUTES, out=other) is other
    with pytest.raises(ValueError, match="out is read-only"):
        mq.fake_quant(x, ATTRIBUTES, out=jax.numpy.zeros_like(x))
    with pytest.raises(ValueError, match="the weight of a is read-only, but fold_weight"):
        mq.Model().add_linear("a", x)


def test_taps_take_them(x):
    model = mq.Model()
    layer = model.add_linear("a", matrix(4, 64))
    model.quantize(INT8, lambda: layer.input(x))
    assert isinstance(layer.input(x), jax.Array)
    assert model.quantizer("a.input_quantizer").amax == np.abs(np.array(x, np.float32)).max()


def test_other_dtypes_are_refused():
    with pytest.raises(TypeError, match="has dtype int32"):
        mq.fake_quant(jax.numpy.arange(8), ATTRIBUTES)
