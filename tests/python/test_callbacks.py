"""Callbacks: what they are called with, from which threads, and what their exceptions do."""

import functools
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers


class StopHere(BaseException):
    """An exception that `except Exception` does not catch."""


def stopping(model):
    forward_loop(model)
    raise StopHere("stop")


@pytest.mark.parametrize("quantized", [False, True])
def test_an_exception_in_the_forward_loop_leaves_the_model_as_it_was(quantized):
    model, _ = two_layers()
    if quantized:
        model.quantize(INT8, forward_loop)
    before = model.summary_json()
    error = StopHere("stop")

    def loop(model):
        forward_loop(model)
        raise error

    with pytest.raises(StopHere) as caught:
        model.quantize("FP8_DEFAULT_CFG", loop)
    assert caught.value is error
    assert model.summary_json() == before
    if quantized:
        with pytest.raises(StopHere):
            model.calibrate("max", loop)
        assert model.summary_json() == before
    model.quantize("FP8_DEFAULT_CFG", forward_loop)
    assert model.summary_json() != before


def test_an_exception_in_a_filter_changes_nothing():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    before = model.summary_json()

    def select(name):
        if name == "b.weight_quantizer":
            raise KeyError(name)
        return True

    verbs = [
        model.enable_quantizer,
        model.disable_quantizer,
        functools.partial(model.set_quantizer_attributes, attributes={"num_bits": 4}),
    ]
    for verb in verbs:
        with pytest.raises(KeyError, match=r"b\.weight_quantizer"):
            verb(select)
        assert model.summary_json() == before


def test_an_exception_in_an_amax_function_changes_nothing():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    before = model.summary_json()
    calls = []

    def process(amax):
        calls.append(amax)
        if len(calls) == 2:
            raise ZeroDivisionError
        return amax * 2

    with pytest.raises(ZeroDivisionError):
        model.postprocess_amax("*", process)
    assert model.summary_json() == before


def test_the_forward_loop_takes_the_model_or_nothing():
    class Seen(list):
        def append(self, value):
            super().append(value)
            forward_loop(model)  # a calibration without tokens is refused

    class Loop:
        def __call__(self, model):
            seen.append(model)

    seen = Seen()
    loops = [seen.append, lambda: seen.append(None), lambda model: seen.append(model), Loop()]
    loops.append(lambda model=None: seen.append(model))
    loops.append(functools.partial(lambda text: seen.append(text), "bound"))
    for loop in loops:
        model, _ = two_layers()
        model.quantize("INT8_DEFAULT_CFG", loop)
        loops[loops.index(loop)] = model
    assert seen == [loops[0], None, loops[2], loops[3], loops[4], "bound"]
    with pytest.raises(TypeError, match="forward_loop is a list"):
        model.quantize("INT8_DEFAULT_CFG", [])


def test_taps_may_run_on_many_threads_of_the_forward_loop():
    batches = [matrix(64, 8, seed) for seed in range(32)]
    want = np.float32(max(np.abs(x).max() for x in batches))

    def loop(model):
        with ThreadPoolExecutor(8) as pool:
            passed = list(pool.map(model.layers["a"].input, batches))
        for x, y in zip(batches, passed):
            assert_same_bits(y, x)

    model, _ = two_layers()
    model.quantize(INT8, loop)
    assert model.quantizer("a.input_quantizer").amax == want
    with ThreadPoolExecutor(8) as pool:
        quantized = list(pool.map(model.layers["a"].input, batches))
    for x, y in zip(batches, quantized):
        assert_same_bits(y, mq.fake_quant(x, {"num_bits": 8}, want))


def test_errors_belong_to_the_thread_that_made_the_call():
    model, _ = two_layers()
    model.quantize(INT8, forward_loop)
    texts = {}
    barrier = threading.Barrier(8)

    def fail(index):
        barrier.wait()
        for _ in range(50):
            with pytest.raises(mq.NotFoundError) as caught:
                mq.Model().add_quantizer("q") and model_of[index].quantizer(f"missing{index}")
            texts.setdefault(index, set()).add(str(caught.value))

    model_of = [two_layers()[0] for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(8)))
    for index in range(8):
        (text,) = texts[index]
        assert f"missing{index}" in text


def test_a_verb_inside_a_callback_is_busy():
    model, _ = two_layers()
    seen = []

    def loop():
        for verb in (model.fold_weight, model.quantizers, model.summary, model.close):
            with pytest.raises(mq.BusyError) as caught:
                verb()
            seen.append(caught.value.status_name)
        forward_loop(model)

    model.quantize(INT8, loop)
    assert seen == ["MQ_ERR_BUSY"] * 4


def test_another_model_may_be_used_inside_a_callback():
    outer, _ = two_layers()
    inner, _ = two_layers()

    def loop(outer):
        inner.quantize(INT8, forward_loop)
        forward_loop(outer)

    outer.quantize(INT8, loop)
    assert outer.quantizer("a.input_quantizer").amax == inner.quantizer("a.input_quantizer").amax
    assert inner.quantizer("a.input_quantizer").amax is not None


def test_a_tap_that_fails_fails_the_verb():
    model, _ = two_layers()
    before = model.summary_json()
    bad = np.full((1, 8), np.nan, np.float32)
    with pytest.raises(mq.NumericError, match=r"\ba\b"):
        model.quantize(INT8, lambda: model.layers["a"].input(bad))
    assert model.summary_json() == before

    def swallow():
        with pytest.raises(mq.NumericError):
            model.layers["a"].input(bad)

    with pytest.raises(mq.NumericError, match=r"\ba\b"):
        model.quantize(INT8, swallow)
    assert model.summary_json() == before


def test_the_log_gets_levels_of_the_logging_module(caplog):
    lines = []
    model = mq.Model(log=lambda level, text: lines.append((level, text)))
    model.add_linear("fc", matrix(4, 4))
    model.quantize(INT8)
    assert all(level in (logging.INFO, logging.WARNING) for level, _ in lines)
    assert all(text and "\n" not in text for _, text in lines)
    assert any("input_quantizer" in text or "activation" in text for _, text in lines), lines


def test_an_exception_in_the_log_does_not_stop_the_verb(monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda entry: ignored.append(entry.exc_type))

    def log(level, text):
        raise ZeroDivisionError

    model = mq.Model(log=log)
    model.add_linear("fc", matrix(4, 4))
    model.quantize(INT8)
    assert model.quantizer("fc.weight_quantizer").amax is not None
    assert set(ignored) == {ZeroDivisionError}
