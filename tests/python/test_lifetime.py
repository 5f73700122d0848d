"""Who keeps what alive: arrays, models, layers, quantizers and callbacks."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_everything_may_be_collected_in_any_order(order):
    weight = matrix(6, 8)
    alive = weakref.ref(weight)
    model = mq.Model(log=lambda level, text: None)
    layer = model.add_linear("a", weight)
    model.quantize(INT8, lambda model: model.layers["a"].input(matrix(2, 8)))
    things = [model, layer, model.quantizer("a.weight_quantizer"), model.quantizers()]
    want = layer.weight()
    del model, layer, weight
    for index in order:
        for thing in things:
            if isinstance(thing, mq.Layer):
                assert_same_bits(thing.weight(), want)
            if isinstance(thing, mq.Quantizer):
                assert thing.amax.shape == (6, 1)
        things[index] = None
        thing = None
        gc.collect()
    assert alive() is None


def test_a_model_is_destroyed_without_the_cycle_collector():
    gc.disable()
    try:
        model, weights = two_layers()
        model.quantize(INT8, forward_loop)
        with pytest.raises(ZeroDivisionError):
            model.calibrate("max", lambda: 1 / 0)
        alive = [weakref.ref(weight) for weight in weights.values()]
        del model, weights
        assert all(reference() is None for reference in alive)
    finally:
        gc.enable()


def test_a_cycle_through_the_callbacks_is_collected():
    class Host:
        def __init__(self):
            self.model = mq.Model(log=self.log)
            self.layer = self.model.add_linear("a", matrix(4, 4))
            self.model.quantize(INT8, self.forward)

        def log(self, level, text):
            pass

        def forward(self):
            self.layer.input(matrix(2, 4))

    host = Host()
    alive = weakref.ref(host)
    del host
    gc.collect()
    assert alive() is None


def test_the_registered_array_is_the_one_that_is_folded():
    model = mq.Model()
    base = np.zeros((3, 6, 8), np.float32)
    base[1] = matrix(6, 8)
    layer = model.add_linear("a", base[1])  # a contiguous view
    model.quantize(INT8)
    want = layer.weight()
    model.fold_weight()
    assert_same_bits(base[1], want)
    assert not base[0].any()
    assert not base[2].any()


def test_a_closed_model_refuses_everything():
    model, weights = two_layers()
    layer, quantizer = model.layers["a"], model.quantizer("a.weight_quantizer")
    alive = weakref.ref(weights.pop("b"))
    with model as entered:
        assert entered is model
        model.quantize(INT8)
    model.close()
    assert alive() is None
    calls = [
        layer.weight,
        lambda: layer.input(matrix(2, 8)),
        lambda: quantizer.forward(matrix(2, 8)),
        lambda: quantizer.amax,
        model.summary,
        model.quantizers,
        lambda: model.quantize(INT8),
        lambda: model.add_linear("c", matrix(2, 2)),
    ]
    for call in calls:
        with pytest.raises(mq.StateError, match="closed"):
            call()


def test_closing_while_a_tap_runs_is_refused():
    model = mq.Model()
    tap = model.add_quantizer("q")
    model.quantize({"quant_cfg": [{"quantizer_name": "q", "cfg": {"num_bits": 8}}]})
    x = matrix(500, 500)
    running, refused = True, 0

    def taps():
        while running:
            try:
                tap.forward(x)
            except mq.StateError:
                return

    threads = [threading.Thread(target=taps) for _ in range(4)]
    for thread in threads:
        thread.start()
    while True:
        try:
            model.close()
            break
        except mq.BusyError:
            refused += 1
    running = False
    for thread in threads:
        thread.join()
    with pytest.raises(mq.StateError):
        tap.forward(x)


def test_bfloat16_support_is_not_imported_unless_it_is_used():
    program = """
import sys
import numpy as np
import mq
mq.fake_quant(np.ones((2, 2), np.float16), {"num_bits": 8})
model = mq.Model()
model.add_linear("a", np.ones((2, 2), np.float32))
model.quantize("INT8_DEFAULT_CFG")
assert "ml_dtypes" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_models_may_outlive_the_interpreters_shutdown():
    program = """
import numpy as np
import mq
model = mq.Model(log=print, progress=print)
layer = model.add_linear("a", np.ones((2, 2), np.float32))
model.quantize("INT8_DEFAULT_CFG", lambda: layer.input(np.ones((2, 2), np.float32)))
mq.kept = model
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
