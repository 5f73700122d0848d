"""mq.fake_quant: the golden cases bit for bit, layouts, and what it refuses."""

import os

import ml_dtypes
import numpy as np
import pytest

import mq

from golden import Golden, assert_same_bits

GOLDEN = Golden("fake_quant")


def test_the_golden_file_is_whole():
    assert len(GOLDEN.cases) == 288
    assert sum("amax" in case for case in GOLDEN.cases) == 234


@pytest.mark.parametrize("case", GOLDEN.cases, ids=[case["name"] for case in GOLDEN.cases])
def test_golden_case_is_matched_bit_for_bit(case):
    x = GOLDEN.tensor(case["input"])
    x = np.abs(x) if case["abs_input"] else x
    amax = GOLDEN.tensor(case["amax"]) if "amax" in case else None
    got = mq.fake_quant(x, case["attrs"], amax)
    assert_same_bits(got, GOLDEN.tensor(case["expected"]), case["name"])


X = np.array([[1.0, -2.0, 3.0], [10.0, -20.0, 0.5]], np.float32)


def test_python_tuples_and_int_keys_become_json():
    e4m3 = mq.fake_quant(X, {"num_bits": (4, 3), "axis": (0,)})
    assert_same_bits(e4m3, mq.fake_quant(X, '{"num_bits": [4, 3], "axis": 0}'))
    blocks = mq.fake_quant(X, {"num_bits": np.int64(4), "block_sizes": {np.int64(-1): 2}})
    assert_same_bits(blocks, mq.fake_quant(X, '{"num_bits": 4, "block_sizes": {"-1": 2}}'))


def test_a_list_of_attributes_is_applied_in_order():
    x = np.array([[-3, 1.1, 0.2, 0.55], [0, 2.9, -0.7, 0.33]], np.float32)
    int4, fp8 = {"num_bits": 4, "block_sizes": {-1: 4}}, {"num_bits": (4, 3)}
    both = mq.fake_quant(x, [int4, fp8])
    once = mq.fake_quant(x, int4)
    assert_same_bits(both, mq.fake_quant(once, fp8, np.abs(x).max()))


def test_amax_may_be_a_number():
    x = np.array([-3, -2.99, -1, 0, 0.004, 0.011811, 1.5, 2, 5], np.float32)
    got = mq.fake_quant(x, {"num_bits": 8}, 2.0)
    codes = np.array([-128, -128, -64, 0, 0, 1, 95, 127, 127], np.float32)
    assert_same_bits(got, codes / np.float32(127 / 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_out_may_be_the_input_and_the_dtype_stays(dtype):
    x = X.astype(dtype)
    want = mq.fake_quant(x, {"num_bits": 8, "axis": 0})
    assert want.dtype == dtype
    assert mq.fake_quant(x, {"num_bits": 8, "axis": 0}, out=x) is x
    assert_same_bits(x, want)


def test_the_input_stays_as_it_is():
    x = X.copy()
    mq.fake_quant(x, {"num_bits": 4})
    assert_same_bits(x, X)


def test_inputs_of_any_layout_are_read_right():
    for x in (X.T, X[:, ::-1], X[::2, 1:], np.asfortranarray(X)):
        want = mq.fake_quant(np.ascontiguousarray(x), {"num_bits": 4, "axis": 0})
        assert_same_bits(mq.fake_quant(x, {"num_bits": 4, "axis": 0}), want)


def test_misaligned_and_read_only_inputs_are_read_right():
    raw = np.zeros(X.nbytes + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(X.shape)
    x[:] = X
    x.flags.writeable = False
    assert not x.flags.aligned
    assert_same_bits(mq.fake_quant(x, {"num_bits": 8}), mq.fake_quant(X, {"num_bits": 8}))


def test_scalars_and_empty_arrays_keep_their_shape():
    assert mq.fake_quant(np.array(1.5, np.float32), {"num_bits": 8}).shape == ()
    assert mq.fake_quant(np.empty((0, 3), np.float32), {"num_bits": 8}).shape == (0, 3)


def test_an_unsuitable_out_is_refused():
    attributes = {"num_bits": 8}
    with pytest.raises(ValueError, match="not C-contiguous"):
        mq.fake_quant(X, attributes, out=np.empty((3, 2), np.float32).T)
    with pytest.raises(mq.InvalidArgumentError, match="out"):
        mq.fake_quant(X, attributes, out=np.empty((3, 3), np.float32))
    with pytest.raises(mq.InvalidArgumentError, match="out"):
        mq.fake_quant(X, attributes, out=np.empty((2, 3), np.float16))
    read_only = np.empty((2, 3), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        mq.fake_quant(X, attributes, out=read_only)


def test_a_partial_overlap_is_refused():
    both = np.zeros(16, np.float32)
    with pytest.raises(mq.InvalidArgumentError, match="overlap"):
        mq.fake_quant(both[:12], {"num_bits": 8}, out=both[4:])


@pytest.mark.parametrize("dtype", [np.float64, np.int8, ">f4", ml_dtypes.float8_e4m3fn])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="expected float32, float16 or bfloat16"):
        mq.fake_quant(X.astype(dtype), {"num_bits": 8})


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="x is a list"):
        mq.fake_quant([1.0, 2.0], {"num_bits": 8})


def test_wrong_amax_and_attributes_are_refused():
    with pytest.raises(mq.InvalidArgumentError, match="amax"):
        mq.fake_quant(X, {"num_bits": 8, "axis": 0}, np.ones(3))
    with pytest.raises(mq.NumericError):
        mq.fake_quant(X, {"num_bits": 8}, -1.0)
    with pytest.raises(mq.NumericError):
        mq.fake_quant(X, {"num_bits": 8, "unsigned": True})
    with pytest.raises(mq.ConfigError, match="num_bit"):
        mq.fake_quant(X, {"num_bit": 8})
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        mq.fake_quant(X, {"num_bits": {8}})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_quantize():
    x = np.ones((512, 512), np.float32)  # large enough for several threads
    want = mq.fake_quant(x, {"num_bits": 8})
    child = os.fork()
    if child == 0:
        same = (mq.fake_quant(x, {"num_bits": 8}) == want).all()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
