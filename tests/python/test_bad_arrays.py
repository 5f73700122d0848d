"""Arrays that are resized, freed or moved while they are registered, and two threads on a model."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import mq

from foreign import Foreign
from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers


@pytest.mark.skipif(not hasattr(sys, "getrefcount"), reason="numpy counts references")
def test_numpy_refuses_to_resize_a_registered_array():
    weight = np.empty((6, 8), np.float32)  # owns its memory
    weight[:] = matrix(6, 8)
    model = mq.Model()
    layer = model.add_linear("a", weight)
    with pytest.raises(ValueError, match=r"referenced|references"):
        weight.resize((600, 8))
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    assert layer.weight().shape == (6, 8)
    model.close()
    del model, layer
    gc.collect()
    weight.resize((600, 8), refcheck=True)


def resized(array):
    array.resize((6000, 80), refcheck=False)


def reshaped(array):
    array.shape = (8, 6)  # the same memory


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # setting a shape
@pytest.mark.parametrize("change", [resized, reshaped])
def test_an_array_that_changed_behind_the_models_back_is_noticed(change):
    weight, bias = np.empty((6, 8), np.float32), np.zeros(6, np.float32)
    weight[:] = matrix(6, 8)
    model = mq.Model()
    layer = model.add_linear("a", weight, bias)
    model.quantize(INT8, lambda: layer.forward(matrix(2, 8)))
    before = model.summary_json()
    change(weight)
    verbs = [
        lambda: model.quantize(INT8),
        lambda: model.calibrate("max", lambda: None),
        lambda: model.auto_quantize({"effective_bits": 8.0}, ["INT8_DEFAULT_CFG"]),
        model.fold_weight,
        model.fold_pre_quant_scale,
        model.compress,
        model.check,
        layer.weight,
    ]
    for verb in verbs:
        with pytest.raises(mq.StateError, match="the weight of a was moved, resized or freed"):
            verb()
    assert model.summary_json() == before
    layer.input(matrix(2, 8))  # what needs no weight goes on


def test_a_norm_that_moved_is_noticed():
    norm = np.empty(8, np.float32)
    norm[:] = 1
    model = mq.Model()
    model.add_linear("a", matrix(6, 8), norm=norm)
    norm.resize(80000, refcheck=False)
    with pytest.raises(mq.StateError, match="the norm_gain of a was moved"):
        model.quantize(INT8)


def test_a_packed_weight_may_be_freed():
    weight = np.empty((6, 8), np.float32)
    weight[:] = matrix(6, 8)
    model = mq.Model()
    layer = model.add_linear("a", weight)
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    want = layer.weight()
    model.compress()
    weight.resize((600000, 8), refcheck=False)
    assert_same_bits(layer.weight() + 0.0, want + 0.0)


def test_registered_arrays_outlive_the_names_of_the_caller():
    model = mq.Model()
    alive = []
    for index in range(8):
        weight = matrix(64, 64, index)
        alive.append(weakref.ref(weight))
        model.add_linear(f"l{index}", weight)
    del weight
    gc.collect()
    scraps = [np.full((64, 64), np.nan, np.float32) for _ in range(64)]  # would take the memory
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    for index, reference in enumerate(alive):
        assert_same_bits(reference(), matrix(64, 64, index))
    assert len(scraps) == 64


def test_everything_of_a_borrowed_export_may_be_collected_in_any_order():
    for last in range(4):
        weight = Foreign(matrix(6, 8))
        exports = weight.exports
        model = mq.Model(progress=lambda step: None)
        layer = model.add_linear("a", weight)
        model.quantize("INT8_WEIGHT_ONLY_CFG")
        things = [model, layer, model.quantizer("a.weight_quantizer"), weight]
        del model, layer, weight
        order = [index for index in range(4) if index != last] + [last]
        for index in order:
            assert len(exports) == 1 or index == last == 3  # only the weight is left
            things[index] = None
            gc.collect()
        assert not exports


def test_two_threads_on_one_model_get_a_clear_exception_or_their_turn():
    model, weights = two_layers()
    model.quantize(INT8, forward_loop)
    barrier = threading.Barrier(4)
    outcomes = []

    verbs = [
        lambda: model.quantize("FP8_DEFAULT_CFG", forward_loop),
        lambda: model.calibrate("max", forward_loop),
        lambda: model.disable_quantizer("*input_quantizer"),
        model.quantizers,
        model.summary_json,
        lambda: model.layers["a"].input(matrix(2, 8)),
    ]

    def work(index):
        barrier.wait()
        for turn in range(60):
            verb = verbs[(index + turn) % 6]
            try:
                verb()
                outcomes.append("done")
            except (mq.BusyError, mq.StateError) as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 240  # no thread died of anything else
    assert outcomes.count("done") > 40
    model.quantize(INT8, forward_loop)
    assert set(model.layers) == set(weights)


def test_a_verb_while_another_thread_is_in_its_forward_loop_is_busy():
    model, _ = two_layers()
    entered, go_on = threading.Event(), threading.Event()

    def loop(model):
        entered.set()
        assert go_on.wait(60)
        forward_loop(model)

    thread = threading.Thread(target=model.quantize, args=(INT8, loop))
    thread.start()
    assert entered.wait(60)
    for verb in (model.fold_weight, model.quantizers, lambda: model.quantize(INT8), model.close):
        with pytest.raises(mq.BusyError):
            verb()
    go_on.set()
    thread.join()
    assert model.quantizer("a.input_quantizer").amax is not None


def test_models_of_many_threads_do_not_disturb_each_other():
    want = mq.fake_quant(matrix(64, 64), {"num_bits": 8, "axis": 0})
    failed = []

    def work():
        try:
            for _ in range(20):
                x = matrix(64, 64)
                assert_same_bits(mq.fake_quant(x, {"num_bits": 8, "axis": 0}), want)
                packed = mq.pack(x, {"num_bits": 8, "axis": 0})
                assert_same_bits(mq.unpack(packed) + 0.0, want + 0.0)
                assert mq.amax(x, {"num_bits": 8}) == np.abs(x).max()
                mq.histogram_amax([x])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
