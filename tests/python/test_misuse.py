"""Arguments that nobody means, and what they are told: never a crash, never a wrong result."""

import copy
import dataclasses
import gc
import sys

import numpy as np
import pytest

import mq

from foreign import Foreign
from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers

INT4 = {"num_bits": 4, "block_sizes": {-1: 16}}
X = matrix(8, 64)


def test_masked_arrays_are_refused():
    masked = np.ma.array(X, mask=X > 1)
    for call in (mq.fake_quant, mq.amax, mq.pack):
        with pytest.raises(TypeError, match=r"x is a masked array.*filled"):
            call(masked, INT4)
    with pytest.raises(TypeError, match="the weight of a is a masked array"):
        mq.Model().add_linear("a", masked)


@pytest.mark.parametrize("amax", [None, "2", 2 + 1j, [object()]])
def test_an_amax_is_made_of_numbers(amax):
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    with pytest.raises(TypeError, match="expected numbers, got"):
        model.quantizer("a.input_quantizer").set_amax(amax)
    if amax is not None:
        with pytest.raises(TypeError, match="expected numbers, got"):
            mq.fake_quant(X, {"num_bits": 8}, amax=amax)


@pytest.mark.parametrize("attributes", [{}, [{}], "{}"])
def test_empty_attributes_are_the_defaults_everywhere(attributes):
    plain = mq.fake_quant(X, {"num_bits": 8})
    assert_same_bits(mq.fake_quant(X, attributes), plain)
    found = mq.amax(X, attributes)
    assert (found[0] if isinstance(found, list) else found) == mq.amax(X, {"num_bits": 8})
    assert_same_bits(mq.unpack(mq.pack(X, attributes)), plain + 0.0)


@pytest.mark.parametrize("attributes", [None, 5, [], [5], "null", "{"])
def test_what_is_no_attributes_is_a_config_error_everywhere(attributes):
    for call in (mq.fake_quant, mq.amax, mq.pack):
        with pytest.raises(mq.ConfigError, match="attributes"):
            call(X, attributes)


def test_a_number_has_no_axes_to_pack():
    one = np.array(1.5, np.float32)
    for call in (mq.amax, mq.pack):
        with pytest.raises(ValueError, match="x has no axes"):
            call(one, {"num_bits": 8})


def test_batches_without_elements():
    empty = np.empty((0, 4), np.float32)
    with pytest.raises(ValueError, match="batches have no elements"):
        mq.histogram_amax([empty, empty])
    assert mq.histogram_amax([empty, X]) == mq.histogram_amax([X])


def test_parts_of_another_dtype_are_refused_and_byte_orders_are_not():
    packed = mq.pack(X, INT4)
    swapped = dataclasses.replace(packed, scales=packed.scales.astype(">f4"))
    assert_same_bits(mq.unpack(swapped), mq.unpack(packed))
    integers = dataclasses.replace(packed, scales=packed.scales.astype(np.int32))
    with pytest.raises(ValueError, match=r"part scale has 128 bytes of int32.*of float32"):
        mq.unpack(integers)
    signed = dataclasses.replace(packed, data=packed.data.view(np.int8))
    assert_same_bits(mq.unpack(signed), mq.unpack(packed))


@pytest.mark.parametrize("given", [None, X, {"data": X}])
def test_only_what_was_packed_is_unpacked(given):
    with pytest.raises(TypeError, match=r"expected what pack\(\) gave"):
        mq.unpack(given)


def test_an_array_that_changed_its_dtype_or_became_read_only():
    weight = matrix(6, 8)
    model = mq.Model()
    model.add_linear("a", weight)
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    before = weight.copy()
    weight.flags.writeable = False
    with pytest.raises(ValueError, match="weight of a is read-only, but fold_weight"):
        model.fold_weight()
    weight.flags.writeable = True
    assert_same_bits(weight, before)
    weight.dtype = np.int32
    with pytest.raises(mq.StateError, match="its dtype changed"):
        model.fold_weight()
    weight.dtype = np.float32
    model.fold_weight()


def test_patterns_and_names_are_strings():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    with pytest.raises(TypeError, match="pattern is a function, expected a wildcard"):
        model.postprocess_amax(lambda name: True, lambda amax: amax)
    with pytest.raises(TypeError, match="pattern is a int"):
        model.reset_amax(5)
    with pytest.raises(TypeError, match="expected a string, got a int"):
        mq.Model().add_linear(5, matrix(2, 2))


def test_arguments_of_a_model():
    with pytest.raises(TypeError, match="log is a int"):
        mq.Model(log=5)
    for device in (2**31, "cuda:2147483648", 2**40):  # not another one by wrapping around
        with pytest.raises(ValueError, match="expected an index below"):
            mq.Model(device=device)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_models_are_not_copied():
    model, _ = two_layers()
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    gc.collect()  # what was half made goes without a word


LIES = [
    ({"ndim": -1}, "it has -1 axes"),
    ({"ndim": 9}, "it has 9 axes"),
    ({"ndim": 2**31 - 1}, "axes, expected 0 to 8"),
    ({"shape": None}, "its shape is NULL"),
    ({"data": None}, "its data is NULL"),
]


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(("lie", "text"), LIES)
def test_what_a_producer_may_get_wrong_is_no_crash(lie, text, versioned):
    x = Foreign(matrix(2, 4), versioned, **lie)
    with pytest.raises(TypeError, match=text):
        mq.fake_quant(x, {"num_bits": 8})
    gc.collect()
    assert not x.exports


def test_negative_extents_are_refused():
    class Negative(Foreign):
        def __dlpack__(self, **options):
            capsule = super().__dlpack__(**options)
            (_, _, shape, _) = next(iter(self.exports.values()))
            shape[0] = shape[1] = -2
            return capsule

    with pytest.raises(TypeError, match=r"the shape \(-2, -2\)"):
        mq.fake_quant(Negative(matrix(2, 4)), {"num_bits": 8})


def test_what_speaks_dlpack_needs_no_other_attribute():
    class Bare:
        def __init__(self, array):
            self._array = array

        def __dlpack__(self, **options):
            return self._array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self._array.__dlpack_device__()

    if not hasattr(X, "__dlpack__"):
        pytest.skip("numpy is too old")
    out = np.empty_like(X)
    assert mq.fake_quant(Bare(X), INT4, out=out) is out
    assert_same_bits(out, mq.fake_quant(X, INT4))
    weight = matrix(4, 8)
    model = mq.Model()
    layer = model.add_linear("a", Bare(weight))
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    want = layer.weight(np.empty_like(weight))
    model.fold_weight()
    assert_same_bits(weight, want)


@pytest.mark.skipif(sys.platform == "win32", reason="no such device there")
def test_an_error_of_the_disk_comes_out_of_save():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    with pytest.raises(OSError, match="No space left"):
        model.save("/dev/full")
