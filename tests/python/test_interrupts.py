"""Ctrl-C during a verb: it comes out as KeyboardInterrupt, and the model is as it was."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from mq._lib import interrupts

from network import INT8, forward_loop, matrix, two_layers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no kill() there")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_forward_loop_stops_the_verb():
    model, _ = two_layers()
    before = model.summary_json()
    seen = []

    def loop(model):
        forward_loop(model)
        try:
            interrupt()
            for _ in range(10**6):  # the handler runs between two instructions
                pass
        except KeyboardInterrupt:
            seen.append("in the loop")
            raise

    with pytest.raises(KeyboardInterrupt):
        model.quantize(INT8, loop)
    assert seen == ["in the loop"]
    assert model.summary_json() == before
    model.quantize(INT8, forward_loop)


@pytest.mark.parametrize("progress", [False, lambda step: None])
def test_ctrl_c_inside_the_library_stops_the_verb(progress):
    # A child, so that a Ctrl-C which gets lost shows as a search that runs to its end.
    program = """
import os, signal, sys, threading
import numpy as np
import mq
rng = np.random.default_rng(0)
weights = [rng.standard_normal((512, 512)).astype(np.float32) for _ in range(64)]
model = mq.Model(threads=1, progress=PROGRESS)
layers = [model.add_linear(f"l{i}", weight) for i, weight in enumerate(weights)]
x = rng.standard_normal((64, 512)).astype(np.float32)
before = model.summary_json()
hung = []
def loop():
    if not hung:
        hung.append(True)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    for layer in layers:
        layer.input(x, x)
lost = []
sys.unraisablehook = lost.append
try:
    model.quantize("INT4_AWQ_CFG", loop)
    print("not stopped")
except KeyboardInterrupt:
    print("stopped", model.summary_json() == before, len(lost))
    model.quantize("INT8_DEFAULT_CFG", loop)
    print("again", model.quantizer("l0.input_quantizer").amax is not None)
"""
    shown = "False" if progress is False else "lambda step: None"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program.replace("PROGRESS", shown)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "stopped True 0\nagain True\n", done.stderr


@interrupts.entry
def callback():
    """A function that C calls: what is raised here, nobody catches."""
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(10**6):
        pass


def test_a_signal_at_the_start_of_a_callback_is_put_off():
    with interrupts.Interruptible():
        callback()
        with pytest.raises(KeyboardInterrupt):
            interrupts.deliver()
        interrupts.deliver()  # once is enough


def test_a_signal_that_nothing_took_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), interrupts.Interruptible():
        callback()


def test_a_verb_in_a_callback_of_another_hands_the_signal_on():
    outer, _ = two_layers()
    inner, _ = two_layers()
    befores = outer.summary_json(), inner.summary_json()

    def in_inner():
        interrupt()
        forward_loop(inner)

    with pytest.raises(KeyboardInterrupt):
        outer.quantize(INT8, lambda: inner.quantize(INT8, in_inner))
    assert (outer.summary_json(), inner.summary_json()) == befores


def test_a_handler_of_the_callers_is_called_and_kept():
    model, _ = two_layers()
    seen = []

    def handler(number, frame):
        seen.append(number)

    signal.signal(signal.SIGINT, handler)
    try:

        def loop():
            interrupt()
            forward_loop(model)

        model.quantize(INT8, loop)  # the handler raises nothing: nothing stops
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_a_callback_sets_stays():
    model, _ = two_layers()

    def loop():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        forward_loop(model)

    model.quantize(INT8, loop)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_verb_on_another_thread_leaves_signals_alone():
    model, _ = two_layers()
    handlers = []

    def loop():
        handlers.append(signal.getsignal(signal.SIGINT))
        forward_loop(model)

    thread = threading.Thread(target=model.quantize, args=(INT8, loop))
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
    x = matrix(2, 8)
    assert (model.layers["a"].input(x) != x).any()
    assert np.isfinite(x).all()


class OutOfTimeError(Exception):
    """What the handler of a user's own signal raises."""


def test_other_signals_are_put_off_too():
    def too_late(number, frame):
        raise OutOfTimeError

    @interrupts.entry
    def alarmed():
        os.kill(os.getpid(), signal.SIGALRM)
        for _ in range(10**6):
            pass

    before = signal.signal(signal.SIGALRM, too_late)
    try:
        with interrupts.Interruptible():
            alarmed()
            with pytest.raises(OutOfTimeError):
                interrupts.deliver()
        assert signal.getsignal(signal.SIGALRM) is too_late
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_while_the_handlers_change_hands_loses_none(monkeypatch):
    # It comes in the middle of __enter__, which no one would undo.
    replace = signal.signal
    sent = []

    def replace_and_signal(number, handler):
        done = replace(number, handler)
        if not sent:
            sent.append(number)
            interrupt()
        return done

    monkeypatch.setattr(interrupts.signal, "signal", replace_and_signal)
    with pytest.raises(KeyboardInterrupt), interrupts.Interruptible() as signals:
        signals.deliver()
    monkeypatch.undo()
    assert sent
    assert interrupts._active is None
