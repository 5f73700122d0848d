"""Arrays of other libraries by DLPack: without a copy, given back in time, and what is refused."""

import gc

import ml_dtypes
import numpy as np
import pytest

import mq

from foreign import Foreign, name_of
from golden import assert_same_bits
from network import INT8, matrix

X = matrix(6, 8)
ATTRIBUTES = {"num_bits": 8, "axis": 0}


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_an_exported_array_is_read_and_given_back(versioned, dtype):
    x = Foreign(X.astype(dtype), versioned)
    got = mq.fake_quant(x, ATTRIBUTES)
    assert isinstance(got, Foreign)
    assert_same_bits(got.numpy, mq.fake_quant(x.numpy, ATTRIBUTES))
    assert x.asked == [{"max_version": (1, 0)} if versioned else {}]
    assert not x.exports
    used = b"used_dltensor_versioned" if versioned else b"used_dltensor"
    assert [name_of(capsule) for capsule in x.capsules] == [used]


@pytest.mark.parametrize("versioned", [False, True])
def test_out_is_written_to_in_its_own_memory(versioned):
    x, out = Foreign(X.copy(), versioned), Foreign(np.zeros_like(X), versioned)
    want = mq.fake_quant(X, ATTRIBUTES)
    assert mq.fake_quant(x, ATTRIBUTES, out=out) is out
    assert_same_bits(out.numpy, want)
    assert mq.fake_quant(x, ATTRIBUTES, out=x) is x
    assert_same_bits(x.numpy, want)
    assert mq.fake_quant(x, ATTRIBUTES, out=out.numpy) is out.numpy
    assert not x.exports
    assert not out.exports


def test_all_calls_take_what_speaks_dlpack():
    x = Foreign(X)
    assert_same_bits(mq.amax(x, ATTRIBUTES), mq.amax(X, ATTRIBUTES))
    assert mq.histogram_amax([x, X]) == mq.histogram_amax([X, X])
    packed = mq.pack(x, ATTRIBUTES)
    out = Foreign(np.empty_like(X))
    assert mq.unpack(packed, out=out) is out
    assert_same_bits(out.numpy, mq.unpack(packed))
    model = mq.Model()
    weight = Foreign(matrix(4, 8))
    layer, tap = model.add_linear("a", weight), model.add_quantizer("q")
    passed = []
    model.quantize(INT8, lambda: passed.append(layer.input(x)))
    assert_same_bits(passed[0].numpy, X)
    assert isinstance(layer.weight(), Foreign)
    assert_same_bits(tap.forward(x).numpy, X)
    layer.output(Foreign(matrix(6, 4)))
    layer.grad(Foreign(matrix(6, 4)))
    assert_same_bits(layer.requantize_into(weight).numpy, layer.weight().numpy)
    assert not x.exports


def test_a_registered_array_is_folded_in_place_and_kept_until_the_model_is_gone():
    weight, bias = Foreign(matrix(4, 8)), Foreign(np.zeros(4, np.float32))
    model = mq.Model()
    layer = model.add_linear("a", weight, bias)
    assert len(weight.exports) == len(bias.exports) == 1
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    want = layer.weight().numpy
    before = weight.numpy.copy()
    model.fold_weight()
    assert_same_bits(weight.numpy, want)
    assert (weight.numpy != before).any()
    assert len(weight.exports) == 1
    with pytest.raises(TypeError, match="forward computes with numpy, but a has a Foreign"):
        layer.forward(X)
    exports = weight.exports, bias.exports
    del model, layer, weight, bias
    gc.collect()
    assert exports == ({}, {})


def test_closing_a_model_gives_the_arrays_back():
    weight = Foreign(matrix(4, 8))
    model = mq.Model()
    model.add_linear("a", weight)
    model.close()
    assert not weight.exports


def test_layouts():
    wide = matrix(12, 16)
    for view in (wide.T, wide[::2, 1::3], wide[:, ::-1], np.broadcast_to(wide[0], (3, 16))):
        x = Foreign(view)
        got = mq.fake_quant(x, ATTRIBUTES)
        assert_same_bits(got.numpy, mq.fake_quant(np.ascontiguousarray(view), ATTRIBUTES))
        with pytest.raises(ValueError, match="out is not C-contiguous"):
            mq.fake_quant(np.ascontiguousarray(view), ATTRIBUTES, out=x)
        with pytest.raises(ValueError, match="the weight of a is not C-contiguous"):
            mq.Model().add_linear("a", x)
        assert not x.exports
    row = wide.reshape(1, 12, 1, 16).transpose(2, 1, 0, 3)  # an extent of 1 has no stride
    mq.fake_quant(Foreign(row), ATTRIBUTES, out=Foreign(row.copy()))
    bits = wide.astype(ml_dtypes.bfloat16)[::2, 1::3]
    got = mq.fake_quant(Foreign(bits), ATTRIBUTES).numpy
    assert_same_bits(got, mq.fake_quant(bits, ATTRIBUTES))


def test_strides_may_be_missing_and_data_may_have_an_offset():
    memory = matrix(6, 8)
    x = Foreign(memory[2:], strides=None)
    assert_same_bits(mq.fake_quant(x, ATTRIBUTES).numpy, mq.fake_quant(memory[2:], ATTRIBUTES))
    x = Foreign(memory[2:], data=memory.ctypes.data, byte_offset=2 * 8 * 4)
    assert_same_bits(mq.fake_quant(x, ATTRIBUTES).numpy, mq.fake_quant(memory[2:], ATTRIBUTES))
    columns = Foreign(memory[2:, ::2], data=memory.ctypes.data, byte_offset=2 * 8 * 4)
    got = mq.fake_quant(columns, ATTRIBUTES).numpy
    assert_same_bits(got, mq.fake_quant(memory[2:, ::2], ATTRIBUTES))


def test_scalars_and_empty_arrays():
    scalar = mq.fake_quant(Foreign(np.array(1.5, np.float32)), {"num_bits": 8})
    assert scalar.shape == ()
    assert scalar.numpy == 1.5
    empty = Foreign(np.empty((0, 3), np.float32), data=None)
    assert mq.fake_quant(empty, {"num_bits": 8}).shape == (0, 3)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float64, np.complex64])
def test_other_dtypes_are_refused(dtype):
    x = Foreign(X.astype(dtype))
    calls = [
        lambda: mq.fake_quant(x, ATTRIBUTES),
        lambda: mq.fake_quant(X, ATTRIBUTES, out=x),
        lambda: mq.Model().add_linear("a", x),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="expected float32, float16 or bfloat16"):
            call()
    assert not x.exports


def test_vectors_of_elements_are_refused():
    with pytest.raises(TypeError, match="has dtype"):
        mq.fake_quant(Foreign(X, lanes=2), ATTRIBUTES)


def test_read_only_arrays_are_inputs_only():
    x = Foreign(X.copy(), flags=1)
    want = mq.fake_quant(X, ATTRIBUTES)
    assert_same_bits(mq.fake_quant(x, ATTRIBUTES).numpy, want)
    with pytest.raises(ValueError, match="out is read-only"):
        mq.fake_quant(X, ATTRIBUTES, out=x)
    with pytest.raises(ValueError, match="the weight of a is read-only, but fold_weight"):
        mq.Model().add_linear("a", x)
    model = mq.Model()
    model.add_linear("up", matrix(8, 8), x_bias := Foreign(np.zeros(8, np.float32), flags=1))
    model.add_linear("down", matrix(4, 8), producer="up")
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    with pytest.raises(ValueError, match="the bias of up is read-only"):
        model.fold_pre_quant_scale()
    assert not x.exports
    assert len(x_bias.exports) == 1


@pytest.mark.parametrize("device", [(4, 0), (8, 0), (10, 1), (14, 0)])
def test_other_devices_are_refused(device):
    x = Foreign(X, device=device)
    with pytest.raises(ValueError, match=f"x is a Foreign on device type {device[0]}"):
        mq.fake_quant(x, ATTRIBUTES)
    assert not x.exports


def test_pinned_memory_is_host_memory():
    x = Foreign(X, device=(3, 0))
    assert_same_bits(mq.fake_quant(x, ATTRIBUTES).numpy, mq.fake_quant(X, ATTRIBUTES))


def test_an_array_on_another_device_than_the_models_is_refused():
    model = mq.Model()
    layer = model.add_linear("a", matrix(4, 8))
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    on_gpu = Foreign(X, device=(2, 0))
    with pytest.raises(mq.InvalidArgumentError, match=r"device|CUDA"):
        layer.input(X, out=on_gpu)
    with pytest.raises(TypeError, match="on a CUDA device cannot be made: give out"):
        layer.input(on_gpu)
    with pytest.raises(mq.MqError, match=r"device|CUDA"):
        mq.Model().add_linear("b", on_gpu)
    # Its library tells no stream: DLPack's number of the default one.
    assert on_gpu.asked[-1] == {"stream": 1, "max_version": (1, 0)}
    assert not on_gpu.exports


def test_devices_of_a_model():
    for device in ("cuda:x", "tpu", -1, "cuda0", object()):
        with pytest.raises(ValueError, match="device is"):
            mq.Model(device=device)
    mq.Model(device="cpu")


def test_exports_that_fail_or_are_none_are_refused():
    class Failing(Foreign):
        def __dlpack__(self, **options):
            raise BufferError("it has no memory")

    class Wrong(Foreign):
        def __dlpack__(self, **options):
            return "capsule"

    class Consumed(Foreign):
        def __dlpack__(self, **options):
            return self.capsules[0]

    with pytest.raises(TypeError, match="x is a Failing that DLPack cannot export: it has no mem"):
        mq.fake_quant(Failing(X), ATTRIBUTES)
    with pytest.raises(TypeError, match="no DLPack capsule"):
        mq.fake_quant(Wrong(X), ATTRIBUTES)
    x = Foreign(X)
    mq.fake_quant(x, ATTRIBUTES)
    again = Consumed(X)
    again.capsules = x.capsules
    with pytest.raises(TypeError, match="no DLPack capsule"):
        mq.fake_quant(again, ATTRIBUTES)
    future = Foreign(X, major=2)
    with pytest.raises(TypeError, match=r"DLPack 2\.0, but only 1\.x"):
        mq.fake_quant(future, ATTRIBUTES)
    assert not future.exports


def test_a_mismatch_of_out_is_refused():
    for out in (Foreign(matrix(6, 7)), Foreign(X.astype(np.float16))):
        with pytest.raises(mq.InvalidArgumentError, match="out is"):
            mq.fake_quant(Foreign(X), ATTRIBUTES, out=out)
        assert not out.exports


def test_a_result_of_a_library_without_a_namespace_needs_out():
    class Bare:
        def __init__(self, array):
            self.inner = Foreign(array)
            self.shape = array.shape

        def __dlpack__(self, **options):
            return self.inner.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.inner.__dlpack_device__()

    with pytest.raises(TypeError, match="a new Bare cannot be made: give out"):
        mq.fake_quant(Bare(X), ATTRIBUTES)
    out = np.empty_like(X)
    assert mq.fake_quant(Bare(X), ATTRIBUTES, out=out) is out
